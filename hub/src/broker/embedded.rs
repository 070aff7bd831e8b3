//! The hub's own broker: an MQTT 5 endpoint for the nodes of one fleet, in a small tokio runtime of its
//! own, so that a storm of handshakes does not hold up the hub and that closing leaves no task behind.
//!
//! It is no broker for others: a node publishes to its own topic and hears its own, at QoS 0; nothing is
//! retained, kept or routed between nodes (docs/decisions/0003). Packets are read and written by
//! `rmqtt-codec`.
//!
//! | file | what it does |
//! |---|---|
//! | `door.rs` | TCP and TLS: who is there |
//! | `session.rs` | one connection's packets |
//! | `gate.rs` | who may come in, and what may be said |
//! | `connections.rs` | who is inside, and how much waits for whom |

use super::connections::NoWay;
use super::door::Door;
use super::gate::Gate;
use super::session::{Ending, serve};
use super::sink::EventSink;
use super::{BrokerCounters, BrokerEvent, IsAllowed, SendError, Tally};
use shared::limits::MQTT_PAYLOAD_BYTES_MAX;
use shared::model::NodeId;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

/// TLS handshakes are the only work worth a thread; the rest is copying.
const WORKER_THREADS: usize = 2;

/// From the TCP connection to the CONNECT.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// Connections at once: the fleet that one hub is meant for.
pub(super) const SESSIONS_MAX: usize = 20_000;

/// Pause after a connection could not be accepted: out of file descriptors, as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long closing waits for sessions to end by themselves.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the embedded broker needs to know.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The broker's certificate and what it was signed by, PEM.
    pub certificate_chain: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The CA that signs the nodes' certificates, PEM.
    pub client_ca: PathBuf,
    /// Which nodes may connect.
    pub is_allowed: IsAllowed,
}

/// Why the broker did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// No threads.
    #[error("could not start the broker's threads")]
    Threads(#[source] std::io::Error),
    /// The address is taken, or not ours.
    #[error("could not listen for nodes on {address}")]
    Listen {
        /// The wanted address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of certificates or the key can't be read, or they don't fit together.
    #[error("could not use the broker's certificates")]
    Certificates(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The task that starts the broker failed.
    #[error("could not start the broker")]
    Task(#[source] tokio::task::JoinError),
}

/// The running broker. Dropping it frees the port and cuts all connections.
pub struct EmbeddedBroker {
    gate: Arc<Gate>,
    runtime: Option<Runtime>,
    address: SocketAddr,
}

impl EmbeddedBroker {
    /// Starts listening. The first event is [`BrokerEvent::BrokerUp`].
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        options: EmbeddedOptions,
        events: mpsc::Sender<BrokerEvent>,
    ) -> Result<Self, StartError> {
        let tally = Arc::new(Tally::default());
        let sink = EventSink::new(events, Arc::clone(&tally));
        let is_allowed = Arc::clone(&options.is_allowed);
        let gate = Arc::new(Gate::new(is_allowed, sink.clone(), tally));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name("broker")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let mut broker = Self { gate, runtime: Some(runtime), address: options.listen };
        broker.address = broker.listen(options).await?;
        info!(address = %broker.address, "the broker listens for nodes");
        sink.tell(BrokerEvent::BrokerUp).await;
        Ok(broker)
    }

    /// Where the broker listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn listen(&self, options: EmbeddedOptions) -> Result<SocketAddr, StartError> {
        let Some(runtime) = &self.runtime else { return Ok(self.address) };
        let gate = Arc::clone(&self.gate);
        let serve = async move {
            let door = Door::open(&options)?;
            let address = door.address().map_err(|source| StartError::Listen {
                address: options.listen,
                source: source.into(),
            })?;
            tokio::spawn(receive(door, gate));
            Ok(address)
        };
        runtime.spawn(serve).await.map_err(StartError::Task)?
    }

    pub(super) fn try_publish(&self, node: &NodeId, payload: Vec<u8>) -> Result<(), SendError> {
        let payload_bytes = payload.len();
        if payload_bytes > MQTT_PAYLOAD_BYTES_MAX {
            return Err(SendError::Oversize);
        }
        let way =
            self.gate.connections().reserve(node, payload_bytes).map_err(
                |no_way| match no_way {
                    NoWay::NotConnected => SendError::NotConnected,
                    NoWay::Full => SendError::QueueFull,
                },
            )?;
        if !way.send(payload) {
            return Err(SendError::NotConnected);
        }
        Tally::add(&self.gate.tally.messages_sent, 1);
        Tally::add(&self.gate.tally.payload_bytes_sent, payload_bytes);
        Ok(())
    }

    pub(super) fn kick(&self, node: &NodeId) {
        self.gate.kick(node);
    }

    pub(super) fn counters(&self) -> BrokerCounters {
        self.gate.tally.read()
    }

    pub(super) async fn close(mut self) {
        let ways = self.gate.connections().ways();
        ways.iter().for_each(|way| way.end(Ending::Closing));
        let ended = async {
            while self.gate.connections().count() > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, ended).await.is_err() {
            info!("some nodes did not take the broker's goodbye");
        }
        if let Some(runtime) = self.runtime.take() {
            let shut_down = move || runtime.shutdown_timeout(CLOSE_TIMEOUT);
            if tokio::task::spawn_blocking(shut_down).await.is_err() {
                info!("the broker's threads did not end in time");
            }
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lets connections in, for ever; each goes its own way from there.
async fn receive(door: Door, gate: Arc<Gate>) {
    let places = Arc::new(Semaphore::new(SESSIONS_MAX));
    for id in 0.. {
        let (stream, address) = match door.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "could not accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            warn!(%address, "refused a connection: {SESSIONS_MAX} are open");
            continue;
        };
        let (greeting, gate) = (door.greet(stream, address), Arc::clone(&gate));
        tokio::spawn(async move {
            let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
            // In a box, which ends with it: a connection is there for weeks, and the handshake takes three
            // times the memory.
            let greeted = Box::pin(timeout_at(deadline, greeting)).await;
            match greeted {
                Ok(Ok((stream, identity))) => serve(gate, id, stream, identity, deadline).await,
                Ok(Err(error)) => debug!(%address, %error, "no TLS handshake"),
                Err(_) => debug!(%address, "no TLS handshake in time"),
            }
            drop(place);
        });
    }
}
