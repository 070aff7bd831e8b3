//! What goes into the hub's core and what comes out.

use super::{Delivery, NodeRecord, Settlement, SharedTemplates};
use crate::manifests::Manifests;
use shared::model::NodeId;
use shared::ports::WriteBatch;
use shared::sync::CallEnded;
use shared::wire::{CallMethod, LogId};

/// Something that happened outside the core.
#[derive(Debug, Clone)]
pub enum Event {
    /// The desired state of the fleet, as it is now; valid as a whole.
    Manifests(Manifests),
    /// The broker says that a node is there.
    Connected {
        /// Which node.
        node: NodeId,
    },
    /// The broker says that a node is gone.
    Disconnected {
        /// Which node.
        node: NodeId,
    },
    /// A payload on a node's topic. Nothing of it is believed yet.
    Payload {
        /// Whose topic.
        node: NodeId,
        /// The payload.
        payload: Vec<u8>,
    },
    /// A node's request was signed.
    Enrolled {
        /// Which node.
        node: NodeId,
        /// What is known of it from now on.
        record: NodeRecord,
    },
    /// A node is not to be trusted any more.
    Revoked {
        /// Which node.
        node: NodeId,
    },
    /// Ask a node; ends as [`Effect::EndCall`].
    Call {
        /// The caller's number.
        ticket: u64,
        /// Which node.
        node: NodeId,
        /// What is asked.
        method: CallMethod,
        /// Milliseconds within which the answer is of use.
        timeout_ms: u32,
    },
    /// A sink has taken all of [`Effect::Deliver`], or refused it for good and said so.
    Delivered {
        /// Which.
        ticket: u64,
    },
    /// Nobody will take [`Effect::Deliver`]: its records must come again.
    DeliveryFailed {
        /// Which.
        ticket: u64,
        /// A sentence for people.
        error: String,
    },
    /// All of the last [`Effect::Share`] is where another hub finds it.
    Shared,
    /// The last [`Effect::Persist`] is durable.
    Persisted,
    /// The last [`Effect::Persist`] is not durable; nothing of it is.
    PersistFailed {
        /// The batch, as it was.
        batch: WriteBatch,
        /// A sentence for people.
        error: String,
    },
}

impl Event {
    /// Whom it is about, where it is about one node.
    pub(crate) fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Connected { node }
            | Self::Disconnected { node }
            | Self::Payload { node, .. }
            | Self::Enrolled { node, .. }
            | Self::Revoked { node }
            | Self::Call { node, .. } => Some(node),
            Self::Manifests(_)
            | Self::Delivered { .. }
            | Self::DeliveryFailed { .. }
            | Self::Shared
            | Self::Persisted
            | Self::PersistFailed { .. } => None,
        }
    }
}

/// Something to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make this durable; answered by `Persisted` or `PersistFailed` before the next effect.
    Persist(WriteBatch),
    /// Put these where another hub finds them when it takes over; answered by `Shared`, whenever that is.
    Share(SharedTemplates),
    /// Publish on a node's topic. May be lost; nothing answers.
    Send {
        /// Whose topic.
        node: NodeId,
        /// The payload.
        payload: Vec<u8>,
    },
    /// The broker may let this node in, with this certificate.
    Admit {
        /// Which node.
        node: NodeId,
        /// The serial number of its certificate.
        certificate_serial: String,
    },
    /// The broker must throw this node out and keep it out.
    Expel {
        /// Which node.
        node: NodeId,
    },
    /// A call came to its end.
    EndCall(CallEnded),
    /// Hand these records to their sink; answered by `Delivered` or `DeliveryFailed`, whenever that is.
    Deliver {
        /// The number to answer with.
        ticket: u64,
        /// The records.
        delivery: Delivery,
    },
    /// Records are done with and counted; the next [`Effect::Persist`] makes that durable.
    Settled {
        /// Whose.
        node: NodeId,
        /// Of which log.
        log: LogId,
        /// What became of them.
        settlement: Settlement,
    },
}
