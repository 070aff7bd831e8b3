//! One node's connection: MQTT 5 at QoS 0 and 1, a topic in and a topic out, nothing kept.
//!
//! A node that does not read fills its own queue, and is heard until its answers fill it too; when it
//! has taken nothing for [`SEND_TIMEOUT`] its connection ends.

use super::door::{Identity, Stream};
use super::gate::{Gate, Reception, Refusal, SessionId};
use bytes::BytesMut;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v5::{
    Codec, Connect, ConnectAck, ConnectAckReason, Disconnect, DisconnectReasonCode, Packet,
    PublishAck, PublishAckReason, Subscribe, SubscribeAck, SubscribeAckReason,
};
use shared::io::mqtt::HUB_START_PROPERTY;
use shared::limits::MQTT_PACKET_BYTES_MAX;
use shared::model::NodeId;
use shared::wire::DownTopic;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::codec::{Decoder, Encoder};
use tracing::debug;

/// One write to a node; past it the node's connection ends.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is said within this time of each other is said at once: each packet costs a node 52 bytes, and
/// as much for its acknowledgement. Longer than the hub takes for its answer to a greeting.
const GATHER_TIME: Duration = Duration::from_millis(25);

/// A node that has said nothing for so long is not being answered: what it is told is told at once.
const CONVERSATION_TIME: Duration = Duration::from_millis(250);

/// So much fills a packet: it goes at once.
const GATHER_BYTES_MAX: usize = 1200;

/// Of messages that are encoded and not written; more wait in their queue.
const UNWRITTEN_BYTES_MAX: usize = 32 * 1024;

/// The same with answers to the node, which is not heard while it takes none of them.
const UNANSWERED_BYTES_MAX: usize = 2 * UNWRITTEN_BYTES_MAX;

/// A node that pings less often than this is found dead too late to matter.
const KEEP_ALIVE_SECONDS_MAX: u16 = 3600;

/// A node publishes to one topic, and leaves a will on another.
const TOPIC_ALIASES_MAX: u16 = 2;

/// The way to a node's session.
#[derive(Debug, Clone)]
pub(super) struct Way {
    messages: mpsc::UnboundedSender<Vec<u8>>,
    ending: Arc<watch::Sender<Option<Ending>>>,
}

/// Why the broker ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The hub wants it to end.
    Kicked,
    /// The node has connected anew.
    TakenOver,
    /// The broker closes.
    Closing,
}

impl Way {
    /// Hands over a payload; says whether the session is still there. Room was reserved before.
    pub(super) fn send(&self, payload: Vec<u8>) -> bool {
        self.messages.send(payload).is_ok()
    }

    /// Tells the session to end.
    pub(super) fn end(&self, ending: Ending) {
        self.ending.send_if_modified(|told| told.replace(ending).is_none());
    }
}

/// Why a session is over, in words for a person, and what its node is told, if anything.
struct End {
    reason: String,
    told: Option<DisconnectReasonCode>,
}

impl End {
    fn lost(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), told: None }
    }

    fn told(code: DisconnectReasonCode, reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), told: Some(code) }
    }
}

struct Session {
    gate: Arc<Gate>,
    node: NodeId,
    id: SessionId,
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    codec: Codec,
    /// Read and not decoded; encoded and not written.
    incoming: BytesMut,
    outgoing: BytesMut,
    /// What is written may not have left yet.
    dirty: bool,
    /// When what is to be written goes at the latest.
    gather_until: Instant,
    /// When the node said something last.
    heard_at: Instant,
    /// When something was taken last, or was first there to be taken.
    progress_at: Instant,
    /// What the node calls its topics.
    aliases: [Option<String>; TOPIC_ALIASES_MAX as usize],
    /// How long the node may be silent.
    silence_max: Duration,
    messages: mpsc::UnboundedReceiver<Vec<u8>>,
}

/// Serves one connection until it ends. The CONNECT must come before `deadline`.
pub(super) async fn serve(
    gate: Arc<Gate>,
    id: SessionId,
    stream: Stream,
    identity: Identity,
    deadline: Instant,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut codec = Codec::new(MQTT_PACKET_BYTES_MAX, 0);
    let mut incoming = BytesMut::new();
    let first = timeout_at(deadline, next_packet(&mut reader, &mut codec, &mut incoming));
    let connect = match first.await {
        Ok(Ok(Packet::Connect(connect))) => Ok(connect),
        Ok(Ok(_) | Err(End { told: Some(_), .. })) => Err(Refusal::Version),
        Ok(Err(_)) | Err(_) => return,
    };
    let admitted =
        connect.and_then(|connect| gate.admit(&identity, &connect).map(|node| (node, connect)));
    let (node, connect) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            gate.note_refusal(&identity, refusal);
            return turn_away(&mut writer, &mut codec).await;
        }
    };
    let (messages_in, messages) = mpsc::unbounded_channel();
    let ending = Arc::new(watch::channel(None).0);
    let mut told = ending.subscribe();
    gate.begin(&node, id, Way { messages: messages_in, ending }).await;
    gate.recheck(&node, &identity);
    let now = Instant::now();
    let mut session = Session {
        gate: Arc::clone(&gate),
        node: node.clone(),
        id,
        reader,
        writer,
        codec,
        incoming,
        outgoing: BytesMut::new(),
        dirty: false,
        gather_until: now,
        heard_at: now,
        progress_at: now,
        aliases: Default::default(),
        silence_max: silence_max(connect.keep_alive),
        messages,
    };
    let end = tokio::select! {
        biased;
        ending = async { told.wait_for(Option::is_some).await.ok().and_then(|told| *told) } => {
            ended_by(ending)
        }
        end = session.run(&connect) => end,
    };
    gate.end(&node, id, &end.reason).await;
    debug!(%node, reason = end.reason, "a session is over");
    session.say_goodbye(end.told).await;
}

fn ended_by(ending: Option<Ending>) -> End {
    match ending {
        Some(Ending::Kicked) => {
            End::told(DisconnectReasonCode::AdministrativeAction, "the hub ended it")
        }
        Some(Ending::TakenOver) => {
            End::told(DisconnectReasonCode::SessionTakenOver, "the node connected anew")
        }
        Some(Ending::Closing) | None => {
            End::told(DisconnectReasonCode::ServerShuttingDown, "the broker closes")
        }
    }
}

/// One and a half keep-alives, as MQTT has it (5, 3.1.2.10).
fn silence_max(keep_alive_seconds: u16) -> Duration {
    let seconds = match keep_alive_seconds {
        0 => KEEP_ALIVE_SECONDS_MAX,
        asked => asked.min(KEEP_ALIVE_SECONDS_MAX),
    };
    Duration::from_millis(u64::from(seconds) * 1500)
}

async fn turn_away(writer: &mut WriteHalf<Stream>, codec: &mut Codec) {
    let refusal =
        ConnectAck { reason_code: ConnectAckReason::NotAuthorized, ..ConnectAck::default() };
    let mut answer = BytesMut::new();
    if codec.encode(Packet::from(refusal), &mut answer).is_ok() {
        let told = async {
            let _ = writer.write_all(&answer).await;
            let _ = writer.shutdown().await;
        };
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, told).await;
    }
}

/// The next packet. Can be abandoned: what was read is kept.
async fn next_packet(
    reader: &mut (impl AsyncRead + Unpin),
    codec: &mut Codec,
    incoming: &mut BytesMut,
) -> Result<Packet, End> {
    loop {
        match codec.decode(incoming) {
            Ok(Some((packet, _))) => return Ok(packet),
            Ok(None) => {}
            Err(error) => return Err(End::told(DisconnectReasonCode::MalformedPacket, error)),
        }
        match reader.read_buf(incoming).await {
            Ok(0) => return Err(End::lost("the node closed the connection")),
            Ok(_) => {}
            Err(error) => return Err(End::lost(error)),
        }
    }
}

impl Session {
    async fn run(&mut self, connect: &Connect) -> End {
        match self.converse(connect).await {
            Err(end) => end,
            Ok(never) => match never {},
        }
    }

    async fn converse(&mut self, connect: &Connect) -> Result<std::convert::Infallible, End> {
        let server_keepalive_sec = (connect.keep_alive == 0
            || connect.keep_alive > KEEP_ALIVE_SECONDS_MAX)
            .then_some(KEEP_ALIVE_SECONDS_MAX);
        let accepted = ConnectAck {
            max_qos: QoS::AtLeastOnce,
            max_packet_size: Some(MQTT_PACKET_BYTES_MAX),
            topic_alias_max: TOPIC_ALIASES_MAX,
            server_keepalive_sec,
            // No session outlives its connection, whatever was asked for.
            session_expiry_interval_secs: (connect.session_expiry_interval_secs > 0).then_some(0),
            user_properties: vec![(HUB_START_PROPERTY.into(), self.gate.start.clone().into())],
            ..ConnectAck::default()
        };
        self.say(accepted)?;
        // Nothing follows it before the node has answered.
        self.gather_until = Instant::now();
        self.heard_at = Instant::now();
        loop {
            let silent_at = self.heard_at + self.silence_max;
            let is_due = self.dirty && self.gather_until <= Instant::now();
            let has_room = self.outgoing.len() < UNWRITTEN_BYTES_MAX;
            let can_answer = self.outgoing.len() < UNANSWERED_BYTES_MAX;
            let unwritten = self.outgoing.len();
            tokio::select! {
                written = drain(&mut self.writer, &mut self.outgoing), if is_due => {
                    written.map_err(End::lost)?;
                    self.dirty = false;
                }
                packet = next_packet(&mut self.reader, &mut self.codec, &mut self.incoming),
                    if can_answer =>
                {
                    self.heard_at = Instant::now();
                    self.handle(packet?).await?;
                }
                Some(payload) = self.messages.recv(), if has_room => self.publish(payload)?,
                () = sleep_until(self.gather_until), if self.dirty && !is_due => {}
                () = sleep_until(self.progress_at + SEND_TIMEOUT), if self.dirty => {
                    return Err(End::lost("the node takes nothing"));
                }
                () = sleep_until(silent_at) => {
                    let code = DisconnectReasonCode::KeepAliveTimeout;
                    return Err(End::told(code, "the node fell silent"));
                }
            }
            if self.outgoing.len() < unwritten {
                self.progress_at = Instant::now();
            }
        }
    }

    async fn handle(&mut self, packet: Packet) -> Result<(), End> {
        let refused = |code, what: &str| Err(End::told(code, format!("the node sent {what}")));
        match packet {
            Packet::Publish(publish) => self.receive(&publish),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe).await,
            Packet::PingRequest => self.say(Packet::PingResponse),
            Packet::Disconnect(_) => Err(End::lost("the node said goodbye")),
            Packet::Connect(_) => refused(DisconnectReasonCode::ProtocolError, "a second CONNECT"),
            _ => refused(DisconnectReasonCode::ImplementationSpecificError, "what no node sends"),
        }
    }

    fn receive(&mut self, publish: &Publish) -> Result<(), End> {
        let topic = self.topic_of(publish)?;
        if publish.qos == QoS::ExactlyOnce {
            return Err(End::told(DisconnectReasonCode::QosNotSupported, "QoS 2 was asked for"));
        }
        let reception = self.gate.receive(&self.node, self.id, &topic, &publish.payload);
        let Some(packet_id) = publish.packet_id else { return Ok(()) };
        let reason_code = match reception {
            Reception::Taken => PublishAckReason::Success,
            Reception::Refused | Reception::Dropped => PublishAckReason::NotAuthorized,
        };
        let (properties, reason_string) = (Vec::new(), None);
        let answer = PublishAck { packet_id, reason_code, properties, reason_string };
        self.say(Packet::PublishAck(answer))
    }

    /// The topic of a message, which may be named by its alias (MQTT 5, 3.3.2.3.4).
    fn topic_of(&mut self, publish: &Publish) -> Result<String, End> {
        let alias = publish.properties.as_ref().and_then(|properties| properties.topic_alias);
        let Some(alias) = alias else { return Ok(publish.topic.to_string()) };
        let place = usize::from(alias.get()).checked_sub(1);
        let place = place.and_then(|place| self.aliases.get_mut(place));
        let unknown =
            || End::told(DisconnectReasonCode::TopicAliasInvalid, "an alias names no topic");
        let place = place.ok_or_else(unknown)?;
        if !publish.topic.is_empty() {
            *place = Some(publish.topic.to_string());
        }
        place.clone().ok_or_else(unknown)
    }

    async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        let mut status = Vec::new();
        for (filter, _) in &subscribe.topic_filters {
            let granted = self.gate.subscribe(&self.node, self.id, filter).await;
            status.push(match granted {
                true => SubscribeAckReason::GrantedQos0,
                false => SubscribeAckReason::NotAuthorized,
            });
        }
        let (properties, reason_string) = (Vec::new(), None);
        let packet_id = subscribe.packet_id;
        self.say(SubscribeAck { packet_id, properties, reason_string, status })
    }

    /// A message of the hub.
    fn publish(&mut self, payload: Vec<u8>) -> Result<(), End> {
        self.gate.release(&self.node, self.id, payload.len());
        self.say(Publish {
            dup: false,
            retain: false,
            qos: QoS::AtMostOnce,
            topic: DownTopic { node: self.node.clone() }.name().into(),
            packet_id: None,
            payload: payload.into(),
            properties: None,
        })
    }

    /// Encodes a packet; it goes when what may go with it has had its time.
    fn say(&mut self, packet: impl Into<Packet>) -> Result<(), End> {
        if !self.dirty {
            let now = Instant::now();
            let converses = now.duration_since(self.heard_at) < CONVERSATION_TIME;
            let gather_time = if converses { GATHER_TIME } else { Duration::ZERO };
            (self.dirty, self.progress_at, self.gather_until) = (true, now, now + gather_time);
        }
        self.codec.encode(packet.into(), &mut self.outgoing).map_err(End::lost)?;
        if self.outgoing.len() >= GATHER_BYTES_MAX {
            self.gather_until = Instant::now();
        }
        Ok(())
    }

    /// Tells the node why, unless it is gone: then the socket is closed and nothing more is paid for.
    async fn say_goodbye(mut self, told: Option<DisconnectReasonCode>) {
        let Some(reason_code) = told else { return };
        let goodbye = async {
            let goodbye = Disconnect { reason_code, ..Disconnect::default() };
            self.codec.encode(Packet::Disconnect(goodbye), &mut self.outgoing).ok()?;
            drain(&mut self.writer, &mut self.outgoing).await.ok()?;
            self.writer.shutdown().await.ok()
        };
        if tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await.is_err() {
            debug!(node = %self.node, "it did not take the broker's goodbye");
        }
    }
}

/// Writes all of it. Can be abandoned: what was not written is kept.
async fn drain(writer: &mut WriteHalf<Stream>, outgoing: &mut BytesMut) -> std::io::Result<()> {
    writer.write_all_buf(outgoing).await?;
    writer.flush().await
}
