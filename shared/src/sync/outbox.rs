//! The sending side of all logs of a node: numbers records, keeps within its quota, resends what
//! was not acknowledged.
//!
//! Records lie in the store; only numbers and sizes are held in memory. What must be written comes
//! out as writes that the caller commits before it sends. A record is freed by a watermark of the
//! receiver or by the quota, and by nothing else; what the quota takes is counted here, and exactly
//! by the receiver, which sees `oldest` in each batch.
//!
//! While nobody listens, records that are complete in number go together under one key (`pack.rs`).

mod keys;
mod pack;
mod reading;

pub use keys::outbox_key;
pub(super) use pack::Packing;
pub use pack::read_pack;
pub use reading::read_log;

use super::outbox_log::{LogMeta, OutboxLog};
use crate::limits::{LOG_BATCH_RECORDS_MAX, LOG_RECORD_BYTES_MAX};
use crate::model::MonotonicMs;
use crate::ports::{Tree, WriteBatch};
use crate::telemetry::RUN_RECORDS_MAX;
use crate::wire::{
    EncodeError, Incarnation, LogAck, LogBatch, LogHold, LogId, SequenceNumber, Stream, decode,
    encode,
};
use keys::{meta_key, parse_meta_key};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;
use thiserror::Error;

/// Records that go at once when a quota is full: few writes, and few gaps.
const DROP_RUN_RECORDS: u64 = 60;

/// Bytes of records in one batch: with keys and seal it fits one MQTT payload.
const BATCH_BYTES_MAX: usize = LOG_RECORD_BYTES_MAX + 1024;

/// How many bytes of records a class may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxQuota {
    /// Bytes of alarms.
    pub alarms_bytes: u64,
    /// Bytes of events.
    pub events_bytes: u64,
    /// Bytes of results, those for all sinks together.
    pub results_bytes: u64,
    /// Bytes of telemetry, live and backfill together.
    pub telemetry_bytes: u64,
}

impl Default for OutboxQuota {
    /// 52 MiB in all: with the store's own overhead below [`crate::limits::STORE_BYTES_MAX`].
    fn default() -> Self {
        Self {
            alarms_bytes: 1 << 20,
            events_bytes: 3 << 20,
            results_bytes: 16 << 20,
            telemetry_bytes: 32 << 20,
        }
    }
}

/// Streams that share a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Alarms,
    Events,
    Results,
    Telemetry,
}

impl Class {
    fn of(stream: Stream) -> Self {
        match stream {
            Stream::Alarms => Self::Alarms,
            Stream::Events => Self::Events,
            Stream::Results(_) => Self::Results,
            Stream::Telemetry | Stream::Backfill => Self::Telemetry,
        }
    }
}

/// A record larger than [`LOG_RECORD_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a record of {found_bytes} bytes is over the limit of {LOG_RECORD_BYTES_MAX}")]
pub struct RecordTooLarge {
    /// Its size.
    pub found_bytes: usize,
}

/// A request to the store for the records of the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRead {
    /// Which log.
    pub log: LogId,
    /// The first record.
    pub first: SequenceNumber,
    /// How many at most; 0 when the batch only announces what was dropped.
    pub count_max: usize,
    /// Bytes of records at most; the first record is read whatever its size.
    pub bytes_max: usize,
}

/// What is left to deliver of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamTotals {
    /// Records not yet acknowledged.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The sending side of all logs of a node.
#[derive(Debug)]
pub struct Outbox {
    incarnation: Incarnation,
    quota: OutboxQuota,
    /// In order of sending: streams first, then incarnations.
    logs: BTreeMap<(Stream, Incarnation), OutboxLog>,
    listening: bool,
    dropped_records: u64,
}

/// The newest start of the agent of which the store holds a log; 0 when there is none. `meta` are
/// records of [`Tree::Meta`].
#[must_use]
pub fn newest_incarnation(meta: &[(Vec<u8>, Vec<u8>)]) -> Incarnation {
    let logs = meta.iter().filter_map(|(key, _)| parse_meta_key(key));
    logs.map(|log| log.incarnation).max().unwrap_or(0)
}

impl Outbox {
    /// The outbox of this start of the agent, with the logs that earlier starts left: `meta` are
    /// records of [`Tree::Meta`]; those that are not of a log are passed over.
    #[must_use]
    pub fn restore(
        incarnation: Incarnation,
        quota: OutboxQuota,
        meta: &[(Vec<u8>, Vec<u8>)],
    ) -> Self {
        let log = |(key, value): &(Vec<u8>, Vec<u8>)| {
            let log = parse_meta_key(key)?;
            let meta: LogMeta = decode("log position", value, 256).ok()?;
            meta.is_possible().then_some(())?;
            Some(((log.stream, log.incarnation), OutboxLog::restore(meta, log.stream)))
        };
        let logs = meta.iter().filter_map(log).collect();
        Self { incarnation, quota, logs, listening: false, dropped_records: 0 }
    }

    /// Adds a record; `writes` gains what must be committed.
    ///
    /// # Errors
    /// [`RecordTooLarge`]; nothing is added then.
    pub fn append(
        &mut self,
        stream: Stream,
        record: Vec<u8>,
        writes: &mut WriteBatch,
    ) -> Result<SequenceNumber, RecordTooLarge> {
        if record.len() > LOG_RECORD_BYTES_MAX {
            return Err(RecordTooLarge { found_bytes: record.len() });
        }
        self.make_room(stream, record.len() as u64, writes);
        let log = LogId { incarnation: self.incarnation, stream };
        let entry = self.logs.entry((stream, self.incarnation));
        let outbox_log = entry.or_insert_with(|| OutboxLog::new(LogMeta::default(), stream));
        let sequence = outbox_log.meta.next;
        outbox_log.meta.next += 1;
        outbox_log.meta.bytes += record.len() as u64;
        if !self.listening {
            outbox_log.pack(log, sequence, &record, writes);
        }
        writes.put(Tree::Outbox, outbox_key(log, sequence), record);
        put_meta(log, &outbox_log.meta, writes);
        Ok(sequence)
    }

    fn class_bytes(&self, class: Class) -> (u64, u64) {
        let logs = self.logs.iter().filter(|((stream, _), _)| Class::of(*stream) == class);
        let used = logs.map(|(_, log)| log.meta.bytes).sum();
        let quota = match class {
            Class::Alarms => self.quota.alarms_bytes,
            Class::Events => self.quota.events_bytes,
            Class::Results => self.quota.results_bytes,
            Class::Telemetry => self.quota.telemetry_bytes,
        };
        (used, quota)
    }

    /// Drops whole runs of the oldest records of the lowest class until `bytes` more fit.
    fn make_room(&mut self, stream: Stream, bytes: u64, writes: &mut WriteBatch) {
        let class = Class::of(stream);
        loop {
            let (used, quota) = self.class_bytes(class);
            if used.saturating_add(bytes) <= quota || !self.drop_run(class, writes) {
                return;
            }
        }
    }

    /// The log that loses records first: backfill before live telemetry, the sink with most bytes,
    /// the oldest start.
    fn first_to_drop(&self, class: Class) -> Option<(Stream, Incarnation)> {
        let of_class = |((stream, _), log): &(&(Stream, Incarnation), &OutboxLog)| {
            Class::of(*stream) == class && log.meta.records() > 0
        };
        let held = self.logs.iter().filter(of_class);
        let urgency = |((stream, incarnation), log): &(&(Stream, Incarnation), &OutboxLog)| {
            let bytes = if class == Class::Results { log.meta.bytes } else { 0 };
            (bytes, *stream, std::cmp::Reverse(*incarnation))
        };
        held.max_by_key(urgency).map(|(key, _)| *key)
    }

    fn drop_run(&mut self, class: Class, writes: &mut WriteBatch) -> bool {
        let Some(key) = self.first_to_drop(class) else { return false };
        let Some(log) = self.logs.get_mut(&key) else { return false };
        // What is left of telemetry begins with a keyframe.
        let run = if class == Class::Telemetry { RUN_RECORDS_MAX } else { DROP_RUN_RECORDS };
        let run_end = log.meta.oldest.saturating_sub(1) / run * run;
        let released = log.meta.release_before(run_end + run + 1);
        self.dropped_records += released.end - released.start;
        log.dropped();
        let id = LogId { stream: key.0, incarnation: key.1 };
        log.delete(id, released, writes);
        put_meta(id, &log.meta, writes);
        true
    }

    /// The receiver listens; it has these watermarks, so far as it says.
    pub fn begin(&mut self, watermarks: &[LogAck], now: MonotonicMs, writes: &mut WriteBatch) {
        self.listening = true;
        self.logs.values_mut().for_each(|log| log.packing.clear());
        self.rewind();
        watermarks.iter().for_each(|ack| self.handle_ack(*ack, now, writes));
    }

    /// Whether a receiver with these watermarks has lost what it had acknowledged of `stream` since this
    /// start: it was released here.
    #[must_use]
    pub fn is_forgotten(&self, stream: Stream, watermarks: &[LogAck]) -> bool {
        let log = LogId { incarnation: self.incarnation, stream };
        let known = watermarks.iter().find(|ack| ack.log == log).map_or(0, |ack| ack.watermark);
        let own = self.logs.get(&(stream, self.incarnation));
        own.is_some_and(|own| own.meta.oldest.saturating_sub(1) > known)
    }

    /// The receiver no longer listens.
    pub fn pause(&mut self) {
        self.listening = false;
        self.rewind();
    }

    /// Whether batches may be sent: the receiver listens.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listening
    }

    fn rewind(&mut self) {
        for log in self.logs.values_mut() {
            log.rewind();
            log.retry.clear();
        }
    }

    /// The records to read next, if a batch is due: at most `bytes_max` bytes of them, of the first
    /// stream in the order of sending that `may_send` allows, given the bytes that it will take.
    /// Telemetry goes before results when `telemetry_first`.
    pub fn poll_read(
        &self,
        bytes_max: usize,
        telemetry_first: bool,
        mut may_send: impl FnMut(Stream, u64) -> bool,
    ) -> Option<LogRead> {
        if !self.listening {
            return None;
        }
        let mut due: Vec<(&(Stream, Incarnation), &OutboxLog, SequenceNumber, usize)> = Vec::new();
        for (key, log) in &self.logs {
            due.extend(log.due().map(|(first, count_max)| (key, log, first, count_max)));
        }
        if telemetry_first {
            due.sort_by_key(|((stream, _), ..)| matches!(stream, Stream::Results(_)));
        }
        let bytes_max = bytes_max.min(BATCH_BYTES_MAX);
        due.into_iter().find_map(|((stream, incarnation), log, first, count_max)| {
            let log_id = LogId { stream: *stream, incarnation: *incarnation };
            let estimate = log.mean_bytes().saturating_mul(count_max as u64);
            let estimate = estimate.min(bytes_max as u64).max(log.mean_bytes());
            let read = LogRead { log: log_id, first, count_max, bytes_max };
            may_send(*stream, estimate).then_some(read)
        })
    }

    /// Whether any record waits to be sent or acknowledged.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.logs.values().any(|log| log.meta.records() > 0)
    }

    /// Whether a record of `stream` waits to be sent or acknowledged.
    #[must_use]
    pub fn holds(&self, stream: Stream) -> bool {
        let range = (stream, 0)..=(stream, Incarnation::MAX);
        self.logs.range(range).any(|(_, log)| log.meta.records() > 0)
    }

    /// What the store holds for `read`; the batch to send. A record that the store can't read any
    /// more goes as an empty one, which the receiver counts as lost.
    pub fn handle_read(
        &mut self,
        read: &LogRead,
        records: Vec<(SequenceNumber, Vec<u8>)>,
        now: MonotonicMs,
    ) -> Option<LogBatch> {
        let log = self.logs.get_mut(&(read.log.stream, read.log.incarnation))?;
        let (records, end) = contiguous(read, records, log.meta.next);
        log.sent(end, records.iter().map(|record| record.len()).sum(), now);
        Some(LogBatch { log: read.log, oldest: log.meta.oldest, first: read.first, records })
    }

    /// The store could not be read: nothing is known of the records, least of all that they are lost.
    /// The log waits until its retry is due.
    pub fn handle_unreadable(&mut self, read: &LogRead, now: MonotonicMs) {
        if let Some(log) = self.logs.get_mut(&(read.log.stream, read.log.incarnation)) {
            log.unreadable(now);
        }
    }

    /// The receiver has committed everything up to the watermark.
    pub fn handle_ack(&mut self, ack: LogAck, now: MonotonicMs, writes: &mut WriteBatch) {
        let key = (ack.log.stream, ack.log.incarnation);
        let Some(log) = self.logs.get_mut(&key) else { return };
        // An ended start makes no more records: where its disk lost the last of them, what the receiver
        // has beyond is all the same everything.
        let ended = ack.log.incarnation < self.incarnation;
        let last = log.meta.next.saturating_sub(1);
        let watermark = if ended { ack.watermark.min(last) } else { ack.watermark };
        let released = log.acknowledged(watermark, now);
        let changed = !released.is_empty();
        log.delete(ack.log, released, writes);
        let ended = ack.log.incarnation < self.incarnation
            && log.meta.records() == 0
            && ack.watermark.saturating_add(1) >= log.meta.next;
        if ended {
            writes.delete(Tree::Meta, meta_key(ack.log));
            self.logs.remove(&key);
        } else if changed {
            put_meta(ack.log, &log.meta, writes);
        }
    }

    /// Everything up to `hold.received` has arrived and waits where it was meant for: it is kept here
    /// and not repeated. After an hour the receiver is asked.
    pub fn handle_hold(&mut self, hold: LogHold, now: MonotonicMs) {
        if let Some(log) = self.logs.get_mut(&(hold.log.stream, hold.log.incarnation)) {
            log.held(hold.received, now);
        }
    }

    /// The number that the next record of `stream` will have.
    #[must_use]
    pub fn next_sequence(&self, stream: Stream) -> SequenceNumber {
        self.logs.get(&(stream, self.incarnation)).map_or(1, |log| log.meta.next)
    }

    /// The oldest start of which records are still here.
    #[must_use]
    pub fn oldest_incarnation(&self) -> Incarnation {
        let incarnations = self.logs.keys().map(|(_, incarnation)| *incarnation);
        incarnations.min().unwrap_or(self.incarnation)
    }

    /// What is left to deliver.
    #[must_use]
    pub fn totals(&self, stream: Stream) -> StreamTotals {
        self.totals_of(|other| other == stream)
    }

    /// What is left to deliver of results, for all sinks.
    #[must_use]
    pub fn results_totals(&self) -> StreamTotals {
        self.totals_of(|stream| matches!(stream, Stream::Results(_)))
    }

    fn totals_of(&self, counts: impl Fn(Stream) -> bool) -> StreamTotals {
        let counted = self.logs.iter().filter(|(key, _)| counts(key.0));
        counted.fold(StreamTotals::default(), |sum, (_, log)| StreamTotals {
            records: sum.records + log.meta.records(),
            bytes: sum.bytes + log.meta.bytes,
        })
    }

    /// Records that the quota took since the agent started.
    #[must_use]
    pub fn dropped_records(&self) -> u64 {
        self.dropped_records
    }

    /// How often in a row an acknowledgement was overdue, for the slowest log.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.logs.values().map(|log| log.retry.attempts()).max().unwrap_or(0)
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonotonicMs> {
        self.logs.values().filter_map(|log| log.retry.deadline()).min()
    }

    /// Rewinds the logs whose acknowledgement is overdue.
    pub fn handle_timeout(&mut self, now: MonotonicMs) {
        self.logs.values_mut().for_each(|log| log.handle_timeout(now));
    }
}

/// The position of a log as it is stored. A log whose position can't be encoded does not exist.
fn put_meta(log: LogId, meta: &LogMeta, writes: &mut WriteBatch) {
    let encoded: Result<Vec<u8>, EncodeError> = encode("log position", meta);
    if let Ok(value) = encoded {
        writes.put(Tree::Meta, meta_key(log), value);
    }
}

/// As many records from `read.first` on as the limits allow, holes filled with empty ones, and the
/// number after the last.
fn contiguous(
    read: &LogRead,
    records: Vec<(SequenceNumber, Vec<u8>)>,
    log_next: SequenceNumber,
) -> (Vec<ByteBuf>, SequenceNumber) {
    let mut found: BTreeMap<_, _> = records.into_iter().collect();
    let last = found.keys().next_back().copied();
    // Where the store found nothing at all, everything that was asked for is a hole.
    let asked = read.count_max.min(LOG_BATCH_RECORDS_MAX) as u64;
    let end = last.map_or(read.first + asked, |last| last.saturating_add(1)).min(log_next);
    let mut bytes = 0;
    let mut batch = Vec::new();
    for sequence in read.first..end.min(read.first + asked) {
        let record = found.remove(&sequence).unwrap_or_default();
        bytes += record.len();
        if !batch.is_empty() && bytes > read.bytes_max {
            break;
        }
        batch.push(ByteBuf::from(record));
    }
    let end = read.first + batch.len() as u64;
    (batch, end)
}

#[cfg(test)]
mod tests;
