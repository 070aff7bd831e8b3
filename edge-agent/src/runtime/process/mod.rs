//! Pods as plain processes, each under a shim of its own: the same binary, started as
//! `edge-agent shim <folder of the pod>`.
//!
//! | file | what it holds |
//! |---|---|
//! | `shim/` | the shim itself: a blocking loop, and the step before the pod's program |
//! | `life` | the agent's side of one start: begin, watch, stop |
//! | `adopt` | what is left of earlier starts when the agent comes up |
//! | `probe` | checks by command |
//! | `exec` | commands that people ask for |
//! | `files`, `lock`, `identity` | the pod's folder, its lock, who a process is |
//! | `order` | what agent and shim say to each other |
//! | `refused` | what only a container can have |
//! | `usage` | CPU and memory of a pod |
//! | `member` | whether a process is one of a pod |
//!
//! Pods outlive the agent: a shim is in a session of its own and needs nothing of the agent. A
//! service manager has to leave it alone too (`KillMode=process` in systemd).
//!
//! Refuses to isolate: a pod runs as the agent's user and sees the node's files and network. Needs
//! Linux 5.3 (`pidfd_open`).

mod adopt;
mod exec;
mod files;
#[cfg(fuzzing)]
pub mod hostile;
pub(in crate::runtime) mod identity;
mod life;
mod lock;
mod member;
mod order;
mod probe;
mod refused;
mod shim;
mod usage;

pub use shim::shim_if_asked;
pub use usage::ProcessUsage;

use super::storage::Storage;
use super::volumes::Writer;
use super::{
    Allowed, ExecOrder, Secrets, access::Access, layers, log, pod_series, threads_series,
    usage_series, volumes,
};
use crate::gpu::GpuProcess;
use crate::placement::Placement;
use crate::ports::{
    InstanceId, Observation, ObservedState, ProbeRequest, Runtime, RuntimeError, RuntimeEvent,
    StartRequest, VolumeContent,
};
use crate::results::{Door, Doors};
use adopt::{Finding, examine};
use files::{PodFolder, moved_away_in, private_folder};
use identity::{ProcessIdentity, boot_id};
use layers::{Attempt, attempt};
use life::{Keeper, Life};
use member::is_member;
use order::{ResourceLimits, RunOrder, StartFailure};
use probe::Probed;
use shared::in_words;
use shared::model::PodId;
use shared::telemetry::Series;
use shared::wire::ExecResult;
use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::warn;
use usage::UsageReader;

/// The code of an end that nobody could see, because the shim was killed. Not 0: it is no success.
const UNKNOWN_EXIT_CODE: i32 = 255;

/// How the runtime is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessOptions {
    /// The folder of all pods; made when it is not there.
    pub folder: PathBuf,
    /// The size at which a pod's log is rotated, in bytes.
    pub log_max_bytes: u64,
    /// Log files kept of each pod, the one being written included.
    pub log_max_files: u32,
    /// Processes and threads that a pod may have; as many as the node has without.
    pub pids_max: Option<u64>,
    /// The program that calls [`shim_if_asked`]: normally this one, by its resolved path.
    pub shim_program: PathBuf,
}

/// Runs pods as processes. Made and used within a tokio runtime.
#[derive(Debug)]
pub struct ProcessRuntime {
    shared: Arc<Shared>,
    usage: UsageReader,
}

/// What the tasks of all pods have in common.
#[derive(Debug)]
struct Shared {
    options: ProcessOptions,
    events: mpsc::UnboundedSender<RuntimeEvent>,
    boot_id: String,
    live: Mutex<BTreeMap<PodId, Live>>,
    /// Where pods hand in their results.
    doors: Option<Doors>,
    /// What opens Secrets; without, a pod that has one is not started.
    secrets: Option<Secrets>,
    storage: Storage,
    /// Held by whoever writes files of volumes: what was ordered first is not written last.
    writing: Mutex<()>,
    tasks: Handle,
}

/// A start that has begun and not ended.
#[derive(Debug)]
struct Live {
    instance: InstanceId,
    /// The shim, or the pod's main process when its shim was killed; whose descendants are the pod.
    keeper: Option<ProcessIdentity>,
    main: Option<ProcessIdentity>,
    /// Milliseconds of grace, once it shall stop.
    stop: watch::Sender<Option<u64>>,
    /// Open for as long as any of it runs.
    door: Option<Door>,
    /// What its volumes are to hold, until that is being written.
    volumes: Option<Vec<VolumeContent>>,
}

impl ProcessRuntime {
    /// A runtime for the pods in a folder. Starts nothing and adopts nothing yet.
    ///
    /// # Errors
    /// When the folder can't be made, `/proc` can't be read or this is not within a tokio runtime.
    pub fn new(
        mut options: ProcessOptions,
        events: mpsc::UnboundedSender<RuntimeEvent>,
    ) -> Result<Self, RuntimeError> {
        let tasks = Handle::try_current().map_err(attempt("find the runtime of tasks"))?;
        let making = format!("make the folder of pods {}", options.folder.display());
        private_folder(&options.folder).map_err(attempt(making.clone()))?;
        // Shims stand elsewhere, and find their own by this path.
        options.folder = fs::canonicalize(&options.folder).map_err(attempt(making))?;
        let boot_id = boot_id().map_err(attempt("read the boot's name"))?;
        for left in moved_away_in(&options.folder) {
            tasks.spawn_blocking(move || fs::remove_dir_all(left));
        }
        let live = Mutex::default();
        let (doors, secrets, writing) = (None, None, Mutex::default());
        let storage = Storage::new(&options.folder, &Allowed::default());
        let shared =
            Shared { options, events, boot_id, live, doors, secrets, storage, writing, tasks };
        let shared = Arc::new(shared);
        Ok(Self { shared, usage: UsageReader::default() })
    }

    /// From now on a pod that starts, or is found running, has a door for its results. To be called
    /// before anything is started or adopted.
    #[must_use]
    pub fn with_doors(mut self, doors: Doors) -> Self {
        match Arc::get_mut(&mut self.shared) {
            Some(shared) => shared.doors = Some(doors),
            None => warn!("pods run already: they can't hand in results"),
        }
        self
    }

    /// From now on pods may have Secrets: those that were sealed to this node. To be called before anything
    /// is started or adopted.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Secrets) -> Self {
        match Arc::get_mut(&mut self.shared) {
            Some(shared) => shared.secrets = Some(secrets),
            None => warn!("pods run already: they can't have Secrets"),
        }
        self
    }

    /// CPU time and memory of a pod with all its descendants; `None` when it does not run.
    pub fn usage(&self, pod: &PodId) -> Option<ProcessUsage> {
        let keeper = self.shared.live().get(pod).and_then(|live| Some((live.keeper?, live.main?)));
        let (keeper, main) = keeper?;
        self.usage.of(keeper, main)
    }

    /// CPU time and memory of every pod that runs, named as cAdvisor names them.
    #[must_use]
    pub fn sample(&self) -> BTreeMap<Series, f64> {
        let pods: Vec<PodId> = self.shared.live().keys().cloned().collect();
        let usages = pods.iter().filter_map(|pod| Some((pod, self.usage(pod)?)));
        let series = usages.flat_map(|(pod, usage)| {
            let usual = usage_series(pod, usage.cpu_usec, usage.memory_bytes);
            usual.into_iter().chain([threads_series(pod, usage.threads)])
        });
        series.collect()
    }

    /// Memory of GPUs that each pod uses, as the driver counts it by process. Named as cAdvisor names
    /// it.
    #[must_use]
    pub fn gpu_memory(&self, processes: &[GpuProcess]) -> BTreeMap<Series, f64> {
        let mut values = BTreeMap::new();
        if processes.is_empty() {
            return values;
        }
        let live = self.shared.live();
        let known = live.iter().filter_map(|(pod, live)| Some((pod, live.keeper?, live.main?)));
        for (pod, keeper, main) in known {
            let pids = self.usage.pids_of(keeper, main);
            for process in processes.iter().filter(|process| pids.contains(&process.pid)) {
                let series = pod_series(pod, "container_accelerator_memory_used_bytes");
                *values.entry(series.with("acc_id", &process.uuid)).or_insert(0.0) += process.bytes;
            }
        }
        values
    }

    /// Runs a command in a pod: in its environment, its folder and its cgroups.
    pub(super) fn exec(
        &self,
        order: ExecOrder,
    ) -> impl Future<Output = Result<ExecResult, String>> + Send + 'static {
        let probed = self.probed(&order.pod);
        let program = self.shared.options.shim_program.clone();
        async move { exec::run(order, probed, program).await }
    }

    fn probed(&self, pod: &PodId) -> Probed {
        let main = self.shared.live().get(pod).and_then(|live| live.main);
        Probed { folder: self.shared.folder(pod), main }
    }

    fn adopt(&self, pod: &PodId, finding: Finding) -> Option<Observation> {
        // What has ended holds nothing.
        let ended = |instance, revision, state| {
            let (pod, placement, parameters_id) = (pod.clone(), Placement::default(), 0);
            let taken = None;
            Some(Observation {
                pod,
                instance,
                revision,
                state,
                placement,
                taken,
                parameters_id,
                containers: vec![],
                pod_ip: None,
            })
        };
        match finding {
            Finding::Nothing => None,
            Finding::Running { state, keeper } => {
                self.watch(pod, state.instance, state.main, keeper);
                Some(Observation {
                    pod: pod.clone(),
                    instance: state.instance,
                    revision: state.revision,
                    state: ObservedState::Running { started_at: state.started_at },
                    placement: state.placement,
                    taken: state.taken,
                    parameters_id: state.parameters_id,
                    containers: vec![],
                    pod_ip: None,
                })
            }
            Finding::Exited { instance, revision, code } => {
                ended(instance, revision, ObservedState::Exited { code })
            }
            Finding::Lost { instance, revision } => ended(instance, revision, ObservedState::Lost),
        }
    }

    fn watch(
        &self,
        pod: &PodId,
        instance: InstanceId,
        main: Option<ProcessIdentity>,
        keeper: Keeper,
    ) {
        let (life, mut live) = self.life(pod, instance);
        (live.keeper, live.main) = (Some(keeper.identity()), main);
        live.door = self.open_door(pod, instance);
        self.shared.live().insert(pod.clone(), live);
        self.shared.tasks.spawn(life.adopted(keeper));
    }

    fn life(&self, pod: &PodId, instance: InstanceId) -> (Life, Live) {
        let (stop, orders) = watch::channel(None);
        let shared = self.shared.clone();
        let folder = self.shared.folder(pod);
        let life = Life { shared, pod: pod.clone(), instance, folder, orders };
        let live = Live { instance, keeper: None, main: None, stop, door: None, volumes: None };
        (life, live)
    }

    fn open_door(&self, pod: &PodId, instance: InstanceId) -> Option<Door> {
        let folder = self.shared.folder(pod);
        let socket = folder.results_socket();
        let is_member = move |pid| is_member(&folder, instance, pid);
        Some(self.shared.doors.as_ref()?.open(pod, instance, &socket, Box::new(is_member)))
    }

    fn order(&self, request: &StartRequest) -> Result<RunOrder, StartFailure> {
        if self.shared.live().contains_key(&request.pod) {
            let message = "an earlier start of this pod has not ended yet";
            return Err(StartFailure::new("StillRunning", message));
        }
        let options = &self.shared.options;
        let folder = self.shared.folder(&request.pod);
        let order = RunOrder::of(request, &folder, options.log_max_bytes, options.log_max_files)?;
        let limits = ResourceLimits { pids: options.pids_max, ..order.limits };
        Ok(RunOrder { limits, ..order })
    }

    fn forget_files(&self, pod: &PodId, instance: InstanceId, keep_logs: bool) -> Attempt<()> {
        let folder = self.shared.folder(pod);
        if !folder.path().exists() {
            return Ok(());
        }
        let Some(_lock) = lock::take(&folder)? else {
            warn!(%pod, %instance, "a process of the pod still runs; its files are kept");
            return Ok(());
        };
        // The next start has them again.
        self.shared.secrets.iter().for_each(|secrets| secrets.forget(&folder));
        if !keep_logs {
            if let Some(away) = folder.move_away(instance) {
                self.shared.tasks.spawn_blocking(move || fs::remove_dir_all(away));
            }
        } else if folder.state().is_none_or(|state| state.instance == instance) {
            folder.forget();
        }
        Ok(())
    }
}

impl Runtime for ProcessRuntime {
    fn observe(&mut self) -> Result<Vec<Observation>, RuntimeError> {
        let mut observations = Vec::new();
        let folders = PodFolder::all_in(&self.shared.options.folder)?;
        if let Some(secrets) = &self.shared.secrets {
            let known: Vec<_> = folders.iter().map(|(_, folder)| folder.clone()).collect();
            secrets.forget_others(&known);
        }
        for (pod, folder) in folders {
            if self.shared.live().contains_key(&pod) {
                continue;
            }
            let finding = examine(&folder, &self.shared.boot_id).unwrap_or_else(|error| {
                warn!(%pod, error = in_words(&error), "the pod's folder can't be read");
                Finding::Lost { instance: InstanceId::default(), revision: Default::default() }
            });
            observations.extend(self.adopt(&pod, finding));
        }
        Ok(observations)
    }

    fn start(&mut self, request: StartRequest) {
        let (pod, instance) = (request.pod.clone(), request.instance);
        match self.order(&request) {
            Ok(mut order) => {
                let (life, mut live) = self.life(&pod, instance);
                live.door = self.open_door(&pod, instance);
                // Last, so that a template can't point a pod at another's door.
                let told = live.door.as_ref().map(Door::environment).unwrap_or_default();
                order.launch.environment.extend(told);
                self.shared.live().insert(pod, live);
                self.shared.tasks.spawn(life.started(order, request));
            }
            Err(failure) => self.shared.tell_failure(pod, instance, failure),
        }
    }

    fn stop(&mut self, pod: &PodId, instance: InstanceId, grace_ms: u64) {
        if let Some(live) = self.shared.live().get(pod)
            && live.instance == instance
        {
            live.stop.send_replace(Some(grace_ms));
            return;
        }
        let code = self.shared.folder(pod).exit_of(instance).unwrap_or(UNKNOWN_EXIT_CODE);
        self.shared.tell(RuntimeEvent::Exited { pod: pod.clone(), instance, code });
    }

    fn forget(&mut self, pod: &PodId, instance: InstanceId, keep_logs: bool) {
        if self.shared.live().contains_key(pod) {
            warn!(%pod, %instance, "the pod runs; its files are kept");
            return;
        }
        if let Err(error) = self.forget_files(pod, instance, keep_logs) {
            warn!(%pod, %instance, error = in_words(&error), "its files are kept");
        }
    }

    fn attach(&mut self, pod: &PodId, instance: InstanceId, volumes: Vec<VolumeContent>) {
        match self.shared.live().get_mut(pod).filter(|live| live.instance == instance) {
            Some(live) => live.volumes = Some(volumes),
            None => return,
        }
        let (shared, pod) = (self.shared.clone(), pod.clone());
        self.shared.tasks.spawn_blocking(move || shared.renew_volumes(pod, instance));
    }

    fn probe(&mut self, request: ProbeRequest) {
        let probed = self.probed(&request.pod);
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            let ProbeRequest { pod, instance, container, kind, probe } = request;
            let result = probe::run(&probe, &probed).await;
            shared.tell(RuntimeEvent::Probed { pod, instance, container, kind, result });
        });
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

    /// Writes what was ordered last.
    fn renew_volumes(&self, pod: PodId, instance: InstanceId) {
        let _turn = self.writing();
        let ordered = |live: &mut Live| live.volumes.take_if(|_| live.instance == instance);
        let Some(volumes) = self.live().get_mut(&pod).and_then(ordered) else { return };
        let writer = Writer { secrets: self.secrets.as_ref(), access: Access::default() };
        if let Err(failure) = volumes::renew(&self.folder(&pod), &volumes, writer) {
            let message = format!("{}: {}", failure.reason, failure.message);
            self.tell(RuntimeEvent::NotAttached { pod, instance, message });
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
