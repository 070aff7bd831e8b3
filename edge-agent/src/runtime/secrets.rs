//! Where Secrets lie while a pod has them: in memory, in a folder that is its owner's alone.
//!
//! On a file system that is in memory already (`/run`, `$XDG_RUNTIME_DIR`, `/dev/shm`), and none that the agent
//! mounts itself: under systemd that would be seen in the mounts of the service alone, and a pod that outlives
//! an agent would keep the one of the agent that started it. A machine that swaps may write them to its swap:
//! that is for the machine to encrypt.

use super::StartFailure;
use super::folder::PodFolder;
use rustix::fs::statfs;
use rustix::process::geteuid;
use shared::model::{NodeId, ObjectName, SecretData, SecretItem};
use shared::trust::seal::open_secret;
use shared::trust::session::SessionPrivateKey;
use shared::wire::Digest;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use tracing::warn;

/// What `statfs` calls file systems that are in memory (linux/magic.h).
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Opens Secrets that were sealed to this node, and knows where their files go.
#[derive(Debug)]
pub struct Secrets {
    key: SessionPrivateKey,
    node: NodeId,
    /// The first that is in memory is taken.
    candidates: Vec<PathBuf>,
    /// The name of this runtime's folder below it: other agents of the machine have others.
    name: String,
}

impl Secrets {
    /// Those of `node`, which has this session key. Their files go below the first of `candidates` that is in
    /// memory; `pods` is the folder of all pods.
    #[must_use]
    pub fn new(
        key: SessionPrivateKey,
        node: NodeId,
        candidates: Vec<PathBuf>,
        pods: &Path,
    ) -> Self {
        // However it is written.
        let pods = fs::canonicalize(pods).unwrap_or_else(|_| pods.to_owned());
        let digest = Digest::of(pods.as_os_str().as_bytes());
        let name = format!("hinterland-{}-{digest}", geteuid().as_raw());
        Self { key, node, candidates, name }
    }

    /// Where a machine has file systems that are in memory.
    #[must_use]
    pub fn usual_candidates() -> Vec<PathBuf> {
        let of_user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let all = [Some(PathBuf::from("/run")), of_user, Some(PathBuf::from("/dev/shm"))];
        all.into_iter().flatten().filter(|path| path.is_absolute()).collect()
    }

    /// What is in a Secret.
    pub(super) fn open(
        &self,
        name: &ObjectName,
        item: &SecretItem,
    ) -> Result<SecretData, StartFailure> {
        open_secret(&self.key, &self.node, name, item).map_err(|error| {
            StartFailure::new("SecretUnreadable", format!("{name} can't be opened: {error}"))
        })
    }

    /// The folder of one pod's Secrets.
    pub(super) fn of_pod(&self, folder: &PodFolder) -> Result<PathBuf, StartFailure> {
        let mut why = Vec::new();
        for candidate in &self.candidates {
            match self.own_folder(candidate) {
                Ok(own) => return Ok(own.join(folder.name())),
                Err(problem) => why.push(format!("{}: {problem}", candidate.display())),
            }
        }
        let why = why.join("; ");
        let message =
            format!("Secrets are kept in memory alone, and there is no place for them: {why}");
        Err(StartFailure::new("NoTmpfs", message))
    }

    /// This runtime's folder below `candidate`, made where it is not there. In a folder that all may write to
    /// another user may have made one of this name: it is not used.
    fn own_folder(&self, candidate: &Path) -> Result<PathBuf, String> {
        if !is_in_memory(candidate).map_err(|error| error.to_string())? {
            return Err("is not in memory (expected a tmpfs)".to_owned());
        }
        let own = candidate.join(&self.name);
        match DirBuilder::new().mode(0o700).create(&own) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("no folder can be made: {error}"));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(&own).map_err(|error| error.to_string())?;
        let is_own =
            found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0;
        is_own.then_some(own).ok_or_else(|| "its folder there is open to others".to_owned())
    }

    /// Removes what a pod has.
    pub(super) fn forget(&self, folder: &PodFolder) {
        for path in self.places().map(|place| place.join(folder.name())) {
            if let Err(error) = fs::remove_dir_all(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!(path = %path.display(), %error, "Secrets of a pod were not removed");
            }
        }
    }

    /// Removes what is of none of these pods.
    pub(super) fn forget_others(&self, pods: &[PodFolder]) {
        for place in self.places() {
            for entry in fs::read_dir(place).into_iter().flatten().flatten() {
                let folder = PodFolder::at(entry.path());
                if !pods.iter().any(|pod| pod.name() == folder.name()) {
                    self.forget(&folder);
                }
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = PathBuf> {
        let own = |place: &PathBuf| {
            fs::symlink_metadata(place)
                .is_ok_and(|found| found.is_dir() && found.uid() == geteuid().as_raw())
        };
        self.candidates.iter().map(|candidate| candidate.join(&self.name)).filter(own)
    }
}

fn is_in_memory(path: &Path) -> io::Result<bool> {
    let kind = statfs(path)?.f_type;
    // The type differs between architectures.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless, reason = "other architectures")]
    let kind = kind as i64;
    Ok([TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind))
}
