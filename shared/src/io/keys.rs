//! Secrets in files: written whole or not at all, read only where nobody else can read them.
//!
//! It refuses a secret whose file others may read, and never logs what it read.

use crate::trust::record::WrappingKey;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

/// Why a secret could not be read or written.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file system said no.
    #[error("could not {attempted} {path}")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Replaces the file `path` by `bytes`, with mode 0600.
///
/// # Errors
/// When the file can't be written.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let _ = bytes;
    Err(unwritten(path))
}

/// The bytes of the secret in `path`.
///
/// # Errors
/// When it can't be read, others may read it, or it is too large.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    Err(unwritten(path))
}

/// Makes a store's wrapping key of fresh entropy and writes it to `path`.
///
/// # Errors
/// When the file can't be written.
pub fn create_store_key(path: &Path) -> Result<(), KeyError> {
    Err(unwritten(path))
}

/// The store's wrapping key: `$CREDENTIALS_DIRECTORY/hinterland-store-key` if there is one, else `path`.
///
/// # Errors
/// When it can't be read, or is not a key.
pub fn load_store_key(path: &Path) -> Result<WrappingKey, KeyError> {
    Err(unwritten(path))
}

/// 32 bytes of the system's entropy.
#[must_use]
pub fn fresh_seed() -> [u8; 32] {
    use rand_core::RngCore;
    let mut seed = [0; 32];
    rand_core::OsRng.fill_bytes(&mut seed);
    seed
}

fn unwritten(path: &Path) -> KeyError {
    let source = io::Error::from(io::ErrorKind::Unsupported);
    KeyError::Io { attempted: "use", path: path.to_owned(), source }
}
