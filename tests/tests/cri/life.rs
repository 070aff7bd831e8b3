//! How a pod starts, what it has, how it ends, its probes and its log.

use crate::scene::{Agent, LOG_BYTES_MAX, Node, pod, request, wait_until};
use edge_agent::config::PullPolicy;
use edge_agent::ports::{Runtime, RuntimeEvent, StartRequest};
use shared::model::{Container, EnvVar, Probe};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Runs until it is told to stop, and says so.
const POLITE: &str = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done";

#[test]
fn a_pod_has_its_environment_and_its_door_and_ends_with_its_own_code() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let variable = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: value.to_owned(),
        value_from: None,
    };
    let script = "test -S $HINTERLAND_RESULTS_SOCKET && echo door; \
                  echo $MODE $HINTERLAND_POD_NAMESPACE/$HINTERLAND_POD_NAME \
                  $CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES; grep NoNewPrivs /proc/self/status; \
                  echo pid $$; echo x > /proc/sys/vm/swappiness || echo kept; exit 3";
    let StartRequest { container, .. } = request(1, script);
    let env = vec![variable("MODE", "fast"), variable("CUDA_VISIBLE_DEVICES", "7")];
    let container = Container { env, ..container };
    let gpus = vec!["GPU-1".to_owned()];
    let event = agent.start(StartRequest { container, gpus, ..request(1, script) });
    assert!(matches!(event, RuntimeEvent::Started { started_at, .. } if started_at.0 > 0));
    assert_eq!(agent.exit(1), 3);
    let log = node.log();
    for words in
        ["door\n", "fast default/ocr-0 GPU-1 GPU-1\n", "NoNewPrivs:\t1\n", "pid 1\n", "kept\n"]
    {
        assert!(log.contains(words), "{words:?} is not in {log}");
    }
    agent.forget(1, false);
    node.assert_clean();
    assert!(!node.pods().join("default_ocr-0").exists());
}

#[test]
fn a_pod_is_asked_to_stop_and_killed_after_its_grace() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, POLITE);
    wait_until("it runs", || node.log().contains("up"));
    assert_eq!(agent.stop(1, 30_000), 7);
    assert!(node.log().contains("bye"));
    agent.forget(1, true);
    let deaf = "trap '' TERM; echo deaf; while :; do sleep 0.1; done";
    agent.start_script(2, deaf);
    wait_until("it runs", || node.log().contains("deaf"));
    let begin = Instant::now();
    assert_eq!(agent.stop(2, 1500), 137);
    assert!(begin.elapsed() >= Duration::from_millis(1500));
    // A stop of what does not run ends too, with what is known of its end.
    assert_eq!(agent.stop(2, 0), 137);
    agent.forget(2, false);
    node.assert_clean();
}

#[test]
fn what_can_t_start_says_why_and_leaves_nothing() {
    let node = Node::new();
    let mut agent = Agent::pulling(&node, PullPolicy::Never);
    let with_image = |image: Option<&str>| {
        let StartRequest { container, .. } = request(1, "true");
        let image = image.map(str::to_owned);
        StartRequest { container: Container { image, ..container }, ..request(1, "true") }
    };
    let (reason, message) = agent.refusal(with_image(Some("docker.io/hinterland/none:1")));
    assert_eq!(reason, "ImageMissing");
    assert!(message.contains("docker.io/hinterland/none:1"), "{message}");
    assert_eq!(agent.refusal(with_image(None)).0, "NoImage");
    let StartRequest { container, .. } = request(1, "true");
    let container = Container { command: vec!["/bin/nothing".to_owned()], ..container };
    let (reason, message) = agent.refusal(StartRequest { container, ..request(1, "true") });
    assert_eq!(reason, "ProgramNotFound", "{message}");
    node.assert_clean();
    agent.start_script(1, POLITE);
    let (reason, _) = agent.refusal(request(2, "true"));
    assert_eq!(reason, "StillRunning");
    agent.clear(&node, 1);
}

#[test]
fn a_pod_over_its_memory_is_killed() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let script = "head -c 200000000 /dev/zero | tail -c 190000000 | wc -c";
    let mut greedy = request(1, script);
    let limits = serde_json::json!({ "limits": { "memory": "16Mi" } });
    greedy.container.resources = serde_json::from_value(limits).unwrap();
    greedy.container.command = ["sh", "-c"].map(str::to_owned).to_vec();
    greedy.container.args = vec![format!("{script}; test $? = 0 || exit 137; exec tail /dev/zero")];
    let event = agent.start(greedy);
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    assert_eq!(agent.exit(1), 137);
    agent.forget(1, false);
    node.assert_clean();
}

fn probe(action: serde_json::Value) -> Probe {
    serde_json::from_value(action).unwrap()
}

#[test]
fn probes_by_command_http_and_tcp_tell_a_pod_that_answers_from_one_that_does_not() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    agent.start_script(1, &format!("touch /tmp/ready; exec httpd -f -p 127.0.0.1:{port} -h /www"));
    let tcp = probe(serde_json::json!({ "tcpSocket": { "port": port } }));
    wait_until("it listens", || agent.probe(tcp.clone()).is_ok());
    let http = |path: &str| probe(serde_json::json!({ "httpGet": { "port": port, "path": path } }));
    agent.probe(http("/ok")).unwrap();
    let words = agent.probe(http("/none")).unwrap_err();
    assert!(words.contains("404"), "{words}");
    let exec = |command: &[&str]| {
        probe(serde_json::json!({ "exec": { "command": command }, "timeoutSeconds": 5 }))
    };
    agent.probe(exec(&["test", "-e", "/tmp/ready"])).unwrap();
    let words = agent.probe(exec(&["sh", "-c", "exit 3"])).unwrap_err();
    assert!(words.contains("exit status: 3"), "{words}");
    let words = agent.probe(exec(&["nothing"])).unwrap_err();
    assert!(words.contains("nothing"), "{words}");
    let slow = probe(serde_json::json!({ "exec": { "command": ["sleep", "60"] } }));
    let begin = Instant::now();
    assert!(agent.probe(slow).is_err());
    assert!(begin.elapsed() < Duration::from_secs(10));
    agent.clear(&node, 1);
}

#[test]
fn a_log_reads_as_the_pod_wrote_it_and_is_rotated() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let long = "x".repeat(20_000);
    let script = format!(
        "echo {long}; i=0; while :; do i=$((i+1)); echo line $i; \
         test $((i % 500)) = 0 && sleep 1; done"
    );
    agent.start_script(1, &script);
    wait_until("the long line is there", || node.log().contains("line 10\n"));
    assert!(node.log().starts_with(&format!("{long}\nline 1\nline 2\n")));
    let folder = node.pods().join("default_ocr-0/log");
    wait_until("three files are there", || std::fs::read_dir(&folder).unwrap().count() == 3);
    let present = folder.join("container.0.log");
    wait_until("the newest file is small", || {
        std::fs::metadata(&present).is_ok_and(|file| file.len() < LOG_BYTES_MAX)
    });
    let log = node.log();
    let numbers = log.lines().filter_map(|line| line.strip_prefix("line ")?.parse::<u32>().ok());
    let numbers: Vec<u32> = numbers.collect();
    assert!(numbers.len() > 500 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    agent.clear(&node, 1);
}

#[test]
fn a_pod_s_use_is_sampled() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, "while :; do :; done");
    let mut values = vec![];
    wait_until("its use is known", || {
        values = agent.within(|runtime| runtime.sample()).into_values().collect();
        // CPU, memory, threads, and what it wrote, which is nothing.
        values.len() == 4 && values.iter().filter(|value| **value > 0.0).count() >= 2
    });
    let missing = agent.within(|runtime| runtime.gpu_memory(&[]));
    assert!(missing.is_empty(), "{missing:?}");
    agent.within(|runtime| runtime.stop(&pod(), edge_agent::ports::InstanceId(1), 0));
    assert_eq!(agent.exit(1), 137);
    assert!(agent.within(|runtime| runtime.sample()).is_empty());
    agent.forget(1, false);
    node.assert_clean();
}
