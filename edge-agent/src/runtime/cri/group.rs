//! One start of a pod of several containers: its sandbox is made, and then each container started and stopped as it
//! is asked for. Which and when is not decided here, except for the end: sidecars end last.
//!
//! A container that is started again is another one of the same name with the next attempt. The one before is
//! removed first, and the runtime takes a name and attempt once, so that none runs twice.

use super::api;
use super::calls::{UNKNOWN_EXIT_CODE, until_answered};
use super::client::{CallError, ORDER_LIMIT};
use super::hooks::Ending;
use super::life::{Life, NAME_PAUSE, START_PATIENCE, failure_of, now, ordered};
use super::log::LOG_NAME;
use super::network::{Network, NetworkOrder};
use super::note::Pairs;
use super::order::OrderOf;
use super::security::Security;
use super::{Shared, blocking, placed};
use crate::ports::{
    ContainerEvent, ContainerPlan, ContainerRequest, RuntimeEvent, StartRequest, VolumeContent,
};
use crate::runtime::folder::private_folder;
use crate::runtime::{StartFailure, volumes};
use shared::model::{ContainerRole, UnixMs};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// What is to become of one of the containers.
pub(super) enum GroupOrder {
    /// It is to be started, told this of the pod's door.
    Start(Box<ContainerRequest>, Option<Pairs>),
    /// It is to be stopped, with so much grace.
    Stop { container: String, grace_ms: u64 },
}

/// Keeps one start.
pub(super) struct Group {
    life: Life,
    plan: Vec<ContainerPlan>,
    orders: mpsc::UnboundedReceiver<GroupOrder>,
    /// How those that run are told to stop, in milliseconds of grace.
    running: BTreeMap<String, watch::Sender<Option<u64>>>,
    ends: (mpsc::UnboundedSender<End>, mpsc::UnboundedReceiver<End>),
    last_code: i32,
}

/// A container that has ended, and its code.
type End = (String, i32);

impl Group {
    /// The keeper of a start, and how it is told what to do.
    pub(super) fn new(
        life: Life,
        plan: Vec<ContainerPlan>,
    ) -> (mpsc::UnboundedSender<GroupOrder>, Self) {
        let (sender, orders) = mpsc::unbounded_channel();
        let (running, last_code) = (BTreeMap::new(), UNKNOWN_EXIT_CODE);
        (sender, Self { life, plan, orders, running, ends: mpsc::unbounded_channel(), last_code })
    }

    /// Makes the sandbox and stays until nothing of it runs.
    pub(super) async fn started(mut self, request: StartRequest) {
        let (pod, instance) = (self.life.pod.clone(), self.life.instance);
        match self.begin(&request).await {
            Ok(sandbox) => {
                let started_at = now();
                self.life.shared.tell(RuntimeEvent::Started { pod, instance, started_at });
                self.keep(&sandbox).await;
            }
            Err(failure) => {
                self.life.shared.live().remove(&pod);
                self.life.shared.tell_failure(pod, instance, failure);
            }
        }
    }

    /// Stays with a start that was found running, with these containers by name and id.
    pub(super) async fn adopted(mut self, sandbox: String, running: Vec<(String, String)>) {
        for (name, id) in running {
            self.life.containers.add(&name, &id);
            self.watch(&name, id, true);
        }
        self.keep(&sandbox).await;
    }

    async fn begin(&mut self, request: &StartRequest) -> Result<String, StartFailure> {
        let life = &mut self.life;
        life.clear().await?;
        let mut image_of_first = api::Image::default();
        for ContainerPlan { name, image, pulls, .. } in &self.plan {
            let found = life.image(image.as_deref(), *pulls, &request.pull).await;
            let found = found.map_err(|StartFailure { reason, message }| {
                StartFailure::new(&reason, format!("the container `{name}`: {message}"))
            })?;
            if *name == request.container.name {
                image_of_first = found;
            }
        }
        let allowed = &life.shared.options.allowed;
        let security =
            Security::of(&request.security, &request.container, &image_of_first, allowed)?;
        let is_privileged = allowed.privileged && self.plan.iter().any(|one| one.is_privileged);
        let security = security.in_a_sandbox_of(is_privileged);
        life.prepare(request, security.access()).await?;
        let (network, asked) = life.network(request).await?;
        let order = order_of(&life.shared, request, &security, network, |order| {
            let (config, runtime_handler) = (Some(order.sandbox(asked)), order.runtime_handler());
            api::RunPodSandboxRequest { config, runtime_handler }
        });
        let made = match life.run_sandbox(&order).await {
            Ok(sandbox) => life.addressed(network, &sandbox).await.map(|_| sandbox),
            Err(error) => Err(failure_of(&error)),
        };
        if made.is_err() {
            life.end("the sandbox of a start that failed", |client, labels| async move {
                client.remove_sandboxes(labels).await
            })
            .await;
        }
        made
    }

    /// Does what is ordered until the pod is to stop, or can't go on.
    async fn keep(mut self, sandbox: &str) {
        let mut grace_ms = 0;
        loop {
            tokio::select! {
                Some(ordered_ms) = ordered(&mut self.life.orders) => {
                    grace_ms = ordered_ms;
                    break;
                }
                Some((name, code)) = self.ends.1.recv() => {
                    self.note_end(&name, code);
                    self.tell(name, ContainerEvent::Exited { code });
                }
                Some(order) = self.orders.recv() => {
                    if !self.obey(order, sandbox).await {
                        break;
                    }
                }
            }
        }
        self.wind_up(grace_ms).await;
        self.life.end_sandbox(sandbox).await;
        self.life.tell_end(self.last_code);
    }

    /// Whether the pod can go on.
    async fn obey(&mut self, order: GroupOrder, sandbox: &str) -> bool {
        match order {
            GroupOrder::Stop { container, grace_ms } => {
                if let Some(stop) = self.running.get(&container) {
                    stop.send_replace(Some(grace_ms));
                }
                true
            }
            GroupOrder::Start(request, told) => {
                let name = request.start.container.name.clone();
                match self.start(&request, told, sandbox).await {
                    Ok((id, started_at)) => {
                        self.watch(&name, id, false);
                        self.tell(name, ContainerEvent::Started { started_at });
                        true
                    }
                    Err(StartFailure { reason, message }) => {
                        if !self.running.contains_key(&name) {
                            self.life.containers.remove(&name);
                        }
                        self.tell(name, ContainerEvent::StartFailed { reason, message });
                        self.stands(sandbox).await
                    }
                }
            }
        }
    }

    /// Whether the sandbox can still have containers.
    async fn stands(&self, sandbox: &str) -> bool {
        let Life { shared, pod, instance, .. } = &self.life;
        let labels = shared.agent.labels_of_start(pod, *instance);
        let ready = i32::from(api::PodSandboxState::SandboxReady);
        match until_answered(None, || shared.client.sandboxes(labels.clone())).await {
            Ok(found) => found.iter().any(|one| one.id == sandbox && one.state == ready),
            // It is not known to be gone.
            Err(_) => true,
        }
    }

    async fn start(
        &self,
        request: &ContainerRequest,
        told: Option<Pairs>,
        sandbox: &str,
    ) -> Result<(String, UnixMs), StartFailure> {
        let ContainerRequest { start, attempt } = request;
        let (name, life) = (&start.container.name, &self.life);
        if self.running.contains_key(name) {
            return Err(StartFailure::new("StillRunning", "it has not ended yet"));
        }
        let image = life.image_here(start.container.image.as_deref()).await?;
        let allowed = &life.shared.options.allowed;
        let security = &Security::of(&start.security, &start.container, &image, allowed)?;
        let volumes = self.find_volumes(start).await?;
        let network = life.shared.network_of(&life.pod);
        let (config, sandbox_config) = order_of(&life.shared, start, security, network, |order| {
            let sandbox = order.sandbox(NetworkOrder::default());
            (order.container(image.id, &volumes, told), sandbox)
        });
        let mut config = config?;
        config.devices = placed::devices(allowed, start)?;
        config.log_path = format!("{name}/{LOG_NAME}");
        config.metadata = Some(api::ContainerMetadata { name: name.clone(), attempt: *attempt });
        let order = api::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let begin = async {
            let made = self.create(&order, name).await;
            let id = made.map_err(|error| failure_of(&error))?;
            let started = life.start_created(name, &id).await;
            let started_at = started.map_err(|error| failure_of(&error))?;
            let mut orders = life.orders.clone();
            tokio::select! {
                done = life.post_start(start.container.lifecycle.as_ref(), name, &id) => done?,
                _ = ordered(&mut orders) => {
                    return Err(StartFailure::new("Stopped", "the pod stops"));
                }
            }
            Ok((id, started_at))
        };
        match begin.await {
            Ok(begun) => Ok(begun),
            Err(failure) => {
                let removed =
                    until_answered(Some(START_PATIENCE), || self.remove_earlier(sandbox, name));
                if let Err(error) = removed.await {
                    let error = shared::in_words(&error);
                    warn!(pod = %life.pod, container = name, error, "it could not be started, and is left");
                }
                Err(failure)
            }
        }
    }

    /// Makes the container, when none of its name is left. The runtime holds a name for a moment longer than it
    /// lists the container, and from earlier on.
    async fn create(
        &self,
        order: &api::CreateContainerRequest,
        name: &str,
    ) -> Result<String, CallError> {
        let (client, begin) = (&self.life.shared.client, Instant::now());
        loop {
            let clear = || self.remove_earlier(&order.pod_sandbox_id, name);
            until_answered(Some(START_PATIENCE), clear).await?;
            match client.call("CreateContainer", order, ORDER_LIMIT).await {
                Ok(api::CreateContainerResponse { container_id }) => return Ok(container_id),
                Err(error) if error.is_name_taken() && begin.elapsed() < START_PATIENCE => {
                    sleep(NAME_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn remove_earlier(&self, sandbox: &str, name: &str) -> Result<(), CallError> {
        let Life { shared, pod, instance, .. } = &self.life;
        let labels = shared.agent.labels_of_start(pod, *instance);
        for one in shared.client.containers(labels).await? {
            let is_it = one.metadata.is_some_and(|metadata| metadata.name == name);
            if is_it && one.pod_sandbox_id == sandbox {
                shared.client.remove_container(&one.id).await?;
            }
        }
        Ok(())
    }

    /// Where each of the container's volumes lies, and a folder for its log.
    async fn find_volumes(&self, start: &StartRequest) -> Result<Vec<PathBuf>, StartFailure> {
        let (shared, start) = (self.life.shared.clone(), start.clone());
        let work = move || {
            let folder = shared.folder(&start.pod);
            let log = folder.log().join(&start.container.name);
            private_folder(&log).map_err(|error| {
                let message = format!("make the folder {}: {error}", log.display());
                StartFailure::new("FolderFailed", message)
            })?;
            let secrets = shared.secrets.get();
            let access = shared.live().get(&start.pod).map(|live| live.access).unwrap_or_default();
            let find = |volume: &VolumeContent| {
                let found = shared.storage.place(&folder, &start, volume, access)?;
                found.map_or_else(|| volumes::place_of(&folder, volume, secrets), Ok)
            };
            start.volumes.iter().map(find).collect()
        };
        let ended = || StartFailure::new("VolumeFailed", "the agent ends");
        blocking(work).await.unwrap_or_else(|| Err(ended()))
    }

    /// From now on its end is seen. One that was found running may lack what is to be done at its start.
    fn watch(&mut self, name: &str, id: String, is_found: bool) {
        let (stop, orders) = watch::channel(None);
        let plan = self.plan.iter().find(|one| one.name == name);
        let pre_stop = plan.and_then(|plan| plan.pre_stop.clone());
        let post_start = plan.filter(|_| is_found).and_then(|plan| plan.post_start.clone());
        let ending = Ending { pre_stop, falls_back_to_log: false, post_start };
        let mut life = Life { orders, ending, ..self.life.clone() };
        self.running.insert(name.to_owned(), stop);
        let (ends, name) = (self.ends.0.clone(), name.to_owned());
        drop(self.life.shared.tasks.spawn(async move {
            life.make_up_for_post_start(&name, &id).await;
            let code = life.end_of(&id).await;
            let _ = ends.send((name, code));
        }));
    }

    fn note_end(&mut self, name: &str, code: i32) {
        self.running.remove(name);
        self.life.containers.remove(name);
        if self.role_of(name) == Some(ContainerRole::Main) {
            self.last_code = code;
        }
    }

    fn role_of(&self, name: &str) -> Option<ContainerRole> {
        self.plan.iter().find(|one| one.name == name).map(|one| one.role)
    }

    fn tell(&self, container: String, event: ContainerEvent) {
        let (pod, instance) = (self.life.pod.clone(), self.life.instance);
        self.life.shared.tell(RuntimeEvent::Container { pod, instance, container, event });
    }

    /// Stops all containers: sidecars when all others have ended, the last one first.
    async fn wind_up(&mut self, grace_ms: u64) {
        let mut kill_at = Instant::now() + Duration::from_millis(grace_ms);
        let is_sidecar = |one: &&ContainerPlan| one.role == ContainerRole::Sidecar;
        let name = |one: &ContainerPlan| one.name.clone();
        let others: Vec<String> =
            self.plan.iter().filter(|one| !is_sidecar(one)).map(name).collect();
        let sidecars: Vec<String> = self.plan.iter().filter(is_sidecar).map(name).collect();
        self.stop_all(&others, &mut kill_at).await;
        for sidecar in sidecars.into_iter().rev() {
            self.stop_all(&[sidecar], &mut kill_at).await;
        }
    }

    /// Stops these and waits until they have ended.
    async fn stop_all(&mut self, names: &[String], kill_at: &mut Instant) {
        self.order_stop(names, *kill_at);
        while names.iter().any(|name| self.running.contains_key(name)) {
            tokio::select! {
                Some((name, code)) = self.ends.1.recv() => self.note_end(&name, code),
                Some(grace_ms) = ordered(&mut self.life.orders) => {
                    *kill_at = Instant::now() + Duration::from_millis(grace_ms);
                    self.order_stop(names, *kill_at);
                }
            }
        }
    }

    fn order_stop(&self, names: &[String], kill_at: Instant) {
        let left = kill_at.saturating_duration_since(Instant::now()).as_millis();
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        for stop in names.iter().filter_map(|name| self.running.get(name)) {
            stop.send_replace(Some(left));
        }
    }
}

/// What is made of `request` in the words of CRI.
fn order_of<T>(
    shared: &Shared,
    request: &StartRequest,
    security: &Security,
    network: Network,
    make: impl FnOnce(&OrderOf<'_>) -> T,
) -> T {
    let Shared { options, agent, .. } = shared;
    let folder = &shared.folder(&request.pod);
    make(&OrderOf { options, agent, request, folder, security, network })
}
