//! What a start has mounted, laid where the container runtime finds it; and the same anew while the pod runs.

use super::api;
use super::client::CriClient;
use super::{Live, Shared};
use crate::devices::is_device;
use crate::ports::{InstanceId, RuntimeEvent, StartRequest, VolumeContent, VolumeSource};
use crate::runtime::access::Access;
use crate::runtime::folder::PodFolder;
use crate::runtime::volumes::Writer;
use crate::runtime::{Allowed, StartFailure, volumes};
use shared::model::PodId;
use std::fs;
use std::path::PathBuf;

/// Lays the volumes of a start down; where they lie, in their order.
pub(super) fn place(
    shared: &Shared,
    folder: &PodFolder,
    request: &StartRequest,
    access: Access,
) -> Result<Vec<PathBuf>, StartFailure> {
    let _turn = shared.writing();
    let secrets = shared.secrets.get();
    volumes::remove(folder, secrets);
    shared.storage.keep_only(folder, request);
    let writer = Writer { secrets, access };
    let place = |volume: &VolumeContent| {
        let found = shared.storage.place(folder, request, volume, access)?;
        found.map_or_else(|| volumes::write(folder, volume, writer), Ok)
    };
    request.volumes.iter().map(place).collect()
}

/// Where a container finds the devices that it asks for, by their names.
const DEVICES_FOLDER: &str = "/dev/hinterland";

/// The devices that a start asks for, where they are now.
pub(super) fn devices(
    allowed: &Allowed,
    request: &StartRequest,
) -> Result<Vec<api::Device>, StartFailure> {
    let find = |name: &String| {
        let path = allowed.devices.get(name);
        let found =
            path.filter(|path| is_device(path)).and_then(|path| fs::canonicalize(path).ok());
        let found = found.ok_or_else(|| {
            StartFailure::new("DeviceMissing", format!("the device `{name}` is not there"))
        })?;
        Ok(api::Device {
            container_path: format!("{DEVICES_FOLDER}/{name}"),
            host_path: found.to_string_lossy().into_owned(),
            permissions: "rw".to_owned(),
        })
    };
    request.container.resources.limits.devices.iter().map(find).collect()
}

/// What the agent mounts, a runtime in another mount namespace does not see.
pub(super) async fn refuse_memory_elsewhere(
    client: &CriClient,
    request: &StartRequest,
) -> Result<(), StartFailure> {
    let in_memory = |volume: &VolumeContent| {
        matches!(volume.source, VolumeSource::EmptyDir { is_in_memory: true, .. })
    };
    if !request.volumes.iter().any(in_memory) || client.shares_mounts().await {
        return Ok(());
    }
    let message = "an emptyDir in memory is mounted by the agent, and the container runtime does not see its \
                   mounts: expected both in one mount namespace";
    Err(StartFailure::new("NoTmpfs", message))
}

impl Shared {
    /// Writes what was ordered last. What the pod has mounted shows it.
    pub(super) fn renew_volumes(&self, pod: PodId, instance: InstanceId) {
        let _turn = self.writing();
        let ordered = |live: &mut Live| {
            let volumes = live.volumes.take_if(|_| live.instance == instance)?;
            Some((volumes, live.access))
        };
        let Some((contents, access)) = self.live().get_mut(&pod).and_then(ordered) else { return };
        let (folder, writer) = (self.folder(&pod), Writer { secrets: self.secrets.get(), access });
        let of_files = contents.iter().filter(|volume| volume.source.is_of_files());
        let mut written = of_files.map(|volume| volumes::write(&folder, volume, writer));
        if let Some(failure) = written.find_map(Result::err) {
            let message = format!("{}: {}", failure.reason, failure.message);
            self.tell(RuntimeEvent::NotAttached { pod, instance, message });
        }
    }
}
