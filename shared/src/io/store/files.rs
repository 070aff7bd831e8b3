//! The files of a store and beside it: the lock, the marker, the quarantine, the ballast.
//!
//! | file | what it is |
//! |---|---|
//! | `<folder>/` | sled's files, and `keyring` |
//! | `<folder>.lock` | held while the store is open; holds the number of the last commit |
//! | `<folder>.opening` | there while an open runs, or after one that did not end: the next one is wary |
//! | `<folder>.ballast` | given up when the disk is full, so that a store can be opened there |
//! | `<folder>.quarantined-<n>` | stores that could not be used; the newest two |
//!
//! It opens no database.

use super::OpenError;
use crate::io::keys::{create_private_folder, folder_of, sync_folder};
use rustix::fs::{
    FallocateFlags, FlockOperation, IFlags, fallocate, flock, ioctl_getflags, ioctl_setflags,
    statvfs,
};
use sha2::{Digest, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Opening writes a snapshot (3 bytes a record) and a segment of 512 KiB.
const BALLAST_BYTES: u64 = 2 << 20;

/// The reason of an open that never ended is a line; a marker that somebody else wrote is cut.
const REASON_BYTES_MAX: usize = 1000;

/// Each is as large as a store: one to look at, and one that came since.
const QUARANTINED_MAX: usize = 2;

/// A lock that was just released is held on for a moment: sled's threads keep the file until their last
/// task is dropped (seen in 2 of 25 runs), and a child has it between its fork and its exec.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Between two tries of a lock.
pub(super) const LOCK_PAUSE: Duration = Duration::from_millis(2);

const WITNESS_MAGIC: &[u8; 4] = b"hlw1";
const WITNESS_BYTES: usize = 24;

/// Where a store's files are.
#[derive(Debug, Clone)]
pub(super) struct StoreFiles {
    folder: PathBuf,
}

/// The store's lock: nobody else opens the store while this lives.
#[derive(Debug)]
pub(super) struct StoreLock {
    file: File,
}

impl StoreFiles {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn keyring(&self) -> PathBuf {
        self.folder.join("keyring")
    }

    /// Whether sled has written something. A snapshot counts as well: without its database sled
    /// panics.
    pub(super) fn has_database(&self) -> bool {
        let is_written = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            let is_database = name == "db" && entry.metadata().is_ok_and(|db| db.len() > 0);
            is_database || name.to_string_lossy().starts_with("snap.")
        };
        fs::read_dir(&self.folder).into_iter().flatten().flatten().any(|entry| is_written(&entry))
    }

    /// Takes the lock, or says who is in the way.
    pub(super) fn lock(&self) -> Result<StoreLock, OpenError> {
        let parent = folder_of(&self.folder);
        create_private_folder(parent).map_err(failed("create the folder", parent))?;
        let path = self.beside("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed("open the lock", &path))?;
        let begin = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(StoreLock { file }),
                Err(rustix::io::Errno::WOULDBLOCK) if begin.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(OpenError::Locked { folder: self.folder.clone() });
                }
                Err(error) => return Err(failed("lock", &path)(error.into())),
            }
        }
    }

    pub(super) fn create_folder(&self) -> Result<(), OpenError> {
        let created = create_private_folder(&self.folder);
        created.map_err(failed("create the folder", &self.folder))?;
        self.keep_names_durable();
        Ok(())
    }

    /// Asks the file system to make names in the folder durable as they change (`chattr +D`: ext4,
    /// f2fs, ubifs). sled renames a new snapshot into place and at once overwrites segments of its log
    /// that only an older recovery needs: where the power fails and that rename is lost, it would find
    /// an empty store. Elsewhere [`Self::sync_names`] ends that window when the open ends.
    pub(super) fn keep_names_durable(&self) {
        let Ok(folder) = File::open(&self.folder) else { return };
        let Ok(flags) = ioctl_getflags(&folder) else { return };
        if !flags.contains(IFlags::DIRSYNC) {
            let _ = ioctl_setflags(&folder, flags | IFlags::DIRSYNC);
        }
    }

    /// Makes durable the names in the folder.
    pub(super) fn sync_names(&self) -> Result<(), OpenError> {
        let synced = sync_folder(&self.folder);
        synced.map_err(failed("make durable the folder", &self.folder))
    }

    /// Why the store is not to be trusted, if an open left its marker.
    pub(super) fn suspicion(&self) -> Option<String> {
        let reason = fs::read(self.beside("opening")).ok()?;
        let reason = reason.get(..REASON_BYTES_MAX).unwrap_or(&reason);
        let words = String::from_utf8_lossy(reason).trim().to_owned();
        Some(if words.is_empty() { "the last open did not end".to_owned() } else { words })
    }

    /// Leaves the marker. An empty reason stands for an open that never ended; it needs no room but
    /// its name. False when even that could not be written.
    pub(super) fn suspect(&self, reason: &str) -> bool {
        let path = self.beside("opening");
        // Without room for the words, the empty file that the failed write left is marker enough.
        fs::write(&path, reason).is_ok() || path.exists()
    }

    pub(super) fn clear_suspicion(&self) {
        // One that can't be removed costs the next open a child process, nothing else.
        let _ = fs::remove_file(self.beside("opening"));
    }

    /// A snapshot that sled was writing when the power went would be taken for a whole one.
    pub(super) fn remove_unfinished_snapshots(&self) -> Result<(), OpenError> {
        let failed = || failed("remove an unfinished snapshot in", &self.folder);
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed())?,
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                match fs::remove_file(entry.path()) {
                    // A process that is about to end has finished it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed.map_err(failed())?,
                }
            }
        }
        Ok(())
    }

    /// Puts the store aside and removes the oldest of those that were.
    pub(super) fn quarantine(&self) -> Result<PathBuf, OpenError> {
        let mut before = self.quarantined();
        before.sort_unstable();
        let number = before.last().map_or(1, |(number, _)| number.saturating_add(1));
        let aside = self.beside(&format!("quarantined-{number}"));
        fs::rename(&self.folder, &aside).map_err(failed("put aside", &self.folder))?;
        let surplus = (before.len() + 1).saturating_sub(QUARANTINED_MAX);
        for (_, old) in before.into_iter().take(surplus) {
            // What stays is only room that is lost.
            let _ = fs::remove_dir_all(old);
        }
        let parent = folder_of(&self.folder);
        sync_folder(parent).map_err(failed("make durable the folder", parent))?;
        Ok(aside)
    }

    fn quarantined(&self) -> Vec<(u64, PathBuf)> {
        let own = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let prefix = format!("{own}.quarantined-");
        let entries = fs::read_dir(folder_of(&self.folder)).into_iter().flatten().flatten();
        let number = |name: OsString| name.to_str()?.strip_prefix(&prefix)?.parse().ok();
        entries.filter_map(|entry| Some((number(entry.file_name())?, entry.path()))).collect()
    }

    /// Makes a new store's names durable: its files, its folder, its folder's folder.
    pub(super) fn sync_created(&self) -> Result<(), OpenError> {
        let parent = folder_of(&self.folder);
        for path in [&self.folder.join("conf"), &self.folder.join("db"), &self.folder, parent] {
            sync_folder(path).map_err(failed("make durable", path))?;
        }
        Ok(())
    }

    /// Bytes that a process without privileges may still write.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let found = statvfs(&self.folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Takes room on the disk that can be given up later. False when there is none to spare.
    pub(super) fn hold_ballast(&self, free_bytes_min: u64) -> bool {
        let path = self.beside("ballast");
        if fs::metadata(&path).is_ok_and(|found| found.len() >= BALLAST_BYTES) {
            return true;
        }
        if self.free_bytes().is_ok_and(|free| free < free_bytes_min + BALLAST_BYTES) {
            return false;
        }
        let taken = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES)?));
        if taken.is_err() {
            // On a file system without reservations there is no ballast; nothing else depends on it.
            let _ = fs::remove_file(&path);
        }
        taken.is_ok()
    }

    /// Gives the room back. False when there was none.
    pub(super) fn release_ballast(&self) -> bool {
        fs::remove_file(self.beside("ballast")).is_ok()
    }

    /// Bytes on disk of all files of the store.
    pub(super) fn size_bytes(&self) -> u64 {
        let size = |folder: &Path| -> u64 {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let files = entries.filter_map(|entry| entry.metadata().ok());
            files.filter(fs::Metadata::is_file).map(|file| file.blocks() * 512).sum()
        };
        size(&self.folder) + size(&self.folder.join("blobs"))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.folder.as_os_str().to_owned();
        name.push(OsStr::new("."));
        name.push(suffix);
        PathBuf::from(name)
    }
}

impl StoreLock {
    /// Notes the number of the last commit of the store with these keys. Not synced but by
    /// [`Self::sync`]: it is a witness against a store that comes back shorter than it was, not a
    /// promise.
    pub(super) fn note(&self, keyring_id: u32, commits: u64) {
        let body = [&WITNESS_MAGIC[..], &keyring_id.to_be_bytes(), &commits.to_be_bytes()].concat();
        let digest = Sha256::digest(&body);
        let witness: Vec<u8> = body.into_iter().chain(digest).take(WITNESS_BYTES).collect();
        let _ = self.file.write_all_at(&witness, 0);
    }

    /// Makes durable what was noted: from now on not even a power cut takes the witness of what there
    /// is now.
    pub(super) fn sync(&self) {
        // A witness that can't be kept is missed by nobody but a damaged store.
        let _ = self.file.sync_data();
    }

    /// The number that was noted last; 0 when there is none of a store with these keys.
    pub(super) fn noted(&self, keyring_id: u32) -> u64 {
        let mut witness = [0; WITNESS_BYTES];
        let read = self.file.read_exact_at(&mut witness, 0);
        read.ok().and_then(|()| parse_witness(&witness, keyring_id)).unwrap_or(0)
    }
}

fn parse_witness(witness: &[u8; WITNESS_BYTES], keyring_id: u32) -> Option<u64> {
    let (body, check) = witness.split_at_checked(16)?;
    let numbers = body.strip_prefix(WITNESS_MAGIC)?;
    let (id, commits) = numbers.split_first_chunk::<4>()?;
    let is_whole = Sha256::digest(body).starts_with(check);
    let is_ours = u32::from_be_bytes(*id) == keyring_id;
    (is_whole && is_ours).then(|| commits.try_into().ok().map(u64::from_be_bytes))?
}

pub(super) fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { attempted, path: path.to_owned(), source }
}
