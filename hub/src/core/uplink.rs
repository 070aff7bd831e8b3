//! What nodes send: greetings, acknowledgements, reported state; records are in `records.rs`.

use super::columns::Columns;
use super::commit::GroupCommit;
use super::node::{Greeting, reported_key};
use super::{Effect, HubCore, NodeRecord, NodeState};
use serde_bytes::ByteBuf;
use shared::limits::LOG_RECORD_BYTES_MAX;
use shared::model::{NodeEvent, NodeId, Now, PodResult};
use shared::ports::Tree;
use shared::sync::{MapPublisher, Opened, PreparedUpdate, Received};
use shared::trust::session::SessionPublicKey;
use shared::wire::{
    Digest, GREETED_INCARNATION, Hello, Introduction, LogId, MapAck, MapChunk, MapHeader, MapName,
    MapPosition, MapRefusal, Message, RefusalReason, Resume, SequenceNumber, ShownContent, Version,
    decode, desired_header_context, encode,
};
use std::sync::Arc;
use tracing::{debug, info, warn};

/// Bytes of an event record.
const EVENT_BYTES_MAX: usize = 4096;

/// Bytes of a signed header.
const SIGNED_HEADER_BYTES_MAX: usize = 1024;

impl HubCore {
    pub(super) fn handle_connected(&mut self, node: &NodeId, _now: Now) {
        info!(node = %node, "connected");
    }

    pub(super) fn handle_disconnected(&mut self, node: &NodeId, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let was_online = state.greeted;
        if was_online {
            info!(node = %node, "offline: what it runs stays assigned to it");
            state.offline_since = now.monotonic;
        }
        state.greeted = false;
        state.desired.pause();
        state.reported.forget_assembly();
        // It hears its watermarks when it greets again.
        state.acknowledgements.clear();
        let ended = state.calls.handle_disconnect();
        self.effects.extend(ended.into_iter().map(Effect::EndCall));
        self.store_record(node, now);
        self.look_at_rollouts(now.monotonic);
        self.await_rescheduling(was_online, now);
    }

    pub(super) fn handle_enrolled(&mut self, node: NodeId, record: NodeRecord, now: Now) {
        self.commit.schedule_at_once(now.monotonic);
        if self.is_held_by(&node, &record) {
            info!(node = %node, "its certificate was issued again");
            return;
        }
        info!(node = %node, "enrolled");
        self.admit(&node, &record);
        let (items, decoders) = Default::default();
        let state = NodeState::restore(node.clone(), record, items, decoders, now.monotonic);
        // What an earlier holder of this name reported is not this one's, nor are calls to it.
        if let Some(mut before) = self.nodes.insert(node.clone(), state) {
            delete_reported(&mut self.commit, &node, &before);
            before.decoders.forget(&node, &mut self.commit);
            let ended = before.calls.handle_disconnect();
            self.effects.extend(ended.into_iter().map(Effect::EndCall));
        }
        self.store_record(&node, now);
        let content = Default::default();
        self.sign(&node, content, now);
        self.reassign_soon(0, now);
    }

    /// Whether `node` is enrolled already with the key in `record`. Then it keeps what is known of
    /// it, and the certificates that it has stay good: whoever signs a request twice locks nobody out.
    fn is_held_by(&self, node: &NodeId, record: &NodeRecord) -> bool {
        let known = self.nodes.get(node).map(|state| &state.record);
        known.is_some_and(|known| !known.revoked && known.session_key == record.session_key)
    }

    pub(super) fn handle_revoked(&mut self, node: &NodeId, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        state.record.revoked = true;
        self.commit.schedule_at_once(now.monotonic);
        warn!(node = %node, "revoked: it is thrown out and kept out");
        self.expel(node, now);
        self.store_record(node, now);
        self.reassign(now);
    }

    fn expel(&mut self, node: &NodeId, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        if state.greeted {
            (state.greeted, state.offline_since) = (false, now.monotonic);
        }
        state.desired.pause();
        let ended = state.calls.handle_disconnect();
        self.effects.extend(ended.into_iter().map(Effect::EndCall));
        self.effects.push_back(Effect::Expel { node: node.clone() });
    }

    /// Why a node of this name with this key is neither enrolled nor let in, in words.
    #[must_use]
    pub fn why_kept_out(&self, node: &NodeId, key: &SessionPublicKey) -> Option<&'static str> {
        self.manifests.as_ref()?.nodes.get(node)?.why_kept_out(key)
    }

    /// What is said of nodes has changed: some may come in, and others no more.
    pub(super) fn let_in_and_keep_out(&mut self, now: Now) {
        let changed = self.nodes.iter().filter_map(|(id, state)| {
            let kept_out = self.why_kept_out(id, &state.record.session_key);
            (kept_out != state.kept_out).then(|| (id.clone(), kept_out))
        });
        for (id, kept_out) in changed.collect::<Vec<_>>() {
            let Some(state) = self.nodes.get_mut(&id) else { continue };
            state.kept_out = kept_out;
            let record = state.record.clone();
            match kept_out {
                Some(why) => {
                    warn!(node = %id, why, "thrown out and kept out: what it runs goes on");
                    self.expel(&id, now);
                }
                None => {
                    info!(node = %id, "it may come in again");
                    self.admit(&id, &record);
                }
            }
        }
    }

    pub(super) fn store_record(&mut self, node: &NodeId, now: Now) {
        let Some(state) = self.nodes.get(node) else { return };
        match encode("node record", &state.record) {
            Ok(value) => self.commit.put(Tree::Nodes, node.as_str(), value),
            Err(error) => warn!(node = %node, error = %error, "a record was not stored"),
        }
        self.commit.schedule(now.monotonic);
    }

    pub(super) fn handle_payload(&mut self, node: &NodeId, payload: &[u8], now: Now) {
        let seed = self.seed();
        let Some(state) = self.nodes.get_mut(node).filter(|state| state.is_trusted()) else {
            self.refused_payloads += 1;
            return;
        };
        match state.session.handle_payload(payload, &self.keys.session, seed, now.monotonic) {
            Ok(Opened::Message(message)) => self.handle_message(node, message, now),
            Ok(Opened::Answer(payload)) => {
                self.effects.push_back(Effect::Send { node: node.clone(), payload });
            }
            Ok(Opened::Nothing) => {}
            Err(error) => {
                self.refused_payloads += 1;
                debug!(node = %node, error = %error, "refused a payload");
            }
        }
    }

    fn handle_message(&mut self, node: &NodeId, message: Message, now: Now) {
        self.hear(node, &message, now);
        match message {
            Message::Hello(hello) => self.handle_hello(node, hello, now),
            Message::Introduction(said) => self.handle_introduction(node, said, now),
            Message::Resume(resume) => self.handle_resume(node, resume, now),
            Message::MapAck(ack) => {
                if let Some(state) = self.nodes.get_mut(node) {
                    state.desired.handle_ack(&ack, now.monotonic);
                }
                self.transmit(node, now);
            }
            Message::MapRefusal(refusal) => self.handle_refusal(node, &refusal, now),
            Message::MapChunk(chunk) if chunk.map == MapName::Reported => {
                self.handle_reported(node, &chunk, now);
            }
            Message::LogBatch(batch) => self.handle_log_batch(node, batch, now),
            Message::CallResponse(response) => {
                let state = self.nodes.get_mut(node);
                let ended = state.and_then(|state| state.calls.handle_response(response));
                self.effects.extend(ended.map(Effect::EndCall));
            }
            other => {
                self.refused_payloads += 1;
                debug!(node = %node, message = other.kind(), "a node sent what a hub sends");
            }
        }
    }

    /// A node that speaks is there. One that was taken for gone (a forged will, a connection of the
    /// hub's own that was lost) does not know it and must greet anew.
    fn hear(&mut self, node: &NodeId, message: &Message, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        state.record.last_seen = Some(now.wall);
        let greets =
            matches!(message, Message::Hello(_) | Message::Introduction(_) | Message::Resume(_));
        if state.greeted || greets {
            return;
        }
        info!(node = %node, "speaks, and was taken for gone: it is asked to greet anew");
        self.ask_to_greet(node, now);
    }

    fn ask_to_greet(&mut self, node: &NodeId, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        if let Opened::Answer(payload) = state.session.ask_to_greet(now.monotonic) {
            self.effects.push_back(Effect::Send { node: node.clone(), payload });
        }
    }

    fn handle_hello(&mut self, node: &NodeId, hello: Hello, now: Now) {
        let shown = self.shown_position(node, hello.desired.as_ref());
        self.rise_above(node, shown, now);
        self.introduce(node, hello, now);
        self.begin_session(node, Greeting::Full, |desired| desired.begin(shown), now);
    }

    /// A node says who it is, and what it has in short. What this hub did not publish must be shown by its
    /// signature: an unsigned claim raises no term.
    fn handle_introduction(&mut self, node: &NodeId, said: Introduction, now: Now) {
        let Some(state) = self.nodes.get(node) else { return };
        let own = state.desired.position();
        let is_ahead = |shown: &ShownContent| {
            let is_another = shown.digest != own.digest.into();
            shown.version > own.version || (shown.version == own.version && is_another)
        };
        if said.desired.as_ref().is_some_and(is_ahead) {
            return self.ask_to_greet(node, now);
        }
        let desired = said.desired.map(|shown| shown.version);
        let is_this = said.oldest_incarnation == GREETED_INCARNATION;
        let hello = Hello {
            desired: None,
            reported: MapPosition { version: Version::default(), digest: Digest::default() },
            incarnation: said.incarnation,
            oldest_incarnation: if is_this { said.incarnation } else { said.oldest_incarnation },
            agent_version: said.agent_version,
            clock: said.clock,
            earlier_clocks: said.earlier_clocks,
        };
        self.introduce(node, hello, now);
        let greeting = Resume { desired, awaits_watermarks: true };
        let greeting = Greeting::Short { greeting, introduces: true };
        self.begin_session(node, greeting, |desired| desired.begin_shown(said.desired), now);
    }

    /// What a node says of itself when it greets.
    fn introduce(&mut self, node: &NodeId, hello: Hello, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        info!(node = %node, agent_version = hello.agent_version, incarnation = hello.incarnation,
            "greeted: in session");
        if hello.incarnation < state.record.incarnation {
            warn!(node = %node, "its counters went back: it begins anew");
            state.record.logs = Default::default();
            state.held.clear();
            state.decoders.forget(node, &mut self.commit);
            delete_reported(&mut self.commit, node, state);
            state.record.reported_header = None;
            state.reported = shared::sync::MapReceiver::new(MapName::Reported);
            state.decode_reported();
        }
        // Until now it may have been passed over, or replicas wait at a node that never came.
        let is_first = state.record.incarnation == 0;
        state.record.incarnation = hello.incarnation;
        state.record.logs.forget_before(hello.oldest_incarnation);
        state.decoders.forget_before(hello.oldest_incarnation, node, &mut self.commit);
        let clocks = &mut state.record.boot_clocks;
        if clocks.learn(hello.clock.as_ref(), &hello.earlier_clocks, now.wall) {
            state.clocks = Arc::new(clocks.clone());
        }
        state.agent_version = hello.agent_version;
        if is_first {
            self.reassign_soon(super::REASSIGN_DELAY_MS, now);
        }
    }

    /// A node whose session outlived the link says what it has. What this hub did not publish must be
    /// shown by its signature.
    fn handle_resume(&mut self, node: &NodeId, resume: Resume, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        if resume.desired.is_some_and(|shown| shown > state.desired.position().version) {
            return self.ask_to_greet(node, now);
        }
        info!(node = %node, "greeted: in session as before");
        let shown = resume.desired.and_then(|version| state.desired.position_of(version));
        let greeting = Greeting::Short { greeting: resume, introduces: false };
        self.begin_session(node, greeting, |desired| desired.begin(shown), now);
    }

    /// A node has greeted; `begin` tells its publisher what it has.
    fn begin_session(
        &mut self,
        node: &NodeId,
        greeting: Greeting,
        begin: impl FnOnce(&mut MapPublisher),
        now: Now,
    ) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        state.acknowledgements.clear();
        self.deliveries.let_in(node);
        (state.greeted, state.heard) = (true, true);
        state.reply_due = Some(greeting);
        state.reported.forget_assembly();
        begin(&mut state.desired);
        self.store_record(node, now);
        self.look_at_rollouts(now.monotonic);
        self.reply_and_transmit(node, now);
    }

    /// The position in a header that this hub signed for `node`, whichever start of it.
    fn shown_position(&self, node: &NodeId, signed: Option<&ByteBuf>) -> Option<MapPosition> {
        let context = desired_header_context(node);
        let payload = self.verifying.open(signed?, &context).ok()?;
        let header: MapHeader =
            decode("desired state header", &payload, SIGNED_HEADER_BYTES_MAX).ok()?;
        Some(header.position)
    }

    /// A node shows what this start of the hub did not sign: another leads, or led with a store
    /// that is gone. This hub leads from now on, with a term above it.
    fn rise_above(&mut self, node: &NodeId, shown: Option<MapPosition>, now: Now) {
        let Some(state) = self.nodes.get(node) else { return };
        let own = state.desired.position();
        let ahead = shown.is_some_and(|shown| {
            shown.version > own.version
                || (shown.version == own.version && shown.digest != own.digest)
        });
        if let Some(shown) = shown.filter(|_| ahead) {
            warn!(node = %node, shown = %shown.version, own = %own.version,
                "a node has accepted a greater term than this hub's");
            self.term = self.term.max(shown.version.term);
            self.raise_term(now);
        }
    }

    /// A node refuses what this start has signed and can't show why: its store is lost or an older one,
    /// its ledger is not, and neither does this hub's store know the term. Once a start at most, so that
    /// no node makes a hub sign everything again and again.
    fn rise_above_what_is_not_shown(&mut self, node: &NodeId, refusal: &MapRefusal, now: Now) {
        let own = self.nodes.get(node).map(|state| state.desired.position().version);
        if own == Some(refusal.version) && self.term < self.term_bound {
            warn!(node = %node, own = %refusal.version,
                "a node keeps to a greater term than this hub's and can't show it");
            self.term = self.term_bound;
            self.raise_term(now);
        }
    }

    fn handle_refusal(&mut self, node: &NodeId, refusal: &MapRefusal, now: Now) {
        warn!(node = %node, version = %refusal.version, reason = ?refusal.reason,
            "refused its desired state");
        let fenced = matches!(refusal.reason, RefusalReason::Stale | RefusalReason::Conflict);
        if fenced {
            let shown = self.shown_position(node, refusal.accepted.as_ref());
            let before = self.term;
            self.rise_above(node, shown, now);
            if self.term == before && refusal.reason == RefusalReason::Stale {
                self.rise_above_what_is_not_shown(node, refusal, now);
            }
        }
        if let Some(state) = self.nodes.get_mut(node) {
            state.desired.handle_refusal(refusal, now.monotonic);
        }
        self.transmit(node, now);
    }

    fn handle_reported(&mut self, node: &NodeId, chunk: &MapChunk, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let Ok(header) = decode::<MapHeader>("reported state header", &chunk.header, 256) else {
            self.refused_payloads += 1;
            return;
        };
        match state.reported.handle_chunk(chunk, &header) {
            Received::Ack(ack @ MapAck::Partial { .. }) => self.send(node, &Message::MapAck(ack)),
            // A repeat of what may not be durable yet; its acknowledgement is under way then.
            Received::Ack(_) if self.commit.is_pending_for(node) => {}
            Received::Ack(ack) => self.send(node, &Message::MapAck(ack)),
            Received::Refused(refusal) => self.send(node, &Message::MapRefusal(refusal)),
            Received::Complete(update) => self.accept_reported(node, *update, now),
        }
    }

    fn accept_reported(&mut self, node: &NodeId, update: PreparedUpdate, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        for item in &update.upserts {
            let key = reported_key(node, &item.key);
            self.commit.put(Tree::Reported, key, item.value.to_vec());
        }
        for key in &update.tombstones {
            self.commit.delete(Tree::Reported, reported_key(node, key));
        }
        state.record.reported_header = Some(ByteBuf::from(update.header().to_vec()));
        let ack = state.reported.accept(update);
        state.decode_reported();
        self.commit.acknowledge(node.clone(), Message::MapAck(ack));
        self.store_record(node, now);
        self.look_at_rollouts(now.monotonic);
    }
}

/// Items of another life of `node`, under a later header, would make the state that a restart finds
/// one that nobody reported.
fn delete_reported(commit: &mut GroupCommit, node: &NodeId, state: &NodeState) {
    for item in state.reported.content().items().keys() {
        commit.delete(Tree::Reported, reported_key(node, item));
    }
}

impl NodeState {
    pub(super) fn take_event(&mut self, record: &[u8]) -> Option<()> {
        let event = decode::<NodeEvent>("event", record, EVENT_BYTES_MAX).ok()?;
        self.add_event(event);
        Some(())
    }

    pub(super) fn take_telemetry(
        &mut self,
        log: LogId,
        sequence: SequenceNumber,
        record: &[u8],
    ) -> Option<Columns> {
        let batch = self.decoders.decode(log, sequence, record).ok()?;
        let columns = Columns::of(&batch);
        let newest = batch.samples.into_iter().max_by_key(|sample| sample.at);
        let newer = newest
            .filter(|sample| self.latest.as_ref().is_none_or(|latest| latest.at <= sample.at));
        if newer.is_some() {
            self.latest = newer;
        }
        Some(columns)
    }
}

/// Results are delivered as they arrived: this only looks whether they can be.
pub(super) fn is_result(record: &[u8]) -> bool {
    decode::<PodResult>("result", record, LOG_RECORD_BYTES_MAX).is_ok()
}
