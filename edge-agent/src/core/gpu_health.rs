//! Which GPUs the node had and how they were: what has changed is told, also what changed while the
//! agent did not run. A GPU that does not come back from a power cut is one that nobody saw go.

use super::AgentCore;
use super::storage::After;
use shared::model::{GpuDevice, GpuHealth, GpuInventory, Now};
use shared::ports::{Tree, WriteBatch};
use shared::wire::{decode, encode};
use std::collections::BTreeMap;
use tracing::warn;

/// Under this key of [`Tree::Meta`] lies what was told last.
const GPUS_KEY: &[u8] = b"gpus";

/// A node full of GPUs, each with a sentence.
const GPUS_BYTES_MAX: usize = 64 * 1024;

/// What was told last: by name why a GPU is unhealthy, `None` for one that is well. Nothing at all on
/// a node's first start. A GPU's name is its UUID, a MIG instance's is `GPU-…/MIG-…`.
#[derive(Debug, Default)]
pub(super) struct KnownGpus(Option<BTreeMap<String, Option<String>>>);

impl KnownGpus {
    /// What an earlier start told: `meta` are records of [`Tree::Meta`].
    pub(super) fn restore(meta: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let noted = meta.iter().find(|(key, _)| key == GPUS_KEY);
        let read = noted.map(|(_, value)| decode("known GPUs", value, GPUS_BYTES_MAX));
        let unreadable = |error| warn!(%error, "which GPUs there were is not known any more");
        Self(read.and_then(|read| read.map_err(unreadable).ok()))
    }
}

impl AgentCore {
    /// An alarm for each GPU that is gone or has become unhealthy, an event for each that is back. What
    /// becomes of the instances of a GPU together with it is said by what is said of the GPU.
    pub(super) fn tell_gpu_changes(&mut self, gpus: &GpuInventory, now: Now) {
        let entry = |gpu: &GpuDevice| (name(gpu), unhealthy_reason(gpu));
        let after: BTreeMap<_, _> = gpus.devices.iter().map(entry).collect();
        if self.known_gpus.0.as_ref() == Some(&after) {
            return;
        }
        let first = self.known_gpus.0.is_none();
        let before = self.known_gpus.0.replace(after.clone()).unwrap_or_default();
        let goes_along = |name: &str| {
            let parent = name.split_once('/').map(|(parent, _)| parent);
            parent.is_some_and(|gpu| before.get(gpu) != after.get(gpu))
        };
        let lost = before.keys().filter(|uuid| !after.contains_key(*uuid));
        for uuid in lost.filter(|uuid| !goes_along(uuid)) {
            let message = format!("{uuid}: the driver no longer lists it");
            self.record_event("node", "GpuLost", &message, now);
        }
        for (uuid, why) in after.iter().filter(|(uuid, _)| !goes_along(uuid)) {
            let (reason, message) = match (before.get(uuid), why) {
                (was, Some(why)) if was.is_none_or(Option::is_none) => {
                    ("GpuUnhealthy", format!("{uuid}: {why}"))
                }
                (Some(Some(_)), None) => ("GpuHealthy", format!("{uuid} is well again")),
                (None, None) if !first => ("GpuFound", format!("{uuid} is there")),
                _ => continue,
            };
            self.record_event("node", reason, &message, now);
        }
        // After what is told: a crash between the two has it told twice, and never not at all.
        if let Ok(value) = encode("known GPUs", &after) {
            let mut writes = WriteBatch::new();
            writes.put(Tree::Meta, GPUS_KEY, value);
            self.persist(writes, After::Nothing);
        }
    }
}

fn name(gpu: &GpuDevice) -> String {
    match gpu.mig.instance() {
        Some(instance) => format!("{}/{}", instance.parent, gpu.uuid),
        None => gpu.uuid.clone(),
    }
}

fn unhealthy_reason(gpu: &GpuDevice) -> Option<String> {
    match &gpu.health {
        GpuHealth::Healthy => None,
        GpuHealth::Unhealthy(reason) => Some(reason.clone()),
    }
}
