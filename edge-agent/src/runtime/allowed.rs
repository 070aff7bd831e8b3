//! What of its node a pod may have beyond what is its own: only what the configuration of the node names.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What pods may have of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Whether containers may be privileged, or have capabilities beyond the usual ones.
    pub privileged: bool,
    /// Files and folders of the node that pods may mount, with all that lies below.
    pub host_paths: Vec<PathBuf>,
    /// Devices that pods may ask for by name, and where they are found.
    pub devices: BTreeMap<String, PathBuf>,
}
