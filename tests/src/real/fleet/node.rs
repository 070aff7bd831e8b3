//! One node of the fleet: the agent's core and `perform`, a link, and the loop between them.
//!
//! As the agent's shell, with what is not needed here left out: no calls, no posts, no metrics of pods, no
//! limit of the link.

use super::machine::{Machine, MemoryStore};
use edge_agent::core::{
    AgentCore, Capacity, CoreOptions, Event, LinkStatus, RecorderOptions, Reserved, Restored,
};
use edge_agent::ports::{Runtime, ScrapeTarget};
use edge_agent::results::PostOutcome;
use edge_agent::shell::{AgentPorts, perform};
use rustls::time_provider::DefaultTimeProvider;
use shared::io::clock::SystemClock;
use shared::io::keys::fresh_seed;
use shared::io::mqtt::{HubStarts, LinkEvent, MqttClient, MqttOptions, connect, permitted};
use shared::io::tls::client_config;
use shared::model::{GpuInventory, NodeId, Now, UnixMs};
use shared::ports::{Store as _, StoreError, WriteBatch};
use shared::sync::{LogRead, OutboxQuota, read_log};
use shared::telemetry::{Sample, Series};
use shared::trust::certificate::NodeKey;
use shared::trust::enrollment::Enrollment;
use shared::trust::session::SessionPrivateKey;
use shared::wire::{
    CallOutcome, CallRequest, DownTopic, SequenceNumber, UpTopic, UpTopicKind, Version,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// As an agent's: the longest silence on an idle link.
const KEEP_ALIVE: Duration = Duration::from_secs(1000);

/// As an agent's: payloads that wait for the core, and for the socket.
const RECEIVED_MAX: usize = 16;
const SENT_MAX: usize = 32;

/// Without any timer the loop looks around this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A batch every quarter of an hour, the longest that an agent comes to by itself.
const RECORDER: RecorderOptions =
    RecorderOptions { sample_interval_ms: 60_000, samples_per_batch: 15 };

/// What the machine has.
const CPU_MILLICORES: u64 = 4_000;
const MEMORY_BYTES: u64 = 8 << 30;

/// Seconds since 1970 at the first start of all nodes: as large as an agent's, since its bytes count.
const INCARNATION: u64 = 1_793_491_200;

/// What a node keeps for ever.
pub(super) struct Keys {
    pub(super) tls: NodeKey,
    pub(super) session: SessionPrivateKey,
    pub(super) enrollment: Enrollment,
}

/// What others may see of a node.
#[derive(Debug, Default)]
pub(super) struct Seen {
    in_session: AtomicBool,
    /// The hub has all that the node has to tell.
    told_all: AtomicBool,
    pods_ready: AtomicUsize,
}

impl Seen {
    pub(super) fn is_in_session(&self) -> bool {
        self.in_session.load(Ordering::Relaxed)
    }

    pub(super) fn is_settled(&self, pods: usize) -> bool {
        self.is_in_session()
            && self.told_all.load(Ordering::Relaxed)
            && self.pods_ready.load(Ordering::Relaxed) == pods
    }
}

/// See the module.
pub(super) struct Node {
    core: AgentCore,
    outside: Outside,
    events: mpsc::Receiver<LinkEvent>,
    seen: Arc<Seen>,
    hub_starts: HubStarts,
}

/// The ports of the core.
struct Outside {
    store: MemoryStore,
    machine: Machine,
    client: Arc<MqttClient>,
    topic: String,
    clock: SystemClock,
}

impl AgentPorts for Outside {
    fn persist(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        self.store.commit(batch)
    }

    fn note_accepted(&mut self, _version: Version) {}

    fn note_link_budget(&mut self, _record: Vec<u8>) {}

    fn send(&mut self, payload: Vec<u8>) {
        // One that is not taken is a lost packet.
        let _ = self.client.try_publish(&self.topic, payload);
    }

    fn runtime(&mut self) -> &mut dyn Runtime {
        &mut self.machine
    }

    fn read_records(
        &mut self,
        read: &LogRead,
    ) -> Result<Vec<(SequenceNumber, Vec<u8>)>, StoreError> {
        read_log(&self.store, read)
    }

    fn answer_call(&mut self, _request: CallRequest) {}

    fn end_local_call(&mut self, _ticket: u64, _outcome: CallOutcome) {}

    fn sample(&mut self) -> Sample {
        let now = self.clock.now();
        #[allow(clippy::cast_precision_loss, reason = "a measure of a test")]
        let uptime = (Series::new("node_uptime_seconds"), (now.monotonic.0 / 1000) as f64);
        let values = [uptime].into_iter().collect();
        Sample { at: now.wall, clock: self.clock.stamp(now), values }
    }

    fn scrape(&mut self, _targets: Vec<ScrapeTarget>) {}

    fn answer_post(&mut self, _id: u64, _outcome: PostOutcome) {}

    fn trust_time(&mut self, _time: UnixMs) {}
}

impl Node {
    /// A node that begins to connect. To be called on the runtime of the fleet.
    ///
    /// # Errors
    /// When the enrolment is of no use.
    pub(super) fn start(keys: Keys) -> anyhow::Result<Self> {
        let (sender, events) = mpsc::channel(RECEIVED_MAX);
        let topic = topic(&keys.enrollment.node, UpTopicKind::Up);
        let client = Arc::new(connect(link_options(&keys)?, sender));
        let clock = SystemClock::new();
        let now = clock.now();
        let core = AgentCore::new(core_options(keys, &clock, now), Restored::default(), now);
        let (store, machine) = (MemoryStore::default(), Machine::default());
        let outside = Outside { store, machine, client, topic, clock };
        Ok(Self { core, outside, events, seen: Arc::default(), hub_starts: HubStarts::default() })
    }

    pub(super) fn client(&self) -> Arc<MqttClient> {
        Arc::clone(&self.outside.client)
    }

    pub(super) fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    /// Runs until the link has ended.
    pub(super) async fn run(mut self) {
        loop {
            self.settle();
            self.show();
            let sleep = self.until_timeout();
            let event = tokio::select! {
                event = self.events.recv() => match event {
                    None => return,
                    Some(LinkEvent::Up { hub_start }) => {
                        if self.hub_starts.is_another(hub_start) {
                            self.core.handle_event(Event::HubAnew, self.outside.clock.now());
                        }
                        Some(Event::LinkUp)
                    }
                    Some(LinkEvent::Down { .. }) => Some(Event::LinkDown),
                    Some(LinkEvent::Received { payload, .. }) => Some(Event::Payload(payload)),
                },
                () = tokio::time::sleep(sleep) => None,
            };
            let now = self.outside.clock.now();
            match event {
                Some(event) => self.core.handle_event(event, now),
                None => self.core.handle_timeout(now),
            }
        }
    }

    /// Performs effects until none is left, and lets the core hear what pods do.
    fn settle(&mut self) {
        let mut queue = VecDeque::new();
        loop {
            let now = self.outside.clock.now();
            self.outside.machine.set_wall(now.wall);
            while let Some(effect) = self.core.poll_effect() {
                if let Some(event) = perform(effect, &mut self.outside) {
                    self.core.handle_event(event, now);
                }
            }
            queue.extend(self.outside.machine.take_events());
            let Some(event) = queue.pop_front() else { return };
            self.core.handle_event(Event::Runtime(event), now);
        }
    }

    fn show(&self) {
        let status = self.core.status(LinkStatus::default());
        let told_all = status.sync.reported_in_sync && status.outbox.event_records == 0;
        let ready = status.pods.iter().filter(|pod| pod.ready).count();
        let in_session = status.sync.session == "established";
        self.seen.in_session.store(in_session, Ordering::Relaxed);
        self.seen.told_all.store(told_all, Ordering::Relaxed);
        self.seen.pods_ready.store(ready, Ordering::Relaxed);
    }

    fn until_timeout(&self) -> Duration {
        let now = self.outside.clock.now().monotonic;
        let due = self.core.poll_timeout();
        let wait = due.map_or(LONGEST_SLEEP, |due| Duration::from_millis(due.since_ms(now)));
        wait.min(LONGEST_SLEEP)
    }
}

fn topic(node: &NodeId, kind: UpTopicKind) -> String {
    UpTopic { node: node.clone(), kind }.name()
}

fn core_options(keys: Keys, clock: &SystemClock, now: Now) -> CoreOptions {
    let Keys { session, enrollment, .. } = keys;
    CoreOptions {
        node: enrollment.node,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: INCARNATION,
        boot: clock.stamp(now).boot,
        seed: fresh_seed(),
        session_key: session,
        hub_session_key: enrollment.hub_session_key,
        hub_signing_key: enrollment.hub_signing_key,
        capacity: Capacity {
            cpu_millicores: CPU_MILLICORES,
            memory_bytes: MEMORY_BYTES,
            gpus: Some(GpuInventory::default()),
        },
        reserved: Reserved::default(),
        recorder: RECORDER,
        several_containers: false,
        quota: OutboxQuota::default(),
    }
}

fn link_options(keys: &Keys) -> anyhow::Result<MqttOptions> {
    let Keys { tls, enrollment, .. } = keys;
    let (host, port) = enrollment.broker_address()?;
    let node = &enrollment.node;
    let tls = client_config(
        &enrollment.authority_pem,
        &enrollment.certificate_pem,
        &tls.to_pem(),
        Arc::new(DefaultTimeProvider),
    )?;
    Ok(MqttOptions {
        client_id: node.to_string(),
        host,
        port,
        server_name: enrollment.broker_name.clone(),
        tls,
        keep_alive: KEEP_ALIVE,
        subscriptions: vec![DownTopic { node: node.clone() }.name()],
        speaks_first: true,
        will: Some((topic(node, UpTopicKind::Will), vec![])),
        queue_messages_max: SENT_MAX,
        seed: fresh_seed(),
        permit: permitted(),
    })
}
