//! When a committed watermark is told to the node: each message costs about 134 bytes of a link that
//! may be paid for by the byte, and a sender needs to hear only in time.
//!
//! It decides when; it sends nothing, and knows nothing that is not committed. Nothing is lost where
//! an acknowledgement never leaves: the reply to a greeting carries the watermarks as well.

use shared::model::MonotonicMs;
use shared::wire::{LogAck, LogId, Stream};
use std::collections::BTreeMap;

/// Events are for people: the sender may let go of them within a second.
const EVENTS_DELAY_MS: u64 = 500;

/// The longest an acknowledgement waits. Senders repeat after five hours.
pub const DELAY_MS_MAX: u64 = 4 * 60 * 60_000;

/// Records after which it leaves: half of what a sender keeps on its way in batches of one record each.
const RECORDS_MAX: u64 = 32;

/// Bytes after which it leaves: half of what a sender keeps on its way without one (48 KiB), so that a
/// backlog drains without a pause.
const BYTES_MAX: u64 = 24 * 1024;

/// The acknowledgements that one node is owed.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    owed: BTreeMap<LogId, Owed>,
}

#[derive(Debug)]
struct Owed {
    /// Committed up to here.
    watermark: u64,
    records: u64,
    bytes: u64,
    due: MonotonicMs,
}

/// How much a commit brought of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weight {
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// The sender waits to hear: it left a hole, or repeats itself.
    pub(super) urgent: bool,
}

impl Acknowledgements {
    /// `ack` is committed; it waits for `delay_ms_max` at most.
    pub(super) fn committed(
        &mut self,
        ack: LogAck,
        weight: Weight,
        delay_ms_max: u64,
        now: MonotonicMs,
    ) {
        let due = now.plus_ms(delay_ms(ack.log.stream).min(delay_ms_max));
        let fresh = Owed { watermark: 0, records: 0, bytes: 0, due };
        let owed = self.owed.entry(ack.log).or_insert(fresh);
        owed.watermark = owed.watermark.max(ack.watermark);
        owed.records = owed.records.saturating_add(weight.records);
        owed.bytes = owed.bytes.saturating_add(weight.bytes);
        if weight.urgent || owed.records >= RECORDS_MAX || owed.bytes >= BYTES_MAX {
            owed.due = owed.due.min(now);
        }
    }

    /// The node hears the watermark of `log` now.
    pub(super) fn told(&mut self, log: &LogId) {
        self.owed.remove(log);
    }

    /// The node hears its watermarks in the reply to a greeting.
    pub(super) fn clear(&mut self) {
        self.owed.clear();
    }

    /// When the first one leaves.
    pub(super) fn poll_timeout(&self) -> Option<MonotonicMs> {
        self.owed.values().map(|owed| owed.due).min()
    }

    /// Those that leave now, and are owed no more.
    pub(super) fn take_due(&mut self, now: MonotonicMs) -> Vec<LogAck> {
        let due = self.owed.extract_if(.., |_, owed| owed.due <= now);
        due.map(|(log, owed)| LogAck { log, watermark: owed.watermark }).collect()
    }
}

fn delay_ms(stream: Stream) -> u64 {
    match stream {
        Stream::Alarms => 0,
        Stream::Events => EVENTS_DELAY_MS,
        Stream::Results(_) | Stream::Telemetry | Stream::Backfill => DELAY_MS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: MonotonicMs = MonotonicMs(1_000);

    fn ack(stream: Stream, watermark: u64) -> LogAck {
        LogAck { log: LogId { incarnation: 1, stream }, watermark }
    }

    fn records(records: u64) -> Weight {
        Weight { records, bytes: records * 100, urgent: false }
    }

    #[test]
    fn alarms_are_acknowledged_at_once_events_within_a_second_and_telemetry_within_four_hours() {
        let mut owed = Acknowledgements::default();
        owed.committed(ack(Stream::Alarms, 1), records(1), DELAY_MS_MAX, NOW);
        owed.committed(ack(Stream::Events, 2), records(1), DELAY_MS_MAX, NOW);
        owed.committed(ack(Stream::Telemetry, 3), records(1), DELAY_MS_MAX, NOW);
        assert_eq!(owed.take_due(NOW), [ack(Stream::Alarms, 1)]);
        let second = NOW.plus_ms(1_000);
        assert_eq!(owed.take_due(second), [ack(Stream::Events, 2)]);
        assert!(owed.take_due(NOW.plus_ms(14_399_999)).is_empty());
        assert_eq!(owed.poll_timeout(), Some(NOW.plus_ms(14_400_000)));
        assert_eq!(owed.take_due(NOW.plus_ms(14_400_000)), [ack(Stream::Telemetry, 3)]);
        assert_eq!(owed.poll_timeout(), None);
    }

    #[test]
    fn the_delay_counts_from_the_oldest_and_the_newest_watermark_is_told() {
        let mut owed = Acknowledgements::default();
        owed.committed(ack(Stream::Backfill, 1), records(1), DELAY_MS_MAX, NOW);
        owed.committed(ack(Stream::Backfill, 2), records(1), DELAY_MS_MAX, NOW.plus_ms(500_000));
        assert_eq!(owed.take_due(NOW.plus_ms(14_400_000)), [ack(Stream::Backfill, 2)]);
    }

    #[test]
    fn thirty_two_records_or_half_a_senders_window_do_not_wait() {
        let mut owed = Acknowledgements::default();
        (1..32)
            .for_each(|n| owed.committed(ack(Stream::Telemetry, n), records(1), DELAY_MS_MAX, NOW));
        assert!(owed.take_due(NOW).is_empty());
        owed.committed(ack(Stream::Telemetry, 32), records(1), DELAY_MS_MAX, NOW);
        assert_eq!(owed.take_due(NOW), [ack(Stream::Telemetry, 32)]);
        let heavy = Weight { records: 1, bytes: 12 * 1024, urgent: false };
        owed.committed(ack(Stream::Backfill, 1), heavy, DELAY_MS_MAX, NOW);
        assert!(owed.take_due(NOW).is_empty());
        owed.committed(ack(Stream::Backfill, 2), heavy, DELAY_MS_MAX, NOW);
        assert_eq!(owed.take_due(NOW), [ack(Stream::Backfill, 2)]);
    }

    #[test]
    fn a_sender_that_waits_to_hear_is_told_at_once_and_once() {
        let mut owed = Acknowledgements::default();
        let urgent = Weight { urgent: true, ..records(1) };
        owed.committed(ack(Stream::Telemetry, 1), urgent, DELAY_MS_MAX, NOW);
        assert_eq!(owed.take_due(NOW), [ack(Stream::Telemetry, 1)]);
        owed.committed(ack(Stream::Telemetry, 2), urgent, DELAY_MS_MAX, NOW);
        owed.told(&ack(Stream::Telemetry, 2).log);
        assert!(owed.take_due(NOW).is_empty());
    }
}
