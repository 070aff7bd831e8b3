//! What names a content: the whole digest, and the beginning of one.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// SHA-256 over a value or a whole map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a map, from the digests of its values in the order of their keys: SHA-256 over
    /// each key's length (u32, little endian), the key and the value's digest.
    pub fn of_map<'a>(items: impl Iterator<Item = (&'a str, Self)>) -> Self {
        let mut hash = Sha256::new();
        for (key, value) in items {
            // Keys are bounded by MAP_KEY_BYTES_MAX; a longer one can't be told apart only past 4 GiB.
            hash.update(u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
            hash.update(key.as_bytes());
            hash.update(value.0);
        }
        Self(hash.finalize().into())
    }
}

/// The first bytes of a [`Digest`], for what only has to be noticed: what depends on it is checked
/// against a whole one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortDigest([u8; SHORT_DIGEST_BYTES]);

const SHORT_DIGEST_BYTES: usize = 8;

impl From<Digest> for ShortDigest {
    fn from(Digest(whole): Digest) -> Self {
        let mut short = [0; SHORT_DIGEST_BYTES];
        short.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
        Self(short)
    }
}

impl fmt::Debug for ShortDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for ShortDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for ShortDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        digest_bytes(deserializer).map(Self)
    }
}

fn digest_bytes<'de, D: serde::Deserializer<'de>, const BYTES: usize>(
    deserializer: D,
) -> Result<[u8; BYTES], D::Error> {
    let bytes = ByteBuf::deserialize(deserializer)?;
    <[u8; BYTES]>::try_from(bytes.as_slice())
        .map_err(|_| serde::de::Error::custom(format_args!("expected a digest of {BYTES} bytes")))
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Digest {
    /// The first 8 bytes in hexadecimal: enough to compare by eye.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&ShortDigest::from(*self), f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        digest_bytes(deserializer).map(Self)
    }
}
