//! The MQTT link as events of the core.

use crate::core::{Event, LinkStatus};
use shared::io::mqtt::{HubStarts, LinkEvent, MqttClient, MqttOptions, WireBytes, connect};
use shared::model::NodeId;
use shared::trust::enrollment::Enrollment;
use shared::wire::{DownTopic, UpTopic, UpTopicKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

/// The longest silence on an idle link, in both directions. Longer than the longest batch of telemetry
/// (15 min), which is the heartbeat: a ping costs about 200 bytes and crosses only where nothing else
/// does. Silence of a connection on which something was sent is noticed within two minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(1000);

/// Payloads from the hub that wait for the core.
const RECEIVED_MAX: usize = 16;

/// Payloads to the hub that wait for the socket: what the windows of the maps and logs allow.
const SENT_MAX: usize = 32;

/// The link: publishes on this node's topic, hands over what arrives on its other one.
pub(super) struct Link {
    client: MqttClient,
    events: mpsc::Receiver<LinkEvent>,
    topic: String,
    #[allow(dead_code, reason = "the byte budget withdraws it")]
    permit: watch::Sender<bool>,
    /// As it was last told.
    was_up: Option<bool>,
    hub_starts: HubStarts,
    /// Follows upon what was told last.
    next: Option<Event>,
}

impl Link {
    /// Begins to connect, and goes on trying for as long as the agent runs.
    pub(super) fn open(
        enrollment: &Enrollment,
        (host, port): (String, u16),
        tls: Arc<rustls::ClientConfig>,
        seed: [u8; 32],
    ) -> Self {
        let node: &NodeId = &enrollment.node;
        let topic = |kind| UpTopic { node: node.clone(), kind }.name();
        let (sender, events) = mpsc::channel(RECEIVED_MAX);
        let (permit, permit_seen) = watch::channel(true);
        let options = MqttOptions {
            client_id: node.to_string(),
            host,
            port,
            server_name: enrollment.broker_name.clone(),
            tls,
            keep_alive: KEEP_ALIVE,
            subscriptions: vec![DownTopic { node: node.clone() }.name()],
            speaks_first: true,
            queue_messages_max: SENT_MAX,
            permit: permit_seen,
            will: Some((topic(UpTopicKind::Will), vec![])),
            seed,
        };
        Self {
            client: connect(options, sender),
            events,
            topic: topic(UpTopicKind::Up),
            permit,
            was_up: None,
            hub_starts: HubStarts::default(),
            next: None,
        }
    }

    /// Publishes; a failure is a lost packet.
    pub(super) fn send(&self, payload: Vec<u8>) {
        if let Err(error) = self.client.try_publish(&self.topic, payload) {
            debug!(error = %error, "a payload was not sent");
        }
    }

    /// What happens next on the link.
    pub(super) async fn next_event(&mut self) -> Option<Event> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        Some(match self.events.recv().await? {
            LinkEvent::Up { hub_start } => {
                info!("connected to the broker");
                self.was_up = Some(true);
                if self.hub_starts.is_another(hub_start) {
                    self.next = Some(Event::LinkUp);
                    return Some(Event::HubAnew);
                }
                Event::LinkUp
            }
            LinkEvent::Down { reason } => {
                // Said once, not at each of the attempts of a month.
                if self.was_up != Some(false) {
                    warn!(reason, "not connected to the broker: pods go on, records are kept");
                }
                self.was_up = Some(false);
                Event::LinkDown
            }
            LinkEvent::Received { payload, .. } => Event::Payload(payload),
        })
    }

    /// Whether the link may be up, or come up.
    pub(super) fn set_permit(&self, permitted: bool) {
        self.permit.send_if_modified(|permit| std::mem::replace(permit, permitted) != permitted);
    }

    /// What the link has cost since the agent's start.
    pub(super) fn wire_bytes(&self) -> WireBytes {
        self.client.wire_bytes()
    }

    /// Whether it is up, as far as it was told.
    pub(super) fn is_up(&self) -> bool {
        self.was_up == Some(true)
    }

    /// What crossed so far.
    pub(super) fn status(&self) -> LinkStatus {
        let counters = self.client.counters();
        LinkStatus {
            connects: counters.connects,
            sent_bytes: counters.payload_bytes_sent,
            received_bytes: counters.payload_bytes_received,
            sent_messages: counters.publishes,
            received_messages: counters.messages,
        }
    }

    /// Says good-bye to the broker.
    pub(super) async fn close(self) {
        self.client.close().await;
    }
}
