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
//! | `access.rs`, `reading.rs`, `commit.rs`, `audit.rs` | what the store does once it is open |
//! | `sealer.rs` | records as they lie on disk |
//! | `files.rs` | lock, marker, ballast and the rest beside the folder |

mod access;
mod audit;
mod commit;
mod database;
mod files;
mod opening;
mod probe;
mod reading;
mod sealer;

pub use database::blame_sled;
pub use probe::probe_if_asked;

use crate::io::keys::fresh_seed;
use crate::ports::{KeyValue, Store, StoreError, Tree, WriteBatch};
use crate::trust::record::WrappingKey;
use access::COLD_BYTES_MAX;
use commit::BATCH_BYTES_MAX;
use database::{Database, DatabaseError};
use files::{StoreFiles, StoreLock};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use sealer::{CHUNKS, KEY_BYTES_MAX, OWN, Sealer, TreeTotals, VALUE_BYTES_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use thiserror::Error;

/// Room that a commit leaves on the disk. sled writes a segment of 512 KiB ahead and a snapshot at the
/// next open; the rest is for those who share the disk.
const FREE_BYTES_MIN: u64 = 4 << 20;

/// Every raw tree: those of [`Tree`], the chunks, the store's own.
const ALL_TREES: [u8; 11] = [
    Tree::Meta as u8,
    Tree::Desired as u8,
    Tree::Pods as u8,
    Tree::Outbox as u8,
    Tree::Nodes as u8,
    Tree::Reported as u8,
    Tree::Decoders as u8,
    Tree::Templates as u8,
    Tree::Packs as u8,
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
    #[error("the store is closed; the next access opens it")]
    Closed,
    #[error("the store did not open again")]
    Reopen(#[source] OpenError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// The store.
#[derive(Debug)]
pub struct SealedStore {
    files: StoreFiles,
    open_deadline: Duration,
    /// None while it can't be opened again after a write that failed.
    database: RwLock<Option<Database>>,
    /// Bytes of large trees that passed through its cache.
    cold_bytes: AtomicU64,
    cold_bytes_max: u64,
    sealer: Sealer,
    /// The number of the last commit that was tried.
    commits: u64,
    /// The number of the last commit that is durable.
    durable_commits: u64,
    /// The number of the last commit that is noted beside the store.
    noted_commits: AtomicU64,
    lost_commits: u64,
    free_bytes_min: u64,
    broken: OnceLock<String>,
    damaged: Mutex<Damaged>,
    trees: Mutex<BTreeMap<u8, TreeTotals>>,
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
            database: RwLock::new(Some(database)),
            cold_bytes: AtomicU64::new(0),
            cold_bytes_max: COLD_BYTES_MAX,
            sealer: Sealer::new(keyring, rng),
            commits: 0,
            durable_commits: 0,
            noted_commits: AtomicU64::new(0),
            lost_commits: 0,
            free_bytes_min: FREE_BYTES_MIN,
            broken: OnceLock::new(),
            damaged: Mutex::default(),
            trees: Mutex::default(),
            lock,
        };
        store.audit_at_open();
        Ok((store, opening))
    }

    /// Bytes on disk.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.files.size_bytes()
    }

    /// Records in `tree`, damaged ones included.
    #[must_use]
    pub fn record_count(&self, tree: Tree) -> u64 {
        self.totals_of(tree).records
    }

    /// Commits that were acknowledged and that the store no longer had when it was opened: its files
    /// were cut short or replaced by older ones. 0 in a healthy life, power cuts included. Exact after an
    /// orderly end; after another one, up to 15 more may be missing.
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

impl Drop for SealedStore {
    fn drop(&mut self) {
        // A store that was found broken proves nothing about its last commit.
        if !self.must_restart() {
            self.note_commits();
        }
    }
}

/// What a panic elsewhere left behind a lock here is numbers only.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
