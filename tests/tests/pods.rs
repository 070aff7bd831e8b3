//! Real pods, most of them hostile, under the process runtime: they fork away, flood, refuse to end,
//! lose their shim, their agent and their power.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests"
)]

use edge_agent::ports::{
    InstanceId, Observation, ObservedState, ProbeKind, ProbeRequest, Runtime, RuntimeEvent,
    StartRequest,
};
use edge_agent::runtime::process::{ProcessOptions, ProcessRuntime, tail_log};
use rustix::process::{Pid, Signal, kill_process};
use shared::model::{
    Container, CpuQuantity, EnvVar, ExecAction, HttpGetAction, MemoryQuantity, PodId, Probe,
    Revision, TcpSocketAction,
};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Serves as the agent and, since it is the same in that, as the shim.
const OWNER: &str = env!("CARGO_BIN_EXE_runtime_owner");

/// Nothing here takes this long on a machine that works.
const PATIENCE: Duration = Duration::from_secs(20);

const LOG_BYTES_MAX: u64 = 64 * 1024;
const LOG_FILES_MAX: u32 = 3;

fn pod() -> PodId {
    "default/ocr-0".parse().unwrap()
}

/// A node: its folder, and whatever runs from it, which ends with the test.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn pods(&self) -> PathBuf {
        self.path("pods")
    }

    fn pod_folder(&self) -> PathBuf {
        self.pods().join("default_ocr-0")
    }

    fn state(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.pod_folder().join("state.json")).unwrap()).unwrap()
    }

    fn pid(&self, of: &str) -> i32 {
        i32::try_from(self.state()[of]["pid"].as_i64().unwrap()).unwrap()
    }

    /// Changes what the shim noted.
    fn forge(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let mut state = self.state();
        change(&mut state);
        fs::write(self.pod_folder().join("state.json"), state.to_string()).unwrap();
    }

    fn log(&self) -> String {
        let log = tail_log(&self.pods(), &pod(), 1000, 1 << 20).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn kill_everything(&self) {
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
struct Agent {
    tasks: Option<tokio::runtime::Runtime>,
    runtime: ProcessRuntime,
    events: mpsc::UnboundedReceiver<RuntimeEvent>,
}

impl Agent {
    fn new(node: &Node) -> Self {
        let tasks = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let options = ProcessOptions {
            folder: node.pods(),
            log_max_bytes: LOG_BYTES_MAX,
            log_max_files: LOG_FILES_MAX,
            shim_program: OWNER.into(),
        };
        let runtime = tasks.block_on(async { ProcessRuntime::new(options, sender) }).unwrap();
        Self { tasks: Some(tasks), runtime, events }
    }

    fn within<T>(&mut self, act: impl FnOnce(&mut ProcessRuntime) -> T) -> T {
        let tasks = self.tasks.as_ref().unwrap();
        tasks.block_on(async { act(&mut self.runtime) })
    }

    fn observe(&mut self) -> Vec<Observation> {
        self.within(|runtime| runtime.observe().unwrap())
    }

    fn observe_one(&mut self) -> ObservedState {
        let found = self.observe();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].state
    }

    fn event(&mut self) -> RuntimeEvent {
        let tasks = self.tasks.as_ref().unwrap();
        let next = async { tokio::time::timeout(PATIENCE, self.events.recv()).await };
        tasks.block_on(next).expect("the runtime says nothing").unwrap()
    }

    /// Lets the agent's loop run for a moment without an event.
    fn turn(&mut self) {
        let tasks = self.tasks.as_ref().unwrap();
        tasks.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
    }

    fn start(&mut self, request: StartRequest) -> RuntimeEvent {
        self.within(|runtime| runtime.start(request));
        self.event()
    }

    fn start_script(&mut self, instance: u64, script: &str) {
        let event = self.start(request(instance, script));
        assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    }

    fn stop(&mut self, instance: u64, grace_ms: u64) -> i32 {
        self.within(|runtime| runtime.stop(&pod(), InstanceId(instance), grace_ms));
        self.exit(instance)
    }

    fn exit(&mut self, expected: u64) -> i32 {
        match self.event() {
            RuntimeEvent::Exited { instance, code, .. } if instance.0 == expected => code,
            event => panic!("expected the end of {expected}, not {event:?}"),
        }
    }

    fn probe(&mut self, probe: Probe) -> Result<(), String> {
        let (instance, kind) = (InstanceId(1), ProbeKind::Readiness);
        let request = ProbeRequest { pod: pod(), instance, kind, probe };
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

fn request(instance: u64, script: &str) -> StartRequest {
    let command = ["bash", "-c", script].map(str::to_owned).to_vec();
    StartRequest {
        pod: pod(),
        instance: InstanceId(instance),
        revision: Revision(9),
        container: Container { name: "main".to_owned(), command, ..Container::default() },
        gpus: vec![],
        gpu_memory_bytes: None,
        grace_seconds: 30,
    }
}

fn every_pid() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A zombie is not alive.
fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn kill(pid: i32) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn read_pid(path: &Path) -> i32 {
    let mut pid = None;
    wait_until("the pod has noted a process", || {
        pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}

#[test]
fn a_pod_has_the_environment_it_was_given_and_nothing_of_the_agent_s() {
    let (node, env) = (Node::new(), EnvVar { name: "MODEL".into(), value: "a b".into() });
    let mut agent = Agent::new(&node);
    let mut request = request(1, "");
    request.container.command = vec!["env".to_owned()];
    request.container.env = vec![env];
    request.gpus = vec!["GPU-a".to_owned(), "GPU-b".to_owned()];
    request.gpu_memory_bytes = Some(2 << 30);
    assert!(matches!(agent.start(request), RuntimeEvent::Started { .. }));
    assert_eq!(agent.exit(1), 0);
    let log = node.log();
    let seen: BTreeMap<&str, &str> = log.lines().filter_map(|line| line.split_once('=')).collect();
    let folder = fs::canonicalize(node.pod_folder()).unwrap();
    let (folder, path) = (folder.to_str().unwrap(), std::env::var("PATH").unwrap());
    let home = format!("{folder}/home");
    let expected = BTreeMap::from(
        [
            ("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b"),
            ("HINTERLAND_GPU_MEMORY_BYTES", "2147483648"),
            ("HINTERLAND_POD_FOLDER", folder),
            ("HINTERLAND_POD_NAME", "ocr-0"),
            ("HINTERLAND_POD_NAMESPACE", "default"),
            ("HOME", &home),
            ("LANG", "C.UTF-8"),
            ("MODEL", "a b"),
            ("PATH", &path),
        ]
        .map(|(name, value): (&str, &str)| (name, value)),
    );
    assert_eq!(seen, expected);
}

#[test]
fn a_pod_without_gpus_is_told_that_it_sees_none_and_stands_in_its_home() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, r#"echo "[${CUDA_VISIBLE_DEVICES-unset}]"; pwd; cat; ps -o sid= -p $$"#);
    assert_eq!(agent.exit(1), 0);
    let home = fs::canonicalize(node.pod_folder().join("home")).unwrap();
    let main = node.pid("main");
    let log = node.log();
    let lines: Vec<&str> = log.lines().map(str::trim).collect();
    assert_eq!(lines, ["[]", home.to_str().unwrap(), &main.to_string()], "and leads its session");
}

#[test]
fn a_daemon_that_forked_away_is_gone_before_the_exit_is_told() {
    let node = Node::new();
    let daemon = node.path("daemon");
    let mut agent = Agent::new(&node);
    // Its parents have ended, its session is another, it ignores SIGTERM and holds no lock.
    let script = format!(
        "(setsid bash -c 'trap \"\" TERM; exec 100<&-; echo $$ > {daemon}; \
         while :; do sleep 0.1; done' &) ; \
         while [ ! -s {daemon} ]; do sleep 0.01; done; exit 3",
        daemon = daemon.display()
    );
    agent.start_script(1, &script);
    let daemon = read_pid(&daemon);
    assert_eq!(agent.exit(1), 3);
    assert!(!is_alive(daemon));
}

#[test]
fn a_pod_that_floods_its_log_goes_on_within_bounds() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, "exec yes 0123456789abcdef0123456789abcdef");
    let folder = node.pod_folder().join("log");
    wait_until("the log has rotated", || folder.join("2.log").exists());
    let main = node.pid("main");
    let written = || fs::read_to_string(format!("/proc/{main}/io")).unwrap();
    let (before, begin) = (written(), Instant::now());
    while begin.elapsed() < Duration::from_millis(300) {
        let sizes = (0..10).filter_map(|n| fs::metadata(folder.join(format!("{n}.log"))).ok());
        let sizes: Vec<u64> = sizes.map(|file| file.len()).collect();
        assert!(sizes.len() <= 3 && sizes.iter().all(|size| *size <= LOG_BYTES_MAX), "{sizes:?}");
    }
    assert!(is_alive(main) && written() != before);
    assert!(resident_kib(node.pid("shim")) < 32 * 1024);
    assert_eq!(agent.stop(1, 5_000), 128 + 15);
}

fn resident_kib(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn the_tail_of_a_log_goes_over_rotated_files() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, "seq 1 40000");
    assert_eq!(agent.exit(1), 0);
    let tail = tail_log(&node.pods(), &pod(), 15_000, 1 << 20).unwrap();
    let expected: String = (25_001..=40_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(tail).unwrap(), expected);
}

#[test]
fn a_pod_that_ignores_sigterm_is_killed_after_its_grace() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let ready = node.path("ready");
    agent.start_script(
        1,
        &format!("trap '' TERM; echo 1 > {}; while :; do sleep 0.05; done", ready.display()),
    );
    read_pid(&ready);
    let begin = Instant::now();
    assert_eq!(agent.stop(1, 400), 128 + 9);
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_pod_that_heeds_sigterm_ends_with_its_own_status() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let ready = node.path("ready");
    let script = "trap 'echo bye; exit 7' TERM; echo 1 > READY; while :; do sleep 0.05; done";
    agent.start_script(1, &script.replace("READY", ready.to_str().unwrap()));
    read_pid(&ready);
    assert_eq!(agent.stop(1, 10_000), 7);
    assert!(node.log().ends_with("bye\n"), "{}", node.log());
    assert_eq!(agent.stop(1, 10_000), 7, "a stop of what has ended ends at once");
}

#[test]
fn an_order_to_stop_is_finished_by_the_shim_when_the_agent_dies() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let ready = node.path("ready");
    let script =
        format!("trap '' TERM; echo 1 > {}; while :; do sleep 0.05; done", ready.display());
    agent.start_script(1, &script);
    read_pid(&ready);
    agent.within(|runtime| runtime.stop(&pod(), InstanceId(1), 300));
    agent.turn();
    drop(agent);
    let shim = node.pid("shim");
    wait_until("the shim has ended", || !is_alive(shim));
    assert_eq!(Agent::new(&node).observe_one(), ObservedState::Exited { code: 128 + 9 });
}

#[test]
fn a_program_that_is_not_there_is_named_and_the_next_start_is_not_held_up() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let mut missing = request(1, "");
    missing.container.command = vec!["no-such-program-here".to_owned()];
    let mut nowhere = request(2, "exit 0");
    nowhere.container.working_dir = Some("/no/such/folder".to_owned());
    for (request, expected) in [(missing, "ProgramNotFound"), (nowhere, "WorkingDirNotUsable")] {
        match agent.start(request) {
            RuntimeEvent::StartFailed { reason, message, .. } => {
                assert_eq!(reason, expected);
                assert!(message.contains("no") && message.contains("such"), "{message}");
            }
            event => panic!("{event:?}"),
        }
    }
    agent.start_script(3, "exit 4");
    assert_eq!(agent.exit(3), 4);
}

#[test]
fn a_pod_outlives_its_agent_and_is_adopted_with_its_end() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(5, "exec sleep 1000");
    let main = node.pid("main");
    drop(agent);
    let mut agent = Agent::new(&node);
    let found = agent.observe();
    assert_eq!((found[0].instance, found[0].revision), (InstanceId(5), Revision(9)));
    assert!(matches!(found[0].state, ObservedState::Running { .. }));
    let event = agent.start(request(6, "exit 0"));
    assert!(
        matches!(&event, RuntimeEvent::StartFailed { reason, .. } if reason == "StillRunning"),
        "{event:?}"
    );
    kill(main);
    assert_eq!(agent.exit(5), 128 + 9);
}

#[test]
fn a_start_that_the_agent_does_not_know_of_is_not_doubled() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, "exec sleep 1000");
    let main = node.pid("main");
    drop(agent);
    // It did not look what there is.
    let event = Agent::new(&node).start(request(2, "exit 0"));
    assert!(
        matches!(&event, RuntimeEvent::StartFailed { reason, .. } if reason == "StillRunning"),
        "{event:?}"
    );
    assert!(is_alive(main));
}

#[test]
fn what_ended_while_the_agent_was_away_is_told_until_it_is_forgotten() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let go = node.path("go");
    agent.start_script(1, &format!("while [ ! -e {} ]; do sleep 0.01; done; exit 6", go.display()));
    let shim = node.pid("shim");
    drop(agent);
    fs::write(&go, "").unwrap();
    wait_until("the shim has ended", || !is_alive(shim));
    for _ in 0..2 {
        assert_eq!(Agent::new(&node).observe_one(), ObservedState::Exited { code: 6 });
    }
    let mut agent = Agent::new(&node);
    agent.within(|runtime| runtime.forget(&pod(), InstanceId(1), true));
    assert!(agent.observe().is_empty() && node.pod_folder().join("log").exists());
    agent.within(|runtime| runtime.forget(&pod(), InstanceId(1), false));
    assert!(!node.pod_folder().exists());
}

#[test]
fn a_process_that_has_the_number_of_a_dead_pod_is_left_alone() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, "exec sleep 1000");
    drop(agent);
    node.kill_everything();
    // Found and ended with the node, should this test fail.
    let mut foreign = Command::new("sleep")
        .arg("1000")
        .env("NODE", node.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    node.forge(|state| {
        for process in ["main", "shim"] {
            // It may have been started within the same tick as the pod.
            let ticks = state[process]["start_ticks"].as_u64().unwrap();
            state[process]["start_ticks"] = (ticks - 1).into();
            state[process]["pid"] = foreign.id().into();
        }
    });
    let mut agent = Agent::new(&node);
    assert_eq!(agent.observe_one(), ObservedState::Lost);
    assert_eq!(agent.stop(1, 0), 255);
    assert!(foreign.try_wait().unwrap().is_none(), "the foreign process was signalled");
    agent.start_script(2, "exit 0");
    assert_eq!(agent.exit(2), 0);
    foreign.kill().unwrap();
    foreign.wait().unwrap();
}

#[test]
fn after_a_power_cut_a_pod_is_lost_and_starts_again() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, "exec sleep 1000");
    drop(agent);
    node.kill_everything();
    let mut agent = Agent::new(&node);
    assert_eq!(agent.observe_one(), ObservedState::Lost);
    agent.start_script(2, "exec sleep 1000");
    drop(agent);
    // Another boot: the numbers mean nothing, whoever has them now.
    node.forge(|state| state["boot_id"] = "another".into());
    node.kill_everything();
    assert_eq!(Agent::new(&node).observe_one(), ObservedState::Lost);
    // The power was cut while it was written.
    fs::write(node.pod_folder().join("state.json"), "").unwrap();
    assert_eq!(Agent::new(&node).observe_one(), ObservedState::Lost);
}

#[test]
fn a_pod_whose_shim_was_killed_is_kept_and_not_doubled() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, "exec sleep 1000");
    let main = node.pid("main");
    kill(node.pid("shim"));
    (0..10).for_each(|_| agent.turn());
    let event = agent.start(request(2, "exit 0"));
    assert!(matches!(event, RuntimeEvent::StartFailed { .. }), "{event:?}");
    drop(agent);
    let mut agent = Agent::new(&node);
    assert!(matches!(agent.observe_one(), ObservedState::Running { .. }));
    let event = agent.start(request(2, "exit 0"));
    assert!(matches!(event, RuntimeEvent::StartFailed { .. }), "{event:?}");
    assert!(is_alive(main));
    assert_eq!(agent.stop(1, 5_000), 255, "nobody knows its status");
    assert!(!is_alive(main));
    agent.start_script(3, "exit 0");
    assert_eq!(agent.exit(3), 0);
}

#[test]
fn orphans_of_a_pod_whose_shim_was_killed_are_ended_before_the_next_start() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let (holder, closer) = (node.path("holder"), node.path("closer"));
    let script = format!(
        "setsid bash -c 'echo $$ > {}; exec env -i sleep 1000' & \
         setsid bash -c 'exec 100<&-; echo $$ > {}; exec sleep 1000' & exec sleep 1000",
        holder.display(),
        closer.display()
    );
    agent.start_script(1, &script);
    let orphans = [read_pid(&holder), read_pid(&closer)];
    let main = node.pid("main");
    drop(agent);
    let shim = node.pid("shim");
    [shim, main].into_iter().for_each(kill);
    wait_until("both have ended", || !is_alive(shim) && !is_alive(main));
    let mut agent = Agent::new(&node);
    assert_eq!(agent.observe_one(), ObservedState::Lost);
    assert!(!orphans.into_iter().any(is_alive));
    agent.start_script(2, "exit 0");
    assert_eq!(agent.exit(2), 0);
}

#[test]
fn a_start_is_quick_and_its_shim_small() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let mut took = Vec::new();
    for instance in 1..=20 {
        let begin = Instant::now();
        agent.start_script(instance, "exec sleep 1000");
        took.push(begin.elapsed());
        if instance == 20 {
            let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", node.pid("shim")));
            let text = text.unwrap();
            let pss = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
            took.sort();
            let _ = writeln!(std::io::stderr(), "shim {pss}; start {:?}", took[10]);
        }
        agent.stop(instance, 0);
    }
    // A busy machine of two cores; alone it takes a tenth of this.
    assert!(took[10] < Duration::from_millis(250), "{took:?}");
}

/// A pod that notes each of its starts, and a second copy of itself.
fn exclusive_script(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "exec 9>>{folder}/exclusive; flock -n 9 || echo $$ >> {folder}/doubled; \
         echo $$ >> {folder}/starts; exec sleep 1000"
    )
}

struct Owner {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Owner {
    fn new(node: &Node, instance: u64) -> Self {
        let mut child = Command::new(OWNER)
            .arg(node.pods())
            .arg(instance.to_string())
            .arg(exclusive_script(node.folder.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn lines_of(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn an_agent_killed_at_any_moment_of_a_start_leaves_no_second_copy_and_no_lost_one() {
    const ROUNDS: u64 = 120;
    // How long a start takes here, so that the kills fall into all of it.
    let warm = Node::new();
    let begin = Instant::now();
    assert_eq!(Owner::new(&warm, 1).line(), "started");
    let whole = begin.elapsed().max(Duration::from_millis(5));
    let (mut adopted, mut begun) = (0, 0);
    for round in 0..ROUNDS {
        let node = Node::new();
        let owner = Owner::new(&node, 1);
        let moment = whole.mul_f64(1.3 * round as f64 / ROUNDS as f64);
        let begin = Instant::now();
        while begin.elapsed() < moment {
            std::hint::spin_loop();
        }
        drop(owner);
        let mut owner = Owner::new(&node, 2);
        let said = owner.line();
        match said.as_str() {
            "running" => adopted += 1,
            "started" => begun += 1,
            said => panic!("round {round}, killed after {moment:?}: {said}"),
        }
        let starts = node.path("starts");
        wait_until("the pod has noted its start", || !lines_of(&starts).is_empty());
        let copies = lines_of(&starts);
        assert_eq!(copies.len(), 1, "round {round}, killed after {moment:?}, {said}");
        assert!(!node.path("doubled").exists(), "round {round}, killed after {moment:?}");
        let instance = if said == "running" { 1 } else { 2 };
        assert_eq!(node.state()["instance"], instance);
        assert_eq!(node.pid("main"), copies[0]);
    }
    assert!(adopted >= 5 && begun >= 5, "adopted {adopted}, begun {begun}: kills were one-sided");
}

#[test]
fn limits_are_set_where_they_may_be_and_leave_nothing_behind() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let mut request = request(1, "cat /proc/self/cgroup; exec sleep 1000");
    let limits = &mut request.container.resources.limits;
    limits.cpu = Some(CpuQuantity { millicores: 500 });
    limits.memory = Some(MemoryQuantity { bytes: 64 << 20 });
    assert!(matches!(agent.start(request), RuntimeEvent::Started { .. }));
    wait_until("the pod has printed its cgroups", || node.log().contains("0::"));
    let paths: Vec<PathBuf> = node
        .log()
        .lines()
        .filter(|line| line.contains("/hinterland-default_ocr-0-"))
        .filter_map(|line| {
            let (controller, path) = line.split_once(':')?.1.split_once(':')?;
            Some(Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')))
        })
        .collect();
    for (file, expected) in [("cpu.cfs_quota_us", "50000"), ("memory.limit_in_bytes", "67108864")] {
        let set = paths.iter().find_map(|path| fs::read_to_string(path.join(file)).ok());
        assert!(set.is_none_or(|set| set.trim() == expected), "{file}");
    }
    assert_eq!(agent.stop(1, 0), 128 + 9);
    assert!(!paths.iter().any(|path| path.exists()));
}

#[test]
fn usage_counts_the_whole_pod_and_not_its_shim() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, "(while :; do :; done) & exec sleep 1000");
    let usage = |agent: &mut Agent| agent.within(|runtime| runtime.usage(&pod()));
    wait_until("CPU time is counted", || {
        usage(&mut agent).is_some_and(|usage| usage.cpu_usec >= 100_000)
    });
    assert!(usage(&mut agent).unwrap().memory_bytes > 500_000);
    agent.stop(1, 0);
    assert_eq!(usage(&mut agent), None);
}

fn probe(change: impl FnOnce(&mut Probe)) -> Probe {
    let mut probe: Probe = serde_json::from_str("{}").unwrap();
    change(&mut probe);
    probe
}

fn exec(script: &str) -> Probe {
    let command = ["bash", "-c", script].map(str::to_owned).to_vec();
    probe(|probe| probe.exec = Some(ExecAction { command }))
}

fn http(port: u16) -> Probe {
    let get = HttpGetAction { path: "/ready".to_owned(), port, ..HttpGetAction::default() };
    probe(|probe| probe.http_get = Some(get))
}

#[test]
fn a_command_is_probed_in_the_pod_s_environment_and_never_for_longer_than_its_time() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let mut request = request(1, "exec sleep 1000");
    request.container.env = vec![EnvVar { name: "MODEL".into(), value: "m".into() }];
    assert!(matches!(agent.start(request), RuntimeEvent::Started { .. }));
    assert_eq!(agent.probe(exec(r#"[ "$MODEL" = m ] && [ "$PWD" = "$HOME" ]"#)), Ok(()));
    assert!(agent.probe(exec("exit 3")).unwrap_err().contains("exit status: 3"));
    let hanging = node.path("hanging");
    let begin = Instant::now();
    let script = format!("sleep 1000 & echo $! > {}; wait", hanging.display());
    assert!(agent.probe(exec(&script)).unwrap_err().contains("within 1 s"));
    assert!(begin.elapsed() < Duration::from_secs(3));
    let left = read_pid(&hanging);
    wait_until("what the probe started is gone", || !is_alive(left));
    assert_eq!(agent.stop(1, 0), 137);
    assert!(agent.probe(exec("true")).unwrap_err().contains("does not run"));
}

/// Answers each connection with `answer` after reading a request; keeps silent connections open.
fn serve(answers: Vec<Option<&'static str>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET /ready HTTP/1.1\r\n"));
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                None => silent.push(stream),
            }
        }
        // Until the test ends.
        std::thread::park();
    });
    port
}

#[test]
fn a_server_is_probed_by_http_and_tcp_and_never_for_longer_than_its_time() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let answers = [
        ("HTTP/1.1 200 OK\r\n\r\n", Ok(())),
        ("HTTP/1.0 302 Found\r\n\r\n", Ok(())),
        ("HTTP/1.1 503 No\r\n\r\n", Err("status 503")),
        ("SSH-2.0-x\r\n", Err("does not answer in HTTP")),
        ("", Err("does not answer in HTTP")),
    ];
    let port = serve(answers.iter().map(|(answer, _)| Some(*answer)).chain([None]).collect());
    for (answer, expected) in answers {
        match (agent.probe(http(port)), expected) {
            (Ok(()), Ok(())) => {}
            (Err(said), Err(part)) if said.contains(part) => {}
            (result, _) => panic!("`{answer}`: {result:?}"),
        }
    }
    let begin = Instant::now();
    assert!(agent.probe(http(port)).unwrap_err().contains("within 1 s"));
    assert!(begin.elapsed() < Duration::from_secs(3));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let tcp = probe(|probe| probe.tcp_socket = Some(TcpSocketAction { port, host: None }));
    assert_eq!(agent.probe(tcp.clone()), Ok(()));
    drop(listener);
    assert!(agent.probe(tcp).unwrap_err().contains("failed"));
}
