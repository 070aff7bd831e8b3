//! The MQTT link of an agent, and of a hub with an external broker: a thin wrapper over `rumqttc`
//! (MQTT 5 over mutual TLS).
//!
//! [`connect`] keeps one connection up for ever and says so in [`LinkEvent`]s. It refuses to
//! remember anything: each attempt is a clean start that subscribes anew, nothing is queued while
//! the link is down, nothing is sent twice, and no acknowledgement of the broker is taken for
//! delivery or for permission. What must arrive is the business of the session above it.

mod backoff;
mod dial;
mod hub_starts;
mod link;
mod meter;
mod socket_diag;

use crate::limits::MQTT_PAYLOAD_BYTES_MAX;
pub use hub_starts::{HUB_START_PROPERTY, HubStarts};
use link::{Link, LinkTask, SharedLink};
pub use meter::WireBytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// How long [`MqttClient::close`] waits for the DISCONNECT to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What one link needs to know.
#[derive(Clone)]
pub struct MqttOptions {
    /// The client id; brokers require that it equals the certificate's common name.
    pub client_id: String,
    /// Where the broker is: a name or an address.
    pub host: String,
    /// The broker's port.
    pub port: u16,
    /// The name in the broker's certificate, which may differ from `host`.
    pub server_name: String,
    /// The TLS side, with the client's certificate. Share one over all attempts: sessions resume
    /// from it (a resumed connect costs about half the bytes).
    pub tls: Arc<rustls::ClientConfig>,
    /// A ping goes out after this long without traffic; whole seconds, at least one.
    pub keep_alive: Duration,
    /// Topic filters, subscribed at QoS 0 on every connect.
    pub subscriptions: Vec<String>,
    /// Whether this end speaks first: then the link is up as soon as the subscriptions are asked for, so
    /// that the first words travel with them, and else when they are granted.
    pub speaks_first: bool,
    /// Topic and payload that the broker publishes when the link is lost.
    pub will: Option<(String, Vec<u8>)>,
    /// Publishes that wait for the socket; one more is refused. Each is at most
    /// [`MQTT_PAYLOAD_BYTES_MAX`], so an agent needs few and a hub one for each node.
    pub queue_messages_max: usize,
    /// While it is false no attempt is begun, and a connection that is up is closed; one that is coming
    /// up is not disturbed before it is. [`permitted`] where nobody forbids it. If its sender is dropped
    /// the last value holds.
    pub permit: watch::Receiver<bool>,
    /// For the jitter between attempts; different on every node.
    pub seed: [u8; 32],
}

/// A permit to connect that is never withdrawn.
#[must_use]
pub fn permitted() -> watch::Receiver<bool> {
    watch::channel(true).1
}

/// What happens on the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Connected, and every subscription was granted; where this end speaks first, asked for. A refusal
    /// ends the connection.
    Up {
        /// Which start of the hub the broker belongs to ([`HUB_START_PROPERTY`]), where it says so.
        hub_start: Option<String>,
    },
    /// The connection was lost or an attempt failed. Sent after each attempt, so also repeatedly.
    Down {
        /// In words, for a person.
        reason: String,
    },
    /// A message came.
    Received {
        /// Its topic.
        topic: String,
        /// At most [`MQTT_PAYLOAD_BYTES_MAX`] bytes.
        payload: Vec<u8>,
    },
}

/// Why a message was not accepted for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PublishError {
    /// There is no connection, or its subscriptions are not granted yet.
    #[error("could not publish: the link is down")]
    LinkDown,
    /// The socket does not drain as fast as messages come.
    #[error("could not publish: the queue to the socket is full")]
    QueueFull,
    /// Larger than our limit or than the broker's.
    #[error("could not publish {payload_bytes} bytes: the limit is {payload_bytes_max}")]
    Oversize {
        /// The payload's size.
        payload_bytes: usize,
        /// The largest payload that would have been accepted on this topic.
        payload_bytes_max: usize,
    },
    /// A topic with a wildcard, or an empty one.
    #[error("could not publish: not a topic")]
    InvalidTopic,
}

/// What the link did since [`connect`]. Bytes are payload bytes; [`MqttClient::wire_bytes`] has what
/// they cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Times the link came up.
    pub connects: u64,
    /// Messages accepted for sending.
    pub publishes: u64,
    /// Their payload bytes.
    pub payload_bytes_sent: u64,
    /// Messages received.
    pub messages: u64,
    /// Their payload bytes.
    pub payload_bytes_received: u64,
    /// Messages refused by [`MqttClient::try_publish`].
    pub refused: u64,
}

/// The sending side of a link. Dropping it cuts the connection, so that the broker sends the will;
/// [`MqttClient::close`] says goodbye first.
#[derive(Debug)]
pub struct MqttClient {
    link: SharedLink,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Starts a link on the current tokio runtime (of either kind). It connects, and connects again
/// after every failure, until it is closed, dropped, or nobody receives `events` any more.
///
/// A full `events` channel stops the reading of the socket, never the sending.
#[must_use]
pub fn connect(options: MqttOptions, events: mpsc::Sender<LinkEvent>) -> MqttClient {
    let (closing, closing_seen) = watch::channel(false);
    let link = Arc::new(Link::default());
    let task = LinkTask::new(options, Arc::clone(&link), events, closing_seen);
    MqttClient { link, closing, task: tokio::spawn(task.run()) }
}

impl MqttClient {
    /// Hands one message (QoS 0) to the link. Never blocks. `Ok` means accepted for sending, not
    /// delivered.
    ///
    /// # Errors
    /// [`PublishError`]; the message is then gone, and counted as refused.
    pub fn try_publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), PublishError> {
        let payload_bytes = payload.len() as u64;
        let counters = &self.link.counters;
        let result = self.link.try_publish(topic, payload);
        if result.is_ok() {
            counters.publishes.fetch_add(1, Ordering::Relaxed);
            counters.payload_bytes_sent.fetch_add(payload_bytes, Ordering::Relaxed);
        } else {
            counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// What the link did so far.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        self.link.counters.read()
    }

    /// What the link has cost on the wire since [`connect`], IP headers included, with everything that
    /// makes packets: handshakes, acknowledgements, retransmissions, attempts that failed, name
    /// lookups. Only grows. Cheap: the kernel is asked again only after traffic or a second.
    #[must_use]
    pub fn wire_bytes(&self) -> WireBytes {
        self.link.meter.read()
    }

    /// Payload bytes that were accepted for sending and are not with the kernel yet. A scheduler that
    /// hands over the next large message only when this is zero lets later small ones overtake: the
    /// kernel takes about a quarter of a second of a 64 kbit/s link in advance, and no more.
    #[must_use]
    pub fn waiting_bytes(&self) -> watch::Receiver<u64> {
        self.link.waiting.subscribe()
    }

    /// Leaves with a DISCONNECT that asks for the will, so that the other end learns of it at once;
    /// messages still in the queue are lost. Returns after two seconds at most.
    pub async fn close(&self) {
        self.closing.send_replace(true);
        if tokio::time::timeout(CLOSE_TIMEOUT, self.closing.closed()).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for MqttClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}
