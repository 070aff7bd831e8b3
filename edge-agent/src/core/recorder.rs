//! Samples become batches, batches become records of the outbox.
//!
//! Samples of up to a minute are in memory only: a power cut may take them. Once a batch is in the
//! outbox it is delivered or counted.

use super::AgentCore;
use super::storage::After;
use shared::model::{MonotonicMs, Now};
use shared::ports::{Tree, WriteBatch};
use shared::telemetry::{Batch, Sample, encode_records};
use shared::wire::{Stream, encode};
use tracing::warn;

/// Under this key of [`Tree::Meta`] lies the number of samples ever put into the outbox.
pub(super) const SAMPLES_KEY: &[u8] = b"telemetry/samples";

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
    options: RecorderOptions,
    next_sample: MonotonicMs,
    pending: Vec<Sample>,
    /// Samples ever put into the outbox.
    pub(super) samples_recorded: u64,
    /// Samples and events that the store did not take.
    pub(super) unstored_records: u64,
}

impl Recorder {
    pub(super) fn new(options: RecorderOptions, samples_recorded: u64, now: MonotonicMs) -> Self {
        let next_sample = now.plus_ms(options.sample_interval_ms);
        Self { options, next_sample, pending: vec![], samples_recorded, unstored_records: 0 }
    }

    /// Whether a sample is due; then the next one is scheduled.
    pub(super) fn sample_is_due(&mut self, now: MonotonicMs) -> bool {
        let due = self.next_sample <= now;
        if due {
            self.next_sample = now.plus_ms(self.options.sample_interval_ms);
        }
        due
    }

    pub(super) fn next_sample(&self) -> MonotonicMs {
        self.next_sample
    }

    pub(super) fn pending_samples(&self) -> usize {
        self.pending.len()
    }
}

impl AgentCore {
    pub(super) fn record_sample(&mut self, sample: Sample, now: Now) {
        self.recorder.pending.push(sample);
        if self.recorder.pending.len() >= self.recorder.options.samples_per_batch {
            self.flush_samples(now);
        }
    }

    /// Puts the samples in memory into the outbox.
    pub(super) fn flush_samples(&mut self, now: Now) {
        let samples = std::mem::take(&mut self.recorder.pending);
        if samples.is_empty() {
            return;
        }
        let count = samples.len() as u64;
        match encode_records(self.codec.as_ref(), Batch { samples }) {
            Ok(records) => {
                records.into_iter().for_each(|(record, count)| self.append_batch(record, count));
            }
            Err(error) => {
                self.recorder.unstored_records += count;
                warn!(node = %self.node, at_ms = now.wall.0, error = %error, "a batch was not recorded");
            }
        }
    }

    fn append_batch(&mut self, record: Vec<u8>, samples: u64) {
        // A batch that waited for the link does not hold up the ones that did not.
        let live = self.session.is_established();
        let stream = if live { Stream::Telemetry } else { Stream::Backfill };
        if self.is_read_only() {
            self.recorder.unstored_records += samples;
            return;
        }
        self.recorder.samples_recorded += samples;
        let mut writes = WriteBatch::new();
        if let Ok(total) = encode("samples", &self.recorder.samples_recorded) {
            writes.put(Tree::Meta, SAMPLES_KEY, total);
        }
        self.append(stream, record, writes);
    }

    /// Adds a record to the outbox, together with `writes`.
    pub(super) fn append(&mut self, stream: Stream, record: Vec<u8>, mut writes: WriteBatch) {
        if self.is_read_only() {
            self.recorder.unstored_records += 1;
            return;
        }
        match self.outbox.append(stream, record, &mut writes) {
            Ok(_) => self.persist(writes, After::Nothing),
            Err(error) => {
                self.recorder.unstored_records += 1;
                warn!(node = %self.node, error = %error, "a record was not kept");
            }
        }
    }
}
