//! The hub's own broker: `rmqtt` with one TLS listener, in a small tokio runtime of its own, so that
//! a storm of handshakes does not hold up the hub and that closing leaves no task behind.
//!
//! Known limits of the library, version 0.24.0: a client that finished its TLS handshake, which
//! takes a certificate of ours, may wait for ever with its CONNECT (`rmqtt-net` `Dispatcher::
//! probe_version` has no time limit); it costs one socket. Kicking waits for a write in progress,
//! at most [`SEND_TIMEOUT`]; nothing is read from the node meanwhile.

use super::connections::{NoWay, WAITING_MESSAGES_MAX};
use super::gate::{Gate, GateHook, HOOKS, end_session};
use super::sink::EventSink;
use super::{BrokerCounters, BrokerEvent, IsAllowed, SendError, Tally};
use rmqtt::codec::types::Publish as Packet;
use rmqtt::context::ServerContext;
use rmqtt::net::{Builder, Listener};
use rmqtt::server::MqttServer;
use rmqtt::types::{From, Id, Message, Publish, QoS};
use shared::limits::{MQTT_PACKET_BYTES_MAX, MQTT_PAYLOAD_BYTES_MAX, NAME_BYTES_MAX};
use shared::model::NodeId;
use shared::wire::DownTopic;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tracing::info;

/// TLS handshakes are the only work worth a thread; the rest is copying.
const WORKER_THREADS: usize = 2;

/// From the TCP connection to the end of the TLS handshake, and again from there to the CONNECT.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// One write to a node; past it the node's connection ends.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// MQTT handshakes at once. More wait; the TLS handshakes before them are not counted here.
const HANDSHAKES_MAX: usize = 256;

/// Sessions at once: the fleet that one hub is meant for.
const SESSIONS_MAX: isize = 20_000;

/// Of the library's own queue to a node; ours ([`WAITING_MESSAGES_MAX`]) is full long before, since
/// the library drops in silence.
const LIBRARY_QUEUE_MESSAGES_MAX: usize = 4 * WAITING_MESSAGES_MAX;

/// A node that pings less often than this is found dead too late to matter.
const KEEP_ALIVE_SECONDS_MAX: u16 = 3600;

/// How long closing waits for sessions to end by themselves.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The library tells listeners apart by this number; there is one.
const LISTENER_ID: u16 = 1;

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
    /// Whom messages to nodes are from.
    hub: Id,
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
        let hub = Id::new(0, LISTENER_ID, None, None, "hub".into(), None);
        let mut broker = Self { gate, runtime: Some(runtime), address: options.listen, hub };
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
            let (listener, address) = bind(&options)?;
            let context = ServerContext::new()
                .busy_check_enable(false)
                .mqtt_max_sessions(SESSIONS_MAX)
                .build()
                .await;
            register(&context, gate).await;
            let server = MqttServer::new(context).listener_by_id(listener, LISTENER_ID).build();
            tokio::spawn(server.run());
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
        let message = Message::Forward(From::from_system(self.hub.clone()), packet(node, payload));
        way.unbounded_send(message).map_err(|_| SendError::NotConnected)?;
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
        self.end_sessions();
        let ended = async {
            while self.gate.connections().count() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
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

    fn end_sessions(&self) {
        let ways = self.gate.connections().ways();
        ways.iter().for_each(end_session);
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn register(context: &ServerContext, gate: Arc<Gate>) {
    let register = context.extends.hook_mgr().register();
    for hook in HOOKS {
        register.add(hook, Box::new(GateHook(Arc::clone(&gate)))).await;
    }
    register.start().await;
}

fn bind(options: &EmbeddedOptions) -> Result<(Listener, SocketAddr), StartError> {
    let cannot_listen =
        |error: rmqtt::Error| StartError::Listen { address: options.listen, source: error.into() };
    let listener = listener(options).bind().map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    let listener = listener.tls().map_err(|error| StartError::Certificates(error.into()))?;
    Ok((listener, address))
}

fn listener(options: &EmbeddedOptions) -> Builder {
    let path = |path: &PathBuf| Some(path.to_string_lossy().into_owned());
    Builder::new()
        .name("nodes")
        .laddr(options.listen)
        // A restarted hub must not wait for the old connections' TIME_WAIT.
        .reuseaddr(Some(true))
        .nodelay(true)
        .tls_cross_certificate(true)
        .tls_cert(path(&options.certificate_chain))
        .tls_key(path(&options.key))
        .tls_client_ca_certs(path(&options.client_ca))
        .collect_cert_info(true)
        .allow_anonymous(false)
        .handshake_timeout(HANDSHAKE_TIMEOUT)
        .send_timeout(SEND_TIMEOUT)
        .max_handshaking_limit(HANDSHAKES_MAX)
        .max_packet_size(MQTT_PACKET_BYTES_MAX)
        .max_clientid_len(NAME_BYTES_MAX)
        .max_qos_allowed(QoS::AtLeastOnce)
        .max_subscriptions(1)
        // A node publishes to one topic, and leaves a will on another.
        .max_topic_aliases(2)
        .max_mqueue_len(LIBRARY_QUEUE_MESSAGES_MAX)
        .allow_zero_keepalive(false)
        .max_keepalive(KEEP_ALIVE_SECONDS_MAX)
        // Zero would mean without limit. Sessions are of no use to us: end them with the connection.
        .max_session_expiry_interval(Duration::from_millis(1))
}

fn packet(node: &NodeId, payload: Vec<u8>) -> Publish {
    let packet = Packet {
        dup: false,
        retain: false,
        qos: QoS::AtMostOnce,
        topic: DownTopic { node: node.clone() }.name().into(),
        packet_id: None,
        payload: payload.into(),
        properties: None,
    };
    packet.into()
}
