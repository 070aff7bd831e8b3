//! Time, faults, and the order of everything.

mod calls;
mod connections;
mod faults;
mod hostile;
mod plot;
mod processes;
mod results;
mod stores;
mod wire;

use super::accounts::{Accounts, HubBooks};
use super::agent::{Identity, SimAgent, WireCount};
use super::clock::NodeClock;
use super::disk::Disk;
use super::hub::SimHub;
use super::invariants::{Witness, at_rest};
use super::link::{Badness, Link, Way, chance};
use super::scene;
use super::setup::{Options, Setup};
use super::thief::Thief;
use edge_agent::core::Event as AgentEvent;
use hub::core::{Event as HubEvent, NodeRecord};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
pub(super) use results::Posting;
use shared::model::{ClockQuality, LinkBudget, MonotonicMs, NodeId, Now, PodId, UnixMs};
use shared::trust::session::SessionPrivateKey;
use shared::trust::signature::SigningKey;
use std::collections::{BTreeMap, VecDeque};

use results::OpenPost;
use wire::Meter;

/// The wall clock at the beginning: 2026-01-01.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// How long faults go on.
const FAULTS_MS: u64 = 15 * 60_000;
/// Within this time a healed world must come to rest. Backoffs last 5 minutes, retries one; what can
/// wait is repeated five hours after its acknowledgement was lost.
const REST_MS: u64 = 6 * 60 * 60_000;
/// A link with a budget may have to wait for the next day, and each of many kills may have taken a grant
/// of the first with it.
const REST_WITHIN_BUDGET_MS: u64 = 74 * 60 * 60_000;
/// Lines of the event log that are kept: of a seed all of them.
const LOG_LINES_MAX: usize = 20_000;
/// Events after which a world that does not end is called stuck.
const EVENTS_MAX: u64 = 400_000;

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
    /// Somebody between the nodes and the hub, with other keys than the hub's.
    impostor: Option<SimHub>,
    /// Calls of his that came to their end, since the last one began.
    impostor_was_answered: usize,
    /// Somebody who talks to one node in the hub's place.
    thief: Option<(usize, Thief)>,
    /// Somebody with the hub's own key acknowledges what no hub has: the hub hears nothing meanwhile.
    books_are_closed: bool,
    /// Older copies of the stores.
    backups: Vec<Option<Disk>>,
    hub_backup: Option<(Disk, HubBooks)>,
    /// Calls that have not ended, and when they must have.
    open_calls: BTreeMap<u64, MonotonicMs>,
    calls_made: u64,
    clocks: Vec<NodeClock>,
    /// A pod that crashes after each start: at which agent, and until when.
    crashing: Option<(usize, PodId, MonotonicMs)>,
    /// What the links have carried that have a budget.
    meters: Vec<Option<Meter>>,
    posting: Option<Posting>,
    next_post: MonotonicMs,
    open_posts: BTreeMap<u64, OpenPost>,
    posts_made: u64,
    results_made: u64,
    /// A scenario looks at the world then.
    alarm_clock: Option<MonotonicMs>,
    events_max: u64,
    faults: bool,
    next_fault: MonotonicMs,
    fleet: scene::Fleet,
    report: Report,
    log: VecDeque<String>,
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
            SimAgent::new(identity, scene::gpus(index), setup)
        });
        let agents: Vec<SimAgent> = agents.collect();
        let count = agents.len();
        let mut hub = SimHub::new(session, signing);
        hub.acknowledge_within_ms = setup.acknowledge_within_ms;
        let mut world = Self {
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
            impostor: None,
            impostor_was_answered: 0,
            thief: None,
            books_are_closed: false,
            backups: (0..count).map(|_| None).collect(),
            hub_backup: None,
            open_calls: BTreeMap::new(),
            calls_made: 0,
            clocks: vec![NodeClock::default(); count],
            crashing: None,
            meters: (0..count).map(|_| None).collect(),
            posting: setup.posting,
            next_post: now,
            open_posts: BTreeMap::new(),
            posts_made: 0,
            results_made: 0,
            alarm_clock: None,
            events_max: EVENTS_MAX,
            faults: true,
            next_fault: now.plus_ms(5_000),
            fleet: scene::Fleet::default(),
            report: Report::default(),
            log: VecDeque::new(),
            random,
        };
        for (index, link) in setup.budgets.iter().enumerate() {
            world.give_budget(index, *link);
        }
        world
    }

    /// The link of this node may carry so much, as the manifests will say.
    pub(super) fn give_budget(&mut self, index: usize, link: LinkBudget) {
        self.fleet.set_budget(scene::node(index), link);
        if let (Some(agent), Some(meter)) = (self.agents.get_mut(index), self.meters.get_mut(index))
        {
            agent.wire = Some(WireCount::default());
            meter.get_or_insert_default();
        }
    }

    pub(super) fn run(&mut self) -> Result<Report, String> {
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
        let metered = self.meters.iter().any(Option::is_some);
        let rest_ms = if metered { REST_WITHIN_BUDGET_MS } else { REST_MS };
        self.run_until_rest(rest_ms)?;
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
        if self.report.events > self.events_max {
            return Err(format!("still busy after {} events", self.events_max));
        }
        self.now = self.next_moment().max(self.now);
        if self.faults && self.now >= self.next_fault {
            self.next_fault = self.now.plus_ms(u64::from(self.random.next_u32() % 10_000));
            self.fault();
        }
        self.bring_up();
        self.read_manifests();
        self.connect();
        self.post_results();
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
        self.check_calls();
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
        let metered = self.meters.iter().map(Option::is_some);
        let agents = self.agents.iter().zip(&self.agent_up_at).zip(&self.connect_at);
        let agents = agents.zip(&self.cut).zip(metered);
        let agents = agents.flat_map(|((((agent, up), connect), cut), metered)| {
            // Attempts that must fail matter only where they are paid for.
            let tries = metered || (!cut && hub_runs);
            let joins = agent.core.is_some() && !agent.connected && tries;
            let timer = if agent.core.is_some() { agent.poll_timeout() } else { Some(*up) };
            [timer, joins.then_some(*connect)]
        });
        let hub = match &self.hub.core {
            Some(core) => core.poll_timeout(),
            None => Some(self.hub_up_at),
        };
        let stale = self.stale.as_ref().and_then(|(hub, _)| hub.core.as_ref()?.poll_timeout());
        let fault = self.faults.then_some(self.next_fault);
        let post = self.posting.map(|_| self.next_post);
        let others = [self.link.next_arrival(), hub, stale, fault, self.manifests_at, post];
        let others = others.into_iter().chain([self.alarm_clock]);
        let due = agents.chain(others).flatten().min();
        // A timer in the past is due now; nothing due at all is a second of silence.
        due.unwrap_or(self.now.plus_ms(1_000)).max(self.now.plus_ms(1))
    }

    /// From here on nothing breaks any more.
    fn heal(&mut self) {
        self.note("healed".to_owned());
        (self.faults, self.posting) = (false, None);
        self.link.badness = Badness::default();
        self.link.fill_black_holes();
        self.end_stale();
        (self.crashing, self.impostor) = (None, None);
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

    /// The events so far.
    pub(super) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log).into()
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
