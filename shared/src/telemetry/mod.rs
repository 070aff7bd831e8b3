//! Samples of telemetry, batches of them, and the seam for their codec.
//!
//! A record of a telemetry log is one batch: the codec's number in the first byte, and then what
//! that codec writes. A hub decodes every codec that was ever released; an agent writes the one it
//! was given. Refuses values that are not numbers, and batches over their limits.

mod cbor;

pub use cbor::CborCodec;

use crate::limits::LOG_RECORD_BYTES_MAX;
use crate::model::{ClockQuality, UnixMs};
use crate::wire::{DecodeError, EncodeError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// Samples in one batch: ten minutes at the default rate.
pub const BATCH_SAMPLES_MAX: usize = 60;

/// Series in one batch: a node, 8 GPUs and 256 pods stay below.
pub const BATCH_SERIES_MAX: usize = 4096;

/// Names one series: a metric's name and its labels, as Prometheus does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Series {
    /// The metric, as in `node_memory_MemAvailable_bytes`; the unit stands last.
    pub name: String,
    /// What tells it from others of that name, as in `gpu="GPU-…"`.
    pub labels: BTreeMap<String, String>,
}

impl Series {
    /// A series without labels.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), labels: BTreeMap::new() }
    }

    /// The series with one more label.
    #[must_use]
    pub fn with(mut self, label: &str, value: &str) -> Self {
        self.labels.insert(label.to_owned(), value.to_owned());
        self
    }
}

/// What a node measured at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// When, by the node's clock.
    pub at: UnixMs,
    /// How far that clock can be believed.
    pub quality: ClockQuality,
    /// Values in the series' own units.
    pub values: BTreeMap<Series, f64>,
}

/// Samples that travel together, oldest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// At most [`BATCH_SAMPLES_MAX`].
    pub samples: Vec<Sample>,
}

/// Why a batch was not written or not read.
#[derive(Debug, Error)]
pub enum CodecError {
    /// An empty record, or a codec of the future.
    #[error("telemetry codec {found:?} is not known here")]
    UnknownCodec {
        /// The first byte of the record, if there is one.
        found: Option<u8>,
    },
    /// The codec could not write it.
    #[error("could not encode a batch")]
    Encode(#[from] EncodeError),
    /// The codec could not read it.
    #[error("could not decode a batch")]
    Decode(#[from] DecodeError),
    /// It breaks a limit or contradicts itself.
    #[error("a batch is malformed: {0}")]
    Malformed(&'static str),
}

/// Writes batches as records of a log.
pub trait TelemetryCodec {
    /// The record of a batch, its codec's number first.
    ///
    /// # Errors
    /// [`CodecError`] when the batch is over its limits.
    fn encode(&self, batch: &Batch) -> Result<Vec<u8>, CodecError>;
}

/// The batch in a record, whichever codec wrote it. Work and memory are bounded by the record's
/// size and by [`BATCH_SAMPLES_MAX`] × [`BATCH_SERIES_MAX`], whatever it claims.
///
/// # Errors
/// [`CodecError`].
pub fn decode_any(record: &[u8]) -> Result<Batch, CodecError> {
    match record.split_first() {
        Some((&cbor::CODEC_NUMBER, body)) => cbor::decode_batch(body),
        other => Err(CodecError::UnknownCodec { found: other.map(|(number, _)| *number) }),
    }
}

/// The records of a batch: one, or several where one would be over a log's limit. Then samples are
/// parted, and a single sample by its series; each part counts as a sample.
///
/// # Errors
/// [`CodecError`] when even a sample of one series is too large.
pub fn encode_records(
    codec: &dyn TelemetryCodec,
    batch: Batch,
) -> Result<Vec<(Vec<u8>, u64)>, CodecError> {
    let mut records = Vec::new();
    // A stack: the later half waits below the earlier one.
    let mut parts = vec![batch];
    while let Some(part) = parts.pop() {
        let record = codec.encode(&part)?;
        if record.len() <= LOG_RECORD_BYTES_MAX {
            records.push((record, part.samples.len() as u64));
            continue;
        }
        let (first, second) = halves(part)?;
        parts.push(second);
        parts.push(first);
    }
    Ok(records)
}

fn halves(mut batch: Batch) -> Result<(Batch, Batch), CodecError> {
    if batch.samples.len() > 1 {
        let later = batch.samples.split_off(batch.samples.len() / 2);
        return Ok((batch, Batch { samples: later }));
    }
    let too_large = CodecError::Malformed("one value with its name is over a record's limit");
    let mut sample = batch.samples.pop().unwrap_or_default();
    let middle = sample.values.keys().nth(sample.values.len() / 2).cloned();
    let middle = middle.filter(|_| sample.values.len() > 1).ok_or(too_large)?;
    let rest = sample.values.split_off(&middle);
    let second = Sample { values: rest, ..sample.clone() };
    Ok((Batch { samples: vec![sample] }, Batch { samples: vec![second] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(samples: u64, series: usize) -> Batch {
        let sample = |at| Sample {
            at: UnixMs(at),
            values: (0..series).map(|n| (Series::new(&format!("metric_{n}_bytes")), 1.5)).collect(),
            ..Sample::default()
        };
        Batch { samples: (0..samples).map(sample).collect() }
    }

    #[test]
    fn a_batch_over_a_records_limit_is_parted_and_nothing_of_it_is_lost() {
        let whole = batch(6, 1500);
        let values = whole.samples.iter().map(|sample| sample.values.len()).sum::<usize>();
        let records = encode_records(&CborCodec, whole).unwrap();
        assert!(records.len() > 6);
        let mut found = 0;
        for (record, samples) in records {
            assert!(record.len() <= LOG_RECORD_BYTES_MAX);
            let part = decode_any(&record).unwrap();
            assert_eq!(part.samples.len() as u64, samples);
            found += part.samples.iter().map(|sample| sample.values.len()).sum::<usize>();
        }
        assert_eq!(found, values);
    }

    #[test]
    fn a_value_that_can_never_fit_is_an_error_and_no_endless_loop() {
        let name = "x".repeat(LOG_RECORD_BYTES_MAX);
        let values = [(Series::new(&name), 1.0)].into();
        let batch = Batch { samples: vec![Sample { values, ..Sample::default() }] };
        assert!(encode_records(&CborCodec, batch).is_err());
    }

    #[test]
    fn a_codec_of_the_future_is_named() {
        let error = decode_any(&[9, 0]).unwrap_err();
        assert_eq!(error.to_string(), "telemetry codec Some(9) is not known here");
    }
}
