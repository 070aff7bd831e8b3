//! One agent of the simulated world: the production core and `perform`, on ports in memory.

use super::disk::Disk;
use super::runtime::Machine;
use super::setup::Setup;
use edge_agent::core::{
    AgentCore, AgentStatus, Capacity, CoreOptions, Effect, Event, LinkStatus, RecorderOptions,
    Reserved, Restored, read_stored_state,
};
use edge_agent::devices::NodeDevices;
use edge_agent::models::NodeModels;
use edge_agent::ports::{Runtime, ScrapeTarget};
use edge_agent::results::PostOutcome;
use edge_agent::shell::{AgentPorts, perform};
use shared::model::{
    BootClock, ClockStamp, GpuDevice, GpuHealth, GpuInventory, MonotonicMs, NodeId, Now, UnixMs,
};
use shared::ports::{Store, StoreError, WriteBatch};
use shared::sync::{LogRead, OutboxQuota, read_log};
use shared::telemetry::Sample;
use shared::trust::session::{SessionPrivateKey, SessionPublicKey};
use shared::trust::signature::VerifyingKey;
use shared::wire::{CallOutcome, CallRequest, CallResponse, SequenceNumber, Version};
use std::collections::VecDeque;

/// What a node keeps on paper: keys and the hub's public halves.
#[derive(Clone)]
pub(super) struct Identity {
    /// The node's name.
    pub(super) node: NodeId,
    /// The node's key for sessions.
    pub(super) session_key: [u8; 32],
    /// The hub's.
    pub(super) hub_session_key: SessionPublicKey,
    /// The hub's.
    pub(super) hub_signing_key: VerifyingKey,
}

/// One simulated node: what survives, and the agent's process while it runs.
pub(super) struct SimAgent {
    pub(super) identity: Identity,
    pub(super) disk: Disk,
    pub(super) machine: Machine,
    /// The ledger beside the store.
    pub(super) ledger: SimLedger,
    /// The running process; `None` after a crash.
    pub(super) core: Option<AgentCore>,
    pub(super) connected: bool,
    pub(super) gpus: GpuInventory,
    /// Bytes of records that its outbox keeps of each class.
    pub(super) quota_bytes: u64,
    /// How often it samples.
    pub(super) recorder: RecorderOptions,
    /// Series of each sample, besides those of pods.
    series: usize,
    /// This boot of the machine, and when it began by the world's clock.
    pub(super) boot: (u64, MonotonicMs),
    /// What the wire has carried since the process started, and what of it the core was told; `None`
    /// where nobody counts.
    pub(super) wire: Option<WireCount>,
}

/// The ledger beside the store: it can be written when the disk is full.
#[derive(Debug, Clone, Default)]
pub(super) struct SimLedger {
    pub(super) incarnation: u64,
    pub(super) accepted: Version,
    link_budget: Vec<u8>,
}

/// What the wire has carried since the agent's process started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WireCount {
    pub(super) bytes: u64,
    told: u64,
}

/// What one step handed to the outside.
#[derive(Default)]
pub(super) struct Outcome {
    /// Payloads for the hub.
    pub(super) sent: Vec<Vec<u8>>,
    /// Whether the process was killed in the middle.
    pub(super) crashed: bool,
    /// Answers to calls, as they end.
    pub(super) answered: Vec<CallResponse>,
    /// Answers to posts.
    pub(super) posts: Vec<(u64, PostOutcome)>,
    /// It was not at rest after [`EVENTS_AT_ONCE_MAX`], and was left there.
    pub(super) endless: bool,
}

/// What its machine answers, and what follows from that, at one moment: a few hundred starts and stops at most.
const EVENTS_AT_ONCE_MAX: usize = 20_000;

struct Ports<'a> {
    disk: &'a mut Disk,
    machine: &'a mut Machine,
    ledger: &'a mut SimLedger,
    outcome: &'a mut Outcome,
    now: Now,
    boot: u64,
    series: usize,
}

impl AgentPorts for Ports<'_> {
    fn persist(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        self.disk.commit(batch)
    }

    fn note_accepted(&mut self, version: Version) {
        self.ledger.accepted = self.ledger.accepted.max(version);
    }

    fn note_link_budget(&mut self, record: Vec<u8>) {
        self.ledger.link_budget = record;
    }

    fn send(&mut self, payload: Vec<u8>) {
        self.outcome.sent.push(payload);
    }

    fn runtime(&mut self) -> &mut dyn Runtime {
        self.machine
    }

    fn read_records(
        &mut self,
        read: &LogRead,
    ) -> Result<Vec<(SequenceNumber, Vec<u8>)>, StoreError> {
        read_log(self.disk, read)
    }

    fn answer_call(&mut self, request: CallRequest) {
        let outcome = CallOutcome::done(b"a line\n".to_vec());
        self.outcome.answered.push(CallResponse { id: request.id, outcome });
    }

    fn end_local_call(&mut self, _ticket: u64, _outcome: CallOutcome) {}

    fn sample(&mut self) -> Sample {
        super::scene::sample_at(self.now, self.boot, self.series)
    }

    fn scrape(&mut self, _targets: Vec<ScrapeTarget>) {}

    fn answer_post(&mut self, id: u64, outcome: PostOutcome) {
        self.outcome.posts.push((id, outcome));
    }

    fn trust_time(&mut self, _time: UnixMs) {}
}

impl SimAgent {
    /// A node that has enrolled and never ran.
    pub(super) fn new(identity: Identity, gpus: GpuInventory, setup: &Setup) -> Self {
        Self {
            identity,
            disk: Disk::default(),
            machine: Machine::default(),
            ledger: SimLedger::default(),
            core: None,
            connected: false,
            gpus,
            quota_bytes: setup.quota_bytes,
            recorder: setup.recorder,
            series: setup.series,
            boot: (1, MonotonicMs(0)),
            wire: None,
        }
    }

    /// The agent's process starts.
    pub(super) fn start(&mut self, seed: [u8; 32], now: Now) {
        self.ledger.incarnation += 1;
        self.machine.set_wall(now.wall);
        let observations = self.machine.observe().unwrap_or_default();
        let stored = read_stored_state(&self.disk).unwrap_or_default();
        let restored = Restored {
            stored,
            fence: self.ledger.accepted,
            link_budget: self.ledger.link_budget.clone(),
            models: NodeModels::new(),
            devices: NodeDevices::new(),
            observations,
            notices: vec![],
        };
        let options = CoreOptions {
            node: self.identity.node.clone(),
            agent_version: "sim".to_owned(),
            incarnation: self.ledger.incarnation,
            boot: self.boot.0,
            seed,
            session_key: SessionPrivateKey::from_bytes(self.identity.session_key),
            hub_session_key: self.identity.hub_session_key,
            hub_signing_key: self.identity.hub_signing_key,
            capacity: Capacity {
                cpu_millicores: super::scene::NODE_MILLICORES,
                memory_bytes: 8 << 30,
                gpus: Some(self.gpus.clone()),
            },
            reserved: Reserved::default(),
            recorder: self.recorder,
            several_containers: false,
            quota: OutboxQuota {
                alarms_bytes: self.quota_bytes,
                events_bytes: self.quota_bytes,
                results_bytes: self.quota_bytes,
                telemetry_bytes: self.quota_bytes,
            },
        };
        self.core = Some(AgentCore::new(options, restored, now));
        self.connected = false;
        self.wire = self.wire.map(|_| WireCount::default());
    }

    /// The node's own time since its boot, at `now` by the world's clock.
    pub(super) fn since_boot(&self, now: MonotonicMs) -> MonotonicMs {
        MonotonicMs(now.since_ms(self.boot.1))
    }

    /// When something is due, by the world's clock.
    pub(super) fn poll_timeout(&self) -> Option<MonotonicMs> {
        let due = self.core.as_ref()?.poll_timeout()?;
        Some(self.boot.1.plus_ms(due.0))
    }

    /// The machine's clock, as results are stamped with it.
    pub(super) fn boot_clock(&self, now: Now) -> BootClock {
        let ClockStamp { quality, boot, offset_ms } = ClockStamp::of(now, self.boot.0);
        BootClock { boot, since_boot_ms: now.monotonic.0, offset_ms, quality }
    }

    /// The wire carried more, if anybody counts.
    pub(super) fn count_wire(&mut self, bytes: u64) {
        if let Some(wire) = &mut self.wire {
            wire.bytes += bytes;
        }
    }

    /// What the core has not been told of the wire, as the shell tells it: before anything else.
    fn untold_wire(&mut self) -> Option<Event> {
        let wire = self.wire.as_mut().filter(|wire| wire.told != wire.bytes)?;
        wire.told = wire.bytes;
        Some(Event::WireBytes(wire.bytes))
    }

    /// Whether the driver lists this GPU as usable.
    pub(super) fn gpu_is_healthy(&self, uuid: &str) -> bool {
        let usable = |gpu: &GpuDevice| gpu.uuid == uuid && gpu.health == GpuHealth::Healthy;
        self.gpus.devices.iter().any(usable)
    }

    /// The process is killed. Pods go on.
    pub(super) fn kill(&mut self) {
        self.core = None;
        self.connected = false;
        self.machine.agent_died();
    }

    /// Hands `events` to the core and performs what follows; before each effect `dies` says whether
    /// the process is killed there.
    pub(super) fn step(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        now: Now,
        dies: &mut dyn FnMut(&Effect) -> bool,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        self.machine.set_wall(now.wall);
        let mut queue: VecDeque<Event> = self.untold_wire().into_iter().chain(events).collect();
        for _ in 0..EVENTS_AT_ONCE_MAX {
            let Some(core) = self.core.as_mut() else { return outcome };
            while let Some(effect) = core.poll_effect() {
                if dies(&effect) {
                    self.kill();
                    outcome.crashed = true;
                    return outcome;
                }
                let mut ports = Ports {
                    disk: &mut self.disk,
                    machine: &mut self.machine,
                    ledger: &mut self.ledger,
                    outcome: &mut outcome,
                    now,
                    boot: self.boot.0,
                    series: self.series,
                };
                if let Some(event) = perform(effect, &mut ports) {
                    core.handle_event(event, now);
                }
            }
            queue.extend(self.machine.take_events().into_iter().map(Event::Runtime));
            queue.extend(outcome.answered.drain(..).map(Event::CallAnswered));
            match queue.pop_front() {
                Some(event) => core.handle_event(event, now),
                None => return outcome,
            }
        }
        outcome.endless = true;
        outcome
    }

    /// The status, while the process runs.
    pub(super) fn status(&self) -> Option<AgentStatus> {
        self.core.as_ref().map(|core| core.status(LinkStatus::default()))
    }
}
