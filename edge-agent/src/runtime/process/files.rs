//! The folder of one pod and the small files in it that outlive the agent.
//!
//! | file | written by | holds |
//! |---|---|---|
//! | `lock` | nobody | nothing; a `flock` on it is held by the shim and every descendant of the pod |
//! | `state.json` | shim | which start this is, and who shim and main process are |
//! | `exit.json` | shim | how a start ended; durable before the shim ends |
//! | `control` | agent | a FIFO that takes orders to stop |
//! | `shim.log` | shim | what the shim itself has to say |
//! | `log/` | shim | what the pod prints, rotated |
//! | `results` | agent | the socket to which the pod posts its results |
//! | `home/` | pod | its `HOME` and the folder it starts in |
//! | `volumes/` | agent | files of ConfigMaps; those of Secrets lie elsewhere, in memory |
//!
//! `state.json` is renamed into place, but not synced: after a power cut the boot is another, and
//! nothing that it says would hold. Refuses to guess: a file that can't be read is no file.

use super::identity::ProcessIdentity;
use super::layers::{Attempt, attempt};
use crate::placement::{MainShare, Placement};
use crate::ports::{InstanceId, RuntimeError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::model::{PodId, Revision, UnixMs};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What one of these files holds at most; a longer one is not ours.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Room kept for `exit.json` from before the pod starts, so that a full disk does not lose its end.
const EXIT_BYTES_RESERVED: usize = 1024;

/// The beginning of the name of a folder that waits for its removal.
const REMOVED: &str = ".removed-";

/// The folder of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodFolder {
    path: PathBuf,
}

/// What the shim notes of the start that it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StateFile {
    pub(super) instance: InstanceId,
    pub(super) revision: Revision,
    pub(super) boot_id: String,
    pub(super) shim: ProcessIdentity,
    /// The pod's main process; absent until there is one. Written before it runs what it should.
    pub(super) main: Option<ProcessIdentity>,
    pub(super) started_at: UnixMs,
    pub(super) working_dir: PathBuf,
    /// What the pod was given.
    #[serde(default)]
    pub(super) placement: Placement,
    /// What it takes besides GPUs.
    #[serde(default)]
    pub(super) taken: Option<MainShare>,
    /// What in its environment is the node's own, by name.
    #[serde(default)]
    pub(super) parameters_id: u64,
}

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ExitFile {
    pub(super) instance: InstanceId,
    pub(super) code: i32,
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

    /// The folder's own name, which no other pod's folder has.
    pub(super) fn name(&self) -> &std::ffi::OsStr {
        self.path.file_name().unwrap_or_default()
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(super) fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    /// A short name: the whole path has to fit `sun_path`.
    pub(super) fn results_socket(&self) -> PathBuf {
        self.path.join("results")
    }

    pub(super) fn shim_log(&self) -> PathBuf {
        self.path.join("shim.log")
    }

    /// Makes the folder with all that a start needs.
    pub(super) fn create(&self) -> Attempt<()> {
        for path in [self.home(), self.log()] {
            let making = format!("make the folder {}", path.display());
            private_folder(&path).map_err(attempt(making))?;
        }
        Ok(())
    }

    /// The file of the pod's lock, open and not locked.
    pub(super) fn open_lock(&self) -> Attempt<File> {
        let path = self.path.join("lock");
        let opening = format!("open the lock {}", path.display());
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        options.open(&path).map_err(attempt(opening))
    }

    pub(super) fn state(&self) -> Option<StateFile> {
        read(&self.path.join("state.json"))
    }

    /// Whether there is a state that can't be read: the disk is at fault, not the pod.
    pub(super) fn state_is_unreadable(&self) -> bool {
        self.path.join("state.json").exists() && self.state().is_none()
    }

    pub(super) fn write_state(&self, state: &StateFile) -> Attempt<()> {
        let path = self.path.join("state.json");
        let writing = format!("write {}", path.display());
        let text = serde_json::to_vec(state).map_err(attempt(writing.clone()))?;
        replace(&path, &text).map_err(attempt(writing))
    }

    /// How `instance` ended, if that is known.
    pub(super) fn exit_of(&self, instance: InstanceId) -> Option<i32> {
        let exit: ExitFile = read(&self.path.join("exit.json"))?;
        (exit.instance == instance).then_some(exit.code)
    }

    /// Takes the room for [`Self::write_exit`] while there is room.
    pub(super) fn reserve_exit(&self) -> Attempt<()> {
        let path = self.path.join("exit.reserved");
        let reserving = format!("reserve room in {}", path.display());
        fs::write(&path, [b' '; EXIT_BYTES_RESERVED]).map_err(attempt(reserving))
    }

    /// Notes how a start ended, durably.
    pub(super) fn write_exit(&self, exit: ExitFile) -> Attempt<()> {
        let path = self.path.join("exit.json");
        let writing = format!("write {}", path.display());
        let text = serde_json::to_vec(&exit).map_err(attempt(writing.clone()))?;
        self.overwrite_reserved(&text, &path).map_err(attempt(writing))
    }

    fn overwrite_reserved(&self, text: &[u8], path: &Path) -> io::Result<()> {
        let reserved = self.path.join("exit.reserved");
        // Spaces after the JSON are part of it; the blocks are there already.
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).open(&reserved)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&reserved, path)?;
        File::open(&self.path)?.sync_all()
    }

    /// Forgets the last start; logs and home stay.
    pub(super) fn forget(&self) {
        for name in ["state.json", "exit.json", "exit.reserved"] {
            let _ = fs::remove_file(self.path.join(name));
        }
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

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
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
    fn an_exit_is_of_one_start_only() {
        let (_temporary, folder) = folder();
        folder.reserve_exit().unwrap();
        folder.write_exit(ExitFile { instance: InstanceId(7), code: 3 }).unwrap();
        assert_eq!(folder.exit_of(InstanceId(7)), Some(3));
        assert_eq!(folder.exit_of(InstanceId(8)), None);
        folder.forget();
        assert_eq!(folder.exit_of(InstanceId(7)), None);
    }

    #[test]
    fn a_damaged_file_is_no_file() {
        let (_temporary, folder) = folder();
        for text in ["", "{", "null", "[1]", "\0\0\0\0", "{\"instance\":\"x\"}"] {
            fs::write(folder.path().join("state.json"), text).unwrap();
            fs::write(folder.path().join("exit.json"), text).unwrap();
            assert_eq!(folder.state(), None, "`{text}` was accepted");
            assert_eq!(folder.exit_of(InstanceId(0)), None, "`{text}` was accepted");
        }
    }

    #[test]
    fn a_folder_moved_away_is_no_pod_and_is_found_for_removal() {
        let (temporary, folder) = folder();
        let away = folder.move_away(InstanceId(1)).unwrap();
        assert!(PodFolder::all_in(temporary.path()).unwrap().is_empty());
        assert_eq!(moved_away_in(temporary.path()), [away]);
    }
}
