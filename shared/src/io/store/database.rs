//! sled behind a seam: raw trees, one durable transaction, and errors that say what is to be done.
//!
//! It knows nothing of seals. No panic of sled leaves it: a panic becomes an error that asks for a new
//! process, or in a program that ends with any panic it is known to be sled's ([`blame_sled`]). What was measured and
//! forces its form:
//! - `flush()` alone lost acknowledged batches in power cuts; `sync_data()` on the file behind it none.
//! - A page over 128 KiB goes to a file of its own, which `flush` does not make durable. A page holds
//!   up to 17 values, so values must stay below 7 KiB ([`super::sealer::CHUNK_BYTES`]).
//! - An iterator keeps every page that it passed in memory: 12 000 records of 4 KiB took 50 MiB. So a
//!   tree is read in steps of [`STEP_RECORDS`].
//! - After a failed write every later write fails, until the database is dropped and opened again.

use super::files::StoreFiles;
use sled::transaction::{ConflictableTransactionError, TransactionError, TransactionalTree};
use sled::{IVec, Transactional};
use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;
use thiserror::Error;

/// sled's page cache. The store's hot set (Meta, Desired, Pods) is far smaller.
const CACHE_BYTES: u64 = 4 << 20;

/// Records read through one iterator: at most 32 × 6 KiB of values are then held at once.
const STEP_RECORDS: usize = 32;

/// A key and a value as they lie in sled.
pub(super) type RawPair = (IVec, IVec);

/// One change of a raw tree; without a value it removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawWrite {
    pub(super) tree: u8,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

/// Why sled did not do what was asked.
#[derive(Debug, Error)]
pub(super) enum DatabaseError {
    #[error("sled could not {attempted}")]
    Sled {
        attempted: &'static str,
        #[source]
        source: sled::Error,
    },
    #[error("could not make the database's file durable")]
    Sync(#[source] io::Error),
    #[error("sled panicked when asked to {attempted}: {message}")]
    Panicked { attempted: &'static str, message: String },
    #[error("sled did not open the database within {0:?}")]
    Hung(Duration),
    #[error("there is no tree {0}")]
    NoTree(u8),
}

/// What an error asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The files are not what was written: put them aside.
    Quarantine,
    /// sled's state in this process can't be trusted any more.
    NewProcess,
    /// Room on the disk.
    Room,
    /// Patience: another process has it.
    Unlock,
    /// The file system refuses for a reason outside the store (rights, read-only, too many files).
    Operator,
}

impl DatabaseError {
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Self::Sled { source: sled::Error::Io(error), .. } | Self::Sync(error) => {
                remedy_of_io(error)
            }
            Self::Sled { .. } => Remedy::Quarantine,
            Self::Panicked { .. } | Self::Hung(_) | Self::NoTree(_) => Remedy::NewProcess,
        }
    }

    /// The error and its causes in one line.
    pub(super) fn in_words(&self) -> String {
        crate::in_words(self)
    }

    fn sled(attempted: &'static str) -> impl FnOnce(sled::Error) -> Self {
        move |source| Self::Sled { attempted, source }
    }
}

/// sled passes on what a damaged file does to a read (too short, a bad sector, a folder in its place)
/// as an error of the file system; so only what is known to lie outside the store counts as that.
fn remedy_of_io(error: &io::Error) -> Remedy {
    use io::ErrorKind as Kind;
    const TOO_MANY_OPEN_FILES: [i32; 2] = [23, 24];
    match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded => Remedy::Room,
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem | Kind::OutOfMemory => Remedy::Operator,
        // No thread to be had.
        Kind::WouldBlock => Remedy::Operator,
        _ if error.raw_os_error().is_some_and(|raw| TOO_MANY_OPEN_FILES.contains(&raw)) => {
            Remedy::Operator
        }
        // The words of sled 0.34.7, `config.rs`, whose version is pinned.
        _ if error.to_string().contains("could not acquire lock") => Remedy::Unlock,
        _ => Remedy::Quarantine,
    }
}

/// The open database.
pub(super) struct Database {
    trees: Vec<(u8, sled::Tree)>,
    db: sled::Db,
    file: File,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({} trees)", self.trees.len())
    }
}

impl Database {
    /// Opens the database in a thread of its own, with its trees, and reads `eager` trees through.
    /// A thread that hangs is left behind: the caller must begin a new process.
    pub(super) fn open(
        folder: &Path,
        trees: &[u8],
        eager: &[u8],
        deadline: Duration,
    ) -> Result<Self, DatabaseError> {
        *OPENED.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(StoreFiles::new(folder.to_owned()));
        let (sender, receiver) = mpsc::sync_channel(1);
        let (folder, trees, eager) = (folder.to_owned(), trees.to_owned(), eager.to_owned());
        let open = move || {
            let opened = guarded("open the database", || Self::open_here(&folder, &trees));
            let walked = opened.and_then(|database| database.walk(&eager).map(|()| database));
            // Nobody listens after the deadline; then this process is about to end.
            let _ = sender.send(walked);
        };
        let thread = std::thread::Builder::new().name("store-open".to_owned()).spawn(open);
        thread.map_err(DatabaseError::Sync)?;
        receiver.recv_timeout(deadline).unwrap_or(Err(DatabaseError::Hung(deadline)))
    }

    fn open_here(folder: &Path, numbers: &[u8]) -> Result<Self, DatabaseError> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None);
        let db = config.open().map_err(DatabaseError::sled("open the database"))?;
        let mut trees = Vec::new();
        for number in numbers {
            let tree = db.open_tree([*number]).map_err(DatabaseError::sled("open a tree"))?;
            trees.push((*number, tree));
        }
        let file = File::open(folder.join("db")).map_err(DatabaseError::Sync)?;
        Ok(Self { trees, db, file })
    }

    /// Reads whole trees, so that a damaged page is found now and not in the middle of work.
    pub(super) fn walk(&self, trees: &[u8]) -> Result<(), DatabaseError> {
        trees.iter().try_for_each(|tree| self.for_each(*tree, &[], usize::MAX, |_| Ok(true)))
    }

    pub(super) fn read(&self, tree: u8, key: &[u8]) -> Result<Option<IVec>, DatabaseError> {
        let tree = self.tree(tree)?;
        guarded("read a record", || tree.get(key).map_err(DatabaseError::sled("read a record")))
    }

    /// Visits records with keys ≥ `from` in order, until `visit` says false.
    pub(super) fn for_each<E: From<DatabaseError>>(
        &self,
        tree: u8,
        from: &[u8],
        step: usize,
        mut visit: impl FnMut(RawPair) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut from = from.to_vec();
        let step = step.clamp(1, STEP_RECORDS);
        loop {
            let some = self.some(tree, &from, step)?;
            let is_last = some.len() < step;
            if let Some((key, _)) = some.last() {
                // The least key behind this one.
                from = [key.as_ref(), &[0]].concat();
            }
            for pair in some {
                if !visit(pair)? {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn some(&self, tree: u8, from: &[u8], count: usize) -> Result<Vec<RawPair>, DatabaseError> {
        let tree = self.tree(tree)?;
        guarded("read records", || {
            let found = tree.range(from..).take(count).collect::<Result<Vec<_>, _>>();
            found.map_err(DatabaseError::sled("read records"))
        })
    }

    /// Makes all changes durable, or none: one transaction, then sled's flush, then the file's.
    pub(super) fn apply(&self, writes: &[RawWrite]) -> Result<(), DatabaseError> {
        let concerned = |number: u8| writes.iter().any(|write| write.tree == number);
        let concerned: Vec<_> =
            self.trees.iter().filter(|(number, _)| concerned(*number)).collect();
        let trees: Vec<_> = concerned.iter().map(|(_, tree)| tree).collect();
        guarded("commit", || {
            let result = trees.transaction(|views| {
                let views = concerned.iter().map(|(number, _)| *number).zip(views).collect();
                write_all(&views, writes)
            });
            match result {
                Ok(()) => self.make_durable(),
                Err(TransactionError::Storage(source) | TransactionError::Abort(source)) => {
                    Err(DatabaseError::Sled { attempted: "commit", source })
                }
            }
        })
    }

    /// Makes durable what was committed.
    pub(super) fn make_durable(&self) -> Result<(), DatabaseError> {
        guarded("flush", || self.db.flush().map_err(DatabaseError::sled("flush")))?;
        self.file.sync_data().map_err(DatabaseError::Sync)
    }

    fn tree(&self, number: u8) -> Result<&sled::Tree, DatabaseError> {
        let found = self.trees.iter().find(|(known, _)| *known == number);
        found.map(|(_, tree)| tree).ok_or(DatabaseError::NoTree(number))
    }
}

/// sled runs this again when it has to: it changes nothing but its views.
fn write_all(
    views: &BTreeMap<u8, &TransactionalTree>,
    writes: &[RawWrite],
) -> Result<(), ConflictableTransactionError<sled::Error>> {
    for RawWrite { tree, key, value } in writes {
        let Some(view) = views.get(tree) else { continue };
        match value {
            Some(value) => view.insert(key.as_slice(), value.as_slice())?,
            None => view.remove(key.as_slice())?,
        };
    }
    Ok(())
}

thread_local! {
    /// What sled does in this thread.
    static ATTEMPTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The files of the database that was opened last.
static OPENED: Mutex<Option<StoreFiles>> = Mutex::new(None);

/// For a hook of panics: what to say of one where it is sled's, as the calling thread tells. The store that was opened
/// last is tried in a child from now on before it is opened again, as after the error that the panic would become.
#[must_use]
pub fn blame_sled(panic: &PanicHookInfo<'_>) -> Option<String> {
    let is_its_own = || std::thread::current().name().is_some_and(|name| name.starts_with("sled-"));
    let own = || is_its_own().then_some("work in a thread of its own");
    let attempted = ATTEMPTED.get().or_else(own)?;
    let message = words_of_panic(panic.payload());
    let reason = DatabaseError::Panicked { attempted, message }.in_words();
    let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(files) = opened.as_ref() {
        // Without room for a name the next panic is met by the next process, and whoever starts it.
        let _ = files.suspect(&reason);
    }
    Some(reason)
}

/// Turns a panic of sled into an error. What it leaves half done in memory is never used again: the
/// caller begins a new process.
fn guarded<T>(
    attempted: &'static str,
    ask: impl FnOnce() -> Result<T, DatabaseError>,
) -> Result<T, DatabaseError> {
    let before = ATTEMPTED.replace(Some(attempted));
    let answer = catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|panic| {
        let message = words_of_panic(panic.as_ref());
        Err(DatabaseError::Panicked { attempted, message })
    });
    ATTEMPTED.set(before);
    answer
}

fn words_of_panic(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no words".to_owned()).chars().take(400).collect()
}
