//! Bits, the first of a byte being its highest. Reading ends with an error at the end of the bytes,
//! whatever was asked for; nothing is allocated for what is not there.

use super::CodecError;

/// A quotient of a Rice code up to this is so many ones; what is beyond grows with its logarithm, for
/// what is measured has long tails: a value that breaks with all that was seen costs about twice its
/// own bits, not millions.
const RICE_QUOTIENT_MAX: u64 = 4;

/// Bits that say how many bits a number has: 0 to 64.
const SIZE_BITS: u32 = 7;

/// Bits of a number that is not 0; 0 for 0.
pub(super) fn bits_of(value: u64) -> u32 {
    u64::BITS - value.leading_zeros()
}

fn mask(bits: u32) -> u64 {
    u64::MAX.checked_shr(u64::BITS - bits.min(u64::BITS)).unwrap_or(0)
}

/// Small for values near 0 of either sign: 0, -1, 1, -2, … become 0, 1, 2, 3, …
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// What [`zigzag`] made it from.
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Bits in the making.
#[derive(Debug, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// The bits that do not fill a byte yet, the last one lowest.
    pending: u64,
    pending_bits: u32,
}

impl BitWriter {
    /// A writer behind these bytes.
    pub(super) fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// The lowest `bits` of `value`, at most 64.
    pub(super) fn write(&mut self, value: u64, bits: u32) {
        if bits > 32 {
            self.write(value >> 32, bits - 32);
            return self.write(value, 32);
        }
        self.pending = (self.pending << bits) | (value & mask(bits));
        self.pending_bits += bits;
        while self.pending_bits >= 8 {
            self.pending_bits -= 8;
            let [.., byte] = (self.pending >> self.pending_bits).to_be_bytes();
            self.bytes.push(byte);
        }
        self.pending &= mask(self.pending_bits);
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.write(u64::from(flag), 1);
    }

    /// A number of any size: how many bits it has, and then those.
    pub(super) fn sized(&mut self, value: u64) {
        let bits = bits_of(value);
        self.write(u64::from(bits), SIZE_BITS);
        self.write(value, bits);
    }

    /// A number that is mostly 0.
    pub(super) fn rare(&mut self, value: u64) {
        self.flag(value != 0);
        if value != 0 {
            self.sized(value);
        }
    }

    /// A Rice code with a tail: `value >> low_bits` in ones with a zero behind, then the low bits as
    /// they are. Where that would be more than [`RICE_QUOTIENT_MAX`] ones, as many more of them as
    /// the rest of the quotient has bits behind its first, and then those.
    pub(super) fn rice(&mut self, value: u64, low_bits: u32) {
        let quotient = value.checked_shr(low_bits).unwrap_or(0);
        let rest = quotient.saturating_sub(RICE_QUOTIENT_MAX - 1);
        let rest_bits = bits_of(rest).saturating_sub(1);
        let ones = quotient.min(RICE_QUOTIENT_MAX) + u64::from(rest_bits);
        (0..ones).for_each(|_| self.flag(true));
        self.flag(false);
        self.write(rest, rest_bits);
        self.write(value, low_bits);
    }

    /// The bytes, the last filled up with zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.write(0, (8 - self.pending_bits) % 8);
        self.bytes
    }
}

/// Bits that somebody wrote.
#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: std::slice::Iter<'a, u8>,
    pending: u64,
    pending_bits: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.iter(), pending: 0, pending_bits: 0 }
    }

    /// The next `bits`, at most 64.
    pub(super) fn read(&mut self, bits: u32) -> Result<u64, CodecError> {
        if bits > 32 {
            let high = self.read(bits - 32)?;
            return Ok((high << 32) | self.read(32)?);
        }
        while self.pending_bits < bits {
            let byte = self.bytes.next().ok_or(CodecError::Malformed("it ends too early"))?;
            self.pending = (self.pending << 8) | u64::from(*byte);
            self.pending_bits += 8;
        }
        self.pending_bits -= bits;
        let value = (self.pending >> self.pending_bits) & mask(bits);
        self.pending &= mask(self.pending_bits);
        Ok(value)
    }

    pub(super) fn flag(&mut self) -> Result<bool, CodecError> {
        Ok(self.read(1)? == 1)
    }

    pub(super) fn sized(&mut self) -> Result<u64, CodecError> {
        let bits = self.read(SIZE_BITS)?;
        let bits = u32::try_from(bits).ok().filter(|bits| *bits <= u64::BITS);
        self.read(bits.ok_or(CodecError::Malformed("a number of more than 64 bits"))?)
    }

    pub(super) fn rare(&mut self) -> Result<u64, CodecError> {
        if self.flag()? { self.sized() } else { Ok(0) }
    }

    pub(super) fn rice(&mut self, low_bits: u32) -> Result<u64, CodecError> {
        let mut quotient: u64 = 0;
        while self.flag()? {
            quotient += 1;
            if quotient >= RICE_QUOTIENT_MAX + u64::from(u64::BITS) {
                return Err(CodecError::Malformed("a number of more than 64 bits"));
            }
        }
        if let Some(rest_bits) = quotient.checked_sub(RICE_QUOTIENT_MAX) {
            let rest_bits = u32::try_from(rest_bits).unwrap_or(u32::MAX);
            let rest = (1 << rest_bits) | self.read(rest_bits)?;
            quotient = rest.saturating_add(RICE_QUOTIENT_MAX - 1);
        }
        let high = quotient << low_bits;
        if high >> low_bits != quotient {
            return Err(CodecError::Malformed("a number of more than 64 bits"));
        }
        Ok(high | self.read(low_bits)?)
    }

    /// Bits that are left, to compare a claim with.
    pub(super) fn remaining_bits(&self) -> usize {
        self.bytes.len() * 8 + self.pending_bits as usize
    }

    /// Nothing but the zeros that fill the last byte may be left.
    pub(super) fn finish(self) -> Result<(), CodecError> {
        let is_end = self.bytes.len() == 0 && self.pending_bits < 8 && self.pending == 0;
        if is_end { Ok(()) } else { Err(CodecError::Malformed("something follows its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_far_above_and_far_below_its_width_is_read_as_it_was_written() {
        let small = (0..100).flat_map(|value| [(value, 0), (value, 1), (value, 9)]);
        let large = [(1 << 40, 3), (u64::MAX - 1, 0), (u64::MAX, 1), (u64::MAX, 55), (5, 63)];
        for (value, low_bits) in small.chain(large) {
            let mut writer = BitWriter::default();
            writer.rice(value, low_bits);
            let bytes = writer.finish();
            assert_eq!(BitReader::new(&bytes).rice(low_bits).unwrap(), value);
        }
    }

    #[test]
    fn what_follows_the_end_is_refused() {
        let reader = BitReader::new(&[0]);
        assert!(reader.finish().is_err());
        let mut reader = BitReader::new(&[0b1000_0001]);
        reader.flag().unwrap();
        assert!(reader.finish().is_err());
    }

    proptest! {
        #[test]
        fn numbers_of_every_size_are_read_as_they_were_written(
            numbers in proptest::collection::vec((any::<u64>(), 0..=64_u32), 0..50),
        ) {
            let mut writer = BitWriter::default();
            for (value, bits) in &numbers {
                writer.write(*value, *bits);
                writer.sized(*value & mask(*bits));
                writer.rare(zigzag(unzigzag(*value)));
            }
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            for (value, bits) in numbers {
                prop_assert_eq!(reader.read(bits).unwrap(), value & mask(bits));
                prop_assert_eq!(reader.sized().unwrap(), value & mask(bits));
                prop_assert_eq!(reader.rare().unwrap(), value);
            }
            reader.finish().unwrap();
        }
    }
}
