//! The hub of the simulated world: the production core and `perform`, on ports in memory.

use super::accounts::{Deed, Durable};
use super::disk::Disk;
use hub::core::{
    ConfiguredSinks, Delivery, Effect, Event, HubCore, HubKeys, NodeRecord, Settlement,
    SharedTemplates, SinkKey, read_stored_state,
};
use hub::ports::{HubPorts, perform};
use shared::model::{NodeId, Now, SinkId};
use shared::ports::{Store, StoreError, WriteBatch};
use shared::sync::CallEnded;
use shared::trust::session::SessionPrivateKey;
use shared::trust::signature::SigningKey;
use shared::wire::LogId;
use std::collections::{BTreeSet, VecDeque};

/// Sinks of results: what workloads name.
pub(super) const RESULT_SINKS: [&str; 2] = [shared::model::DEFAULT_SINK, "plant"];

/// The hub: what survives, and its process while it runs.
pub(super) struct SimHub {
    pub(super) disk: Disk,
    session_key: [u8; 32],
    signing_key: [u8; 32],
    /// The running process; `None` after a crash.
    pub(super) core: Option<HubCore>,
    /// Sinks that take nothing.
    pub(super) sinks_down: BTreeSet<SinkKey>,
    /// The next delivery is refused.
    pub(super) refuses_next: bool,
    /// What sinks were handed and have not taken; a hub that is killed loses it.
    at_the_sinks: VecDeque<(u64, SinkKey)>,
    /// Milliseconds that an acknowledgement of what can wait is kept back at most.
    pub(super) acknowledge_within_ms: u64,
}

/// What one step handed to the outside.
#[derive(Default)]
pub(super) struct Outcome {
    /// Payloads for nodes.
    pub(super) sent: Vec<(NodeId, Vec<u8>)>,
    /// It was killed in the middle.
    pub(super) crashed: bool,
    /// What it did with records, in order.
    pub(super) deeds: Vec<Deed>,
    /// Calls that came to their end.
    pub(super) ended_calls: Vec<CallEnded>,
}

struct Ports<'a> {
    disk: &'a mut Disk,
    outcome: &'a mut Outcome,
    at_the_sinks: &'a mut VecDeque<(u64, SinkKey)>,
    refuses_next: &'a mut bool,
}

impl HubPorts for Ports<'_> {
    /// The replicas of this world share a store.
    fn share(&mut self, _: SharedTemplates) {}

    fn persist(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        let done = self.disk.commit(batch);
        self.outcome.deeds.push(if done.is_ok() { Deed::Stored } else { Deed::Unstored });
        done
    }

    fn send(&mut self, node: &NodeId, payload: Vec<u8>) {
        self.outcome.sent.push((node.clone(), payload));
    }

    fn admit(&mut self, _node: &NodeId, _certificate_serial: &str) {}

    fn expel(&mut self, _node: &NodeId) {}

    fn end_call(&mut self, ended: CallEnded) {
        self.outcome.ended_calls.push(ended);
    }

    fn deliver(&mut self, ticket: u64, delivery: Delivery) -> Result<(), String> {
        let sink = delivery.sink;
        self.outcome.deeds.push(Deed::Handed(ticket, delivery));
        if std::mem::take(self.refuses_next) {
            self.outcome.deeds.push(Deed::Refused(ticket));
            return Err("its queue is gone".to_owned());
        }
        self.at_the_sinks.push_back((ticket, sink));
        Ok(())
    }

    fn settled(&mut self, node: &NodeId, log: LogId, settlement: &Settlement) {
        self.outcome.deeds.push(Deed::Settled(node.clone(), log, settlement.clone()));
    }
}

impl SimHub {
    /// A hub with keys that never ran.
    pub(super) fn new(session_key: [u8; 32], signing_key: [u8; 32]) -> Self {
        Self {
            disk: Disk::default(),
            session_key,
            signing_key,
            core: None,
            sinks_down: BTreeSet::new(),
            refuses_next: false,
            at_the_sinks: VecDeque::new(),
            acknowledge_within_ms: 0,
        }
    }

    /// Another replica takes the lead with what the leader had stored so far; the one that led goes on
    /// without knowing.
    pub(super) fn fail_over(&mut self) -> Self {
        let mut successor = Self::new(self.session_key, self.signing_key);
        successor.disk = self.disk.copy();
        successor.sinks_down.clone_from(&self.sinks_down);
        successor.acknowledge_within_ms = self.acknowledge_within_ms;
        std::mem::replace(self, successor)
    }

    /// Its key for sessions.
    pub(super) fn session_key(&self) -> [u8; 32] {
        self.session_key
    }

    /// What its store holds of the nodes.
    pub(super) fn durable(&self) -> Durable {
        read_stored_state(&self.disk).unwrap_or_default().nodes
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
        let results = RESULT_SINKS.iter().map(|name| SinkId::of(name)).collect();
        let sinks = ConfiguredSinks { telemetry: true, results };
        let core = HubCore::new(keys, seed, stored, now).with_sinks(sinks);
        self.core = Some(core.acknowledging_within(self.acknowledge_within_ms));
    }

    /// The process is killed.
    pub(super) fn kill(&mut self) {
        self.core = None;
        self.at_the_sinks.clear();
    }

    /// What a sink takes next, if any takes anything.
    fn poll_sinks(&mut self) -> Option<u64> {
        let takes = |(_, sink): &(u64, SinkKey)| !self.sinks_down.contains(sink);
        let at = self.at_the_sinks.iter().position(takes)?;
        self.at_the_sinks.remove(at).map(|(ticket, _)| ticket)
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
                    outcome.crashed = true;
                    self.kill();
                    return outcome;
                }
                let mut ports = Ports {
                    disk: &mut self.disk,
                    outcome: &mut outcome,
                    at_the_sinks: &mut self.at_the_sinks,
                    refuses_next: &mut self.refuses_next,
                };
                if let Some(event) = perform(effect, &mut ports) {
                    core.handle_event(event, now);
                }
            }
            let event = queue.pop_front().or_else(|| {
                let ticket = self.poll_sinks()?;
                outcome.deeds.push(Deed::Took(ticket));
                Some(Event::Delivered { ticket })
            });
            let Some(event) = event else { return outcome };
            if let Some(core) = self.core.as_mut() {
                core.handle_event(event, now);
            }
        }
    }
}
