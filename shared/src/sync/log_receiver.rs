//! The receiving side of all logs of one node: takes each record once, in order, and counts exactly
//! what was lost.
//!
//! The caller commits what comes out together with the watermark, and only then acknowledges.

use crate::wire::{Incarnation, LogAck, LogBatch, LogId, SequenceNumber};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Logs of one node that are remembered; older incarnations go first. A node that restarts more
/// often than this without ever reaching the hub has its oldest watermarks forgotten only after it
/// said that nothing of them is left.
const WATERMARKS_SENT_MAX: usize = 16;

/// The watermarks of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogReceiver {
    watermarks: BTreeMap<LogId, SequenceNumber>,
}

/// What a batch brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceivedRecords {
    /// Records that were not there before, with their numbers; empty ones are left out.
    pub records: Vec<(SequenceNumber, Vec<u8>)>,
    /// Records that the sender no longer had.
    pub lost_records: u64,
    /// Whether the watermark moved, so that it must be committed.
    pub advanced: bool,
    /// The acknowledgement to send once everything is committed.
    pub ack: Option<LogAck>,
}

impl LogReceiver {
    /// Takes what is new of a batch. A batch that leaves a hole is not taken; the acknowledgement
    /// then says where to go on.
    pub fn handle_batch(&mut self, batch: LogBatch) -> ReceivedRecords {
        if !batch.is_within_limits() {
            return ReceivedRecords::default();
        }
        let watermark = self.watermarks.get(&batch.log).copied().unwrap_or(0);
        let begin = watermark.max(batch.oldest - 1);
        let mut received = ReceivedRecords::default();
        let mut reached = begin;
        // Nothing before `first` is here: the records between would be skipped.
        if batch.first <= begin.saturating_add(1) {
            for (sequence, record) in (batch.first..).zip(batch.records) {
                if sequence <= begin {
                    continue;
                }
                reached = sequence;
                if record.is_empty() {
                    received.lost_records += 1;
                } else {
                    received.records.push((sequence, record.into_vec()));
                }
            }
        }
        received.lost_records += begin - watermark;
        received.advanced = reached > watermark;
        if received.advanced {
            self.watermarks.insert(batch.log, reached);
        }
        received.ack = Some(LogAck { log: batch.log, watermark: reached });
        received
    }

    /// Nothing of incarnations before this one is left at the sender.
    pub fn forget_before(&mut self, oldest: Incarnation) -> bool {
        let before = self.watermarks.len();
        self.watermarks.retain(|log, _| log.incarnation >= oldest);
        before != self.watermarks.len()
    }

    /// The watermarks of the newest logs.
    #[must_use]
    pub fn newest_watermarks(&self) -> Vec<LogAck> {
        let newest = self.watermarks.iter().rev().take(WATERMARKS_SENT_MAX);
        newest.map(|(log, watermark)| LogAck { log: *log, watermark: *watermark }).collect()
    }

    /// The watermark of one log; 0 when there is none.
    #[must_use]
    pub fn watermark(&self, log: &LogId) -> SequenceNumber {
        self.watermarks.get(log).copied().unwrap_or(0)
    }
}
