//! Kubernetes quantities (`500m`, `2Gi`), parsed to integers with a unit.
//!
//! Source of the grammar: the Kubernetes API reference, "Quantity". Fractions of a byte and amounts
//! that do not fit are refused rather than rounded.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Why a quantity was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// Not a number with a known suffix.
    #[error("`{0}` is not a quantity: expected a number with an optional suffix, as in {1}")]
    Malformed(String, &'static str),
    /// Finer than the unit can say.
    #[error("`{0}` is finer than {1}")]
    TooFine(String, &'static str),
    /// Larger than 2^63.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// An amount of CPU in thousandths of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CpuQuantity {
    /// Thousandths of a core.
    pub millicores: u64,
}

/// An amount of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MemoryQuantity {
    /// Bytes.
    pub bytes: u64,
}

/// Digits of the largest amount, 2^63 - 1; with the largest factor they fit 128 bits.
const DIGITS_MAX: usize = 19;

/// `text` as an integer number of 1/`per_unit`: mantissa digits and a suffix's factor, exactly.
fn scaled(
    text: &str,
    per_unit: u128,
    example: &'static str,
    finest: &'static str,
) -> Result<u64, QuantityError> {
    let shown = || text.chars().take(40).collect::<String>();
    let malformed = || QuantityError::Malformed(shown(), example);
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator) = suffix_factor(suffix).ok_or_else(malformed)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !all_digits || (number.contains('.') && fraction.is_empty()) {
        return Err(malformed());
    }
    if digits.len() > DIGITS_MAX {
        return Err(QuantityError::TooLarge(shown()));
    }
    let mantissa: u128 = digits.parse().map_err(|_| malformed())?;
    let fraction_digits = u32::try_from(fraction.len()).map_err(|_| malformed())?;
    let divisor = denominator * 10_u128.pow(fraction_digits);
    let product = mantissa * numerator * per_unit;
    if !product.is_multiple_of(divisor) {
        return Err(QuantityError::TooFine(shown(), finest));
    }
    i64::try_from(product / divisor)
        .ok()
        .and_then(|amount| u64::try_from(amount).ok())
        .ok_or_else(|| QuantityError::TooLarge(shown()))
}

fn suffix_factor(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "" => (1, 1),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        _ => return None,
    })
}

impl FromStr for CpuQuantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let millicores = scaled(text, 1000, "`500m` or `2`", "a thousandth of a core")?;
        Ok(Self { millicores })
    }
}

impl FromStr for MemoryQuantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bytes = scaled(text, 1, "`512Mi` or `2G`", "a byte")?;
        Ok(Self { bytes })
    }
}

impl fmt::Display for CpuQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millicores.is_multiple_of(1000) {
            write!(f, "{}", self.millicores / 1000)
        } else {
            write!(f, "{}m", self.millicores)
        }
    }
}

impl fmt::Display for MemoryQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffixes = [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
        for (shift, suffix) in suffixes {
            if self.bytes != 0 && self.bytes.trailing_zeros() >= shift {
                return write!(f, "{}{suffix}", self.bytes >> shift);
            }
        }
        write!(f, "{}", self.bytes)
    }
}

/// A quantity in YAML may be written as a string or as a bare integer; on the wire it is an integer
/// in the type's own unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Integer(u64),
    Float(f64),
    Text(String),
}

macro_rules! quantity_serde {
    ($type:ident, $field:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_u64(self.$field)
                }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if !deserializer.is_human_readable() {
                    return Ok(Self { $field: u64::deserialize(deserializer)? });
                }
                let text = match Written::deserialize(deserializer)? {
                    Written::Integer(number) => number.to_string(),
                    Written::Float(number) => number.to_string(),
                    Written::Text(text) => text,
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

quantity_serde!(CpuQuantity, millicores);
quantity_serde!(MemoryQuantity, bytes);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_parse_as_kubernetes_writes_them() {
        assert_eq!("500m".parse::<CpuQuantity>().unwrap().millicores, 500);
        assert_eq!("1.5".parse::<CpuQuantity>().unwrap().millicores, 1500);
        assert_eq!("2Gi".parse::<MemoryQuantity>().unwrap().bytes, 2 << 30);
        assert_eq!("1.5Gi".parse::<MemoryQuantity>().unwrap().bytes, 3 << 29);
        assert_eq!("1G".parse::<MemoryQuantity>().unwrap().bytes, 1_000_000_000);
    }

    #[test]
    fn nonsense_is_refused_with_words() {
        for text in ["", "Gi", "-1", "1e3", "1.", "1 Gi", "0x10", "1GiB", "NaN", ".", "1.2.3"] {
            assert!(text.parse::<MemoryQuantity>().is_err(), "`{text}` was accepted");
        }
        assert!(matches!("1m".parse::<MemoryQuantity>(), Err(QuantityError::TooFine(..))));
        assert!(matches!("0.0001".parse::<CpuQuantity>(), Err(QuantityError::TooFine(..))));
        assert!(matches!("99999999Ti".parse::<MemoryQuantity>(), Err(QuantityError::TooLarge(_))));
    }

    /// Found by fuzzing: amounts of 19 digits were printed and then refused.
    #[test]
    fn the_largest_amount_is_read_as_it_is_printed() {
        let memory = MemoryQuantity { bytes: u64::MAX >> 1 };
        assert_eq!(memory.to_string().parse::<MemoryQuantity>(), Ok(memory));
        let cpu = CpuQuantity { millicores: u64::MAX >> 1 };
        assert_eq!(cpu.to_string().parse::<CpuQuantity>(), Ok(cpu));
        assert!("9223372036854775808".parse::<MemoryQuantity>().is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same_amount(amount in 0_u64..=(u64::MAX >> 1)) {
            let memory = MemoryQuantity { bytes: amount };
            prop_assert_eq!(memory.to_string().parse::<MemoryQuantity>().unwrap(), memory);
            let cpu = CpuQuantity { millicores: amount };
            prop_assert_eq!(cpu.to_string().parse::<CpuQuantity>().unwrap(), cpu);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<MemoryQuantity>();
            let _ = text.parse::<CpuQuantity>();
        }
    }
}
