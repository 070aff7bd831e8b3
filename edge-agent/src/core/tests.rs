//! The core against a hub made of the shared machines, one event at a time.

mod alarms;
mod budget;
mod calls;
mod commits;
mod gpu_condition;
mod greetings;
mod heat;
mod pressure;
mod results;
mod scaling;
mod telemetry;

use super::{
    AgentCore, Capacity, CoreOptions, Effect, Event, LinkStatus, RecorderOptions, Reserved,
    Restored,
};
use crate::placement::Placement;
use crate::ports::{Observation, ObservedState, RuntimeEvent, StartRequest};
use serde_bytes::ByteBuf;
use shared::model::{
    Container, GpuInventory, MonotonicMs, NodeId, Now, PodMetadata, PodSpec, PodTemplate, Revision,
    UnixMs, Workload, WorkloadKey,
};
use shared::ports::{Tree, Write, WriteBatch};
use shared::sync::{HubSession, LogRead, MapContent, Opened, OutboxQuota};
use shared::telemetry::{Sample, Series};
use shared::trust::session::SessionPrivateKey;
use shared::trust::signature::SigningKey;
use shared::wire::{
    HelloReply, MapAck, MapChunk, MapHeader, MapName, MapPosition, Message, RefusalReason, Resume,
    Version, desired_header_context, encode,
};
use std::collections::BTreeMap;

const SECOND_MS: u64 = 1_000;

/// A hub with keys, and a core that knows them.
struct Bench {
    core: AgentCore,
    now: MonotonicMs,
    session: HubSession,
    hub_key: SessionPrivateKey,
    signing: SigningKey,
    node: NodeId,
    /// What the core wanted made durable, in order.
    persisted: Vec<WriteBatch>,
    /// What of it lies in the outbox.
    outbox: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The disk refuses.
    full: bool,
    /// Effects other than `Persist` and `Send`.
    others: Vec<Effect>,
    /// Messages that the hub opened.
    received: Vec<Message>,
    /// When each payload left, and its bytes.
    sent_bytes: Vec<(MonotonicMs, u64)>,
}

fn workload(name: &str, revision: u64) -> Workload {
    let container = Container {
        name: "server".to_owned(),
        command: vec!["server".to_owned()],
        ..Container::default()
    };
    Workload {
        key: WorkloadKey::new("default", name).unwrap(),
        revision: Revision(revision),
        replicas: 1,
        priority: 0,
        tolerations: vec![],
        template: PodTemplate {
            metadata: PodMetadata::default(),
            spec: PodSpec { containers: vec![container], ..PodSpec::default() },
        },
        results: vec![],
        parameters: BTreeMap::new(),
        autoscaling: None,
    }
}

fn content(workloads: &[Workload]) -> MapContent {
    let item = |w: &Workload| (w.key.to_string(), encode("workload", w).unwrap());
    MapContent::new(workloads.iter().map(item).collect())
}

impl Bench {
    fn new() -> Self {
        Self::starting_with(Restored::default())
    }

    fn starting_with(restored: Restored) -> Self {
        let node = NodeId::new("mast-17").unwrap();
        let (hub_key, signing) =
            (SessionPrivateKey::generate([1; 32]), SigningKey::generate([2; 32]));
        let node_key = SessionPrivateKey::generate([3; 32]);
        let options = CoreOptions {
            node: node.clone(),
            agent_version: "test".to_owned(),
            incarnation: 1,
            boot: 1,
            seed: [4; 32],
            session_key: node_key.clone(),
            hub_session_key: hub_key.public(),
            hub_signing_key: signing.verifying(),
            capacity: Capacity {
                cpu_millicores: 4000,
                memory_bytes: 8 << 30,
                gpus: Some(GpuInventory::default()),
            },
            reserved: Reserved::default(),
            recorder: RecorderOptions { sample_interval_ms: 10 * SECOND_MS, samples_per_batch: 2 },
            several_containers: true,
            quota: OutboxQuota::default(),
        };
        let now = MonotonicMs(1);
        let core = AgentCore::new(options, restored, at(now));
        let session = HubSession::new(node.clone(), node_key.public());
        let mut bench = Self {
            core,
            now,
            session,
            hub_key,
            signing,
            node,
            persisted: vec![],
            outbox: BTreeMap::new(),
            full: false,
            others: vec![],
            received: vec![],
            sent_bytes: vec![],
        };
        bench.settle();
        bench
    }

    fn tell(&mut self, event: Event) {
        self.core.handle_event(event, at(self.now));
        self.settle();
    }

    /// Lets time pass, with every timer on the way.
    fn wait(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.core.handle_timeout(at(self.now));
            self.settle();
        }
        self.now = end;
    }

    /// Performs every effect, as the shell does, with a hub that answers handshakes only.
    fn settle(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Persist(batch) if self.full => {
                    let error = "no space".to_owned();
                    self.core.handle_event(Event::PersistFailed { batch, error }, at(self.now));
                }
                Effect::Persist(batch) => {
                    for write in &batch.writes {
                        if let Write::Put { tree: Tree::Outbox, key, value } = write {
                            self.outbox.insert(key.clone(), value.clone());
                        }
                    }
                    self.persisted.push(batch);
                    self.core.handle_event(Event::Persisted, at(self.now));
                }
                Effect::Send(payload) => self.hub_receives(&payload),
                other => self.others.push(other),
            }
        }
    }

    fn hub_receives(&mut self, payload: &[u8]) {
        self.sent_bytes.push((self.now, payload.len() as u64));
        let opened = self.session.handle_payload(payload, &self.hub_key, [9; 32], self.now);
        match opened.unwrap() {
            Opened::Message(message) => self.received.push(message),
            Opened::Answer(answer) => {
                self.core.handle_event(Event::Payload(answer), at(self.now));
            }
            Opened::Nothing => {}
        }
    }

    fn hub_sends(&mut self, message: &Message) {
        let payload = self.session.seal(message).unwrap();
        self.tell(Event::Payload(payload));
    }

    fn header(&self, content: &MapContent, version: Version, node: &NodeId) -> Vec<u8> {
        let position = MapPosition { version, digest: content.digest() };
        let header = MapHeader { position, issued_at_ms: 5 };
        let bytes = encode("header", &header).unwrap();
        self.signing.sign(&bytes, &desired_header_context(node)).unwrap()
    }

    /// The link comes up and the hub answers the greeting: nothing is desired so far.
    fn join(&mut self) {
        self.tell(Event::LinkUp);
        let empty = MapContent::default();
        let desired = ByteBuf::from(self.header(&empty, version(1, 1), &self.node.clone()));
        let reply = HelloReply { desired, reported: None, watermarks: vec![] };
        self.hub_sends(&Message::HelloReply(reply));
        assert_eq!(self.core.status(LinkStatus::default()).sync.session, "established");
    }

    fn desire(&mut self, workloads: &[Workload], version: Version) {
        let node = self.node.clone();
        self.desire_of(workloads, version, &node);
    }

    fn desire_of(&mut self, workloads: &[Workload], version: Version, node: &NodeId) {
        let content = content(workloads);
        let chunk = MapChunk {
            map: MapName::Desired,
            header: ByteBuf::from(self.header(&content, version, node)),
            index: 0,
            count: 1,
            body: ByteBuf::from(encode("body", &content.snapshot()).unwrap()),
        };
        self.received.clear();
        self.hub_sends(&Message::MapChunk(chunk));
    }

    fn started(&self) -> Vec<String> {
        let start = |effect: &Effect| match effect {
            Effect::Start(request) => Some(request.pod.to_string()),
            _ => None,
        };
        self.others.iter().filter_map(start).collect()
    }

    fn stopped(&self) -> usize {
        self.others.iter().filter(|effect| matches!(effect, Effect::Stop { .. })).count()
    }

    fn acknowledged(&self) -> bool {
        self.received.iter().any(|m| matches!(m, Message::MapAck(MapAck::Applied { .. })))
    }

    fn refusal(&self) -> Option<RefusalReason> {
        self.received.iter().find_map(|message| match message {
            Message::MapRefusal(refusal) => Some(refusal.reason),
            _ => None,
        })
    }

    fn the_only_start(&self) -> StartRequest {
        let start = self.others.iter().find_map(|effect| match effect {
            Effect::Start(request) => Some(request.clone()),
            _ => None,
        });
        start.unwrap()
    }

    /// The only pod, as a runtime finds it when the agent comes back.
    fn observed(&self) -> Vec<Observation> {
        let StartRequest { pod, instance, revision, parameters_id, .. } = self.the_only_start();
        let state = ObservedState::Running { started_at: UnixMs(7) };
        let placement = Placement::default();
        let (taken, containers) = (None, vec![]);
        vec![Observation {
            pod,
            instance,
            revision,
            state,
            placement,
            taken,
            parameters_id,
            containers,
            pod_ip: None,
        }]
    }

    fn run_the_only_pod(&mut self) {
        let StartRequest { pod, instance, .. } = self.the_only_start();
        let started_at = UnixMs(7);
        self.tell(Event::Runtime(RuntimeEvent::Started { pod, instance, started_at }));
    }
}

fn at(monotonic: MonotonicMs) -> Now {
    Now { monotonic, wall: UnixMs(monotonic.0), ..Now::default() }
}

fn version(term: u64, generation: u64) -> Version {
    Version { term, generation }
}

fn sample() -> Sample {
    Sample { values: [(Series::new("a"), 1.0)].into(), ..Sample::default() }
}

#[test]
fn desired_state_is_durable_before_it_is_acknowledged_and_before_its_pods_start() {
    let mut bench = Bench::new();
    bench.join();
    bench.full = true;
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    assert!(!bench.acknowledged(), "acknowledged what is not durable");
    assert!(bench.started().is_empty(), "started what is not durable");
    bench.full = false;
    bench.wait(6 * SECOND_MS);
    // The hub repeats what was not acknowledged.
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    assert!(bench.acknowledged());
    assert_eq!(bench.started(), ["default/ocr-0"]);
}

#[test]
fn desired_state_signed_for_another_node_or_by_another_hub_is_refused_in_silence() {
    let mut bench = Bench::new();
    bench.join();
    bench.desire_of(&[workload("ocr", 1)], version(1, 2), &NodeId::new("mast-18").unwrap());
    bench.signing = SigningKey::generate([7; 32]);
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    assert!(bench.started().is_empty() && !bench.acknowledged());
    assert_eq!(bench.core.status(LinkStatus::default()).sync.refused_updates, 2);
}

#[test]
fn an_older_version_is_refused_and_nothing_stops() {
    let mut bench = Bench::new();
    bench.join();
    bench.desire(&[workload("ocr", 1)], version(2, 5));
    bench.run_the_only_pod();
    bench.desire(&[], version(2, 4));
    assert_eq!(bench.refusal(), Some(RefusalReason::Stale));
    bench.desire(&[], version(2, 5));
    assert_eq!(bench.refusal(), Some(RefusalReason::Conflict));
    assert_eq!(bench.stopped(), 0);
}

#[test]
fn a_workload_that_this_agent_cannot_read_stops_nothing_that_runs() {
    let mut bench = Bench::new();
    bench.join();
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    bench.run_the_only_pod();
    let mut items = content(&[]).items().clone();
    items.insert("default/ocr".to_owned(), encode("future", &("from", "the", "future")).unwrap());
    let future = MapContent::new(items);
    let node = bench.node.clone();
    let chunk = MapChunk {
        map: MapName::Desired,
        header: ByteBuf::from(bench.header(&future, version(1, 3), &node)),
        index: 0,
        count: 1,
        body: ByteBuf::from(encode("body", &future.snapshot()).unwrap()),
    };
    bench.hub_sends(&Message::MapChunk(chunk));
    assert_eq!(bench.stopped(), 0);
    let status = bench.core.status(LinkStatus::default()).node_status;
    let condition = status.conditions.iter().find(|c| c.kind == "WorkloadReadable").unwrap();
    assert!(condition.message.contains("default/ocr"), "{condition:?}");
}

#[test]
fn a_link_that_goes_down_stops_nothing_and_a_session_outlives_it() {
    let mut bench = Bench::new();
    bench.join();
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    bench.run_the_only_pod();
    bench.tell(Event::LinkDown);
    bench.wait(20 * 24 * 3600 * SECOND_MS);
    assert_eq!(bench.stopped(), 0);
    bench.received.clear();
    bench.tell(Event::LinkUp);
    let greeting =
        Message::Resume(Resume { desired: Some(version(1, 2)), awaits_watermarks: true });
    assert!(bench.received.contains(&greeting), "no handshake is needed: {:?}", bench.received);
}

#[test]
fn after_a_full_disk_the_hub_is_greeted_again_so_that_the_logs_go_on() {
    let mut bench = Bench::new();
    bench.tell(Event::LinkUp);
    bench.full = true;
    bench.tell(Event::Sampled(sample()));
    bench.tell(Event::Sampled(sample()));
    let empty = MapContent::default();
    let desired = ByteBuf::from(bench.header(&empty, version(1, 1), &bench.node.clone()));
    let reply = HelloReply { desired, reported: None, watermarks: vec![] };
    bench.hub_sends(&Message::HelloReply(reply));
    bench.received.clear();
    bench.full = false;
    bench.wait(6 * SECOND_MS);
    let greeted = bench.received.iter().any(|message| matches!(message, Message::Hello(_)));
    assert!(greeted, "{:?}", bench.received);
}

#[test]
fn samples_become_a_record_that_is_read_from_the_store_and_sent() {
    let mut bench = Bench::new();
    bench.join();
    bench.tell(Event::Sampled(sample()));
    assert!(!bench.others.iter().any(|effect| matches!(effect, Effect::ReadRecords(_))));
    bench.tell(Event::Sampled(sample()));
    let reads = bench.others.iter().filter_map(|effect| match effect {
        Effect::ReadRecords(read) => Some(*read),
        _ => None,
    });
    let read: LogRead = reads.max_by_key(|read| read.first).unwrap();
    bench.tell(Event::RecordsRead { read, records: Ok(vec![(read.first, vec![1, 2, 3])]) });
    let sent = bench.received.iter().any(|message| matches!(message, Message::LogBatch(_)));
    assert!(sent, "{:?}", bench.received);
}

#[test]
fn garbage_from_the_broker_changes_nothing() {
    let mut bench = Bench::new();
    bench.join();
    for payload in [vec![], vec![0xff; 40], vec![0x83, 1, 2, 3], vec![0x82, 1, 3]] {
        bench.tell(Event::Payload(payload));
    }
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    assert_eq!(bench.started(), ["default/ocr-0"]);
}

#[test]
fn desired_state_that_overtakes_the_reply_to_the_greeting_is_acknowledged_after_it() {
    let mut bench = Bench::new();
    bench.tell(Event::LinkUp);
    bench.desire(&[workload("ocr", 1)], version(1, 1));
    assert!(!bench.acknowledged(), "nothing is sent before the reply");
    let wanted = content(&[workload("ocr", 1)]);
    let desired = ByteBuf::from(bench.header(&wanted, version(1, 1), &bench.node.clone()));
    let reply = HelloReply { desired, reported: None, watermarks: vec![] };
    bench.hub_sends(&Message::HelloReply(reply));
    assert!(bench.acknowledged(), "the hub would wait for it and repeat");
}

#[test]
fn records_of_a_store_that_cannot_be_read_are_not_passed_off_as_lost() {
    let mut bench = Bench::new();
    bench.join();
    bench.tell(Event::Sampled(sample()));
    bench.tell(Event::Sampled(sample()));
    let read = last_read(&bench).unwrap();
    bench.others.clear();
    bench.tell(Event::RecordsRead { read, records: Err("i/o error".to_owned()) });
    assert!(last_read(&bench).is_none(), "asked again at once");
    let sent = bench.received.iter().any(|message| matches!(message, Message::LogBatch(_)));
    assert!(!sent, "{:?}", bench.received);
    bench.wait(6 * SECOND_MS);
    assert_eq!(last_read(&bench).map(|again| again.first), Some(read.first));
}

fn last_read(bench: &Bench) -> Option<LogRead> {
    let reads = bench.others.iter().filter_map(|effect| match effect {
        Effect::ReadRecords(read) => Some(*read),
        _ => None,
    });
    reads.max_by_key(|read| read.first)
}

#[test]
fn what_is_written_while_the_disk_is_tried_again_becomes_durable_as_well() {
    let mut bench = Bench::new();
    bench.join();
    bench.full = true;
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    bench.tell(Event::Sampled(sample()));
    bench.tell(Event::Sampled(sample()));
    bench.full = false;
    bench.persisted.clear();
    bench.wait(6 * SECOND_MS);
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    assert_eq!(bench.started(), ["default/ocr-0"]);
    let pods = |batch: &WriteBatch| {
        let put = |write: &Write| matches!(write, Write::Put { tree: Tree::Pods, .. });
        batch.writes.iter().any(put)
    };
    assert!(bench.persisted.iter().any(pods), "{:?}", bench.persisted);
}

#[test]
fn a_node_that_has_no_memory_of_its_desired_state_stops_nothing() {
    let mut bench = Bench::new();
    bench.join();
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    bench.run_the_only_pod();
    let running = bench.observed();
    let mut again = Bench::starting_with(Restored { observations: running, ..Restored::default() });
    again.wait(3600 * SECOND_MS);
    assert_eq!(again.stopped(), 0);
}
