//! A store in memory. What is committed survives every crash; a full disk commits nothing.

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
    commits: u64,
}

impl Disk {
    /// From now on commits fail, or succeed again.
    pub(super) fn set_full(&self, full: bool) {
        self.inner.borrow_mut().full = full;
    }

    /// What another machine has of it: the same records, from now on apart.
    pub(super) fn copy(&self) -> Self {
        Self { inner: Rc::new(RefCell::new(self.inner.borrow().clone())) }
    }

    /// Everything is gone, as after a quarantine.
    pub(super) fn wipe(&self) {
        self.inner.borrow_mut().records.clear();
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
            let source = Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull));
            return Err(StoreError { attempted: "commit", source });
        }
        inner.commits += 1;
        for write in batch.writes.clone() {
            match write {
                Write::Put { tree, key, value } => drop(inner.records.insert((tree, key), value)),
                Write::Delete { tree, key } => drop(inner.records.remove(&(tree, key))),
            }
        }
        Ok(())
    }

    fn damaged_records(&self) -> u64 {
        0
    }
}
