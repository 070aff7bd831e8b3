//! Batches of one node that have arrived and wait until their sink has them, by log and in order.
//!
//! A log's watermark moves over the batches at its front that were taken; what one batch adds to the
//! node's totals is added with it, so that a restart counts nothing twice. It holds numbers, not
//! records: those are with the sink.

use super::acknowledgements::Weight;
use super::settlement::Settlement;
use shared::model::MonotonicMs;
use shared::wire::{LogHold, LogId, SequenceNumber};
use std::collections::{BTreeMap, VecDeque};

/// A sink that takes longer is said to hold, so that the sender repeats nothing.
const HOLD_AFTER_MS: u64 = 2_000;

/// What one log may have waiting: the 48 KiB that a sender keeps on its way, and a batch of the size
/// of an MQTT payload. An honest sender stops there by itself.
const LOG_BYTES_MAX: u64 = 64 * 1024;

/// As [`LOG_BYTES_MAX`], for records of a few bytes, of which a sender has more on its way.
const LOG_RECORDS_MAX: u64 = 8_192;

/// A batch that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldBatch {
    /// The delivery that must end before it is done with; `None` when nothing of it is delivered.
    pub(super) ticket: Option<u64>,
    pub(super) weight: Weight,
    /// What is counted once it is done with.
    pub(super) settlement: Settlement,
}

#[derive(Debug, Default)]
struct HeldLog {
    batches: VecDeque<HeldBatch>,
    /// When the sender must hear that its records wait; `None` once it has.
    hold_due: Option<MonotonicMs>,
    /// When the oldest batch began to wait.
    since: MonotonicMs,
}

/// The logs of one node with batches that wait.
#[derive(Debug, Default)]
pub(super) struct HeldLogs {
    logs: BTreeMap<LogId, HeldLog>,
}

impl HeldLogs {
    /// Whether `records` more of `bytes` may wait in `log`.
    pub(super) fn has_room(&self, log: &LogId, records: u64, bytes: u64) -> bool {
        let held = self.weight(log);
        held.records.saturating_add(records) <= LOG_RECORDS_MAX
            && held.bytes.saturating_add(bytes) <= LOG_BYTES_MAX
    }

    /// What waits in `log`.
    pub(super) fn weight(&self, log: &LogId) -> Weight {
        let batches = self.logs.get(log).into_iter().flat_map(|held| &held.batches);
        batches.fold(Weight::default(), |sum, batch| sum.plus(batch.weight))
    }

    /// Logs of which something waits.
    pub(super) fn logs(&self) -> impl Iterator<Item = &LogId> {
        self.logs.keys()
    }

    /// Whether anything waits in `log`.
    pub(super) fn holds(&self, log: &LogId) -> bool {
        self.logs.contains_key(log)
    }

    /// A batch has arrived, behind those that are there.
    pub(super) fn push(&mut self, log: LogId, batch: HeldBatch, now: MonotonicMs) {
        let fresh = HeldLog { since: now, ..HeldLog::default() };
        let held = self.logs.entry(log).or_insert(fresh);
        held.batches.push_back(batch);
        held.say_again(now);
    }

    /// The sender repeats what waits: it must hear (again) that it does.
    pub(super) fn repeated(&mut self, log: &LogId, now: MonotonicMs) {
        if let Some(held) = self.logs.get_mut(log) {
            held.say_again(now);
        }
    }

    /// A delivery has ended well.
    pub(super) fn delivered(&mut self, log: &LogId, ticket: u64) {
        let batches = self.logs.get_mut(log).into_iter().flat_map(|held| &mut held.batches);
        for batch in batches.filter(|batch| batch.ticket == Some(ticket)) {
            batch.ticket = None;
        }
    }

    /// The batches at the front of `log` that are done with; they wait no more.
    pub(super) fn take_done(&mut self, log: &LogId, now: MonotonicMs) -> Vec<HeldBatch> {
        let mut done = Vec::new();
        let Some(held) = self.logs.get_mut(log) else { return done };
        while let Some(batch) = held.batches.pop_front_if(|batch| batch.ticket.is_none()) {
            done.push(batch);
        }
        if held.batches.is_empty() {
            self.logs.remove(log);
        } else if !done.is_empty() {
            // The sink takes; what is left has begun to wait now.
            held.since = now;
            held.hold_due = held.hold_due.map(|due| due.max(now.plus_ms(HOLD_AFTER_MS)));
        }
        done
    }

    /// As [`Self::take_done`], but all that waits in `log` or nothing of it.
    pub(super) fn take_all_done(&mut self, log: &LogId, now: MonotonicMs) -> Vec<HeldBatch> {
        let waits = self
            .logs
            .get(log)
            .is_some_and(|held| held.batches.iter().any(|batch| batch.ticket.is_some()));
        if waits { Vec::new() } else { self.take_done(log, now) }
    }

    /// Nothing of `log` waits any more: all of it must come again. Whether `ticket` was among it.
    pub(super) fn fail_all(&mut self, log: &LogId, ticket: u64) -> bool {
        let known = self
            .logs
            .get(log)
            .is_some_and(|held| held.batches.iter().any(|batch| batch.ticket == Some(ticket)));
        if known {
            self.logs.remove(log);
        }
        known
    }

    /// A delivery was not taken: it and what came behind it must come again. Whether it was known.
    pub(super) fn failed(&mut self, log: &LogId, ticket: u64) -> bool {
        let Some(held) = self.logs.get_mut(log) else { return false };
        let at = held.batches.iter().position(|batch| batch.ticket == Some(ticket));
        let Some(at) = at else { return false };
        held.batches.truncate(at);
        if held.batches.is_empty() {
            self.logs.remove(log);
        }
        true
    }

    /// The last record of what waits in `log`.
    pub(super) fn last(&self, log: &LogId) -> Option<SequenceNumber> {
        self.logs.get(log)?.batches.back().map(|batch| batch.settlement.last)
    }

    /// Nothing waits any more: the node begins anew.
    pub(super) fn clear(&mut self) {
        self.logs.clear();
    }

    /// When the first sender must hear that its records wait.
    pub(super) fn poll_timeout(&self) -> Option<MonotonicMs> {
        self.logs.values().filter_map(|held| held.hold_due).min()
    }

    /// What senders must hear now, once.
    pub(super) fn take_due(&mut self, now: MonotonicMs) -> Vec<LogHold> {
        let said = |(log, held): (&LogId, &mut HeldLog)| {
            held.hold_due.take_if(|due| *due <= now)?;
            Some(LogHold { log: *log, received: held.batches.back()?.settlement.last })
        };
        self.logs.iter_mut().filter_map(said).collect()
    }
}

impl HeldLog {
    fn say_again(&mut self, now: MonotonicMs) {
        self.hold_due = Some(now.max(self.since.plus_ms(HOLD_AFTER_MS)));
    }
}

impl Weight {
    fn plus(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_add(other.records),
            bytes: self.bytes.saturating_add(other.bytes),
            urgent: self.urgent || other.urgent,
        }
    }

    /// Of several batches.
    pub(super) fn of(batches: &[HeldBatch]) -> Self {
        batches.iter().fold(Self::default(), |sum, batch| sum.plus(batch.weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::wire::Stream;

    const NOW: MonotonicMs = MonotonicMs(1_000);
    const LOG: LogId = LogId { incarnation: 1, stream: Stream::Telemetry };

    fn batch(ticket: u64, until: u64) -> HeldBatch {
        let weight = Weight { records: 1, bytes: 100, urgent: false };
        let settlement = Settlement { last: until, ..Settlement::default() };
        HeldBatch { ticket: Some(ticket), weight, settlement }
    }

    fn untils(batches: &[HeldBatch]) -> Vec<u64> {
        batches.iter().map(|batch| batch.settlement.last).collect()
    }

    #[test]
    fn the_watermark_moves_over_the_front_alone_in_whatever_order_deliveries_end() {
        let mut held = HeldLogs::default();
        (1..4).for_each(|n| held.push(LOG, batch(n, n * 10), NOW));
        held.delivered(&LOG, 2);
        assert!(held.take_done(&LOG, NOW).is_empty());
        held.delivered(&LOG, 1);
        assert_eq!(untils(&held.take_done(&LOG, NOW)), [10, 20]);
        held.delivered(&LOG, 3);
        assert_eq!(untils(&held.take_done(&LOG, NOW)), [30]);
        assert!(!held.holds(&LOG));
    }

    #[test]
    fn a_sender_hears_once_that_its_records_wait_and_again_when_it_sends_or_repeats() {
        let mut held = HeldLogs::default();
        held.push(LOG, batch(1, 10), NOW);
        assert!(held.take_due(NOW.plus_ms(1_999)).is_empty());
        let late = NOW.plus_ms(2_000);
        assert_eq!(held.take_due(late), [LogHold { log: LOG, received: 10 }]);
        assert_eq!(held.poll_timeout(), None);
        held.push(LOG, batch(2, 20), late);
        assert_eq!(held.take_due(late), [LogHold { log: LOG, received: 20 }]);
        held.repeated(&LOG, late);
        assert_eq!(held.take_due(late), [LogHold { log: LOG, received: 20 }]);
    }

    #[test]
    fn a_sink_that_takes_in_time_is_not_spoken_of() {
        let mut held = HeldLogs::default();
        held.push(LOG, batch(1, 10), NOW);
        held.push(LOG, batch(2, 20), NOW.plus_ms(1_000));
        held.delivered(&LOG, 1);
        held.take_done(&LOG, NOW.plus_ms(1_500));
        assert!(
            held.take_due(NOW.plus_ms(3_000)).is_empty(),
            "the second has not waited for two seconds"
        );
    }

    #[test]
    fn what_was_not_taken_must_come_again_with_what_came_behind_it() {
        let mut held = HeldLogs::default();
        (1..4).for_each(|n| held.push(LOG, batch(n, n * 10), NOW));
        assert!(held.failed(&LOG, 2));
        assert!(!held.failed(&LOG, 3), "it is not known any more");
        held.delivered(&LOG, 1);
        assert_eq!(untils(&held.take_done(&LOG, NOW)), [10]);
        assert!(!held.holds(&LOG));
    }

    #[test]
    fn a_log_may_have_waiting_what_an_honest_sender_keeps_on_its_way_and_no_more() {
        let mut held = HeldLogs::default();
        assert!(held.has_room(&LOG, 8_192, 64 * 1024));
        held.push(LOG, batch(1, 10), NOW);
        assert!(!held.has_room(&LOG, 8_192, 1));
        assert!(!held.has_room(&LOG, 1, 64 * 1024));
        assert!(held.has_room(&LogId { incarnation: 2, ..LOG }, 8_192, 1));
    }
}
