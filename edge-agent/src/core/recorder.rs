//! Samples become batches, batches become records of the outbox.
//!
//! The samples of a batch (a minute, or longer where bytes are scarce) are in memory only until it is
//! full: a power cut may take them. Once a batch is in the outbox it is delivered or counted. Each
//! stream has its own encoder, which goes on only when a record was appended, under the number that
//! the outbox gave it.

use super::AgentCore;
use super::ladder::{Ladder, is_essential};
use super::storage::After;
use crate::scaling::LOOK_INTERVAL_MS;
use shared::model::{MonotonicMs, Now};
use shared::ports::{Tree, WriteBatch};
use shared::telemetry::{Batch, BatchEncoder, CodecError, Sample};
use shared::wire::{Stream, encode};
use tracing::warn;

/// Under this key of [`Tree::Meta`] lies the number of samples ever put into the outbox.
pub(super) const SAMPLES_KEY: &[u8] = b"telemetry/samples";

/// Pods are asked for their metrics so long before the sample that they stand in: what they say is of
/// its time, and a slow one has answered.
const SCRAPE_LEAD_MS_MAX: u64 = 2_000;

/// How often is sampled, and how many samples make a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecorderOptions {
    /// Milliseconds between samples.
    pub sample_interval_ms: u64,
    /// Samples in one batch.
    pub samples_per_batch: usize,
}

impl Default for RecorderOptions {
    /// A sample every 10 s, a batch every minute.
    fn default() -> Self {
        Self { sample_interval_ms: 10_000, samples_per_batch: 6 }
    }
}

/// Samples on their way into the outbox.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) ladder: Ladder,
    next_sample: MonotonicMs,
    /// A sample that is looked at and not kept is due at this moment, unless one that is kept comes first.
    next_look: Option<MonotonicMs>,
    /// The sample that was asked for last is kept.
    pub(super) keeps_sample: bool,
    /// What pods say for the next sample was asked for.
    scraped: bool,
    pending: Vec<Sample>,
    /// Of the batches that were taken while the hub listened, and of the others.
    live: BatchEncoder,
    backfill: BatchEncoder,
    /// Samples ever put into the outbox.
    pub(super) samples_recorded: u64,
    /// Samples and events that the store did not take.
    pub(super) unstored_records: u64,
}

impl Recorder {
    pub(super) fn new(options: RecorderOptions, samples_recorded: u64, now: MonotonicMs) -> Self {
        let next_sample = now.plus_ms(options.sample_interval_ms);
        Self {
            ladder: Ladder::new(options),
            next_sample,
            next_look: None,
            keeps_sample: true,
            scraped: false,
            pending: vec![],
            live: BatchEncoder::default(),
            backfill: BatchEncoder::default(),
            samples_recorded,
            unstored_records: 0,
        }
    }

    /// Whether a sample is due; then the next one is scheduled.
    pub(super) fn sample_is_due(&mut self, now: MonotonicMs) -> bool {
        let due = self.next_moment() <= now;
        if due {
            self.keeps_sample = self.next_sample <= now;
            if self.keeps_sample {
                self.next_sample = now.plus_ms(self.ladder.rung().sample_interval_ms);
            }
            self.next_look = self.next_look.map(|_| now.plus_ms(LOOK_INTERVAL_MS));
            self.scraped = false;
        }
        due
    }

    /// Whether samples are looked at more often than they are kept, where those are rare.
    pub(super) fn watch(&mut self, is_watched: bool, now: MonotonicMs) {
        let begun = self.next_look.unwrap_or(now.plus_ms(LOOK_INTERVAL_MS));
        self.next_look = is_watched.then_some(begun);
    }

    fn next_moment(&self) -> MonotonicMs {
        self.next_look.map_or(self.next_sample, |look| look.min(self.next_sample))
    }

    /// Whether pods must be asked for what is to stand in the next sample; once a sample.
    pub(super) fn scrape_is_due(&mut self, now: MonotonicMs) -> bool {
        let due = !self.scraped && self.next_scrape() <= now;
        self.scraped |= due;
        due
    }

    fn next_scrape(&self) -> MonotonicMs {
        let interval_ms = self.ladder.rung().sample_interval_ms;
        MonotonicMs(self.next_moment().0.saturating_sub(SCRAPE_LEAD_MS_MAX.min(interval_ms / 5)))
    }

    /// When the next sample is due, or what must come before it.
    pub(super) fn poll_timeout(&self) -> MonotonicMs {
        if self.scraped { self.next_moment() } else { self.next_scrape() }
    }

    pub(super) fn pending_samples(&self) -> usize {
        self.pending.len()
    }

    /// Records that were appended may not be there: the next one of each stream needs none of them.
    pub(super) fn begin_runs(&mut self) {
        self.live.reset();
        self.backfill.reset();
    }

    fn encoder(&mut self, stream: Stream) -> &mut BatchEncoder {
        if stream == Stream::Backfill { &mut self.backfill } else { &mut self.live }
    }
}

impl AgentCore {
    pub(super) fn record_sample(&mut self, mut sample: Sample, now: Now) {
        if self.recorder.ladder.sheds_series() {
            sample.values.retain(|series| is_essential(&series.name));
        }
        if let Some(earlier) = self.recorder.pending.last() {
            sample.values.share_series(&earlier.values);
        }
        self.recorder.pending.push(sample);
        if self.recorder.pending.len() >= self.recorder.ladder.rung().samples_per_batch {
            self.flush_samples(now);
        }
    }

    /// Puts the samples in memory into the outbox.
    pub(super) fn flush_samples(&mut self, now: Now) {
        let samples = std::mem::take(&mut self.recorder.pending);
        if samples.is_empty() {
            return;
        }
        self.decide_rung(now.monotonic);
        if self.is_read_only() {
            self.recorder.unstored_records += samples.len() as u64;
            return;
        }
        // A stack: the later half of a batch that had to be parted waits below the earlier one.
        let mut parts = vec![Batch { samples }];
        while let Some(part) = parts.pop() {
            let Err(error) = self.append_batch(&part) else { continue };
            let samples = part.samples.len() as u64;
            let is_large = matches!(error, CodecError::TooLarge(_));
            if let Some((first, second)) = is_large.then(|| part.halves()).flatten() {
                parts.extend([second, first]);
            } else {
                self.recorder.unstored_records += samples;
                warn!(node = %self.node, at_ms = now.wall.0, error = %error, "a batch was not recorded");
            }
        }
    }

    /// Goes up or down the ladder as the link's budget allows.
    pub(super) fn decide_rung(&mut self, now: MonotonicMs) {
        let results = self.outbox.results_totals().records > 0;
        let others_wait = results || self.outbox.holds(Stream::Backfill);
        let (before, bulk) =
            (self.recorder.ladder.sheds_series(), self.budget.bulk_bytes_per_day());
        self.recorder.ladder.decide(bulk, others_wait, now);
        if self.recorder.ladder.sheds_series() != before {
            self.schedule_report(now);
        }
    }

    /// Puts a batch into the outbox as one record.
    fn append_batch(&mut self, batch: &Batch) -> Result<(), CodecError> {
        // A batch that waited for the link does not hold up the ones that did not.
        let live = self.session.is_established();
        let stream = if live { Stream::Telemetry } else { Stream::Backfill };
        let sequence = self.outbox.next_sequence(stream);
        let staged = self.recorder.encoder(stream).encode(batch, sequence)?;
        let mut writes = WriteBatch::new();
        let total = self.recorder.samples_recorded + batch.samples.len() as u64;
        if let Ok(total) = encode("samples", &total) {
            writes.put(Tree::Meta, SAMPLES_KEY, total);
        }
        let dropped = self.outbox.dropped_records();
        let values = batch.samples.iter().map(|sample| sample.values.len() as u64).sum();
        let samples = batch.samples.len() as u64;
        self.recorder.ladder.learn(staged.record().len(), values, samples);
        if self.append(stream, staged.record().to_vec(), writes) {
            self.recorder.samples_recorded = total;
            self.recorder.encoder(stream).commit(staged);
        }
        if self.outbox.dropped_records() != dropped {
            self.recorder.begin_runs();
        }
        Ok(())
    }

    /// Adds a record to the outbox, together with `writes`. False when it was not taken.
    pub(super) fn append(
        &mut self,
        stream: Stream,
        record: Vec<u8>,
        mut writes: WriteBatch,
    ) -> bool {
        if self.is_read_only() {
            self.recorder.unstored_records += 1;
            return false;
        }
        match self.outbox.append(stream, record, &mut writes) {
            Ok(_) => {
                self.persist(writes, After::Nothing);
                true
            }
            Err(error) => {
                self.recorder.unstored_records += 1;
                warn!(node = %self.node, error = %error, "a record was not kept");
                false
            }
        }
    }
}
