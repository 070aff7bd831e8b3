//! The agent's core on a store that an enemy filled, and against a hub that is one.

#![allow(clippy::expect_used, reason = "a failure is what fuzzing looks for")]

use crate::input::Input;
use crate::machines::{header, log_id, map_chunks, map_update};
use crate::store::Memory;
use crate::trust::{hub_key, node, node_key, prologue, sign_header, signing_key};
use edge_agent::core::{
    AgentCore, Capacity, CoreOptions, Effect, Event, LinkStatus, RecorderOptions, Reserved,
    Restored, read_stored_state,
};
use edge_agent::ports::{
    ContainerEvent, InstanceId, Observation, ObservedState, RuntimeEvent, StartRequest,
};
use serde_bytes::ByteBuf;
use shared::model::{ClockQuality, GpuInventory, MonotonicMs, Now, UnixMs};
use shared::ports::Store;
use shared::sync::{MapContent, OutboxQuota, read_log};
use shared::telemetry::{Sample, Series};
use shared::trust::session::{Responder, SealedSession};
use shared::wire::{
    CallOutcome, CallResponse, Digest, Envelope, HelloReply, LogAck, MapName, MapPosition, Message,
    RenewedHeader, Resumed, Version, decode, encode,
};

/// Events a step may cause before it is called endless.
const STEP_EFFECTS_MAX: usize = 20_000;

fn options(incarnation: u64) -> CoreOptions {
    CoreOptions {
        node: node(),
        agent_version: "fuzzed".to_owned(),
        incarnation,
        boot: 1,
        seed: [6; 32],
        session_key: node_key(),
        hub_session_key: hub_key().public(),
        hub_signing_key: signing_key().verifying(),
        capacity: Capacity {
            cpu_millicores: 4000,
            memory_bytes: 8 << 30,
            gpus: Some(GpuInventory::default()),
        },
        reserved: Reserved::default(),
        recorder: RecorderOptions { sample_interval_ms: 1_000, samples_per_batch: 2 },
        several_containers: true,
        quota: OutboxQuota {
            alarms_bytes: 64 << 10,
            events_bytes: 64 << 10,
            results_bytes: 64 << 10,
            telemetry_bytes: 64 << 10,
        },
    }
}

/// The agent on a hostile store: it starts, connects, lives for some seconds.
pub fn store(data: &[u8]) {
    let mut input = Input::new(data);
    let fence = Version { term: u64::from(input.byte() & 3), generation: 1 };
    let store = Memory::filled_by(&mut input);
    let mut bench = Bench::new(store, fence);
    bench.tell(Event::LinkUp);
    bench.hub_answers();
    bench.wait(10_000);
    let _ = bench.core.status(LinkStatus::default());
}

/// The agent against a hostile hub that has the session's keys, and signs some of what it sends.
pub fn link(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bench = Bench::new(Memory::default(), Version::default());
    bench.tell(Event::LinkUp);
    while !input.is_empty() {
        bench.step(&mut input);
    }
    let _ = bench.core.status(LinkStatus::default());
}

/// An agent, and what the target holds of its hub.
struct Bench {
    core: AgentCore,
    store: Memory,
    session: Option<SealedSession>,
    now: MonotonicMs,
    incarnation: u64,
    accepted: Version,
    /// What the hub believes the agent's desired state is.
    desired: MapContent,
    started: Vec<StartRequest>,
    full: bool,
    /// From the ledger.
    link_budget: Vec<u8>,
}

impl Bench {
    fn new(store: Memory, fence: Version) -> Self {
        let now = MonotonicMs(1);
        let mut bench = Self {
            core: start(&store, Restored { fence, ..Restored::default() }, 1, now),
            store,
            session: None,
            now,
            incarnation: 1,
            accepted: fence,
            desired: MapContent::default(),
            started: vec![],
            full: false,
            link_budget: vec![],
        };
        bench.settle();
        bench
    }

    fn at(&self) -> Now {
        now(self.now)
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 13 {
            0 => self.tell(Event::Payload(input.chunk().to_vec())),
            1 => self.hub_says(input.chunk()),
            2 => self.reply_to_hello(input),
            3 => self.update(input),
            4 => {
                let ack = LogAck { log: log_id(input), watermark: input.number() };
                self.hub_sends(&Message::LogAck(ack));
            }
            5 => self.runtime_says(input),
            6 => self.full = !self.full,
            7 => self.restart(),
            8 => self.wait(input.number().min(20_000)),
            9 => self.tell(Event::LinkDown),
            10 => self.tell(Event::LinkUp),
            12 => self.reply_to_resume(input),
            _ => self.tell(Event::Flush),
        }
    }

    fn tell(&mut self, event: Event) {
        self.core.handle_event(event, self.at());
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
            self.core.handle_timeout(self.at());
            self.settle();
        }
        panic!("a timer is due for ever: {:?} at {:?}", self.core.poll_timeout(), self.now);
    }

    /// Does what the core asks for, as the shell does.
    fn settle(&mut self) {
        for _ in 0..STEP_EFFECTS_MAX {
            let Some(effect) = self.core.poll_effect() else { return };
            let answer = match effect {
                Effect::Persist(batch) if self.full => {
                    Some(Event::PersistFailed { batch, error: "no space".to_owned() })
                }
                Effect::Persist(batch) => {
                    self.store.commit(&batch).expect("memory takes it");
                    Some(Event::Persisted)
                }
                Effect::NoteAccepted(version) => {
                    assert!(version >= self.accepted, "{version} after {}", self.accepted);
                    self.accepted = version;
                    None
                }
                Effect::NoteLinkBudget(record) => {
                    self.link_budget = record;
                    None
                }
                Effect::Send(payload) => self.hub_receives(&payload).map(Event::Payload),
                Effect::ReadRecords(read) => {
                    let records = read_log(&self.store, &read).map_err(|error| error.to_string());
                    Some(Event::RecordsRead { read, records })
                }
                Effect::Sample => {
                    let at = UnixMs(self.now.0);
                    let values = [(Series::new("load"), 1.0)].into();
                    Some(Event::Sampled(Sample { at, values, ..Sample::default() }))
                }
                Effect::AnswerCall(request) => {
                    let outcome = CallOutcome::done(vec![]);
                    Some(Event::CallAnswered(CallResponse { id: request.id, outcome }))
                }
                Effect::Scrape(_) | Effect::AnswerPost { .. } | Effect::EndLocalCall { .. } => None,
                Effect::Start(request) => {
                    self.started.push(request);
                    None
                }
                Effect::StartContainer(request) => {
                    let StartRequest { pod, instance, container, .. } = request.start;
                    let event = ContainerEvent::Started { started_at: UnixMs(1) };
                    let container = container.name;
                    let event = RuntimeEvent::Container { pod, instance, container, event };
                    Some(Event::Runtime(event))
                }
                Effect::RemoveImage => {
                    Some(Event::Runtime(RuntimeEvent::ImageRemoved { image: Ok(None) }))
                }
                Effect::Stop { .. }
                | Effect::KeepImages(_)
                | Effect::StopContainer { .. }
                | Effect::Attach { .. }
                | Effect::Forget { .. }
                | Effect::Probe(_)
                | Effect::TrustTime(_) => None,
            };
            if let Some(event) = answer {
                self.core.handle_event(event, now(self.now));
            }
        }
        panic!("one event causes effects without end");
    }

    /// The genuine hub's part of a handshake; the rest it only opens.
    fn hub_receives(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        match Envelope::decode(payload).expect("the agent sends envelopes") {
            Envelope::Open(first) => {
                let accepted = Responder::accept(&hub_key(), &prologue(), [5; 32], &first);
                let (responder, _, _) = accepted.expect("a genuine handshake");
                let (session, reply) = responder.reply(&[]).expect("is answered");
                self.session = Some(session);
                Some(Envelope::Accept(reply).encode())
            }
            Envelope::Sealed { counter, ciphertext } => {
                let plaintext = self.session.as_mut()?.open(counter, &ciphertext).ok()?;
                let message = decode::<Message>("message", &plaintext, plaintext.len());
                message.expect("the agent sends messages");
                None
            }
            Envelope::Accept(_) | Envelope::UnknownSession => None,
        }
    }

    /// Seals whatever it is.
    fn hub_says(&mut self, plaintext: &[u8]) {
        let Some(session) = &mut self.session else { return };
        let Ok(sealed) = session.seal(plaintext) else { return };
        let (counter, ciphertext) = (sealed.counter, sealed.ciphertext);
        let payload = Envelope::Sealed { counter, ciphertext }.encode();
        self.tell(Event::Payload(payload));
    }

    fn hub_sends(&mut self, message: &Message) {
        self.hub_says(&encode("message", message).expect("it can be encoded"));
    }

    fn hub_answers(&mut self) {
        let header = header(&mut Input::new(&[1, 1, 1]), self.desired.digest());
        let desired = ByteBuf::from(sign_header(&header));
        self.hub_sends(&Message::HelloReply(HelloReply {
            desired,
            reported: None,
            watermarks: vec![],
        }));
    }

    fn reply_to_resume(&mut self, input: &mut Input<'_>) {
        let digest = if input.yes() { self.desired.digest() } else { Digest::default() };
        let desired = input.yes().then(|| ByteBuf::from(sign_header(&header(input, digest))));
        let reported =
            input.yes().then(|| Version { term: input.number(), generation: input.number() });
        let version =
            |input: &mut Input<'_>| Version { term: input.number(), generation: input.number() };
        let renewed = input.yes().then(|| RenewedHeader {
            version: version(input),
            issued_at_ms: input.number(),
            signature: ByteBuf::from(input.chunk().to_vec()),
        });
        let resumed = Resumed { desired, reported, watermarks: vec![], renewed };
        self.hub_sends(&Message::Resumed(resumed));
    }

    fn reply_to_hello(&mut self, input: &mut Input<'_>) {
        let known = input.yes();
        let digest = if known { self.desired.digest() } else { Digest::of(input.chunk()) };
        let desired = ByteBuf::from(sign_header(&header(input, digest)));
        let reported = input.yes().then(|| {
            let digest = Digest::of(input.chunk());
            let version = Version { term: input.number(), generation: input.number() };
            MapPosition { version, digest }
        });
        let watermark =
            |input: &mut Input<'_>| LogAck { log: log_id(input), watermark: input.number() };
        let watermarks = (0..input.byte() % 4).map(|_| watermark(input)).collect();
        self.hub_sends(&Message::HelloReply(HelloReply { desired, reported, watermarks }));
    }

    /// Desired state that the hub has signed, in parts.
    fn update(&mut self, input: &mut Input<'_>) {
        let (body, digest) = map_update(input, &self.desired);
        let header = header(input, digest);
        let signed = sign_header(&header);
        let bytes = encode("map update", &body).expect("it can be encoded");
        for chunk in map_chunks(MapName::Desired, &signed, &bytes, 4096) {
            self.hub_sends(&Message::MapChunk(chunk));
        }
        if self.accepted == header.position.version
            && let Ok(content) = self.desired.after(&body)
        {
            self.desired = content;
        }
    }

    fn runtime_says(&mut self, input: &mut Input<'_>) {
        let at = usize::from(input.byte());
        let Some(start) = self.started.iter().rev().nth(at) else { return };
        let (pod, instance) = (start.pod.clone(), InstanceId(start.instance.0));
        let event = match input.byte() % 3 {
            0 => RuntimeEvent::Started { pod, instance, started_at: UnixMs(input.number()) },
            1 => RuntimeEvent::Exited { pod, instance, code: i32::from(input.byte()) },
            _ => RuntimeEvent::StartFailed {
                pod,
                instance,
                reason: "Fuzzed".to_owned(),
                message: input.text(),
            },
        };
        self.tell(Event::Runtime(event));
    }

    /// The process is killed; what it started goes on to run.
    fn restart(&mut self) {
        self.incarnation += 1;
        let observe = |start: &StartRequest| Observation {
            pod: start.pod.clone(),
            instance: start.instance,
            revision: start.revision,
            state: ObservedState::Running { started_at: UnixMs(1) },
            placement: Default::default(),
            taken: None,
            parameters_id: start.parameters_id,
            containers: vec![],
            pod_ip: None,
        };
        let observations = self.started.iter().rev().take(4).map(observe).collect();
        self.session = None;
        let (fence, link_budget) = (self.accepted, self.link_budget.clone());
        let restored = Restored { fence, link_budget, observations, ..Restored::default() };
        self.core = start(&self.store, restored, self.incarnation, self.now);
        self.settle();
    }
}

fn now(monotonic: MonotonicMs) -> Now {
    let wall = UnixMs(1_700_000_000_000 + monotonic.0);
    Now { monotonic, wall, quality: ClockQuality::Synchronised }
}

fn start(store: &Memory, beside: Restored, incarnation: u64, at: MonotonicMs) -> AgentCore {
    let stored = read_stored_state(store).expect("memory can be read");
    AgentCore::new(options(incarnation), Restored { stored, ..beside }, now(at))
}
