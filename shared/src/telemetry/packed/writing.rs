//! From batches to records.

use super::{
    CLOCK_COLUMNS, CODEC_NUMBER, DICTIONARY_SIZE_BITS, Footing, Integers, Model, SAMPLES_BITS,
    write_exceptions,
};
use crate::limits::LOG_RECORD_BYTES_MAX;
use crate::model::ClockQuality;
use crate::telemetry::bits::BitWriter;
use crate::telemetry::column::{Column, QUIET_BATCHES, Start};
use crate::telemetry::dictionary::{Dictionary, is_written};
use crate::telemetry::{BATCH_SAMPLES_MAX, BATCH_VALUES_MAX, Batch, CodecError, Sample, Series};
use std::sync::Arc;

/// What a column writes in one record.
struct Written {
    /// In a keyframe.
    start: Option<Start>,
    /// How many codes are its own.
    codes: usize,
    is_exact: bool,
    was_quiet: bool,
    was_often_exact: bool,
}

impl Model {
    /// The record of a batch and what both sides know after it. A keyframe when it must be one, or
    /// when the batch has series or values that this model can't say.
    pub(crate) fn encode(
        &self,
        batch: &Batch,
        must_begin: bool,
    ) -> Result<(Vec<u8>, Self), CodecError> {
        let samples = batch.samples.as_slice();
        if samples.is_empty() {
            return Err(CodecError::Malformed("there is no sample"));
        }
        if samples.len() > BATCH_SAMPLES_MAX {
            return Err(CodecError::TooLarge("samples"));
        }
        let must_begin = must_begin || !self.is_begun();
        let known = if must_begin { None } else { integers(samples, &self.dictionary) };
        let begins = known.is_none();
        let (mut after, integers) = match known {
            Some(integers) => (self.clone(), integers),
            None => self.begin(samples)?,
        };
        let record = after.write(&integers, begins);
        let fits = record.len() <= LOG_RECORD_BYTES_MAX;
        if fits { Ok((record, after)) } else { Err(CodecError::TooLarge("bytes")) }
    }

    /// A model whose dictionary is that of these samples, with what is known of their columns.
    fn begin(&self, samples: &[Sample]) -> Result<(Self, Integers), CodecError> {
        let dictionary = Dictionary::of(samples, &self.dictionary)?;
        if samples.len() * dictionary.entries.len() > BATCH_VALUES_MAX {
            return Err(CodecError::TooLarge("values"));
        }
        let integers = integers(samples, &dictionary);
        let integers = integers.ok_or(CodecError::Malformed("a value has no form"))?;
        let columns = CLOCK_COLUMNS + dictionary.entries.len();
        let columns = (0..columns).map(|column| self.known(column, &dictionary));
        let columns = columns.map(Option::unwrap_or_default).collect();
        Ok((Self { dictionary: Arc::new(dictionary), columns }, integers))
    }

    /// What this model knows of a column of another dictionary.
    fn known(&self, column: usize, dictionary: &Dictionary) -> Option<Column> {
        let Some(series) = column.checked_sub(CLOCK_COLUMNS) else {
            return self.columns.get(column).copied();
        };
        let entry = dictionary.entries.get(series)?;
        let position = self.dictionary.position(&entry.series)?;
        let before = self.dictionary.entries.get(position)?;
        let is_alike = before.form == entry.form && before.base.is_some() == entry.base.is_some();
        let column = self.columns.get(position + CLOCK_COLUMNS).copied();
        column.filter(|_| is_alike)
    }

    fn write(&mut self, integers: &Integers, begins: bool) -> Vec<u8> {
        let mut bits = BitWriter::after(vec![CODEC_NUMBER]);
        bits.flag(begins);
        bits.write(integers.samples.saturating_sub(1) as u64, SAMPLES_BITS);
        if begins {
            let bytes = &self.dictionary.bytes;
            bits.write(bytes.len() as u64, DICTIONARY_SIZE_BITS);
            bytes.iter().for_each(|byte| bits.write(u64::from(*byte), 8));
        }
        write_presence(&mut bits, integers);
        let (written, codes) = self.advance(integers, begins);
        let quiet = written.iter().filter(|written| written.was_quiet);
        write_exceptions(&mut bits, &quiet.map(|written| !written.is_exact).collect::<Vec<_>>());
        let mut codes = codes.as_slice();
        for written in written {
            let (own, others) = codes.split_at(written.codes.min(codes.len()));
            written.write(&mut bits, own);
            codes = others;
        }
        bits.finish()
    }

    /// Takes the values of every column; what is to be written for each, and the codes of all.
    fn advance(&mut self, integers: &Integers, begins: bool) -> (Vec<Written>, Vec<Code>) {
        let dictionary = Arc::clone(&self.dictionary);
        let mut footing = Footing::new(integers.samples);
        let mut all = Vec::with_capacity(self.columns.len());
        let mut codes = Vec::with_capacity(integers.values.len());
        let mut own = Vec::with_capacity(integers.samples);
        let entries = [None; CLOCK_COLUMNS].into_iter();
        let entries = entries.chain(dictionary.entries.iter().map(Some));
        for ((column, values), entry) in
            self.columns.iter_mut().zip(integers.columns()).zip(entries)
        {
            let above = |(value, below): (&Option<i64>, &i64)| Some((*value)?.wrapping_sub(*below));
            own.clear();
            own.extend(values.iter().zip(footing.below(entry)).map(above));
            let before = if begins { 0 } else { column.last };
            all.push(Written::of(column, &own, begins, &mut codes));
            footing.add(entry, &own, before);
        }
        (all, codes)
    }
}

/// What is written for a value, and the low bits of its Rice code.
type Code = (u64, u32);

impl Written {
    /// Takes the values into the column; their codes are put behind the others.
    fn of(
        column: &mut Column,
        values: &[Option<i64>],
        begins: bool,
        codes: &mut Vec<Code>,
    ) -> Self {
        let mut start = None;
        if begins {
            let present: Vec<i64> = values.iter().flatten().copied().collect();
            start = column.start(&present);
        }
        if let Some(start) = start {
            *column = start.column();
        }
        let was_quiet = column.quiet >= QUIET_BATCHES;
        let was_often_exact = column.is_often_exact();
        let (first, mut is_exact) = (codes.len(), true);
        for value in values.iter().flatten().skip(usize::from(begins)) {
            let low_bits = column.low_bits();
            let code = column.encode(*value);
            is_exact &= code == 0;
            codes.push((code, low_bits));
        }
        column.end_batch(is_exact);
        Self { start, codes: codes.len() - first, is_exact, was_quiet, was_often_exact }
    }

    fn write(&self, bits: &mut BitWriter, codes: &[Code]) {
        if let Some(start) = self.start {
            start.write(bits);
        }
        if !self.was_quiet && self.was_often_exact {
            bits.flag(self.is_exact);
        }
        if !self.is_exact || !(self.was_quiet || self.was_often_exact) {
            codes.iter().for_each(|(code, low_bits)| bits.rice(*code, *low_bits));
        }
    }
}

/// All columns of a batch; `None` when it has a series or a value that the dictionary can't say.
fn integers(samples: &[Sample], dictionary: &Dictionary) -> Option<Integers> {
    let series = dictionary.entries.len();
    if samples.len() * series > BATCH_VALUES_MAX {
        return None;
    }
    let mut integers = Integers::new(CLOCK_COLUMNS + series, samples.len());
    // Samples that share their series are all alike.
    let (mut series_seen, mut positions) = (None::<&Arc<[Series]>>, Vec::new());
    for (index, sample) in samples.iter().enumerate() {
        for (column, integer) in clock_integers(sample).into_iter().enumerate() {
            integers.set(column, index, integer);
        }
        let names = sample.values.series();
        if !series_seen.is_some_and(|seen| Arc::ptr_eq(seen, names)) {
            positions = positions_of(names, dictionary);
            series_seen = Some(names);
        }
        for ((series, value), position) in sample.values.iter().zip(&positions) {
            let Some(position) = position.filter(|_| value.is_finite()) else {
                // What is in the dictionary is not over any limit: that is asked of the others alone.
                if is_written(series, value) { return None } else { continue }
            };
            let integer = dictionary.entries.get(position)?.form.integer(value)?;
            integers.set(CLOCK_COLUMNS + position, index, integer);
        }
    }
    Some(integers)
}

/// Where each of these series, in ascending order, is among the entries of the dictionary.
fn positions_of(series: &[Series], dictionary: &Dictionary) -> Vec<Option<usize>> {
    let mut known = dictionary.ascending.iter().zip(&dictionary.positions).peekable();
    let position = |series: &Series| {
        while known.next_if(|(known, _)| *known < series).is_some() {}
        known.next_if(|(known, _)| *known == series).map(|(_, position)| *position)
    };
    series.iter().map(position).collect()
}

fn clock_integers(sample: &Sample) -> [i64; CLOCK_COLUMNS] {
    let quality = match sample.clock.quality {
        ClockQuality::Unsynchronised => 0,
        ClockQuality::Synchronised => 1,
    };
    let boot = sample.clock.boot.cast_signed();
    [sample.at.0.cast_signed(), quality, boot, sample.clock.offset_ms]
}

/// A bit when everything is there; else a bit a series that is always there, and one a value of
/// the others.
fn write_presence(bits: &mut BitWriter, integers: &Integers) {
    let is_whole = |values: &[Option<i64>]| values.iter().all(Option::is_some);
    let all = integers.columns().skip(CLOCK_COLUMNS).all(is_whole);
    bits.flag(all);
    for values in integers.columns().skip(CLOCK_COLUMNS).filter(|_| !all) {
        bits.flag(is_whole(values));
        if !is_whole(values) {
            values.iter().for_each(|value| bits.flag(value.is_some()));
        }
    }
}
