//! A node with a containerd of its own, an agent as far as pods are concerned, and what a test asks of both.

use edge_agent::config::PullPolicy;
use edge_agent::placement::MainShare;
use edge_agent::ports::{
    InstanceId, NetworkRequest, Observation, ProbeKind, ProbeRequest, PullTerms, Runtime,
    RuntimeEvent, StartRequest,
};
use edge_agent::results::{Doors, TokenKey, Waiting};
use edge_agent::runtime::cri::{CriOptions, CriRuntime};
use edge_agent::runtime::{Allowed, Secrets, tail_log};
use shared::model::{Container, PodId, PodSecurityContext, Probe, Revision};
use shared::trust::session::SessionPrivateKey;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tests::real::cni::CniNetwork;
use tests::real::containerd::Containerd;
use tokio::sync::mpsc;

/// Nothing here takes this long on a machine that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The size at which logs are rotated.
pub(crate) const LOG_BYTES_MAX: u64 = 64 * 1024;

pub(crate) fn pod() -> PodId {
    "default/ocr-0".parse().unwrap()
}

pub(crate) fn key() -> SessionPrivateKey {
    SessionPrivateKey::generate([2; 32])
}

/// A node: its folder, its memory and its containerd.
pub(crate) struct Node {
    pub(crate) containerd: Containerd,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) memory: tempfile::TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self {
            containerd: Containerd::start().unwrap(),
            folder: tempfile::tempdir().unwrap(),
            memory: tempfile::tempdir_in("/dev/shm").unwrap(),
        }
    }

    /// One whose pods may have networks of their own, once that is configured.
    pub(crate) fn with_network() -> Self {
        let mut node = Self::new();
        node.containerd.take_network().unwrap();
        node
    }

    pub(crate) fn network(&self) -> &CniNetwork {
        self.containerd.network().unwrap()
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.folder.path().join("pods")
    }

    pub(crate) fn log(&self) -> String {
        let log = tail_log(&self.pods(), &pod(), None, 10_000, 1 << 20).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// No sandbox, process, mount or cgroup of a pod is left, and nothing of its network. A shim that comes after the
    /// containerd that was killed over it is ended only when no start can take so long.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let mut leaks = vec![];
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE * 4 {
            leaks = self.containerd.leaks().unwrap();
            if leaks.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("left: {leaks:?}");
    }
}

/// An agent as far as pods are concerned. Dropping it is its death: nothing is told to anyone.
pub(crate) struct Agent {
    tasks: Option<tokio::runtime::Runtime>,
    runtime: CriRuntime,
    events: mpsc::UnboundedReceiver<RuntimeEvent>,
    _posts: mpsc::Receiver<Waiting>,
}

impl Agent {
    pub(crate) fn new(node: &Node) -> Self {
        Self::with(node, |_| {})
    }

    /// One whose configuration lets a pod have so many processes.
    pub(crate) fn limiting(node: &Node, pids_max: u64) -> Self {
        Self::with(node, |options| options.pids_max = Some(pids_max))
    }

    /// One whose configuration has images pulled so.
    pub(crate) fn pulling(node: &Node, pulls: PullPolicy) -> Self {
        Self::with(node, |options| options.pulls = pulls)
    }

    /// One whose configuration lets pods have this of the node.
    pub(crate) fn allowing(node: &Node, allowed: Allowed) -> Self {
        Self::with(node, |options| options.allowed = allowed)
    }

    fn with(node: &Node, change: impl FnOnce(&mut CriOptions)) -> Self {
        let tasks = tokio::runtime::Builder::new_multi_thread();
        let tasks = { tasks }.worker_threads(1).enable_all().build().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let mut options = CriOptions::new(node.containerd.socket(), node.pods());
        options.cgroup_parent = node.containerd.cgroup.clone();
        change(&mut options);
        (options.log_max_bytes, options.log_max_files) = (LOG_BYTES_MAX, 3);
        let (doors, posts) = Doors::new(TokenKey::fresh(), "127.0.0.1:7072".parse().unwrap());
        let candidates = vec![node.memory.path().to_owned()];
        let secrets = Secrets::new(key(), "mast-17".parse().unwrap(), candidates, &node.pods());
        let runtime = {
            let _within = tasks.enter();
            let runtime = CriRuntime::new(options, sender).unwrap();
            runtime.with_doors(doors).with_secrets(secrets)
        };
        Self { tasks: Some(tasks), runtime, events, _posts: posts }
    }

    pub(crate) fn within<T>(&mut self, act: impl FnOnce(&mut CriRuntime) -> T) -> T {
        let _within = self.tasks.as_ref().unwrap().enter();
        act(&mut self.runtime)
    }

    pub(crate) fn observe(&mut self) -> Vec<Observation> {
        self.within(|runtime| runtime.observe().unwrap())
    }

    pub(crate) fn event(&mut self) -> RuntimeEvent {
        let tasks = self.tasks.as_ref().unwrap();
        let next = async { tokio::time::timeout(PATIENCE, self.events.recv()).await };
        tasks.block_on(next).expect("the runtime says nothing").unwrap()
    }

    /// What the runtime says within this time, if anything.
    pub(crate) fn event_within(&mut self, time: Duration) -> Option<RuntimeEvent> {
        let tasks = self.tasks.as_ref().unwrap();
        let next = async { tokio::time::timeout(time, self.events.recv()).await };
        tasks.block_on(next).ok().flatten()
    }

    pub(crate) fn start(&mut self, request: StartRequest) -> RuntimeEvent {
        self.within(|runtime| runtime.start(request));
        self.event()
    }

    #[track_caller]
    pub(crate) fn start_script(&mut self, instance: u64, script: &str) {
        let event = self.start(request(instance, script));
        assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    }

    #[track_caller]
    pub(crate) fn refusal(&mut self, request: StartRequest) -> (String, String) {
        match self.start(request) {
            RuntimeEvent::StartFailed { reason, message, .. } => (reason, message),
            event => panic!("expected a refusal, not {event:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn stop(&mut self, instance: u64, grace_ms: u64) -> i32 {
        self.within(|runtime| runtime.stop(&pod(), InstanceId(instance), grace_ms));
        self.exit(instance)
    }

    #[track_caller]
    pub(crate) fn exit(&mut self, expected: u64) -> i32 {
        match self.event() {
            RuntimeEvent::Exited { instance, code, .. } if instance.0 == expected => code,
            event => panic!("expected the end of {expected}, not {event:?}"),
        }
    }

    pub(crate) fn forget(&mut self, instance: u64, keep_logs: bool) {
        self.within(|runtime| runtime.forget(&pod(), InstanceId(instance), keep_logs));
    }

    pub(crate) fn probe(&mut self, probe: Probe) -> Result<(), String> {
        self.probe_of(pod(), 1, probe)
    }

    pub(crate) fn probe_of(
        &mut self,
        pod: PodId,
        instance: u64,
        probe: Probe,
    ) -> Result<(), String> {
        let (instance, kind) = (InstanceId(instance), ProbeKind::Readiness);
        let request = ProbeRequest { pod, instance, container: None, kind, probe };
        self.within(|runtime| runtime.probe(request));
        match self.event() {
            RuntimeEvent::Probed { result, .. } => result,
            event => panic!("expected an answer, not {event:?}"),
        }
    }

    /// Ends the pod and all that it left.
    #[track_caller]
    pub(crate) fn clear(&mut self, node: &Node, instance: u64) {
        self.stop(instance, 0);
        self.forget(instance, false);
        node.assert_clean();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(tasks) = self.tasks.take() {
            tasks.shutdown_background();
        }
    }
}

/// What every pod here says that it takes.
pub(crate) const TAKEN: MainShare = MainShare { cpu_millicores: 250, memory_bytes: 1 << 20 };

pub(crate) fn request(instance: u64, script: &str) -> StartRequest {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let image = Some(Containerd::image().to_owned());
    StartRequest {
        pod: pod(),
        instance: InstanceId(instance),
        revision: Revision(9),
        container: Container { name: "main".to_owned(), image, command, ..Container::default() },
        containers: vec![],
        gpus: vec![],
        gpu_memory_bytes: None,
        taken: TAKEN,
        grace_seconds: 30,
        parameters_id: 3,
        volumes: vec![],
        pull: PullTerms::default(),
        security: PodSecurityContext::default(),
        network: NetworkRequest::default(),
    }
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
