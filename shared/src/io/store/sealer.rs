//! How records become raw ones: sealed, named, and cut into chunks where they are large.
//!
//! What is sealed of a record: `key length (2) ‖ key ‖ chunks (2) ‖ stamp (16, if there are chunks) ‖
//! the value's first chunk`. The key is there in trees whose names are hidden; elsewhere its length is
//! 0. Chunks lie in a tree of their own under `hidden name ‖ number (2)`; their seal is bound to the
//! record's stamp, so that a chunk of an older value does not pass. It never says what was broken.

use super::database::RawWrite;
use crate::limits::STORE_VALUE_CHUNK_BYTES;
use crate::ports::{KeyValue, Tree};
use crate::trust::record::{HIDDEN_NAME_BYTES, Keyring, RecordPlace};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use std::collections::BTreeMap;
use std::fmt;

/// The tree of chunks. Like the numbers in [`Tree`]: never reused.
pub(super) const CHUNKS: u8 = 16;

/// The tree of the store's own records.
pub(super) const OWN: u8 = 17;

/// Bytes of a value in one raw record. sled moves a page over 128 KiB into a file of its own, and a
/// page holds up to 17 records: with key and seal they must stay below 7.7 KiB each.
pub(super) const CHUNK_BYTES: usize = STORE_VALUE_CHUNK_BYTES / 4 * 3;

/// A key: map keys are below 200 bytes; with the chunk and the seal it fits a page, see [`CHUNK_BYTES`].
pub(super) const KEY_BYTES_MAX: usize = 512;

/// A value: twice the largest map update.
pub(super) const VALUE_BYTES_MAX: usize = 8 << 20;

const STAMP_BYTES: usize = 16;

/// Seals records with the keys of one store.
pub(super) struct Sealer {
    keyring: Keyring,
    rng: ChaCha20Rng,
}

/// A record after its seal was opened; `rest` names the chunks that are still to be read.
pub(super) struct OpenRecord {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) rest: Vec<ChunkPlace>,
}

/// What there is after a commit: `commits ‖ records ‖ marks ‖ records ‖ marks …`, a pair for each tree,
/// each number 8 bytes, big endian.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Totals {
    /// The number of the commit.
    pub(super) commits: u64,
    /// By the tree's number.
    pub(super) trees: BTreeMap<u8, TreeTotals>,
}

/// What there is in one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TreeTotals {
    pub(super) records: u64,
    /// The sum of all records' marks, modulo 2^64: another when a record is an earlier one, though there
    /// are as many.
    pub(super) marks: u64,
}

impl TreeTotals {
    /// A raw record is there from now on.
    pub(super) fn add(&mut self, sealed: &[u8]) {
        self.records = self.records.saturating_add(1);
        self.marks = self.marks.wrapping_add(mark(sealed));
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_add(other.records),
            marks: self.marks.wrapping_add(other.marks),
        }
    }

    /// A raw record is there no more.
    pub(super) fn remove(&mut self, sealed: &[u8]) {
        self.records = self.records.saturating_sub(1);
        self.marks = self.marks.wrapping_sub(mark(sealed));
    }
}

/// Half of a seal's tag, which is another for each record that was ever sealed.
fn mark(sealed: &[u8]) -> u64 {
    sealed.last_chunk::<8>().map_or(0, |mark| u64::from_be_bytes(*mark))
}

/// Where a chunk lies, and what its seal is bound to.
pub(super) struct ChunkPlace {
    pub(super) raw_key: Vec<u8>,
    bound_to: Vec<u8>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({:?})", self.keyring)
    }
}

impl Sealer {
    pub(super) fn new(keyring: Keyring, rng: ChaCha20Rng) -> Self {
        Self { keyring, rng }
    }

    pub(super) fn keyring_id(&self) -> u32 {
        self.keyring.id()
    }

    /// The key under which a record lies in sled.
    pub(super) fn raw_key(&self, tree: Tree, key: &[u8]) -> Vec<u8> {
        if tree.is_ordered() { key.to_vec() } else { self.name(tree as u8, key).to_vec() }
    }

    /// What the raw keys of a record's chunks begin with.
    pub(super) fn chunk_prefix(&self, tree: Tree, raw_key: &[u8]) -> [u8; HIDDEN_NAME_BYTES] {
        self.name(CHUNKS, &[&[tree as u8][..], raw_key].concat())
    }

    fn name(&self, tree: u8, key: &[u8]) -> [u8; HIDDEN_NAME_BYTES] {
        self.keyring.hidden_name(tree, key)
    }

    /// The raw records of a value.
    pub(super) fn seal(&mut self, tree: Tree, key: &[u8], value: &[u8]) -> Vec<RawWrite> {
        let raw_key = self.raw_key(tree, key);
        let (first, rest) = value.split_at_checked(CHUNK_BYTES).unwrap_or((value, &[]));
        let chunks: Vec<_> = rest.chunks(CHUNK_BYTES).collect();
        let mut stamp = [0; STAMP_BYTES];
        self.rng.fill_bytes(&mut stamp);
        let stamp = if chunks.is_empty() { &[][..] } else { &stamp };
        let inner_key = if tree.is_ordered() { &[][..] } else { key };
        let content = [
            &length(inner_key.len()).to_be_bytes()[..],
            inner_key,
            &length(chunks.len()).to_be_bytes(),
            stamp,
            first,
        ]
        .concat();
        let prefix = self.chunk_prefix(tree, &raw_key);
        let mut writes = vec![self.seal_raw(tree as u8, raw_key.clone(), &raw_key, &content)];
        for (number, chunk) in (0..).zip(chunks) {
            let place = ChunkPlace::new(&prefix, number, stamp);
            writes.push(self.seal_raw(CHUNKS, place.raw_key, &place.bound_to, chunk));
        }
        writes
    }

    /// Opens the seal of a raw record. None when it is broken.
    pub(super) fn open(&self, tree: Tree, raw_key: &[u8], sealed: &[u8]) -> Option<OpenRecord> {
        let place = RecordPlace { tree: tree as u8, key: raw_key };
        let content = self.keyring.open(place, sealed).ok()?;
        let (key_bytes, rest) = content.split_first_chunk::<2>()?;
        let (inner_key, rest) = rest.split_at_checked(u16::from_be_bytes(*key_bytes).into())?;
        let (chunks, rest) = rest.split_first_chunk::<2>()?;
        let chunks = u16::from_be_bytes(*chunks);
        let stamp_bytes = if chunks == 0 { 0 } else { STAMP_BYTES };
        let (stamp, first) = rest.split_at_checked(stamp_bytes)?;
        let prefix = self.chunk_prefix(tree, raw_key);
        let rest = (0..chunks).map(|number| ChunkPlace::new(&prefix, number, stamp)).collect();
        let key = if tree.is_ordered() { raw_key } else { inner_key };
        Some(OpenRecord { key: key.to_vec(), value: first.to_vec(), rest })
    }

    /// Opens the seal of a chunk. None when it is broken.
    pub(super) fn open_chunk(&self, place: &ChunkPlace, sealed: &[u8]) -> Option<Vec<u8>> {
        let place = RecordPlace { tree: CHUNKS, key: &place.bound_to };
        self.keyring.open(place, sealed).ok()
    }

    /// The raw record of the totals.
    pub(super) fn seal_totals(&mut self, totals: &Totals) -> RawWrite {
        let raw_key = self.totals_key();
        let pair = |tree: Tree| {
            let TreeTotals { records, marks } =
                totals.trees.get(&(tree as u8)).copied().unwrap_or_default();
            [records, marks]
        };
        let numbers = [totals.commits].into_iter().chain(Tree::ALL.into_iter().flat_map(pair));
        let content: Vec<u8> = numbers.flat_map(u64::to_be_bytes).collect();
        self.seal_raw(OWN, raw_key.clone(), &raw_key, &content)
    }

    /// Where [`Self::seal_totals`] puts them.
    pub(super) fn totals_key(&self) -> Vec<u8> {
        self.name(OWN, b"totals").to_vec()
    }

    /// What [`Self::seal_totals`] sealed. None when it is broken.
    pub(super) fn open_totals(&self, sealed: &[u8]) -> Option<Totals> {
        let key = self.totals_key();
        let content = self.keyring.open(RecordPlace { tree: OWN, key: &key }, sealed).ok()?;
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
        let (commits, pairs) = content.split_at_checked(8)?;
        // A tree that came with a later version has no pair yet, and no records.
        let pairs = pairs.chunks_exact(16).filter_map(|pair| {
            let (records, marks) = pair.split_at_checked(8)?;
            Some(TreeTotals { records: number(records)?, marks: number(marks)? })
        });
        let trees = Tree::ALL.iter().map(|tree| *tree as u8).zip(pairs).collect();
        Some(Totals { commits: number(commits)?, trees })
    }

    fn seal_raw(&mut self, tree: u8, key: Vec<u8>, bound_to: &[u8], content: &[u8]) -> RawWrite {
        let place = RecordPlace { tree, key: bound_to };
        let value = self.keyring.seal(place, content, &mut self.rng);
        RawWrite { tree, key, value: Some(value) }
    }
}

impl ChunkPlace {
    fn new(prefix: &[u8; HIDDEN_NAME_BYTES], number: u16, stamp: &[u8]) -> Self {
        let raw_key = [&prefix[..], &number.to_be_bytes()].concat();
        let bound_to = [&raw_key[..], stamp].concat();
        Self { raw_key, bound_to }
    }
}

impl OpenRecord {
    pub(super) fn into_pair(self) -> KeyValue {
        (self.key, self.value)
    }
}

/// Lengths are checked against [`KEY_BYTES_MAX`] and [`VALUE_BYTES_MAX`] before; both fit.
fn length(of: usize) -> u16 {
    u16::try_from(of).unwrap_or(u16::MAX)
}
