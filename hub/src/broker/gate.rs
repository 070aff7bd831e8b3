//! The rules of the embedded broker, as hooks of `rmqtt`: who may connect, what may be published
//! and subscribed, and the place where the hub receives.
//!
//! A message is taken here, in the check of the publish, because that is the only hook that can
//! refuse; past it the broker finds no subscriber for it, since nobody may subscribe to what nodes
//! publish.

use super::connections::Connections;
use super::sink::EventSink;
use super::{BrokerEvent, IsAllowed, Tally};
use async_trait::async_trait;
use rmqtt::codec::cert::CertInfo;
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType, Type};
use rmqtt::session::Session;
use rmqtt::types::{
    AuthResult, ConnectInfo, Id, LastWill, Message, Publish, PublishAclResult, QoS, Reason,
    Subscribe, SubscribeAclResult, Tx,
};
use shared::limits::MQTT_PAYLOAD_BYTES_MAX;
use shared::model::NodeId;
use shared::wire::{DownTopic, UpTopic, UpTopicKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tracing::{debug, info, warn};

/// The hooks that [`Gate`] answers.
pub(super) const HOOKS: [Type; 8] = [
    Type::ClientAuthenticate,
    Type::ClientConnected,
    Type::ClientDisconnected,
    Type::ClientSubscribeCheckAcl,
    Type::SessionSubscribed,
    Type::MessagePublishCheckAcl,
    Type::MessageDelivered,
    Type::MessageDropped,
];

/// The rules, and who is inside.
pub(super) struct Gate {
    is_allowed: IsAllowed,
    sink: EventSink,
    pub(super) tally: Arc<Tally>,
    connections: Mutex<Connections<Id, Tx>>,
}

/// Why a client was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Refusal {
    #[error("it does not speak MQTT 5")]
    Version,
    #[error("it showed no certificate with a common name")]
    NoCertificate,
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

impl Gate {
    pub(super) fn new(is_allowed: IsAllowed, sink: EventSink, tally: Arc<Tally>) -> Self {
        Self { is_allowed, sink, tally, connections: Mutex::default() }
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, Connections<Id, Tx>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a node's session; its messages are refused from here on.
    pub(super) fn kick(&self, node: &NodeId) {
        let way = self.connections().cut(node);
        if let Some(way) = way {
            end_session(&way);
        }
    }

    fn authenticate(&self, client: &ConnectInfo) -> AuthResult {
        match self.check_client(client) {
            Ok(node) => {
                debug!(%node, "a node is let in");
                // Never a superuser: those bypass the checks of topics.
                AuthResult::Allow(false, None)
            }
            Err(refusal) => {
                Tally::add(&self.tally.refused_connects, 1);
                let address = client.ipaddress().map(|address| address.to_string());
                let name = common_name(certificate(client)).unwrap_or_default();
                warn!(name, address, "refused a client: {refusal}");
                AuthResult::NotAuthorized
            }
        }
    }

    fn check_client(&self, client: &ConnectInfo) -> Result<NodeId, Refusal> {
        if !matches!(client, ConnectInfo::V5(..)) {
            return Err(Refusal::Version);
        }
        let name = common_name(certificate(client)).ok_or(Refusal::NoCertificate)?;
        let node = NodeId::new(name).map_err(|_| Refusal::NotANode)?;
        let client_id: &str = client.client_id();
        if client_id != name {
            return Err(Refusal::ClientId);
        }
        if client.username().is_some_and(|username| *username != name) {
            return Err(Refusal::UserName);
        }
        if client.last_will().is_some_and(|will| !is_own_will(&node, &will)) {
            return Err(Refusal::Will);
        }
        let allowed = (self.is_allowed)(&node, serial(client));
        if allowed { Ok(node) } else { Err(Refusal::NotAllowed) }
    }

    async fn begin(&self, session: &Session) {
        let Some(node) = node_of(&session.id) else { return };
        let way = session.scx.extends.shared().await.entry(session.id.clone()).tx();
        let Some(way) = way else { return };
        Tally::add(&self.tally.connects, 1);
        let replaced = self.connections().begin(node.clone(), session.id.clone(), way);
        if replaced {
            self.sink.tell(BrokerEvent::Disconnected { node: node.clone() }).await;
        }
        self.recheck(&node, session).await;
    }

    /// A node that was revoked between its check and the start of its session was not there to be
    /// kicked.
    async fn recheck(&self, node: &NodeId, session: &Session) {
        let Ok(client) = session.connect_info().await else { return };
        if !(self.is_allowed)(node, serial(&client)) {
            self.kick(node);
        }
    }

    async fn end(&self, session: &Session, reason: &Reason) {
        let Some(node) = node_of(&session.id) else { return };
        let announced = self.connections().end(&node, &session.id);
        if announced {
            info!(%node, %reason, "a node's connection ended");
            self.sink.tell(BrokerEvent::Disconnected { node }).await;
        }
    }

    fn check_subscribe(&self, session: &Session, subscribe: &Subscribe) -> SubscribeAclResult {
        let own = node_of(&session.id).map(|node| DownTopic { node }.name());
        if own.is_some_and(|own| subscribe.topic_filter == own) {
            return SubscribeAclResult::new_success(QoS::AtMostOnce, None);
        }
        self.refuse_topic(session, &subscribe.topic_filter);
        SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized)
    }

    async fn subscribed(&self, session: &Session) {
        let Some(node) = node_of(&session.id) else { return };
        let news = self.connections().make_reachable(&node, &session.id);
        let Some(first_words) = news else { return };
        info!(%node, "a node connected");
        self.sink.tell(BrokerEvent::Connected { node: node.clone() }).await;
        if first_words.is_some_and(|words| !self.sink.offer(node.clone(), words)) {
            debug!(%node, "the hub does not keep up: a greeting is lost, and will be repeated");
        }
    }

    fn receive(&self, session: &Session, publish: &Publish) -> PublishAclResult {
        let Some(node) = Self::sender(session, publish) else {
            self.refuse_topic(session, &publish.topic);
            return PublishAclResult::rejected(false, None);
        };
        if self.connections().keep_first_words(&node, &session.id, &publish.payload) {
            return PublishAclResult::allow();
        }
        if !self.connections().accepts(&node, &session.id) {
            self.refuse_topic(session, &publish.topic);
            return PublishAclResult::rejected(false, None);
        }
        if self.sink.offer(node, publish.payload.to_vec()) {
            return PublishAclResult::allow();
        }
        PublishAclResult::rejected(false, Some("the hub does not keep up".into()))
    }

    /// The node that this message is from, if it may send such a one.
    fn sender(session: &Session, publish: &Publish) -> Option<NodeId> {
        let node = node_of(&session.id)?;
        let topic = UpTopic::parse(&publish.topic)?;
        let is_own = topic.node == node && topic.kind == UpTopicKind::Up;
        let fits = publish.payload.len() <= MQTT_PAYLOAD_BYTES_MAX;
        (is_own && fits).then_some(node)
    }

    fn refuse_topic(&self, session: &Session, topic: &str) {
        Tally::add(&self.tally.refused_topics, 1);
        debug!(node = %session.id.client_id, topic, "refused a publish or a subscription");
    }

    fn release(&self, to: &Id, publish: &Publish) {
        if let Some(node) = node_of(to) {
            self.connections().release(&node, to, publish.payload.len());
        }
    }
}

/// What is registered with the broker, once for each hook.
pub(super) struct GateHook(pub(super) Arc<Gate>);

#[async_trait]
impl Handler for GateHook {
    async fn hook(&self, parameter: &Parameter, previous: Option<HookResult>) -> ReturnType {
        let gate = &self.0;
        let answer = match parameter {
            Parameter::ClientAuthenticate(client) => {
                Some(HookResult::AuthResult(gate.authenticate(client)))
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                Some(HookResult::SubscribeAclResult(gate.check_subscribe(session, subscribe)))
            }
            Parameter::MessagePublishCheckAcl(session, publish) => {
                Some(HookResult::PublishAclResult(gate.receive(session, publish)))
            }
            _ => {
                gate.note(parameter).await;
                return (true, previous);
            }
        };
        (false, answer)
    }
}

impl Gate {
    /// Hooks that only tell.
    async fn note(&self, parameter: &Parameter<'_>) {
        match parameter {
            Parameter::ClientConnected(session) => self.begin(session).await,
            Parameter::ClientDisconnected(session, reason) => self.end(session, reason).await,
            Parameter::SessionSubscribed(session, _) => self.subscribed(session).await,
            Parameter::MessageDelivered(session, _, publish) => self.release(&session.id, publish),
            Parameter::MessageDropped(Some(to), _, publish, _) => self.release(to, publish),
            _ => {}
        }
    }
}

/// Tells a session's task to end; it does as soon as it is not writing to its socket.
pub(super) fn end_session(way: &Tx) {
    if way.unbounded_send(Message::Closed(Reason::ConnectKicked(true))).is_err() {
        debug!("a session to be ended had ended");
    }
}

fn certificate(client: &ConnectInfo) -> Option<&CertInfo> {
    match client {
        ConnectInfo::V3(_, connect) => connect.cert.as_ref(),
        ConnectInfo::V5(_, connect) => connect.cert.as_ref(),
    }
}

fn common_name(certificate: Option<&CertInfo>) -> Option<&str> {
    certificate?.common_name.as_deref()
}

fn serial(client: &ConnectInfo) -> Option<&str> {
    certificate(client)?.serial.as_deref()
}

/// The broker checks no will, and sends it without asking the rules of publishing.
fn is_own_will(node: &NodeId, will: &LastWill<'_>) -> bool {
    let LastWill::V5(will) = will else { return false };
    let own = UpTopic { node: node.clone(), kind: UpTopicKind::Will }.name();
    will.topic == own && !will.retain && will.message.is_empty()
}

/// The node of a session that was let in: its client id is the name in its certificate.
fn node_of(id: &Id) -> Option<NodeId> {
    NodeId::new(&id.client_id).ok()
}
