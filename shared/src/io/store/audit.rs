//! The audit: how many commits and records there must be, against what there is.
//!
//! sled can lose pages of a damaged file without a word, or bring earlier ones back; so each commit
//! writes, in its own transaction, how many records every tree then has, and the sum of their marks.
//! Small trees are compared at each open, all by [`SealedStore::verify`]. What is missing or another
//! counts as damaged. It repairs nothing.

use super::sealer::{OWN, Totals, TreeTotals};
use super::{EAGER_TREES, Refusal, SealedStore, lock};
use crate::ports::{StoreError, Tree};
use std::sync::atomic::Ordering::Relaxed;
use tracing::warn;

/// Records that are visited at once, before the cache may be emptied: at most 800 KiB.
const STEP_RECORDS: usize = 128;

impl SealedStore {
    /// Opens the seal of every record of every tree and compares their number with what was committed.
    /// Reads the whole store: about half a second at 50 MiB. The damaged records, missing ones included.
    ///
    /// # Errors
    /// When the medium can't be read.
    pub fn verify(&self) -> Result<u64, StoreError> {
        for tree in Tree::ALL {
            self.compare(tree, true).map_err(|refusal| self.failed("read", refusal))?;
        }
        Ok(lock(&self.damaged).records)
    }

    /// What an open compares: the number of commits with the witness beside the store, and the small
    /// trees with their totals.
    pub(super) fn audit_at_open(&mut self) {
        let noted = self.lock.noted(self.sealer.keyring_id());
        let found = self.stored_totals().ok().flatten();
        let commits = found.as_ref().map_or(0, |found| found.commits);
        self.lost_commits = noted.saturating_sub(commits);
        self.noted_commits.store(noted, Relaxed);
        // Numbers go on from the greater one, so that a number never means two commits.
        self.commits = noted.max(commits);
        self.durable_commits = self.commits;
        if commits > 0 {
            self.note_commits();
            self.lock.sync();
        }
        // Without totals what is there counts as all.
        let trees = if found.is_some() { &EAGER_TREES[..] } else { &[] };
        let is_known = found.is_some();
        *lock(&self.trees) = found.unwrap_or_default().trees;
        for tree in Tree::ALL {
            // A tree that can't be read says so to whoever reads it.
            if !is_known {
                let _ = self.visit(tree, false).map(|found| self.set_totals(tree, found));
            } else if trees.contains(&(tree as u8)) {
                let _ = self.compare(tree, false);
            }
        }
        let (lost_commits, damaged_records) = (self.lost_commits, lock(&self.damaged).records);
        if lost_commits > 0 || damaged_records > 0 {
            let store = self.files.folder().display().to_string();
            warn!(store, lost_commits, damaged_records, "the store lost what was acknowledged");
        }
    }

    /// Notes the number of the last durable commit beside the store.
    pub(super) fn note_commits(&self) {
        let durable = self.durable_commits;
        if self.noted_commits.swap(durable, Relaxed) != durable {
            self.lock.note(self.sealer.keyring_id(), durable);
        }
    }

    /// The totals of the last commit on the disk.
    pub(super) fn stored_totals(&self) -> Result<Option<Totals>, Refusal> {
        let key = self.sealer.totals_key();
        let sealed = self.asking(|database| Ok(database.read(OWN, &key)?))?;
        Ok(sealed.and_then(|sealed| self.sealer.open_totals(&sealed)))
    }

    fn compare(&self, tree: Tree, with_seals: bool) -> Result<(), Refusal> {
        let before = lock(&self.damaged).records;
        let found = self.visit(tree, with_seals)?;
        let expected = self.totals_of(tree);
        let is_another = expected.records == found.records && expected.marks != found.marks;
        if is_another && !with_seals {
            // Whichever has a broken seal is named.
            return self.compare(tree, true);
        }
        let mut damaged = lock(&self.damaged);
        // More than there should be are removed ones that came back.
        damaged.records += expected.records.abs_diff(found.records);
        if is_another && damaged.records == before {
            // As many, all whole, and not the same: at least one is an earlier one.
            damaged.records += 1;
        }
        drop(damaged);
        self.set_totals(tree, found);
        Ok(())
    }

    /// What there should be in a tree.
    pub(super) fn totals_of(&self, tree: Tree) -> TreeTotals {
        lock(&self.trees).get(&(tree as u8)).copied().unwrap_or_default()
    }

    fn set_totals(&self, tree: Tree, totals: TreeTotals) {
        lock(&self.trees).insert(tree as u8, totals);
    }

    /// What there is in a tree.
    fn visit(&self, tree: Tree, with_seals: bool) -> Result<TreeTotals, Refusal> {
        let (mut totals, mut from) = (TreeTotals::default(), Vec::new());
        loop {
            let (found, behind) = self.visit_some(tree, &from, with_seals)?;
            (totals, from) = (totals.plus(found), behind);
            if found.records < STEP_RECORDS as u64 {
                return Ok(totals);
            }
        }
    }

    fn visit_some(
        &self,
        tree: Tree,
        from: &[u8],
        with_seals: bool,
    ) -> Result<(TreeTotals, Vec<u8>), Refusal> {
        self.asking(|database| {
            let (mut found, mut behind) = (TreeTotals::default(), Vec::new());
            database.for_each(tree as u8, from, STEP_RECORDS, |(key, sealed)| {
                found.add(&sealed);
                behind = [key.as_ref(), &[0]].concat();
                self.note_cold_bytes(sealed.len());
                if with_seals {
                    self.open_record(database, tree, &key, &sealed)?;
                }
                Ok::<_, Refusal>(found.records < STEP_RECORDS as u64)
            })?;
            Ok((found, behind))
        })
    }
}
