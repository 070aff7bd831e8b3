//! Reading: records with all their chunks; a record whose seal is broken reads as absent and is counted.
//!
//! It changes nothing, and it never reads more of a tree at once than a few records.

use super::database::Database;
use super::sealer::{CHUNKS, OpenRecord};
use super::{Refusal, SealedStore, lock};
use crate::ports::{KeyValue, Tree};

/// Damaged records that are told apart; past it, one that is read twice counts twice.
const DAMAGED_NAMED_MAX: usize = 1024;

impl SealedStore {
    pub(super) fn read_record(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let raw_key = self.sealer.raw_key(tree, key);
        self.asking(|database| {
            let Some(sealed) = database.read(tree as u8, &raw_key)? else { return Ok(None) };
            let record = self.open_record(database, tree, &raw_key, &sealed)?;
            Ok(record.filter(|record| record.key == key).map(|record| record.value))
        })
    }

    pub(super) fn scan_records(
        &self,
        tree: Tree,
        from: &[u8],
        count_max: usize,
    ) -> Result<Vec<KeyValue>, Refusal> {
        if !tree.is_ordered() && !from.is_empty() {
            return Err(Refusal::NoOrder);
        }
        if count_max == 0 {
            return Ok(Vec::new());
        }
        self.asking(|database| {
            let mut found = Vec::new();
            database.for_each(tree as u8, from, count_max, |(raw_key, sealed)| {
                if tree.is_ordered() {
                    self.note_cold_bytes(sealed.len());
                }
                let record = self.open_record(database, tree, &raw_key, &sealed)?;
                found.extend(record.map(OpenRecord::into_pair));
                Ok::<_, Refusal>(found.len() < count_max)
            })?;
            Ok(found)
        })
    }

    fn note_damaged(&self, tree: u8, raw_key: &[u8]) {
        let mut damaged = lock(&self.damaged);
        let is_new = damaged.named.len() >= DAMAGED_NAMED_MAX
            || damaged.named.insert((tree, raw_key.to_vec()));
        damaged.records += u64::from(is_new);
    }

    /// A record with all its chunks; None, counted, when a seal is broken or a chunk is missing.
    pub(super) fn open_record(
        &self,
        database: &Database,
        tree: Tree,
        raw_key: &[u8],
        sealed: &[u8],
    ) -> Result<Option<OpenRecord>, Refusal> {
        let Some(mut record) = self.sealer.open(tree, raw_key, sealed) else {
            self.note_damaged(tree as u8, raw_key);
            return Ok(None);
        };
        for place in std::mem::take(&mut record.rest) {
            let sealed = database.read(CHUNKS, &place.raw_key)?;
            let Some(chunk) = sealed.and_then(|s| self.sealer.open_chunk(&place, &s)) else {
                self.note_damaged(tree as u8, raw_key);
                return Ok(None);
            };
            self.note_cold_bytes(chunk.len());
            record.value.extend(chunk);
        }
        Ok(Some(record))
    }
}
