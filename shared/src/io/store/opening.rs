//! The protocol of an open: what is tried, in which order, and what becomes of a store that can't be
//! used. The lock is held by the caller.
//!
//! An open runs in a thread with a deadline, behind a marker. Where the marker of an earlier open is
//! found, a child process tries the store first; so a boot pays for a child only after a failure. A
//! wrong key is never taken for damage, and neither is a full disk, missing rights, or another process
//! that has the store.

use super::database::{Database, DatabaseError, Remedy};
use super::files::{LOCK_PATIENCE, LOCK_PAUSE, StoreFiles, failed};
use super::probe::{Probed, probe};
use super::{ALL_TREES, EAGER_TREES, OpenError, Opening};
use crate::io::keys::write_secret;
use crate::trust::record::{Keyring, KeyringError, WrappingKey};
use rand_chacha::ChaCha20Rng;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The two copies of the keyring lie this far apart, so that one bad sector leaves one.
const COPY_BYTES: usize = 4096;

/// Room that [`open`] leaves to others when it takes the ballast.
const FREE_BYTES_MIN: u64 = 8 << 20;

/// Why one attempt ended.
enum Ended {
    Damaged(String),
    Refused(OpenError),
}

impl From<OpenError> for Ended {
    fn from(error: OpenError) -> Self {
        Self::Refused(error)
    }
}

/// Opens the store or makes it; puts one that can't be used aside.
pub(super) fn open(
    files: &StoreFiles,
    key: &WrappingKey,
    deadline: Duration,
    rng: &mut ChaCha20Rng,
) -> Result<(Database, Keyring, Opening), OpenError> {
    files.keep_names_durable();
    // Before the trial in a child, which would take half a snapshot for damage.
    files.remove_unfinished_snapshots()?;
    let mut aside = None;
    let opened = match wary(files, deadline).and_then(|()| attempt(files, key, deadline, rng)) {
        Err(Ended::Damaged(reason)) => {
            aside = Some((files.quarantine()?, reason));
            files.clear_suspicion();
            attempt(files, key, deadline, rng)
        }
        result => result,
    };
    let (database, keyring, is_new) = opened.map_err(|ended| match ended {
        Ended::Refused(error) => error,
        Ended::Damaged(reason) => OpenError::Unusable { folder: files.folder().to_owned(), reason },
    })?;
    files.hold_ballast(FREE_BYTES_MIN);
    let opening = match aside {
        Some((folder, reason)) => Opening::Quarantined { folder, reason },
        None if is_new => Opening::Created,
        None => Opening::Existing,
    };
    Ok((database, keyring, opening))
}

/// Opens the database again after a commit failed, with the same keys.
pub(super) fn reopen(files: &StoreFiles, deadline: Duration) -> Result<Database, OpenError> {
    open_database(files, deadline).map_err(|ended| match ended {
        Ended::Refused(error) => error,
        Ended::Damaged(reason) => {
            files.suspect(&reason);
            OpenError::Restart { reason }
        }
    })
}

/// After an open that did not end, a child tries the store first.
fn wary(files: &StoreFiles, deadline: Duration) -> Result<(), Ended> {
    let Some(reason) = files.suspicion().filter(|_| files.has_database()) else { return Ok(()) };
    match probe(files, deadline) {
        Probed::Unusable(found) => Err(Ended::Damaged(format!("{reason}; tried again: {found}"))),
        Probed::Usable | Probed::Unknown => Ok(()),
    }
}

fn attempt(
    files: &StoreFiles,
    key: &WrappingKey,
    deadline: Duration,
    rng: &mut ChaCha20Rng,
) -> Result<(Database, Keyring, bool), Ended> {
    let is_new_database = !files.has_database();
    let (keyring, is_new) = load_or_make_keyring(files, key, rng)?;
    let database = open_database(files, deadline)?;
    if is_new_database {
        files.sync_created()?;
    }
    Ok((database, keyring, is_new))
}

fn open_database(files: &StoreFiles, deadline: Duration) -> Result<Database, Ended> {
    // A marker needs a name on the disk; without it, a hang would meet every start anew.
    let is_marked = files.suspect("") || (files.release_ballast() && files.suspect(""));
    if !is_marked && let Probed::Unusable(reason) = probe(files, deadline) {
        return Err(Ended::Damaged(reason));
    }
    let opened = match try_open(files, deadline)? {
        Err(error) if error.remedy() == Remedy::Room && files.release_ballast() => {
            try_open(files, deadline)?
        }
        result => result,
    };
    let needs_new_process = |e: &DatabaseError| e.remedy() == Remedy::NewProcess;
    if opened.is_ok() {
        files.sync_names()?;
    }
    if !opened.as_ref().is_err_and(needs_new_process) {
        files.clear_suspicion();
    }
    opened.map_err(|error| ended(files, error))
}

/// Tries once, but for a lock that is about to be released.
pub(super) fn try_open(
    files: &StoreFiles,
    deadline: Duration,
) -> Result<Result<Database, DatabaseError>, OpenError> {
    // Half a snapshot, of a kill or of a try that met a full disk, makes sled refuse a good store.
    files.remove_unfinished_snapshots()?;
    let begin = Instant::now();
    loop {
        match Database::open(files.folder(), &ALL_TREES, &EAGER_TREES, deadline) {
            Err(error) if error.remedy() == Remedy::Unlock && begin.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_PAUSE);
            }
            result => return Ok(result),
        }
    }
}

fn ended(files: &StoreFiles, error: DatabaseError) -> Ended {
    let folder = files.folder().to_owned();
    Ended::Refused(match error.remedy() {
        Remedy::Quarantine => return Ended::Damaged(error.in_words()),
        Remedy::NewProcess => OpenError::Restart { reason: error.in_words() },
        Remedy::Unlock => OpenError::Locked { folder },
        Remedy::Room | Remedy::Operator => {
            failed("open the store in", &folder)(io::Error::other(error))
        }
    })
}

fn load_or_make_keyring(
    files: &StoreFiles,
    key: &WrappingKey,
    rng: &mut ChaCha20Rng,
) -> Result<(Keyring, bool), Ended> {
    let path = files.keyring();
    match std::fs::read(&path) {
        Ok(wrapped) => Ok((unwrap_keyring(files, key, &wrapped)?, false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !files.has_database() => {
            Ok((make_keyring(files, key, rng)?, true))
        }
        Err(error) if is_damage(&error) => Err(Ended::Damaged(format!("its keyring: {error}"))),
        Err(error) => Err(failed("read the keyring", &path)(error).into()),
    }
}

/// A missing keyring beside a database, a folder in its place, a bad sector.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::NotFound | Kind::IsADirectory | Kind::NotADirectory)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

fn unwrap_keyring(files: &StoreFiles, key: &WrappingKey, copies: &[u8]) -> Result<Keyring, Ended> {
    let mut wrong_key = false;
    for copy in copies.chunks(COPY_BYTES) {
        let wrapped = copy.get(..Keyring::WRAPPED_BYTES).unwrap_or_default();
        match Keyring::unwrap(key, wrapped) {
            Ok(keyring) => return Ok(keyring),
            Err(KeyringError::WrongKey) => wrong_key = true,
            Err(KeyringError::Damaged) => {}
        }
    }
    if wrong_key {
        return Err(OpenError::Key { folder: files.folder().to_owned() }.into());
    }
    Err(Ended::Damaged("both copies of its keyring are damaged".to_owned()))
}

fn make_keyring(
    files: &StoreFiles,
    key: &WrappingKey,
    rng: &mut ChaCha20Rng,
) -> Result<Keyring, OpenError> {
    files.create_folder()?;
    let keyring = Keyring::generate(rng);
    let mut copy = keyring.wrap(key, rng);
    copy.resize(COPY_BYTES, 0);
    let path: PathBuf = files.keyring();
    let written = write_secret(&path, &[&copy[..], &copy[..]].concat());
    written.map_err(|error| failed("write the keyring", &path)(io::Error::other(error)))?;
    Ok(keyring)
}
