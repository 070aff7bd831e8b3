//! How a pod starts, writes its log and ends: hostile ones too, and never with a process left behind.

use crate::scene::{Agent, LOG_BYTES_MAX, Node, is_alive, pod, read_pid, request, wait_until};
use edge_agent::ports::{InstanceId, ObservedState, Runtime, RuntimeEvent};
use edge_agent::runtime::tail_log;
use shared::model::EnvVar;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

#[test]
fn a_pod_has_the_environment_it_was_given_and_nothing_of_the_agent_s() {
    let (node, env) =
        (Node::new(), EnvVar { name: "MODEL".into(), value: "a b".into(), value_from: None });
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
    let tail = tail_log(&node.pods(), &pod(), None, 15_000, 1 << 20).unwrap();
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
