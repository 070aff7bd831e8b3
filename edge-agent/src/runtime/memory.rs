//! File systems in memory for pods that ask for an `emptyDir` there.
//!
//! The agent mounts them itself, in its own view of the file system: the container runtime has to have the same,
//! which is for the caller to know.

use super::folder::private_folder;
use super::layers::{Attempt, attempt};
use rustix::mount::{MountFlags, UnmountFlags, mount as mount_at, unmount};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How deep below a pod's folder its file systems lie: content, volume.
const DEPTH: u32 = 2;

/// Mounts a file system in memory at `path`, which is made; one that is there stays. Without a size it is the
/// kernel's own: half of the machine's memory.
pub(super) fn mount(path: &Path, bytes_max: Option<u64>) -> Attempt<()> {
    let making = format!("make the folder {}", path.display());
    private_folder(path).map_err(attempt(making))?;
    if is_mounted(path) {
        return Ok(());
    }
    let size = bytes_max.map(|bytes| format!("size={bytes},")).unwrap_or_default();
    let mounting = || format!("mount a file system in memory at {}", path.display());
    let options = CString::new(format!("{size}mode=0700")).map_err(attempt(mounting()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mounted = mount_at("hinterland", path, "tmpfs", flags, options.as_c_str());
    mounted.map_err(attempt(mounting()))
}

/// Unmounts what is mounted at `path` or below. What a container still has mounted goes with the container.
pub(super) fn unmount_within(path: &Path) {
    unmount_down_to(path, DEPTH);
}

fn unmount_down_to(path: &Path, depth: u32) {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if !is_folder {
        return;
    }
    if is_mounted(path) {
        let _ = unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        return;
    }
    if depth > 0 {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            unmount_down_to(&entry.path(), depth - 1);
        }
    }
}

/// Whether another file system begins here.
fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}
