//! The hub's core: one session and two maps a node, and what all nodes together should run.
//!
//! Pure, with the shape of the agent's core: `handle_event`, `poll_effect`, `poll_timeout`.
//!
//! | part | file |
//! |---|---|
//! | events and effects | `event.rs` |
//! | what the hub knows of one node | `node.rs` |
//! | manifests to desired state, signed | `desired.rs` |
//! | ConfigMaps, and Secrets sealed to the node | `attached.rs` |
//! | what nodes send | `uplink.rs` |
//! | their records: taken, delivered, held | `records.rs`, `held.rs`, `deliveries.rs`, `columns.rs` |
//! | what became of each | `settlement.rs` |
//! | when a watermark is told | `acknowledgements.rs` |
//! | times of wrong clocks | `clock.rs` |
//! | writes that become durable together | `commit.rs` |
//! | what records of telemetry build on | `decoders.rs` |
//! | templates on their way to the nodes | `rollouts.rs` |
//! | what is known before a node is asked | `reach.rs` |
//! | whose timer is due | `deadlines.rs` |
//! | what the API shows | `view.rs` |
//!
//! **Persist before acknowledge.** What nodes send is gathered for a few milliseconds, made durable
//! in one commit, and only then acknowledged. What must reach a sink is committed once the sink has
//! it: until then the watermark stays, and the node keeps its records.
//!
//! **The term.** At each start the hub's term is above its stored one and at least the seconds since
//! 1970, so that a store that is lost or an older copy brings back no term; and it rises above every
//! validly signed header that a node shows. Nothing signed with a term is sent before the term is
//! durable. So a stale hub is fenced by the nodes themselves.
//!
//! **Nothing before the manifests.** A hub that starts knows who its nodes are and not what they
//! should run. Until the first valid manifests it answers no greeting and publishes nothing: an
//! empty desired state, signed under a new term, would stop every pod of the fleet.

mod acknowledgements;
mod attached;
mod clock;
mod columns;
mod commit;
mod deadlines;
mod decoders;
mod deliveries;
mod desired;
mod event;
mod held;
mod node;
mod reach;
mod records;
mod rollouts;
mod settlement;
#[cfg(test)]
pub(crate) mod tests;
mod uplink;
mod view;

pub use acknowledgements::DELAY_MS_MAX;
pub use clock::{BootClocks, CorrectedTime, TimeBasis, corrected_time};
pub use columns::{Columns, Moment};
pub(crate) use deliveries::SINK_DELIVERIES_MAX;
pub use deliveries::{ConfiguredSinks, Content, Delivery, SinkKey};
pub use event::{Effect, Event};
pub use node::NodeRecord;
pub use reach::Reach;
pub use rollouts::{SharedTemplates, Templates};
pub use settlement::Settlement;
pub(crate) use settlement::in_ranges;
pub use view::{
    HubView, MissingSink, NodeSummary, NodeView, PodView, RolloutView, WaitingLog, WorkloadView,
};

use crate::fleet::Assignment;
use crate::manifests::Manifests;
use crate::reconcile::SeenState;
use commit::{GroupCommit, Promise};
use deadlines::Deadlines;
use decoders::Decoders;
use deliveries::Deliveries;
use node::NodeState;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use rollouts::Rollouts;
use shared::model::{MonotonicMs, NodeEvent, NodeId, Now, WorkloadKey};
use shared::ports::{Store, StoreError, Tree};
use shared::sync::CallEnded;
use shared::trust::session::SessionPrivateKey;
use shared::trust::signature::{SigningKey, VerifyingKey};
use shared::wire::{LogId, Message, decode, encode};
use std::collections::{BTreeMap, VecDeque};
use tracing::{info, warn};

/// Under this key of [`Tree::Meta`] lies the term of the hub's last start.
const TERM_KEY: &[u8] = b"term";

/// Under this key of [`Tree::Meta`] lies the newest state of the API server that was taken over.
const SEEN_KEY: &[u8] = b"seen";

/// Between a node's first greeting ever and the assignment that counts with it: nodes that are
/// installed together share one.
const REASSIGN_DELAY_MS: u64 = 200;

/// How far the clock of an earlier hub may have been ahead of this one's, in seconds.
const CLOCK_LEAD_SECONDS: u64 = 100_000;

/// Nodes that a hub holds; far above the 10 000 it is built for.
const NODES_MAX: usize = 100_000;

/// The hub's own keys.
pub struct HubKeys {
    /// For sessions; nodes learned its public half at enrolment.
    pub session: SessionPrivateKey,
    /// For desired state; nodes learned its public half at enrolment.
    pub signing: SigningKey,
}

/// What the store held at start.
#[derive(Debug, Clone, Default)]
pub struct StoredState {
    /// The term of the last start.
    pub term: u64,
    /// One record a node.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Items of reported state by node and key.
    pub reported: BTreeMap<NodeId, BTreeMap<String, Vec<u8>>>,
    /// Decoders of telemetry by node and log.
    pub decoders: BTreeMap<NodeId, BTreeMap<LogId, Vec<u8>>>,
    /// What the nodes of each workload run.
    pub templates: BTreeMap<WorkloadKey, Templates>,
    /// What was seen of the API server.
    pub(crate) seen: SeenState,
}

/// The hub's core. See the module.
pub struct HubCore {
    keys: HubKeys,
    verifying: VerifyingKey,
    random: ChaCha20Rng,
    term: u64,
    /// Above any term that a hub had which began before this start.
    term_bound: u64,
    nodes: BTreeMap<NodeId, NodeState>,
    /// `None` until the first valid reading: then nobody is told what to run.
    manifests: Option<Manifests>,
    assignment: Assignment,
    rollouts: Rollouts,
    seen: SeenState,
    reassign_due: Option<MonotonicMs>,
    commit: GroupCommit,
    /// Of every node's timers; see [`Self::note_deadline`].
    deadlines: Deadlines,
    deliveries: Deliveries,
    /// Milliseconds that an acknowledgement of what can wait is kept back at most.
    acknowledge_after_ms_max: u64,
    effects: VecDeque<Effect>,
    refused_payloads: u64,
    /// Batches that were not taken, since too much waits for their sink already.
    crowded_out_batches: u64,
    /// When the next senders of those are told to send again.
    recall_due: Option<MonotonicMs>,
}

/// Reads what a core needs from the store. A record that can't be decoded is passed over with a
/// warning; the node then enrols again.
///
/// # Errors
/// When the medium can't be read.
pub fn read_stored_state(store: &dyn Store) -> Result<StoredState, StoreError> {
    let term = store.read(Tree::Meta, TERM_KEY)?;
    let term = term.and_then(|bytes| decode("term", &bytes, 16).ok()).unwrap_or(0);
    let seen = store.read(Tree::Meta, SEEN_KEY)?;
    let seen = seen.and_then(|bytes| decode("seen state", &bytes, 128).ok()).unwrap_or_default();
    let mut state = StoredState { term, seen, ..StoredState::default() };
    for (key, value) in store.scan(Tree::Nodes, &[], NODES_MAX)? {
        match node::decode_record(&key, &value) {
            Ok((id, record)) => drop(state.nodes.insert(id, record)),
            Err(problem) => warn!(problem, "passed over a node's record"),
        }
    }
    for (key, value) in store.scan(Tree::Reported, &[], usize::MAX)? {
        if let Some((id, item)) = node::split_reported_key(&key) {
            state.reported.entry(id).or_default().insert(item, value);
        }
    }
    for (key, value) in store.scan(Tree::Decoders, &[], usize::MAX)? {
        if let Some((id, log)) = decoders::split_decoder_key(&key) {
            state.decoders.entry(id).or_default().insert(log, value);
        }
    }
    for (key, value) in store.scan(Tree::Templates, &[], usize::MAX)? {
        match Templates::decode(&key, &value) {
            Ok((key, templates)) => drop(state.templates.insert(key, templates)),
            Err(problem) => warn!(problem, "passed over a workload's templates"),
        }
    }
    Ok(state)
}

/// The greatest term that may have been led with. A hub whose store is lost or an older copy does not know
/// it; nor do nodes that have lost their stores show it, but they refuse what is below it. No hub starts
/// once a second.
fn term_before(stored: &StoredState, now: Now) -> u64 {
    stored.term.max(seconds(now).saturating_sub(1))
}

fn seconds(now: Now) -> u64 {
    now.wall.0 / 1_000
}

impl HubCore {
    /// The core of this start of the hub. Its first effect makes the new term durable.
    #[must_use]
    pub fn new(keys: HubKeys, seed: [u8; 32], stored: StoredState, now: Now) -> Self {
        let mut core = Self {
            verifying: keys.signing.verifying(),
            keys,
            random: ChaCha20Rng::from_seed(seed),
            term: term_before(&stored, now),
            term_bound: seconds(now).saturating_add(CLOCK_LEAD_SECONDS),
            nodes: BTreeMap::new(),
            manifests: None,
            assignment: Assignment::default(),
            rollouts: Rollouts::restore(stored.templates),
            seen: stored.seen,
            reassign_due: None,
            commit: GroupCommit::default(),
            deadlines: Deadlines::default(),
            deliveries: Deliveries::default(),
            acknowledge_after_ms_max: DELAY_MS_MAX,
            effects: VecDeque::new(),
            refused_payloads: 0,
            crowded_out_batches: 0,
            recall_due: None,
        };
        let (mut reported, mut decoders) = (stored.reported, stored.decoders);
        for (id, record) in stored.nodes {
            let items = reported.remove(&id).unwrap_or_default();
            core.admit(&id, &record);
            let decoders = Decoders::restore(&id, decoders.remove(&id).unwrap_or_default());
            let state = NodeState::restore(id.clone(), record, items, decoders, now.monotonic);
            core.nodes.insert(id, state);
        }
        core.raise_term(now);
        core
    }

    /// The core that lets no acknowledgement wait longer than this.
    #[must_use]
    pub fn acknowledging_within(mut self, delay_ms_max: u64) -> Self {
        self.acknowledge_after_ms_max = delay_ms_max;
        self
    }

    /// The core with these sinks; without, samples end at the hub and results stay with their nodes.
    #[must_use]
    pub fn with_sinks(mut self, configured: ConfiguredSinks) -> Self {
        self.deliveries = Deliveries::new(configured);
        self
    }

    /// The core that is one of several, of which one leads: what nodes run is shared before any node is told.
    /// `all` where nothing was shared yet.
    #[must_use]
    pub fn sharing_templates(mut self, all: bool) -> Self {
        self.begin_to_share(all);
        self
    }

    fn admit(&mut self, node: &NodeId, record: &NodeRecord) {
        if !record.revoked {
            let certificate_serial = record.certificate_serial.clone();
            self.effects.push_back(Effect::Admit { node: node.clone(), certificate_serial });
        }
    }

    /// Takes the next term. Nothing signed is sent before it is durable.
    fn raise_term(&mut self, now: Now) {
        self.term = self.term.saturating_add(1);
        info!(term = self.term, "leading with a new term");
        if let Ok(term) = encode("term", &self.term) {
            self.commit.put(Tree::Meta, TERM_KEY, term);
        }
        self.commit.make_term_durable(now.monotonic);
        self.sign_everything(now);
    }

    /// Something happened. Effects are due afterwards.
    pub fn handle_event(&mut self, event: Event, now: Now) {
        let touched = event.node().cloned();
        match event {
            Event::Manifests(manifests) => self.handle_manifests(manifests, now),
            Event::Connected { node } => self.handle_connected(&node, now),
            Event::Disconnected { node } => self.handle_disconnected(&node, now),
            Event::Payload { node, payload } => self.handle_payload(&node, &payload, now),
            Event::Enrolled { node, record } => self.handle_enrolled(node, record, now),
            Event::Revoked { node } => self.handle_revoked(&node, now),
            Event::Call { ticket, node, method, timeout_ms } => {
                self.handle_call(ticket, &node, method, timeout_ms, now);
            }
            Event::Delivered { ticket } => self.handle_delivered(ticket, now),
            Event::DeliveryFailed { ticket, error } => {
                self.handle_delivery_failed(ticket, &error);
            }
            Event::Shared => self.handle_templates_shared(now),
            Event::Persisted => self.handle_persisted(now),
            Event::PersistFailed { batch, error } => {
                self.commit.handle_failed(batch, error, now.monotonic);
            }
        }
        touched.iter().for_each(|node| self.note_deadline(node));
        self.advance(now);
    }

    /// The moment of [`Self::poll_timeout`] has come. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Now) {
        for id in self.deadlines.due(now.monotonic) {
            self.handle_timeout_of(&id, now);
        }
        if self.reassign_due.take_if(|due| *due <= now.monotonic).is_some() {
            self.reassign(now);
        }
        if self.rollouts.due().is_some_and(|due| due <= now.monotonic) {
            self.step_rollouts(now);
        }
        if self.recall_due.take_if(|due| *due <= now.monotonic).is_some() {
            self.recall(now);
        }
        self.advance(now);
    }

    fn handle_timeout_of(&mut self, id: &NodeId, now: Now) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let ended = node.calls.handle_timeout(now.monotonic);
        self.effects.extend(ended.into_iter().map(Effect::EndCall));
        if node.desired.poll_timeout().is_some_and(|at| at <= now.monotonic) {
            node.desired.handle_timeout(now.monotonic);
            self.transmit(id, now);
        }
        self.tell_due(id, now);
        self.note_deadline(id);
    }

    /// When [`Self::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonotonicMs> {
        let own = [self.commit.due(), self.reassign_due, self.rollouts.due(), self.recall_due];
        own.into_iter().chain([self.deadlines.earliest()]).flatten().min()
    }

    /// To be called whenever a timer of `node` may have changed: by every event for its own node,
    /// and by whatever sends to a node.
    fn note_deadline(&mut self, node: &NodeId) {
        self.deadlines.set(node, self.nodes.get(node).and_then(NodeState::poll_timeout));
    }

    /// The next effect to perform.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn advance(&mut self, now: Now) {
        self.share_next();
        self.effects.extend(self.commit.poll(now.monotonic).map(Effect::Persist));
    }

    fn handle_persisted(&mut self, now: Now) {
        let committed = self.commit.handle_persisted();
        for (node, promises) in committed.promises {
            promises.into_iter().for_each(|promise| self.keep(&node, promise, now));
            self.tell_due(&node, now);
            self.note_deadline(&node);
        }
        if committed.templates && !self.rollouts.is_sharing() {
            self.handle_templates_stored(now);
        }
        if committed.term {
            let nodes: Vec<NodeId> = self.nodes.keys().cloned().collect();
            nodes.iter().for_each(|node| self.reply_and_transmit(node, now));
        }
    }

    fn keep(&mut self, node: &NodeId, promise: Promise, now: Now) {
        match promise {
            Promise::Message(message) => self.send(node, &message),
            Promise::Log(ack, weight) => {
                if let Some(state) = self.nodes.get_mut(node) {
                    let longest = self.acknowledge_after_ms_max;
                    state.acknowledgements.committed(ack, weight, longest, now.monotonic);
                }
            }
        }
    }

    /// This state of the API server is about to be taken over.
    pub(crate) fn note_seen(&mut self, seen: SeenState, now: Now) {
        self.seen = seen;
        match encode("seen state", &seen) {
            Ok(value) => self.commit.put(Tree::Meta, SEEN_KEY, value),
            Err(error) => warn!(error = %error, "what was seen of the API server was not stored"),
        }
        self.commit.schedule(now.monotonic);
    }

    /// The state of the API server that was taken over last.
    #[must_use]
    pub(crate) fn seen(&self) -> SeenState {
        self.seen
    }

    /// What is known of a node from the store, as of now.
    #[must_use]
    pub fn record(&self, node: &NodeId) -> Option<&NodeRecord> {
        self.nodes.get(node).map(|state| &state.record)
    }

    /// Every node that may come in.
    pub fn admitted(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.iter().filter(|(_, state)| state.is_trusted()).map(|(node, _)| node)
    }

    /// The newest events of a node, as it told them.
    pub fn events(&self, node: &NodeId) -> impl Iterator<Item = &NodeEvent> {
        self.nodes.get(node).into_iter().flat_map(|state| &state.events)
    }

    fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        seed
    }

    /// Seals `message` for `node`. Without a session it is a lost packet.
    fn send(&mut self, node: &NodeId, message: &Message) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        match state.session.seal(message) {
            Ok(payload) => {
                self.effects.push_back(Effect::Send { node: node.clone(), payload });
            }
            Err(error) => warn!(node = %node, error = %error, "could not seal a message"),
        }
    }

    fn handle_call(
        &mut self,
        ticket: u64,
        node: &NodeId,
        method: shared::wire::CallMethod,
        timeout_ms: u32,
        now: Now,
    ) {
        let refused = |message: String| CallEnded::without_answer(ticket, message);
        let Some(state) = self.nodes.get_mut(node) else {
            // Nor will there be one by itself: who follows a log need not wait.
            let none = refused(format!("there is no node `{node}`"));
            let ended = CallEnded { is_unanswered: false, ..none };
            return self.effects.push_back(Effect::EndCall(ended));
        };
        if !state.is_online() {
            let ended = refused(format!("node `{node}` is offline"));
            return self.effects.push_back(Effect::EndCall(ended));
        }
        match state.calls.begin(ticket, method, timeout_ms, now.monotonic) {
            Ok(request) => self.send(node, &Message::CallRequest(request)),
            Err(error) => self.effects.push_back(Effect::EndCall(refused(error.to_string()))),
        }
    }
}
