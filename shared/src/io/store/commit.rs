//! Committing: a batch becomes durable raw writes, or nothing of it is seen.
//!
//! It refuses what is over a limit and what the disk has no room for, before anything is written.

use super::database::{DatabaseError, RawWrite, Remedy};
use super::sealer::{CHUNK_BYTES, CHUNKS, KEY_BYTES_MAX, Totals, VALUE_BYTES_MAX};
use super::{Refusal, SealedStore, lock};
use crate::ports::{Tree, Write, WriteBatch};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use tracing::warn;

/// All changes of one commit. A whole map update of 4 MiB a few times over.
pub(super) const BATCH_BYTES_MAX: usize = 32 << 20;

/// Commits between two notes of their number beside the store. A note is a page of flash, as much as
/// the commit itself; what a store that comes back shorter may hide is at most this much, and nothing
/// after an orderly end.
pub(super) const NOTED_EVERY_COMMITS: u64 = 16;

impl SealedStore {
    pub(super) fn commit_batch(&mut self, batch: &WriteBatch) -> Result<(), Refusal> {
        let batch_bytes = checked_bytes(batch)?;
        self.check_room(batch_bytes)?;
        self.ensure_open()?;
        // A number is used once, so that finding it on the disk proves its own commit.
        self.commits = self.commits.saturating_add(1);
        let (writes, totals) = self.raw_writes(batch)?;
        let applied = self.open_database().as_ref().ok_or(Refusal::Closed)?.apply(&writes);
        match applied {
            Ok(()) => {}
            Err(error) if matches!(error.remedy(), Remedy::Quarantine | Remedy::NewProcess) => {
                return Err(error.into());
            }
            Err(error) => self.recover(error)?,
        }
        *lock(&self.trees) = totals.trees;
        self.durable_commits = self.commits;
        if self.commits.saturating_sub(self.noted_commits.load(Relaxed)) >= NOTED_EVERY_COMMITS {
            self.note_commits();
        }
        Ok(())
    }

    /// After a failed write sled shows what it has not written and refuses every further write, so it
    /// is opened again. What the disk then holds decides whether the commit happened.
    fn recover(&self, error: DatabaseError) -> Result<(), Refusal> {
        warn!(store = %self.files.folder().display(), error = error.in_words(), "a commit failed");
        self.reopen(&error.in_words())?;
        if self.stored_totals()?.is_none_or(|totals| totals.commits != self.commits) {
            return Err(error.into());
        }
        self.asking(|database| Ok(database.make_durable()?))
    }

    /// Refuses before sled can fail in the middle; takes the ballast back when there is room again.
    fn check_room(&self, batch_bytes: usize) -> Result<(), Refusal> {
        // What can't be asked is tried.
        let free_bytes = self.files.free_bytes().unwrap_or(u64::MAX);
        // Twice, because sled writes whole pages.
        let needed_bytes = self.free_bytes_min.saturating_add(2 * batch_bytes as u64);
        if free_bytes < needed_bytes {
            return Err(Refusal::DiskFull { free_bytes, needed_bytes });
        }
        self.files.hold_ballast(needed_bytes);
        Ok(())
    }

    /// The raw writes, and what there is after them.
    fn raw_writes(&mut self, batch: &WriteBatch) -> Result<(Vec<RawWrite>, Totals), Refusal> {
        let mut last = BTreeMap::new();
        for write in &batch.writes {
            match write {
                Write::Put { tree, key, value } => last.insert((*tree, key), Some(value)),
                Write::Delete { tree, key } => last.insert((*tree, key), None),
            };
        }
        let mut trees = lock(&self.trees).clone();
        let mut writes = Vec::new();
        for ((tree, key), value) in last {
            let raw_key = self.sealer.raw_key(tree, key);
            let before = self.asking(|database| Ok(database.read(tree as u8, &raw_key)?))?;
            let of_tree = trees.entry(tree as u8).or_default();
            before.iter().for_each(|before| of_tree.remove(before));
            writes.extend(self.removals_of_chunks(tree, &raw_key)?);
            match value {
                Some(value) => {
                    let sealed = self.sealer.seal(tree, key, value);
                    // The record itself comes first, its chunks behind it.
                    let record = sealed.first().and_then(|write| write.value.as_deref());
                    record.iter().for_each(|record| of_tree.add(record));
                    writes.extend(sealed);
                }
                None if before.is_none() => {}
                None => writes.push(RawWrite { tree: tree as u8, key: raw_key, value: None }),
            }
            if tree.is_ordered() || value.is_some_and(|value| value.len() > CHUNK_BYTES) {
                self.note_cold_bytes(value.map_or(0, Vec::len));
            }
        }
        let totals = Totals { commits: self.commits, trees };
        writes.push(self.sealer.seal_totals(&totals));
        Ok((writes, totals))
    }

    /// Removes what an earlier value of the record left in the tree of chunks.
    fn removals_of_chunks(&self, tree: Tree, raw_key: &[u8]) -> Result<Vec<RawWrite>, Refusal> {
        let prefix = self.sealer.chunk_prefix(tree, raw_key);
        self.asking(|database| {
            let mut writes = Vec::new();
            database.for_each(CHUNKS, &prefix, 1, |(raw_key, _)| {
                let is_ours = raw_key.starts_with(&prefix);
                if is_ours {
                    writes.push(RawWrite { tree: CHUNKS, key: raw_key.to_vec(), value: None });
                }
                Ok::<_, Refusal>(is_ours)
            })?;
            Ok(writes)
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
