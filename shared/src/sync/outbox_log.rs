//! One log of the outbox: which records there are, which are on their way, which are delivered.

use super::outbox::Packing;
use super::retry::Retry;
use crate::limits::{LOG_BATCH_RECORDS_MAX, STORE_BYTES_MAX};
use crate::model::MonotonicMs;
use crate::wire::{SequenceNumber, Stream};
use serde::{Deserialize, Serialize};

/// Bytes of records on their way without an acknowledgement: about 6 s of a 64 kbit/s link. A receiver
/// acknowledges at half of it at the latest.
const WINDOW_BYTES: usize = 48 * 1024;

/// Batches on their way without an acknowledgement: an hour of telemetry by the minute.
const WINDOW_BATCHES: usize = 64;

/// What can wait is acknowledged in bundles, four hours after it came at the latest: only then is an
/// acknowledgement overdue.
const LAZY_WAIT_MS: u64 = 5 * 60 * 60 * 1000;

/// How long a receiver that waits for its sink is left alone: then it is asked, in case its
/// acknowledgement was lost. A question and its answer cost about 300 bytes.
const HELD_WAIT_MS: u64 = 60 * 60 * 1000;

/// A receiver that repeats its watermark lacks what follows; later batches that were on their way make
/// it say so again, which is no news within this time.
const REPEATED_ACK_MS: u64 = 5_000;

/// What the store keeps of a log besides its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMeta {
    /// The oldest record that is still here.
    pub oldest: SequenceNumber,
    /// The number of the next record.
    pub next: SequenceNumber,
    /// Bytes of all records here; the mean is taken off for each that goes.
    pub bytes: u64,
}

impl Default for LogMeta {
    fn default() -> Self {
        Self { oldest: 1, next: 1, bytes: 0 }
    }
}

/// Records of one log: a store of its largest size holds no more, since each takes 62 bytes there
/// with its key and its seal.
const RECORDS_MAX: u64 = STORE_BYTES_MAX / 62;

impl LogMeta {
    /// Whether a log can be so; what the store says may be anything.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        let ordered = 1 <= self.oldest && self.oldest <= self.next && self.next < 1 << 63;
        ordered && self.records() <= RECORDS_MAX && self.bytes <= STORE_BYTES_MAX
    }

    /// How many records are here.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.next.saturating_sub(self.oldest)
    }

    /// The records before `oldest` are gone; returns their numbers.
    pub(super) fn release_before(
        &mut self,
        oldest: SequenceNumber,
    ) -> std::ops::Range<SequenceNumber> {
        let oldest = oldest.clamp(self.oldest, self.next);
        let released = self.oldest..oldest;
        let count = oldest - self.oldest;
        if count > 0 {
            let share = u128::from(self.bytes) * u128::from(count) / u128::from(self.records());
            // The share is at most the whole, which is a u64.
            self.bytes = self.bytes.saturating_sub(u64::try_from(share).unwrap_or(u64::MAX));
        }
        self.oldest = oldest;
        released
    }
}

/// A log and what is on its way.
#[derive(Debug, Default)]
pub(super) struct OutboxLog {
    pub(super) meta: LogMeta,
    /// The next record to send; between `oldest` and `next`.
    cursor: SequenceNumber,
    /// The last record of each batch on its way and the batch's bytes, oldest first.
    in_flight: Vec<(SequenceNumber, usize)>,
    /// The receiver may take its time to acknowledge.
    lazy: bool,
    /// The watermark that was repeated, and when everything behind it was sent again.
    repeated: Option<(SequenceNumber, MonotonicMs)>,
    /// The receiver must hear of it even if there is no record to send: records were dropped.
    pub(super) announce: bool,
    pub(super) retry: Retry,
    /// The receiver has all that is on its way, and waits itself.
    held: bool,
    /// It has waited for long: it is to be asked, by a batch without records.
    asks: bool,
    /// The store could not be read; not before the retry is due.
    unreadable: bool,
    /// The newest records, while nobody listens.
    pub(super) packing: Packing,
    /// Some of its records may lie in packs.
    pub(super) has_packs: bool,
}

impl OutboxLog {
    pub(super) fn new(meta: LogMeta, stream: Stream) -> Self {
        let lazy = matches!(stream, Stream::Telemetry | Stream::Backfill | Stream::Results(_));
        Self { meta, cursor: meta.oldest, lazy, ..Self::default() }
    }

    /// A log that an earlier start left. Whether the receiver has heard of what was dropped is not
    /// stored, so it is told again.
    pub(super) fn restore(meta: LogMeta, stream: Stream) -> Self {
        Self { announce: true, has_packs: true, ..Self::new(meta, stream) }
    }

    /// Whatever was on its way is lost.
    pub(super) fn rewind(&mut self) {
        self.cursor = self.meta.oldest;
        self.in_flight.clear();
        self.unreadable = false;
        (self.held, self.asks) = (false, false);
    }

    pub(super) fn unreadable(&mut self, now: MonotonicMs) {
        self.unreadable = true;
        self.retry.arm(now);
    }

    /// The records to read for the next batch: (first, how many at most).
    pub(super) fn due(&self) -> Option<(SequenceNumber, usize)> {
        if self.asks && !self.unreadable {
            return Some((self.cursor.max(self.meta.oldest), 0));
        }
        let waits = self.retry.attempts() > 0 && self.retry.deadline().is_some();
        let bytes = self.in_flight.iter().fold(0, |sum, (_, bytes)| sum + bytes);
        if self.unreadable
            || bytes >= WINDOW_BYTES
            || self.in_flight.len() >= WINDOW_BATCHES
            || (waits && !self.in_flight.is_empty())
        {
            return None;
        }
        let cursor = self.cursor.max(self.meta.oldest);
        let remaining = usize::try_from(self.meta.next.saturating_sub(cursor)).ok()?;
        let announce = self.announce && self.in_flight.is_empty();
        let due = remaining > 0 || announce;
        due.then_some((cursor, remaining.min(LOG_BATCH_RECORDS_MAX)))
    }

    /// A batch of the records before `end` was handed to the link.
    pub(super) fn sent(&mut self, end: SequenceNumber, bytes: usize, now: MonotonicMs) {
        if std::mem::take(&mut self.asks) {
            return self.retry.arm_for(HELD_WAIT_MS, now);
        }
        self.held = false;
        self.cursor = end;
        self.in_flight.push((end.saturating_sub(1), bytes));
        self.expect_ack(now);
    }

    fn expect_ack(&mut self, now: MonotonicMs) {
        match self.lazy {
            true => self.retry.arm_for(LAZY_WAIT_MS, now),
            false => self.retry.arm(now),
        }
    }

    /// The records before `oldest` were given up: nothing of them is on its way any more, and the receiver
    /// must hear of it.
    pub(super) fn dropped(&mut self) {
        self.announce = true;
        let oldest = self.meta.oldest;
        self.in_flight.retain(|(last, _)| *last >= oldest);
        if self.in_flight.is_empty() {
            (self.held, self.asks) = (false, false);
            self.retry.clear();
        }
    }

    /// Bytes of a record here, on the average.
    pub(super) fn mean_bytes(&self) -> u64 {
        self.meta.bytes.checked_div(self.meta.records()).unwrap_or_default()
    }

    /// Every record up to `watermark` is committed; returns the numbers that can go.
    pub(super) fn acknowledged(
        &mut self,
        watermark: SequenceNumber,
        now: MonotonicMs,
    ) -> std::ops::Range<SequenceNumber> {
        // A receiver can't have what was never made: such a claim frees nothing.
        if watermark >= self.meta.next {
            return self.meta.oldest..self.meta.oldest;
        }
        (self.held, self.asks) = (false, false);
        let released = self.meta.release_before(watermark.saturating_add(1));
        self.in_flight.retain(|(last, _)| *last > watermark);
        if released.is_empty() && self.is_news(watermark, now) {
            // It lacks the record behind its watermark: all from there on goes again.
            self.repeated = Some((watermark, now));
            self.in_flight.clear();
            self.cursor = self.meta.oldest;
        }
        self.cursor = self.cursor.max(self.meta.oldest);
        if watermark.saturating_add(1) >= self.meta.oldest {
            self.announce = false;
        }
        if !released.is_empty() || self.in_flight.is_empty() {
            self.retry.clear();
        }
        if self.unreadable {
            self.retry.arm(now);
        } else if !self.in_flight.is_empty() {
            self.expect_ack(now);
        }
        released
    }

    fn is_news(&self, watermark: SequenceNumber, now: MonotonicMs) -> bool {
        let expected =
            watermark.saturating_add(1) == self.meta.oldest && !self.in_flight.is_empty();
        let told = self
            .repeated
            .is_some_and(|(before, at)| before == watermark && now.since_ms(at) < REPEATED_ACK_MS);
        expected && !told
    }

    /// The receiver has everything up to `received` and waits itself: there is nothing to repeat.
    pub(super) fn held(&mut self, received: SequenceNumber, now: MonotonicMs) {
        if self.in_flight.iter().all(|(last, _)| *last <= received) && !self.in_flight.is_empty() {
            self.held = true;
            self.retry.clear();
            self.retry.arm_for(HELD_WAIT_MS, now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: MonotonicMs) {
        if !self.retry.expire(now) {
            return;
        }
        if self.held {
            self.retry.clear();
            self.asks = true;
        } else {
            self.rewind();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_possible_up_to_a_full_store_of_the_smallest_records() {
        let meta = |oldest, records, bytes| LogMeta { oldest, next: oldest + records, bytes };
        let records_max = 90 * 1024 * 1024 / 62;
        let possible =
            [meta(1, 0, 0), meta(1, records_max, STORE_BYTES_MAX), meta((1 << 63) - 2, 1, 1)];
        assert!(possible.iter().all(LogMeta::is_possible));
        let impossible = [
            meta(0, 1, 0),
            LogMeta { oldest: 3, next: 2, bytes: 0 },
            meta(1, records_max + 1, 0),
            meta(1, 1, STORE_BYTES_MAX + 1),
            meta((1 << 63) - 1, 1, 1),
        ];
        assert!(!impossible.iter().any(LogMeta::is_possible));
    }

    #[test]
    fn the_mean_of_a_logs_bytes_is_taken_off_for_each_record_that_goes() {
        let mut meta = LogMeta { oldest: 1, next: 11, bytes: 105 };
        assert_eq!(meta.release_before(1), 1..1);
        assert_eq!((meta.release_before(4), meta.bytes), (1..4, 74));
        assert_eq!((meta.release_before(2), meta.bytes), (4..4, 74));
        assert_eq!((meta.release_before(99), meta.bytes), (4..11, 0));
    }
}
