//! The sealed store: sled, wrapped so that it survives power cuts, damage and a full disk, with every
//! record encrypted.
//!
//! A commit is durable when it returns, or it leaves nothing behind. It refuses a commit while the disk
//! has little room, before sled can fail in the middle of one. No panic of sled passes through it: what
//! can't be healed in this process ends as [`OpenError::Restart`] or [`SealedStore::must_restart`].
//!
//! | file | what it holds |
//! |---|---|
//! | `opening.rs` | the protocol of an open, the quarantine |
//! | `probe.rs` | the child that tries a suspicious store |
//! | `database.rs` | sled |
//! | `sealer.rs` | records as they lie on disk |
//! | `files.rs` | lock, marker, ballast and the rest beside the folder |

mod database;
mod files;
mod opening;
mod probe;
mod sealer;

pub use probe::probe_if_asked;

use crate::io::keys::fresh_seed;
use crate::ports::{KeyValue, Store, StoreError, Tree, Write, WriteBatch};
use crate::trust::record::WrappingKey;
use database::{CountChanges, Database, DatabaseError, RawWrite, Remedy};
use files::{StoreFiles, StoreLock};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use sealer::{CHUNKS, KEY_BYTES_MAX, OWN, OpenRecord, Sealer, VALUE_BYTES_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tracing::warn;

/// All changes of one commit. A whole map update of 4 MiB a few times over.
const BATCH_BYTES_MAX: usize = 32 << 20;

/// Room that a commit leaves on the disk. sled writes a segment of 512 KiB ahead and a snapshot at the
/// next open; the rest is for those who share the disk.
const FREE_BYTES_MIN: u64 = 4 << 20;

/// Damaged records that are told apart; past it, one that is read twice counts twice.
const DAMAGED_NAMED_MAX: usize = 1024;

/// Every raw tree: those of [`Tree`], the chunks, the store's own.
const ALL_TREES: [u8; 8] = [
    Tree::Meta as u8,
    Tree::Desired as u8,
    Tree::Pods as u8,
    Tree::Outbox as u8,
    Tree::Nodes as u8,
    Tree::Reported as u8,
    CHUNKS,
    OWN,
];

/// Trees that are read through at each open: what a boot needs, and small. The others are large.
const EAGER_TREES: [u8; 4] = [Tree::Meta as u8, Tree::Desired as u8, Tree::Pods as u8, OWN];

/// How to open a store.
#[derive(Debug)]
pub struct StoreOptions {
    /// Its folder; files beside it begin with the same name.
    pub folder: PathBuf,
    /// The key that wraps its keys.
    pub key: WrappingKey,
    /// How long an open may take before it counts as hung.
    pub open_deadline: Duration,
}

/// What an open found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// There was none.
    Created,
    /// There was one, and it opened.
    Existing,
    /// There was one that can't be used: it was put aside, and a new one was made.
    Quarantined {
        /// Where it lies now.
        folder: PathBuf,
        /// Why, in words.
        reason: String,
    },
}

/// Why a store did not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store {folder} is open in another process")]
    Locked {
        /// Which store.
        folder: PathBuf,
    },
    /// The key is not the one that the store was made with.
    #[error("the store {folder} was made with another key; nothing was changed")]
    Key {
        /// Which store.
        folder: PathBuf,
    },
    /// The open panicked or hung: this process must execute itself anew, and the next open
    /// quarantines if need be.
    #[error("opening the store failed in a way that needs a new process: {reason}")]
    Restart {
        /// Why, in words.
        reason: String,
    },
    /// Not even a new store in its place opens.
    #[error("the store {folder} was put aside, and a new one in its place does not open: {reason}")]
    Unusable {
        /// Which store.
        folder: PathBuf,
        /// Why, in words.
        reason: String,
    },
    /// The file system said no.
    #[error("could not {attempted} {path}")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Why an open store did not do what was asked: the source of its [`StoreError`]s.
#[derive(Debug, Error)]
enum Refusal {
    #[error("the disk has {free_bytes} bytes free, and this needs {needed_bytes}")]
    DiskFull { free_bytes: u64, needed_bytes: u64 },
    #[error("a key of {0} bytes is over the limit of {KEY_BYTES_MAX}")]
    KeyTooLong(usize),
    #[error("a value of {0} bytes is over the limit of {VALUE_BYTES_MAX}")]
    ValueTooLarge(usize),
    #[error("a batch of {0} bytes is over the limit of {BATCH_BYTES_MAX}")]
    BatchTooLarge(usize),
    #[error("names of an unordered tree have no order to begin within: expected an empty `from`")]
    NoOrder,
    #[error("the store is damaged and this process must start anew: {0}")]
    Broken(String),
    #[error("the store is closed since a commit failed; the next commit opens it")]
    Closed,
    #[error("the store did not open again after a commit failed")]
    Reopen(#[source] OpenError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// The store.
#[derive(Debug)]
pub struct SealedStore {
    files: StoreFiles,
    open_deadline: Duration,
    /// None after a failed commit, until it can be opened again.
    database: Option<Database>,
    sealer: Sealer,
    /// The number of the last commit.
    commits: u64,
    lost_commits: u64,
    free_bytes_min: u64,
    has_ballast: bool,
    broken: OnceLock<String>,
    damaged: Mutex<Damaged>,
    /// Of the trees that were counted.
    counts: Mutex<BTreeMap<u8, u64>>,
    /// Last, so that it is released when the database is closed.
    lock: StoreLock,
}

#[derive(Debug, Default)]
struct Damaged {
    records: u64,
    named: BTreeSet<(u8, Vec<u8>)>,
}

impl SealedStore {
    /// Opens the store, or makes it. A store that can't be used is put aside and a new one is made.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is put aside then but for [`OpenError::Unusable`].
    pub fn open(options: StoreOptions) -> Result<(Self, Opening), OpenError> {
        let StoreOptions { folder, key, open_deadline } = options;
        let files = StoreFiles::new(folder);
        let lock = files.lock()?;
        let mut rng = ChaCha20Rng::from_seed(fresh_seed());
        let (database, keyring, opening) = opening::open(&files, &key, open_deadline, &mut rng)?;
        let mut store = Self {
            files,
            open_deadline,
            database: Some(database),
            sealer: Sealer::new(keyring, rng),
            commits: 0,
            lost_commits: 0,
            free_bytes_min: FREE_BYTES_MIN,
            has_ballast: true,
            broken: OnceLock::new(),
            damaged: Mutex::default(),
            counts: Mutex::default(),
            lock,
        };
        store.compare_with_witness();
        Ok((store, opening))
    }

    /// Bytes on disk.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.files.size_bytes()
    }

    /// Records in `tree`, damaged ones included. Reads the whole tree the first time.
    #[must_use]
    pub fn record_count(&self, tree: Tree) -> u64 {
        let number = tree as u8;
        let known = lock(&self.counts).get(&number).copied();
        known.or_else(|| self.count(number)).unwrap_or(0)
    }

    /// Commits that were acknowledged and that the store no longer had when it was opened: its files
    /// were cut short or replaced by older ones. 0 in a healthy life, power cuts included.
    #[must_use]
    pub fn lost_commits(&self) -> u64 {
        self.lost_commits
    }

    /// Whether the store was found damaged while it was open: this process must execute itself anew,
    /// and the next open tries the store and puts it aside if need be. Until then everything fails.
    #[must_use]
    pub fn must_restart(&self) -> bool {
        self.broken.get().is_some()
    }

    fn compare_with_witness(&mut self) {
        let noted = self.lock.noted(self.sealer.keyring_id());
        let found = self.stored_commits().unwrap_or(0);
        self.lost_commits = noted.saturating_sub(found);
        // Numbers go on from the greater one, so that a number never means two commits.
        self.commits = noted.max(found);
        if self.lost_commits > 0 {
            let store = self.files.folder().display().to_string();
            let lost_commits = self.lost_commits;
            warn!(store, lost_commits, "the store lost commits that were acknowledged");
        }
    }

    fn stored_commits(&self) -> Option<u64> {
        let database = self.database.as_ref()?;
        let sealed = database.read(OWN, &self.sealer.commits_key()).ok()??;
        self.sealer.open_commits(&sealed)
    }

    fn count(&self, tree: u8) -> Option<u64> {
        let database = self.database().ok()?;
        let mut count = 0;
        let counted = database.for_each(tree, &[], usize::MAX, |_| {
            count += 1;
            Ok::<_, DatabaseError>(true)
        });
        counted.map_err(|error| self.failed("read", error.into())).ok()?;
        lock(&self.counts).insert(tree, count);
        Some(count)
    }

    fn database(&self) -> Result<&Database, Refusal> {
        match self.broken.get() {
            Some(reason) => Err(Refusal::Broken(reason.clone())),
            None => self.database.as_ref().ok_or(Refusal::Closed),
        }
    }

    /// Notes what an error means for the store as a whole, and makes it the caller's.
    fn failed(&self, attempted: &'static str, refusal: Refusal) -> StoreError {
        if let Refusal::Database(error) = &refusal
            && matches!(error.remedy(), Remedy::Quarantine | Remedy::NewProcess)
        {
            let reason = error.in_words();
            self.files.suspect(&reason);
            let _ = self.broken.set(reason);
        }
        StoreError { attempted, source: Box::new(refusal) }
    }

    fn note_damaged(&self, tree: u8, raw_key: &[u8]) {
        let mut damaged = lock(&self.damaged);
        let is_new = damaged.named.len() >= DAMAGED_NAMED_MAX
            || damaged.named.insert((tree, raw_key.to_vec()));
        damaged.records += u64::from(is_new);
    }

    /// A record with all its chunks; None, counted, when a seal is broken or a chunk is missing.
    fn open_record(
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
            record.value.extend(chunk);
        }
        Ok(Some(record))
    }

    fn read_record(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let database = self.database()?;
        let raw_key = self.sealer.raw_key(tree, key);
        let Some(sealed) = database.read(tree as u8, &raw_key)? else { return Ok(None) };
        let record = self.open_record(database, tree, &raw_key, &sealed)?;
        Ok(record.filter(|record| record.key == key).map(|record| record.value))
    }

    fn scan_records(
        &self,
        tree: Tree,
        from: &[u8],
        count_max: usize,
    ) -> Result<Vec<KeyValue>, Refusal> {
        if !tree.is_ordered() && !from.is_empty() {
            return Err(Refusal::NoOrder);
        }
        let mut found = Vec::new();
        if count_max == 0 {
            return Ok(found);
        }
        let database = self.database()?;
        database.for_each(tree as u8, from, count_max, |(raw_key, sealed)| {
            let record = self.open_record(database, tree, &raw_key, &sealed)?;
            found.extend(record.map(OpenRecord::into_pair));
            Ok::<_, Refusal>(found.len() < count_max)
        })?;
        Ok(found)
    }

    fn commit_batch(&mut self, batch: &WriteBatch) -> Result<(), Refusal> {
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

impl Store for SealedStore {
    fn read(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_record(tree, key).map_err(|refusal| self.failed("read", refusal))
    }

    fn scan(&self, tree: Tree, from: &[u8], count_max: usize) -> Result<Vec<KeyValue>, StoreError> {
        self.scan_records(tree, from, count_max).map_err(|refusal| self.failed("read", refusal))
    }

    fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.commit_batch(batch).map_err(|refusal| self.failed("commit", refusal))
    }

    fn damaged_records(&self) -> u64 {
        lock(&self.damaged).records
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

/// What a panic elsewhere left behind a lock here is numbers only.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
