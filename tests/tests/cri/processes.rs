//! How many processes a pod may have, and what becomes of those beside one that has too many.

use crate::scene::{Agent, Node, pod, request, wait_until};
use edge_agent::ports::{InstanceId, ObservedState, Runtime, RuntimeEvent, StartRequest};
use shared::model::PodId;
use shared::telemetry::Series;
use std::fs;
use std::path::{Path, PathBuf};

/// Processes and threads that a pod may have here.
const LIMIT: u64 = 64;

/// Makes processes until it can't, says so, and goes on with those that it has.
const BOMB: &str = "echo up; sh -c 'while :; do sleep 1000 & done'; echo refused; exec sleep 1000";

fn neighbour() -> PodId {
    "default/asr-0".parse().unwrap()
}

/// Cgroups of starts with a limit.
fn limited(node: &Node) -> Vec<PathBuf> {
    let with_limit = |path: &PathBuf| {
        let limit = fs::read_to_string(path.join("pids.max")).unwrap_or_default();
        limit.trim() == LIMIT.to_string()
    };
    node.containerd.cgroups().into_iter().filter(with_limit).collect()
}

fn taken(cgroup: &Path) -> u64 {
    fs::read_to_string(cgroup.join("pids.current")).unwrap().trim().parse().unwrap()
}

/// What the agent says of a pod's processes; it tells what it asked for the time before.
fn threads(agent: &mut Agent, pod: &PodId) -> Option<f64> {
    let series = Series::new("container_threads").with("namespace", pod.workload.namespace());
    let series = series.with("pod", &pod.name());
    agent.within(|runtime| runtime.sample()).get(&series).copied()
}

#[test]
fn a_pod_that_makes_processes_without_end_has_its_limit_and_its_neighbour_goes_on() {
    let node = Node::new();
    let mut agent = Agent::limiting(&node, LIMIT);
    agent.start_script(1, BOMB);
    wait_until("it is refused more", || node.log().contains("refused"));
    assert!(node.log().contains("can't fork"), "{}", node.log());
    let of_bomb = limited(&node);
    assert_eq!(of_bomb.len(), 1, "{of_bomb:?}");
    let count = taken(&of_bomb[0]);
    assert!((LIMIT / 2..=LIMIT).contains(&count), "{count}");

    // Another starts beside it, makes processes, and is counted by itself.
    let script = "i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done; wait";
    let event = agent.start(StartRequest { pod: neighbour(), ..request(2, script) });
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    assert_eq!(limited(&node).len(), 2);
    wait_until("both are told", || {
        let counts = (threads(&mut agent, &pod()), threads(&mut agent, &neighbour()));
        matches!(counts, (Some(bomb), Some(other)) if bomb > 40.0 && (other - 21.0).abs() < 0.5)
    });

    agent.within(|runtime| runtime.stop(&neighbour(), InstanceId(2), 0));
    agent.exit(2);
    agent.within(|runtime| runtime.forget(&neighbour(), InstanceId(2), false));
    agent.clear(&node, 1);
}

#[test]
fn a_limit_outlives_the_agent_and_is_removed_by_one_that_has_none() {
    let node = Node::new();
    let mut agent = Agent::limiting(&node, LIMIT);
    agent.start_script(1, BOMB);
    wait_until("it is refused more", || node.log().contains("refused"));
    drop(agent);
    let mut agent = Agent::new(&node);
    let found = agent.observe();
    assert!(matches!(found[0].state, ObservedState::Running { .. }), "{found:?}");
    assert_eq!(limited(&node).len(), 1, "its processes hold it");
    assert_eq!(agent.stop(1, 0), 137);
    agent.forget(1, true);
    wait_until("the limit is gone", || limited(&node).is_empty());
    // And each start has its own.
    drop(agent);
    let mut agent = Agent::limiting(&node, LIMIT);
    agent.start_script(2, "exec sleep 1000");
    assert_eq!(limited(&node).len(), 1);
    agent.clear(&node, 2);
}

#[test]
fn what_an_agent_left_that_did_not_live_to_see_the_end_is_removed_by_the_next() {
    let node = Node::new();
    let mut agent = Agent::limiting(&node, LIMIT);
    agent.start_script(1, "exec sleep 1000");
    drop(agent);
    let own = limited(&node).remove(0);
    // As if the power had gone between the end of the sandbox and that of its cgroup.
    let (of_pod, _) = own.file_name().unwrap().to_str().unwrap().rsplit_once('-').unwrap();
    let left = own.with_file_name(format!("{of_pod}-00000000000000ff"));
    let of_other = own.with_file_name("another-agent-s");
    fs::create_dir(&left).unwrap();
    fs::create_dir(&of_other).unwrap();
    let mut agent = Agent::limiting(&node, LIMIT);
    agent.observe();
    assert!(own.exists() && of_other.exists() && !left.exists());
    fs::remove_dir(of_other).unwrap();
    agent.clear(&node, 1);
}
