//! A node without an agent: real keys, a real link, a real session, and logs whose every record is the
//! test's. It sends as an agent does: what is not acknowledged again after each greeting, and after a
//! while of silence, unless the hub has said that it waits for a sink.

use super::hub::Hub;
use anyhow::Context;
use rustls::time_provider::DefaultTimeProvider;
use shared::io::mqtt::{LinkEvent, MqttClient, MqttOptions, connect, permitted};
use shared::io::tls::client_config;
use shared::model::{BootClock, MonotonicMs, NodeId};
use shared::sync::{AgentSession, MapContent, Outgoing};
use shared::trust::certificate::NodeKey;
use shared::trust::enrollment::Enrollment;
use shared::trust::session::SessionPrivateKey;
use shared::wire::{
    GREETED_INCARNATION, Hello, LogAck, LogBatch, LogHold, LogId, MapPosition, Message,
    SequenceNumber, Stream, Version,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// As an agent's: bytes of one batch, and of all that are on their way in one log.
const BATCH_BYTES_MAX: usize = 12 * 1024;
const WINDOW_BYTES_MAX: usize = 48 * 1024;

/// Without an acknowledgement for this long it begins anew behind the watermark.
const RETRY: Duration = Duration::from_secs(5);

/// Between two greetings for the sake of their replies.
const GREETING_INTERVAL: Duration = Duration::from_secs(2);

/// The node's one start, as large a number as an agent's: its bytes are counted.
pub const INCARNATION: u64 = 1_793_491_200;

/// A node.
pub struct RawNode {
    /// Its name.
    pub node: NodeId,
    /// What its greetings say of its clock.
    pub clock: Option<BootClock>,
    /// And of its earlier boots.
    pub earlier_clocks: Vec<BootClock>,
    enrollment: Enrollment,
    session: AgentSession,
    link: MqttClient,
    events: mpsc::Receiver<LinkEvent>,
    started: Instant,
    greeted: Option<Instant>,
    logs: BTreeMap<Stream, Log>,
    /// Every hold that was heard.
    pub holds: Vec<LogHold>,
    /// Acknowledgements that were heard, replies to greetings aside.
    pub acks: Vec<LogAck>,
}

#[derive(Default)]
struct Log {
    records: Vec<Vec<u8>>,
    watermark: SequenceNumber,
    sent: SequenceNumber,
    held: SequenceNumber,
    heard: Option<Instant>,
}

impl RawNode {
    /// Enrols with a hub that runs, and begins to connect.
    ///
    /// # Errors
    /// When the hub does not sign.
    pub fn enrol(hub: &Hub, name: &str, number: u8) -> anyhow::Result<Self> {
        let node = NodeId::new(name)?;
        let (key, session_key) = (NodeKey::generate()?, SessionPrivateKey::generate([number; 32]));
        let request = key.request(&node, &session_key.public())?;
        let answer = hub.tell("/v1/nodes/sign", request.as_bytes())?;
        let text = String::from_utf8(answer.body)?;
        anyhow::ensure!(answer.status == 200, "the hub did not sign: {text}");
        let enrollment = Enrollment::parse(&text)?;
        let session =
            AgentSession::new(node.clone(), session_key, enrollment.hub_session_key, [number; 32]);
        let (sender, events) = mpsc::channel(64);
        let link = connect(link_options(&node, &enrollment, &key, number)?, sender);
        Ok(Self {
            node,
            clock: None,
            earlier_clocks: vec![],
            enrollment,
            session,
            link,
            events,
            started: Instant::now(),
            greeted: None,
            logs: BTreeMap::new(),
            holds: vec![],
            acks: vec![],
        })
    }

    /// Adds a record to a log.
    pub fn append(&mut self, stream: Stream, record: Vec<u8>) {
        self.logs.entry(stream).or_default().records.push(record);
    }

    /// The number of the record that is appended next.
    #[must_use]
    pub fn next_number(&self, stream: Stream) -> SequenceNumber {
        self.logs.get(&stream).map_or(0, |log| log.records.len() as u64) + 1
    }

    /// Everything up to here is acknowledged.
    #[must_use]
    pub fn watermark(&self, stream: Stream) -> SequenceNumber {
        self.logs.get(&stream).map_or(0, |log| log.watermark)
    }

    /// Whether every record of a log is acknowledged.
    #[must_use]
    pub fn is_delivered(&self, stream: Stream) -> bool {
        self.logs.get(&stream).is_none_or(|log| log.watermark == log.records.len() as u64)
    }

    /// The name by which the hub's certificate is known.
    #[must_use]
    pub fn broker_name(&self) -> &str {
        &self.enrollment.broker_name
    }

    /// Greets anew, unless it did so a moment ago: the hub's reply has the watermarks that it has not
    /// told yet.
    pub fn greet_again(&mut self) {
        if self.greeted.is_none_or(|greeted| greeted.elapsed() > GREETING_INTERVAL) {
            self.greeted = Some(Instant::now());
            self.session.greet_again();
        }
    }

    /// Talks until `holds`.
    ///
    /// # Errors
    /// When it does not hold in time; says how far it came.
    pub async fn talk_until(
        &mut self,
        what: &str,
        timeout: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !holds(self) {
            if begin.elapsed() > timeout {
                let at = self.logs.iter().map(|(stream, log)| {
                    format!("{stream:?} {} of {}", log.watermark, log.records.len())
                });
                let at = at.collect::<Vec<_>>().join(", ");
                let state = self.session.state_name();
                anyhow::bail!("{}: waited in vain until {what}; {state}; {at}", self.node);
            }
            self.step().await?;
        }
        Ok(())
    }

    /// Talks for a while.
    ///
    /// # Errors
    /// When what is to be sent can't be made.
    pub async fn talk_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.step().await?;
        }
        Ok(())
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        let event = tokio::time::timeout(Duration::from_millis(20), self.events.recv()).await;
        match event {
            Ok(Some(LinkEvent::Up { .. })) => self.session.handle_link_up(),
            Ok(Some(LinkEvent::Down { .. })) => {
                self.session.handle_link_down();
                self.logs.values_mut().for_each(Log::rewind);
            }
            Ok(Some(LinkEvent::Received { payload, .. })) => {
                // What does not open is of another session: the hub was restarted.
                if let Ok(Some(message)) = self.session.handle_payload(&payload) {
                    self.handle(message);
                }
            }
            Ok(None) => anyhow::bail!("the link has ended"),
            Err(_) => {}
        }
        self.send()
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::HelloReply(reply) => {
                self.logs.values_mut().for_each(Log::rewind);
                reply.watermarks.iter().for_each(|ack| self.acknowledged(*ack));
            }
            Message::LogAck(ack) => {
                self.acks.push(ack);
                self.acknowledged(ack);
            }
            Message::LogHold(hold) => {
                self.holds.push(hold);
                if let Some(log) = self.logs.get_mut(&hold.log.stream) {
                    log.held = log.held.max(hold.received);
                }
            }
            // Desired state: this node runs nothing.
            _ => {}
        }
    }

    fn acknowledged(&mut self, ack: LogAck) {
        let Some(log) = self.logs.get_mut(&ack.log.stream) else { return };
        log.watermark = log.watermark.max(ack.watermark);
        log.sent = log.sent.max(log.watermark);
        log.heard = Some(Instant::now());
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let now = MonotonicMs(u64::try_from(self.started.elapsed().as_millis())?);
        self.session.handle_timeout(now);
        match self.session.poll_outgoing(now)? {
            Some(Outgoing::Payload(payload)) => self.publish(payload),
            Some(Outgoing::Hello | Outgoing::Introduction | Outgoing::Resume) => {
                let hello = self.session.seal(&self.hello())?;
                self.publish(hello);
            }
            None => {}
        }
        if !self.session.is_established() {
            return Ok(());
        }
        let batches: Vec<LogBatch> =
            self.logs.iter_mut().filter_map(|(stream, log)| log.poll_batch(*stream)).collect();
        for batch in batches {
            let payload = self.session.seal(&Message::LogBatch(batch))?;
            self.publish(payload);
        }
        Ok(())
    }

    /// A payload that is not taken is a lost packet.
    fn publish(&self, payload: Vec<u8>) {
        let _ = self.link.try_publish(&format!("e/{}/u", self.node), payload);
    }

    fn hello(&self) -> Message {
        let digest = MapContent::default().digest();
        Message::Hello(Hello {
            desired: None,
            reported: MapPosition { version: Version::default(), digest },
            incarnation: INCARNATION,
            oldest_incarnation: INCARNATION,
            agent_version: "raw".to_owned(),
            clock: self.clock,
            earlier_clocks: self.earlier_clocks.clone(),
        })
    }
}

impl Log {
    fn rewind(&mut self) {
        (self.sent, self.held, self.heard) = (self.watermark, 0, None);
    }

    fn poll_batch(&mut self, stream: Stream) -> Option<LogBatch> {
        let silent = self.heard.is_some_and(|heard| heard.elapsed() > RETRY);
        if silent && self.sent > self.watermark && self.held < self.sent {
            self.rewind();
        }
        let (from, to) = (usize::try_from(self.watermark).ok()?, usize::try_from(self.sent).ok()?);
        let on_their_way: usize = self.records.get(from..to)?.iter().map(Vec::len).sum();
        if on_their_way >= WINDOW_BYTES_MAX {
            return None;
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        for record in self.records.get(to..)?.iter().take(256) {
            bytes += record.len();
            if !records.is_empty() && bytes > BATCH_BYTES_MAX {
                break;
            }
            records.push(record.clone().into());
        }
        if records.is_empty() {
            return None;
        }
        let first = self.sent + 1;
        self.sent += records.len() as u64;
        self.heard = Some(Instant::now());
        let log = LogId { incarnation: GREETED_INCARNATION, stream };
        Some(LogBatch { log, oldest: self.watermark + 1, first, records })
    }
}

fn link_options(
    node: &NodeId,
    enrollment: &Enrollment,
    key: &NodeKey,
    number: u8,
) -> anyhow::Result<MqttOptions> {
    let (host, port) = enrollment.broker_address().context("the enrolment names no broker")?;
    let tls = client_config(
        &enrollment.authority_pem,
        &enrollment.certificate_pem,
        &key.to_pem(),
        Arc::new(DefaultTimeProvider),
    )?;
    Ok(MqttOptions {
        client_id: node.to_string(),
        host,
        port,
        server_name: enrollment.broker_name.clone(),
        tls,
        keep_alive: Duration::from_secs(60),
        subscriptions: vec![format!("e/{node}/d")],
        speaks_first: true,
        will: None,
        queue_messages_max: 64,
        seed: [number; 32],
        permit: permitted(),
    })
}
