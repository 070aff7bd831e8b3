//! The hub of the simulated world: the production core and `perform`, on ports in memory.

use super::disk::Disk;
use hub::core::{
    ConfiguredSinks, Delivery, Effect, Event, HubCore, HubKeys, NodeRecord, read_stored_state,
};
use hub::ports::{HubPorts, perform};
use shared::model::{NodeId, Now};
use shared::ports::{Store, StoreError, WriteBatch};
use shared::sync::CallEnded;
use shared::trust::session::SessionPrivateKey;
use shared::trust::signature::SigningKey;
use std::collections::VecDeque;

/// The hub: what survives, and its process while it runs.
pub(super) struct SimHub {
    pub(super) disk: Disk,
    session_key: [u8; 32],
    signing_key: [u8; 32],
    /// The running process; `None` after a crash.
    pub(super) core: Option<HubCore>,
    /// Whether the sink of telemetry takes nothing.
    pub(super) sink_is_down: bool,
    /// What the sink was handed and has not taken; a hub that is killed loses it.
    at_the_sink: VecDeque<u64>,
}

/// What one step handed to the outside.
#[derive(Default)]
pub(super) struct Outcome {
    /// Payloads for nodes.
    pub(super) sent: Vec<(NodeId, Vec<u8>)>,
    /// Whether the process was killed in the middle.
    pub(super) crashed: bool,
}

struct Ports<'a> {
    disk: &'a mut Disk,
    outcome: &'a mut Outcome,
    at_the_sink: &'a mut VecDeque<u64>,
}

impl HubPorts for Ports<'_> {
    fn persist(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        self.disk.commit(batch)
    }

    fn send(&mut self, node: &NodeId, payload: Vec<u8>) {
        self.outcome.sent.push((node.clone(), payload));
    }

    fn admit(&mut self, _node: &NodeId, _certificate_serial: &str) {}

    fn expel(&mut self, _node: &NodeId) {}

    fn end_call(&mut self, _ended: CallEnded) {}

    fn deliver(&mut self, ticket: u64, _delivery: Delivery) -> Result<(), String> {
        self.at_the_sink.push_back(ticket);
        Ok(())
    }
}

impl SimHub {
    /// A hub with keys that never ran.
    pub(super) fn new(session_key: [u8; 32], signing_key: [u8; 32]) -> Self {
        let at_the_sink = VecDeque::new();
        let (disk, core) = (Disk::default(), None);
        Self { disk, session_key, signing_key, core, sink_is_down: false, at_the_sink }
    }

    /// Another replica takes the lead with what the leader had stored so far; the one that led goes on
    /// without knowing.
    pub(super) fn fail_over(&mut self) -> Self {
        let mut successor = Self::new(self.session_key, self.signing_key);
        successor.disk = self.disk.copy();
        successor.sink_is_down = self.sink_is_down;
        std::mem::replace(self, successor)
    }

    /// The hub's process starts.
    /// It knows who is enrolled from beside its store too.
    pub(super) fn start(&mut self, seed: [u8; 32], registry: &[(NodeId, NodeRecord)], now: Now) {
        let keys = HubKeys {
            session: SessionPrivateKey::from_bytes(self.session_key),
            signing: SigningKey::from_bytes(&self.signing_key),
        };
        let mut stored = read_stored_state(&self.disk).unwrap_or_default();
        for (node, record) in registry {
            stored.nodes.entry(node.clone()).or_insert_with(|| record.clone());
        }
        let sinks = ConfiguredSinks { telemetry: true, results: vec![] };
        self.core = Some(HubCore::new(keys, seed, stored, now).with_sinks(sinks));
        // At once: a world is at rest when nothing waits for an acknowledgement.
        self.core = self.core.take().map(|core| core.acknowledging_within(0));
    }

    /// The process is killed.
    pub(super) fn kill(&mut self) {
        self.core = None;
        self.at_the_sink.clear();
    }

    /// What the sink takes next, if it takes anything.
    fn poll_sink(&mut self) -> Option<Event> {
        let ticket = if self.sink_is_down { None } else { self.at_the_sink.pop_front() };
        ticket.map(|ticket| Event::Delivered { ticket })
    }

    /// Hands `events` to the core and performs what follows; before each effect `dies` says whether
    /// the process is killed there.
    pub(super) fn step(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        now: Now,
        dies: &mut dyn FnMut(&Effect) -> bool,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut queue: VecDeque<Event> = events.into_iter().collect();
        loop {
            let Some(core) = self.core.as_mut() else { return outcome };
            while let Some(effect) = core.poll_effect() {
                if dies(&effect) {
                    self.kill();
                    outcome.crashed = true;
                    return outcome;
                }
                let (disk, at_the_sink) = (&mut self.disk, &mut self.at_the_sink);
                let mut ports = Ports { disk, outcome: &mut outcome, at_the_sink };
                if let Some(event) = perform(effect, &mut ports) {
                    core.handle_event(event, now);
                }
            }
            let Some(event) = queue.pop_front().or_else(|| self.poll_sink()) else {
                return outcome;
            };
            if let Some(core) = self.core.as_mut() {
                core.handle_event(event, now);
            }
        }
    }
}
