//! The agent's core: events and the present moment go in, effects come out in order.
//!
//! Pure. It is given `now`, a seed and what the store held; it never asks for time, entropy or IO.
//! The shell performs one effect after the other; the simulation does the same with ports in memory.
//!
//! | part | file |
//! |---|---|
//! | events, effects, what is restored at boot | `event.rs`, `restore.rs` |
//! | what the hub sends: desired state, greetings, calls | `downlink.rs` |
//! | what the agent sends: reported state, logs, in their order | `uplink.rs` |
//! | pods: actions to effects, changes to events | `pod_effects.rs` |
//! | which GPUs there were, and what became of them | `gpu_health.rs`, `gpu_condition.rs` |
//! | samples to batches to the outbox | `recorder.rs` |
//! | what the link may carry, and how much telemetry that is | `link_budget.rs`, `ladder.rs` |
//! | calls: allowed, recorded, answered | `calls.rs` |
//! | clocks of this boot and earlier ones | `clocks.rs` |
//! | what pods say of themselves in samples | `series.rs` |
//! | how many pods a workload has, by what they have to do | `scaling.rs` |
//! | which pods rest while a GPU is too hot | `heat.rs` |
//! | which pods leave while memory or disk run out, and images before them | `pressure.rs`, `images.rs` |
//! | results of pods to the outbox | `results.rs` |
//! | the store that can't be written | `storage.rs` |
//! | what `status` shows | `status.rs` |
//!
//! **Persist before send.** Whatever depends on a write waits for [`Event::Persisted`]. While the
//! store can't be written the core is read-only: pods stay as they are, nothing is acknowledged,
//! no log is read or sent.

mod attempts;
mod calls;
mod clocks;
mod downlink;
mod event;
mod gpu_condition;
mod gpu_health;
mod heat;
mod images;
mod ladder;
mod link_budget;
mod pod_effects;
mod pressure;
mod recorder;
mod restore;
mod results;
mod scaling;
mod series;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod uplink;

pub use calls::RemotePolicy;
pub use event::{Effect, Event};
pub use recorder::RecorderOptions;
pub use restore::{Capacity, CoreOptions, Reserved, Restored, StoredState, read_stored_state};
pub use status::{AgentStatus, LinkStatus, OutboxStatus, SyncStatus};

use crate::devices::NodeDevices;
use crate::gpu::GpuConditions;
use crate::heat::Heat;
use crate::models::NodeModels;
use crate::pods::Pods;
use crate::pressure::Pressure;
use crate::scaling::Scaling;
use attempts::Attempts;
use calls::Calls;
use clocks::Clocks;
use gpu_health::KnownGpus;
use images::Images;
use link_budget::DesiredPace;
use pod_effects::Told;
use recorder::Recorder;
use results::Results;
use shared::model::{GpuInventory, MonotonicMs, NodeCapacity, NodeId, Now, Workload, WorkloadKey};
use shared::sync::{AgentSession, Budget, LogRead, MapPublisher, MapReceiver, Outbox};
use shared::trust::signature::VerifyingKey;
use shared::wire::{Incarnation, Message, Version};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use storage::Storage;

/// The agent's core. See the module.
pub struct AgentCore {
    node: NodeId,
    agent_version: String,
    incarnation: Incarnation,
    hub_signing_key: VerifyingKey,
    session: AgentSession,
    desired: MapReceiver,
    /// The version under which its content came.
    content_version: Version,
    /// The greeting that waits for its answer is an introduction.
    introduces: bool,
    /// Workloads of the desired state that could be decoded, and why others could not.
    workloads: BTreeMap<WorkloadKey, Workload>,
    undecodable: BTreeMap<String, String>,
    reported: MapPublisher,
    /// Reported state is published anew at this moment.
    report_due: Option<MonotonicMs>,
    outbox: Outbox,
    /// The store was asked for these records.
    reading: Option<LogRead>,
    pods: Pods,
    scaling: Scaling,
    heat: Heat,
    pressure: Pressure,
    /// Whether pods leave for it.
    evicts: bool,
    /// What was last told in an event, by pod.
    told: BTreeMap<shared::model::PodId, Told>,
    capacity: NodeCapacity,
    /// Whether the driver has said which GPUs there are.
    gpus_known: bool,
    /// The models that this node has.
    models: Arc<NodeModels>,
    /// The devices that its configuration names.
    devices: Arc<NodeDevices>,
    /// Which GPUs were there and how they were, as it was told.
    known_gpus: KnownGpus,
    /// What else of them a person should know.
    gpu_conditions: GpuConditions,
    /// What of the capacity pods may not have.
    reserved: Reserved,
    recorder: Recorder,
    results: Results,
    storage: Storage,
    budget: Budget,
    attempts: Attempts,
    calls: Calls,
    clocks: Clocks,
    /// A handshake or a greeting is due and can't be afforded yet.
    session_waits: bool,
    /// The day's bytes are spent, but for those that are kept for alarms.
    budget_exhausted: bool,
    /// The disk with the store fills up.
    disk_pressure: bool,
    images: Images,
    /// Bytes of the last 24 hours, as they were counted last.
    spent_in_day: u64,
    desired_pace: Option<DesiredPace>,
    /// The hub knows that no chunk of desired state can be afforded now.
    desired_stalled_told: bool,
    answers: VecDeque<Message>,
    effects: VecDeque<Effect>,
    refused_updates: u64,
    refused_payloads: u64,
}

impl AgentCore {
    /// Something happened. Effects are due afterwards.
    pub fn handle_event(&mut self, event: Event, now: Now) {
        match event {
            Event::HubAnew => self.session.forget(),
            Event::LinkUp => self.session.handle_link_up(),
            Event::LinkDown => self.handle_link_down(now.monotonic),
            Event::Payload(payload) => self.handle_payload(&payload, now),
            Event::Runtime(event) => self.handle_runtime(event, now),
            Event::Inventory(gpus) => self.handle_inventory(gpus, now),
            Event::Models(models) => self.handle_models(models, now),
            Event::Devices(devices) => self.handle_devices(devices, now),
            Event::Sampled(sample) => {
                self.watch_disk(&sample, now);
                self.scale(&sample, now);
                self.watch_gpus(&sample, now);
                self.watch_heat(&sample, now);
                self.watch_pressure(&sample, now);
                if self.recorder.keeps_sample {
                    self.record_sample(self.with_pods(sample), now);
                }
            }
            Event::Posted { posts, clock } => self.handle_posts(posts, clock, now),
            Event::RecordsRead { read, records } => self.handle_records(&read, records, now),
            Event::CallAnswered(response) => self.handle_call_answered(response, now),
            Event::LocalCall { ticket, method } => self.handle_local_call(ticket, method, now),
            Event::Persisted => self.handle_persisted(now),
            Event::PersistFailed { batch, error } => self.handle_persist_failed(batch, error, now),
            Event::WireBytes(total) => self.budget.handle_wire(total, now.monotonic),
            Event::Flush => self.flush_samples(now),
        }
        self.advance(now);
    }

    /// The moment of [`Self::poll_timeout`] has come. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Now) {
        let at = now.monotonic;
        self.session.handle_timeout(at);
        self.reported.handle_timeout(at);
        self.outbox.handle_timeout(at);
        self.budget.handle_timeout(at);
        self.attempts.handle_timeout(at);
        self.calls.handle_timeout(at);
        self.pods.handle_timeout(now);
        if self.recorder.scrape_is_due(at) {
            self.scrape();
        }
        if self.recorder.sample_is_due(at) {
            self.effects.push_back(Effect::Sample);
        }
        self.send_held_results(now);
        self.retry_storage(at);
        self.advance(now);
    }

    /// When [`Self::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonotonicMs> {
        let timers = [
            self.session.poll_timeout().filter(|_| !self.session_waits),
            self.reported.poll_timeout(),
            self.outbox.poll_timeout(),
            self.budget.poll_timeout(),
            self.attempts.poll_timeout(),
            self.pace_timeout(),
            self.pods.poll_timeout(),
            self.report_due,
            Some(self.recorder.poll_timeout()),
            self.storage.retry_at(),
            self.results_due(),
            self.calls.poll_timeout(),
        ];
        timers.into_iter().flatten().min()
    }

    /// The next effect to perform.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Everything that follows from what has changed.
    fn advance(&mut self, now: Now) {
        self.watch_budget(now);
        self.note_clock(now);
        self.collect_pod_actions(now);
        self.refresh_report(now);
        self.transmit(now);
    }

    fn handle_link_down(&mut self, now: MonotonicMs) {
        let (spent, day) = (self.budget.spent().total(), self.budget.limits().bytes_per_day);
        self.attempts.ended(self.session.is_established(), spent, day, now);
        self.session.handle_link_down();
        self.reported.pause();
        self.outbox.pause();
        self.end_pace();
        self.answers.clear();
        self.calls.handle_link_down();
    }

    fn handle_inventory(&mut self, gpus: GpuInventory, now: Now) {
        if self.capacity.gpus != gpus || !self.gpus_known {
            self.tell_gpu_changes(&gpus, now);
            (self.capacity.gpus, self.gpus_known) = (gpus, true);
            self.provide(now);
            self.assign(now);
            self.schedule_report(now.monotonic);
        }
    }

    fn handle_models(&mut self, models: NodeModels, now: Now) {
        if *self.models != models {
            self.models = Arc::new(models);
            self.assign(now);
        }
    }

    /// The models that this node has, as far as the core was told.
    #[must_use]
    pub fn models(&self) -> &NodeModels {
        &self.models
    }

    fn handle_devices(&mut self, devices: NodeDevices, now: Now) {
        if *self.devices != devices {
            self.devices = Arc::new(devices);
            self.assign(now);
        }
    }

    /// The devices that this node's configuration names, as far as the core was told.
    #[must_use]
    pub fn devices(&self) -> &NodeDevices {
        &self.devices
    }

    /// This node's name.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }
}
