//! A start of a pod that has begun and not ended, as all its tasks know it.

use super::group::GroupOrder;
use super::ids::ContainerIds;
use super::network::Network;
use super::note::Pairs;
use crate::ports::{InstanceId, VolumeContent};
use crate::results::Door;
use crate::runtime::access::Access;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tracing::warn;

/// A start that has begun and not ended.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) instance: InstanceId,
    pub(super) containers: Arc<ContainerIds>,
    /// What is to become of single containers, where there are several.
    pub(super) group: Option<mpsc::UnboundedSender<GroupOrder>>,
    /// Milliseconds of grace, once it shall stop.
    pub(super) stop: watch::Sender<Option<u64>>,
    /// Open for as long as any of it runs.
    pub(super) door: Option<Door>,
    /// What its volumes are to hold, until that is being written.
    pub(super) volumes: Option<Vec<VolumeContent>>,
    /// Whose its files are.
    pub(super) access: Access,
    pub(super) network: Network,
}

impl Live {
    /// What the pod is told of its door.
    pub(super) fn told(&self) -> Option<Pairs> {
        self.door.as_ref().map(|door| door.environment().into_iter().collect())
    }
}

/// Whoever a container runs as comes to its door. Nobody else of the node does: the folders above are the agent's
/// alone, and who comes is told by the kernel.
pub(super) fn open_to_all_users(socket: &Path) {
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    let opened = socket.parent().map_or(Ok(()), |folder| open(folder, 0o755));
    if let Err(error) = opened.and_then(|()| open(socket, 0o666)) {
        warn!(socket = %socket.display(), %error, "a pod that does not run as root can't come to its door");
    }
}
