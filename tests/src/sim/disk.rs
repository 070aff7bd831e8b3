//! A store in memory. What is committed survives every crash; a full disk commits nothing.
//!
//! A batch that the disk refused may be there all the same once the process is gone: the process was
//! told that it is not, and must come up with either.

use shared::ports::{KeyValue, Store, StoreError, Tree, Write, WriteBatch};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What lies on the disk, shared by the starts of one process.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Debug, Clone, Default)]
struct Inner {
    records: BTreeMap<(Tree, Vec<u8>), Vec<u8>>,
    full: bool,
    damaged: u64,
    /// The batch that was refused last, since the last one that was not.
    refused: Option<WriteBatch>,
    /// Commits that the world has yet to look at.
    journal: Vec<WriteBatch>,
}

impl Inner {
    fn apply(&mut self, batch: WriteBatch) {
        let of_logs = |write: &Write| match write {
            Write::Put { tree, key, .. } | Write::Delete { tree, key } => {
                matches!(tree, Tree::Outbox | Tree::Packs)
                    || (*tree == Tree::Meta && key.starts_with(b"log/"))
            }
        };
        let writes: Vec<Write> = batch.writes.iter().filter(|w| of_logs(w)).cloned().collect();
        if !writes.is_empty() {
            self.journal.push(WriteBatch { writes });
        }
        for write in batch.writes {
            match write {
                Write::Put { tree, key, value } => drop(self.records.insert((tree, key), value)),
                Write::Delete { tree, key } => drop(self.records.remove(&(tree, key))),
            }
        }
    }
}

impl Disk {
    /// From now on commits fail, or succeed again.
    pub(super) fn set_full(&self, full: bool) {
        self.inner.borrow_mut().full = full;
    }

    /// What another machine has of it: the same records, from now on apart, and nothing of what this
    /// disk refused.
    pub(super) fn copy(&self) -> Self {
        let inner = Inner { refused: None, ..self.inner.borrow().clone() };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// Everything is gone, as after a quarantine.
    pub(super) fn wipe(&self) {
        self.inner.borrow_mut().records.clear();
        self.inner.borrow_mut().refused = None;
    }

    /// An older copy takes its place.
    pub(super) fn replace_with(&self, older: &Self) {
        self.inner.borrow_mut().records = older.inner.borrow().records.clone();
        self.inner.borrow_mut().refused = None;
    }

    /// The process is gone. Whether the batch that was refused last is there after all.
    pub(super) fn process_died(&self, refused_is_there: bool) -> bool {
        let mut inner = self.inner.borrow_mut();
        let refused = inner.refused.take().filter(|_| refused_is_there);
        let is_there = refused.is_some();
        refused.into_iter().for_each(|batch| inner.apply(batch));
        is_there
    }

    /// The commits since the last call, as far as they are of logs.
    pub(super) fn take_journal(&self) -> Vec<WriteBatch> {
        std::mem::take(&mut self.inner.borrow_mut().journal)
    }

    /// The record at `place` of a tree, counted around, can't be read any more; what it was.
    pub(super) fn damage(&self, tree: Tree, place: usize) -> Option<KeyValue> {
        let mut inner = self.inner.borrow_mut();
        let of_tree = (tree, vec![])..;
        let keys = inner.records.range(of_tree).take_while(|((found, _), _)| *found == tree);
        let count = keys.clone().count();
        let key = keys.map(|((_, key), _)| key.clone()).nth(place.checked_rem(count)?)?;
        let value = inner.records.remove(&(tree, key.clone()))?;
        inner.damaged += 1;
        Some((key, value))
    }
}

impl Store for Disk {
    fn read(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.inner.borrow().records.get(&(tree, key.to_vec())).cloned())
    }

    fn scan(&self, tree: Tree, from: &[u8], count_max: usize) -> Result<Vec<KeyValue>, StoreError> {
        let inner = self.inner.borrow();
        let records = inner.records.range((tree, from.to_vec())..);
        let of_tree = records.take_while(|((found, _), _)| *found == tree).take(count_max);
        Ok(of_tree.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        let mut inner = self.inner.borrow_mut();
        if inner.full {
            inner.refused = Some(batch.clone());
            let source = Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull));
            return Err(StoreError { attempted: "commit", source });
        }
        inner.refused = None;
        inner.apply(batch.clone());
        Ok(())
    }

    fn damaged_records(&self) -> u64 {
        self.inner.borrow().damaged
    }
}
