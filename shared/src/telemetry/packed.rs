//! The second codec: what an encoder and its decoder both know, and the records between them.
//!
//! A record is the codec's number and then bits:
//!
//! | bits | what |
//! |---|---|
//! | 1 | whether it is a keyframe |
//! | 9 | samples, less one |
//! | keyframe: 14 + 8 each | the dictionary's bytes |
//! | 1, or series × (1, or samples) | which values are there |
//! | a few | which of the quiet columns are not quiet this time |
//! | column by column | keyframe: how it begins; then a Rice code a value |
//!
//! The first columns are the clock's: time, quality, boot, offset. A column whose predictions were
//! all exact for [`super::column::QUIET_BATCHES`] batches is quiet and costs nothing until it is not; one whose
//! predictions are mostly exact costs a bit.

mod reading;
mod writing;

use super::CodecError;
use super::bits::{BitReader, BitWriter, bits_of};
use super::column::Column;
use super::dictionary::{Dictionary, Entry};
use std::sync::Arc;

/// The first byte of its records.
pub(super) const CODEC_NUMBER: u8 = 2;

/// Bits of the number of samples: [`super::BATCH_SAMPLES_MAX`] is below 2^9.
const SAMPLES_BITS: u32 = 9;

/// Bits of the size of a dictionary: [`crate::limits::LOG_RECORD_BYTES_MAX`] is below 2^14.
const DICTIONARY_SIZE_BITS: u32 = 14;

/// Columns of the clock, before those of the series.
const CLOCK_COLUMNS: usize = 4;

/// What both sides know after a record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Model {
    dictionary: Arc<Dictionary>,
    /// Those of the clock, then one for each series of the dictionary; empty before the first record.
    columns: Vec<Column>,
}

/// Values as integers, column by column; nothing where a series was not there.
#[derive(Debug)]
struct Integers {
    samples: usize,
    values: Vec<Option<i64>>,
}

impl Integers {
    /// So many columns without a value. There is at least one sample.
    fn new(columns: usize, samples: usize) -> Self {
        Self { samples, values: vec![None; columns * samples] }
    }

    fn columns(&self) -> impl Iterator<Item = &[Option<i64>]> {
        self.values.chunks_exact(self.samples)
    }

    fn columns_mut(&mut self) -> impl Iterator<Item = &mut [Option<i64>]> {
        self.values.chunks_exact_mut(self.samples)
    }

    fn get(&self, column: usize, sample: usize) -> Option<i64> {
        *self.values.get(column * self.samples + sample)?
    }

    fn set(&mut self, column: usize, sample: usize, value: i64) {
        if let Some(place) = self.values.get_mut(column * self.samples + sample) {
            *place = Some(value);
        }
    }
}

/// What series may stand on: those before them, with their last values at each sample.
struct Footing {
    /// Empty for a series on which nothing stands.
    of_series: Vec<Vec<i64>>,
    none: Vec<i64>,
}

impl Footing {
    fn new(samples: usize) -> Self {
        Self { of_series: Vec::new(), none: vec![0; samples] }
    }

    /// What a column stands on; those of the clock have no entry and stand on nothing.
    fn below(&self, entry: Option<&Entry>) -> &[i64] {
        let base = entry.and_then(|entry| self.of_series.get(entry.base?));
        base.unwrap_or(&self.none)
    }

    /// The values of the next column above what it stands on, and its last one before the batch.
    fn add(&mut self, entry: Option<&Entry>, own: &[Option<i64>], before: i64) {
        let Some(entry) = entry else { return };
        let mut sums = Vec::new();
        if entry.is_base {
            let mut last = before;
            let sum = |(own, below): (&Option<i64>, &i64)| {
                last = own.unwrap_or(last);
                below.wrapping_add(last)
            };
            sums = own.iter().zip(self.below(Some(entry))).map(sum).collect();
        }
        self.of_series.push(sums);
    }
}

impl Model {
    /// Whether there was a record: only then can one follow that is not a keyframe.
    pub(super) fn is_begun(&self) -> bool {
        !self.columns.is_empty()
    }

    /// The model as it is stored: the dictionary as it travels, and the columns.
    pub(super) fn to_bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let mut bits = BitWriter::default();
        self.columns.iter().for_each(|column| column.store(&mut bits));
        (self.dictionary.bytes.clone(), bits.finish())
    }

    /// What [`Self::to_bytes`] made.
    pub(super) fn of_bytes(dictionary: Vec<u8>, columns: &[u8]) -> Result<Self, CodecError> {
        if columns.is_empty() {
            return Ok(Self::default());
        }
        let dictionary = Dictionary::read(dictionary)?;
        let mut bits = BitReader::new(columns);
        let count = CLOCK_COLUMNS + dictionary.entries.len();
        let columns = (0..count).map(|_| Column::restore(&mut bits)).collect::<Result<_, _>>()?;
        bits.finish()?;
        Ok(Self { dictionary: Arc::new(dictionary), columns })
    }
}

/// Which of so many are exceptions: how many are none before the next one, each in as many bits as
/// the number of those left needs.
fn write_exceptions(bits: &mut BitWriter, are: &[bool]) {
    let mut rest = are;
    while !rest.is_empty() {
        let run = rest.iter().take_while(|is| !**is).count();
        bits.write(run as u64, bits_of(rest.len() as u64));
        rest = rest.get(run + 1..).unwrap_or_default();
    }
}

/// What [`write_exceptions`] wrote for `count`.
fn read_exceptions(bits: &mut BitReader<'_>, count: usize) -> Result<Vec<bool>, CodecError> {
    let mut are = Vec::with_capacity(count);
    while are.len() < count {
        let left = count - are.len();
        let run = usize::try_from(bits.read(bits_of(left as u64))?).unwrap_or(usize::MAX);
        if run > left {
            return Err(CodecError::Malformed("more exceptions than columns"));
        }
        are.resize(are.len() + run, false);
        if run < left {
            are.push(true);
        }
    }
    Ok(are)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exceptions_are_read_as_they_were_written(are in proptest::collection::vec(any::<bool>(), 0..40)) {
            let mut bits = BitWriter::default();
            write_exceptions(&mut bits, &are);
            let bytes = bits.finish();
            let mut reader = BitReader::new(&bytes);
            prop_assert_eq!(read_exceptions(&mut reader, are.len()).unwrap(), are);
            reader.finish().unwrap();
        }
    }
}
