//! The two forms in which a 32-byte public key is written: hexadecimal for people (JSON, command
//! line), bytes for the wire and the store. And the generators behind every key that is made here.
//!
//! Knows nothing of what a key is for; whether the bytes are a good key is checked by its type.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};
use std::fmt;
use thiserror::Error;

/// Bytes of a Curve25519 or Ed25519 key, public or private.
pub(super) const KEY_BYTES: usize = 32;

/// Text that is not a key in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a key: expected {} hexadecimal digits", 2 * KEY_BYTES)]
pub struct NotAKey;

/// What a generator is for. Each purpose draws from a stream of its own, so that one seed that is
/// used twice by mistake still makes unrelated keys.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    SessionKey = 1,
    SigningKey = 2,
    Initiator = 3,
    Responder = 4,
}

pub(super) fn seeded(seed: [u8; 32], purpose: Purpose) -> ChaCha20Rng {
    let mut generator = ChaCha20Rng::from_seed(seed);
    generator.set_stream(purpose as u64);
    generator
}

pub(super) fn write_hex(key: &[u8; KEY_BYTES], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    key.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

pub(super) fn parse_hex(text: &str) -> Result<[u8; KEY_BYTES], NotAKey> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(NotAKey)
}

pub(super) fn serialize<S: Serializer>(
    key: &[u8; KEY_BYTES],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    struct Hex<'a>(&'a [u8; KEY_BYTES]);
    impl fmt::Display for Hex<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write_hex(self.0, f)
        }
    }
    if serializer.is_human_readable() {
        serializer.collect_str(&Hex(key))
    } else {
        serializer.serialize_bytes(key)
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<[u8; KEY_BYTES], D::Error> {
    if deserializer.is_human_readable() {
        deserializer.deserialize_str(KeyVisitor)
    } else {
        deserializer.deserialize_bytes(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = [u8; KEY_BYTES];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a key of {KEY_BYTES} bytes ({} hexadecimal digits)", 2 * KEY_BYTES)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        parse_hex(text).map_err(E::custom)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::RngCore;

    #[test]
    fn only_64_hexadecimal_digits_are_a_key() {
        assert_eq!(parse_hex(&"0aF9".repeat(16)).unwrap()[..2], [0x0a, 0xf9]);
        for text in ["", "0a", &"+f".repeat(32), &"0a".repeat(33), &"é".repeat(32), &"0".repeat(63)]
        {
            assert_eq!(parse_hex(text), Err(NotAKey), "`{text}` was accepted");
        }
    }

    #[test]
    fn one_seed_makes_unrelated_streams_for_each_purpose() {
        let first = |purpose| seeded([7; 32], purpose).next_u64();
        let mut drawn = vec![
            first(Purpose::SessionKey),
            first(Purpose::SigningKey),
            first(Purpose::Initiator),
            first(Purpose::Responder),
        ];
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 4);
    }
}
