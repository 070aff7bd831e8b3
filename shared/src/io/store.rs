//! The sealed store: sled, wrapped so that it survives power cuts, damage and a full disk, with every
//! record encrypted.

use crate::ports::{KeyValue, Store, StoreError, Tree, WriteBatch};
use crate::trust::record::WrappingKey;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// How to open a store.
#[derive(Debug)]
pub struct StoreOptions {
    /// Its folder; files beside it begin with the same name.
    pub folder: PathBuf,
    /// The key that wraps its keys.
    pub key: WrappingKey,
    /// How long an open may take before it counts as hung.
    pub open_deadline: Duration,
}

/// What an open found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// There was none.
    Created,
    /// There was one, and it opened.
    Existing,
    /// There was one that can't be used: it was put aside, and a new one was made.
    Quarantined {
        /// Where it lies now.
        folder: PathBuf,
        /// Why, in words.
        reason: String,
    },
}

/// Why a store did not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store {folder} is open in another process")]
    Locked {
        /// Which store.
        folder: PathBuf,
    },
    /// The key is not the one that the store was made with.
    #[error("the store {folder} was made with another key; nothing was changed")]
    Key {
        /// Which store.
        folder: PathBuf,
    },
    /// The open panicked or hung: this process must execute itself anew, and the next open
    /// quarantines if need be.
    #[error("opening the store failed in a way that needs a new process: {reason}")]
    Restart {
        /// Why, in words.
        reason: String,
    },
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

/// The store.
#[derive(Debug)]
pub struct SealedStore {}

impl SealedStore {
    /// Opens the store, or makes it.
    ///
    /// # Errors
    /// [`OpenError`]; the store is as it was.
    pub fn open(options: StoreOptions) -> Result<(Self, Opening), OpenError> {
        let source = io::Error::from(io::ErrorKind::Unsupported);
        Err(OpenError::Io { attempted: "open", path: options.folder, source })
    }

    /// Bytes on disk.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        0
    }

    /// Records in `tree`. Reads the whole tree the first time.
    #[must_use]
    pub fn record_count(&self, tree: Tree) -> u64 {
        let _ = tree;
        0
    }

    /// Whether the store was found damaged while it was open: this process must execute itself anew,
    /// and the next open quarantines.
    #[must_use]
    pub fn must_restart(&self) -> bool {
        false
    }
}

impl Store for SealedStore {
    fn read(&self, _: Tree, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: Tree, _: &[u8], _: usize) -> Result<Vec<KeyValue>, StoreError> {
        Ok(Vec::new())
    }

    fn commit(&mut self, _: &WriteBatch) -> Result<(), StoreError> {
        Ok(())
    }

    fn damaged_records(&self) -> u64 {
        0
    }
}

/// The child process that tries an open. `main` calls it first, with all of the process's arguments
/// (the program's name included), and exits with the code if there is one.
#[must_use]
pub fn probe_if_asked(args: &[OsString]) -> Option<u8> {
    let _ = args;
    None
}
