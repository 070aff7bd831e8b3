//! Sealed records: how what lies in the store is encrypted, bound to its place, and its names hidden.
//!
//! Pure: nonces and keys are drawn from a generator that the caller gives. It knows no file and no
//! database.

use std::fmt;
use zeroize::Zeroizing;

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
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = &self.0;
        f.write_str("WrappingKey(..)")
    }
}
