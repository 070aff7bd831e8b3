//! A node with its folder, an agent as far as pods are concerned, and what a test asks of processes.
//! It tests nothing itself; whatever runs from a node's folder ends with the node.

use edge_agent::placement::MainShare;
use edge_agent::ports::{
    InstanceId, NetworkRequest, Observation, ObservedState, ProbeKind, ProbeRequest, PullTerms,
    Runtime, RuntimeEvent, StartRequest,
};
use edge_agent::runtime::process::{ProcessOptions, ProcessRuntime};
use edge_agent::runtime::tail_log;
use rustix::process::{Pid, Signal, kill_process};
use shared::model::{Container, PodId, PodSecurityContext, Probe, Revision};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Serves as the agent and, since it is the same in that, as the shim.
pub(crate) const OWNER: &str = env!("CARGO_BIN_EXE_runtime_owner");

/// Nothing here takes this long on a machine that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const LOG_BYTES_MAX: u64 = 64 * 1024;
pub(crate) const LOG_FILES_MAX: u32 = 3;

pub(crate) fn pod() -> PodId {
    "default/ocr-0".parse().unwrap()
}

/// A node: its folder, and whatever runs from it, which ends with the test.
pub(crate) struct Node {
    pub(crate) folder: tempfile::TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.path("pods")
    }

    pub(crate) fn pod_folder(&self) -> PathBuf {
        self.pods().join("default_ocr-0")
    }

    pub(crate) fn state(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.pod_folder().join("state.json")).unwrap()).unwrap()
    }

    pub(crate) fn pid(&self, of: &str) -> i32 {
        i32::try_from(self.state()[of]["pid"].as_i64().unwrap()).unwrap()
    }

    /// Changes what the shim noted.
    pub(crate) fn forge(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let mut state = self.state();
        change(&mut state);
        fs::write(self.pod_folder().join("state.json"), state.to_string()).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        let log = tail_log(&self.pods(), &pod(), None, 1000, 1 << 20).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    pub(crate) fn kill_everything(&self) {
        let needle = format!("{}/", self.folder.path().display());
        let needle = needle.as_bytes();
        let mut looks_in_vain = 0;
        loop {
            let found = every_pid().into_iter().filter(|pid| {
                ["cmdline", "environ"].iter().any(|name| {
                    let text = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
                    text.windows(needle.len()).any(|window| window == needle)
                })
            });
            let found: Vec<i32> = found.filter(|pid| is_alive(*pid)).collect();
            // A process in the middle of an `exec` shows no environment for a moment.
            looks_in_vain = if found.is_empty() { looks_in_vain + 1 } else { 0 };
            if looks_in_vain == 5 {
                return;
            }
            found.into_iter().for_each(kill);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_everything();
    }
}

/// An agent as far as pods are concerned. Dropping it is its death: nothing is told to anyone.
pub(crate) struct Agent {
    tasks: Option<tokio::runtime::Runtime>,
    runtime: ProcessRuntime,
    events: mpsc::UnboundedReceiver<RuntimeEvent>,
}

impl Agent {
    pub(crate) fn new(node: &Node) -> Self {
        Self::with(node, |runtime| runtime)
    }

    /// One whose configuration lets a pod have so many processes.
    pub(crate) fn limiting(node: &Node, pids_max: u64) -> Self {
        Self::of(node, Some(pids_max), |runtime| runtime)
    }

    /// One whose runtime is set up further.
    pub(crate) fn with(
        node: &Node,
        further: impl FnOnce(ProcessRuntime) -> ProcessRuntime,
    ) -> Self {
        Self::of(node, None, further)
    }

    fn of(
        node: &Node,
        pids_max: Option<u64>,
        further: impl FnOnce(ProcessRuntime) -> ProcessRuntime,
    ) -> Self {
        let tasks = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let options = ProcessOptions {
            pids_max,
            folder: node.pods(),
            log_max_bytes: LOG_BYTES_MAX,
            log_max_files: LOG_FILES_MAX,
            shim_program: OWNER.into(),
        };
        let runtime = tasks.block_on(async { ProcessRuntime::new(options, sender) }).unwrap();
        let runtime = further(runtime);
        Self { tasks: Some(tasks), runtime, events }
    }

    pub(crate) fn within<T>(&mut self, act: impl FnOnce(&mut ProcessRuntime) -> T) -> T {
        let tasks = self.tasks.as_ref().unwrap();
        tasks.block_on(async { act(&mut self.runtime) })
    }

    pub(crate) fn observe(&mut self) -> Vec<Observation> {
        self.within(|runtime| runtime.observe().unwrap())
    }

    pub(crate) fn observe_one(&mut self) -> ObservedState {
        let found = self.observe();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].state
    }

    pub(crate) fn event(&mut self) -> RuntimeEvent {
        let tasks = self.tasks.as_ref().unwrap();
        let next = async { tokio::time::timeout(PATIENCE, self.events.recv()).await };
        tasks.block_on(next).expect("the runtime says nothing").unwrap()
    }

    /// Lets the agent's loop run for a moment without an event.
    pub(crate) fn turn(&mut self) {
        let tasks = self.tasks.as_ref().unwrap();
        tasks.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
    }

    pub(crate) fn start(&mut self, request: StartRequest) -> RuntimeEvent {
        self.within(|runtime| runtime.start(request));
        self.event()
    }

    pub(crate) fn start_script(&mut self, instance: u64, script: &str) {
        let event = self.start(request(instance, script));
        assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    }

    pub(crate) fn stop(&mut self, instance: u64, grace_ms: u64) -> i32 {
        self.within(|runtime| runtime.stop(&pod(), InstanceId(instance), grace_ms));
        self.exit(instance)
    }

    pub(crate) fn exit(&mut self, expected: u64) -> i32 {
        match self.event() {
            RuntimeEvent::Exited { instance, code, .. } if instance.0 == expected => code,
            event => panic!("expected the end of {expected}, not {event:?}"),
        }
    }

    pub(crate) fn probe(&mut self, probe: Probe) -> Result<(), String> {
        let (instance, kind) = (InstanceId(1), ProbeKind::Readiness);
        let request = ProbeRequest { pod: pod(), instance, container: None, kind, probe };
        self.within(|runtime| runtime.probe(request));
        match self.event() {
            RuntimeEvent::Probed { result, .. } => result,
            event => panic!("expected an answer, not {event:?}"),
        }
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
    let command = ["bash", "-c", script].map(str::to_owned).to_vec();
    StartRequest {
        pod: pod(),
        instance: InstanceId(instance),
        revision: Revision(9),
        container: Container { name: "main".to_owned(), command, ..Container::default() },
        containers: vec![],
        gpus: vec![],
        gpu_memory_bytes: None,
        taken: TAKEN,
        grace_seconds: 30,
        parameters_id: 0,
        volumes: vec![],
        pull: PullTerms::default(),
        security: PodSecurityContext::default(),
        network: NetworkRequest::default(),
    }
}

pub(crate) fn every_pid() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A zombie is not alive.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) fn kill(pid: i32) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn read_pid(path: &Path) -> i32 {
    let mut pid = None;
    wait_until("the pod has noted a process", || {
        pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}
