//! Devices of this node that its configuration names: cameras, serial ports, whatever hangs on it.
//!
//! Each has a name that does not change and a path that the configuration gives, best one that udev makes, as in
//! `/dev/serial/by-id/…`: then it is found again when it was plugged in anew. Refuses to count: several pods may have
//! the same device.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The devices that the configuration names, by name, as they were when somebody looked last.
pub type NodeDevices = BTreeMap<String, NodeDevice>;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDevice {
    /// Where it is found.
    pub path: PathBuf,
    /// Whether it is there.
    pub is_there: bool,
}

/// Looks for the devices at these paths.
#[must_use]
pub fn look_for(paths: &BTreeMap<String, PathBuf>) -> NodeDevices {
    let look = |path: &PathBuf| NodeDevice { path: path.clone(), is_there: is_device(path) };
    paths.iter().map(|(name, path)| (name.clone(), look(path))).collect()
}

/// Whether a device is at a path, or at what links lead to from there.
#[must_use]
pub fn is_device(path: &Path) -> bool {
    let kind = fs::metadata(path).map(|found| found.file_type());
    kind.is_ok_and(|kind| kind.is_char_device() || kind.is_block_device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_device_is_found_by_a_link_and_anything_else_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (device, file) = (folder.path().join("by-id"), folder.path().join("file"));
        symlink("/dev/null", &device).unwrap();
        fs::write(&file, "x").unwrap();
        let paths = [("camera", &device), ("file", &file), ("none", &folder.path().join("none"))];
        let paths = paths.map(|(name, path)| (name.to_owned(), path.clone())).into();
        let there: Vec<bool> = look_for(&paths).values().map(|device| device.is_there).collect();
        assert_eq!(there, [true, false, false]);
    }
}
