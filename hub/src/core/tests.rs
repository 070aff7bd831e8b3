//! The hub's core against one node: a real session, a store in memory, no sockets.

mod attached;
mod departures;
mod greetings;
mod placement;
pub(crate) mod reports;
mod rollouts;
mod sinks;
mod telemetry;
mod timers;

use super::*;
use shared::model::UnixMs;
use shared::ports::{KeyValue, Write, WriteBatch};
use shared::sync::{AgentSession, CallEnded, MapContent, Outgoing};
use shared::wire::{
    CallMethod, CallOutcome, CallResponse, Digest, Hello, HelloReply, LogAck, LogBatch, LogId,
    MapHeader, MapName, MapPosition, MapRefusal, RefusalReason, Stream, Version,
    desired_header_context,
};

const SIGNING_SEED: [u8; 32] = [1; 32];
const SESSION_KEY: [u8; 32] = [2; 32];
const NODE_KEY: [u8; 32] = [3; 32];

/// A store in memory that can be told to be full.
#[derive(Default)]
struct Memory {
    values: BTreeMap<(Tree, Vec<u8>), Vec<u8>>,
    full: bool,
}

impl Store for Memory {
    fn read(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.values.get(&(tree, key.to_vec())).cloned())
    }

    fn scan(&self, tree: Tree, _: &[u8], count_max: usize) -> Result<Vec<KeyValue>, StoreError> {
        let of_tree = self.values.iter().filter(|((of, _), _)| *of == tree);
        let pairs = of_tree.map(|((_, key), value)| (key.clone(), value.clone()));
        Ok(pairs.take(count_max).collect())
    }

    fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        if self.full {
            return Err(StoreError { attempted: "commit", source: "no space left".into() });
        }
        for write in &batch.writes {
            match write.clone() {
                Write::Put { tree, key, value } => drop(self.values.insert((tree, key), value)),
                Write::Delete { tree, key } => drop(self.values.remove(&(tree, key))),
            }
        }
        Ok(())
    }

    fn damaged_records(&self) -> u64 {
        0
    }
}

/// What the hub did, in order.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Persisted,
    Sent(Message),
    Answered,
    Admitted(String),
    Expelled,
    CallEnded(CallEnded),
    Delivered(Delivery),
}

/// A hub with its store, and one node with its session.
struct World {
    hub: HubCore,
    store: Memory,
    session: AgentSession,
    now: Now,
    /// Deliveries that no test has answered yet.
    tickets: Vec<u64>,
    /// What became of records, since the world began.
    settled: Vec<Settlement>,
    sinks: ConfiguredSinks,
}

fn node() -> NodeId {
    NodeId::new("mast-17").unwrap()
}

fn node_key() -> SessionPrivateKey {
    SessionPrivateKey::from_bytes(NODE_KEY)
}

fn record(serial: &str) -> NodeRecord {
    NodeRecord::new(node_key().public(), serial.to_owned(), UnixMs(0))
}

fn hub_on(store: &Memory, now: Now) -> HubCore {
    let session = SessionPrivateKey::from_bytes(SESSION_KEY);
    let keys = HubKeys { session, signing: SigningKey::generate(SIGNING_SEED) };
    HubCore::new(keys, [9; 32], read_stored_state(store).unwrap(), now)
}

fn new_session() -> AgentSession {
    let hub = SessionPrivateKey::from_bytes(SESSION_KEY).public();
    AgentSession::new(node(), node_key(), hub, [4; 32])
}

impl World {
    /// A hub that knows its node and has not read manifests.
    fn without_manifests() -> Self {
        Self::without_manifests_with(ConfiguredSinks::default())
    }

    fn without_manifests_with(sinks: ConfiguredSinks) -> Self {
        let (store, now) = (Memory::default(), Now::default());
        let hub = hub_on(&store, now).with_sinks(sinks.clone());
        let (session, tickets, settled) = (new_session(), vec![], vec![]);
        let mut world = Self { hub, store, session, now, tickets, settled, sinks };
        world.run();
        world.handle(Event::Enrolled { node: node(), record: record("1") });
        world
    }

    fn new() -> Self {
        let mut world = Self::without_manifests();
        world.handle(Event::Manifests(Manifests::default()));
        world
    }

    /// The hub is killed and starts again.
    fn restart(&mut self) -> Vec<Step> {
        self.hub = hub_on(&self.store, self.now).with_sinks(self.sinks.clone());
        self.tickets.clear();
        self.run()
    }

    /// Performs what is due until nothing is, or for a second.
    fn run(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let end = self.now.monotonic.plus_ms(1_000);
        loop {
            self.perform(&mut steps);
            match self.hub.poll_timeout().filter(|due| *due < end) {
                Some(due) => self.now.monotonic = due.max(self.now.monotonic),
                None => return steps,
            }
            self.hub.handle_timeout(self.now);
        }
    }

    fn perform(&mut self, steps: &mut Vec<Step>) {
        while let Some(effect) = self.hub.poll_effect() {
            match effect {
                Effect::Persist(batch) => {
                    let event = match self.store.commit(&batch) {
                        Ok(()) => {
                            steps.push(Step::Persisted);
                            Event::Persisted
                        }
                        Err(error) => Event::PersistFailed { batch, error: error.to_string() },
                    };
                    self.hub.handle_event(event, self.now);
                }
                Effect::Send { payload, .. } => {
                    let opened = self.session.handle_payload(&payload).unwrap();
                    steps.push(opened.map_or(Step::Answered, Step::Sent));
                }
                Effect::Admit { certificate_serial, .. } => {
                    steps.push(Step::Admitted(certificate_serial));
                }
                Effect::Share(_) => unreachable!("there is one hub"),
                Effect::Expel { .. } => steps.push(Step::Expelled),
                Effect::EndCall(ended) => steps.push(Step::CallEnded(ended)),
                Effect::Settled { settlement, .. } => self.settled.push(settlement),
                Effect::Deliver { ticket, delivery } => {
                    self.tickets.push(ticket);
                    steps.push(Step::Delivered(delivery));
                }
            }
        }
    }

    fn handle(&mut self, event: Event) -> Vec<Step> {
        self.hub.handle_event(event, self.now);
        self.run()
    }

    /// The node sends one message of its session.
    fn tell(&mut self, message: &Message) -> Vec<Step> {
        let payload = self.session.seal(message).unwrap();
        self.handle(Event::Payload { node: node(), payload })
    }

    /// The node opens a session anew and greets.
    fn greet(&mut self, desired: Option<Vec<u8>>) -> Vec<Step> {
        self.open_session();
        self.tell(&hello(desired))
    }

    /// The node opens a session anew, and its greeting is due.
    fn open_session(&mut self) {
        self.session = new_session();
        self.session.handle_link_up();
        self.handle(Event::Connected { node: node() });
        let Some(Outgoing::Payload(payload)) =
            self.session.poll_outgoing(self.now.monotonic).unwrap()
        else {
            panic!("the node opens no session");
        };
        self.handle(Event::Payload { node: node(), payload });
        let greeting = self.session.poll_outgoing(self.now.monotonic).unwrap();
        assert_eq!(greeting, Some(Outgoing::Introduction));
    }
}

fn hello(desired: Option<Vec<u8>>) -> Message {
    let content = MapContent::default();
    Message::Hello(Hello {
        desired: desired.map(Into::into),
        reported: MapPosition { version: Version::default(), digest: content.digest() },
        incarnation: 1,
        oldest_incarnation: 1,
        agent_version: "0".to_owned(),
        clock: None,
        earlier_clocks: vec![],
    })
}

/// Manifests with one workload, `default/ocr`, placed as `placement` says.
fn manifests(placement: &str) -> Manifests {
    let text = format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata:
  name: ocr
  namespace: default
spec:
  placement:
    {placement}
  template:
    spec:
      containers:
        - name: server
          command: [\"ocr\"]
"
    );
    crate::manifests::parse_documents("ocr.yaml", &text).unwrap()
}

fn reply_in(steps: &[Step]) -> Option<&HelloReply> {
    steps.iter().find_map(|step| match step {
        Step::Sent(Message::HelloReply(reply)) => Some(reply),
        _ => None,
    })
}

fn position_in(reply: &HelloReply) -> MapPosition {
    let key = SigningKey::generate(SIGNING_SEED).verifying();
    let payload = key.open(&reply.desired, &desired_header_context(&node())).unwrap();
    decode::<MapHeader>("header", &payload, 1024).unwrap().position
}

fn signed_header(version: Version) -> Vec<u8> {
    let position = MapPosition { version, digest: Digest::of(b"another content") };
    let header = encode("header", &MapHeader { position, issued_at_ms: 0 }).unwrap();
    let context = desired_header_context(&node());
    SigningKey::generate(SIGNING_SEED).sign(&header, &context).unwrap()
}

fn events(first: u64, count: usize) -> Message {
    let log = LogId { incarnation: 1, stream: Stream::Events };
    let records = vec![vec![0xff].into(); count];
    Message::LogBatch(LogBatch { log, oldest: 1, first, records })
}

fn acked(steps: &[Step]) -> Vec<u64> {
    let watermark = |step: &Step| match step {
        Step::Sent(Message::LogAck(LogAck { watermark, .. })) => Some(*watermark),
        _ => None,
    };
    steps.iter().filter_map(watermark).collect()
}

#[test]
fn a_greeting_is_answered_with_the_signed_header_of_the_present_term() {
    let mut world = World::new();
    let steps = world.greet(None);
    let position = position_in(reply_in(&steps).expect("no reply"));
    assert_eq!(position.version.term, world.hub.view().term);
    assert_eq!(world.hub.view().nodes_online, 1);
}

#[test]
fn each_start_takes_a_greater_term_and_makes_it_durable_before_anything_is_sent() {
    let mut world = World::new();
    let first = world.hub.view().term;
    world.store.full = true;
    world.restart();
    world.handle(Event::Manifests(Manifests::default()));
    assert!(reply_in(&world.greet(None)).is_none(), "sent with a term that is not durable");
    world.store.full = false;
    world.now.monotonic = world.now.monotonic.plus_ms(5_000);
    world.hub.handle_timeout(world.now);
    let steps = world.run();
    assert_eq!(steps.first(), Some(&Step::Persisted));
    assert!(position_in(reply_in(&steps).unwrap()).version.term > first);
}

#[test]
fn nobody_is_told_to_run_nothing_before_the_first_manifests() {
    let mut world = World::without_manifests();
    let steps = world.greet(None);
    assert!(!steps.iter().any(|step| matches!(step, Step::Sent(_))), "{steps:?}");
    assert!(!world.hub.view().has_manifests);
    // What changes meanwhile (another node enrols, the hub must rise above a term) publishes nothing.
    let another = NodeId::new("mast-18").unwrap();
    world.handle(Event::Enrolled { node: another, record: record("2") });
    let steps = world.tell(&hello(Some(signed_header(Version { term: 70, generation: 1 }))));
    assert!(!steps.iter().any(|step| matches!(step, Step::Sent(_))), "{steps:?}");
    let steps = world.handle(Event::Manifests(Manifests::default()));
    assert_eq!(position_in(reply_in(&steps).unwrap()).version.term, 71);
}

#[test]
fn a_node_that_shows_a_greater_term_makes_the_hub_rise_above_it() {
    let mut world = World::new();
    let steps = world.greet(Some(signed_header(Version { term: 41, generation: 7 })));
    assert_eq!(world.hub.view().term, 42);
    let reply = steps.iter().position(|step| matches!(step, Step::Sent(_))).unwrap();
    assert!(steps[..reply].contains(&Step::Persisted), "the term was sent before it was durable");
    assert_eq!(position_in(reply_in(&steps).unwrap()).version.term, 42);
    world.restart();
    assert_eq!(world.hub.view().term, 43);
}

#[test]
fn a_header_that_another_signed_raises_no_term() {
    let mut world = World::new();
    let position =
        MapPosition { version: Version { term: 41, generation: 1 }, digest: Digest::of(b"x") };
    let header = encode("header", &MapHeader { position, issued_at_ms: 0 }).unwrap();
    let forged = SigningKey::generate([66; 32]).sign(&header, &desired_header_context(&node()));
    let before = world.hub.view().term;
    world.greet(Some(forged.unwrap()));
    assert_eq!(world.hub.view().term, before);
}

#[test]
fn a_refusal_as_stale_raises_the_term_above_the_one_that_is_shown() {
    let mut world = World::new();
    world.greet(None);
    let accepted = signed_header(Version { term: 90, generation: 1 });
    world.tell(&Message::MapRefusal(MapRefusal {
        map: MapName::Desired,
        version: Version { term: 1, generation: 1 },
        reason: RefusalReason::Stale,
        accepted: Some(accepted.into()),
    }));
    assert_eq!(world.hub.view().term, 91);
}

/// Found by the simulated world: the node refused for ever, and the hub signed under the same term.
#[test]
fn a_node_that_lost_its_store_and_can_t_show_the_term_it_keeps_to_is_believed_once() {
    let mut world = World::new();
    world.greet(None);
    let refuse = |world: &mut World, term| {
        let version = Version { term, generation: 1 };
        let (map, reason) = (MapName::Desired, RefusalReason::Stale);
        let refusal = MapRefusal { map, version, reason, accepted: None };
        world.tell(&Message::MapRefusal(refusal));
        world.hub.view().term
    };
    let own = world.hub.view().term;
    assert_eq!(refuse(&mut world, own + 5), own, "it refused what this start did not sign");
    let risen = refuse(&mut world, own);
    assert!(risen > world.now.wall.0 / 60_000 + 1_000, "{risen}");
    assert_eq!(refuse(&mut world, risen), risen);
}

#[test]
fn records_are_acknowledged_after_their_commit_and_once_each() {
    let mut world = World::new();
    world.greet(None);
    let steps = world.tell(&events(1, 3));
    assert_eq!(steps.first(), Some(&Step::Persisted), "{steps:?}");
    assert_eq!(acked(&steps), [3]);
    let undecodable = |world: &World| world.hub.record(&node()).unwrap().records_undecodable;
    assert_eq!(undecodable(&world), 3);
    assert_eq!(acked(&world.tell(&events(2, 3))), [4]);
    assert_eq!(undecodable(&world), 4, "a record was taken twice");
}

#[test]
fn nothing_is_acknowledged_while_the_store_is_full_and_all_of_it_afterwards() {
    let mut world = World::new();
    world.greet(None);
    world.store.full = true;
    assert!(acked(&world.tell(&events(1, 3))).is_empty());
    assert!(acked(&world.tell(&events(1, 3))).is_empty(), "a repeat was acknowledged");
    assert!(world.hub.view().store_error.is_some());
    world.store.full = false;
    world.now.monotonic = world.now.monotonic.plus_ms(5_000);
    world.hub.handle_timeout(world.now);
    assert!(acked(&world.run()).contains(&3));
    assert_eq!(world.hub.view().store_error, None);
}

#[test]
fn watermarks_survive_a_restart() {
    let mut world = World::new();
    world.greet(None);
    world.tell(&events(1, 5));
    world.restart();
    world.handle(Event::Manifests(Manifests::default()));
    let steps = world.greet(None);
    let watermarks = &reply_in(&steps).unwrap().watermarks;
    assert_eq!(watermarks.iter().map(|ack| ack.watermark).collect::<Vec<_>>(), [5]);
    assert!(acked(&world.tell(&events(1, 5))).iter().all(|watermark| *watermark == 5));
    assert_eq!(world.hub.record(&node()).unwrap().records_undecodable, 5);
}

#[test]
fn an_enrolment_is_durable_with_the_next_poll_and_admitted_again_after_a_restart() {
    let mut world = World::new();
    let another = NodeId::new("mast-18").unwrap();
    let event = Event::Enrolled { node: another.clone(), record: record("1f") };
    world.hub.handle_event(event, world.now);
    let mut steps = Vec::new();
    world.perform(&mut steps);
    assert_eq!(steps, [Step::Admitted("1f".to_owned()), Step::Persisted]);
    let steps = world.restart();
    assert!(steps.contains(&Step::Admitted("1f".to_owned())));
}

#[test]
fn a_certificate_that_is_issued_again_forgets_nothing_and_locks_out_nobody() {
    let mut world = World::new();
    world.greet(None);
    world.tell(&events(1, 2));
    let before = world.hub.record(&node()).unwrap().clone();
    let steps = world.handle(Event::Enrolled { node: node(), record: record("77") });
    assert!(!steps.iter().any(|step| matches!(step, Step::Admitted(_))), "{steps:?}");
    assert_eq!(world.hub.record(&node()), Some(&before));
    assert_eq!(world.hub.view().nodes_online, 1);
}

#[test]
fn a_revoked_node_is_thrown_out_for_good_and_may_enrol_anew() {
    let mut world = World::new();
    world.greet(None);
    assert!(world.handle(Event::Revoked { node: node() }).contains(&Step::Expelled));
    let payload = world.session.seal(&events(1, 1)).unwrap();
    assert!(world.handle(Event::Payload { node: node(), payload }).is_empty());
    let steps = world.restart();
    assert!(!steps.iter().any(|step| matches!(step, Step::Admitted(_))), "{steps:?}");
    assert_eq!(world.hub.node_view(&node()).unwrap().state, "Revoked");
    let steps = world.handle(Event::Enrolled { node: node(), record: record("2") });
    assert!(steps.contains(&Step::Admitted("2".to_owned())));
}

#[test]
fn a_call_ends_by_its_answer_its_deadline_or_the_end_of_the_link() {
    let mut world = World::new();
    let call = |ticket| Event::Call {
        ticket,
        node: node(),
        method: CallMethod::TailLog { pod: "default/ocr-0".parse().unwrap(), lines: 3 },
        timeout_ms: 500,
    };
    let failed = |steps: &[Step], words: &str| {
        steps.iter().any(|step| {
            matches!(step, Step::CallEnded(CallEnded {
            outcome: CallOutcome::Failed { message }, ..
        }) if message.contains(words))
        })
    };
    assert!(failed(&world.handle(call(1)), "offline"));
    world.greet(None);
    world.hub.handle_event(call(2), world.now);
    let mut steps = Vec::new();
    world.perform(&mut steps);
    let Some(Step::Sent(Message::CallRequest(request))) = steps.last() else {
        panic!("no request: {steps:?}");
    };
    let outcome = CallOutcome::done(b"line".to_vec());
    let response = CallResponse { id: request.id, outcome: outcome.clone() };
    let steps = world.tell(&Message::CallResponse(response));
    assert!(steps.contains(&Step::CallEnded(CallEnded {
        ticket: 2,
        outcome,
        is_unanswered: false
    })));
    assert!(failed(&world.handle(call(3)), "in time"));
    world.hub.handle_event(call(4), world.now);
    assert!(failed(&world.handle(Event::Disconnected { node: node() }), "offline"));
}
