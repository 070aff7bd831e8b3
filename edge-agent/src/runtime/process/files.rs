//! The small files in a pod's folder that outlive the agent.
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
use crate::ports::InstanceId;
pub(super) use crate::runtime::folder::{PodFolder, is_disk_full, moved_away_in, private_folder};
use crate::runtime::folder::{read, replace};
use serde::{Deserialize, Serialize};
use shared::model::{Revision, UnixMs};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Room kept for `exit.json` from before the pod starts, so that a full disk does not lose its end.
const EXIT_BYTES_RESERVED: usize = 1024;

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
    pub(super) fn control(&self) -> PathBuf {
        self.path().join("control")
    }

    /// A short name: the whole path has to fit `sun_path`.
    pub(super) fn results_socket(&self) -> PathBuf {
        self.path().join("results")
    }

    pub(super) fn shim_log(&self) -> PathBuf {
        self.path().join("shim.log")
    }

    /// The file of the pod's lock, open and not locked.
    pub(super) fn open_lock(&self) -> Attempt<File> {
        let path = self.path().join("lock");
        let opening = format!("open the lock {}", path.display());
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        options.open(&path).map_err(attempt(opening))
    }

    pub(super) fn state(&self) -> Option<StateFile> {
        read(&self.path().join("state.json"))
    }

    /// Whether there is a state that can't be read: the disk is at fault, not the pod.
    pub(super) fn state_is_unreadable(&self) -> bool {
        self.path().join("state.json").exists() && self.state().is_none()
    }

    pub(super) fn write_state(&self, state: &StateFile) -> Attempt<()> {
        let path = self.path().join("state.json");
        let writing = format!("write {}", path.display());
        let text = serde_json::to_vec(state).map_err(attempt(writing.clone()))?;
        replace(&path, &text).map_err(attempt(writing))
    }

    /// How `instance` ended, if that is known.
    pub(super) fn exit_of(&self, instance: InstanceId) -> Option<i32> {
        let exit: ExitFile = read(&self.path().join("exit.json"))?;
        (exit.instance == instance).then_some(exit.code)
    }

    /// Takes the room for [`Self::write_exit`] while there is room.
    pub(super) fn reserve_exit(&self) -> Attempt<()> {
        let path = self.path().join("exit.reserved");
        let reserving = format!("reserve room in {}", path.display());
        fs::write(&path, [b' '; EXIT_BYTES_RESERVED]).map_err(attempt(reserving))
    }

    /// Notes how a start ended, durably.
    pub(super) fn write_exit(&self, exit: ExitFile) -> Attempt<()> {
        let path = self.path().join("exit.json");
        let writing = format!("write {}", path.display());
        let text = serde_json::to_vec(&exit).map_err(attempt(writing.clone()))?;
        self.overwrite_reserved(&text, &path).map_err(attempt(writing))
    }

    fn overwrite_reserved(&self, text: &[u8], path: &Path) -> io::Result<()> {
        let reserved = self.path().join("exit.reserved");
        // Spaces after the JSON are part of it; the blocks are there already.
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).open(&reserved)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&reserved, path)?;
        File::open(self.path())?.sync_all()
    }

    /// Forgets the last start; logs and home stay.
    pub(super) fn forget(&self) {
        for name in ["state.json", "exit.json", "exit.reserved"] {
            let _ = fs::remove_file(self.path().join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::folder::tests::folder;

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
}
