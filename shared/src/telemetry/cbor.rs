//! The first codec: packed CBOR, a column a series. No longer written; its records are decoded for
//! ever.

use super::{
    BATCH_SAMPLES_MAX, BATCH_SERIES_MAX, BATCH_VALUES_MAX, Batch, CodecError, Sample, Series,
};
use crate::limits::LOG_RECORD_BYTES_MAX;
use crate::model::{ClockQuality, ClockStamp, UnixMs};
use crate::wire::decode;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The first byte of its records.
pub(super) const CODEC_NUMBER: u8 = 1;

/// The form on the wire.
#[derive(Deserialize)]
struct Columns {
    at: Vec<UnixMs>,
    quality: Vec<ClockQuality>,
    columns: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    series: Series,
    /// One for each sample; nothing where the series was not there.
    values: Vec<Option<f64>>,
}

pub(super) fn decode_batch(body: &[u8]) -> Result<Batch, CodecError> {
    let form: Columns = decode("telemetry batch", body, LOG_RECORD_BYTES_MAX)?;
    let count = form.at.len();
    let values = count.saturating_mul(form.columns.len());
    if count > BATCH_SAMPLES_MAX
        || form.columns.len() > BATCH_SERIES_MAX
        || values > BATCH_VALUES_MAX
    {
        return Err(CodecError::Malformed("too many samples or series"));
    }
    if form.quality.len() != count || form.columns.iter().any(|c| c.values.len() != count) {
        return Err(CodecError::Malformed("columns of different lengths"));
    }
    let head = form.at.into_iter().zip(form.quality);
    let sample = |(at, quality)| {
        let clock = ClockStamp { quality, ..ClockStamp::default() };
        (Sample { at, clock, ..Sample::default() }, BTreeMap::new())
    };
    let mut samples: Vec<(Sample, BTreeMap<Series, f64>)> = head.map(sample).collect();
    for column in form.columns {
        for ((_, values), value) in samples.iter_mut().zip(&column.values) {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                values.insert(column.series.clone(), value);
            }
        }
    }
    let whole =
        |(sample, values): (Sample, BTreeMap<_, _>)| Sample { values: values.into(), ..sample };
    Ok(Batch { samples: samples.into_iter().map(whole).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::BatchDecoder;
    use proptest::prelude::*;

    /// What version 0.1.0 wrote for the batch below.
    const GOLDEN: &str = "01a300821b0000018bcfe568001b0000018bcfe58f10018201000282a200a200616101a163677075\
         61300182f93c00f6a200a2006a6e6f64655f6c6f61643101a00182f93800f93400";

    #[test]
    fn what_the_first_codec_wrote_is_decoded_for_ever() {
        let bytes: Vec<u8> = (0..GOLDEN.len() / 2)
            .map(|at| u8::from_str_radix(&GOLDEN[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let batch = BatchDecoder::default().decode(7, &bytes).unwrap();
        let synchronised =
            ClockStamp { quality: ClockQuality::Synchronised, ..ClockStamp::default() };
        let load = Series::new("node_load1");
        let one = Sample {
            at: UnixMs(1_700_000_000_000),
            clock: synchronised,
            values: [(load.clone(), 0.5), (Series::new("a").with("gpu", "0"), 1.0)].into(),
        };
        let two = Sample {
            at: UnixMs(1_700_000_010_000),
            clock: ClockStamp::default(),
            values: [(load, 0.25)].into(),
        };
        assert_eq!(batch.samples, [one, two]);
    }

    proptest! {
        #[test]
        fn no_record_makes_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_batch(&bytes);
        }
    }
}
