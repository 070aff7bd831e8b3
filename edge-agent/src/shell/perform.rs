//! Performs one effect. The simulation compiles this same function, with ports in memory.

use crate::core::{Effect, Event};
use crate::ports::{Runtime, RuntimeEvent, ScrapeTarget};
use crate::results::PostOutcome;
use shared::in_words;
use shared::model::UnixMs;
use shared::ports::{StoreError, WriteBatch};
use shared::sync::LogRead;
use shared::telemetry::Sample;
use shared::wire::{CallOutcome, CallRequest, SequenceNumber, Version};

/// What the agent's effects need of the world.
pub trait AgentPorts {
    /// Makes a batch durable.
    ///
    /// # Errors
    /// When nothing of it is.
    fn persist(&mut self, batch: &WriteBatch) -> Result<(), StoreError>;
    /// Notes an accepted version beside the store. A failure is logged: the store has it too.
    fn note_accepted(&mut self, version: Version);
    /// Notes a [`shared::sync::StoredBudget`] beside the store. A failure is logged: what is spent from
    /// now on is forgotten if the agent ends before the next one is written.
    fn note_link_budget(&mut self, record: Vec<u8>);
    /// Publishes a payload. A failure is a lost packet.
    fn send(&mut self, payload: Vec<u8>);
    /// Runs pods.
    fn runtime(&mut self) -> &mut dyn Runtime;
    /// Records of the outbox.
    ///
    /// # Errors
    /// When the store can't be read.
    fn read_records(
        &mut self,
        read: &LogRead,
    ) -> Result<Vec<(SequenceNumber, Vec<u8>)>, StoreError>;
    /// Begins to answer a call; ends as [`Event::CallAnswered`].
    fn answer_call(&mut self, request: CallRequest);
    /// A call of somebody on this machine came to its end: whoever asked is told.
    fn end_local_call(&mut self, ticket: u64, outcome: CallOutcome);
    /// Takes a sample.
    fn sample(&mut self) -> Sample;
    /// Begins to read the metrics of pods; what comes of it is in the next sample.
    fn scrape(&mut self, targets: Vec<ScrapeTarget>);
    /// Answers a post.
    fn answer_post(&mut self, id: u64, outcome: PostOutcome);
    /// It is at least this late.
    fn trust_time(&mut self, time: UnixMs);
}

/// Performs `effect`; what must be told to the core before the next one.
pub fn perform(effect: Effect, ports: &mut impl AgentPorts) -> Option<Event> {
    match effect {
        Effect::Persist(batch) => {
            return Some(match ports.persist(&batch) {
                Ok(()) => Event::Persisted,
                Err(error) => Event::PersistFailed { batch, error: in_words(&error) },
            });
        }
        Effect::ReadRecords(read) => {
            let records = ports.read_records(&read).map_err(|error| in_words(&error));
            return Some(Event::RecordsRead { read, records });
        }
        Effect::KeepImages(named) => ports.runtime().keep_images(named),
        Effect::RemoveImage => {
            let removes = ports.runtime().remove_image();
            let nothing = Event::Runtime(RuntimeEvent::ImageRemoved { image: Ok(None) });
            return (!removes).then_some(nothing);
        }
        Effect::Sample => return Some(Event::Sampled(ports.sample())),
        Effect::NoteAccepted(version) => ports.note_accepted(version),
        Effect::NoteLinkBudget(record) => ports.note_link_budget(record),
        Effect::Send(payload) => ports.send(payload),
        Effect::Start(request) => ports.runtime().start(request),
        Effect::Stop { pod, instance, grace_ms } => ports.runtime().stop(&pod, instance, grace_ms),
        Effect::Forget { pod, instance, keep_logs } => {
            ports.runtime().forget(&pod, instance, keep_logs);
        }
        Effect::Attach { pod, instance, volumes } => {
            ports.runtime().attach(&pod, instance, volumes);
        }
        Effect::Probe(request) => ports.runtime().probe(request),
        Effect::StartContainer(request) => ports.runtime().start_container(request),
        Effect::StopContainer { pod, instance, container, grace_ms } => {
            ports.runtime().stop_container(&pod, instance, &container, grace_ms);
        }
        Effect::AnswerCall(request) => ports.answer_call(request),
        Effect::EndLocalCall { ticket, outcome } => ports.end_local_call(ticket, outcome),
        Effect::Scrape(targets) => ports.scrape(targets),
        Effect::AnswerPost { id, outcome } => ports.answer_post(id, outcome),
        Effect::TrustTime(time) => ports.trust_time(time),
    }
    None
}
