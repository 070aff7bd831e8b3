//! Seeds of the corpus: the golden file, the examples of `deploy/`, and values made here.
//!
//! Certificates are new each time: this runs when a format is added (`fuzz.sh seeds`), never in tests.

#![allow(clippy::unwrap_used, reason = "a tool for developers, run by hand")]
use crate::input::Output;
use crate::trust::{
    certificate_der, hub_key, node, node_key, prologue, request_der, sign_header, signing_key,
};
use ::hub::core::NodeRecord;
use bytes::BytesMut;
use edge_agent::placement::Placement;
use edge_agent::pods::PodRecord;
use edge_agent::ports::InstanceId;
use rumqttc::{
    ConnAck, Connect, ConnectAuth, ConnectProperties, ConnectReturnCode, Disconnect,
    DisconnectReasonCode, LastWill, Packet, PubAck, Publish, PublishProperties, QoS, SubAck,
    Subscribe, SubscribeFilter, SubscribeReasonCode,
};
use serde::Serialize;
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};
use shared::model::{
    Autoscaling, ClockQuality, Condition, ConditionStatus, ConfigItem, ContainerStatus,
    GpuInventory, LinkBudget, MonotonicMs, NodeCapacity, NodeEvent, NodeStatus, Now, PodId,
    PodPhase, PodStatus, RemoteAccess, ReservedResources, Revision, ScalingMetric, SecretBytes,
    SecretData, SecretItem, UnixMs, Workload,
};
use shared::sync::{Budget, LinkClass, LogMeta, LogReceiver, MapContent};
use shared::telemetry::{Batch, BatchEncoder, Sample, Series};
use shared::trust::certificate::{CertificateAuthority, NodeKey};
use shared::trust::enrollment::Enrollment;
use shared::trust::session::Initiator;
use shared::wire::{
    Digest, Envelope, Hunk, ItemEdit, LogBatch, LogId, MapBody, MapHeader, MapItem, MapPosition,
    Stream, Version, encode,
};
use std::fs;
use std::path::{Path, PathBuf};

const GOLDEN: &str = include_str!("../../../shared/golden/messages-v1.txt");
const CLASSIFIER: &str = include_str!("../../../deploy/examples/classifier.yaml");
const SHARED_GPU: &str = include_str!("../../../deploy/examples/shared-gpu.yaml");
const EDGE_NODE: &str = include_str!("../../../deploy/examples/edge-node.yaml");
const AGENT: &str = include_str!("../seeds/agent.toml");
const HUB: &str = include_str!("../seeds/hub.toml");
const SHIM: &str = include_str!("../seeds/shim.txt");
const CRI: &str = include_str!("../seeds/cri.txt");
const NAMES: &str = include_str!("../seeds/names.txt");

struct Corpus(PathBuf);

impl Corpus {
    /// Adds a seed under the name that libFuzzer would give it.
    fn add(&self, target: &str, seed: &[u8]) {
        let name = Sha256::digest(seed).into_iter().take(10).map(|b| format!("{b:02x}"));
        let folder = self.0.join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name.collect::<String>()), seed).unwrap();
    }
}

/// Writes every seed below `folder`, in a folder for each target.
///
/// # Panics
/// When that can't be done.
pub fn write(folder: &Path) {
    let corpus = Corpus(folder.to_owned());
    golden(&corpus);
    envelopes(&corpus);
    packets(&corpus);
    records(&corpus);
    maps(&corpus);
    logs(&corpus);
    budgets(&corpus);
    stores(&corpus);
    trust(&corpus);
    secrets(&corpus);
    certificates(&corpus);
    files(&corpus);
    for (target, seed) in crate::pods::seeds() {
        corpus.add(target, &seed);
    }
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    encode("seed", value).unwrap()
}

fn position(term: u64, generation: u64) -> MapPosition {
    MapPosition { version: Version { term, generation }, digest: Digest::of(b"content") }
}

fn map_header() -> MapHeader {
    MapHeader { position: position(3, 7), issued_at_ms: 1_700_000_000_000 }
}

/// Every message of version 1: as it is, and said by a peer that has the session's keys.
fn golden(corpus: &Corpus) {
    let greeting = Output::default().byte(2).byte(0).number(1).number(1).number(1).byte(1);
    for line in GOLDEN.lines() {
        let Some((_, hex)) = line.split_once(' ') else { continue };
        let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)?.try_into().ok()).collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |sum, digit| sum << 4 | digit))
            .collect();
        corpus.add("message", &bytes);
        corpus.add("session", &Output::default().byte(2).byte(1).chunk(&bytes).bytes());
        corpus.add("agent_link", &greeting.clone().byte(1).chunk(&bytes).bytes());
        corpus.add("hub_link", &Output::default().byte(1).chunk(&bytes).bytes());
    }
}

fn envelopes(corpus: &Corpus) {
    let envelopes = [
        Envelope::Open(vec![1; 96]),
        Envelope::Accept(vec![2; 48]),
        Envelope::Sealed { counter: 7, ciphertext: vec![3; 40] },
        Envelope::UnknownSession,
    ];
    for envelope in envelopes {
        let bytes = envelope.encode();
        corpus.add("envelope", &bytes);
        corpus.add("session", &Output::default().byte(3).chunk(&bytes).bytes());
        corpus.add("session", &Output::default().byte(4).number(1).chunk(&bytes).bytes());
        corpus.add("agent_link", &Output::default().byte(0).chunk(&bytes).bytes());
        corpus.add("hub_link", &Output::default().byte(0).chunk(&bytes).bytes());
    }
}

/// What node and broker say to each other from the first packet to the last.
fn packets(corpus: &Corpus) {
    let filter = SubscribeFilter::new("e/mast-17/d", QoS::AtMostOnce);
    let mut subscribe = Subscribe::new(filter, None);
    subscribe.pkid = 1;
    let properties = PublishProperties { topic_alias: Some(1), ..PublishProperties::default() };
    let mut first = Publish::new("e/mast-17/u", QoS::AtLeastOnce, vec![7; 20], Some(properties));
    first.pkid = 3;
    let granted = vec![SubscribeReasonCode::Success(QoS::AtMostOnce)];
    let connect = Connect {
        keep_alive: 600,
        client_id: "mast-17".to_owned(),
        clean_start: true,
        properties: Some(ConnectProperties { topic_alias_max: Some(2), ..Default::default() }),
    };
    let will = LastWill::new("e/mast-17/w", Vec::new(), QoS::AtMostOnce, false, None);
    let (code, session_present) = (ConnectReturnCode::Success, false);
    let connack = ConnAck { session_present, code, properties: None };
    let of_node = [
        Packet::Connect(connect, Some(will), ConnectAuth::None),
        Packet::Subscribe(subscribe),
        Packet::Publish(first),
        Packet::PingReq,
        Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)),
    ];
    let of_broker = [
        Packet::ConnAck(connack),
        Packet::SubAck(SubAck { pkid: 1, return_codes: granted, properties: None }),
        Packet::PubAck(PubAck::new(3, None)),
        Packet::Publish(Publish::new("e/mast-17/d", QoS::AtMostOnce, vec![8; 9], None)),
        Packet::PingResp,
        Packet::Disconnect(Disconnect::new(DisconnectReasonCode::SessionTakenOver)),
    ];
    for (side, said) in [(0, &of_node[..]), (1, &of_broker[..])] {
        let mut whole = BytesMut::new();
        for packet in said {
            let mut one = BytesMut::new();
            packet.write(&mut one, None).unwrap();
            corpus.add("mqtt", &[&[side, 1], &one[..]].concat());
            whole.extend_from_slice(&one);
        }
        corpus.add("mqtt", &[&[side, 13], &whole[..]].concat());
    }
}

fn workload() -> Workload {
    let manifests = ::hub::manifests::parse_documents("seed", SHARED_GPU).unwrap();
    let declared = manifests.workloads.into_values().next().unwrap();
    Workload {
        key: declared.key,
        revision: Revision(7),
        replicas: 2,
        priority: 100,
        tolerations: vec![],
        template: declared.template,
        results: vec![],
        parameters: [("CAMERA".to_owned(), "10.0.0.7".to_owned())].into(),
        autoscaling: Some(Autoscaling {
            max_replicas: 3,
            metric: ScalingMetric::LatencyPercentile(95),
            target: 50,
            metric_name: Some("queue".to_owned()),
            scale_up_seconds: 1,
            scale_down_seconds: 300,
        }),
    }
}

fn pod() -> PodId {
    "default/ocr-0".parse().unwrap()
}

fn node_status() -> NodeStatus {
    NodeStatus {
        agent_version: "0.1.0".to_owned(),
        capacity: NodeCapacity {
            cpu_millicores: 4000,
            memory_bytes: 8 << 30,
            gpus: GpuInventory::default(),
        },
        conditions: vec![Condition {
            kind: "StoreWritable".to_owned(),
            status: ConditionStatus::True,
            reason: "Writable".to_owned(),
            message: String::new(),
        }],
        observed_term: 3,
        observed_generation: 7,
        reserved: ReservedResources { cpu_millicores: 500, memory_bytes: 1 << 30 },
        remote_access: Some(RemoteAccess { logs: true, exec: false }),
    }
}

fn pod_status() -> PodStatus {
    let (name, reason, last_exit_code) = ("server".to_owned(), String::new(), Some(1));
    let container = ContainerStatus { name, ready: true, restarts: 1, reason, last_exit_code };
    PodStatus {
        pod: pod(),
        revision: Revision(7),
        phase: PodPhase::Running,
        ready: true,
        reason: "BackOff".to_owned(),
        message: "m".to_owned(),
        restarts: 2,
        started_at: Some(UnixMs(5)),
        last_exit_code: Some(1),
        gpus: vec!["GPU-1".to_owned()],
        containers: vec![container],
        pod_ip: "10.88.0.5".parse().ok(),
    }
}

fn pod_record() -> PodRecord {
    PodRecord {
        pod: pod(),
        revision: Revision(7),
        instance: InstanceId(9),
        placement: Placement { gpus: vec!["GPU-1".to_owned()], gpu_memory_bytes: Some(1 << 30) },
        restarts: 2,
        backoff_level: 1,
        last_exit_code: Some(1),
        completed: None,
        taken: None,
        parameters_id: 0,
    }
}

fn node_record() -> NodeRecord {
    let mut record = NodeRecord::new(node_key().public(), "1f".to_owned(), UnixMs(5));
    record.logs.handle_batch(log_batch(1, Stream::Events));
    record.reported_header = Some(ByteBuf::from(encoded(&map_header())));
    record
}

fn log_batch(incarnation: u64, stream: Stream) -> LogBatch {
    let log = LogId { incarnation, stream };
    LogBatch { log, oldest: 1, first: 1, records: vec![ByteBuf::from(encoded(&event()))] }
}

fn event() -> NodeEvent {
    NodeEvent {
        at: UnixMs(1_700_000_000_000),
        quality: ClockQuality::Synchronised,
        object: pod().to_string(),
        reason: "Started".to_owned(),
        message: "it runs".to_owned(),
        boot: None,
    }
}

fn records(corpus: &Corpus) {
    let mut logs = LogReceiver::default();
    logs.handle_batch(log_batch(3, Stream::Backfill));
    let kinds = [
        encoded(&workload()),
        encoded(&node_status()),
        encoded(&pod_status()),
        encoded(&event()),
        encoded(&pod_record()),
        encoded(&node_record()),
        encoded(&LogMeta { oldest: 3, next: 9, bytes: 400 }),
        encoded(&logs),
    ];
    for (kind, record) in (0..).zip(&kinds) {
        corpus.add("records", &[&[kind], record.as_slice()].concat());
    }
    let audit = encoded(&crate::records::audit_record(pod()));
    corpus.add("records", &[&[9], audit.as_slice()].concat());
    let sample = |at| Sample {
        at: UnixMs(at),
        values: [(Series::new("load").with("gpu", "GPU-1"), 1.5), (Series::new("b"), -2.0)].into(),
        ..Sample::default()
    };
    let batch = Batch { samples: vec![sample(10_000), sample(20_000)] };
    let mut encoder = BatchEncoder::default();
    let mut log = Output::default();
    for sequence in [2, 3, 4] {
        let staged = encoder.encode(&batch, sequence).unwrap();
        log = log.byte(1).chunk(staged.record());
        encoder.commit(staged);
    }
    corpus.add("telemetry", &log.bytes());
}

fn maps(corpus: &Corpus) {
    let item = |key: &str, value: Vec<u8>| MapItem { key: key.to_owned(), value: value.into() };
    let items =
        vec![item("node", encoded(&node_status())), item("default/ocr", encoded(&workload()))];
    let snapshot = MapBody::Snapshot { items: items.clone() };
    let base = MapContent::default().digest().into();
    let hunk = Hunk { skip: 3, remove: 1, insert: vec![7; 2].into() };
    let edits = vec![ItemEdit { item: 1, hunks: vec![hunk] }];
    let tombstones = vec!["p/default/a-0".to_owned()];
    let delta = MapBody::Delta { base, edits, upserts: items, tombstones };
    corpus.add("map", &encoded(&snapshot));
    corpus.add("map", &encoded(&delta));
    corpus.add("map", &encoded(&map_header()));
    let update = |kind| {
        let update = Output::default().byte(kind).byte(2);
        let update = update.chunk(b"node").chunk(&encoded(&node_status()));
        update.chunk(workload().key.to_string().as_bytes()).chunk(&encoded(&workload()))
    };
    let version = |update: Output, generation| update.number(2).number(generation).number(5);
    let receiver = |seed: Vec<u8>| {
        corpus.add("map_receiver", &[&[0, 0, 3], seed.as_slice()].concat());
    };
    receiver(version(update(0), 1).byte(200).byte(7).byte(0).bytes());
    receiver(
        version(update(1).byte(1).chunk(b"gone").byte(0), 2).byte(100).byte(3).byte(0).bytes(),
    );
    let greeting = Output::default().byte(2).byte(0).number(1).number(1).number(1).byte(1).byte(0);
    let update = version(update(0), 1).bytes();
    let after = Output::default().byte(8).number(1000).byte(5).byte(0).byte(0).number(7).byte(7);
    corpus.add("agent_link", &[greeting.bytes(), vec![3], update.clone(), after.bytes()].concat());
    let hello =
        Output::default().byte(2).byte(0).number(1).number(1).number(3).number(1).chunk(b"v");
    corpus.add("hub_link", &[hello.bytes(), vec![4], update, vec![8, 200, 10]].concat());
}

fn logs(corpus: &Corpus) {
    let batch = |output: Output, incarnation, stream, first| {
        let output = output.number(incarnation).byte(stream).number(1).number(first).number(2);
        output.chunk(&encoded(&event()))
    };
    let two = batch(batch(Output::default().byte(0), 1, 0, 1).byte(0), 1, 0, 3);
    corpus.add("log_receiver", &batch(two.byte(7).number(2).byte(0), 2, 1, 1).bytes());
    let hello =
        Output::default().byte(2).byte(1).number(1).number(1).number(3).number(1).chunk(b"v");
    corpus.add("hub_link", &batch(hello.byte(3), 3, 0, 1).byte(8).number(100).bytes());
    let meta = Output::default().byte(1).number(1).byte(0).byte(1).number(3).number(9).number(400);
    let outbox = meta.number(10_000).number(2).byte(1).byte(0).byte(0).byte(0).chunk(&[1; 40]);
    let outbox = outbox.byte(1).byte(1).byte(1).number(1).byte(0).number(4).byte(1).byte(4);
    corpus.add("outbox", &outbox.byte(1).byte(2).number(2).byte(0).number(1).bytes());
}

/// A budget of 60 kB a day, of which a message and a grant are taken.
fn budgets(corpus: &Corpus) {
    let now = Now { monotonic: MonotonicMs(5_000), wall: UnixMs(9), ..Now::default() };
    let mut budget = Budget::restore(None, now);
    let limits = LinkBudget { bytes_per_day: Some(60_000), bytes_per_second: None };
    budget.set_limits(limits, now.monotonic);
    budget.charge(LinkClass::Results, 3_000, now.monotonic);
    let stored = budget.poll_grant(500, now).map(|grant| grant.encode().unwrap());
    let seed = Output::default().chunk(&stored.unwrap()).byte(1).number(6_000).number(9);
    let seed = seed.byte(0).number(60_000).byte(1).number(400).byte(8).byte(5);
    corpus.add(
        "budget",
        &seed.number(900).byte(0).byte(3).number(0).byte(0).byte(0).number(1).bytes(),
    );
}

/// Records in stores, each under its key.
fn stores(corpus: &Corpus) {
    let (desired, pods, nodes, reported, meta) = (1, 2, 4, 5, 0);
    let put = |output: Output, tree, key: &str, value: &[u8]| {
        output.byte(tree).chunk(key.as_bytes()).chunk(value)
    };
    let workload = workload();
    let value = encoded(&workload);
    let content = [(workload.key.to_string(), value.clone())].into();
    let digest = MapContent::new(content).digest();
    let position = MapPosition { digest, ..position(3, 7) };
    let header = sign_header(&MapHeader { position, ..map_header() });
    let agent = put(Output::default().byte(0), meta, "desired/header", &header);
    let agent = put(agent, desired, &workload.key.to_string(), &value);
    let agent = put(agent, pods, &pod().to_string(), &encoded(&pod_record()));
    let position = encoded(&LogMeta { oldest: 3, next: 9, bytes: 400 });
    let agent = put(agent, meta, "log/0000000000000001/0", &position);
    corpus.add("agent_store", &put(agent, meta, "telemetry/samples", &encoded(&70_u64)).bytes());
    let hub = put(Output::default(), meta, "term", &encoded(&9_u64));
    let hub = put(hub, nodes, "mast-17", &encoded(&node_record()));
    let hub = put(hub, reported, "mast-17/node", &encoded(&node_status()));
    let status = encoded(&pod_status());
    corpus.add("hub_store", &put(hub, reported, "mast-17/p/default/ocr-0", &status).bytes());
}

fn trust(corpus: &Corpus) {
    corpus.add("signed", &[&[0], sign_header(&map_header()).as_slice()].concat());
    for mode in [1, 2] {
        let seed = Output::default().byte(mode).number(70).byte(3).bytes();
        corpus.add("signed", &[seed, encoded(&map_header())].concat());
    }
    let begun = Initiator::start(&node_key(), &hub_key().public(), &prologue(), [6; 32], &[]);
    let (_, first) = begun.unwrap();
    corpus.add("session", &[&[0], first.as_slice()].concat());
    let open = Envelope::Open(first).encode();
    corpus.add("session", &Output::default().byte(4).number(1).chunk(&open).bytes());
    for mode in 0..4 {
        let place = Output::default().byte(mode).byte(2).chunk(b"default/ocr");
        corpus.add("sealed", &[place.number(3).byte(8).bytes(), vec![7; 200]].concat());
    }
}

fn secrets(corpus: &Corpus) {
    let item = ConfigItem { data: [("ocr.toml".to_owned(), ByteBuf::from(*b"a = 1"))].into() };
    corpus.add("secret", &[&[0], encoded(&item).as_slice()].concat());
    let data = SecretData::from([("token".to_owned(), SecretBytes::new(b"hunter2".to_vec()))]);
    corpus.add("secret", &[&[1], encoded(&data).as_slice()].concat());
    let (uid, version) = ("1".to_owned(), ByteBuf::from(*b"12345678"));
    let sealed = SecretItem { uid, version, sealed: ByteBuf::from([7; 64]) };
    corpus.add("secret", &[&[2], encoded(&sealed).as_slice()].concat());
    for bit in [3, 8] {
        let seed = Output::default().byte(3).number(40).byte(bit).chunk(b"token").bytes();
        corpus.add("secret", &[seed, b"hunter2".to_vec()].concat());
    }
}

fn certificates(corpus: &Corpus) {
    let now = UnixMs(1_800_000_000_000);
    let authority = CertificateAuthority::create("fuzzing", now).unwrap();
    let key = NodeKey::generate().unwrap();
    let request = key.request(&node(), &node_key().public()).unwrap();
    let issued = authority.sign_request(&request, now, 30, 7).unwrap();
    let leaf = certificate_der(&issued.certificate_pem).unwrap();
    let root = authority.certificate_der().to_vec();
    corpus.add("certificate", &[&[0], request.as_bytes()].concat());
    corpus.add("certificate", &[&[1], request_der(&request).unwrap().as_slice()].concat());
    corpus.add("certificate", &[&[2], leaf.as_slice()].concat());
    corpus.add("certificate", &[&[2], root.as_slice()].concat());
    let both = Output::default().byte(3).chunk(&leaf).bytes();
    corpus.add("certificate", &[both, root.clone()].concat());
    let enrollment = Enrollment {
        version: 1,
        node: node(),
        certificate_pem: issued.certificate_pem,
        authority_pem: authority.certificate_pem().to_owned(),
        hub_session_key: hub_key().public(),
        hub_signing_key: signing_key().verifying(),
        broker: "mqtts://[2001:db8::1]:8883".to_owned(),
        broker_name: "hub.example".to_owned(),
    };
    corpus.add("enrollment", &[&[0], enrollment.to_text().as_bytes()].concat());
    let parts = Output::default().byte(1).chunk(&leaf).chunk(&root);
    let parts = parts.chunk(b"mqtts://hub.example:8883").chunk(b"hub.example");
    corpus.add("enrollment", &parts.bytes());
}

fn files(corpus: &Corpus) {
    corpus.add("agent_config", AGENT.as_bytes());
    corpus.add("hub_config", HUB.as_bytes());
    for manifest in [CLASSIFIER, SHARED_GPU, EDGE_NODE] {
        let lines = manifest.lines().filter(|line| !line.trim_start().starts_with('#'));
        corpus.add("manifests", lines.collect::<Vec<_>>().join("\n").as_bytes());
    }
    let (deep, wide) = ("[".repeat(2000), format!("a: &a [x]\nb: {}", "*a ".repeat(500)));
    let laughs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                  c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                  e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    for hostile in [deep.as_str(), &wide, laughs, "a: &a [*a]", "? {a: b}\n: - c", "<<: *x"] {
        corpus.add("manifests", hostile.as_bytes());
    }
    for (target, lines) in [("shim", SHIM), ("cri", CRI)] {
        for (kind, line) in lines.lines().filter_map(|line| line.split_once(' ')) {
            let ended = if target == "shim" && kind < "3" { "\n" } else { "" };
            let seed = [&[kind.parse().unwrap()], line.as_bytes(), ended.as_bytes()].concat();
            corpus.add(target, &seed);
        }
    }
    NAMES.lines().for_each(|line| corpus.add("names", line.as_bytes()));
    corpus.add("names", hub_key().public().to_string().as_bytes());
    let slot = |output: Output, sequence: u64| {
        let numbers = [sequence, 5, 3, 7, 1_700_000_000_000];
        let numbers = numbers.iter().flat_map(|number| number.to_be_bytes());
        output.byte(1).chunk(&[b"hl-ledg1".to_vec(), numbers.collect()].concat())
    };
    corpus.add("ledger", &slot(slot(Output::default(), 8), 9).bytes());
    corpus
        .add("ledger", &slot(Output::default().byte(0).chunk(b"hl-ledg1"), 9).number(5000).bytes());
}
