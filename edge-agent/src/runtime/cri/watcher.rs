//! Looks at all containers at once, every second: for those that ended, for logs that are too large, and when
//! asked for what they use. containerd 1.6 tells of no events.

use super::api;
use super::client::{CriClient, QUESTION_LIMIT};
use super::ids::Running;
use super::log::{Rotation, rotate};
use super::{Shared, blocking};
use crate::runtime::{disk_series, pod_series, threads_series, usage_series};
use shared::in_words;
use shared::model::PodId;
use shared::telemetry::Series;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::time::sleep;
use tracing::{info, warn};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Logs are looked at after so many looks at containers.
const LOOKS_PER_LOG: u32 = 5;

/// Containers and their states, as the runtime listed them last.
pub(super) type Listing = BTreeMap<String, i32>;

/// What pods used when that was asked last.
#[derive(Debug, Default)]
pub(super) struct Usage {
    values: Mutex<BTreeMap<Series, f64>>,
    is_asked: AtomicBool,
}

/// Looks until the runtime is gone.
pub(super) async fn look(shared: Weak<Shared>) {
    let (mut looks, mut is_silent) = (0_u32, false);
    loop {
        sleep(LOOK_INTERVAL).await;
        let Some(shared) = shared.upgrade() else { return };
        let running = shared.running();
        if running.is_empty() {
            continue;
        }
        match list(&shared).await {
            Ok(listing) => {
                shared.listing.send_if_modified(|last| {
                    let is_other = *last != listing;
                    *last = listing;
                    is_other
                });
                if is_silent {
                    info!("the container runtime answers again");
                }
                is_silent = false;
            }
            Err(error) => {
                if !is_silent {
                    warn!(error, "the container runtime is silent; pods are left as they are");
                }
                is_silent = true;
                continue;
            }
        }
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS_PER_LOG) {
            rotate_logs(&shared, running).await;
        }
    }
}

async fn list(shared: &Shared) -> Result<Listing, String> {
    let containers = shared.client.containers(shared.agent.labels()).await;
    let containers = containers.map_err(|error| in_words(&error))?.into_iter();
    Ok(containers.map(|container| (container.id, container.state)).collect())
}

async fn rotate_logs(shared: &Shared, running: Vec<Running>) {
    for Running { pod, name, id: container } in running {
        // Of the only one its name is empty.
        let (folder, options) = (shared.folder(&pod).log().join(name), &shared.options);
        let (bytes_max, files_max) = (options.log_max_bytes, options.log_max_files);
        match blocking(move || rotate(&folder, bytes_max, files_max)).await {
            Some(Ok(Rotation::Reopen)) => reopen(&shared.client, &pod, container).await,
            Some(Err(error)) => warn!(%pod, %error, "the pod's log was not rotated"),
            _ => {}
        }
    }
}

/// If that fails the container writes on to the file that was moved, and this is tried again.
async fn reopen(client: &CriClient, pod: &PodId, container: String) {
    let order = api::ReopenContainerLogRequest { container_id: container };
    let answer: Result<api::Nothing, _> =
        client.call("ReopenContainerLog", &order, QUESTION_LIMIT).await;
    if let Err(error) = answer {
        warn!(%pod, error = in_words(&error), "the pod's log was not opened anew");
    }
}

impl Usage {
    fn values(&self) -> std::sync::MutexGuard<'_, BTreeMap<Series, f64>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// What was asked for last time; begins to ask for the next.
    pub(super) fn sample(self: &Arc<Self>) -> BTreeMap<Series, f64> {
        if self.running().is_empty() {
            self.usage.values().clear();
        } else if !self.usage.is_asked.swap(true, Ordering::Relaxed) {
            let shared = Arc::clone(self);
            drop(self.tasks.spawn(async move {
                // While nobody answers it is as it was: who uses most is asked just when all is slow.
                if let Some(values) = ask_usage(&shared).await {
                    *shared.usage.values() = values;
                }
                shared.usage.is_asked.store(false, Ordering::Relaxed);
            }));
        }
        self.usage.values().clone()
    }
}

async fn ask_usage(shared: &Shared) -> Option<BTreeMap<Series, f64>> {
    let filter = Some(api::ContainerStatsFilter { label_selector: shared.agent.labels() });
    let question = api::ListContainerStatsRequest { filter };
    let answer = shared.client.call("ListContainerStats", &question, QUESTION_LIMIT).await;
    let api::ListContainerStatsResponse { stats } = answer.ok()?;
    let running = shared.running();
    let threads: Vec<_> = running
        .iter()
        .filter_map(|one| Some(threads_series(&one.pod, shared.threads_of(one)?)))
        .collect();
    let pods = running.into_iter().map(|one| (one.id, one.pod));
    let pods: BTreeMap<String, PodId> = pods.collect();
    let values = stats.into_iter().filter_map(|stats| {
        let pod = pods.get(&stats.attributes?.id)?;
        let cpu = stats.cpu?.usage_core_nano_seconds?.value / 1000;
        let usual = usage_series(pod, cpu, stats.memory?.working_set_bytes?.value);
        let written = stats.writable_layer.and_then(|layer| layer.used_bytes);
        Some(usual.into_iter().chain(written.map(|bytes| disk_series(pod, bytes.value))))
    });
    let mut sums = BTreeMap::new();
    values
        .flatten()
        .chain(threads)
        .for_each(|(series, value)| *sums.entry(series).or_insert(0.0) += value);
    Some(sums)
}

/// Memory of GPUs by pod.
pub(super) fn gpu_memory(
    shared: &Shared,
    processes: &[crate::gpu::GpuProcess],
) -> BTreeMap<Series, f64> {
    let mut values = BTreeMap::new();
    if processes.is_empty() {
        return values;
    }
    let running = shared.running();
    for process in processes {
        let owner = running.iter().find(|one| is_in(process.pid, &one.id));
        if let Some(Running { pod, .. }) = owner {
            let series = pod_series(pod, "container_accelerator_memory_used_bytes");
            *values.entry(series.with("acc_id", &process.uuid)).or_insert(0.0) += process.bytes;
        }
    }
    values
}

/// Whether a process is in a container: its cgroup is named after it.
pub(super) fn is_in(pid: i32, container: &str) -> bool {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    !container.is_empty() && cgroups.contains(container)
}
