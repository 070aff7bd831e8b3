//! What became of the records of a batch, by number, once they are done with.
//!
//! All that a hub counts of a node is the sum of these; so it is known of every record whether it was
//! taken, lost or could not be read.

use shared::sync::{ReceivedRecords, count_in};
use shared::wire::SequenceNumber;
use std::ops::RangeInclusive;

/// Ranges that are written out; a batch may have thousands.
const RANGES_WRITTEN_MAX: usize = 8;

/// What became of the records of one log from `first` to `last`. What is neither lost nor
/// undecodable was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settlement {
    /// The first record.
    pub first: SequenceNumber,
    /// The last record.
    pub last: SequenceNumber,
    /// Samples in the records that were taken.
    pub samples: u64,
    /// Events and alarms that were taken.
    pub events: u64,
    /// Results that were taken.
    pub results: u64,
    /// What the node no longer had, in order.
    pub lost: Vec<RangeInclusive<SequenceNumber>>,
    /// What could not be read, in order.
    pub undecodable: Vec<RangeInclusive<SequenceNumber>>,
}

impl Settlement {
    /// Of what has arrived up to `last`, of which nothing is taken yet.
    pub(super) fn begin(received: &mut ReceivedRecords, last: SequenceNumber) -> Self {
        let lost = std::mem::take(&mut received.lost);
        Self { first: received.first, last, lost, ..Self::default() }
    }

    /// How many records the node no longer had.
    #[must_use]
    pub fn lost_records(&self) -> u64 {
        count_in(&self.lost)
    }

    /// How many records could not be read.
    #[must_use]
    pub fn undecodable_records(&self) -> u64 {
        count_in(&self.undecodable)
    }
}

/// Numbers for people: `3-5, 9`, and how many ranges are not written out.
pub(crate) fn in_ranges(ranges: &[RangeInclusive<SequenceNumber>]) -> String {
    let in_words = |range: &RangeInclusive<SequenceNumber>| match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}-{}", range.start(), range.end()),
    };
    let written: Vec<String> = ranges.iter().take(RANGES_WRITTEN_MAX).map(in_words).collect();
    match ranges.len() - written.len() {
        0 => written.join(", "),
        more => format!("{}, and {more} more", written.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_ranges_and_not_without_end() {
        assert_eq!(in_ranges(&[3..=5, 9..=9]), "3-5, 9");
        let many: Vec<_> = (0..20).map(|n| n * 2..=n * 2).collect();
        assert_eq!(in_ranges(&many), "0, 2, 4, 6, 8, 10, 12, 14, and 12 more");
    }
}
