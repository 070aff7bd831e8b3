//! Committing: a batch becomes durable raw writes, or nothing of it is seen.
//!
//! It refuses what is over a limit and what the disk has no room for, before anything is written.

use super::database::{CountChanges, DatabaseError, RawWrite, Remedy};
use super::sealer::{CHUNKS, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::{OpenError, Refusal, SealedStore, lock, opening};
use crate::ports::{Tree, Write, WriteBatch};
use std::collections::BTreeMap;
use tracing::warn;

/// All changes of one commit. A whole map update of 4 MiB a few times over.
pub(super) const BATCH_BYTES_MAX: usize = 32 << 20;

impl SealedStore {
    pub(super) fn commit_batch(&mut self, batch: &WriteBatch) -> Result<(), Refusal> {
        let batch_bytes = checked_bytes(batch)?;
        if let Some(reason) = self.broken.get() {
            return Err(Refusal::Broken(reason.clone()));
        }
        self.check_room(batch_bytes)?;
        if self.database.is_none() {
            self.reopen()?;
        }
        let number = self.commits.saturating_add(1);
        let writes = self.raw_writes(batch, number)?;
        match self.database()?.apply(&writes) {
            Ok(changes) => self.committed(number, &changes),
            Err(error) if matches!(error.remedy(), Remedy::Quarantine | Remedy::NewProcess) => {
                return Err(error.into());
            }
            Err(error) => self.recover(number, error)?,
        }
        Ok(())
    }

    fn committed(&mut self, number: u64, changes: &CountChanges) {
        self.commits = number;
        self.lock.note(self.sealer.keyring_id(), number);
        let mut counts = lock(&self.counts);
        for (tree, change) in changes {
            if let Some(count) = counts.get_mut(tree) {
                *count = count.saturating_add_signed(*change);
            }
        }
    }

    /// After a failed write sled shows what it has not written and refuses every further write, so it
    /// is opened again. What the disk then holds decides whether the commit happened.
    fn recover(&mut self, number: u64, error: DatabaseError) -> Result<(), Refusal> {
        warn!(store = %self.files.folder().display(), error = error.in_words(), "a commit failed");
        self.database = None;
        lock(&self.counts).clear();
        self.reopen()?;
        if self.stored_commits() != Some(number) {
            return Err(error.into());
        }
        self.database()?.make_durable()?;
        self.commits = number;
        self.lock.note(self.sealer.keyring_id(), number);
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), Refusal> {
        match opening::reopen(&self.files, self.open_deadline) {
            Ok(database) => self.database = Some(database),
            Err(error) => {
                if let OpenError::Restart { reason } = &error {
                    let _ = self.broken.set(reason.clone());
                }
                return Err(Refusal::Reopen(error));
            }
        }
        self.has_ballast = false;
        Ok(())
    }

    /// Refuses before sled can fail in the middle; takes the ballast back when there is room again.
    fn check_room(&mut self, batch_bytes: usize) -> Result<(), Refusal> {
        // What can't be asked is tried.
        let free_bytes = self.files.free_bytes().unwrap_or(u64::MAX);
        // Twice, because sled writes whole pages.
        let needed_bytes = self.free_bytes_min.saturating_add(2 * batch_bytes as u64);
        if free_bytes < needed_bytes {
            return Err(Refusal::DiskFull { free_bytes, needed_bytes });
        }
        if !self.has_ballast {
            self.has_ballast = self.files.hold_ballast(needed_bytes);
        }
        Ok(())
    }

    fn raw_writes(&mut self, batch: &WriteBatch, number: u64) -> Result<Vec<RawWrite>, Refusal> {
        let mut last = BTreeMap::new();
        for write in &batch.writes {
            match write {
                Write::Put { tree, key, value } => last.insert((*tree, key), Some(value)),
                Write::Delete { tree, key } => last.insert((*tree, key), None),
            };
        }
        let mut writes = Vec::new();
        for ((tree, key), value) in last {
            self.remove_chunks(tree, key, &mut writes)?;
            match value {
                Some(value) => writes.extend(self.sealer.seal(tree, key, value)),
                None => {
                    let key = self.sealer.raw_key(tree, key);
                    writes.push(RawWrite { tree: tree as u8, key, value: None });
                }
            }
        }
        writes.push(self.sealer.seal_commits(number));
        Ok(writes)
    }

    /// Removes what an earlier value of the record left in the tree of chunks.
    fn remove_chunks(
        &self,
        tree: Tree,
        key: &[u8],
        writes: &mut Vec<RawWrite>,
    ) -> Result<(), Refusal> {
        let prefix = self.sealer.chunk_prefix(tree, &self.sealer.raw_key(tree, key));
        self.database()?.for_each(CHUNKS, &prefix, 1, |(raw_key, _)| {
            let is_ours = raw_key.starts_with(&prefix);
            if is_ours {
                writes.push(RawWrite { tree: CHUNKS, key: raw_key.to_vec(), value: None });
            }
            Ok::<_, Refusal>(is_ours)
        })
    }
}

fn checked_bytes(batch: &WriteBatch) -> Result<usize, Refusal> {
    let mut bytes: usize = 0;
    for write in &batch.writes {
        let (key, value) = match write {
            Write::Put { key, value, .. } => (key.len(), value.len()),
            Write::Delete { key, .. } => (key.len(), 0),
        };
        if key > KEY_BYTES_MAX {
            return Err(Refusal::KeyTooLong(key));
        }
        if value > VALUE_BYTES_MAX {
            return Err(Refusal::ValueTooLarge(value));
        }
        bytes = bytes.saturating_add(key).saturating_add(value);
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(Refusal::BatchTooLarge(bytes));
    }
    Ok(bytes)
}
