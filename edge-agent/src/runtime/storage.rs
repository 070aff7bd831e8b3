//! Folders that pods write to, and files of the node that they mount.
//!
//! | volume | lies in | until |
//! |---|---|---|
//! | `emptyDir` | `<pods>/<pod>/empty/<content>/<volume>` | the pod leaves the node, or is of another content |
//! | the same in memory | a file system in memory at `<pods>/.memory/<pod>/<content>/<volume>` | the same, or the power goes |
//! | `persistentVolumeClaim` | `<pods>/../volumes/<namespace>_<claim>` | somebody removes it by hand |
//! | `hostPath` | the node, within what its configuration allows | |
//!
//! The content is a pod's revision with its node's parameters: a start again of the same finds what was there.

use super::access::Access;
use super::allowed::Allowed;
use super::folder::{PodFolder, is_disk_full, private_folder};
use super::layers::{Attempt, attempt};
use super::{StartFailure, memory};
use crate::ports::{RuntimeError, StartRequest, VolumeContent, VolumeSource};
use shared::in_words;
use shared::model::{HostPathType, HostPathVolume};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tracing::warn;

/// The folder of empty folders in memory, below that of all pods. No pod's folder is called so.
const MEMORY: &str = ".memory";

/// The folder of what outlives pods, beside that of all pods.
const CLAIMS: &str = "volumes";

/// What is made on the way to a file of the node: for all to read, as kubelet makes it.
const HOST_FOLDER_MODE: u32 = 0o755;

/// Where a runtime's pods have their folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    claims: PathBuf,
    host_paths: Vec<PathBuf>,
    memory: PathBuf,
}

impl Storage {
    /// `pods` is the folder of all pods; that of what outlives them stands beside it.
    pub(super) fn new(pods: &Path, allowed: &Allowed) -> Self {
        let host_paths = allowed.host_paths.clone();
        Self { claims: pods.with_file_name(CLAIMS), host_paths, memory: pods.join(MEMORY) }
    }

    /// Where a volume of a start lies; `None` for one that is made of files.
    ///
    /// # Errors
    /// Why the pod can't have it.
    pub(super) fn place(
        &self,
        folder: &PodFolder,
        request: &StartRequest,
        volume: &VolumeContent,
        access: Access,
    ) -> Result<Option<PathBuf>, StartFailure> {
        let name = &volume.name;
        let path = match &volume.source {
            VolumeSource::EmptyDir { is_in_memory: false, .. } => {
                let path = folder.empty().join(content_of(request)).join(name);
                make_writable(&path, access).map_err(|error| failure(&error))?;
                path
            }
            VolumeSource::EmptyDir { is_in_memory: true, bytes_max } => {
                let path = self.memory.join(folder.name()).join(content_of(request)).join(name);
                let mounted = memory::mount(&path, *bytes_max);
                mounted.map_err(|error| StartFailure::new("NoTmpfs", in_words(&error)))?;
                give(&path, access).map_err(|error| failure(&error))?;
                path
            }
            VolumeSource::Claim(claim) => {
                let namespace = request.pod.workload.namespace();
                // An underscore is in no name, so no two claims share a folder.
                let path = self.claims.join(format!("{namespace}_{claim}"));
                make_writable(&path, access).map_err(|error| failure(&error))?;
                path
            }
            VolumeSource::HostPath(wanted) => self.of_host(wanted)?,
            VolumeSource::Nothing
            | VolumeSource::ConfigMap(_)
            | VolumeSource::Secret(..)
            | VolumeSource::Model(_) => return Ok(None),
        };
        Ok(Some(path))
    }

    /// Removes what a pod has of contents other than that of this start.
    pub(super) fn keep_only(&self, folder: &PodFolder, request: &StartRequest) {
        let kept = content_of(request);
        for of_pod in [self.memory.join(folder.name()), folder.empty()] {
            for entry in fs::read_dir(&of_pod).into_iter().flatten().flatten() {
                if entry.file_name().to_str() != Some(kept.as_str()) {
                    remove(&entry.path());
                }
            }
        }
    }

    /// Removes what a pod has in memory; the rest goes with its folder.
    pub(super) fn forget(&self, folder: &PodFolder) {
        remove(&self.memory.join(folder.name()));
    }

    /// Removes what is of none of these pods.
    pub(super) fn forget_others(&self, pods: &[PodFolder]) {
        for entry in fs::read_dir(&self.memory).into_iter().flatten().flatten() {
            if !pods.iter().any(|pod| pod.name() == entry.file_name()) {
                remove(&entry.path());
            }
        }
    }

    /// A file or folder of the node, by a path without links.
    fn of_host(&self, wanted: &HostPathVolume) -> Result<PathBuf, StartFailure> {
        let path = Path::new(&wanted.path);
        if wanted.kind == HostPathType::DirectoryOrCreate {
            self.make_on_host(path)?;
        }
        let found = fs::canonicalize(path).map_err(|error| missing(path, &error.to_string()))?;
        self.check_allowed(path, &found)?;
        let is_expected = match wanted.kind {
            HostPathType::Any => true,
            HostPathType::Directory | HostPathType::DirectoryOrCreate => found.is_dir(),
            HostPathType::File => found.is_file(),
        };
        let expected = || missing(path, &format!("is no {:?}", wanted.kind));
        is_expected.then_some(found).ok_or_else(expected)
    }

    /// Makes the folders of a path that are not there, where what is there is allowed.
    fn make_on_host(&self, path: &Path) -> Result<(), StartFailure> {
        let exists = |path: &&Path| fs::symlink_metadata(path).is_ok();
        let Some(there) = path.ancestors().find(exists) else { return Ok(()) };
        let found = fs::canonicalize(there).map_err(|error| missing(there, &error.to_string()))?;
        self.check_allowed(path, &found)?;
        let mut made = found;
        for name in path.strip_prefix(there).into_iter().flat_map(Path::components) {
            made.push(name);
            let make = || {
                fs::create_dir(&made)?;
                fs::set_permissions(&made, Permissions::from_mode(HOST_FOLDER_MODE))
            };
            make().map_err(|error: io::Error| missing(&made, &error.to_string()))?;
        }
        Ok(())
    }

    fn check_allowed(&self, path: &Path, found: &Path) -> Result<(), StartFailure> {
        let mut allowed = self.host_paths.iter().filter_map(|path| fs::canonicalize(path).ok());
        if allowed.any(|allowed| found.starts_with(allowed)) {
            return Ok(());
        }
        let leads = match found == path {
            true => String::new(),
            false => format!(", which leads to {},", found.display()),
        };
        let message = format!(
            "the hostPath {}{leads} is within no folder of `pods.host_paths` in this node's configuration",
            path.display()
        );
        Err(StartFailure::new("HostPathNotAllowed", message))
    }
}

/// Names the content that a start is of.
fn content_of(request: &StartRequest) -> String {
    format!("{:016x}-{:016x}", request.revision.0, request.parameters_id)
}

fn missing(path: &Path, problem: &str) -> StartFailure {
    StartFailure::new("HostPathMissing", format!("the hostPath {}: {problem}", path.display()))
}

fn make_writable(path: &Path, access: Access) -> Attempt<()> {
    let making = format!("make the folder {}", path.display());
    private_folder(path).map_err(attempt(making))?;
    give(path, access)
}

fn give(path: &Path, access: Access) -> Attempt<()> {
    let opening = format!("let the pod write to {}", path.display());
    access.give_writable(path).map_err(attempt(opening))
}

/// Removes a folder with what is mounted in it.
fn remove(path: &Path) {
    memory::unmount_within(path);
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), %error, "what a pod had written was not removed");
    }
}

fn failure(error: &RuntimeError) -> StartFailure {
    let reason = if is_disk_full(error) { "DiskFull" } else { "VolumeFailed" };
    StartFailure::new(reason, in_words(error))
}

#[cfg(test)]
mod tests {
    use super::super::folder::tests::folder;
    use super::*;
    use std::os::unix::fs::symlink;

    fn storage(pods: &Path, host_paths: &[&Path]) -> Storage {
        let host_paths = host_paths.iter().map(|path| (*path).to_owned()).collect();
        let allowed = Allowed { host_paths, ..Allowed::default() };
        Storage::new(pods, &allowed)
    }

    fn host(path: &Path, kind: HostPathType) -> HostPathVolume {
        HostPathVolume { path: path.display().to_string(), kind }
    }

    #[test]
    fn a_path_of_the_node_is_found_within_what_is_allowed_and_no_link_leads_out() {
        let (temporary, _folder) = folder();
        let root = fs::canonicalize(temporary.path()).unwrap();
        let media = root.join("media");
        fs::create_dir(&media).unwrap();
        fs::write(media.join("file"), "x").unwrap();
        symlink("/etc", media.join("out")).unwrap();
        symlink("file", media.join("in")).unwrap();
        symlink("nowhere", media.join("dangling")).unwrap();
        let storage = storage(&root, &[&media]);
        let of = |name: &str, kind| storage.of_host(&host(&media.join(name), kind));
        assert_eq!(of("in", HostPathType::File).unwrap(), media.join("file"));
        assert_eq!(of("", HostPathType::Directory).unwrap(), media);
        let made = of("new/deep", HostPathType::DirectoryOrCreate).unwrap();
        assert!(made.is_dir() && made == media.join("new/deep"));
        for (name, kind, reason) in [
            ("file", HostPathType::Directory, "HostPathMissing"),
            ("none", HostPathType::Any, "HostPathMissing"),
            ("dangling/x", HostPathType::DirectoryOrCreate, "HostPathMissing"),
            ("out", HostPathType::Any, "HostPathNotAllowed"),
            ("out/new", HostPathType::DirectoryOrCreate, "HostPathNotAllowed"),
        ] {
            let refused = of(name, kind).unwrap_err();
            assert_eq!(refused.reason, reason, "{name}: {}", refused.message);
        }
        // A name that begins alike is another.
        fs::create_dir(root.join("media2")).unwrap();
        let refused = storage.of_host(&host(&root.join("media2"), HostPathType::Any)).unwrap_err();
        assert_eq!(refused.reason, "HostPathNotAllowed");
        assert!(!Path::new("/etc/new").exists() && !root.join("nowhere").exists());
    }
}
