//! The receiving side of all logs of one node: takes each record once, in order, and counts exactly
//! what was lost.
//!
//! A log has two positions. What has *arrived* is not taken again in this life of the receiver; the
//! *watermark* is what is done with for good, and only that is stored and acknowledged. Where a record
//! must reach something else first, the caller moves the watermark itself ([`LogReceiver::settle`])
//! once it has; else both move together ([`LogReceiver::handle_batch`]).
//!
//! The caller commits what comes out together with the watermark, and only then acknowledges.

use crate::wire::{Incarnation, LogAck, LogBatch, LogId, SequenceNumber};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Logs of one node that are remembered; older incarnations go first. A node that restarts more
/// often than this without ever reaching the hub has its oldest watermarks forgotten only after it
/// said that nothing of them is left.
const WATERMARKS_SENT_MAX: usize = 16;

/// Logs of one node whose watermarks are kept. An agent keeps as many positions of its own; without
/// a bound a hostile one would fill the hub's memory, and its record could not be read again.
pub const LOGS_MAX: usize = 65_536;

/// The watermarks of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogReceiver {
    watermarks: BTreeMap<LogId, SequenceNumber>,
    /// All of the incarnations before this one was delivered: the sender has said so. What still
    /// comes of them was overtaken, or the sender's disk did not let go of it.
    #[serde(default)]
    forgotten_before: Incarnation,
    /// How far each log has arrived, where that is beyond its watermark. Forgotten with the process:
    /// the sender then sends it again.
    #[serde(skip)]
    arrived: BTreeMap<LogId, SequenceNumber>,
}

/// What a batch brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceivedRecords {
    /// Records that were not there before, with their numbers; empty ones are left out.
    pub records: Vec<(SequenceNumber, Vec<u8>)>,
    /// The number behind what had arrived before: the first that the batch speaks of anew.
    pub first: SequenceNumber,
    /// Records that the sender no longer had, in order.
    pub lost: Vec<RangeInclusive<SequenceNumber>>,
    /// Whether anything is new, so that a watermark must be committed now or later.
    pub advanced: bool,
    /// Whether the batch begins behind a record that has not arrived: it was not taken, and the sender
    /// must hear where to go on.
    pub hole: bool,
    /// Whether the batch repeats what has arrived: its sender waits to hear.
    pub repeated: bool,
    /// How far the log has arrived: the acknowledgement to send once everything up to there is done
    /// with and committed. `None` for a batch over its limits.
    pub ack: Option<LogAck>,
}

impl ReceivedRecords {
    /// How many records the sender no longer had.
    #[must_use]
    pub fn lost_records(&self) -> u64 {
        count_in(&self.lost)
    }
}

/// How many numbers there are in ranges that do not overlap.
#[must_use]
pub fn count_in(ranges: &[RangeInclusive<SequenceNumber>]) -> u64 {
    let lengths = ranges.iter().map(|range| (range.end() - range.start()).saturating_add(1));
    lengths.fold(0, u64::saturating_add)
}

/// Adds `number`, which is behind all that are there.
pub fn push_number(ranges: &mut Vec<RangeInclusive<SequenceNumber>>, number: SequenceNumber) {
    match ranges.last_mut() {
        Some(last) if last.end().checked_add(1) == Some(number) => {
            *last = *last.start()..=number;
        }
        _ => ranges.push(number..=number),
    }
}

impl LogReceiver {
    /// Takes what is new of a batch, and moves the watermark over it. A batch that leaves a hole is not
    /// taken; the acknowledgement then says where to go on.
    pub fn handle_batch(&mut self, batch: LogBatch) -> ReceivedRecords {
        let received = self.receive(batch);
        received.ack.iter().for_each(|ack| self.settle(*ack));
        received
    }

    /// Takes what is new of a batch; the watermark stays where it is until [`Self::settle`]. One of a
    /// log over [`LOGS_MAX`] is neither taken nor acknowledged.
    pub fn receive(&mut self, batch: LogBatch) -> ReceivedRecords {
        let is_known = |logs: &BTreeMap<LogId, SequenceNumber>| logs.contains_key(&batch.log);
        let known = is_known(&self.watermarks) || is_known(&self.arrived);
        let full = self.watermarks.len().max(self.arrived.len()) >= LOGS_MAX;
        if !batch.is_within_limits() || (!known && full) {
            return ReceivedRecords::default();
        }
        if batch.log.incarnation < self.forgotten_before {
            let watermark = (batch.first - 1).saturating_add(batch.records.len() as u64);
            let ack = Some(LogAck { log: batch.log, watermark });
            return ReceivedRecords { ack, ..ReceivedRecords::default() };
        }
        let position = self.arrived(&batch.log);
        let begin = position.max(batch.oldest - 1);
        // Nothing before `first` is here: the records between would be skipped.
        let hole = batch.first > begin.saturating_add(1);
        let repeated = batch.first <= position && !batch.records.is_empty();
        let first = position.saturating_add(1);
        let mut received = ReceivedRecords { first, hole, repeated, ..ReceivedRecords::default() };
        if begin > position {
            received.lost.push(first..=begin);
        }
        let mut reached = begin;
        // The numbers second: they are not asked for one more than there are records.
        let numbered = batch.records.into_iter().zip(batch.first..);
        for (record, sequence) in numbered.filter(|(_, sequence)| !hole && *sequence > begin) {
            reached = sequence;
            if record.is_empty() {
                push_number(&mut received.lost, sequence);
            } else {
                received.records.push((sequence, record.into_vec()));
            }
        }
        received.advanced = reached > position;
        if received.advanced {
            self.arrived.insert(batch.log, reached);
        }
        received.ack = Some(LogAck { log: batch.log, watermark: reached });
        received
    }

    /// Everything up to `done.watermark` is done with: the watermark moves there, as far as it has
    /// arrived, and never back.
    pub fn settle(&mut self, done: LogAck) {
        let arrived = self.arrived(&done.log);
        let watermark = done.watermark.min(arrived);
        if watermark <= self.watermark(&done.log) {
            return;
        }
        self.watermarks.insert(done.log, watermark);
        if watermark == arrived {
            self.arrived.remove(&done.log);
        }
    }

    /// What has arrived of `log` beyond `to` and its watermark was not taken after all: it must come
    /// again.
    pub fn rewind(&mut self, log: LogId, to: SequenceNumber) {
        if to > self.watermark(&log) {
            self.arrived.insert(log, to.min(self.arrived(&log)));
        } else {
            self.arrived.remove(&log);
        }
    }

    /// The last record of `log` that has arrived; 0 when there is none.
    #[must_use]
    pub fn arrived(&self, log: &LogId) -> SequenceNumber {
        self.arrived.get(log).copied().unwrap_or_else(|| self.watermark(log))
    }

    /// All of the incarnations before this one was delivered: their watermarks can go.
    pub fn forget_before(&mut self, oldest: Incarnation) -> bool {
        let changed = oldest > self.forgotten_before;
        self.forgotten_before = self.forgotten_before.max(oldest);
        self.watermarks.retain(|log, _| log.incarnation >= self.forgotten_before);
        self.arrived.retain(|log, _| log.incarnation >= self.forgotten_before);
        changed
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Stream;
    use serde_bytes::ByteBuf;

    fn batch(incarnation: Incarnation, oldest: u64, first: u64, records: &[&str]) -> LogBatch {
        let log = LogId { incarnation, stream: Stream::Events };
        let records = records.iter().map(|r| ByteBuf::from(r.as_bytes().to_vec())).collect();
        LogBatch { log, oldest, first, records }
    }

    #[test]
    fn each_record_is_taken_once_whatever_is_repeated() {
        let mut receiver = LogReceiver::default();
        assert_eq!(receiver.handle_batch(batch(1, 1, 1, &["a", "b"])).records.len(), 2);
        let again = receiver.handle_batch(batch(1, 1, 2, &["b", "c"]));
        assert_eq!(again.records, vec![(3, b"c".to_vec())]);
        assert!(again.repeated && !receiver.handle_batch(batch(1, 1, 4, &["d"])).repeated);
        assert_eq!(again.ack.unwrap().watermark, 3);
    }

    #[test]
    fn a_hole_is_not_taken_and_the_answer_says_where_to_go_on() {
        let mut receiver = LogReceiver::default();
        let received = receiver.handle_batch(batch(1, 1, 3, &["c"]));
        assert!(received.records.is_empty() && !received.advanced && received.hole);
        assert_eq!(received.ack.unwrap().watermark, 0);
    }

    #[test]
    fn what_the_sender_no_longer_had_is_counted_exactly() {
        let mut receiver = LogReceiver::default();
        receiver.handle_batch(batch(1, 1, 1, &["a"]));
        let received = receiver.handle_batch(batch(1, 5, 5, &["e", "", "", "h"]));
        assert_eq!((received.first, received.lost_records()), (2, 5));
        assert_eq!(received.lost, [2..=4, 6..=7], "2, 3 and 4 by the quota, 6 and 7 by the disk");
        assert_eq!(received.records, vec![(5, b"e".to_vec()), (8, b"h".to_vec())]);
        let received = receiver.handle_batch(batch(1, 11, 11, &["", "l"]));
        assert_eq!(received.lost, [9..=11], "9 and 10 by the quota, 11 by the disk");
    }

    #[test]
    fn a_late_batch_of_a_forgotten_incarnation_is_acknowledged_and_not_taken_again() {
        let mut receiver = LogReceiver::default();
        receiver.handle_batch(batch(1, 1, 1, &["a"]));
        assert!(receiver.forget_before(2));
        let late = receiver.handle_batch(batch(1, 1, 1, &["a"]));
        assert!(late.records.is_empty() && late.lost.is_empty() && !late.advanced);
        assert_eq!(late.ack.unwrap().watermark, 1);
        assert_eq!(receiver.handle_batch(batch(2, 1, 1, &["x"])).records.len(), 1);
    }

    #[test]
    fn what_has_arrived_is_neither_taken_twice_nor_acknowledged_before_it_is_settled() {
        let mut receiver = LogReceiver::default();
        let log = batch(1, 1, 1, &[]).log;
        assert_eq!(receiver.receive(batch(1, 1, 1, &["a", "b"])).records.len(), 2);
        assert_eq!(receiver.receive(batch(1, 1, 2, &["b", "c"])).records, [(3, b"c".to_vec())]);
        assert_eq!((receiver.watermark(&log), receiver.arrived(&log)), (0, 3));
        assert!(receiver.newest_watermarks().is_empty());
        receiver.settle(LogAck { log, watermark: 2 });
        assert_eq!((receiver.watermark(&log), receiver.arrived(&log)), (2, 3));
        receiver.settle(LogAck { log, watermark: 1 });
        assert_eq!(receiver.watermark(&log), 2, "never back");
        receiver.settle(LogAck { log, watermark: 9 });
        assert_eq!((receiver.watermark(&log), receiver.arrived(&log)), (3, 3));
    }

    #[test]
    fn what_is_taken_back_to_the_watermark_is_as_if_it_had_never_come() {
        let mut receiver = LogReceiver::default();
        let log = batch(1, 1, 1, &[]).log;
        receiver.handle_batch(batch(1, 1, 1, &["a"]));
        let before = receiver.clone();
        receiver.receive(batch(1, 1, 2, &["b"]));
        receiver.rewind(log, 1);
        assert_eq!(receiver, before);
    }

    #[test]
    fn what_is_forgotten_is_all_of_the_older_starts_and_nothing_else() {
        let mut receiver = LogReceiver::default();
        for incarnation in 1..=3 {
            receiver.handle_batch(batch(incarnation, 1, 1, &["a"]));
            receiver.receive(batch(incarnation, 1, 2, &["b"]));
        }
        assert!(receiver.forget_before(2) && !receiver.forget_before(2));
        let log = |incarnation| batch(incarnation, 1, 1, &[]).log;
        let position = |of| (receiver.watermark(&log(of)), receiver.arrived(&log(of)));
        assert_eq!([1, 2, 3].map(position), [(0, 0), (1, 2), (1, 2)]);
        let told = [3, 2].map(|incarnation| LogAck { log: log(incarnation), watermark: 1 });
        assert_eq!(receiver.newest_watermarks(), told);
    }

    #[test]
    fn only_the_newest_watermarks_are_told() {
        let mut receiver = LogReceiver::default();
        for incarnation in 1..=20 {
            receiver.handle_batch(batch(incarnation, 1, 1, &["a"]));
        }
        let told = receiver.newest_watermarks();
        let newest: Vec<Incarnation> = told.iter().map(|ack| ack.log.incarnation).collect();
        assert_eq!(newest, (5..=20).rev().collect::<Vec<_>>());
    }

    #[test]
    fn what_was_not_settled_comes_again_after_a_restart_and_after_a_failure() {
        let mut receiver = LogReceiver::default();
        let log = batch(1, 1, 1, &[]).log;
        receiver.receive(batch(1, 1, 1, &["a", "b"]));
        receiver.settle(LogAck { log, watermark: 1 });
        let stored = crate::wire::encode("logs", &receiver).unwrap();
        let mut restarted: LogReceiver = crate::wire::decode("logs", &stored, 1000).unwrap();
        receiver.rewind(log, 0);
        for receiver in [&mut receiver, &mut restarted] {
            let again = receiver.receive(batch(1, 1, 1, &["a", "b"]));
            assert_eq!(again.records, [(2, b"b".to_vec())]);
        }
        receiver.receive(batch(1, 1, 3, &["c", "d"]));
        receiver.rewind(log, 3);
        assert_eq!((receiver.watermark(&log), receiver.arrived(&log)), (1, 3));
    }

    #[test]
    fn a_late_settlement_does_not_bring_a_forgotten_log_back() {
        let mut receiver = LogReceiver::default();
        receiver.receive(batch(1, 1, 1, &["a"]));
        receiver.forget_before(2);
        receiver.settle(LogAck { log: batch(1, 1, 1, &[]).log, watermark: 1 });
        assert!(receiver.newest_watermarks().is_empty());
    }

    /// Found by fuzzing.
    #[test]
    fn records_past_the_last_number_are_refused() {
        let mut receiver = LogReceiver::default();
        let received = receiver.handle_batch(batch(1, u64::MAX, u64::MAX, &["a", "b"]));
        assert_eq!(received, ReceivedRecords::default());
        let received = receiver.handle_batch(batch(1, u64::MAX, u64::MAX, &[]));
        assert_eq!((received.lost_records(), received.advanced), (u64::MAX - 1, true));
    }

    #[test]
    fn a_node_can_begin_only_so_many_logs_and_goes_on_with_those_it_has() {
        let mut receiver = LogReceiver::default();
        for incarnation in 0..LOGS_MAX as u64 {
            assert!(receiver.handle_batch(batch(incarnation, 1, 1, &["a"])).advanced);
        }
        let over = receiver.handle_batch(batch(LOGS_MAX as u64, 1, 1, &["a"]));
        assert_eq!(over, ReceivedRecords::default());
        assert!(receiver.handle_batch(batch(7, 1, 2, &["b"])).advanced);
        assert!(receiver.forget_before(8));
        assert!(receiver.handle_batch(batch(LOGS_MAX as u64, 1, 1, &["a"])).advanced);
    }
}
