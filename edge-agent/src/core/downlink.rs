//! What the hub sends: desired state, replies to greetings, calls, acknowledgements.
//!
//! Desired state is believed by its signature alone, whoever delivered it.

use super::storage::After;
use super::{AgentCore, Effect};
use crate::pods::NodeObjects;
use serde_bytes::ByteBuf;
use shared::limits::MAP_ITEM_BYTES_MAX;
use shared::model::{
    MonotonicMs, NODE_POLICY_KEY, NodeId, Now, ObjectKind, ObjectName, UnixMs, Workload,
    WorkloadKey,
};
use shared::ports::{Tree, WriteBatch};
use shared::sync::{PreparedUpdate, Received};
use shared::trust::signature::{self, VerifyingKey};
use shared::wire::{
    DecodeError, HelloReply, LogAck, MapAck, MapChunk, MapHeader, MapName, MapPosition, MapRefusal,
    Message, RenewedHeader, Resumed, Stream, decode, desired_header_context, encode,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{debug, info, warn};

/// Under this key of [`Tree::Meta`] lies the accepted header, signed as it came.
pub(super) const DESIRED_HEADER_KEY: &[u8] = b"desired/header";

/// Answers that wait for the session: the hub's windows allow about half as many. What falls out is
/// asked for again.
const ANSWERS_MAX: usize = 64;

/// Bytes of a signed header.
const SIGNED_HEADER_BYTES_MAX: usize = 1024;

/// The header in `signed`, if the hub signed it for `node`.
pub(super) fn open_header(
    key: &VerifyingKey,
    node: &NodeId,
    signed: &[u8],
) -> Result<MapHeader, String> {
    let payload =
        key.open(signed, &desired_header_context(node)).map_err(|error| error.to_string())?;
    decode("desired state header", &payload, SIGNED_HEADER_BYTES_MAX)
        .map_err(|error| error.to_string())
}

impl AgentCore {
    pub(super) fn handle_payload(&mut self, payload: &[u8], now: Now) {
        match self.session.handle_payload(payload) {
            Ok(Some(message)) => {
                self.count_received(&message, payload.len(), now);
                self.handle_message(message, now);
            }
            Ok(None) => {}
            Err(error) => {
                self.refused_payloads += 1;
                debug!(node = %self.node, error = %error, "refused a payload");
            }
        }
    }

    fn handle_message(&mut self, message: Message, now: Now) {
        match message {
            Message::HelloReply(HelloReply { desired, reported, watermarks }) => {
                self.begin_session(reported, &watermarks, now);
                self.begin_forgotten_runs(&watermarks);
                self.handle_desired_header(&desired);
            }
            Message::Resumed(resumed) => self.handle_resumed(resumed, now),
            Message::MapChunk(chunk) if chunk.map == MapName::Desired => {
                self.handle_desired(&chunk);
            }
            Message::MapAck(ack @ (MapAck::Partial { map, .. } | MapAck::Applied { map, .. }))
                if map == MapName::Reported =>
            {
                self.reported.handle_ack(&ack, now.monotonic);
            }
            Message::MapRefusal(refusal) if refusal.map == MapName::Reported => {
                self.handle_reported_refusal(&refusal, now.monotonic);
            }
            Message::LogHold(hold) => self.outbox.handle_hold(hold, now.monotonic),
            Message::LogAck(ack) => self.handle_log_ack(ack, now.monotonic),
            Message::CallRequest(request) => self.handle_call_request(request, now),
            other => {
                self.refused_payloads += 1;
                debug!(node = %self.node, message = other.kind(), "the hub sent what an agent sends");
            }
        }
    }

    fn handle_resumed(&mut self, resumed: Resumed, now: Now) {
        let Resumed { desired, reported, watermarks, renewed } = resumed;
        let reported = reported.and_then(|version| self.reported.position_of(version));
        self.begin_session(reported, &watermarks, now);
        // To an introduction all of them are told.
        if std::mem::take(&mut self.introduces) {
            self.begin_forgotten_runs(&watermarks);
        }
        let renewed = renewed.and_then(|renewed| self.whole_header(renewed));
        if let Some(desired) = desired.or(renewed) {
            self.handle_desired_header(&desired);
        }
    }

    /// The hub lost what it knew of the runs of telemetry: it can't go on with them.
    fn begin_forgotten_runs(&mut self, watermarks: &[LogAck]) {
        if Stream::TELEMETRY.iter().any(|s| self.outbox.is_forgotten(*s, watermarks)) {
            self.recorder.begin_runs();
        }
    }

    /// A signed header as it was made, from what the hub says of it and what is here; nothing of it is
    /// believed.
    fn whole_header(&self, renewed: RenewedHeader) -> Option<ByteBuf> {
        let RenewedHeader { version, issued_at_ms, signature } = renewed;
        let position = MapPosition { version, digest: self.desired.content().digest() };
        let header = encode("desired state header", &MapHeader { position, issued_at_ms }).ok()?;
        Some(ByteBuf::from(signature::join(header, signature.into_vec()).ok()?))
    }

    fn handle_reported_refusal(&mut self, refusal: &MapRefusal, now: MonotonicMs) {
        debug!(node = %self.node, reason = ?refusal.reason, "the hub refused reported state");
        self.reported.handle_refusal(refusal, now);
    }

    /// The hub has answered a greeting: it has this much of reported state and of the logs.
    fn begin_session(&mut self, reported: Option<MapPosition>, watermarks: &[LogAck], now: Now) {
        info!(node = %self.node, "the hub answered: in session");
        self.reported.begin(reported);
        let mut writes = WriteBatch::new();
        // While nothing can be stored nothing may be freed either; the hub says it again.
        if !self.is_read_only() {
            self.outbox.begin(watermarks, now.monotonic, &mut writes);
        }
        if !writes.is_empty() {
            self.persist(writes, After::Nothing);
        }
    }

    fn handle_desired_header(&mut self, signed: &[u8]) {
        let header = match open_header(&self.hub_signing_key, &self.node, signed) {
            Ok(header) => header,
            Err(error) => return self.refuse_header(&error),
        };
        self.effects.push_back(Effect::TrustTime(UnixMs(header.issued_at_ms)));
        match self.desired.handle_header(&header, signed) {
            Err(refusal) => self.refuse_update(refusal),
            Ok(Some(update)) if !self.is_read_only() => self.persist_desired(update),
            Ok(_) => {}
        }
    }

    fn refuse_header(&mut self, error: &str) {
        self.refused_updates += 1;
        warn!(node = %self.node, error, "refused desired state: the header is not the hub's");
    }

    fn refuse_update(&mut self, refusal: MapRefusal) {
        self.end_pace();
        self.refused_updates += 1;
        warn!(node = %self.node, version = %refusal.version, reason = ?refusal.reason,
            "refused desired state");
        self.answer(Message::MapRefusal(refusal));
    }

    fn handle_desired(&mut self, chunk: &MapChunk) {
        let header = match open_header(&self.hub_signing_key, &self.node, &chunk.header) {
            Ok(header) => header,
            Err(error) => return self.refuse_header(&error),
        };
        self.effects.push_back(Effect::TrustTime(UnixMs(header.issued_at_ms)));
        if self.is_read_only() {
            let refusal = self.desired.unavailable(&header);
            return self.answer(Message::MapRefusal(refusal));
        }
        match self.desired.handle_chunk(chunk, &header) {
            Received::Ack(ack @ MapAck::Partial { .. }) => self.pace_desired(ack),
            Received::Ack(ack) => self.answer(Message::MapAck(ack)),
            Received::Refused(refusal) => self.refuse_update(refusal),
            Received::Complete(update) => {
                debug!(node = %self.node, "desired state is complete");
                self.end_pace();
                self.persist_desired(*update);
            }
        }
    }

    fn persist_desired(&mut self, update: PreparedUpdate) {
        let mut writes = WriteBatch::new();
        for item in &update.upserts {
            writes.put(Tree::Desired, item.key.as_bytes(), item.value.to_vec());
        }
        for key in &update.tombstones {
            writes.delete(Tree::Desired, key.as_bytes());
        }
        writes.put(Tree::Meta, DESIRED_HEADER_KEY, update.header());
        self.persist(writes, After::Accept(Box::new(update)));
    }

    /// An update is durable: it comes into force, and only now is it acknowledged.
    pub(super) fn accept_desired(&mut self, update: PreparedUpdate, now: Now) {
        let version = update.position().version;
        let is_header_alone = update.is_header_alone();
        let ack = self.desired.accept(update);
        self.effects.push_back(Effect::NoteAccepted(version));
        info!(node = %self.node, term = version.term, generation = version.generation,
            "desired state is in force");
        // Where another start of the hub leads it knows already that the content is here.
        if !is_header_alone {
            self.content_version = version;
            self.answer(Message::MapAck(ack));
        }
        self.assign(now);
        self.schedule_report(now.monotonic);
    }

    /// Hands the desired state that is in force to the pods.
    pub(super) fn assign(&mut self, now: Now) {
        self.apply_policy(now.monotonic);
        let Decoded { workloads, mut objects, undecodable } =
            Decoded::of(self.desired.content().items());
        (self.workloads, self.undecodable) = (workloads, undecodable);
        for (key, problem) in &self.undecodable {
            warn!(node = %self.node, item = key, problem, "can't read an item of desired state: pods are left as they are");
        }
        self.assign_scaling(now);
        objects.models = Arc::clone(&self.models);
        objects.devices = Arc::clone(&self.devices);
        objects.node = self.node.to_string();
        self.pods.attach(objects);
        self.pods.hold(self.must_hold());
        self.pods.assign(&self.workloads, now);
        self.keep_images();
    }

    /// Whether pods must stay as they are: the store can't be written, nothing was ever accepted (or
    /// all memory of it is lost), or part of what the node should run is unreadable, so that what is
    /// missing from it must not be taken for deleted.
    pub(super) fn must_hold(&self) -> bool {
        self.is_read_only()
            || self.desired.position().is_none()
            || !self.desired.is_whole()
            || !self.undecodable.is_empty()
    }

    fn handle_log_ack(&mut self, ack: LogAck, now: MonotonicMs) {
        let mut writes = WriteBatch::new();
        self.outbox.handle_ack(ack, now, &mut writes);
        if !writes.is_empty() {
            self.persist(writes, After::Nothing);
        }
    }

    /// Has `message` sent when the session allows it.
    pub(super) fn answer(&mut self, message: Message) {
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back(message);
    }

    /// What a greeting shows: nothing, when what is here is not whole, so that all of it comes.
    pub(super) fn desired_header_to_show(&self) -> Option<ByteBuf> {
        let header = self.desired.header().filter(|_| self.desired.is_whole());
        header.map(|header| ByteBuf::from(header.to_vec()))
    }
}

/// What the items of desired state say, besides what the node is told of itself.
#[derive(Default)]
struct Decoded {
    workloads: BTreeMap<WorkloadKey, Workload>,
    objects: NodeObjects,
    /// What could not be read, by key.
    undecodable: BTreeMap<String, String>,
}

impl Decoded {
    fn of(items: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut decoded = Self::default();
        for (key, value) in items.iter().filter(|(key, _)| *key != NODE_POLICY_KEY) {
            let read = match ObjectName::of_map_key(key) {
                Some(name) => decoded.add_object(name, value),
                None => decoded.add_workload(key, value),
            };
            if let Err(problem) = read {
                decoded.undecodable.insert(key.clone(), problem);
            }
        }
        decoded
    }

    fn add_workload(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        let workload = decode::<Workload>("workload", value, MAP_ITEM_BYTES_MAX).map_err(why)?;
        if workload.key.to_string() != key {
            return Err("names another workload".to_owned());
        }
        self.workloads.insert(workload.key.clone(), workload);
        Ok(())
    }

    fn add_object(&mut self, name: ObjectName, value: &[u8]) -> Result<(), String> {
        match name.kind {
            ObjectKind::ConfigMap => {
                let item = decode("ConfigMap", value, MAP_ITEM_BYTES_MAX).map_err(why)?;
                self.objects.config_maps.insert(name, Arc::new(item));
            }
            ObjectKind::Secret => {
                let item = decode("Secret", value, MAP_ITEM_BYTES_MAX).map_err(why)?;
                self.objects.secrets.insert(name, Arc::new(item));
            }
        }
        Ok(())
    }
}

// By value, as `map_err` hands it over.
#[expect(clippy::needless_pass_by_value, reason = "map_err hands it over")]
fn why(error: DecodeError) -> String {
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {cause}; is the agent older than the hub?")
}
