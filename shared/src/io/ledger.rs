//! The ledger: a small file beside the store with what must outlive the loss of the store.

use crate::model::UnixMs;
use crate::wire::Version;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What the ledger holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerState {
    /// The incarnation that began last.
    pub incarnation: u64,
    /// The greatest version of desired state that was accepted.
    pub accepted: Version,
    /// A time that is surely past.
    pub time_floor: UnixMs,
}

/// Why the ledger could not be read or written.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The file system said no.
    #[error("could not {attempted} the ledger {path}")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// The ledger, open.
#[derive(Debug)]
pub struct Ledger {
    state: LedgerState,
}

impl Ledger {
    /// Opens the ledger, or makes it.
    ///
    /// # Errors
    /// When the file can't be read or made.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let source = io::Error::from(io::ErrorKind::Unsupported);
        Err(LedgerError::Io { attempted: "open", path: path.to_owned(), source })
    }

    /// What it holds.
    #[must_use]
    pub fn state(&self) -> LedgerState {
        self.state
    }

    /// Whether a part of the file was unreadable when it was opened.
    #[must_use]
    pub fn was_damaged(&self) -> bool {
        false
    }

    /// Begins an incarnation: the greater of the last one's successor and `at_least`. Durable when
    /// it returns.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn begin_incarnation(&mut self, at_least: u64) -> Result<u64, LedgerError> {
        Ok(at_least)
    }

    /// Notes an accepted version; a lower one than noted changes nothing.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn note_accepted(&mut self, version: Version) -> Result<(), LedgerError> {
        self.state.accepted = self.state.accepted.max(version);
        Ok(())
    }

    /// Notes a time that is surely past; an earlier one than noted changes nothing.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn note_time(&mut self, floor: UnixMs) -> Result<(), LedgerError> {
        self.state.time_floor = self.state.time_floor.max(floor);
        Ok(())
    }
}
