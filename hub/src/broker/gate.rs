//! The rules of the embedded broker: who may connect, what may be published and subscribed, and the
//! place where the hub receives.

use super::connections::Connections;
use super::door::Identity;
use super::session::{Ending, Way};
use super::sink::EventSink;
use super::{BrokerEvent, IsAllowed, Tally};
use rmqtt_codec::v5::{Connect, LastWill};
use shared::limits::MQTT_PAYLOAD_BYTES_MAX;
use shared::model::NodeId;
use shared::wire::{DownTopic, UpTopic, UpTopicKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use thiserror::Error;
use tracing::{debug, info, warn};

/// Tells the sessions of one broker apart.
pub(super) type SessionId = u64;

/// The rules, and who is inside.
pub(super) struct Gate {
    is_allowed: IsAllowed,
    sink: EventSink,
    /// Names this start of the broker to its clients.
    pub(super) start: String,
    pub(super) tally: Arc<Tally>,
    connections: Mutex<Connections<SessionId, Way>>,
}

/// Why a client was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Refusal {
    #[error("its first words are no CONNECT of MQTT 5")]
    Version,
    #[error("its certificate's common name is not a node's name")]
    NotANode,
    #[error("its client id is not its certificate's common name")]
    ClientId,
    #[error("its user name is not its certificate's common name")]
    UserName,
    #[error("its will is not for its own topic, is retained, or has a payload")]
    Will,
    #[error("the hub does not allow the node: it is unknown, revoked, or has a newer certificate")]
    NotAllowed,
}

/// What became of a message from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reception {
    /// The hub will see it.
    Taken,
    /// It was not for the hub to see.
    Refused,
    /// The hub does not keep up: it is gone.
    Dropped,
}

impl Gate {
    pub(super) fn new(is_allowed: IsAllowed, sink: EventSink, tally: Arc<Tally>) -> Self {
        // Two starts of the same name cost a client a question that is answered with no.
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since_1970.map_or(0, |since| since.as_secs());
        let start = format!("{:04x}", seconds & 0xffff);
        Self { is_allowed, sink, start, tally, connections: Mutex::default() }
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, Connections<SessionId, Way>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a node's session; its messages are refused from here on.
    pub(super) fn kick(&self, node: &NodeId) {
        let way = self.connections().cut(node);
        if let Some(way) = way {
            way.end(Ending::Kicked);
        }
    }

    /// Whether a client may come in, and as whom.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn admit(&self, identity: &Identity, connect: &Connect) -> Result<NodeId, Refusal> {
        let node = identity.node.as_ref().ok_or(Refusal::NotANode)?;
        if connect.client_id != node.as_str() {
            return Err(Refusal::ClientId);
        }
        if connect.username.as_ref().is_some_and(|username| *username != node.as_str()) {
            return Err(Refusal::UserName);
        }
        if connect.last_will.as_ref().is_some_and(|will| !is_own_will(node, will)) {
            return Err(Refusal::Will);
        }
        if !(self.is_allowed)(node, Some(&identity.serial)) {
            return Err(Refusal::NotAllowed);
        }
        debug!(%node, "a node is let in");
        Ok(node.clone())
    }

    pub(super) fn note_refusal(&self, identity: &Identity, refusal: Refusal) {
        Tally::add(&self.tally.refused_connects, 1);
        let name = identity.node.as_ref().map(NodeId::as_str).unwrap_or_default();
        warn!(name, address = %identity.address.ip(), "refused a client: {refusal}");
    }

    /// A node's session begins, and ends the one before.
    pub(super) async fn begin(&self, node: &NodeId, session: SessionId, way: Way) {
        Tally::add(&self.tally.connects, 1);
        let replaced = self.connections().begin(node.clone(), session, way);
        if let Some(replaced) = replaced {
            replaced.way.end(Ending::TakenOver);
            if replaced.announced {
                self.sink.tell(BrokerEvent::Disconnected { node: node.clone() }).await;
            }
        }
    }

    /// A node that was revoked between its check and the start of its session was not there to be
    /// kicked.
    pub(super) fn recheck(&self, node: &NodeId, identity: &Identity) {
        if !(self.is_allowed)(node, Some(&identity.serial)) {
            self.kick(node);
        }
    }

    pub(super) async fn end(&self, node: &NodeId, session: SessionId, reason: &str) {
        let announced = self.connections().end(node, &session);
        if announced {
            info!(%node, reason, "a node's connection ended");
            self.sink.tell(BrokerEvent::Disconnected { node: node.clone() }).await;
        }
    }

    /// Whether the node may hear what is published under `filter`; from then on it is reachable.
    pub(super) async fn subscribe(&self, node: &NodeId, session: SessionId, filter: &str) -> bool {
        if filter != (DownTopic { node: node.clone() }).name() {
            self.refuse_topic(node, filter);
            return false;
        }
        let news = self.connections().make_reachable(node, &session);
        let Some(first_words) = news else { return true };
        info!(%node, "a node connected");
        self.sink.tell(BrokerEvent::Connected { node: node.clone() }).await;
        if first_words.is_some_and(|words| !self.sink.offer(node.clone(), words)) {
            debug!(%node, "the hub does not keep up: a greeting is lost, and will be repeated");
        }
        true
    }

    /// A node has published something.
    pub(super) fn receive(
        &self,
        node: &NodeId,
        session: SessionId,
        topic: &str,
        payload: &[u8],
    ) -> Reception {
        let own = UpTopic { node: node.clone(), kind: UpTopicKind::Up };
        let is_own = UpTopic::parse(topic).is_some_and(|topic| topic == own);
        if !is_own || payload.len() > MQTT_PAYLOAD_BYTES_MAX {
            self.refuse_topic(node, topic);
            return Reception::Refused;
        }
        if self.connections().keep_first_words(node, &session, payload) {
            return Reception::Taken;
        }
        if !self.connections().accepts(node, &session) {
            self.refuse_topic(node, topic);
            return Reception::Refused;
        }
        match self.sink.offer(node.clone(), payload.to_vec()) {
            true => Reception::Taken,
            false => Reception::Dropped,
        }
    }

    fn refuse_topic(&self, node: &NodeId, topic: &str) {
        Tally::add(&self.tally.refused_topics, 1);
        debug!(%node, topic, "refused a publish or a subscription");
    }

    /// A message to the node is on its way.
    pub(super) fn release(&self, node: &NodeId, session: SessionId, payload_bytes: usize) {
        self.connections().release(node, &session, payload_bytes);
    }
}

/// No will is ever sent: the hub hears of the end of a connection from the broker itself.
fn is_own_will(node: &NodeId, will: &LastWill) -> bool {
    let own = UpTopic { node: node.clone(), kind: UpTopicKind::Will }.name();
    will.topic == own.as_str() && !will.retain && will.message.is_empty()
}
