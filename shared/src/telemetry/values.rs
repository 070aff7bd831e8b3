//! What was measured at one moment: series in their order with a value each.
//!
//! A node tells the same series time after time, and so do its batches: the list of them is shared
//! by all samples that have the same, and what works on samples sees by the list alone that nothing
//! has changed.

use super::Series;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Values by series, in the series' own units and in the order of the series, each once. A copy
/// shares the list of the series.
#[derive(Debug, Clone)]
pub struct Values {
    /// In ascending order, each once.
    series: Arc<[Series]>,
    /// One for each.
    numbers: Vec<f64>,
}

impl Values {
    /// `numbers` are the values of `series`, which are in ascending order, each once, and as many.
    pub(super) fn of(series: Arc<[Series]>, numbers: Vec<f64>) -> Self {
        debug_assert_eq!(series.len(), numbers.len());
        Self { series, numbers }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The series, in ascending order.
    #[must_use]
    pub fn series(&self) -> &Arc<[Series]> {
        &self.series
    }

    /// The values in the order of the series.
    #[must_use]
    pub fn numbers(&self) -> &[f64] {
        &self.numbers
    }

    /// The value of a series.
    #[must_use]
    pub fn get(&self, series: &Series) -> Option<f64> {
        self.numbers.get(self.series.binary_search(series).ok()?).copied()
    }

    /// Each series with its value, in ascending order of the series.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Series, f64)> + Clone {
        self.series.iter().zip(self.numbers.iter().copied())
    }

    /// Keeps the values whose series are to be kept.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&Series) -> bool) {
        if !self.series.iter().all(&mut is_kept) {
            let kept = self.iter().filter(|(series, _)| is_kept(series));
            *self = kept.map(|(series, value)| (series.clone(), value)).collect();
        }
    }

    /// Adds values; one of a series that is there already takes its place.
    pub fn extend(&mut self, others: impl IntoIterator<Item = (Series, f64)>) {
        let mut others = others.into_iter().peekable();
        if others.peek().is_some() {
            let own = self.iter().map(|(series, value)| (series.clone(), value));
            *self = own.chain(others).collect();
        }
    }

    /// Holds its series by the copies of `earlier`, where it has them as well: what waits together then
    /// holds each name once.
    pub fn share_series(&mut self, earlier: &Self) {
        if self.series == earlier.series {
            self.series = Arc::clone(&earlier.series);
            return;
        }
        let known = |series: &Series| {
            let place = earlier.series.binary_search(series).ok()?;
            earlier.series.get(place)
        };
        let shared = |series: &Series| known(series).unwrap_or(series).clone();
        self.series = self.series.iter().map(shared).collect();
    }

    /// The first half of them and the others; `None` when there are not two.
    #[must_use]
    pub fn halves(&self) -> Option<(Self, Self)> {
        let middle = self.len() / 2;
        let part = |range: std::ops::Range<usize>| {
            Some(Self::of(self.series.get(range.clone())?.into(), self.numbers.get(range)?.into()))
        };
        if middle == 0 { None } else { Some((part(0..middle)?, part(middle..self.len())?)) }
    }
}

impl Default for Values {
    fn default() -> Self {
        Self { series: Arc::from([]), numbers: Vec::new() }
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        // Most that are compared share their series.
        self.numbers == other.numbers
            && (Arc::ptr_eq(&self.series, &other.series) || self.series == other.series)
    }
}

impl From<BTreeMap<Series, f64>> for Values {
    fn from(map: BTreeMap<Series, f64>) -> Self {
        let (series, numbers): (Vec<_>, Vec<_>) = map.into_iter().unzip();
        Self::of(series.into(), numbers)
    }
}

/// The last of several values of one series counts.
impl FromIterator<(Series, f64)> for Values {
    fn from_iter<I: IntoIterator<Item = (Series, f64)>>(values: I) -> Self {
        BTreeMap::from_iter(values).into()
    }
}

impl<const N: usize> From<[(Series, f64); N]> for Values {
    fn from(values: [(Series, f64); N]) -> Self {
        values.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(of: &[(&str, f64)]) -> Values {
        of.iter().map(|(name, value)| (Series::new(name), *value)).collect()
    }

    #[test]
    fn they_are_in_the_order_of_their_series_and_the_last_of_one_counts() {
        let values = values(&[("b", 1.0), ("a", 2.0), ("b", 3.0)]);
        let names: Vec<&str> = values.series().iter().map(|series| &*series.name).collect();
        assert_eq!((names.as_slice(), values.numbers()), (["a", "b"].as_slice(), &[2.0, 3.0][..]));
        assert_eq!(values.get(&Series::new("b")), Some(3.0));
        assert_eq!(values.get(&Series::new("c")), None);
    }

    #[test]
    fn more_are_added_and_take_the_place_of_what_was_there() {
        let mut some = values(&[("b", 1.0), ("c", 1.0)]);
        some.extend([(Series::new("a"), 2.0), (Series::new("c"), 3.0)]);
        assert_eq!(some, values(&[("a", 2.0), ("b", 1.0), ("c", 3.0)]));
        some.retain(|series| &*series.name != "b");
        assert_eq!(some, values(&[("a", 2.0), ("c", 3.0)]));
    }

    #[test]
    fn equal_lists_become_one_and_others_share_their_names() {
        let earlier = values(&[("a", 1.0), ("b", 1.0)]);
        let mut same = values(&[("a", 2.0), ("b", 2.0)]);
        same.share_series(&earlier);
        assert!(Arc::ptr_eq(same.series(), earlier.series()));
        let mut other = values(&[("b", 2.0), ("c", 2.0)]);
        other.share_series(&earlier);
        assert!(Arc::ptr_eq(&other.series()[0].name, &earlier.series()[1].name));
        assert_eq!(other, values(&[("b", 2.0), ("c", 2.0)]));
    }

    #[test]
    fn halves_have_everything_once_and_one_value_has_none() {
        let all = values(&[("a", 1.0), ("b", 2.0), ("c", 3.0)]);
        let (first, second) = all.halves().unwrap();
        assert_eq!((first, second), (values(&[("a", 1.0)]), values(&[("b", 2.0), ("c", 3.0)])));
        assert!(values(&[("a", 1.0)]).halves().is_none() && Values::default().halves().is_none());
    }
}
