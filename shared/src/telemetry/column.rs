//! What both sides know of one series: its last value, how it moves, and how far predictions were
//! off. From it follow the prediction of the next value and the width in which the difference is
//! written.
//!
//! Integers only, so that every machine computes the same; every operation wraps or saturates, so
//! that no record and no stored state can make it panic.

use super::CodecError;
use super::bits::{BitReader, BitWriter, bits_of, unzigzag, zigzag};

/// Bits behind the point of levels and trends.
const FRACTION_BITS: u32 = 6;

/// Bits behind the point of [`Column::scale`] and [`Column::misses`].
const SCALE_FRACTION_BITS: u32 = 4;

/// A trend and the misses follow with 1/16 of a difference: half of it within 11 samples.
const SLOW_SHIFT: u32 = 4;

/// A level and a scale follow with 1/8 of a difference.
const FAST_SHIFT: u32 = 3;

/// Values beyond ±2^55 have no level and no trend: with the bits behind the point they would not fit.
const MOVING_MAX: i64 = 1 << 55;

/// Misses beyond 2^40 are all alike.
const MISS_MAX: u64 = 1 << 40;

/// Differences beyond 2^54 are all alike for the width.
const SCALE_MAX: u64 = 1 << 54;

/// Bits of the size of a scale in a keyframe.
const SCALE_SIZE_BITS: u32 = 6;

/// A series that was predicted exactly through this many batches is expected to go on so: it costs
/// nothing, and exceptions are listed.
pub(super) const QUIET_BATCHES: u8 = 2;

/// The prediction: as before, along the trend, or back to the level.
const PREDICTORS: usize = 3;

/// One series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Column {
    /// The last value, in units of the resolution, above the series it stands on.
    pub(super) last: i64,
    /// A slow mean of values.
    level: i64,
    /// A slow mean of differences from sample to sample.
    trend: i64,
    /// How far each predictor was off lately.
    misses: [i64; PREDICTORS],
    /// A slow mean of what was written.
    scale: i64,
    /// Batches in a row without a miss, as far as it matters.
    pub(super) quiet: u8,
}

/// How a column begins in a keyframe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    value: i64,
    predictor: usize,
    trend: i64,
    scale_size: u32,
}

impl Column {
    fn predictions(&self) -> [i64; PREDICTORS] {
        let round = |fixed: i64| fixed.wrapping_add(1 << (FRACTION_BITS - 1)) >> FRACTION_BITS;
        [self.last, self.last.wrapping_add(round(self.trend)), round(self.level)]
    }

    fn predictor(&self) -> usize {
        let by_miss = self.misses.iter().enumerate().min_by_key(|(_, miss)| **miss);
        by_miss.map_or(0, |(predictor, _)| predictor)
    }

    fn prediction(&self) -> i64 {
        let [same, trend, level] = self.predictions();
        match self.predictor() {
            0 => same,
            1 => trend,
            _ => level,
        }
    }

    /// The low bits of the next value's Rice code: half of what was written lately, which is what
    /// fits long tails (a geometric distribution would have two thirds).
    pub(super) fn low_bits(&self) -> u32 {
        let mean = self.scale.max(0).cast_unsigned() >> SCALE_FRACTION_BITS;
        bits_of(mean).saturating_sub(1)
    }

    /// Whether a batch of nothing but exact predictions is likely enough to spend a bit on.
    pub(super) fn is_often_exact(&self) -> bool {
        self.scale >> SCALE_FRACTION_BITS < 2
    }

    /// Takes the next value; what is written for it. 0 is an exact prediction.
    pub(super) fn encode(&mut self, value: i64) -> u64 {
        let written = zigzag(value.wrapping_sub(self.prediction()));
        self.learn(value, written);
        written
    }

    /// The next value, from what was written for it.
    pub(super) fn decode(&mut self, written: u64) -> i64 {
        let value = self.prediction().wrapping_add(unzigzag(written));
        self.learn(value, written);
        value
    }

    fn learn(&mut self, value: i64, written: u64) {
        let predictions = self.predictions();
        for (miss, prediction) in self.misses.iter_mut().zip(predictions) {
            let off = value.wrapping_sub(prediction).unsigned_abs().min(MISS_MAX);
            let off = (off << SCALE_FRACTION_BITS).cast_signed();
            *miss = miss.wrapping_add(off.wrapping_sub(*miss) >> SLOW_SHIFT);
        }
        // One value that breaks with all before must not widen the next hundred.
        let widest = self.scale.max(0).cast_unsigned() / 2 + 64;
        let scale = (written.min(widest).min(SCALE_MAX) << SCALE_FRACTION_BITS).cast_signed();
        self.scale = self.scale.wrapping_add(scale.wrapping_sub(self.scale) >> FAST_SHIFT);
        let moved = clamped(value.wrapping_sub(self.last)) << FRACTION_BITS;
        self.trend = self.trend.wrapping_add(moved.wrapping_sub(self.trend) >> SLOW_SHIFT);
        let level = clamped(value) << FRACTION_BITS;
        self.level = self.level.wrapping_add(level.wrapping_sub(self.level) >> FAST_SHIFT);
        self.last = value;
    }

    /// A batch ended; `exact` when every prediction of it was.
    pub(super) fn end_batch(&mut self, exact: bool) {
        self.quiet = if exact { self.quiet.saturating_add(1).min(QUIET_BATCHES) } else { 0 };
    }

    /// How this series begins in a keyframe that has `values` of it; `None` when it has none.
    pub(super) fn start(&self, values: &[i64]) -> Option<Start> {
        let value = *values.first()?;
        // A column of which nothing was ever learned tells nothing.
        if *self == Self::default() { Start::of_new(values) } else { Some(self.restart(value)) }
    }

    fn restart(&self, value: i64) -> Start {
        let trend = self.trend.wrapping_add(1 << (FRACTION_BITS - 1)) >> FRACTION_BITS;
        let scale_size = bits_of(self.scale.max(0).cast_unsigned());
        Start { value, predictor: self.predictor(), trend, scale_size }
    }

    /// Writes it for a store.
    pub(super) fn store(&self, bits: &mut BitWriter) {
        let [same, trend, level] = self.misses;
        for number in [self.last, self.level, self.trend, same, trend, level, self.scale] {
            bits.sized(zigzag(number));
        }
        bits.write(u64::from(self.quiet), 2);
    }

    /// What [`Self::store`] wrote.
    pub(super) fn restore(bits: &mut BitReader<'_>) -> Result<Self, CodecError> {
        let mut number = || Ok::<_, CodecError>(unzigzag(bits.sized()?));
        let (last, level, trend) = (number()?, number()?, number()?);
        let misses = [number()?, number()?, number()?];
        let scale = number()?.clamp(0, SCALE_MAX.cast_signed() << SCALE_FRACTION_BITS);
        let quiet = u8::try_from(bits.read(2)?).unwrap_or(0).min(QUIET_BATCHES);
        Ok(Self { last, level, trend, misses, scale, quiet })
    }
}

fn clamped(value: i64) -> i64 {
    value.clamp(-MOVING_MAX, MOVING_MAX)
}

impl Start {
    /// How a series of which nothing but these values is known begins.
    fn of_new(values: &[i64]) -> Option<Self> {
        let (first, last) = (*values.first()?, *values.last()?);
        let count = i64::try_from(values.len()).ok()?;
        let trend = clamped(last.wrapping_sub(first)) / (count - 1).max(1);
        let miss = |by: i64| {
            let off = |pair: &[i64]| {
                let step = pair.last()?.wrapping_sub(*pair.first()?);
                Some(i128::from(step).abs_diff(i128::from(by)))
            };
            values.windows(2).filter_map(off).sum::<u128>()
        };
        let (same, along) = (miss(0), miss(trend));
        let predictor = usize::from(along < same);
        let mean = same.min(along) * 2 * (1 << SCALE_FRACTION_BITS) / (values.len() as u128);
        let mean = u64::try_from(mean).unwrap_or(u64::MAX).min(SCALE_MAX);
        Some(Self { value: first, predictor, trend, scale_size: bits_of(mean) })
    }

    /// The column behind it.
    pub(super) fn column(self) -> Column {
        let scale = ((3_u64 << self.scale_size) >> 2).min(SCALE_MAX << SCALE_FRACTION_BITS);
        let scale = scale.cast_signed();
        let miss = |predictor| if predictor == self.predictor { 0 } else { scale + 16 };
        Column {
            last: self.value,
            level: clamped(self.value) << FRACTION_BITS,
            trend: clamped(self.trend) << FRACTION_BITS,
            misses: [miss(0), miss(1), miss(2)],
            scale,
            quiet: 0,
        }
    }

    pub(super) fn write(self, bits: &mut BitWriter) {
        bits.sized(zigzag(self.value));
        bits.write(self.predictor as u64, 2);
        bits.rare(zigzag(self.trend));
        bits.write(u64::from(self.scale_size), SCALE_SIZE_BITS);
    }

    pub(super) fn read(bits: &mut BitReader<'_>) -> Result<Self, CodecError> {
        let value = unzigzag(bits.sized()?);
        let predictor = match bits.read(2)? {
            0 => 0,
            1 => 1,
            2 => 2,
            _ => return Err(CodecError::Malformed("a predictor that does not exist")),
        };
        let trend = unzigzag(bits.rare()?);
        let scale_size = u32::try_from(bits.read(SCALE_SIZE_BITS)?).unwrap_or(0);
        Ok(Self { value, predictor, trend, scale_size })
    }
}
