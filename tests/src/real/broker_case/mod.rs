//! A broker of either kind with the hub's side of it and clients of every kind, for one suite that
//! both must pass.

mod pki;
mod raw;

pub use pki::{Pki, SERVER_NAME, Signed, Validity};
pub use raw::{Introduction, NOT_AUTHORIZED, RawClient};

use super::mosquitto::{ListenerFiles, Mosquitto};
use anyhow::{Result, bail};
use hub::broker::{
    BrokerEvent, BrokerLink, EXTERNAL_CLIENT_ID, EmbeddedBroker, EmbeddedOptions, ExternalBroker,
    ExternalOptions, IsAllowed,
};
use rustls::ClientConfig;
use shared::io::mqtt::{LinkEvent, MqttClient, MqttOptions, connect, permitted};
use shared::model::NodeId;
use shared::wire::{DownTopic, UpTopic, UpTopicKind};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

/// What is to happen happens within this; retries after a restart of the broker included.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What is not to happen has not happened after this. On loopback a message takes a millisecond.
pub const SILENCE: Duration = Duration::from_millis(400);

/// Events that wait for the test.
const EVENTS_MAX: usize = 256;

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The hub's own.
    Embedded,
    /// A real mosquitto with the shipped configuration.
    Mosquitto,
}

/// A broker, the hub's side of it, and a CA for clients.
pub struct BrokerCase {
    /// Which broker it is.
    pub kind: Kind,
    /// The CA that the broker trusts.
    pub pki: Pki,
    /// Where it listens.
    pub address: SocketAddr,
    link: Option<BrokerLink>,
    events: mpsc::Receiver<BrokerEvent>,
    events_of_next_start: mpsc::Sender<BrokerEvent>,
    denied: Arc<Mutex<BTreeSet<NodeId>>>,
    mosquitto: Option<Mosquitto>,
    folder: TempDir,
}

/// A node with the client that agents use.
pub struct NodeClient {
    /// Its client.
    pub client: MqttClient,
    /// Whether it may connect.
    pub permit: watch::Sender<bool>,
    node: NodeId,
    events: mpsc::Receiver<LinkEvent>,
}

impl BrokerCase {
    /// Starts the broker and the hub's side, and waits for `BrokerUp`.
    ///
    /// # Errors
    /// When anything does not start.
    pub async fn start(kind: Kind) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let pki = Pki::new("test CA")?;
        pki.write_server_files(folder.path())?;
        let (events_of_next_start, events) = mpsc::channel(EVENTS_MAX);
        let mut case = Self {
            kind,
            pki,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            link: None,
            events,
            events_of_next_start,
            denied: Arc::default(),
            mosquitto: None,
            folder,
        };
        if kind == Kind::Mosquitto {
            let mosquitto = Mosquitto::start(case.folder.path(), &case.listener_files())?;
            case.address = mosquitto.address();
            case.mosquitto = Some(mosquitto);
        }
        case.start_hub_side().await?;
        case.expect(&BrokerEvent::BrokerUp).await?;
        Ok(case)
    }

    /// Stops the broker without a goodbye to anybody and starts it on the same port.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn restart_broker(&mut self) -> Result<()> {
        if let Some(mosquitto) = &mut self.mosquitto {
            mosquitto.restart()?;
        } else {
            self.link = None;
            let started = Instant::now();
            // The old listener closes in the background.
            while let Err(error) = self.start_hub_side().await {
                if started.elapsed() > PATIENCE {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        self.expect(&BrokerEvent::BrokerUp).await
    }

    /// The hub's side.
    ///
    /// # Errors
    /// When it was closed.
    pub fn link(&self) -> Result<&BrokerLink> {
        self.link.as_ref().ok_or_else(|| anyhow::anyhow!("the hub's side is closed"))
    }

    /// Closes the hub's side, and with it the embedded broker.
    pub async fn close(&mut self) {
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }

    /// From now on the hub does not allow this node.
    pub fn deny(&self, node: &NodeId) {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).insert(node.clone());
    }

    /// The TLS side of a client with a good certificate.
    ///
    /// # Errors
    /// When the certificate can't be made.
    pub fn tls(&self, common_name: &str) -> Result<Arc<ClientConfig>> {
        self.pki.agent_config(&self.pki.client(common_name, Validity::Current)?)
    }

    /// A node with the client that agents use, connecting.
    ///
    /// # Errors
    /// When its certificate can't be made.
    pub fn node(&self, name: &str) -> Result<NodeClient> {
        Ok(self.node_with(name, self.tls(name)?))
    }

    /// A node that is connected, and that the hub's side has heard.
    ///
    /// # Errors
    /// When either does not come about in time.
    pub async fn node_heard(&mut self, name: &str) -> Result<NodeClient> {
        let mut client = self.node(name)?;
        client.until_up().await?;
        client.publish(b"here")?;
        let (node, payload) = (node_id(name), b"here".to_vec());
        self.expect(&BrokerEvent::Received { node, payload }).await?;
        Ok(client)
    }

    /// A node whose client connects to another address than the broker's own.
    ///
    /// # Errors
    /// When its certificate can't be made.
    pub fn node_through(&self, name: &str, address: SocketAddr) -> Result<NodeClient> {
        let node = node_id(name);
        let (host, port) = (address.ip().to_string(), address.port());
        let options = MqttOptions { host, port, ..self.node_options(&node, self.tls(name)?) };
        Ok(NodeClient::connect(node, options))
    }

    /// The same with another TLS side.
    #[must_use]
    pub fn node_with(&self, name: &str, tls: Arc<ClientConfig>) -> NodeClient {
        let node = node_id(name);
        let options = self.node_options(&node, tls);
        NodeClient::connect(node, options)
    }

    /// A raw client with a good certificate, its TLS handshake done.
    ///
    /// # Errors
    /// When the handshake fails.
    pub fn raw(&self, common_name: &str) -> Result<RawClient> {
        RawClient::open(self.address, SERVER_NAME, self.tls(common_name)?)
    }

    /// A raw client that said who it is, and was believed.
    ///
    /// # Errors
    /// When it was not.
    pub fn raw_connected(&self, name: &str, will_topic: Option<&str>) -> Result<RawClient> {
        let mut raw = self.raw(name)?;
        let will_topic = will_topic.map(str::to_owned);
        let code =
            raw.connect(&Introduction { client_id: name.into(), will_topic, ..<_>::default() })?;
        if code == 0 { Ok(raw) } else { bail!("refused with {code:#x}") }
    }

    /// Waits for an event of the hub's side, skipping others.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn expect(&mut self, wanted: &BrokerEvent) -> Result<()> {
        let mut skipped = Vec::new();
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match tokio::time::timeout_at(until, self.events.recv()).await {
                Ok(Some(event)) if event == *wanted => return Ok(()),
                Ok(Some(event)) => skipped.push(event),
                Ok(None) | Err(_) => bail!("no {wanted:?}, but {skipped:?}"),
            }
        }
    }

    /// Every event of the hub's side that comes until nothing came for a while.
    pub async fn events_until_silence(&mut self) -> Vec<BrokerEvent> {
        let mut events = Vec::new();
        while let Ok(Some(event)) = tokio::time::timeout(SILENCE, self.events.recv()).await {
            events.push(event);
        }
        events
    }

    /// Sends to a node until the hub's side takes it: an external broker must have heard of it.
    ///
    /// # Errors
    /// When it does not take it in time.
    pub async fn send(&self, node: &NodeId, payload: &[u8]) -> Result<()> {
        let started = Instant::now();
        while let Err(error) = self.link()?.try_publish(node, payload.to_vec()) {
            if started.elapsed() > PATIENCE {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn node_options(&self, node: &NodeId, tls: Arc<ClientConfig>) -> MqttOptions {
        let will = UpTopic { node: node.clone(), kind: UpTopicKind::Will };
        MqttOptions {
            subscriptions: vec![DownTopic { node: node.clone() }.name()],
            speaks_first: false,
            will: Some((will.name(), Vec::new())),
            ..self.options(node.as_str(), tls)
        }
    }

    fn options(&self, client_id: &str, tls: Arc<ClientConfig>) -> MqttOptions {
        MqttOptions {
            client_id: client_id.to_owned(),
            host: self.address.ip().to_string(),
            port: self.address.port(),
            server_name: SERVER_NAME.to_owned(),
            tls,
            keep_alive: Duration::from_secs(30),
            subscriptions: Vec::new(),
            speaks_first: false,
            will: None,
            queue_messages_max: 64,
            permit: permitted(),
            seed: [7; 32],
        }
    }

    async fn start_hub_side(&mut self) -> Result<()> {
        let events = self.events_of_next_start.clone();
        let link = match self.kind {
            Kind::Embedded => {
                let broker = EmbeddedBroker::start(self.embedded_options(), events).await?;
                self.address = broker.address();
                BrokerLink::Embedded(broker)
            }
            Kind::Mosquitto => {
                let link = self.options(EXTERNAL_CLIENT_ID, self.tls(EXTERNAL_CLIENT_ID)?);
                let options = ExternalOptions { link, is_allowed: self.is_allowed() };
                BrokerLink::External(ExternalBroker::start(options, events))
            }
        };
        self.link = Some(link);
        Ok(())
    }

    fn embedded_options(&self) -> EmbeddedOptions {
        let ListenerFiles { ca, certificate, key } = self.listener_files();
        EmbeddedOptions {
            listen: self.address,
            certificate_chain: certificate,
            key,
            client_ca: ca,
            is_allowed: self.is_allowed(),
        }
    }

    fn listener_files(&self) -> ListenerFiles {
        let folder = self.folder.path();
        ListenerFiles {
            ca: folder.join("ca.pem"),
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
        }
    }

    fn is_allowed(&self) -> IsAllowed {
        let denied = Arc::clone(&self.denied);
        Arc::new(move |node, _serial| {
            !denied.lock().unwrap_or_else(PoisonError::into_inner).contains(node)
        })
    }
}

impl NodeClient {
    fn connect(node: NodeId, mut options: MqttOptions) -> Self {
        let (permit, permit_seen) = watch::channel(true);
        options.permit = permit_seen;
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        Self { client: connect(options, events_in), permit, node, events }
    }

    /// Its name.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Publishes to its own topic.
    ///
    /// # Errors
    /// When its client refuses.
    pub fn publish(&self, payload: &[u8]) -> Result<()> {
        let topic = UpTopic { node: self.node.clone(), kind: UpTopicKind::Up };
        Ok(self.client.try_publish(&topic.name(), payload.to_vec())?)
    }

    /// Waits until the link is up.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn until_up(&mut self) -> Result<()> {
        self.until(|event| matches!(event, LinkEvent::Up { .. })).await
    }

    /// Waits until the link is down, or an attempt failed.
    ///
    /// # Errors
    /// When it stays up.
    pub async fn until_down(&mut self) -> Result<()> {
        self.until(|event| matches!(event, LinkEvent::Down { .. })).await
    }

    /// Waits for this message on its own topic.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn until_received(&mut self, payload: &[u8]) -> Result<()> {
        let topic = DownTopic { node: self.node.clone() }.name();
        let wanted = LinkEvent::Received { topic, payload: payload.to_vec() };
        self.until(|event| *event == wanted).await
    }

    /// Every event that comes until nothing came for a while.
    pub async fn events_until_silence(&mut self) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        while let Ok(Some(event)) = tokio::time::timeout(SILENCE, self.events.recv()).await {
            events.push(event);
        }
        events
    }

    async fn until(&mut self, wanted: impl Fn(&LinkEvent) -> bool) -> Result<()> {
        let mut skipped = Vec::new();
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match tokio::time::timeout_at(until, self.events.recv()).await {
                Ok(Some(event)) if wanted(&event) => return Ok(()),
                Ok(Some(event)) => skipped.push(event),
                Ok(None) | Err(_) => bail!("it did not come, but {skipped:?}"),
            }
        }
    }
}

/// A node's name that is known to be good.
///
/// # Panics
/// When it is not.
#[must_use]
#[allow(clippy::expect_used, reason = "only tests call it, with names in view")]
pub fn node_id(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid name")
}
