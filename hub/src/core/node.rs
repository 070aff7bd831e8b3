//! What the hub knows of one node.

use super::acknowledgements::Acknowledgements;
use super::attached::SealedFrom;
use super::clock::BootClocks;
use super::decoders::Decoders;
use super::held::HeldLogs;
use super::settlement::Settlement;
use serde::{Deserialize, Serialize};
use shared::model::{MonotonicMs, NodeEvent, NodeId, NodeStatus, PodStatus, SinkId, UnixMs};
use shared::sync::{
    Calls, HubSession, LOGS_MAX, LogReceiver, MapContent, MapPublisher, MapReceiver,
};
use shared::telemetry::Sample;
use shared::trust::session::SessionPublicKey;
use shared::wire::{MapHeader, MapName, MapPosition, Resume, Version, decode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Events of one node that are kept for people; older ones are in the hub's log.
pub(super) const EVENTS_MAX: usize = 64;

/// A watermark: an incarnation, a stream and a number.
const WATERMARK_BYTES_MAX: usize = 32;

/// A node's record: keys, names, and the watermarks of every log that it may have.
const RECORD_BYTES_MAX: usize = 64 * 1024 + LOGS_MAX * WATERMARK_BYTES_MAX;

/// One item of reported state.
pub(super) const REPORTED_ITEM_BYTES_MAX: usize = 256 * 1024;

/// What the hub's store keeps of a node besides its reported items. Fields are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node's key for sessions, from its signed request.
    pub session_key: SessionPublicKey,
    /// The serial number of the certificate that it enrolled with. Later ones of the same node hold
    /// as well; an earlier one was another holder's of its name.
    pub certificate_serial: String,
    /// When its request was signed.
    pub enrolled_at: UnixMs,
    /// Whether it is no longer trusted.
    pub revoked: bool,
    /// The watermarks of its logs.
    pub logs: LogReceiver,
    /// Samples that were taken over.
    pub samples_received: u64,
    /// Events that were taken over.
    pub events_received: u64,
    /// Records that the node no longer had when their turn came.
    pub records_lost: u64,
    /// Records that could not be decoded.
    pub records_undecodable: u64,
    /// The header of its reported state.
    pub reported_header: Option<serde_bytes::ByteBuf>,
    /// The greatest incarnation that it has greeted with.
    pub incarnation: u64,
    /// When something genuine was last heard of it, as of the last commit.
    pub last_seen: Option<UnixMs>,
    /// Results that their sinks have.
    #[serde(default)]
    pub results_received: u64,
    /// Where its boots lie.
    #[serde(default)]
    pub boot_clocks: BootClocks,
}

impl NodeRecord {
    /// The serial number of its certificate; 0 where it is none.
    pub(crate) fn serial(&self) -> u64 {
        u64::from_str_radix(&self.certificate_serial, 16).unwrap_or(0)
    }

    /// A node that has just been signed.
    #[must_use]
    pub fn new(
        session_key: SessionPublicKey,
        certificate_serial: String,
        enrolled_at: UnixMs,
    ) -> Self {
        Self {
            session_key,
            certificate_serial,
            enrolled_at,
            revoked: false,
            logs: LogReceiver::default(),
            samples_received: 0,
            events_received: 0,
            records_lost: 0,
            records_undecodable: 0,
            reported_header: None,
            incarnation: 0,
            last_seen: None,
            results_received: 0,
            boot_clocks: BootClocks::default(),
        }
    }

    /// Records are done with.
    pub(super) fn add(&mut self, settlement: &Settlement) {
        self.samples_received += settlement.samples;
        self.events_received += settlement.events;
        self.results_received += settlement.results;
        // A node that jumps to the last number, in two logs, claims more than can be counted.
        self.records_lost = self.records_lost.saturating_add(settlement.lost_records());
        self.records_undecodable += settlement.undecodable_records();
    }
}

/// What a node has greeted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// In full, after a handshake.
    Full,
    /// In short; whether it introduced itself.
    Short { greeting: Resume, introduces: bool },
}

/// One node, as the running hub sees it.
pub(super) struct NodeState {
    pub(super) record: NodeRecord,
    pub(super) session: HubSession,
    pub(super) desired: MapPublisher,
    pub(super) reported: MapReceiver,
    /// What the records of its telemetry build on, as of the watermarks in `record`.
    pub(super) decoders: Decoders,
    pub(super) calls: Calls,
    /// The node has greeted on this link, and is not known to be gone.
    pub(super) greeted: bool,
    /// While it is offline: since when, as far as this start of the hub knows.
    pub(super) offline_since: MonotonicMs,
    /// Why it is not let in, though it is enrolled, in words.
    pub(super) kept_out: Option<&'static str>,
    /// It has greeted since this start of the hub.
    pub(super) heard: bool,
    /// What it should run is known since this start of the hub; until then it is told nothing.
    pub(super) assigned: bool,
    /// A greeting that waits for the term to be durable, or for the manifests.
    pub(super) reply_due: Option<Greeting>,
    pub(super) agent_version: String,
    pub(super) latest: Option<Sample>,
    pub(super) events: VecDeque<NodeEvent>,
    pub(super) status: Option<NodeStatus>,
    pub(super) pods: BTreeMap<String, PodStatus>,
    /// Batches that wait for their sinks.
    pub(super) held: HeldLogs,
    /// What is committed and was not said yet.
    pub(super) acknowledgements: Acknowledgements,
    /// Sinks that it has results for and this hub has not.
    pub(super) missing_sinks: BTreeSet<SinkId>,
    /// As in its record, shared with deliveries on their way.
    pub(super) clocks: Arc<BootClocks>,
    /// What the Secrets that it was told were sealed from.
    pub(super) sealed: SealedFrom,
}

impl NodeState {
    pub(super) fn restore(
        id: NodeId,
        record: NodeRecord,
        items: BTreeMap<String, Vec<u8>>,
        decoders: Decoders,
        offline_since: MonotonicMs,
    ) -> Self {
        let header = record.reported_header.as_ref();
        let accepted = header.and_then(|bytes| {
            let header: MapHeader = decode("reported state header", bytes, 256).ok()?;
            Some((header.position, bytes.to_vec()))
        });
        let fence = Version::default();
        let reported = MapReceiver::restore(MapName::Reported, items, accepted, fence);
        let mut state = Self {
            session: HubSession::new(id, record.session_key),
            desired: unsigned_publisher(),
            reported,
            decoders,
            calls: Calls::default(),
            greeted: false,
            offline_since,
            kept_out: None,
            heard: false,
            assigned: false,
            reply_due: None,
            agent_version: String::new(),
            latest: None,
            events: VecDeque::new(),
            status: None,
            pods: BTreeMap::new(),
            held: HeldLogs::default(),
            acknowledgements: Acknowledgements::default(),
            missing_sinks: BTreeSet::new(),
            clocks: Arc::new(record.boot_clocks.clone()),
            sealed: SealedFrom::new(),
            record,
        };
        state.decode_reported();
        state
    }

    /// Whether the node is there and in session.
    pub(super) fn is_online(&self) -> bool {
        self.greeted && self.is_trusted()
    }

    /// Whether it may be in session.
    pub(super) fn is_trusted(&self) -> bool {
        !self.record.revoked && self.kept_out.is_none()
    }

    /// When the first of its timers is due.
    pub(super) fn poll_timeout(&self) -> Option<MonotonicMs> {
        let timers = [
            self.desired.poll_timeout(),
            self.calls.poll_timeout(),
            self.held.poll_timeout(),
            self.acknowledgements.poll_timeout(),
        ];
        timers.into_iter().flatten().min()
    }

    /// The node's and its pods' state, from the items as they are now.
    pub(super) fn decode_reported(&mut self) {
        let items = self.reported.content().items();
        let limit = REPORTED_ITEM_BYTES_MAX;
        self.status = items.get("node").and_then(|v| decode("node status", v, limit).ok());
        let pods = items.iter().filter_map(|(key, value)| {
            let pod = key.strip_prefix("p/")?;
            Some((pod.to_owned(), decode("pod status", value, limit).ok()?))
        });
        self.pods = pods.collect();
    }

    pub(super) fn add_event(&mut self, event: NodeEvent) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

fn unsigned_publisher() -> MapPublisher {
    let content = MapContent::default();
    let position = MapPosition { version: Version::default(), digest: content.digest() };
    MapPublisher::new(MapName::Desired, content, position, vec![])
}

pub(super) fn decode_record(key: &[u8], value: &[u8]) -> Result<(NodeId, NodeRecord), String> {
    let name = std::str::from_utf8(key).map_err(|error| error.to_string())?;
    let id = NodeId::new(name).map_err(|error| error.to_string())?;
    let record = decode("node record", value, RECORD_BYTES_MAX);
    Ok((id, record.map_err(|error| format!("{name}: {error}"))?))
}

pub(super) fn reported_key(node: &NodeId, item: &str) -> Vec<u8> {
    format!("{node}/{item}").into_bytes()
}

pub(super) fn split_reported_key(key: &[u8]) -> Option<(NodeId, String)> {
    let (node, item) = std::str::from_utf8(key).ok()?.split_once('/')?;
    Some((NodeId::new(node).ok()?, item.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_bytes::ByteBuf;
    use shared::wire::{LogBatch, LogId, Stream, encode};

    /// A node that began so many logs would be unknown after the hub's next start.
    #[test]
    fn a_record_with_as_many_logs_as_there_may_be_is_read_again() {
        let mut record = NodeRecord::new(SessionPublicKey([1; 32]), "1".to_owned(), UnixMs(0));
        for n in 0..LOGS_MAX as u64 {
            let log = LogId { incarnation: u64::MAX - n, stream: Stream::Backfill };
            let (oldest, first) = (u64::MAX - 1, u64::MAX - 1);
            let records = vec![ByteBuf::from(vec![1])];
            assert!(record.logs.handle_batch(LogBatch { log, oldest, first, records }).advanced);
        }
        let stored = encode("node record", &record).unwrap();
        let (_, back) = decode_record(b"mast-17", &stored).unwrap();
        assert_eq!(back, record);
    }
}
