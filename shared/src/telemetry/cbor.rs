//! The first codec: packed CBOR, a column a series. Plain rather than small.

use super::{
    BATCH_SAMPLES_MAX, BATCH_SERIES_MAX, Batch, CodecError, Sample, Series, TelemetryCodec,
};
use crate::limits::LOG_RECORD_BYTES_MAX;
use crate::model::{ClockQuality, UnixMs};
use crate::wire::{decode, encode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first byte of its records.
pub(super) const CODEC_NUMBER: u8 = 1;

/// Writes batches as packed CBOR.
#[derive(Debug, Clone, Copy, Default)]
pub struct CborCodec;

/// The form on the wire. Fields are only appended.
#[derive(Serialize, Deserialize)]
struct Columns {
    at: Vec<UnixMs>,
    quality: Vec<ClockQuality>,
    columns: Vec<Column>,
}

#[derive(Serialize, Deserialize)]
struct Column {
    series: Series,
    /// One for each sample; nothing where the series was not there.
    values: Vec<Option<f64>>,
}

impl TelemetryCodec for CborCodec {
    fn encode(&self, batch: &Batch) -> Result<Vec<u8>, CodecError> {
        if batch.samples.len() > BATCH_SAMPLES_MAX {
            return Err(CodecError::Malformed("too many samples"));
        }
        let mut columns: BTreeMap<&Series, Vec<Option<f64>>> = BTreeMap::new();
        for series in batch.samples.iter().flat_map(|sample| sample.values.keys()) {
            columns.entry(series).or_default();
        }
        for (series, values) in &mut columns {
            let finite =
                |sample: &Sample| sample.values.get(series).copied().filter(|v| v.is_finite());
            values.extend(batch.samples.iter().map(finite));
        }
        let column = |(series, values): (&Series, _)| Column { series: series.clone(), values };
        let form = Columns {
            at: batch.samples.iter().map(|sample| sample.at).collect(),
            quality: batch.samples.iter().map(|sample| sample.quality).collect(),
            columns: columns.into_iter().map(column).collect(),
        };
        let mut record = vec![CODEC_NUMBER];
        record.extend(encode("telemetry batch", &form)?);
        Ok(record)
    }
}

pub(super) fn decode_batch(body: &[u8]) -> Result<Batch, CodecError> {
    let form: Columns = decode("telemetry batch", body, LOG_RECORD_BYTES_MAX)?;
    let count = form.at.len();
    if count > BATCH_SAMPLES_MAX || form.columns.len() > BATCH_SERIES_MAX {
        return Err(CodecError::Malformed("too many samples or series"));
    }
    if form.quality.len() != count || form.columns.iter().any(|c| c.values.len() != count) {
        return Err(CodecError::Malformed("columns of different lengths"));
    }
    let head = form.at.into_iter().zip(form.quality);
    let mut samples: Vec<Sample> =
        head.map(|(at, quality)| Sample { at, quality, values: BTreeMap::new() }).collect();
    for column in form.columns {
        for (sample, value) in samples.iter_mut().zip(&column.values) {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                sample.values.insert(column.series.clone(), value);
            }
        }
    }
    Ok(Batch { samples })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::decode_any;
    use proptest::prelude::*;

    fn any_batch() -> impl Strategy<Value = Batch> {
        let series = ("[a-z]{1,6}", proptest::option::of("[a-z]{1,3}")).prop_map(|(name, gpu)| {
            let series = Series::new(&name);
            gpu.map_or(series.clone(), |gpu| series.with("gpu", &gpu))
        });
        let values = proptest::collection::btree_map(series, -1e12..1e12_f64, 0..6);
        let sample = (any::<u32>(), values).prop_map(|(at, values)| Sample {
            at: UnixMs(u64::from(at)),
            quality: ClockQuality::Synchronised,
            values,
        });
        proptest::collection::vec(sample, 0..8).prop_map(|samples| Batch { samples })
    }

    #[test]
    fn what_is_not_a_number_is_left_out() {
        let values = [(Series::new("a"), f64::NAN), (Series::new("b"), 2.0)].into();
        let batch = Batch { samples: vec![Sample { values, ..Sample::default() }] };
        let back = decode_any(&CborCodec.encode(&batch).unwrap()).unwrap();
        assert_eq!(back.samples[0].values, [(Series::new("b"), 2.0)].into());
    }

    proptest! {
        #[test]
        fn a_batch_survives_encoding(batch in any_batch()) {
            let record = CborCodec.encode(&batch).unwrap();
            prop_assert_eq!(decode_any(&record).unwrap(), batch);
        }

        #[test]
        fn no_record_makes_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_any(&[&[CODEC_NUMBER], bytes.as_slice()].concat());
        }
    }
}
