//! What the hub's effects need of the world, and how one effect is performed. The simulation
//! compiles this same function, with ports in memory.

use crate::core::{Delivery, Effect, Event, Settlement, SharedTemplates};
use shared::in_words;
use shared::model::NodeId;
use shared::ports::{StoreError, WriteBatch};
use shared::sync::CallEnded;
use shared::wire::LogId;

/// What the hub's effects need of the world.
pub trait HubPorts {
    /// Makes a batch durable.
    ///
    /// # Errors
    /// When nothing of it is.
    fn persist(&mut self, batch: &WriteBatch) -> Result<(), StoreError>;
    /// Puts templates where another hub finds them; `Event::Shared` follows once they are there.
    fn share(&mut self, templates: SharedTemplates);
    /// Publishes a payload on a node's topic. A failure is a lost packet.
    fn send(&mut self, node: &NodeId, payload: Vec<u8>);
    /// The broker may let this node in, with this certificate.
    fn admit(&mut self, node: &NodeId, certificate_serial: &str);
    /// The broker must throw this node out and keep it out.
    fn expel(&mut self, node: &NodeId);
    /// A call came to its end: whoever asked is told.
    fn end_call(&mut self, ended: CallEnded);
    /// Hands records to their sink, without waiting for it; `Event::Delivered` follows when it has them.
    ///
    /// # Errors
    /// A sentence when nothing will follow.
    fn deliver(&mut self, ticket: u64, delivery: Delivery) -> Result<(), String>;
    /// Records are done with: people hear which were lost.
    fn settled(&mut self, node: &NodeId, log: LogId, settlement: &Settlement);
}

/// Performs `effect`; what must be told to the core before the next one.
pub fn perform(effect: Effect, ports: &mut impl HubPorts) -> Option<Event> {
    match effect {
        Effect::Persist(batch) => {
            return Some(match ports.persist(&batch) {
                Ok(()) => Event::Persisted,
                Err(error) => Event::PersistFailed { batch, error: in_words(&error) },
            });
        }
        Effect::Share(templates) => ports.share(templates),
        Effect::Send { node, payload } => ports.send(&node, payload),
        Effect::Admit { node, certificate_serial } => ports.admit(&node, &certificate_serial),
        Effect::Expel { node } => ports.expel(&node),
        Effect::EndCall(ended) => ports.end_call(ended),
        Effect::Settled { node, log, settlement } => ports.settled(&node, log, &settlement),
        Effect::Deliver { ticket, delivery } => {
            let taken = ports.deliver(ticket, delivery);
            return taken.err().map(|error| Event::DeliveryFailed { ticket, error });
        }
    }
    None
}
