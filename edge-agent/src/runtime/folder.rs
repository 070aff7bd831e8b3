//! The folder of one pod: what is in it whichever runtime runs the pod.
//!
//! | entry | holds |
//! |---|---|
//! | `log/` | what the pod prints, rotated |
//! | `home/` | of a process: its `HOME` and the folder it starts in |
//! | `volumes/` | files of ConfigMaps; those of Secrets lie elsewhere, in memory |
//! | `empty/` | empty folders that the pod writes to, by the content that it is of |
//!
//! What else a runtime keeps there is told in its own module. Refuses to guess: a file that can't be read is no
//! file.

use super::layers::{Attempt, attempt};
use crate::ports::{InstanceId, RuntimeError};
use serde::de::DeserializeOwned;
use shared::model::PodId;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What one of a runtime's own files holds at most; a longer one is not ours.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The beginning of the name of a folder that waits for its removal.
const REMOVED: &str = ".removed-";

/// The folder of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodFolder {
    path: PathBuf,
}

impl PodFolder {
    /// The folder of `pod` below the folder of all pods.
    pub(super) fn of(folder: &Path, pod: &PodId) -> Self {
        // An underscore is in no name, so no two pods share a folder.
        let name = format!("{}_{}", pod.workload.namespace(), pod.name());
        Self { path: folder.join(name) }
    }

    /// A folder that is known by its path.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Every pod's folder in `folder`.
    pub(super) fn all_in(folder: &Path) -> Attempt<Vec<(PodId, Self)>> {
        let reading = || format!("read the folder of pods {}", folder.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).map_err(attempt(reading()))? {
            let entry = entry.map_err(attempt(reading()))?;
            let name = entry.file_name();
            if let Some(pod) = name.to_str().and_then(pod_of_folder_name) {
                found.push((pod, Self { path: entry.path() }));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn home(&self) -> PathBuf {
        self.path.join("home")
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    pub(super) fn empty(&self) -> PathBuf {
        self.path.join("empty")
    }

    /// The folder's own name, which no other pod's folder has.
    pub(super) fn name(&self) -> &std::ffi::OsStr {
        self.path.file_name().unwrap_or_default()
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Makes the folder with all that a start needs.
    pub(super) fn create(&self) -> Attempt<()> {
        for path in [self.home(), self.log()] {
            let making = format!("make the folder {}", path.display());
            private_folder(&path).map_err(attempt(making))?;
        }
        Ok(())
    }

    /// Moves the folder away, so that nothing finds it any more; the rest may take its time.
    pub(super) fn move_away(&self, instance: InstanceId) -> Option<PathBuf> {
        let name = self.path.file_name()?.to_str()?;
        let away = self.path.with_file_name(format!("{REMOVED}{instance}-{name}"));
        let _ = fs::remove_dir_all(&away);
        fs::rename(&self.path, &away).ok().map(|()| away)
    }
}

/// Makes a folder that only its owner can enter, with those above it.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Folders in `folder` that were moved away and are still there.
pub(super) fn moved_away_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let moved = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(REMOVED)));
    moved.map(|entry| entry.path()).collect()
}

fn pod_of_folder_name(name: &str) -> Option<PodId> {
    let (namespace, name) = name.split_once('_')?;
    format!("{namespace}/{name}").parse().ok()
}

/// What a file of JSON says, if it can be read.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Puts a file in place of another, whole or not at all; not synced.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600).open(&new)?.write_all(text)?;
    fs::rename(&new, path)
}

/// Whether an error came from a full disk.
pub(super) fn is_disk_full(error: &RuntimeError) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let system = error.source.downcast_ref::<rustix::io::Errno>().map(|errno| errno.kind());
    let kind = error.source.downcast_ref::<io::Error>().map(io::Error::kind).or(system);
    matches!(kind, Some(StorageFull | QuotaExceeded))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The folder of a pod, for as long as the first of the two lives.
    pub(in super::super) fn folder() -> (tempfile::TempDir, PodFolder) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = PodFolder::of(temporary.path(), &"default/ocr-0".parse().unwrap());
        folder.create().unwrap();
        (temporary, folder)
    }

    #[test]
    fn a_folder_is_found_again_as_its_pod_and_others_are_left_alone() {
        let (temporary, folder) = folder();
        fs::create_dir(temporary.path().join("lost+found")).unwrap();
        fs::create_dir(temporary.path().join("a_b")).unwrap();
        let found = PodFolder::all_in(temporary.path()).unwrap();
        assert_eq!(found, [("default/ocr-0".parse().unwrap(), folder)]);
    }

    #[test]
    fn a_folder_moved_away_is_no_pod_and_is_found_for_removal() {
        let (temporary, folder) = folder();
        let away = folder.move_away(InstanceId(1)).unwrap();
        assert!(PodFolder::all_in(temporary.path()).unwrap().is_empty());
        assert_eq!(moved_away_in(temporary.path()), [away]);
    }
}
