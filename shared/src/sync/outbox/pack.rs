//! Packs: neighbouring records of a log under one key, in a tree of their own.
//!
//! sled keeps a few hundred bytes in memory for each page of a store that is open, and begins a new page
//! after a dozen records, however small: a month of minutes that nobody fetched is 43 200 records, and
//! was 1 MiB of memory. So records are written one by one, as they come, and once as many follow each
//! other as fit [`PACK_BYTES_MAX`] they are written together and the single ones removed, in one commit.
//! While a receiver listens nothing is packed: what it fetches soon would only be written twice.
//!
//! A pack lies under the key of its last record, so that the first key at or behind that of a record is
//! the pack it lies in. It is removed with its last record. Part of the store's format.

use super::keys::{log_prefix, outbox_key};
use crate::limits::STORE_VALUE_CHUNK_BYTES;
use crate::ports::{Store, StoreError, Tree, WriteBatch};
use crate::sync::outbox_log::OutboxLog;
use crate::wire::{LogId, SequenceNumber, decode, encode};
use serde_bytes::ByteBuf;
use std::ops::Range;

/// Bytes of a pack: the store cuts larger values up.
pub(super) const PACK_BYTES_MAX: usize = STORE_VALUE_CHUNK_BYTES / 4 * 3;

/// What CBOR adds to each record at most, and once to all of them.
const FRAME_BYTES: usize = 3;

/// The newest records of a log, while nobody fetches them, until they are a pack.
#[derive(Debug, Default)]
pub(in crate::sync) struct Packing {
    records: Vec<ByteBuf>,
    /// Their bytes with their frames.
    bytes: usize,
}

impl Packing {
    /// Forgets the records: they stay where they are.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The log has one more record. The ones before it, when they are a pack that it has no room in.
    fn add(&mut self, record: &[u8]) -> Vec<ByteBuf> {
        let bytes = record.len() + FRAME_BYTES;
        let has_room = |taken: usize| taken + bytes + FRAME_BYTES <= PACK_BYTES_MAX;
        let before = if has_room(self.bytes) { Self::default() } else { std::mem::take(self) };
        if has_room(self.bytes) {
            self.records.push(ByteBuf::from(record));
            self.bytes += bytes;
        }
        before.records
    }
}

impl OutboxLog {
    /// `record` is about to be written under `sequence`: packs the ones before it, when they are enough.
    pub(super) fn pack(
        &mut self,
        log: LogId,
        sequence: SequenceNumber,
        record: &[u8],
        writes: &mut WriteBatch,
    ) {
        let full = self.packing.add(record);
        let first = sequence.saturating_sub(full.len() as u64);
        // One alone is as well where it is, and what was released meanwhile does not come back.
        if full.len() < 2 || first < self.meta.oldest {
            return;
        }
        let Ok(value) = encode("pack of records", &full) else { return };
        self.has_packs = true;
        (first..sequence).for_each(|number| writes.delete(Tree::Outbox, outbox_key(log, number)));
        writes.put(Tree::Packs, outbox_key(log, sequence.saturating_sub(1)), value);
    }

    /// Removes released records, and the packs that end with one of them.
    pub(super) fn delete(
        &self,
        log: LogId,
        released: Range<SequenceNumber>,
        writes: &mut WriteBatch,
    ) {
        for sequence in released {
            writes.delete(Tree::Outbox, outbox_key(log, sequence));
            if self.has_packs {
                writes.delete(Tree::Packs, outbox_key(log, sequence));
            }
        }
    }
}

/// The records in a value of [`Tree::Packs`]; none when it is no pack.
#[must_use]
pub fn read_pack(value: &[u8]) -> Vec<Vec<u8>> {
    let records: Vec<ByteBuf> =
        decode("pack of records", value, PACK_BYTES_MAX).unwrap_or_default();
    records.into_iter().map(ByteBuf::into_vec).collect()
}

/// A pack of a log.
pub(super) struct Pack {
    /// The number of its first record; the one behind its last when it can't be read.
    pub(super) first: SequenceNumber,
    /// The number behind its last record.
    pub(super) end: SequenceNumber,
    /// Its records.
    pub(super) records: Vec<Vec<u8>>,
}

/// The pack that holds the record `from`, or the next behind it.
///
/// # Errors
/// When the medium can't be read.
pub(super) fn next_pack(
    store: &dyn Store,
    log: LogId,
    from: SequenceNumber,
) -> Result<Option<Pack>, StoreError> {
    let found = store.scan(Tree::Packs, &outbox_key(log, from), 1)?;
    Ok(found.first().and_then(|(key, value)| {
        let last = number_in(key, log)?;
        let records = read_pack(value);
        let end = last.saturating_add(1);
        Some(Pack { first: end.saturating_sub(records.len() as u64), end, records })
    }))
}

/// The number in a key, when it is one of the log's.
pub(super) fn number_in(key: &[u8], log: LogId) -> Option<SequenceNumber> {
    let number = key.strip_prefix(log_prefix(log).as_slice())?;
    number.try_into().ok().map(u64::from_be_bytes)
}
