//! The way to nodes over an external MQTT 5 broker (`--broker mqtts://…`): one connection, by which
//! the hub reads all nodes' topics and writes to each.
//!
//! The broker's owner keeps nodes apart (see `deploy/broker`); a message's sender is what its topic
//! says. It can't kick, and does not know who is connected but by messages and wills.

use super::sink::EventSink;
use super::{BrokerCounters, BrokerEvent, IsAllowed, SendError, Tally};
use shared::io::mqtt::{LinkEvent, MqttClient, MqttOptions, PublishError, connect};
use shared::model::NodeId;
use shared::wire::{DownTopic, UpTopic, UpTopicKind};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What the hub reads: the messages and the wills of all nodes.
const SUBSCRIPTIONS: [&str; 2] = ["e/+/u", "e/+/w"];

/// The hub's client id and its certificate's common name at an external broker. Not a valid
/// [`NodeId`], so that no node can be given the hub's rights by its name.
pub const EXTERNAL_CLIENT_ID: &str = "_hub";

/// Between the socket and the reader below, which never waits for the hub with a message.
const LINK_EVENTS_MAX: usize = 64;

/// Before the next attempt at a full queue: it drains by some hundred messages meanwhile.
const CALL_OUT_PAUSE: Duration = Duration::from_millis(20);

/// What the connection to an external broker needs to know.
#[derive(Clone)]
pub struct ExternalOptions {
    /// The connection, as [`EXTERNAL_CLIENT_ID`]; its subscriptions are set here.
    pub link: MqttOptions,
    /// Whose messages are read.
    pub is_allowed: IsAllowed,
}

/// The connection to an external broker.
pub struct ExternalBroker {
    client: Arc<MqttClient>,
    heard: Heard,
    sink: EventSink,
    tally: Arc<Tally>,
    runtime: Handle,
    reader: JoinHandle<()>,
}

/// The nodes that were heard of since the broker came up, and not of their end.
type Heard = Arc<Mutex<HashSet<NodeId>>>;

/// The task that turns what the link says into what the hub understands.
struct Reader {
    is_allowed: IsAllowed,
    sink: EventSink,
    heard: Heard,
    tally: Arc<Tally>,
    /// As last told to the hub; none before the first attempt ended.
    is_up: Option<bool>,
}

impl ExternalBroker {
    /// Starts connecting, on the current tokio runtime.
    #[must_use]
    pub fn start(options: ExternalOptions, events: mpsc::Sender<BrokerEvent>) -> Self {
        let ExternalOptions { mut link, is_allowed } = options;
        link.subscriptions = SUBSCRIPTIONS.map(str::to_owned).to_vec();
        let (link_events, received) = mpsc::channel(LINK_EVENTS_MAX);
        let tally = Arc::new(Tally::default());
        let sink = EventSink::new(events, Arc::clone(&tally));
        let heard = Heard::default();
        let reader = Reader {
            is_allowed,
            sink: sink.clone(),
            heard: Arc::clone(&heard),
            tally: Arc::clone(&tally),
            is_up: None,
        };
        let client = Arc::new(connect(link, link_events));
        let reader = tokio::spawn(reader.run(received));
        Self { client, heard, sink, tally, runtime: Handle::current(), reader }
    }

    pub(super) fn try_publish(&self, node: &NodeId, payload: Vec<u8>) -> Result<(), SendError> {
        if !lock(&self.heard).contains(node) {
            return Err(SendError::NotConnected);
        }
        let topic = DownTopic { node: node.clone() }.name();
        self.client.try_publish(&topic, payload).map_err(|error| match error {
            PublishError::LinkDown | PublishError::InvalidTopic => SendError::NotConnected,
            PublishError::QueueFull => SendError::QueueFull,
            PublishError::Oversize { .. } => SendError::Oversize,
        })
    }

    pub(super) fn call_out(&self, nodes: Vec<NodeId>, payload: &[u8]) {
        // Closing does not wait for it.
        let (client, payload) = (Arc::downgrade(&self.client), payload.to_vec());
        self.runtime.spawn(async move {
            for node in nodes {
                let topic = DownTopic { node }.name();
                loop {
                    let Some(client) = client.upgrade() else { return };
                    let Err(error) = client.try_publish(&topic, payload.clone()) else { break };
                    drop(client);
                    match error {
                        PublishError::QueueFull => tokio::time::sleep(CALL_OUT_PAUSE).await,
                        // It is called out anew when the link is up again, and never for the others.
                        PublishError::LinkDown => return,
                        PublishError::InvalidTopic | PublishError::Oversize { .. } => break,
                    }
                }
            }
        });
    }

    pub(super) fn kick(&self, node: &NodeId) {
        if lock(&self.heard).remove(node) {
            let (sink, node) = (self.sink.clone(), node.clone());
            self.runtime.spawn(async move { sink.tell(BrokerEvent::Disconnected { node }).await });
        }
    }

    pub(super) fn counters(&self) -> BrokerCounters {
        let link = self.client.counters();
        BrokerCounters {
            connects: link.connects,
            messages_sent: link.publishes,
            payload_bytes_sent: link.payload_bytes_sent,
            ..self.tally.read()
        }
    }

    pub(super) async fn close(self) {
        self.client.close().await;
    }
}

impl Drop for ExternalBroker {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Reader {
    async fn run(mut self, mut received: mpsc::Receiver<LinkEvent>) {
        while let Some(event) = received.recv().await {
            let listening = match event {
                LinkEvent::Up { .. } => self.change(true, BrokerEvent::BrokerUp).await,
                LinkEvent::Down { reason } => {
                    self.change(false, BrokerEvent::BrokerDown { reason }).await
                }
                LinkEvent::Received { topic, payload } => self.receive(&topic, payload).await,
            };
            if !listening {
                return;
            }
        }
    }

    async fn change(&mut self, is_up: bool, event: BrokerEvent) -> bool {
        if self.is_up.replace(is_up) == Some(is_up) {
            return true;
        }
        lock(&self.heard).clear();
        self.sink.tell(event).await
    }

    async fn receive(&mut self, topic: &str, payload: Vec<u8>) -> bool {
        let topic = UpTopic::parse(topic).filter(|topic| (self.is_allowed)(&topic.node, None));
        let Some(UpTopic { node, kind }) = topic else {
            Tally::add(&self.tally.refused_topics, 1);
            return true;
        };
        match kind {
            UpTopicKind::Will => self.forget(node).await,
            UpTopicKind::Up => self.hear(node, payload).await,
        }
    }

    async fn hear(&mut self, node: NodeId, payload: Vec<u8>) -> bool {
        let is_new = lock(&self.heard).insert(node.clone());
        if is_new && !self.sink.tell(BrokerEvent::Connected { node: node.clone() }).await {
            return false;
        }
        self.sink.offer(node, payload);
        true
    }

    async fn forget(&mut self, node: NodeId) -> bool {
        let was_heard = lock(&self.heard).remove(&node);
        !was_heard || self.sink.tell(BrokerEvent::Disconnected { node }).await
    }
}

fn lock(heard: &Heard) -> MutexGuard<'_, HashSet<NodeId>> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
