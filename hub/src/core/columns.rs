//! Samples that wait for Prometheus, column by column: a fleet's samples wait in the hub's memory while
//! it is down, and a map for each moment would take twenty times as much.

use shared::model::{ClockQuality, ClockStamp, UnixMs};
use shared::telemetry::{Batch, Sample, Series};
use std::collections::BTreeMap;

/// What a series takes besides its values: pointers, capacities, and the texts of its name and labels.
const SERIES_BYTES: u64 = 256;

/// What a moment takes.
const MOMENT_BYTES: u64 = size_of::<Moment>() as u64;

/// Samples of one batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Columns {
    /// When they were taken.
    pub moments: Vec<Moment>,
    /// Values by series, one for each moment; not a number where the series was not there.
    pub series: Vec<(Series, Vec<f64>)>,
}

/// When a sample was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By the node's clock.
    pub at: UnixMs,
    /// How far that clock can be believed.
    pub quality: ClockQuality,
    /// Which clock it was, as far as the codec carries it.
    pub clock: Option<ClockStamp>,
}

impl Columns {
    /// The samples of a batch.
    #[must_use]
    pub fn of(batch: &Batch) -> Self {
        let count = batch.samples.len();
        let mut columns: BTreeMap<&Series, Vec<f64>> = BTreeMap::new();
        for (place, sample) in batch.samples.iter().enumerate() {
            for (series, value) in sample.values.iter() {
                let column = columns.entry(series).or_insert_with(|| vec![f64::NAN; count]);
                if let Some(slot) = column.get_mut(place) {
                    *slot = value;
                }
            }
        }
        let moment = |sample: &Sample| Moment {
            at: sample.at,
            quality: sample.clock.quality,
            clock: Some(sample.clock),
        };
        let series = columns.into_iter().map(|(series, values)| (series.clone(), values));
        Self { moments: batch.samples.iter().map(moment).collect(), series: series.collect() }
    }

    /// About what it takes of the hub's memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let moments = self.moments.len() as u64;
        let series = self.series.len() as u64;
        moments * MOMENT_BYTES + series * (SERIES_BYTES + moments * size_of::<f64>() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_that_comes_and_goes_has_no_value_where_it_was_not_there() {
        let sample = |at, names: &[&str]| {
            let values = names.iter().map(|name| (Series::new(name), 1.5)).collect();
            Sample { at: UnixMs(at), values, ..Sample::default() }
        };
        let batch = Batch { samples: vec![sample(1, &["a", "b"]), sample(2, &["b"])] };
        let columns = Columns::of(&batch);
        assert_eq!(columns.moments.iter().map(|moment| moment.at.0).collect::<Vec<_>>(), [1, 2]);
        let [(_, a), (_, b)] = &columns.series[..] else { panic!("{columns:?}") };
        assert!(a[0] == 1.5 && a[1].is_nan());
        assert_eq!(b, &[1.5, 1.5]);
    }
}
