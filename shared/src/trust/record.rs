//! Sealed records: how what lies in the store is encrypted, bound to its place, and its names hidden.
//!
//! Pure: nonces and keys are drawn from a generator that the caller gives. It knows no file and no
//! database, and never says why a seal is broken: that would help only who broke it.
//!
//! A sealed record is `version (1) ‖ key id (4) ‖ nonce (24) ‖ ciphertext ‖ tag (16)`, by
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03); its additional data is `tree ‖ key ‖ version ‖
//! key id`, so that a record moved to another key or tree does not open.

mod keyring;

pub use keyring::{Keyring, KeyringError};

use std::fmt;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes by which a sealed record is longer than what it holds.
pub const SEAL_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

/// Bytes of a hidden name. Two of a store's names meet by chance after about 2^64 of them.
pub const HIDDEN_NAME_BYTES: usize = 16;

const HEADER_BYTES: usize = 5;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// The key that wraps the keys of a store. From a file or the system's credentials, never in the
/// store itself.
#[derive(Clone)]
pub struct WrappingKey(Zeroizing<[u8; 32]>);

impl WrappingKey {
    /// The key of these bytes; any 32 random bytes are one.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey(..)")
    }
}

/// Where a record lies: what its seal binds it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace<'a> {
    /// The tree's number.
    pub tree: u8,
    /// The key as it lies on disk.
    pub key: &'a [u8],
}

/// A record that was changed, moved, or sealed under another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the record's seal is broken")]
pub struct BrokenSeal;

#[cfg(test)]
mod tests;
