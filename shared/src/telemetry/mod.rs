//! Samples of telemetry, batches of them, and the codec between a node and its hub.
//!
//! A record of a telemetry log is one batch: the codec's number in the first byte, and then what
//! that codec writes. A hub decodes every codec that was ever released; an agent writes the newest.
//! Refuses values that are not numbers, and batches over their limits. `docs/telemetry.md` has the
//! format and the declared resolutions.
//!
//! | part | file |
//! |---|---|
//! | the declared resolutions | `schema.rs` |
//! | what one sample holds | `values.rs` |
//! | one stream's sender and receiver | `encoder.rs`, `decoder.rs` |
//! | the packed codec: its records | `packed.rs`, `packed/` |
//! | the packed codec: series, one series, its integers, bits | `dictionary.rs`, `column.rs`, `form.rs`, `bits.rs` |
//! | the first codec, decoded only | `cbor.rs` |

mod bits;
mod cbor;
mod column;
mod decoder;
mod dictionary;
mod encoder;
mod form;
mod packed;
pub mod schema;
#[cfg(test)]
mod tests;
mod values;

pub use decoder::BatchDecoder;
pub use encoder::{BatchEncoder, RUN_RECORDS_MAX, StagedRecord, begins_run};
pub use values::Values;

use crate::model::{ClockStamp, UnixMs};
use crate::wire::DecodeError;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// Samples in one batch: an hour at the default rate, the longest of the ladder.
pub const BATCH_SAMPLES_MAX: usize = 360;

/// Series in one batch: a node, 8 GPUs and 256 pods stay below.
pub const BATCH_SERIES_MAX: usize = 4096;

/// Samples × series of one batch, which bounds what a record of a few bytes can make a receiver
/// hold: 90 series an hour long, 4096 series in 8 samples.
pub const BATCH_VALUES_MAX: usize = 32_768;

/// Names one series: a metric's name and its labels, as Prometheus does. A copy shares both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Series {
    /// The metric, as in `node_memory_MemAvailable_bytes`; the unit stands last.
    pub name: Arc<str>,
    /// What tells it from others of that name, as in `gpu="GPU-…"`.
    pub labels: Arc<BTreeMap<String, String>>,
}

impl Series {
    /// A series without labels.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), labels: Arc::default() }
    }

    /// The series with one more label.
    #[must_use]
    pub fn with(mut self, label: &str, value: &str) -> Self {
        Arc::make_mut(&mut self.labels).insert(label.to_owned(), value.to_owned());
        self
    }
}

/// By name, then by labels; those that copies share are not read.
impl Ord for Series {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name).then_with(|| match Arc::ptr_eq(&self.labels, &other.labels) {
            true => Ordering::Equal,
            false => self.labels.cmp(&other.labels),
        })
    }
}

impl PartialOrd for Series {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a node measured at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// When, by the node's clock.
    pub at: UnixMs,
    /// What is known of that clock.
    pub clock: ClockStamp,
    /// Values in the series' own units.
    pub values: Values,
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
    /// The codec could not read it.
    #[error("could not decode a batch")]
    Decode(#[from] DecodeError),
    /// It breaks a limit or contradicts itself.
    #[error("a batch is malformed: {0}")]
    Malformed(&'static str),
    /// More than fits one record; it can be parted.
    #[error("a batch has too many {0} for one record")]
    TooLarge(&'static str),
    /// The record builds on one that is not known here.
    #[error("a record builds on one that was lost: it waits for the next keyframe")]
    NoKeyframe,
}

impl Batch {
    /// The batch in two, where one record can't hold it: the earlier and the later samples; a single
    /// sample by its series, and each part then counts as a sample. `None` when it can't be parted.
    #[must_use]
    pub fn halves(mut self) -> Option<(Self, Self)> {
        if self.samples.len() > 1 {
            let later = self.samples.split_off(self.samples.len() / 2);
            return Some((self, Self { samples: later }));
        }
        let sample = self.samples.pop()?;
        let (first, second) = sample.values.halves()?;
        let part = |values| Self { samples: vec![Sample { values, ..sample.clone() }] };
        Some((part(first), part(second)))
    }
}
