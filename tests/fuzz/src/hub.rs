//! The hub's core on a store that an enemy filled, and against a node that is one.

#![allow(clippy::expect_used, reason = "a failure is what fuzzing looks for")]

use crate::input::Input;
use crate::machines::{header, log_batch, map_chunks, map_update};
use crate::store::Memory;
use crate::trust::{hub_key, node, node_key, prologue, signing_key};
use ::hub::core::{
    ConfiguredSinks, Effect, Event, HubCore, HubKeys, NodeRecord, read_stored_state,
};
use ::hub::manifests::{Manifests, parse_documents};
use serde_bytes::ByteBuf;
use shared::model::{ClockQuality, DEFAULT_SINK, MonotonicMs, Now, SinkId, UnixMs};
use shared::ports::Store;
use shared::sync::MapContent;
use shared::trust::session::{Initiator, SealedSession};
use shared::wire::{
    CallMethod, CallOutcome, CallResponse, Digest, Envelope, Hello, Introduction, LogBatch, LogId,
    MapAck, MapName, MapPosition, MapRefusal, Message, RefusalReason, Resume, ShownContent, Stream,
    Version, decode, encode,
};
use std::sync::OnceLock;

/// Effects a step may cause before it is called endless.
const STEP_EFFECTS_MAX: usize = 20_000;

/// Starts of an agent in one step of many: as a crash loop in a long outage makes them.
const MANY_STARTS: u64 = 32;

fn manifests() -> Manifests {
    static READ: OnceLock<Manifests> = OnceLock::new();
    let text = include_str!("../../../deploy/examples/classifier.yaml");
    READ.get_or_init(|| parse_documents("classifier.yaml", text).expect("it is valid")).clone()
}

/// The hub on a hostile store: it starts, reads manifests, lives for a minute, answers questions.
pub fn store(data: &[u8]) {
    let mut bench = Bench::new(Memory::filled_by(&mut Input::new(data)));
    bench.tell(Event::Manifests(manifests()));
    bench.tell(Event::Connected { node: node() });
    bench.handshake();
    bench.wait(60_000);
    bench.look();
}

/// The hub against a hostile node that is enrolled.
pub fn link(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bench = Bench::new(Memory::default());
    let record = NodeRecord::new(node_key().public(), "1".to_owned(), UnixMs(0));
    bench.tell(Event::Enrolled { node: node(), record });
    bench.tell(Event::Manifests(manifests()));
    bench.handshake();
    while !input.is_empty() {
        bench.step(&mut input);
    }
    bench.look();
    bench.restart();
    assert!(bench.core.record(&node()).is_some(), "what the hub stored of a node can't be read");
}

/// A hub, and what the target holds of its node.
struct Bench {
    core: HubCore,
    store: Memory,
    session: Option<SealedSession>,
    accept: Option<Vec<u8>>,
    /// The header of desired state that the hub showed last, signed.
    shown: Option<ByteBuf>,
    reported: MapContent,
    handshakes: u8,
    now: MonotonicMs,
}

impl Bench {
    fn new(store: Memory) -> Self {
        let now = MonotonicMs(1);
        let mut bench = Self {
            core: start(&store, now),
            store,
            session: None,
            accept: None,
            shown: None,
            reported: MapContent::default(),
            handshakes: 0,
            now,
        };
        bench.settle();
        bench.wait(1_000);
        bench
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 15 {
            0 => self.node_publishes(input.chunk().to_vec()),
            1 => self.node_says(input.chunk()),
            2 => self.greet(input),
            3 => {
                let batch = log_batch(input);
                self.node_sends(&Message::LogBatch(batch));
            }
            4 => self.report(input),
            5 => self.acknowledge(input),
            6 => self.refuse(input),
            7 => self.call(input),
            8 => self.wait(input.number().min(20_000)),
            9 => self.tell(Event::Disconnected { node: node() }),
            10 => self.restart(),
            11 => self.handshake(),
            12 => self.many_starts(input.number()),
            14 => {
                let version = |input: &mut Input<'_>| Version {
                    term: input.number(),
                    generation: input.number(),
                };
                let desired = input.yes().then(|| version(input));
                let awaits_watermarks = input.yes();
                self.node_sends(&Message::Resume(Resume { desired, awaits_watermarks }));
                if input.yes() {
                    self.introduce(input);
                }
            }
            _ => self.tell(Event::Connected { node: node() }),
        }
    }

    fn introduce(&mut self, input: &mut Input<'_>) {
        let shown = |input: &mut Input<'_>| ShownContent {
            version: Version { term: input.number(), generation: input.number() },
            digest: Digest::of(input.chunk()).into(),
        };
        self.node_sends(&Message::Introduction(Introduction {
            desired: input.yes().then(|| shown(input)),
            incarnation: input.number(),
            oldest_incarnation: input.number(),
            agent_version: input.text(),
            clock: None,
            earlier_clocks: vec![],
        }));
    }

    fn tell(&mut self, event: Event) {
        self.core.handle_event(event, now(self.now));
        self.settle();
    }

    fn wait(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        for _ in 0..STEP_EFFECTS_MAX {
            let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(due);
            self.core.handle_timeout(now(self.now));
            self.settle();
        }
        panic!("a timer is due for ever: {:?} at {:?}", self.core.poll_timeout(), self.now);
    }

    fn settle(&mut self) {
        for _ in 0..STEP_EFFECTS_MAX {
            match self.core.poll_effect() {
                None => return,
                Some(Effect::Persist(batch)) => {
                    self.store.commit(&batch).expect("memory takes it");
                    self.core.handle_event(Event::Persisted, now(self.now));
                }
                Some(Effect::Send { payload, .. }) => self.node_receives(&payload),
                Some(Effect::Deliver { ticket, .. }) => {
                    let error = "its queue is gone".to_owned();
                    let event = match ticket % 4 {
                        3 => Event::DeliveryFailed { ticket, error },
                        _ => Event::Delivered { ticket },
                    };
                    self.core.handle_event(event, now(self.now));
                }
                Some(
                    Effect::Share(_)
                    | Effect::Admit { .. }
                    | Effect::Expel { .. }
                    | Effect::EndCall(_)
                    | Effect::Settled { .. },
                ) => {}
            }
        }
        panic!("one event causes effects without end");
    }

    /// Everything that the API shows.
    fn look(&self) {
        let _ = (self.core.view(), self.core.node_view(&node()), self.core.desired_digest(&node()));
        assert!(self.core.node_summaries().count() <= 1 << 16);
        let _ = (self.core.workload_views().count(), self.core.latest_samples().count());
    }

    fn restart(&mut self) {
        self.wait(1_000);
        self.core = start(&self.store, self.now);
        self.session = None;
        self.settle();
        self.tell(Event::Manifests(manifests()));
        self.wait(1_000);
    }

    /// A genuine handshake; each has other keys.
    fn handshake(&mut self) {
        self.handshakes = self.handshakes.wrapping_add(1);
        let seed = [self.handshakes; 32];
        let begun = Initiator::start(&node_key(), &hub_key().public(), &prologue(), seed, &[]);
        let (mut initiator, first) = begun.expect("a handshake can be begun");
        self.accept = None;
        self.node_publishes(Envelope::Open(first).encode());
        let Some(reply) = self.accept.take() else { return };
        self.session = initiator.finish(&reply).ok().map(|(session, _)| session);
    }

    fn node_receives(&mut self, payload: &[u8]) {
        match Envelope::decode(payload).expect("the hub sends envelopes") {
            Envelope::Accept(reply) => self.accept = Some(reply),
            Envelope::Sealed { counter, ciphertext } => {
                let Some(session) = &mut self.session else { return };
                let Ok(plaintext) = session.open(counter, &ciphertext) else { return };
                let message = decode::<Message>("message", &plaintext, plaintext.len());
                if let Message::HelloReply(reply) = message.expect("the hub sends messages") {
                    self.shown = Some(reply.desired);
                }
            }
            Envelope::Open(_) | Envelope::UnknownSession => {}
        }
    }

    fn node_publishes(&mut self, payload: Vec<u8>) {
        self.tell(Event::Payload { node: node(), payload });
    }

    /// Seals whatever it is.
    fn node_says(&mut self, plaintext: &[u8]) {
        let Some(session) = &mut self.session else { return };
        let Ok(sealed) = session.seal(plaintext) else { return };
        let (counter, ciphertext) = (sealed.counter, sealed.ciphertext);
        let payload = Envelope::Sealed { counter, ciphertext }.encode();
        self.node_publishes(payload);
    }

    fn node_sends(&mut self, message: &Message) {
        self.node_says(&encode("message", message).expect("it can be encoded"));
    }

    fn greet(&mut self, input: &mut Input<'_>) {
        let desired = match input.byte() % 3 {
            0 => None,
            1 => self.shown.clone(),
            _ => Some(ByteBuf::from(input.chunk().to_vec())),
        };
        let version = Version { term: input.number(), generation: input.number() };
        let hello = Hello {
            desired,
            reported: MapPosition { version, digest: self.reported.digest() },
            incarnation: input.number(),
            oldest_incarnation: input.number(),
            agent_version: input.text(),
            clock: None,
            earlier_clocks: vec![],
        };
        self.node_sends(&Message::Hello(hello));
    }

    /// Reported state, in parts.
    fn report(&mut self, input: &mut Input<'_>) {
        let (body, digest) = map_update(input, &self.reported);
        let header = encode("header", &header(input, digest)).expect("it can be encoded");
        let bytes = encode("map update", &body).expect("it can be encoded");
        for chunk in map_chunks(MapName::Reported, &header, &bytes, 4096) {
            self.node_sends(&Message::MapChunk(chunk));
        }
        self.reported = self.reported.after(&body).unwrap_or_else(|_| self.reported.clone());
    }

    fn acknowledge(&mut self, input: &mut Input<'_>) {
        let version = Version { term: input.number(), generation: input.number() };
        let map = MapName::Desired;
        let ack = if input.yes() {
            MapAck::Partial { map, version, next: input.small(), window: None }
        } else {
            MapAck::Applied { map, version }
        };
        self.node_sends(&Message::MapAck(ack));
    }

    fn refuse(&mut self, input: &mut Input<'_>) {
        let reasons = [
            RefusalReason::Stale,
            RefusalReason::Conflict,
            RefusalReason::BaseMismatch,
            RefusalReason::Malformed,
            RefusalReason::Unavailable,
        ];
        let reason = reasons.get(usize::from(input.byte()) % 5).copied();
        let version = Version { term: input.number(), generation: input.number() };
        let accepted = self.shown.clone().filter(|_| input.yes());
        let reason = reason.unwrap_or(RefusalReason::Stale);
        let map = MapName::Desired;
        self.node_sends(&Message::MapRefusal(MapRefusal { map, version, reason, accepted }));
    }

    /// A question of the hub, and an answer that may be another's.
    fn call(&mut self, input: &mut Input<'_>) {
        if let Ok(pod) = input.text().parse() {
            let method = CallMethod::TailLog { pod, lines: input.small() };
            let timeout_ms = input.small();
            self.tell(Event::Call { ticket: input.number(), node: node(), method, timeout_ms });
        }
        let outcome = CallOutcome::Done { body: ByteBuf::from(input.chunk().to_vec()) };
        self.node_sends(&Message::CallResponse(CallResponse { id: input.number(), outcome }));
    }

    /// One record of each of many starts.
    fn many_starts(&mut self, first: u64) {
        for incarnation in first..first.saturating_add(MANY_STARTS) {
            let log = LogId { incarnation, stream: Stream::Events };
            let records = vec![ByteBuf::from(vec![0])];
            self.node_sends(&Message::LogBatch(LogBatch { log, oldest: 1, first: 1, records }));
        }
    }
}

fn now(monotonic: MonotonicMs) -> Now {
    let wall = UnixMs(1_700_000_000_000 + monotonic.0);
    Now { monotonic, wall, quality: ClockQuality::Synchronised }
}

fn start(store: &Memory, at: MonotonicMs) -> HubCore {
    let keys = HubKeys { session: hub_key(), signing: signing_key() };
    let stored = read_stored_state(store).expect("memory can be read");
    let sinks = ConfiguredSinks { telemetry: true, results: vec![SinkId::of(DEFAULT_SINK)] };
    HubCore::new(keys, [9; 32], stored, now(at)).with_sinks(sinks)
}
