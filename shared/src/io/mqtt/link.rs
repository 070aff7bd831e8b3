//! The task behind a link: one attempt after another, each with a client of its own, so that no
//! state of an old connection reaches a new one.

use super::backoff::Backoff;
use super::dial::dial;
use super::hub_starts::{HUB_START_CHARACTERS_MAX, HUB_START_PROPERTY};
use super::meter::WireMeter;
use super::{LinkCounters, LinkEvent, MQTT_PAYLOAD_BYTES_MAX, MqttOptions, PublishError};
use crate::limits::MQTT_PACKET_BYTES_MAX;
use rumqttc::{
    AsyncClient, Broker, ClientError, ConnAck, DisconnectProperties, DisconnectReasonCode, Event,
    EventLoop, Incoming, LastWill, Outgoing, PublishOptions, QoS, SubAck, SubscribeFilterInput,
    SubscribeReasonCode, TlsConfiguration, TopicAliasPolicy, Transport,
};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

/// From the first packet to the granted subscriptions. A satellite link takes about five round
/// trips of 700 ms and 4 kB at a few kbit/s for it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a link that comes up waits for the first words, so that they travel with the subscription.
const FIRST_WORDS_TIMEOUT: Duration = Duration::from_millis(20);

/// Packets that are written at once, and so in one TLS record: a subscription and the first words. Not
/// more, because what is written can't be overtaken.
const PACKETS_AT_ONCE: usize = 2;

/// Of a PUBLISH at QoS 0 besides topic and payload: type and length (5), length of the topic (2),
/// no properties (1).
const PUBLISH_HEADER_BYTES_MAX: usize = 8;

/// We publish and subscribe at QoS 0 only. The client library reserves memory for each message of a higher
/// QoS in flight (about 10 MB at its default).
const IN_FLIGHT_MESSAGES_MAX: u16 = 1;

pub(super) type SharedLink = Arc<Link>;

/// What the task and the handle share.
#[derive(Debug, Default)]
pub(super) struct Link {
    outlet: Mutex<Option<Outlet>>,
    pub(super) counters: Counters,
    pub(super) meter: Arc<WireMeter>,
    /// The sum of the sizes in [`Outlet::waiting`].
    pub(super) waiting: watch::Sender<u64>,
}

/// Where publishes go while the link is up.
#[derive(Debug)]
struct Outlet {
    client: AsyncClient,
    /// The broker's limit, if it is below ours.
    packet_bytes_max: u32,
    /// The payload sizes of what was accepted and is not written yet, in order.
    waiting: VecDeque<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connects: AtomicU64,
    pub(super) publishes: AtomicU64,
    pub(super) payload_bytes_sent: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) payload_bytes_received: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// The state of the task.
pub(super) struct LinkTask {
    options: MqttOptions,
    link: SharedLink,
    events: mpsc::Sender<LinkEvent>,
    closing: watch::Receiver<bool>,
    backoff: Backoff,
}

/// One attempt, from connecting to the end of the connection.
struct Attempt<'a> {
    task: &'a LinkTask,
    client: AsyncClient,
    deadline: Instant,
    up_since: Option<Instant>,
    /// The broker has granted what was asked for.
    subscribed: bool,
    /// Nothing at all for this long, not even an answer to a ping: the socket is stuck.
    silence_max: Duration,
    packet_bytes_max: u32,
    /// Which start of the hub the broker belongs to, where it says so.
    hub_start: Option<String>,
}

/// Why an attempt ended.
enum End {
    Lost(String),
    Closed,
}

impl Link {
    pub(super) fn try_publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), PublishError> {
        let mut outlet = self.outlet();
        let outlet = outlet.as_mut().ok_or(PublishError::LinkDown)?;
        outlet.check_size(topic, payload.len())?;
        let payload_bytes = payload.len() as u64;
        let options = PublishOptions::at_most_once();
        outlet.client.try_publish(topic, payload, options).map_err(|error| match error {
            ClientError::RequestChannelFull(_) => PublishError::QueueFull,
            ClientError::InvalidRequest(_) => PublishError::InvalidTopic,
            _ => PublishError::LinkDown,
        })?;
        outlet.waiting.push_back(payload_bytes);
        self.waiting.send_modify(|waiting| *waiting = waiting.saturating_add(payload_bytes));
        Ok(())
    }

    /// The oldest of what waits is with the kernel.
    fn note_written(&self) {
        let written = self.outlet().as_mut().and_then(|outlet| outlet.waiting.pop_front());
        if let Some(bytes) = written {
            self.waiting.send_modify(|waiting| *waiting = waiting.saturating_sub(bytes));
        }
    }

    fn come_up(&self, outlet: Outlet) {
        *self.outlet() = Some(outlet);
    }

    fn go_down(&self) {
        *self.outlet() = None;
        self.waiting.send_replace(0);
    }

    fn outlet(&self) -> MutexGuard<'_, Option<Outlet>> {
        self.outlet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet {
    fn check_size(&self, topic: &str, payload_bytes: usize) -> Result<(), PublishError> {
        let packet_bytes_max = usize::try_from(self.packet_bytes_max).unwrap_or(usize::MAX);
        let payload_bytes_max = packet_bytes_max
            .saturating_sub(PUBLISH_HEADER_BYTES_MAX + topic.len())
            .min(MQTT_PAYLOAD_BYTES_MAX);
        if payload_bytes <= payload_bytes_max {
            return Ok(());
        }
        Err(PublishError::Oversize { payload_bytes, payload_bytes_max })
    }
}

impl Counters {
    pub(super) fn read(&self) -> LinkCounters {
        LinkCounters {
            connects: self.connects.load(Ordering::Relaxed),
            publishes: self.publishes.load(Ordering::Relaxed),
            payload_bytes_sent: self.payload_bytes_sent.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            payload_bytes_received: self.payload_bytes_received.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

impl LinkTask {
    pub(super) fn new(
        options: MqttOptions,
        link: SharedLink,
        events: mpsc::Sender<LinkEvent>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let backoff = Backoff::new(options.seed);
        Self { options, link, events, closing, backoff }
    }

    pub(super) async fn run(mut self) {
        loop {
            if !self.until_permitted().await {
                return;
            }
            let (end, held_for) = self.attempt().await;
            self.link.go_down();
            let End::Lost(reason) = end else { return };
            let delay = self.backoff.delay_after(held_for);
            let delay_ms = delay.as_millis();
            debug!(client = self.options.client_id, %reason, delay_ms, "the MQTT link is down");
            let closing = &mut self.closing;
            let meter = &self.link.meter;
            let pause = async {
                self.events.send(LinkEvent::Down { reason }).await.is_ok() && {
                    meter.watching(tokio::time::sleep(delay)).await;
                    true
                }
            };
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return,
                wanted = pause => if !wanted { return },
            }
        }
    }

    /// Waits until an attempt may begin; false when the link is to be closed.
    async fn until_permitted(&mut self) -> bool {
        let permit = &mut self.options.permit;
        let permitted = async {
            if permit.wait_for(|permitted| *permitted).await.is_err() {
                // Nobody is left who could permit it.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            _ = self.closing.wait_for(|closing| *closing) => false,
            () = permitted => true,
        }
    }

    async fn attempt(&mut self) -> (End, Option<Duration>) {
        let meter = Arc::clone(&self.link.meter);
        let builder = AsyncClient::builder(library_options(&self.options, meter));
        let built = builder.capacity(self.options.queue_messages_max).try_build();
        let (client, mut eventloop) = match built {
            Ok(pair) => pair,
            Err(error) => return (End::Lost(error.to_string()), None),
        };
        let mut closing = self.closing.clone();
        let mut attempt = Attempt::new(self, client);
        let end = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => End::Closed,
            reason = attempt.drive(&mut eventloop) => End::Lost(reason),
        };
        if matches!(end, End::Closed) && attempt.up_since.is_some() {
            attempt.say_goodbye(&mut eventloop).await;
        }
        (end, attempt.up_since.map(|since| since.elapsed()))
    }
}

impl<'a> Attempt<'a> {
    fn new(task: &'a LinkTask, client: AsyncClient) -> Self {
        Self {
            task,
            client,
            deadline: Instant::now() + ATTEMPT_TIMEOUT,
            up_since: None,
            subscribed: false,
            silence_max: silence_max(task.options.keep_alive),
            packet_bytes_max: MQTT_PACKET_BYTES_MAX,
            hub_start: None,
        }
    }

    /// Runs the connection until it ends, and says why it did.
    async fn drive(&mut self, eventloop: &mut EventLoop) -> String {
        loop {
            let limit = match self.subscribed {
                true => Instant::now() + self.silence_max,
                false => self.deadline,
            };
            let poll = tokio::time::timeout_at(limit, eventloop.poll());
            let polled = tokio::select! {
                biased;
                () = self.forbidden() => return "the link may carry no more for now".to_owned(),
                polled = self.task.link.meter.watching(poll) => polled,
            };
            let handled = match polled {
                Ok(Ok(Event::Incoming(packet))) => self.handle(packet).await,
                Ok(Ok(Event::Outgoing(Outgoing::Publish(_)))) => {
                    self.task.link.note_written();
                    Ok(())
                }
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) if self.subscribed => Err("the broker fell silent".to_owned()),
                Err(_) => Err("the broker did not answer in time".to_owned()),
            };
            if let Err(reason) = handled {
                return reason;
            }
        }
    }

    /// Comes to its end when a link that is up may not be any more.
    async fn forbidden(&self) {
        let mut permit = self.task.options.permit.clone();
        let withdrawn =
            self.up_since.is_some() && permit.wait_for(|permitted| !*permitted).await.is_ok();
        if !withdrawn {
            std::future::pending::<()>().await;
        }
    }

    async fn handle(&mut self, packet: Incoming) -> Result<(), String> {
        match packet {
            Incoming::ConnAck(answer) => self.handle_connected(&answer).await,
            Incoming::SubAck(answer) => self.handle_subscribed(&answer).await,
            Incoming::Publish(publish) => self.handle_message(publish).await,
            _ => Ok(()),
        }
    }

    async fn handle_connected(&mut self, answer: &ConnAck) -> Result<(), String> {
        if let Some(properties) = &answer.properties {
            if let Some(seconds) = properties.server_keep_alive.filter(|seconds| *seconds > 0) {
                self.silence_max = silence_max(Duration::from_secs(u64::from(seconds)));
            }
            let theirs = properties.max_packet_size.unwrap_or(MQTT_PACKET_BYTES_MAX);
            self.packet_bytes_max = theirs.min(MQTT_PACKET_BYTES_MAX);
            let said = properties.user_properties.iter().find(|(key, _)| key == HUB_START_PROPERTY);
            let start = said.map(|(_, start)| start.to_string());
            self.hub_start = start.filter(|start| start.len() <= HUB_START_CHARACTERS_MAX);
        }
        let filters = &self.task.options.subscriptions;
        if filters.is_empty() {
            self.subscribed = true;
            return self.come_up().await;
        }
        let filters =
            filters.iter().map(|filter| SubscribeFilterInput::new(filter, QoS::AtMostOnce));
        self.client.try_subscribe_many(filters).map_err(|error| error.to_string())?;
        if !self.task.options.speaks_first {
            return Ok(());
        }
        // A broker handles packets in their order: the answer to what is said now finds the subscription.
        self.come_up().await?;
        let mut waiting = self.task.link.waiting.subscribe();
        let spoken = waiting.wait_for(|bytes| *bytes > 0);
        // Whoever has nothing to say does not hold up the subscription.
        let _ = tokio::time::timeout(FIRST_WORDS_TIMEOUT, spoken).await;
        Ok(())
    }

    async fn handle_subscribed(&mut self, answer: &SubAck) -> Result<(), String> {
        let asked = self.task.options.subscriptions.len();
        let granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
        if answer.return_codes.len() == asked && answer.return_codes.iter().all(granted) {
            self.subscribed = true;
            return if self.up_since.is_none() { self.come_up().await } else { Ok(()) };
        }
        let (asked, answered) = (&self.task.options.subscriptions, &answer.return_codes);
        warn!(
            client = self.task.options.client_id,
            ?asked,
            ?answered,
            "a subscription was refused"
        );
        Err(format!("the broker refused a subscription: {answered:?}"))
    }

    async fn come_up(&mut self) -> Result<(), String> {
        self.up_since = Some(Instant::now());
        let link = &self.task.link;
        link.counters.connects.fetch_add(1, Ordering::Relaxed);
        link.come_up(Outlet {
            client: self.client.clone(),
            packet_bytes_max: self.packet_bytes_max,
            waiting: VecDeque::new(),
        });
        debug!(client = self.task.options.client_id, "the MQTT link is up");
        self.tell(LinkEvent::Up { hub_start: self.hub_start.clone() }).await
    }

    async fn handle_message(&self, publish: rumqttc::Publish) -> Result<(), String> {
        let Ok(topic) = String::from_utf8(publish.topic.into()) else {
            return Err("the broker sent a topic that is not UTF-8".to_owned());
        };
        let payload_bytes = publish.payload.len();
        if payload_bytes > MQTT_PAYLOAD_BYTES_MAX {
            warn!(topic, payload_bytes, "dropped a message above the size limit");
            return Ok(());
        }
        let counters = &self.task.link.counters;
        counters.messages.fetch_add(1, Ordering::Relaxed);
        counters.payload_bytes_received.fetch_add(payload_bytes as u64, Ordering::Relaxed);
        self.tell(LinkEvent::Received { topic, payload: publish.payload.into() }).await
    }

    async fn tell(&self, event: LinkEvent) -> Result<(), String> {
        self.task.events.send(event).await.map_err(|_| "nobody listens to the link".to_owned())
    }

    /// Best effort: the broker learns of a lost connection anyway.
    async fn say_goodbye(&mut self, eventloop: &mut EventLoop) {
        let reason = DisconnectReasonCode::DisconnectWithWillMessage;
        let properties = DisconnectProperties {
            session_expiry_interval: None,
            reason_string: None,
            user_properties: Vec::new(),
            server_reference: None,
        };
        if self.client.try_disconnect_with_properties(reason, properties).is_err() {
            return;
        }
        let leave = async { while eventloop.poll().await.is_ok() {} };
        if tokio::time::timeout(GOODBYE_TIMEOUT, leave).await.is_err() {
            debug!(client = self.task.options.client_id, "the broker did not take the goodbye");
        }
    }
}

/// A ping goes out after one keep-alive of silence, and its answer is due within the next.
fn silence_max(keep_alive: Duration) -> Duration {
    keep_alive.max(Duration::from_secs(1)) * 2 + Duration::from_secs(5)
}

fn library_options(options: &MqttOptions, meter: Arc<WireMeter>) -> rumqttc::MqttOptions {
    let broker = Broker::tcp(options.server_name.clone(), options.port);
    let mut library = rumqttc::MqttOptions::new(options.client_id.clone(), broker);
    library.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::clone(&options.tls))));
    library.set_clean_start(true);
    library.set_keep_alive(keep_alive_seconds(options.keep_alive));
    library.set_max_packet_size(Some(MQTT_PACKET_BYTES_MAX));
    library.set_outgoing_inflight_upper_limit(IN_FLIGHT_MESSAGES_MAX);
    library.set_connect_timeout(ATTEMPT_TIMEOUT);
    library.set_max_request_batch(PACKETS_AT_ONCE);
    if options.speaks_first {
        // It publishes to one topic, whose name then crosses once.
        library.set_topic_alias_policy(TopicAliasPolicy::Monotonic);
    }
    if let Some((topic, payload)) = &options.will {
        let will = LastWill::new(topic, payload.clone(), QoS::AtMostOnce, false, None);
        library.set_last_will(will);
    }
    let (host, port) = (options.host.clone(), options.port);
    // The library takes the broker's host for its name in the certificate; ours may differ.
    library.set_socket_connector(move |_server_name, _network| {
        let (host, meter) = (host.clone(), Arc::clone(&meter));
        async move { dial(&host, port, meter).await }
    });
    library
}

fn keep_alive_seconds(keep_alive: Duration) -> u16 {
    u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX).max(1)
}
