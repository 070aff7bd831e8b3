//! What the core's effects reach: store, broker, sinks, admissions, and whoever waits for a call.

use super::admission::Admissions;
use super::sinks::Sinks;
use crate::broker::BrokerLink;
use crate::core::{Delivery, Settlement, SharedTemplates, in_ranges};
use crate::ports::HubPorts;
use shared::io::store::SealedStore;
use shared::model::NodeId;
use shared::ports::{Store, StoreError, WriteBatch};
use shared::sync::CallEnded;
use shared::wire::LogId;
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

/// A store that can say that it needs a new process.
pub(super) trait HubStore: Store {
    /// Whether the process must execute itself anew.
    fn must_restart(&self) -> bool;
}

impl HubStore for SealedStore {
    fn must_restart(&self) -> bool {
        Self::must_restart(self)
    }
}

/// The outside of the core.
pub(super) struct World<S> {
    pub(super) store: S,
    pub(super) admissions: Admissions,
    /// `None` until the first term is durable.
    pub(super) broker: Option<BrokerLink>,
    pub(super) sinks: Sinks,
    /// Where other hubs may take over.
    pub(super) sharing: Option<mpsc::Sender<SharedTemplates>>,
    calls: HashMap<u64, oneshot::Sender<CallEnded>>,
    next_ticket: u64,
}

impl<S: HubStore> World<S> {
    pub(super) fn new(store: S, sinks: Sinks) -> Self {
        let (admissions, calls) = (Admissions::default(), HashMap::new());
        Self { store, admissions, broker: None, sinks, sharing: None, calls, next_ticket: 0 }
    }

    /// The number of a call whose end goes to `reply`.
    pub(super) fn begin_call(&mut self, reply: oneshot::Sender<CallEnded>) -> u64 {
        self.next_ticket += 1;
        self.calls.insert(self.next_ticket, reply);
        self.next_ticket
    }
}

impl<S: HubStore> HubPorts for World<S> {
    fn persist(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        self.store.commit(batch)
    }

    fn share(&mut self, templates: SharedTemplates) {
        // The core sends one after the other, and none where it is the only hub; whoever does not take it
        // has stopped since this hub does not lead any more.
        if let Some(sharing) = &self.sharing
            && let Err(error) = sharing.try_send(templates)
        {
            warn!(error = %error, "templates can't be shared any more");
        }
    }

    fn send(&mut self, node: &NodeId, payload: Vec<u8>) {
        let Some(broker) = &self.broker else { return };
        if let Err(error) = broker.try_publish(node, payload) {
            debug!(node = %node, error = %error, "a payload was not sent");
        }
    }

    fn admit(&mut self, node: &NodeId, certificate_serial: &str) {
        self.admissions.admit(node, certificate_serial);
    }

    fn expel(&mut self, node: &NodeId) {
        self.admissions.expel(node);
        if let Some(broker) = &self.broker {
            broker.kick(node);
        }
    }

    fn end_call(&mut self, ended: CallEnded) {
        if let Some(reply) = self.calls.remove(&ended.ticket) {
            // Whoever asked may have gone away.
            let _ = reply.send(ended);
        }
    }

    fn deliver(&mut self, ticket: u64, delivery: Delivery) -> Result<(), String> {
        self.sinks.deliver(ticket, delivery)
    }

    fn settled(&mut self, node: &NodeId, log: LogId, settlement: &Settlement) {
        let Settlement { lost, undecodable, .. } = settlement;
        if !lost.is_empty() {
            let records = settlement.lost_records();
            warn!(node = %node, log = ?log, records, numbers = in_ranges(lost),
                "records are lost: their node no longer has them");
        }
        if !undecodable.is_empty() {
            let records = settlement.undecodable_records();
            warn!(node = %node, log = ?log, records, numbers = in_ranges(undecodable),
                "records can't be read");
        }
    }
}
