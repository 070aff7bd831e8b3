//! Whose the files of a pod's volumes are, so that a container that does not run as root reads them too.
//!
//! The folders above them are the agent's alone: what is open here is open to who has it mounted, and to nobody
//! else on the node.

use serde::{Deserialize, Serialize};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

/// Nobody writes the files of a ConfigMap, everybody in the pod reads them; those of a Secret only their owner
/// does, and their group where there is one.
const CONFIG_MODE: u32 = 0o444;
const SECRET_MODE: u32 = 0o400;
const SECRET_MODE_OF_GROUP: u32 = 0o440;

/// The folders above these files.
const PRIVATE_FOLDER_MODE: u32 = 0o700;
const GROUP_FOLDER_MODE: u32 = 0o750;
const OPEN_FOLDER_MODE: u32 = 0o755;

/// A folder that all processes of a pod write to; with a group what they make there is of that group.
const WRITABLE_MODE: u32 = 0o777;
const SET_GROUP_ID: u32 = 0o2000;

/// Who reads the files of a pod's volumes. The default: the agent's own user, as a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Access {
    /// Whether the pod has its own view of the file system, so that folders may be open.
    pub(super) is_container: bool,
    /// The owner, where it is not the agent's user.
    pub(super) user: Option<u32>,
    /// The group.
    pub(super) group: Option<u32>,
}

impl Access {
    /// Gives a file of a ConfigMap or Secret its owner, group and mode.
    pub(super) fn give_file(self, path: &Path, is_secret: bool) -> io::Result<()> {
        let mode = match (is_secret, self.group) {
            (false, _) => CONFIG_MODE,
            (true, None) => SECRET_MODE,
            (true, Some(_)) => SECRET_MODE_OF_GROUP,
        };
        self.give(path, mode)
    }

    /// The same of a folder of such files.
    pub(super) fn give_folder(self, path: &Path, is_secret: bool) -> io::Result<()> {
        let mode = match (self.is_container, is_secret, self.group) {
            (false, ..) | (true, true, None) => PRIVATE_FOLDER_MODE,
            (true, true, Some(_)) => GROUP_FOLDER_MODE,
            (true, false, _) => OPEN_FOLDER_MODE,
        };
        self.give(path, mode)
    }

    /// The same of a folder that the pod writes to.
    pub(super) fn give_writable(self, path: &Path) -> io::Result<()> {
        if !self.is_container {
            return Ok(());
        }
        // Written to by all containers, whoever they are.
        let access = Self { user: None, ..self };
        access.give(path, WRITABLE_MODE | self.group.map_or(0, |_| SET_GROUP_ID))
    }

    /// The owner first: a change of it takes the bit of the group.
    fn give(self, path: &Path, mode: u32) -> io::Result<()> {
        if self.user.or(self.group).is_some() {
            chown(path, self.user, self.group)?;
        }
        fs::set_permissions(path, Permissions::from_mode(mode))
    }
}
