//! Access to the database of an open store, which may have to be opened again underneath:
//! - after a write that failed for want of room, because sled then refuses every later one. Reads write
//!   too (sled joins a page's fragments when it reads it), so this can meet a read;
//! - after [`COLD_BYTES_MAX`] went through it, because sled's cache does not keep its limit: it looks
//!   at a page's age only after 64 accesses in one of 256 shards, and a backlog of 50 MiB that is read
//!   once stays in memory whole. An open costs about 30 ms at 50 MiB.
//!
//! It decides nothing about records.

use super::database::{Database, Remedy};
use super::{OpenError, Refusal, SealedStore, opening};
use crate::ports::StoreError;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{PoisonError, RwLockReadGuard};
use tracing::{debug, warn};

/// Bytes of large trees that pass through sled's cache before it is emptied: the agent's whole budget is
/// 10 MiB.
pub(super) const COLD_BYTES_MAX: u64 = 2 << 20;

impl SealedStore {
    /// Asks the database; once more on a fresh one if there was no room for what a read writes.
    pub(super) fn asking<T>(
        &self,
        ask: impl Fn(&Database) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.ensure_open()?;
        // A statement of its own: the guard must be gone before the database is opened again.
        let answer = ask(self.open_database().as_ref().ok_or(Refusal::Closed)?);
        match answer {
            Err(Refusal::Database(error)) if error.remedy() == Remedy::Room => {
                self.files.release_ballast();
                self.reopen(&error.in_words())?;
                ask(self.open_database().as_ref().ok_or(Refusal::Closed)?)
            }
            result => result,
        }
    }

    /// Opens what is closed, and empties a cache that grew too large.
    pub(super) fn ensure_open(&self) -> Result<(), Refusal> {
        if let Some(reason) = self.broken.get() {
            return Err(Refusal::Broken(reason.clone()));
        }
        if self.open_database().is_none() {
            return self.reopen("it was closed");
        }
        let is_large = self.cold_bytes.load(Relaxed) > self.cold_bytes_max;
        // An open writes a snapshot: not while that could fail.
        if is_large && self.files.free_bytes().is_ok_and(|free| free > self.free_bytes_min) {
            return self.reopen("its cache is full");
        }
        Ok(())
    }

    /// Closes the database and opens it again: it holds what is on the disk and nothing else.
    pub(super) fn reopen(&self, why: &str) -> Result<(), Refusal> {
        debug!(store = %self.files.folder().display(), why, "opening the store again");
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = None;
        self.cold_bytes.store(0, Relaxed);
        match opening::reopen(&self.files, self.open_deadline) {
            Ok(opened) => *database = Some(opened),
            Err(error) => {
                if let OpenError::Restart { reason } = &error {
                    let _ = self.broken.set(reason.clone());
                }
                return Err(Refusal::Reopen(error));
            }
        }
        Ok(())
    }

    /// Notes bytes of a large tree that passed through the cache.
    pub(super) fn note_cold_bytes(&self, bytes: usize) {
        self.cold_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn open_database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what an error means for the store as a whole, and makes it the caller's.
    pub(super) fn failed(&self, attempted: &'static str, refusal: Refusal) -> StoreError {
        if let Refusal::Database(error) = &refusal
            && matches!(error.remedy(), Remedy::Quarantine | Remedy::NewProcess)
        {
            let reason = error.in_words();
            warn!(store = %self.files.folder().display(), reason, "the store is damaged");
            self.files.suspect(&reason);
            let _ = self.broken.set(reason);
        }
        StoreError { attempted, source: Box::new(refusal) }
    }
}
