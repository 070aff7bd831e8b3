//! One decoder a log of telemetry, beside the watermarks: what a record builds on is committed with
//! the watermark that it raised, so that a restarted hub goes on with the record after it.

use super::commit::GroupCommit;
use shared::model::NodeId;
use shared::ports::Tree;
use shared::telemetry::{Batch, BatchDecoder, CodecError};
use shared::wire::{Incarnation, LogId, SequenceNumber, Stream, decode, encode};
use std::collections::BTreeMap;
use tracing::warn;

/// A stored decoder: 4096 series with names of their own, and numbers of 9 bytes.
const DECODER_BYTES_MAX: usize = 1 << 20;

/// Logs of one node whose decoders are held: two an incarnation, and a node that restarted a few
/// times while it was offline delivers them one after the other. What a node claims must not fill
/// the hub's memory.
const DECODERS_MAX: usize = 16;

/// The decoders of one node.
#[derive(Debug, Clone, Default)]
pub(super) struct Decoders {
    of_log: BTreeMap<LogId, Held>,
    /// As they were before the records that wait for a sink: what is stored is these.
    before: BTreeMap<LogId, Held>,
    /// Counts records.
    turn: u64,
}

#[derive(Debug, Clone, Default)]
struct Held {
    decoder: BatchDecoder,
    /// When it was last used.
    turn: u64,
}

impl Decoders {
    /// Those that were stored; one that can't be read waits for a keyframe, as a new one does.
    pub(super) fn restore(node: &NodeId, stored: BTreeMap<LogId, Vec<u8>>) -> Self {
        let restored = |(log, bytes): (LogId, Vec<u8>)| {
            let decoder = decode("decoder", &bytes, DECODER_BYTES_MAX);
            let told = decoder.map_err(|error| {
                warn!(node = %node, log = ?log, error = %error, "a decoder begins anew");
            });
            Some((log, Held { decoder: told.ok()?, turn: 0 }))
        };
        let of_log = stored.into_iter().filter_map(restored).collect();
        Self { of_log, before: BTreeMap::new(), turn: 0 }
    }

    /// The batch in a record.
    pub(super) fn decode(
        &mut self,
        log: LogId,
        sequence: SequenceNumber,
        record: &[u8],
    ) -> Result<Batch, CodecError> {
        self.turn += 1;
        let held = self.of_log.entry(log).or_default();
        held.turn = self.turn;
        held.decoder.decode(sequence, record)
    }

    /// Records of `log` come that will wait for a sink: as it is now it is stored, until they are done
    /// with.
    pub(super) fn hold(&mut self, log: LogId) {
        let now = self.of_log.get(&log).cloned().unwrap_or_default();
        self.before.entry(log).or_insert(now);
    }

    /// The records that waited were not taken: they come again.
    pub(super) fn revert(&mut self, log: LogId) {
        if let Some(before) = self.before.remove(&log) {
            self.of_log.insert(log, before);
        }
    }

    /// What is known of `log` is committed with what else is put now. When there are too many, the
    /// one that was not used for longest goes; its log waits for a keyframe then.
    pub(super) fn put(&mut self, log: LogId, node: &NodeId, commit: &mut GroupCommit) {
        self.before.remove(&log);
        let Some(held) = self.of_log.get(&log) else { return };
        match encode("decoder", &held.decoder) {
            Ok(value) => commit.put(Tree::Decoders, decoder_key(node, log), value),
            Err(error) => warn!(node = %node, error = %error, "a decoder was not stored"),
        }
        while self.of_log.len() > DECODERS_MAX {
            let held = self.of_log.iter().filter(|(log, _)| !self.before.contains_key(log));
            let idle = held.min_by_key(|(_, held)| held.turn).map(|(log, _)| *log);
            let Some(idle) = idle else { return };
            self.of_log.remove(&idle);
            commit.delete(Tree::Decoders, decoder_key(node, idle));
        }
    }

    /// Forgets the logs of incarnations before `oldest`: they are delivered.
    pub(super) fn forget_before(
        &mut self,
        oldest: Incarnation,
        node: &NodeId,
        commit: &mut GroupCommit,
    ) {
        self.before.retain(|log, _| log.incarnation >= oldest);
        let kept = self.of_log.split_off(&LogId { incarnation: oldest, stream: Stream::Events });
        for log in std::mem::replace(&mut self.of_log, kept).into_keys() {
            commit.delete(Tree::Decoders, decoder_key(node, log));
        }
    }

    /// Forgets all of them.
    pub(super) fn forget(&mut self, node: &NodeId, commit: &mut GroupCommit) {
        self.before.clear();
        for log in std::mem::take(&mut self.of_log).into_keys() {
            commit.delete(Tree::Decoders, decoder_key(node, log));
        }
    }
}

fn decoder_key(node: &NodeId, log: LogId) -> Vec<u8> {
    let stream = if log.stream == Stream::Backfill { "backfill" } else { "telemetry" };
    format!("{node}/{}/{stream}", log.incarnation).into_bytes()
}

/// The node and log of a key of [`Tree::Decoders`].
pub(super) fn split_decoder_key(key: &[u8]) -> Option<(NodeId, LogId)> {
    let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '/');
    let node = NodeId::new(parts.next()?).ok()?;
    let incarnation = parts.next()?.parse().ok()?;
    let stream = match parts.next()? {
        "telemetry" => Stream::Telemetry,
        "backfill" => Stream::Backfill,
        _ => return None,
    };
    Some((node, LogId { incarnation, stream }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_node_and_log() {
        let node = NodeId::new("mast-17").unwrap();
        for stream in [Stream::Telemetry, Stream::Backfill] {
            let log = LogId { incarnation: 12, stream };
            assert_eq!(split_decoder_key(&decoder_key(&node, log)), Some((node.clone(), log)));
        }
        assert_eq!(split_decoder_key(b"mast-17/12/events"), None);
        assert_eq!(split_decoder_key(b"mast-17"), None);
    }
}
