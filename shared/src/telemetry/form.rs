//! Values as integers: in units of a declared resolution, as decimal fractions, or bit for bit.
//!
//! A declared resolution rounds; the other forms lose nothing. Reading back what was rounded and
//! rounding it again gives the same integer, so a batch can be decoded and encoded any number of
//! times.

use super::schema::Resolution;

/// An integer beyond ±2^48 is not written in units of a declared resolution: near 2^53 the division
/// by a resolution such as 1/100 would no longer give it back.
const UNITS_MAX: f64 = 281_474_976_710_656.0;

/// Integers up to 2^53 are exact in a 64-bit float.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Digits behind the point that are looked for: nanoseconds have 9.
const DIGITS_MAX: u8 = 9;

/// How the values of one series are made integers. Its number is part of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// In units of the resolution that the schema declares.
    Declared(Resolution),
    /// With so many digits behind the point, and exact so.
    Decimal(u8),
    /// All 64 bits, in the order of the numbers.
    Bits,
}

impl Form {
    /// The form of a series as long as nothing speaks against it.
    pub(super) fn usual(declared: Option<Resolution>) -> Self {
        declared.map_or(Self::Decimal(0), Self::Declared)
    }

    /// Its number: 0 declared, 1 to 10 decimal, 11 bits.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Declared(_) => 0,
            Self::Decimal(digits) => digits.saturating_add(1),
            Self::Bits => DIGITS_MAX + 2,
        }
    }

    /// The form of a number; `None` when there is none, or nothing is declared.
    pub(super) fn of_number(number: u64, declared: Option<Resolution>) -> Option<Self> {
        match u8::try_from(number).ok()? {
            0 => declared.map(Self::Declared),
            decimal if decimal <= DIGITS_MAX + 1 => Some(Self::Decimal(decimal - 1)),
            bits if bits == DIGITS_MAX + 2 => Some(Self::Bits),
            _ => None,
        }
    }

    /// The first form from this one on that can say every one of `values`.
    pub(super) fn fitting(mut self, values: impl IntoIterator<Item = f64>) -> Self {
        for value in values {
            while self.integer(value).is_none() {
                self = match self {
                    Self::Decimal(digits) if digits < DIGITS_MAX => Self::Decimal(digits + 1),
                    _ => Self::Bits,
                };
            }
        }
        self
    }

    /// A finite value as an integer; `None` when this form can't say it.
    pub(super) fn integer(self, value: f64) -> Option<i64> {
        match self {
            Self::Declared(resolution) => {
                let units =
                    (value * f64::from(resolution.per) / f64::from(resolution.step)).round();
                (units.abs() <= UNITS_MAX).then(|| truncated(units))
            }
            Self::Decimal(digits) => {
                let scaled = (value * power_of_ten(digits)).round();
                let integer = (scaled.abs() <= EXACT_MAX).then(|| truncated(scaled))?;
                let is_exact = self.value(integer).to_bits() == value.to_bits();
                is_exact.then_some(integer)
            }
            Self::Bits => Some(ordered(value.to_bits().cast_signed())),
        }
    }

    /// The value of an integer. Whatever the integer, it is a number or not, but no panic.
    pub(super) fn value(self, integer: i64) -> f64 {
        match self {
            Self::Declared(resolution) => {
                widened(integer) * f64::from(resolution.step) / f64::from(resolution.per)
            }
            Self::Decimal(digits) => widened(integer) / power_of_ten(digits),
            Self::Bits => f64::from_bits(ordered(integer).cast_unsigned()),
        }
    }
}

fn power_of_ten(digits: u8) -> f64 {
    const POWERS: [f64; DIGITS_MAX as usize + 1] =
        [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
    POWERS.get(usize::from(digits)).copied().unwrap_or_else(|| 10_f64.powi(i32::from(digits)))
}

/// The bits of negative floats count backwards; applied twice it changes nothing.
fn ordered(bits: i64) -> i64 {
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

#[allow(clippy::cast_possible_truncation, reason = "a whole number of at most 2^53")]
fn truncated(whole: f64) -> i64 {
    whole as i64
}

#[allow(clippy::cast_precision_loss, reason = "beyond 2^53 only in records that nobody wrote")]
fn widened(integer: i64) -> f64 {
    integer as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::schema;
    use proptest::prelude::*;

    fn declared(name: &str) -> Form {
        Form::usual(schema::resolution(name))
    }

    #[test]
    fn a_declared_series_is_rounded_to_its_resolution() {
        let form = declared("node_cpu_seconds_total");
        assert_eq!(form.integer(12.344), Some(1234));
        assert_eq!(form.value(1234), 12.34);
        assert_eq!(form.integer(1e300), None);
        assert_eq!(form.fitting([1.0, 1e300]), Form::Bits);
    }

    #[test]
    fn an_undeclared_series_has_the_fewest_digits_that_lose_nothing() {
        let form = declared("something_else");
        assert_eq!(form.fitting([1.0, -5.0]), Form::Decimal(0));
        assert_eq!(form.fitting([1.0, 0.25, 3.1]), Form::Decimal(2));
        assert_eq!(form.fitting([1.0, 1.0 / 3.0]), Form::Bits);
        assert_eq!(form.fitting([-0.0]), Form::Bits);
    }

    #[test]
    fn every_number_of_a_form_is_its_own() {
        for form in (0..=DIGITS_MAX).map(Form::Decimal).chain([Form::Bits]) {
            assert_eq!(Form::of_number(u64::from(form.number()), None), Some(form));
        }
        assert_eq!(Form::of_number(0, None), None);
        assert_eq!(Form::of_number(12, None), None);
    }

    proptest! {
        #[test]
        fn what_was_rounded_once_is_not_rounded_again(value in -1e16..1e16_f64, at in any::<usize>()) {
            let all = schema::metrics();
            let form = Form::Declared(all[at % all.len()].resolution).fitting([value]);
            let integer = form.integer(value).unwrap();
            prop_assert_eq!(form.integer(form.value(integer)), Some(integer));
        }

        #[test]
        fn nothing_is_lost_of_what_is_not_declared(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let form = Form::Decimal(0).fitting([value]);
            let back = form.value(form.integer(value).unwrap());
            prop_assert_eq!(back.to_bits(), value.to_bits());
        }

        #[test]
        fn the_order_of_numbers_is_the_order_of_their_bits(one in any::<f64>(), two in any::<f64>()) {
            prop_assume!(one < two);
            prop_assert!(Form::Bits.integer(one) < Form::Bits.integer(two));
        }
    }
}
