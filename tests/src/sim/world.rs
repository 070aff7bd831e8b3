//! Time, faults, and the order of everything.

mod connections;
mod faults;
mod processes;

use super::accounts::Accounts;
use super::agent::{Identity, SimAgent};
use super::clock::NodeClock;
use super::hub::SimHub;
use super::invariants::{Witness, at_rest};
use super::link::{Badness, Link, Way, chance};
use super::scene;
use edge_agent::core::{Event as AgentEvent, RecorderOptions};
use hub::core::{Event as HubEvent, NodeRecord};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use shared::model::{ClockQuality, LinkBudget, MonotonicMs, NodeId, Now, PodId, UnixMs};
use shared::trust::session::SessionPrivateKey;
use shared::trust::signature::SigningKey;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

/// The wall clock at the beginning: 2026-01-01.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// How long faults go on.
const FAULTS_MS: u64 = 15 * 60_000;
/// Within this time a healed world must come to rest. Backoffs last 5 minutes, retries one.
const REST_MS: u64 = 20 * 60_000;
/// Events of the log that a failure shows.
const LOG_LINES_MAX: usize = 400;
/// Events after which a world that does not end is called stuck.
const EVENTS_MAX: u64 = 400_000;

/// How a world is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many nodes.
    pub agents: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { agents: 2 }
    }
}

/// What a world begins with.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) agents: usize,
    /// Bytes of records that each outbox keeps of each class.
    pub(super) quota_bytes: u64,
    pub(super) recorder: RecorderOptions,
    /// What the links of the first nodes may carry; of the others anything.
    pub(super) budgets: Vec<LinkBudget>,
    /// Milliseconds that the hub keeps an acknowledgement back at most.
    pub(super) acknowledge_within_ms: u64,
}

impl Setup {
    /// What a seed's world begins with.
    fn of_seed(seed: u64, options: Options) -> Self {
        Self {
            agents: options.agents,
            // Every fourth world has outboxes that overflow within minutes.
            quota_bytes: if seed.is_multiple_of(4) { 2 << 10 } else { 256 << 10 },
            recorder: RecorderOptions { sample_interval_ms: 10_000, samples_per_batch: 3 },
            budgets: vec![],
            // At once: a world is at rest when nothing waits for an acknowledgement.
            acknowledge_within_ms: 0,
        }
    }
}

/// A world that broke an invariant or did not come to rest.
#[derive(Debug)]
pub struct Failure {
    /// Run this seed again to see the same.
    pub seed: u64,
    /// What was broken.
    pub problem: String,
    /// The last events before it.
    pub log: Vec<String>,
}

/// What a world did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Events that were handled.
    pub events: u64,
    /// Times that an agent or the hub was killed.
    pub crashes: u64,
    /// Pods that were started.
    pub starts: u64,
    /// Samples that the nodes put into their outboxes.
    pub samples: u64,
    /// Payload bytes that were handed to the link.
    pub bytes: u64,
}

/// The simulated world.
pub struct World {
    seed: u64,
    random: ChaCha20Rng,
    now: MonotonicMs,
    hub: SimHub,
    agents: Vec<SimAgent>,
    link: Link,
    witness: Witness,
    accounts: Accounts,
    /// The first invariant that was broken, when that was seen in the middle of something.
    problem: Option<String>,
    /// Agents that did something since they were looked at.
    touched: Vec<bool>,
    cut: Vec<bool>,
    /// When an agent that can connect does.
    connect_at: Vec<MonotonicMs>,
    /// When a process that is down comes up again.
    agent_up_at: Vec<MonotonicMs>,
    hub_up_at: MonotonicMs,
    /// When the hub that runs gets to read the manifests.
    manifests_at: Option<MonotonicMs>,
    /// Who is enrolled, as it is noted beside the hub's store.
    registry: Vec<(NodeId, NodeRecord)>,
    /// A hub that no longer leads and does not know, and when it finds out.
    stale: Option<(SimHub, MonotonicMs)>,
    clocks: Vec<NodeClock>,
    /// A pod that crashes after each start: at which agent, and until when.
    crashing: Option<(usize, PodId, MonotonicMs)>,
    faults: bool,
    next_fault: MonotonicMs,
    fleet: scene::Fleet,
    report: Report,
    log: VecDeque<String>,
}

/// Runs one world to its end.
///
/// # Errors
/// The first invariant that was broken.
pub fn run_seed(seed: u64, options: Options) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed, options);
    let outcome = world.run();
    outcome.map_err(|problem| {
        Box::new(Failure { seed, problem, log: std::mem::take(&mut world.log).into() })
    })
}

/// Runs one world and returns its event log as well.
pub fn run_seed_with_log(seed: u64, options: Options) -> (Result<Report, String>, Vec<String>) {
    let mut world = World::new(seed, options);
    let outcome = world.run();
    (outcome, world.log.into())
}

/// Runs every seed, on as many threads as there are cores; the failures, by seed.
#[must_use]
pub fn run_seeds(seeds: std::ops::Range<u64>, options: Options) -> Vec<Failure> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let turns = std::iter::from_fn(|| {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            (seed < seeds.end).then_some(seed)
        });
        turns.filter_map(|seed| run_seed(seed, options).err()).map(|failure| *failure).collect()
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut failures: Vec<Failure> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join());
        done.flat_map(|found: std::thread::Result<Vec<Failure>>| match found {
            Ok(found) => found,
            // A panic in a core is a failure of the world it happened in: let it be seen.
            Err(panic) => std::panic::resume_unwind(panic),
        })
        .collect()
    });
    failures.sort_by_key(|failure| failure.seed);
    failures
}

impl World {
    /// A world before its first event.
    #[must_use]
    pub fn new(seed: u64, options: Options) -> Self {
        Self::with_setup(seed, &Setup::of_seed(seed, options))
    }

    pub(super) fn with_setup(seed: u64, setup: &Setup) -> Self {
        let mut random = ChaCha20Rng::seed_from_u64(seed);
        let now = MonotonicMs(1_000);
        let (session, signing) = (key(&mut random), key(&mut random));
        let hub_public = SessionPrivateKey::from_bytes(session).public();
        let verifying = SigningKey::from_bytes(&signing).verifying();
        let agents = (0..setup.agents).map(|index| {
            let identity = Identity {
                node: scene::node(index),
                session_key: key(&mut random),
                hub_session_key: hub_public,
                hub_signing_key: verifying,
            };
            SimAgent::new(identity, scene::gpus(index), setup.quota_bytes, setup.recorder)
        });
        let agents: Vec<SimAgent> = agents.collect();
        let count = agents.len();
        let mut hub = SimHub::new(session, signing);
        hub.acknowledge_within_ms = setup.acknowledge_within_ms;
        Self {
            seed,
            now,
            hub,
            agents,
            link: Link::default(),
            witness: Witness::default(),
            accounts: Accounts::default(),
            problem: None,
            touched: vec![false; count],
            cut: vec![false; count],
            connect_at: vec![now; count],
            agent_up_at: vec![now; count],
            hub_up_at: now,
            manifests_at: None,
            registry: vec![],
            stale: None,
            clocks: vec![NodeClock::default(); count],
            crashing: None,
            faults: true,
            next_fault: now.plus_ms(5_000),
            fleet: scene::Fleet::default(),
            report: Report::default(),
            log: VecDeque::new(),
            random,
        }
    }

    fn run(&mut self) -> Result<Report, String> {
        self.link.badness = Badness {
            dropped: self.random.next_u32() % 200,
            repeated: self.random.next_u32() % 100,
            delayed: self.random.next_u32() % 200,
        };
        self.begin();
        let end = self.now.plus_ms(FAULTS_MS);
        while self.now < end {
            self.step()?;
        }
        self.heal();
        let limit = self.now.plus_ms(REST_MS);
        // What was in the way most often, since the last thing may be a record just sent.
        let mut unrest: BTreeMap<String, u64> = BTreeMap::new();
        while let Err(why) = at_rest(&self.agents, &self.hub) {
            *unrest.entry(why).or_default() += 1;
            if self.now >= limit {
                return Err(format!("not at rest {REST_MS} ms after healing: {unrest:?}"));
            }
            self.step()?;
        }
        self.accounts.at_rest()?;
        self.report.starts = self.agents.iter().map(|agent| agent.machine.starts()).sum();
        self.report.bytes = self.link.bytes;
        let statuses = self.agents.iter().filter_map(SimAgent::status);
        self.report.samples = statuses.map(|status| status.outbox.samples_recorded).sum();
        Ok(self.report)
    }

    fn present(&self) -> Now {
        let wall = UnixMs(EPOCH_MS + self.now.0);
        Now { monotonic: self.now, wall, quality: ClockQuality::Synchronised }
    }

    /// The present as this agent's machine has it.
    fn present_at(&self, index: usize) -> Now {
        let now = self.present();
        let monotonic = self.agents.get(index).map(|agent| agent.since_boot(now.monotonic));
        let now_there = Now { monotonic: monotonic.unwrap_or(now.monotonic), ..now };
        let clock = self.clocks.get(index).copied().unwrap_or_default();
        clock.read(now_there, now.monotonic)
    }

    fn note(&mut self, line: String) {
        if self.log.len() >= LOG_LINES_MAX {
            self.log.pop_front();
        }
        self.log.push_back(format!("{:>9} {line}", self.now.0));
    }

    /// Goes to the next moment at which something is due, and lets it happen.
    fn step(&mut self) -> Result<(), String> {
        self.report.events += 1;
        if self.report.events > EVENTS_MAX {
            return Err(format!("still busy after {EVENTS_MAX} events"));
        }
        self.now = self.next_moment().max(self.now);
        if self.faults && self.now >= self.next_fault {
            self.next_fault = self.now.plus_ms(u64::from(self.random.next_u32() % 10_000));
            self.fault();
        }
        self.bring_up();
        self.read_manifests();
        self.connect();
        while let Some((way, payload)) = self.link.take_arrived(self.now) {
            self.deliver(way, payload);
        }
        self.time_out();
        self.crash_again();
        self.look()
    }

    /// Looks at everybody who did something.
    fn look(&mut self) -> Result<(), String> {
        for (agent, touched) in self.agents.iter().zip(&mut self.touched) {
            if std::mem::take(touched) {
                self.witness.check(agent, &self.fleet)?;
            }
        }
        self.problem.take().map_or(Ok(()), Err)
    }

    /// Notes what is broken, for the end of this step.
    fn complain(&mut self, checked: Result<(), String>) {
        if let (None, Err(problem)) = (&self.problem, checked) {
            self.problem = Some(problem);
        }
    }

    fn next_moment(&self) -> MonotonicMs {
        let hub_runs = self.hub.core.is_some();
        let agents = self.agents.iter().zip(&self.agent_up_at).zip(&self.connect_at);
        let agents = agents.zip(&self.cut).flat_map(|(((agent, up), connect), cut)| {
            let joins = agent.core.is_some() && !agent.connected && !cut && hub_runs;
            let timer = if agent.core.is_some() { agent.poll_timeout() } else { Some(*up) };
            [timer, joins.then_some(*connect)]
        });
        let hub = match &self.hub.core {
            Some(core) => core.poll_timeout(),
            None => Some(self.hub_up_at),
        };
        let stale = self.stale.as_ref().and_then(|(hub, _)| hub.core.as_ref()?.poll_timeout());
        let fault = self.faults.then_some(self.next_fault);
        let others = [self.link.next_arrival(), hub, stale, fault, self.manifests_at];
        let due = agents.chain(others).flatten().min();
        // A timer in the past is due now; nothing due at all is a second of silence.
        due.unwrap_or(self.now.plus_ms(1_000)).max(self.now.plus_ms(1))
    }

    /// From here on nothing breaks any more.
    fn heal(&mut self) {
        self.note("healed".to_owned());
        self.faults = false;
        self.link.badness = Badness::default();
        self.link.fill_black_holes();
        self.end_stale();
        self.crashing = None;
        for index in 0..self.agents.len() {
            let gpus = scene::gpus(index);
            let Some(agent) = self.agents.get_mut(index) else { continue };
            agent.gpus = gpus.clone();
            self.step_agent(index, [AgentEvent::Inventory(gpus)]);
        }
        self.clocks.fill(NodeClock::default());
        self.cut.iter_mut().for_each(|cut| *cut = false);
        self.hub.disk.set_full(false);
        self.hub.sinks_down.clear();
        self.hub.refuses_next = false;
        self.step_hub([]);
        self.agents.iter().for_each(|agent| agent.disk.set_full(false));
        // Links that are up stay up: what the two sides believe of each other must heal by itself.
    }

    /// The seed of this world.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

fn key(random: &mut ChaCha20Rng) -> [u8; 32] {
    let mut key = [0; 32];
    random.fill_bytes(&mut key);
    key
}
