//! One start of a pod: its sandbox and container are made, watched, stopped.
//!
//! Nothing is said to have ended because the runtime is silent: it is asked until it answers.

use super::api;
use super::calls::{ContainerCondition, UNKNOWN_EXIT_CODE, until_answered};
use super::client::{CallError, CriClient, ORDER_LIMIT};
use super::hooks::{Ending, make_last_words_file};
use super::ids::ContainerIds;
use super::network::{Network, NetworkOrder};
use super::note::{Pairs, StartNote};
use super::order::{OrderOf, door_folder};
use super::security::Security;
use super::{Shared, blocking, placed};
use crate::ports::{InstanceId, RuntimeEvent, StartRequest};
use crate::runtime::StartFailure;
use crate::runtime::access::Access;
use crate::runtime::folder::{PodFolder, is_disk_full, private_folder};
use crate::runtime::layers::{Attempt, attempt};
use crate::runtime::log::note_first;
use shared::in_words;
use shared::model::{ContainerRole, PodId, UnixMs};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// How long a start waits for a runtime that does not answer.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(10);

/// A container is looked at this often although no listing says that it has changed.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);

/// Until a name that is taken is asked for again.
pub(super) const NAME_PAUSE: Duration = Duration::from_millis(100);

/// Between two orders that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Beyond the grace, until an order to stop is given again.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// How often the end of a sandbox is ordered although it is refused.
const ENDS_REFUSED_MAX: u32 = 5;

/// One start.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) shared: Arc<Shared>,
    pub(super) pod: PodId,
    pub(super) instance: InstanceId,
    /// The ids of its containers.
    pub(super) containers: Arc<ContainerIds>,
    /// Milliseconds of grace, once it shall stop.
    pub(super) orders: watch::Receiver<Option<u64>>,
    /// What is to be known when it ends.
    pub(super) ending: Ending,
}

/// A container that was started.
struct Begun {
    sandbox: String,
    container: String,
    started_at: UnixMs,
}

impl Life {
    /// Begins it and stays until it has ended. `told` is what the pod is told of its door.
    pub(super) async fn started(mut self, request: StartRequest, told: Option<Pairs>) {
        let (pod, instance) = (self.pod.clone(), self.instance);
        match self.begin(&request, told).await {
            Ok(Begun { sandbox, container, started_at }) => {
                self.shared.tell(RuntimeEvent::Started { pod, instance, started_at });
                self.keep(&sandbox, &container).await;
            }
            Err(failure) => {
                self.shared.live().remove(&pod);
                self.shared.tell_failure(pod, instance, failure);
            }
        }
    }

    /// Stays with a start that was found running until it has ended.
    pub(super) async fn adopted(mut self, sandbox: String, container: String) {
        self.make_up_for_post_start("", &container).await;
        self.keep(&sandbox, &container).await;
    }

    async fn begin(
        &mut self,
        request: &StartRequest,
        told: Option<Pairs>,
    ) -> Result<Begun, StartFailure> {
        self.clear().await?;
        let container = &request.container;
        let image = self
            .image(container.image.as_deref(), container.image_pull_policy, &request.pull)
            .await?;
        let shared = Arc::clone(&self.shared);
        let Shared { options, agent, .. } = shared.as_ref();
        let security =
            &Security::of(&request.security, &request.container, &image, &options.allowed)?;
        let volumes = self.prepare(request, security.access()).await?;
        let (network, asked) = self.network(request).await?;
        let folder = &shared.folder(&self.pod);
        let order = OrderOf { options, agent, request, folder, security, network };
        let make = |order: OrderOf<'_>| {
            let devices = placed::devices(&options.allowed, request)?;
            let container = order.container(image.id, &volumes, told)?;
            Ok(api::ContainerConfig { devices, ..container })
        };
        let begun = match self.create(order, asked, make).await {
            Ok(begun) => {
                let hooks = request.container.lifecycle.as_ref();
                self.post_start(hooks, "", &begun.container).await.map(|()| begun)
            }
            Err(failure) => Err(failure),
        };
        if begun.is_err() {
            self.end("the sandbox of a start that failed", |client, labels| async move {
                client.remove_sandboxes(labels).await
            })
            .await;
        }
        begun
    }

    /// Removes what earlier starts of the pod left: whatever of them was to be adopted has been.
    pub(super) async fn clear(&self) -> Result<(), StartFailure> {
        let labels = self.shared.agent.labels_of_pod(&self.pod);
        let clear = || self.shared.client.remove_sandboxes(labels.clone());
        let cleared = until_answered(Some(START_PATIENCE), clear).await;
        cleared.map_err(|error| failure_of(&error))?;
        self.shared.remove_cgroups(self.shared.agent.cgroups_of_pod(&self.pod)).await;
        Ok(())
    }

    /// Makes the pod's folder, notes the start there and lays its volumes down; where they lie.
    pub(super) async fn prepare(
        &self,
        request: &StartRequest,
        access: Access,
    ) -> Result<Vec<PathBuf>, StartFailure> {
        placed::refuse_memory_elsewhere(&self.shared.client, request).await?;
        self.shared.live().get_mut(&self.pod).into_iter().for_each(|live| live.access = access);
        let (shared, request) = (Arc::clone(&self.shared), request.clone());
        let work = move || {
            let folder = shared.folder(&request.pod);
            let network = Network::asked(&shared.options, &request);
            let note = StartNote::of(&request, access, network);
            make_folder(&folder, &note).and_then(|()| note.write(&folder)).map_err(|error| {
                let reason = if is_disk_full(&error) { "DiskFull" } else { "FolderFailed" };
                StartFailure::new(reason, in_words(&error))
            })?;
            let placed = placed::place(&shared, &folder, &request, access)?;
            shared.limit_processes(&request.pod, request.instance).map(|()| placed)
        };
        let ended = || StartFailure::new("VolumeFailed", "the agent ends");
        blocking(work).await.unwrap_or_else(|| Err(ended()))
    }

    /// `make` makes the container for a network whose address is known.
    async fn create(
        &self,
        order: OrderOf<'_>,
        asked: NetworkOrder,
        make: impl FnOnce(OrderOf<'_>) -> Result<api::ContainerConfig, StartFailure>,
    ) -> Result<Begun, StartFailure> {
        let failed = |error: CallError| failure_of(&error);
        let (config, runtime_handler) = (order.sandbox(asked), order.runtime_handler());
        let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler };
        let sandbox = self.run_sandbox(&request).await.map_err(failed)?;
        let network = self.addressed(order.network, &sandbox).await?;
        let request = api::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(make(OrderOf { network, ..order })?),
            sandbox_config: Some(config),
        };
        let made = self.shared.client.call("CreateContainer", &request, ORDER_LIMIT).await;
        let api::CreateContainerResponse { container_id: container } = made.map_err(failed)?;
        let started_at = self.start_created("", &container).await.map_err(failed)?;
        Ok(Begun { sandbox, container, started_at })
    }

    /// Starts a container that was made, by its name where there are several; since when it runs.
    pub(super) async fn start_created(&self, name: &str, id: &str) -> Result<UnixMs, CallError> {
        let client = &self.shared.client;
        // Known before it runs: it may come to its door at once.
        self.containers.add(name, id);
        let order = api::StartContainerRequest { container_id: id.to_owned() };
        let _: api::Nothing = client.call("StartContainer", &order, ORDER_LIMIT).await?;
        Ok(match until_answered(None, || client.condition(id)).await? {
            ContainerCondition::Runs { started_at_ms } => UnixMs(started_at_ms),
            // It has ended already; that is told next.
            _ => now(),
        })
    }

    /// Makes the sandbox. The runtime holds its name for a moment longer than it lists an earlier one that is being
    /// removed, and from earlier on than it lists one whose start was given up.
    pub(super) async fn run_sandbox(
        &self,
        order: &api::RunPodSandboxRequest,
    ) -> Result<String, CallError> {
        let (client, begin) = (&self.shared.client, Instant::now());
        loop {
            match client.call("RunPodSandbox", order, ORDER_LIMIT).await {
                Ok(api::RunPodSandboxResponse { pod_sandbox_id }) => return Ok(pod_sandbox_id),
                Err(error) if error.is_name_taken() && begin.elapsed() < START_PATIENCE => {
                    sleep(NAME_PAUSE).await;
                    let labels = self.shared.agent.labels_of_pod(&self.pod);
                    client.remove_sandboxes(labels).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Stays until nothing of it runs, then says so.
    async fn keep(&mut self, sandbox: &str, container: &str) {
        let code = self.end_of(container).await;
        self.end_sandbox(sandbox).await;
        self.tell_end(code);
    }

    pub(super) async fn end_sandbox(&self, sandbox: &str) {
        self.end("the sandbox of a pod that has ended", |client, _| {
            let sandbox = sandbox.to_owned();
            async move { client.stop_sandbox(&sandbox).await }
        })
        .await;
    }

    /// Nothing of it runs any more.
    pub(super) fn tell_end(&self, code: i32) {
        self.shared.live().remove(&self.pod);
        let (pod, instance) = (self.pod.clone(), self.instance);
        let message = self.shared.last_words(&pod, &self.ending, code);
        if !message.is_empty() {
            let pod = pod.clone();
            self.shared.tell(RuntimeEvent::LastWords { pod, instance, message });
        }
        self.shared.tell(RuntimeEvent::Exited { pod, instance, code });
    }

    /// The code with which the container ended, when it has.
    pub(super) async fn end_of(&mut self, container: &str) -> i32 {
        let client = self.shared.client.clone();
        let mut listings = self.shared.listing.subscribe();
        let mut kill_at: Option<Instant> = None;
        loop {
            listings.mark_unchanged();
            match client.condition(container).await {
                Ok(ContainerCondition::Runs { .. }) => {}
                Ok(ContainerCondition::Ended { code, reason }) => {
                    info!(pod = %self.pod, instance = %self.instance, code, reason, "it has ended");
                    return code;
                }
                Ok(ContainerCondition::Lost) => {
                    warn!(pod = %self.pod, instance = %self.instance, "its end was not seen");
                    return UNKNOWN_EXIT_CODE;
                }
                Err(error) => {
                    warn!(pod = %self.pod, error = in_words(&error), "the pod can't be looked at");
                    sleep(PAUSE).await;
                    continue;
                }
            }
            tokio::select! {
                Some(grace_ms) = ordered(&mut self.orders) => {
                    let grace = Duration::from_millis(grace_ms);
                    let end = Instant::now().checked_add(grace);
                    if kill_at.is_none() && grace_ms > 0 {
                        self.pre_stop(container, grace).await;
                    }
                    kill_at = end;
                }
                () = stop(&client, container, kill_at), if kill_at.is_some() => {}
                _ = listings.changed(), if kill_at.is_none() => {}
                () = sleep(LOOK_ANYWAY), if kill_at.is_none() => {}
            }
        }
    }

    /// Returns when the container does not run any more; while nobody answers that is not known.
    pub(super) async fn ended(&self, container: &str) {
        let mut listings = self.shared.listing.subscribe();
        loop {
            listings.mark_unchanged();
            match self.shared.client.condition(container).await {
                Ok(ContainerCondition::Runs { .. }) => {}
                Ok(_) => return,
                Err(_) => sleep(PAUSE).await,
            }
            tokio::select! {
                _ = listings.changed() => {}
                () = sleep(LOOK_ANYWAY) => {}
            }
        }
    }

    /// Sees to it that `what` has ended: while the runtime is silent it is asked again, while it refuses not for
    /// ever.
    pub(super) async fn end<C>(&self, what: &str, mut order: impl FnMut(CriClient, Pairs) -> C)
    where
        C: Future<Output = Result<(), CallError>>,
    {
        for _ in 0..ENDS_REFUSED_MAX {
            let labels = self.shared.agent.labels_of_pod(&self.pod);
            let ended = || order(self.shared.client.clone(), labels.clone());
            let Err(error) = until_answered(None, ended).await else { return };
            let error = in_words(&error);
            warn!(pod = %self.pod, instance = %self.instance, error, "{what} does not end");
            sleep(PAUSE).await;
        }
    }
}

impl Shared {
    /// Ends what is left of a start that is not watched; the code with which it ended.
    pub(super) async fn end_of_other(
        &self,
        pod: &PodId,
        instance: InstanceId,
    ) -> Result<i32, CallError> {
        let labels = self.agent.labels_of_start(pod, instance);
        let mut code = UNKNOWN_EXIT_CODE;
        for container in self.client.containers(labels.clone()).await? {
            self.client.stop_sandbox(&container.pod_sandbox_id).await?;
            let condition = self.client.condition(&container.id).await?;
            if let ContainerCondition::Ended { code: seen, .. } = condition {
                code = seen;
            }
        }
        for sandbox in self.client.sandboxes(labels).await? {
            self.client.stop_sandbox(&sandbox.id).await?;
        }
        Ok(code)
    }
}

/// Stops a container: SIGTERM, and SIGKILL at `kill_at`. Returns when it has ended, or after a pause.
pub(super) async fn stop(client: &CriClient, container: &str, kill_at: Option<Instant>) {
    let left = kill_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
    // Whole seconds; 0 is SIGKILL at once.
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    let order = api::StopContainerRequest {
        container_id: container.to_owned(),
        timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
    };
    let limit = left.saturating_add(STOP_MARGIN);
    let answer: Result<api::Nothing, _> = client.call("StopContainer", &order, limit).await;
    if let Err(error) = answer {
        warn!(container, error = in_words(&error), "the container was not stopped");
        sleep(PAUSE).await;
    }
}

pub(super) fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn make_folder(folder: &PodFolder, note: &StartNote) -> Attempt<()> {
    for path in [folder.log(), door_folder(folder)] {
        let making = format!("make the folder {}", path.display());
        private_folder(&path).map_err(attempt(making))?;
    }
    make_last_words_file(folder)?;
    let first = note.containers.iter().find(|one| one.role == ContainerRole::Main);
    let noting = format!("note the first container in {}", folder.log().display());
    note_first(&folder.log(), first.map(|one| one.name.as_str())).map_err(attempt(noting))
}

/// The next order to stop; never ready again when there can be none.
pub(super) async fn ordered(orders: &mut watch::Receiver<Option<u64>>) -> Option<u64> {
    if orders.changed().await.is_err() {
        // The runtime is gone, and with it soon this task.
        std::future::pending::<()>().await;
    }
    *orders.borrow_and_update()
}

pub(super) fn failure_of(error: &CallError) -> StartFailure {
    let message = in_words(error);
    let reason = match error {
        _ if error.may_pass() => "RuntimeUnavailable",
        CallError::Refused { call: "StartContainer", message, .. }
            if message.contains("executable file not found")
                || message.contains("no such file or directory") =>
        {
            "ProgramNotFound"
        }
        CallError::Refused { call: "RunPodSandbox", .. } => "SandboxFailed",
        _ => "ContainerFailed",
    };
    StartFailure::new(reason, message)
}
