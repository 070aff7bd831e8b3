//! From records to batches. Whatever a record claims, work and memory are bounded by its size,
//! [`BATCH_VALUES_MAX`] and the limits of a dictionary.

use super::{
    CLOCK_COLUMNS, CODEC_NUMBER, DICTIONARY_SIZE_BITS, Footing, Integers, Model, SAMPLES_BITS,
    read_exceptions,
};
use crate::limits::LOG_RECORD_BYTES_MAX;
use crate::model::{ClockQuality, ClockStamp, UnixMs};
use crate::telemetry::bits::BitReader;
use crate::telemetry::column::{Column, QUIET_BATCHES, Start};
use crate::telemetry::dictionary::Dictionary;
use crate::telemetry::{
    BATCH_SAMPLES_MAX, BATCH_VALUES_MAX, Batch, CodecError, Sample, Series, Values,
};
use std::sync::Arc;

/// Which values are there, column by column; `None` where all are.
type Presence = Option<Vec<bool>>;

impl Model {
    /// The batch in a record and what both sides know after it. `follows` when this model is that of
    /// the record right before; else only a keyframe can be read.
    pub(crate) fn decode(&self, record: &[u8], follows: bool) -> Result<(Batch, Self), CodecError> {
        if record.len() > LOG_RECORD_BYTES_MAX {
            return Err(CodecError::TooLarge("bytes"));
        }
        let body = match record.split_first() {
            Some((&CODEC_NUMBER, body)) => body,
            other => {
                return Err(CodecError::UnknownCodec { found: other.map(|(number, _)| *number) });
            }
        };
        let mut bits = BitReader::new(body);
        let begins = bits.flag()?;
        let samples = usize::try_from(bits.read(SAMPLES_BITS)?).unwrap_or(usize::MAX) + 1;
        if samples > BATCH_SAMPLES_MAX {
            return Err(CodecError::Malformed("too many samples"));
        }
        let mut after = match begins {
            true => Self::read_start(&mut bits)?,
            false if follows && self.is_begun() => self.clone(),
            false => return Err(CodecError::NoKeyframe),
        };
        let columns = after.read(&mut bits, samples, begins)?;
        bits.finish()?;
        let batch = batch(&after.dictionary, &columns, samples)?;
        Ok((batch, after))
    }

    fn read_start(bits: &mut BitReader<'_>) -> Result<Self, CodecError> {
        let size = usize::try_from(bits.read(DICTIONARY_SIZE_BITS)?).unwrap_or(usize::MAX);
        if size > bits.remaining_bits() / 8 {
            return Err(CodecError::Malformed("the dictionary is longer than the record"));
        }
        let byte = |_| Ok(u8::try_from(bits.read(8)?).unwrap_or_default());
        let bytes = (0..size).map(byte).collect::<Result<Vec<u8>, CodecError>>()?;
        let dictionary = Dictionary::read(bytes)?;
        let columns = vec![Column::default(); CLOCK_COLUMNS + dictionary.entries.len()];
        Ok(Self { dictionary: Arc::new(dictionary), columns })
    }

    /// The values of every column as integers.
    fn read(
        &mut self,
        bits: &mut BitReader<'_>,
        samples: usize,
        begins: bool,
    ) -> Result<Integers, CodecError> {
        let dictionary = Arc::clone(&self.dictionary);
        if samples * dictionary.entries.len() > BATCH_VALUES_MAX {
            return Err(CodecError::Malformed("too many values"));
        }
        let presence = read_presence(bits, samples, dictionary.entries.len())?;
        let everything = vec![true; samples];
        let mut presence = presence.as_deref().unwrap_or_default().chunks_exact(samples);
        let quiet = |column: &&Column| column.quiet >= QUIET_BATCHES;
        let mut exceptions =
            read_exceptions(bits, self.columns.iter().filter(quiet).count())?.into_iter();
        let entries = [None; CLOCK_COLUMNS].into_iter();
        let entries = entries.chain(dictionary.entries.iter().map(Some));
        let mut footing = Footing::new(samples);
        let mut all = Integers::new(self.columns.len(), samples);
        for ((column, values), entry) in self.columns.iter_mut().zip(all.columns_mut()).zip(entries)
        {
            let before = if begins { 0 } else { column.last };
            let is_exact = (column.quiet >= QUIET_BATCHES).then(|| exceptions.next() != Some(true));
            let present = entry.and_then(|_| presence.next()).unwrap_or(&everything);
            read_column(bits, column, (present, values), begins, is_exact)?;
            footing.add(entry, values, before);
            for (value, below) in values.iter_mut().zip(footing.below(entry)) {
                *value = value.map(|own| own.wrapping_add(*below));
            }
        }
        Ok(all)
    }
}

/// The values of a column above what it stands on, where there are any. `is_exact` when the list of
/// exceptions has said whether all predictions were.
fn read_column(
    bits: &mut BitReader<'_>,
    column: &mut Column,
    (present, values): (&[bool], &mut [Option<i64>]),
    begins: bool,
    is_exact: Option<bool>,
) -> Result<(), CodecError> {
    let mut first = None;
    if begins {
        if !present.contains(&true) {
            return Err(CodecError::Malformed("a series without a value"));
        }
        *column = Start::read(bits)?.column();
        first = Some(column.last);
    }
    let is_exact = match is_exact {
        Some(is_exact) => is_exact,
        None => column.is_often_exact() && bits.flag()?,
    };
    let mut all_exact = true;
    for (is_present, value) in present.iter().zip(values) {
        *value = match (is_present, first.take_if(|_| *is_present)) {
            (false, _) => None,
            (true, Some(first)) => Some(first),
            (true, None) => {
                let code = if is_exact { 0 } else { bits.rice(column.low_bits())? };
                all_exact &= code == 0;
                Some(column.decode(code))
            }
        };
    }
    column.end_batch(all_exact);
    Ok(())
}

/// Which values of the series are there.
fn read_presence(
    bits: &mut BitReader<'_>,
    samples: usize,
    series: usize,
) -> Result<Presence, CodecError> {
    if bits.flag()? {
        return Ok(None);
    }
    let mut all = vec![true; samples * series];
    for presence in all.chunks_exact_mut(samples) {
        if !bits.flag()? {
            for is_present in presence {
                *is_present = bits.flag()?;
            }
        }
    }
    Ok(Some(all))
}

fn batch(
    dictionary: &Dictionary,
    integers: &Integers,
    samples: usize,
) -> Result<Batch, CodecError> {
    let samples = (0..samples).map(|index| {
        let clock: [_; CLOCK_COLUMNS] = std::array::from_fn(|column| integers.get(column, index));
        let [Some(at), Some(quality), Some(boot), Some(offset_ms)] = clock else {
            return Err(CodecError::Malformed("a sample without a clock"));
        };
        let mut sample = sample_of([at, quality, boot, offset_ms])?;
        let number = |position: &usize| {
            let value = dictionary.entries.get(*position)?.form;
            Some(value.value(integers.get(CLOCK_COLUMNS + position, index)?))
        };
        let number = |position| number(position).unwrap_or(f64::NAN);
        let numbers: Vec<f64> = dictionary.positions.iter().map(number).collect();
        sample.values = if numbers.iter().all(|number| number.is_finite()) {
            Values::of(Arc::clone(&dictionary.ascending), numbers)
        } else {
            let told = dictionary.ascending.iter().zip(numbers).filter(|(_, n)| n.is_finite());
            let (series, numbers): (Vec<Series>, _) = told.map(|(s, n)| (s.clone(), n)).unzip();
            Values::of(series.into(), numbers)
        };
        Ok(sample)
    });
    Ok(Batch { samples: samples.collect::<Result<_, _>>()? })
}

fn sample_of([at, quality, boot, offset_ms]: [i64; CLOCK_COLUMNS]) -> Result<Sample, CodecError> {
    let quality = match quality {
        0 => ClockQuality::Unsynchronised,
        1 => ClockQuality::Synchronised,
        _ => return Err(CodecError::Malformed("a clock's quality that does not exist")),
    };
    let clock = ClockStamp { quality, boot: boot.cast_unsigned(), offset_ms };
    Ok(Sample { at: UnixMs(at.cast_unsigned()), clock, values: Values::default() })
}
