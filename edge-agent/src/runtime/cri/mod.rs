//! Pods as containers, by the Container Runtime Interface v1: containerd 1.6 or later, CRI-O.
//!
//! | file | what it holds |
//! |---|---|
//! | `api`, `client` | what is said (generated from `proto/cri.proto`), and how: unary gRPC over a Unix socket |
//! | `calls` | the calls that the rest have in common |
//! | `order`, `security` | how a start becomes a sandbox and a container (pure) |
//! | `placed` | what it has mounted, and its devices |
//! | `hooks` | what it does at its start and before its end, and its last words |
//! | `note` | labels, annotations and the small file by which a start is known again |
//! | `network`, `dns` | the node's network, or one of its own |
//! | `life`, `live` | one start: begin, watch, stop; and what all know of it |
//! | `group` | the same for a pod of several containers |
//! | `pull`, `progress`, `credentials` | its image where that is not here, how far it is, and what registries ask for |
//! | `images` | which images it has pulled, and which of them can go |
//! | `exec` | commands in a container: checks, and what people ask for |
//! | `cgroup` | the cgroup of a start, where processes are limited |
//! | `found` | what is left of earlier starts when the agent comes up |
//! | `leavings` | what a runtime that was killed has lost |
//! | `watcher` | one look at all containers: ends, logs, usage |
//! | `log` | the format of containers' logs, their rotation and tail |
//!
//! A pod is one sandbox with its containers, on the node's network or with one of its own. Its uid is the pod's and not the start's, so
//! that the runtime itself refuses a second copy. Pods outlive the agent, which adopts them by their labels, and
//! outlive a kill of the runtime, which adopts its own.
//!
//! Refuses to share the runtime with a kubelet, which removes
//! pods that it does not know.

#[allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    unreachable_pub,
    dead_code,
    unused_qualifications,
    reason = "generated"
)]
mod api;
mod calls;
mod cgroup;
mod client;
mod credentials;
mod dns;
mod exec;
mod found;
mod group;
mod hooks;
#[cfg(fuzzing)]
pub mod hostile;
mod ids;
mod images;
mod leavings;
mod life;
mod live;
pub(in crate::runtime) mod log;
mod network;
mod note;
mod options;
mod order;
mod placed;
mod progress;
mod pull;
mod security;
mod watcher;

pub use options::{CriOptions, DEFAULT_CGROUP_PARENT, DEFAULT_SOCKET};

use super::access::Access;
use super::folder::{PodFolder, moved_away_in, private_folder};
use super::layers::attempt;
use super::storage::Storage;
use super::{ExecOrder, Secrets, StartFailure, probe};
use crate::gpu::GpuProcess;
use crate::ports::{
    ContainerRequest, InstanceId, NamedImages, Observation, ObservedState, ProbeRequest, Runtime,
    RuntimeError, RuntimeEvent, StartRequest, VolumeContent,
};
use crate::results::{Door, Doors};
use calls::{UNKNOWN_EXIT_CODE, until_answered};
use client::CriClient;
use exec::{check_by_command, run_command};
use found::{Found, running_of};
use group::{Group, GroupOrder};
use hooks::Ending;
use ids::{ContainerIds, Running};
use images::Images;
use life::Life;
use live::{Live, open_to_all_users};
use network::Network;
use note::{AgentName, StartNote};
use order::{DOOR_SOCKET, door_folder};
use shared::in_words;
use shared::model::PodId;
use shared::telemetry::Series;
use shared::wire::ExecResult;
use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::warn;
use watcher::{Listing, Usage, gpu_memory, is_in};

/// Images that come at a time: one behind which a registry is silent does not hold up all others.
const PULLS_MAX: usize = 2;

/// Runs pods as containers. Made and used within a tokio runtime.
#[derive(Debug)]
pub struct CriRuntime {
    shared: Arc<Shared>,
}

/// What the tasks of all pods have in common.
#[derive(Debug)]
struct Shared {
    options: CriOptions,
    agent: AgentName,
    client: CriClient,
    events: mpsc::UnboundedSender<RuntimeEvent>,
    live: Mutex<BTreeMap<PodId, Live>>,
    /// Changes when the runtime lists containers otherwise than before.
    listing: watch::Sender<Listing>,
    usage: Usage,
    /// Where pods hand in their results.
    doors: OnceLock<Doors>,
    /// What opens Secrets; without, a pod that has one is not started.
    secrets: OnceLock<Secrets>,
    storage: Storage,
    /// Held by whoever writes files of volumes: what was ordered first is not written last.
    writing: Mutex<()>,
    /// So many images come at a time.
    pulling: Semaphore,
    images: Images,
    tasks: Handle,
}

impl CriRuntime {
    /// A runtime for the pods in a folder. Asks nothing of the container runtime yet.
    ///
    /// # Errors
    /// When the folder can't be made or this is not within a tokio runtime.
    pub fn new(
        mut options: CriOptions,
        events: mpsc::UnboundedSender<RuntimeEvent>,
    ) -> Result<Self, RuntimeError> {
        let tasks = Handle::try_current().map_err(attempt("find the runtime of tasks"))?;
        let making = format!("make the folder of pods {}", options.folder.display());
        private_folder(&options.folder).map_err(attempt(making.clone()))?;
        // The container runtime stands elsewhere.
        options.folder = fs::canonicalize(&options.folder).map_err(attempt(making))?;
        for left in moved_away_in(&options.folder) {
            tasks.spawn_blocking(move || fs::remove_dir_all(left));
        }
        let shared = Arc::new(Shared {
            agent: AgentName::of(&options.folder),
            client: CriClient::new(&options.socket),
            storage: Storage::new(&options.folder, &options.allowed),
            images: Images::beside(&options.folder),
            options,
            events,
            live: Mutex::default(),
            listing: watch::channel(Listing::default()).0,
            usage: Usage::default(),
            doors: OnceLock::new(),
            secrets: OnceLock::new(),
            writing: Mutex::default(),
            pulling: Semaphore::new(PULLS_MAX),
            tasks,
        });
        drop(shared.tasks.spawn(watcher::look(Arc::downgrade(&shared))));
        drop(shared.tasks.spawn(leavings::look(Arc::downgrade(&shared))));
        Ok(Self { shared })
    }

    /// From now on a pod that starts, or is found running, has a door for its results. To be called
    /// before anything is started or adopted.
    #[must_use]
    pub fn with_doors(self, doors: Doors) -> Self {
        let _ = self.shared.doors.set(doors);
        self
    }

    /// From now on pods may have Secrets: those that were sealed to this node. To be called before anything
    /// is started or adopted.
    #[must_use]
    pub fn with_secrets(self, secrets: Secrets) -> Self {
        let _ = self.shared.secrets.set(secrets);
        self
    }

    /// CPU time and memory of every pod that runs, named as cAdvisor names them; as of the last time that
    /// this was asked.
    #[must_use]
    pub fn sample(&self) -> BTreeMap<Series, f64> {
        self.shared.sample()
    }

    /// Memory of GPUs that each pod uses, as the driver counts it by process.
    #[must_use]
    pub fn gpu_memory(&self, processes: &[GpuProcess]) -> BTreeMap<Series, f64> {
        gpu_memory(&self.shared, processes)
    }

    /// Runs a command in a pod's container.
    pub(super) fn exec(
        &self,
        order: ExecOrder,
    ) -> impl Future<Output = Result<ExecResult, String>> + Send + 'static {
        let container = self.container_of(&order.pod, order.container.as_deref());
        let shared = Arc::clone(&self.shared);
        async move { run_command(&shared.client, container, order).await }
    }

    /// The id of one of a pod's several containers, or of its only one.
    fn container_of(&self, pod: &PodId, name: Option<&str>) -> Option<String> {
        let live = self.shared.live();
        let containers = &live.get(pod)?.containers;
        // What runs may be of an earlier template, with one container.
        containers.of(name.unwrap_or_default()).or_else(|| containers.of(""))
    }

    fn life(&self, pod: &PodId, instance: InstanceId) -> (Life, Live) {
        let (stop, orders) = watch::channel(None);
        let containers = Arc::new(ContainerIds::default());
        let shared = Arc::clone(&self.shared);
        let door = self.open_door(pod, instance, &containers);
        let (volumes, access, network) = (None, Access::default(), Network::Node);
        let ids = Arc::clone(&containers);
        let live =
            Live { instance, containers: ids, group: None, stop, door, volumes, access, network };
        let ending = Ending::default();
        (Life { shared, pod: pod.clone(), instance, containers, orders, ending }, live)
    }

    fn open_door(
        &self,
        pod: &PodId,
        instance: InstanceId,
        containers: &Arc<ContainerIds>,
    ) -> Option<Door> {
        let socket = door_folder(&self.shared.folder(pod)).join(DOOR_SOCKET);
        let containers = Arc::clone(containers);
        let is_member = move |pid| containers.any(|container| is_in(pid, container));
        let door = self.shared.doors.get()?.open(pod, instance, &socket, Box::new(is_member));
        open_to_all_users(&socket);
        Some(door)
    }

    fn adopt(&self, found: Found) -> Observation {
        let Found { note, state, sandbox, container, members, network } = found;
        if let ObservedState::Running { .. } = state {
            let (mut life, mut live) = self.life(&note.pod, note.instance);
            (live.access, life.ending) = (note.access, note.ending.clone());
            live.network = network;
            if note.containers.is_empty() {
                live.containers.add("", &container);
                self.keep(&note.pod, live, life.adopted(sandbox, container));
            } else {
                let (orders, group) = Group::new(life, note.containers.clone());
                live.group = Some(orders);
                self.keep(&note.pod, live, group.adopted(sandbox, running_of(&members)));
            }
        }
        let containers = members.into_iter().map(|(observed, _)| observed).collect();
        Observation { containers, pod_ip: network.address(), ..note.observed(state) }
    }

    /// Has a start kept from now on: it is known before its end can be told.
    fn keep(&self, pod: &PodId, live: Live, keeper: impl Future<Output = ()> + Send + 'static) {
        self.shared.live().insert(pod.clone(), live);
        drop(self.shared.tasks.spawn(keeper));
    }

    /// Says to those who keep a pod of several containers what is to become of one. One that has just ended is not
    /// there any more, and its end is told.
    fn order(&self, pod: &PodId, instance: InstanceId, order: impl FnOnce(&Live) -> GroupOrder) {
        let live = self.shared.live();
        let Some(live) = live.get(pod).filter(|live| live.instance == instance) else { return };
        if let Some(group) = &live.group {
            let _ = group.send(order(live));
        }
    }

    /// Its sandboxes are removed when the container runtime answers.
    fn remove(&self, pod: PodId, instance: InstanceId) {
        let shared = Arc::clone(&self.shared);
        drop(self.shared.tasks.spawn(async move {
            let labels = shared.agent.labels_of_start(&pod, instance);
            let remove = || shared.client.remove_sandboxes(labels.clone());
            if let Err(error) = until_answered(None, remove).await {
                let error = in_words(&error);
                warn!(%pod, %instance, error, "its sandbox is left; the next start removes it");
            }
            shared.remove_cgroups(shared.agent.cgroup_of_start(&pod, instance)).await;
        }));
    }
}

impl Runtime for CriRuntime {
    fn observe(&mut self) -> Result<Vec<Observation>, RuntimeError> {
        let folders = PodFolder::all_in(&self.shared.options.folder)?;
        if let Some(secrets) = self.shared.secrets.get() {
            let known: Vec<_> = folders.iter().map(|(_, folder)| folder.clone()).collect();
            secrets.forget_others(&known);
        }
        let known: Vec<_> = folders.iter().map(|(_, folder)| folder.clone()).collect();
        self.shared.storage.forget_others(&known);
        let found = found::find(&self.shared.options.socket, &self.shared.agent)?;
        self.shared.remove_cgroups_left();
        let new = found.into_iter().filter(|f| !self.shared.live().contains_key(&f.note.pod));
        let mut seen: Vec<Observation> =
            new.collect::<Vec<_>>().into_iter().map(|found| self.adopt(found)).collect();
        for (pod, folder) in folders {
            let is_known = self.shared.live().contains_key(&pod)
                || seen.iter().any(|observation| observation.pod == pod);
            // Begun once, and the container runtime has lost it.
            let lost = StartNote::read(&folder).filter(|note| !is_known && note.pod == pod);
            seen.extend(lost.map(|note| note.observed(ObservedState::Lost)));
        }
        Ok(seen)
    }

    fn start(&mut self, request: StartRequest) {
        let (pod, instance) = (request.pod.clone(), request.instance);
        if self.shared.live().contains_key(&pod) {
            let message = "an earlier start of this pod has not ended yet";
            let failure = StartFailure::new("StillRunning", message);
            return self.shared.tell_failure(pod, instance, failure);
        }
        let (mut life, mut live) = self.life(&pod, instance);
        life.ending = Ending::of(&request.container);
        let told = live.told();
        if request.containers.is_empty() {
            self.keep(&pod, live, life.started(request, told));
        } else {
            let (orders, group) = Group::new(life, request.containers.clone());
            live.group = Some(orders);
            self.keep(&pod, live, group.started(request));
        }
    }

    fn start_container(&mut self, request: ContainerRequest) {
        let (pod, instance) = (request.start.pod.clone(), request.start.instance);
        self.order(&pod, instance, |live| GroupOrder::Start(Box::new(request), live.told()));
    }

    fn stop_container(
        &mut self,
        pod: &PodId,
        instance: InstanceId,
        container: &str,
        grace_ms: u64,
    ) {
        let container = container.to_owned();
        self.order(pod, instance, |_| GroupOrder::Stop { container, grace_ms });
    }

    fn stop(&mut self, pod: &PodId, instance: InstanceId, grace_ms: u64) {
        if let Some(live) = self.shared.live().get(pod)
            && live.instance == instance
        {
            live.stop.send_replace(Some(grace_ms));
            return;
        }
        let (shared, pod) = (Arc::clone(&self.shared), pod.clone());
        drop(self.shared.tasks.spawn(async move {
            let code = until_answered(None, || shared.end_of_other(&pod, instance)).await;
            let code = code.unwrap_or(UNKNOWN_EXIT_CODE);
            shared.tell(RuntimeEvent::Exited { pod, instance, code });
        }));
    }

    fn forget(&mut self, pod: &PodId, instance: InstanceId, keep_logs: bool) {
        if self.shared.live().contains_key(pod) {
            warn!(%pod, %instance, "the pod runs; its files are kept");
            return;
        }
        self.remove(pod.clone(), instance);
        let folder = self.shared.folder(pod);
        self.shared.secrets.get().into_iter().for_each(|secrets| secrets.forget(&folder));
        if keep_logs {
            StartNote::forget(&folder, instance);
        } else {
            let (away, shared, pod) =
                (folder.move_away(instance), Arc::clone(&self.shared), pod.clone());
            self.shared.tasks.spawn_blocking(move || {
                shared.forget_memory(&pod, &folder);
                away.map(fs::remove_dir_all)
            });
        }
    }

    fn attach(&mut self, pod: &PodId, instance: InstanceId, volumes: Vec<VolumeContent>) {
        match self.shared.live().get_mut(pod).filter(|live| live.instance == instance) {
            Some(live) => live.volumes = Some(volumes),
            None => return,
        }
        let (shared, pod) = (Arc::clone(&self.shared), pod.clone());
        self.shared.tasks.spawn_blocking(move || shared.renew_volumes(pod, instance));
    }

    fn probe(&mut self, request: ProbeRequest) {
        let container = self.container_of(&request.pod, request.container.as_deref());
        let (shared, host) =
            (Arc::clone(&self.shared), self.shared.network_of(&request.pod).host());
        drop(self.shared.tasks.spawn(async move {
            let ProbeRequest { pod, instance, container: name, kind, probe } = request;
            let (client, limit) = (&shared.client, probe::limit_of(&probe));
            let by_command = |exec| check_by_command(client, container, exec, limit);
            let result = probe::run(&probe, &host, by_command).await;
            let event = RuntimeEvent::Probed { pod, instance, container: name, kind, result };
            shared.tell(event);
        }));
    }

    fn keep_images(&mut self, named: NamedImages) {
        let shared = Arc::clone(&self.shared);
        // In the order in which they are told; on the disk they are a moment later.
        shared.images.name(&named);
        drop(self.shared.tasks.spawn_blocking(move || shared.images.save()));
    }

    fn remove_image(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        drop(self.shared.tasks.spawn(async move {
            let image = shared.remove_image().await;
            shared.tell(RuntimeEvent::ImageRemoved { image });
        }));
        true
    }
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, BTreeMap<PodId, Live>> {
        // Nothing is left half done by a panic: entries are put and taken whole.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to write files of volumes.
    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The containers that run.
    fn running(&self) -> Vec<Running> {
        self.live().iter().flat_map(|(pod, live)| live.containers.running(pod)).collect()
    }

    /// Removes what a pod had in memory, unless it is started again.
    fn forget_memory(&self, pod: &PodId, folder: &PodFolder) {
        let _turn = self.writing();
        if !self.live().contains_key(pod) {
            self.storage.forget(folder);
        }
    }

    fn folder(&self, pod: &PodId) -> PodFolder {
        PodFolder::of(&self.options.folder, pod)
    }

    /// The agent that no longer listens is about to end.
    fn tell(&self, event: RuntimeEvent) {
        let _ = self.events.send(event);
    }

    fn tell_failure(&self, pod: PodId, instance: InstanceId, failure: StartFailure) {
        let StartFailure { reason, message } = failure;
        self.tell(RuntimeEvent::StartFailed { pod, instance, reason, message });
    }
}

/// Work that may take its time; `None` when the runtime is being shut down.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Option<T>> {
    let task = tokio::task::spawn_blocking(work);
    async { task.await.ok() }
}
