//! The messages of a session, as they are before sealing and after opening.
//!
//! Variants and fields are only ever appended; see the module above for the encoding.

use super::call::{CallRequest, CallResponse};
use super::digest::{Digest, ShortDigest};
use crate::limits::LOG_BATCH_RECORDS_MAX;
use crate::model::{BootClock, NodeId, SinkId};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::fmt;

/// A message of a session. Variants that hold one value are written by name, so the names are short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Agent to hub, where an introduction or a short greeting had no answer that could be used.
    #[serde(rename = "h")]
    Hello(Hello),
    /// Hub to agent, answers a hello.
    #[serde(rename = "H")]
    HelloReply(HelloReply),
    /// From a map's publisher to its receiver: a part of an update.
    #[serde(rename = "m")]
    MapChunk(MapChunk),
    /// From a map's receiver to its publisher: how far it is.
    #[serde(rename = "a")]
    MapAck(MapAck),
    /// From a map's receiver to its publisher: an update that it will not apply.
    #[serde(rename = "r")]
    MapRefusal(MapRefusal),
    /// Agent to hub: records of a log.
    #[serde(rename = "l")]
    LogBatch(LogBatch),
    /// Hub to agent: records that are committed.
    #[serde(rename = "L")]
    LogAck(LogAck),
    /// Hub to agent: a question with a deadline.
    #[serde(rename = "c")]
    CallRequest(CallRequest),
    /// Agent to hub: its answer.
    #[serde(rename = "C")]
    CallResponse(CallResponse),
    /// Hub to agent: records that have arrived and wait for what they are meant for.
    #[serde(rename = "w")]
    LogHold(LogHold),
    /// Agent to hub, first after a reconnection that the session outlived: a short greeting.
    #[serde(rename = "g")]
    Resume(Resume),
    /// Hub to agent, answers a short greeting.
    #[serde(rename = "G")]
    Resumed(Resumed),
    /// Agent to hub, first after a handshake: what a [`Hello`] says, without what the hub can do without
    /// in most cases. Answered by a [`Resumed`].
    #[serde(rename = "i")]
    Introduction(Introduction),
}

impl Message {
    /// Which kind it is, for a log.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::HelloReply(_) => "HelloReply",
            Self::MapChunk(_) => "MapChunk",
            Self::MapAck(_) => "MapAck",
            Self::MapRefusal(_) => "MapRefusal",
            Self::LogBatch(_) => "LogBatch",
            Self::LogAck(_) => "LogAck",
            Self::CallRequest(_) => "CallRequest",
            Self::CallResponse(_) => "CallResponse",
            Self::LogHold(_) => "LogHold",
            Self::Resume(_) => "Resume",
            Self::Resumed(_) => "Resumed",
            Self::Introduction(_) => "Introduction",
        }
    }
}

/// Clocks of earlier boots in one greeting; records of still older ones keep their own time.
pub const BOOT_CLOCKS_MAX: usize = 16;

/// Counts the starts of an agent; never used twice by a node.
pub type Incarnation = u64;

/// Numbers the records of one log from 1.
pub type SequenceNumber = u64;

/// Orders the contents of a map: a greater one replaces a lesser one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Version {
    /// Desired state: the hub's term. Reported state: the agent's incarnation.
    pub term: u64,
    /// Counts the contents within a term from 1.
    pub generation: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.generation)
    }
}

/// Which content of a map a side has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapPosition {
    /// Its version.
    pub version: Version,
    /// Its digest.
    pub digest: Digest,
}

/// Which map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MapName {
    /// What the node should run; hub to agent; its header is signed.
    Desired,
    /// How the node is doing; agent to hub.
    Reported,
}

/// What a publisher says of one content of a map. Whoever holds it can check the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapHeader {
    /// Version and digest of the content.
    pub position: MapPosition,
    /// When the header was made, in milliseconds since 1970 by the publisher's clock.
    pub issued_at_ms: u64,
}

/// What the hub's signature of a desired state's header covers besides the header: a header of one
/// node, or of another kind of document, is worth nothing elsewhere.
#[must_use]
pub fn desired_header_context(node: &NodeId) -> Vec<u8> {
    format!("hinterland/desired/1/{node}").into_bytes()
}

/// One item of a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapItem {
    /// Its key, at most [`crate::limits::MAP_KEY_BYTES_MAX`] bytes.
    pub key: String,
    /// Its value, at most [`crate::limits::MAP_ITEM_BYTES_MAX`] bytes.
    pub value: ByteBuf,
}

/// The content of an update, once its chunks are put together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapBody {
    /// The whole map.
    Snapshot {
        /// All items.
        items: Vec<MapItem>,
    },
    /// What changed since a content that the receiver has.
    Delta {
        /// The digest of that content.
        base: ShortDigest,
        /// Changed items of which little changed, each once, in ascending order.
        edits: Vec<ItemEdit>,
        /// New items, and changed ones of which much changed.
        upserts: Vec<MapItem>,
        /// Keys that are gone.
        tombstones: Vec<String>,
    },
}

/// What turns the value that an item has in the base into its new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemEdit {
    /// Which item: its place in the base, in the order of keys, from 0.
    pub item: u32,
    /// What changes, from the front to the back.
    pub hunks: Vec<Hunk>,
}

/// A stretch of a value that is replaced by another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hunk {
    /// Bytes that stay, since the hunk before.
    pub skip: u32,
    /// Bytes after them that go.
    pub remove: u32,
    /// What comes in their place.
    pub insert: ByteBuf,
}

/// A part of an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapChunk {
    /// Which map.
    pub map: MapName,
    /// The encoded [`MapHeader`]; for desired state a COSE_Sign1 around it.
    pub header: ByteBuf,
    /// Which part, from 0.
    pub index: u32,
    /// How many parts there are, from 1.
    pub count: u32,
    /// The part of the encoded [`MapBody`].
    pub body: ByteBuf,
}

/// How far a receiver is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapAck {
    /// Parts before `next` have arrived.
    Partial {
        /// Which map.
        map: MapName,
        /// Of which update.
        version: Version,
        /// The first part that is missing.
        next: u32,
        /// How many parts from there on the receiver can afford now; 0 asks the publisher to wait for
        /// another acknowledgement. `None` leaves it to the publisher.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        window: Option<u32>,
    },
    /// The content is applied and durable.
    Applied {
        /// Which map.
        map: MapName,
        /// Which content: a version has one.
        version: Version,
    },
}

/// An update that a receiver will not apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRefusal {
    /// Which map.
    pub map: MapName,
    /// Of which update.
    pub version: Version,
    /// Why.
    pub reason: RefusalReason,
    /// The header of what the receiver has, as it came; shows a stale hub a greater term.
    pub accepted: Option<ByteBuf>,
}

/// Why an update is not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalReason {
    /// Lower than what is accepted.
    Stale,
    /// The same version with another digest.
    Conflict,
    /// The receiver does not have the delta's base: send a snapshot.
    BaseMismatch,
    /// The content does not have the header's digest, or breaks a limit.
    Malformed,
    /// The receiver can't make it durable now: try again later.
    Unavailable,
}

/// A class of records. The order ([`Ord`]) is the order of sending: lower first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// What happened to pods, GPUs and the node.
    Events,
    /// Telemetry taken while the hub listened.
    Telemetry,
    /// Telemetry taken while it did not.
    Backfill,
    /// Events that somebody must act on.
    Alarms,
    /// What pods made, for one sink of the hub: each sink takes at its own pace.
    #[serde(rename = "r")]
    Results(SinkId),
}

impl Stream {
    /// The streams of telemetry.
    pub const TELEMETRY: [Self; 2] = [Self::Telemetry, Self::Backfill];

    /// (place in the order of sending, the sink)
    fn rank(self) -> (u8, u32) {
        match self {
            Self::Alarms => (0, 0),
            Self::Events => (1, 0),
            Self::Results(SinkId(sink)) => (2, sink),
            Self::Telemetry => (3, 0),
            Self::Backfill => (4, 0),
        }
    }
}

impl PartialOrd for Stream {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stream {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// Names one log of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// The agent's start in which the records were made.
    pub incarnation: Incarnation,
    /// The class of the records.
    pub stream: Stream,
}

/// In a batch: of the start that greeted in this session. Almost every batch is, and the number itself
/// has five bytes.
pub const GREETED_INCARNATION: Incarnation = 0;

/// Records `first`, `first` + 1, … of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBatch {
    /// Which log; its incarnation is [`GREETED_INCARNATION`] where that is the one of the greeting.
    pub log: LogId,
    /// The oldest record that the sender still has. What is older and was never received is lost,
    /// and the receiver counts it.
    pub oldest: SequenceNumber,
    /// The number of the first record here.
    pub first: SequenceNumber,
    /// The records, at most [`LOG_BATCH_RECORDS_MAX`].
    pub records: Vec<ByteBuf>,
}

impl LogBatch {
    /// Whether the batch keeps its limits.
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        let numbered = self.first.checked_add(self.records.len() as u64).is_some();
        let few = self.records.len() <= LOG_BATCH_RECORDS_MAX;
        few && numbered && self.first >= 1 && self.oldest >= 1
    }
}

/// Every record up to `watermark` is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAck {
    /// Which log.
    pub log: LogId,
    /// 0 when there is none yet.
    pub watermark: SequenceNumber,
}

/// Every record up to `received` has arrived and is held in memory until what it is meant for takes
/// it: the sender keeps it and repeats nothing. Forgotten with the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHold {
    /// Which log.
    pub log: LogId,
    /// The last record that has arrived.
    pub received: SequenceNumber,
}

/// What the agent has, so that the hub sends only what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The accepted header of desired state, signed as it came.
    pub desired: Option<ByteBuf>,
    /// The agent's reported state as it is now.
    pub reported: MapPosition,
    /// This start of the agent.
    pub incarnation: Incarnation,
    /// The oldest start of which records are still to be delivered; the hub may forget the
    /// watermarks of older ones.
    pub oldest_incarnation: Incarnation,
    /// The agent's version, for people.
    pub agent_version: String,
    /// The node's clock now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<BootClock>,
    /// The clocks of earlier boots that were synchronised at their end, as far as records of them are
    /// still to be delivered. At most [`BOOT_CLOCKS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_clocks: Vec<BootClock>,
}

/// What the hub has, so that the agent sends only what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The header of the node's desired state, signed.
    pub desired: ByteBuf,
    /// The node's reported state as far as the hub has it.
    pub reported: Option<MapPosition>,
    /// The watermarks of the node's newest logs.
    pub watermarks: Vec<LogAck>,
}

/// What the agent has, as a hub needs it that knows the node's desired state, as it does after its own restart.
/// A hub to which it shows a greater version than it has published asks for a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// What is accepted of desired state, and whole.
    pub desired: Option<ShownContent>,
    /// This start of the agent.
    pub incarnation: Incarnation,
    /// See [`Hello::oldest_incarnation`]; [`GREETED_INCARNATION`] where it is this start.
    pub oldest_incarnation: Incarnation,
    /// The agent's version, for people.
    pub agent_version: String,
    /// The node's clock now.
    pub clock: Option<BootClock>,
    /// See [`Hello::earlier_clocks`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_clocks: Vec<BootClock>,
}

/// Which content of a map a side has, in short: whether it is the same is checked by the header that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownContent {
    /// Its version.
    pub version: Version,
    /// The beginning of its digest.
    pub digest: ShortDigest,
}

/// A signed header without what the receiver has: the content is the one that it has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewedHeader {
    /// The version.
    pub version: Version,
    /// See [`MapHeader::issued_at_ms`].
    pub issued_at_ms: u64,
    /// The signature over the whole header.
    pub signature: ByteBuf,
}

/// What may have changed while the link was down; all else the hub knows from the session's first greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The version of desired state that is accepted and whole. One beyond what the hub published must
    /// be shown by its signature, in a [`Hello`].
    pub desired: Option<Version>,
    /// Whether it has records of which it does not know that they are committed.
    pub awaits_watermarks: bool,
}

/// What the agent may not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// The node's reported state as far as the hub has it.
    pub reported: Option<Version>,
    /// The header of the node's desired state, signed, where it is not the one that the agent has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<ByteBuf>,
    /// The watermarks of the node's newest logs, where it awaits them or introduced itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watermarks: Vec<LogAck>,
    /// In place of `desired` where the agent has the content and not the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed: Option<RenewedHeader>,
}
