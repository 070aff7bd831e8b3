//! The hub's side of the link: an MQTT broker of its own, or a connection to an external one. The
//! shell sees neither, only [`BrokerEvent`]s and a [`BrokerLink`].
//!
//! Both refuse the same: what is not `e/<node>/u` from a node that is allowed does not reach the
//! hub, and nothing that a node sends reaches another node. Neither keeps messages: a full queue
//! refuses, a lost connection loses, and the sessions above deal with it.

mod connections;
mod door;
mod embedded;
mod external;
mod gate;
mod session;
mod sink;
mod verifier;

pub use embedded::{EmbeddedBroker, EmbeddedOptions, StartError};
pub use external::{EXTERNAL_CLIENT_ID, ExternalBroker, ExternalOptions};

use shared::model::NodeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// Whether a node may talk to the hub. Asked when a node connects, with the serial number of its
/// certificate (lower-case hexadecimal, no leading zeros), and for each message through an external
/// broker, which does not tell the serial number. Must be quick: it is called on the way of every
/// connect.
pub type IsAllowed = Arc<dyn Fn(&NodeId, Option<&str>) -> bool + Send + Sync>;

/// What the broker tells the hub. For each node `Connected` comes before its first `Received`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerEvent {
    /// Messages to the node have a way now. Through an external broker: its first message came.
    Connected {
        /// Which node.
        node: NodeId,
    },
    /// The node's connection is gone.
    Disconnected {
        /// Which node.
        node: NodeId,
    },
    /// A message of a node. With the embedded broker the sender is proven by its certificate.
    Received {
        /// From which node.
        node: NodeId,
        /// At most `MQTT_PAYLOAD_BYTES_MAX` bytes.
        payload: Vec<u8>,
    },
    /// The broker can be reached.
    BrokerUp,
    /// The broker can't be reached; every node counts as disconnected.
    BrokerDown {
        /// In words, for a person.
        reason: String,
    },
}

/// Why a message to a node was not accepted for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// The node has no connection, as far as the broker knows.
    #[error("could not send: the node is not connected")]
    NotConnected,
    /// The node does not take messages as fast as they come.
    #[error("could not send: the queue to the node is full")]
    QueueFull,
    /// Larger than one MQTT message may be.
    #[error("could not send: the message is too large")]
    Oversize,
}

/// What the broker did since the hub started. Bytes are payload bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BrokerCounters {
    /// Times a node (or, external, the hub itself) connected.
    pub connects: u64,
    /// Messages received from nodes and handed to the hub.
    pub messages_received: u64,
    /// Their payload bytes.
    pub payload_bytes_received: u64,
    /// Messages accepted for sending to nodes.
    pub messages_sent: u64,
    /// Their payload bytes.
    pub payload_bytes_sent: u64,
    /// Connects refused for their identity, their will or their node.
    pub refused_connects: u64,
    /// Publishes and subscriptions refused for their topic, size or sender.
    pub refused_topics: u64,
    /// Messages refused because the hub did not keep up.
    pub refused_queue_full: u64,
}

/// Either kind of broker.
pub enum BrokerLink {
    /// In this process.
    Embedded(EmbeddedBroker),
    /// Elsewhere.
    External(ExternalBroker),
}

/// The counters while they are counted.
#[derive(Debug, Default)]
struct Tally {
    connects: AtomicU64,
    messages_received: AtomicU64,
    payload_bytes_received: AtomicU64,
    messages_sent: AtomicU64,
    payload_bytes_sent: AtomicU64,
    refused_connects: AtomicU64,
    refused_topics: AtomicU64,
    refused_queue_full: AtomicU64,
}

impl BrokerLink {
    /// Hands one message to the node's connection. Never blocks. `Ok` means accepted for sending,
    /// not delivered.
    ///
    /// # Errors
    /// [`SendError`]; the message is then gone.
    pub fn try_publish(&self, node: &NodeId, payload: Vec<u8>) -> Result<(), SendError> {
        match self {
            Self::Embedded(broker) => broker.try_publish(node, payload),
            Self::External(broker) => broker.try_publish(node, payload),
        }
    }

    /// Cuts a node off at once: from the return of this call none of its messages is accepted until
    /// it connects anew, which [`IsAllowed`] decides. An external broker keeps the connection (its
    /// owner revokes there); then the messages are refused one by one.
    pub fn kick(&self, node: &NodeId) {
        match self {
            Self::Embedded(broker) => broker.kick(node),
            Self::External(broker) => broker.kick(node),
        }
    }

    /// Has each of these told `payload`, whether or not it was heard of yet, as fast as they are taken.
    /// Nothing at an embedded broker, which knows who is connected.
    pub fn call_out(&self, nodes: Vec<NodeId>, payload: &[u8]) {
        match self {
            Self::Embedded(_) => {}
            Self::External(broker) => broker.call_out(nodes, payload),
        }
    }

    /// What the broker did so far.
    #[must_use]
    pub fn counters(&self) -> BrokerCounters {
        match self {
            Self::Embedded(broker) => broker.counters(),
            Self::External(broker) => broker.counters(),
        }
    }

    /// Ends all connections and frees the port. Dropping does the same without waiting.
    pub async fn close(self) {
        match self {
            Self::Embedded(broker) => broker.close().await,
            Self::External(broker) => broker.close().await,
        }
    }
}

impl Tally {
    fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Ordering::Relaxed);
    }

    fn read(&self) -> BrokerCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BrokerCounters {
            connects: read(&self.connects),
            messages_received: read(&self.messages_received),
            payload_bytes_received: read(&self.payload_bytes_received),
            messages_sent: read(&self.messages_sent),
            payload_bytes_sent: read(&self.payload_bytes_sent),
            refused_connects: read(&self.refused_connects),
            refused_topics: read(&self.refused_topics),
            refused_queue_full: read(&self.refused_queue_full),
        }
    }
}
