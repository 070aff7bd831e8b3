//! A store in memory, and one that an enemy filled.

use crate::input::Input;
use shared::ports::{KeyValue, Store, StoreError, Tree, Write, WriteBatch};
use std::collections::BTreeMap;

/// What is committed, in order of keys.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    records: BTreeMap<(Tree, Vec<u8>), Vec<u8>>,
}

impl Memory {
    /// A store of the records that `input` names: tree, key, value.
    #[must_use]
    pub fn filled_by(input: &mut Input<'_>) -> Self {
        let mut store = Self::default();
        while !input.is_empty() {
            let tree = usize::from(input.byte()) % Tree::ALL.len();
            let tree = Tree::ALL.get(tree).copied().unwrap_or(Tree::Meta);
            store.records.insert((tree, input.chunk().to_vec()), input.chunk().to_vec());
        }
        store
    }
}

impl Store for Memory {
    fn read(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.records.get(&(tree, key.to_vec())).cloned())
    }

    fn scan(&self, tree: Tree, from: &[u8], count_max: usize) -> Result<Vec<KeyValue>, StoreError> {
        let records = self.records.range((tree, from.to_vec())..);
        let of_tree = records.take_while(|((found, _), _)| *found == tree).take(count_max);
        Ok(of_tree.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        for write in batch.writes.clone() {
            match write {
                Write::Put { tree, key, value } => drop(self.records.insert((tree, key), value)),
                Write::Delete { tree, key } => drop(self.records.remove(&(tree, key))),
            }
        }
        Ok(())
    }

    fn damaged_records(&self) -> u64 {
        0
    }
}
