//! What the agent sends, and in which order: handshake and greeting, answers and acknowledgements,
//! reported state, then the logs by their streams.

use super::link_budget::FAREWELL_BYTES;
use super::{AgentCore, Effect};
use shared::limits::MAP_CHUNK_BYTES_MAX;
use shared::model::{
    Condition, ConditionStatus, GpuSource, MonotonicMs, NodeStatus, Now, ReservedResources,
};
use shared::sync::{
    Chunking, FRUGAL_CHUNK_BYTES, LinkClass, LogRead, MapContent, Outgoing, SessionFault,
    message_bytes,
};
use shared::wire::{
    EncodeError, GREETED_INCARNATION, Hello, Introduction, MapHeader, MapPosition, Message, Resume,
    SequenceNumber, ShownContent, Stream, Version, encode,
};
use std::collections::BTreeMap;
use tracing::warn;

/// Reported state is published this long after the first change, so that what changes together
/// crosses together.
const REPORT_DELAY_MS: u64 = 50;

/// Repeats without an acknowledgement before the agent asks whether the hub knows the session.
const SUSPICIOUS_ATTEMPTS: u32 = 3;

/// Of a batch besides its records: the log, numbers, the seal and the envelope.
const BATCH_HEADER_BYTES: usize = 60;

/// The key of the node's own item of reported state; pods have `p/` before their name.
pub(super) const NODE_ITEM: &str = "node";

impl AgentCore {
    pub(super) fn schedule_report(&mut self, now: MonotonicMs) {
        if self.report_due.is_none() {
            self.report_due = Some(now.plus_ms(REPORT_DELAY_MS));
        }
    }

    /// Publishes reported state anew when it is due and has changed.
    pub(super) fn refresh_report(&mut self, now: Now) {
        if self.report_due.is_none_or(|due| due > now.monotonic) {
            return;
        }
        self.report_due = None;
        if let Err(error) = self.publish_report(now) {
            warn!(node = %self.node, error = %error, "could not report");
        }
    }

    fn publish_report(&mut self, now: Now) -> Result<(), EncodeError> {
        let content = self.report_content()?;
        if content.digest() == self.reported.content().digest() {
            return Ok(());
        }
        let generation = self.reported.position().version.generation + 1;
        let version = Version { term: self.incarnation, generation };
        let position = MapPosition { version, digest: content.digest() };
        let header = MapHeader { position, issued_at_ms: now.wall.0 };
        let header = encode("reported state header", &header)?;
        self.reported.publish(content, position, header);
        Ok(())
    }

    fn report_content(&self) -> Result<MapContent, EncodeError> {
        let mut items = BTreeMap::new();
        // Not the term alone: every start of the hub has another, and it knows what it said.
        let Version { term: observed_term, generation: observed_generation } = self.content_version;
        let status = NodeStatus { observed_term, observed_generation, ..self.node_status() };
        items.insert(NODE_ITEM.to_owned(), encode("node status", &status)?);
        for status in self.pods.statuses() {
            let key = format!("p/{}", status.pod);
            items.insert(key, encode("pod status", status)?);
        }
        Ok(MapContent::new(items))
    }

    /// The node's own item of reported state.
    #[must_use]
    pub fn node_status(&self) -> NodeStatus {
        let version = self.desired.position().map(|position| position.version).unwrap_or_default();
        NodeStatus {
            agent_version: self.agent_version.clone(),
            capacity: self.capacity.clone(),
            conditions: self.conditions(),
            observed_term: version.term,
            observed_generation: version.generation,
            reserved: ReservedResources {
                cpu_millicores: self.reserved.cpu_millicores,
                memory_bytes: self.reserved.memory_bytes,
            },
            remote_access: Some(self.remote_access()),
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        let store = match self.storage.error() {
            None => condition("StoreWritable", ConditionStatus::True, "Writable", ""),
            Some(error) => condition(
                "StoreWritable",
                ConditionStatus::False,
                "WriteFailed",
                &format!("pods are kept as they are until the store can be written: {error}"),
            ),
        };
        let mut conditions = vec![store];
        if !self.desired.is_whole() {
            conditions.push(condition(
                "DesiredStateWhole",
                ConditionStatus::False,
                "RecordsLost",
                "part of the desired state was lost on disk; it is asked for again",
            ));
        }
        for (key, problem) in self.undecodable.iter().take(8) {
            let message = format!("{key}: {problem}");
            let refused = ConditionStatus::False;
            conditions.push(condition("WorkloadReadable", refused, "NotReadable", &message));
        }
        conditions.extend(self.pressure_conditions());
        if self.budget_exhausted {
            conditions.push(condition(
                "LinkBudgetAvailable",
                ConditionStatus::False,
                "BudgetExhausted",
                "the day's bytes are spent: only alarms are sent until some are free again",
            ));
        }
        if self.disk_pressure {
            conditions.push(condition(
                "DiskPressure",
                ConditionStatus::True,
                "DiskFillsUp",
                "less than a twentieth of the disk with the store is free",
            ));
        }
        if self.recorder.ladder.sheds_series() {
            conditions.push(condition(
                "TelemetryComplete",
                ConditionStatus::False,
                "BudgetTooSmall",
                "the link's bytes a day do not suffice: only the most important series are sent",
            ));
        }
        if !self.gpus_known {
            conditions.push(condition(
                "GpusKnown",
                ConditionStatus::False,
                "DriverSilent",
                "the GPU driver has not answered yet: no pod is stopped, none with a GPU is started",
            ));
        }
        conditions.extend(self.gpu_conditions.conditions());
        if self.capacity.gpus.source == GpuSource::Simulated {
            conditions.push(condition(
                "GpusSimulated",
                ConditionStatus::True,
                "Flag",
                "the GPUs are made up by a flag of the agent",
            ));
        }
        conditions
    }

    /// Hands to the link what is due and may be sent, in order of urgency.
    pub(super) fn transmit(&mut self, now: Now) {
        if let Err(error) = self.try_transmit(now) {
            warn!(node = %self.node, error = %error, "could not prepare a message");
        }
    }

    fn try_transmit(&mut self, now: Now) -> Result<(), SessionFault> {
        let at = now.monotonic;
        let due = self.session.has_outgoing(at);
        self.session_waits = due && !self.may_open_session(at);
        if due && !self.session_waits {
            match self.session.poll_outgoing(at)? {
                Some(Outgoing::Payload(payload)) => {
                    self.send_payload(LinkClass::Session, payload, now);
                }
                Some(Outgoing::Hello) => self.send(&Message::Hello(self.hello(now)), now)?,
                Some(Outgoing::Introduction) => {
                    self.introduces = true;
                    self.send(&Message::Introduction(self.introduction(now)), now)?;
                }
                Some(Outgoing::Resume) => self.send(&Message::Resume(self.resume()), now)?,
                None => {}
            }
        }
        // What the hub sent between greeting and reply is answered right after the reply.
        if !self.session.is_established() {
            return Ok(());
        }
        while let Some(message) = self.answers.pop_front() {
            if !self.may_answer(&message, at) {
                self.answers.push_front(message);
                break;
            }
            self.send(&message, now)?;
        }
        self.ask_for_desired(now)?;
        self.transmit_reported(now)?;
        self.transmit_answers(now)?;
        self.read_outbox(at);
        if self.reported.attempts().max(self.outbox.attempts()) >= SUSPICIOUS_ATTEMPTS {
            self.ask_for_session();
        }
        Ok(())
    }

    fn transmit_reported(&mut self, now: Now) -> Result<(), SessionFault> {
        let frugal = self.budget.limits().bytes_per_day.is_some();
        self.reported.set_chunking(if frugal { Chunking::Frugal } else { Chunking::Generous });
        let chunk_bytes = if frugal { FRUGAL_CHUNK_BYTES } else { MAP_CHUNK_BYTES_MAX };
        let bytes = message_bytes(chunk_bytes);
        while self.reported.has_chunk(now.monotonic)
            && self.budget.may_send(LinkClass::ReportedState, bytes, now.monotonic)
        {
            let Some(chunk) = self.reported.poll_chunk(now.monotonic)? else { break };
            self.send(&Message::MapChunk(chunk), now)?;
        }
        Ok(())
    }

    /// Asks the store for the records of the next batch.
    fn read_outbox(&mut self, now: MonotonicMs) {
        if self.reading.is_some() || self.is_read_only() {
            return;
        }
        let budget = &mut self.budget;
        let (bytes_max, telemetry_first) = (budget.batch_bytes_max(), budget.telemetry_is_next());
        let may_send = |stream: Stream, bytes: u64| {
            let payload_bytes =
                usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(BATCH_HEADER_BYTES);
            // An alarm may take the last of the day, but for the end of the link.
            let rest = if stream == Stream::Alarms { FAREWELL_BYTES } else { 0 };
            budget.may_send(stream.into(), message_bytes(payload_bytes) + rest, now)
        };
        self.reading = self.outbox.poll_read(bytes_max, telemetry_first, may_send);
        self.effects.extend(self.reading.map(Effect::ReadRecords));
    }

    /// Greets again: nothing is acknowledged and the hub may have lost the session without saying
    /// so, or what it answered could not be used.
    pub(super) fn ask_for_session(&mut self) {
        self.reported.pause();
        self.outbox.pause();
        self.session.greet_again();
    }

    fn resume(&self) -> Resume {
        let position = self.desired.position().filter(|_| self.desired.is_whole());
        let desired = position.map(|position| position.version);
        Resume { desired, awaits_watermarks: self.outbox.is_waiting() }
    }

    fn introduction(&self, now: Now) -> Introduction {
        let position = self.desired.position().filter(|_| self.desired.is_whole());
        let shown = |position: MapPosition| ShownContent {
            version: position.version,
            digest: position.digest.into(),
        };
        let oldest = self.outbox.oldest_incarnation();
        let is_this = oldest == self.incarnation;
        Introduction {
            desired: position.map(shown),
            incarnation: self.incarnation,
            oldest_incarnation: if is_this { GREETED_INCARNATION } else { oldest },
            agent_version: self.agent_version.clone(),
            clock: Some(self.clocks.present(now)),
            earlier_clocks: self.clocks.earlier(),
        }
    }

    fn hello(&self, now: Now) -> Hello {
        Hello {
            desired: self.desired_header_to_show(),
            reported: self.reported.position(),
            incarnation: self.incarnation,
            oldest_incarnation: self.outbox.oldest_incarnation(),
            agent_version: self.agent_version.clone(),
            clock: Some(self.clocks.present(now)),
            earlier_clocks: self.clocks.earlier(),
        }
    }

    pub(super) fn handle_records(
        &mut self,
        read: &LogRead,
        records: Result<Vec<(SequenceNumber, Vec<u8>)>, String>,
        now: Now,
    ) {
        self.reading = None;
        let records = match records {
            Ok(records) => records,
            Err(error) => {
                warn!(node = %self.node, error, "could not read the outbox; it is tried again");
                return self.outbox.handle_unreadable(read, now.monotonic);
            }
        };
        // Records whose write failed are not in the store and must not be taken for lost.
        if self.is_read_only() || !self.session.is_established() {
            return;
        }
        let batch = self.outbox.handle_read(read, records, now.monotonic);
        let Some(mut batch) = batch else { return };
        // What builds on a record that is lost can't be read either.
        let has_hole = batch.records.iter().any(|record| record.is_empty());
        if has_hole && Stream::TELEMETRY.contains(&batch.log.stream) {
            self.recorder.begin_runs();
        }
        if batch.log.incarnation == self.incarnation {
            batch.log.incarnation = GREETED_INCARNATION;
        }
        if let Err(error) = self.send(&Message::LogBatch(batch), now) {
            warn!(node = %self.node, error = %error, "could not seal a batch");
        }
    }
}

pub(super) fn condition(
    kind: &str,
    status: ConditionStatus,
    reason: &str,
    message: &str,
) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

/// A header of nothing, before anything was reported.
pub(super) fn empty_report(incarnation: u64) -> (MapPosition, Vec<u8>) {
    let version = Version { term: incarnation, generation: 0 };
    let position = MapPosition { version, digest: MapContent::default().digest() };
    let header = MapHeader { position, issued_at_ms: 0 };
    (position, encode("reported state header", &header).unwrap_or_default())
}
