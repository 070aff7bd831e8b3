//! What is left of a pod when its agent, containerd or the power went away.

use crate::scene::{Agent, Node, TAKEN, pod, request, wait_until};
use edge_agent::placement::Placement;
use edge_agent::ports::{InstanceId, ObservedState, StartRequest};
use shared::model::Revision;
use std::time::Duration;

/// Runs until it is told to stop.
const POLITE: &str = "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done";

#[test]
fn a_pod_outlives_its_agent_and_is_adopted_with_all_that_was_told_of_it() {
    let node = Node::new();
    let mut first = Agent::new(&node);
    let gpus = vec!["GPU-1".to_owned()];
    let gpu_memory_bytes = Some(1 << 20);
    first.start(StartRequest { gpus: gpus.clone(), gpu_memory_bytes, ..request(1, POLITE) });
    wait_until("it runs", || node.log().contains("up"));
    drop(first);
    let before = node.containerd.containers().unwrap();

    let mut second = Agent::new(&node);
    let found = second.observe();
    assert_eq!(found.len(), 1, "{found:?}");
    let one = &found[0];
    assert_eq!((&one.pod, one.instance, one.revision), (&pod(), InstanceId(1), Revision(9)));
    assert!(matches!(one.state, ObservedState::Running { started_at } if started_at.0 > 0));
    assert_eq!(one.placement, Placement { gpus, gpu_memory_bytes });
    assert_eq!((one.taken, one.parameters_id), (Some(TAKEN), 3));
    assert!(second.observe().is_empty(), "it is watched already");
    assert_eq!(node.containerd.containers().unwrap(), before);
    assert_eq!(second.refusal(request(2, POLITE)).0, "StillRunning");
    assert_eq!(second.stop(1, 30_000), 7);
    second.forget(1, false);
    node.assert_clean();
}

#[test]
fn an_end_while_the_agent_was_away_is_found_with_its_code() {
    let node = Node::new();
    let mut first = Agent::new(&node);
    first.start_script(1, "until test -e /run/hinterland/go; do sleep 0.1; done; exit 5");
    drop(first);
    std::fs::write(node.pods().join("default_ocr-0/door/go"), "").unwrap();
    let mut state = ObservedState::Lost;
    // containerd itself hears of it a moment later.
    wait_until("it has ended", || {
        state = Agent::new(&node).observe()[0].state;
        !matches!(state, ObservedState::Running { .. })
    });
    assert_eq!(state, ObservedState::Exited { code: 5 });
    let mut second = Agent::new(&node);
    second.observe();
    second.forget(1, true);
    second.start_script(2, POLITE);
    second.clear(&node, 2);
}

#[test]
fn containerd_is_killed_and_comes_back_and_the_pod_never_notices() {
    let mut node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(
        1,
        "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done",
    );
    wait_until("it runs", || node.log().contains("5\n"));
    node.containerd.kill();
    let silence = agent.event_within(Duration::from_secs(3));
    assert!(silence.is_none(), "nobody could know of {silence:?}");
    node.containerd.resume().unwrap();
    let silence = agent.event_within(Duration::from_secs(3));
    assert!(silence.is_none(), "it runs on, and not: {silence:?}");
    let restarts = node.log().lines().filter(|line| *line == "1").count();
    assert_eq!(restarts, 1);
    assert_eq!(agent.stop(1, 30_000), 7);
    agent.forget(1, false);
    node.assert_clean();
}

#[test]
fn an_end_while_containerd_was_away_is_told_when_it_is_back() {
    let mut node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, "until test -e /run/hinterland/go; do sleep 0.1; done; exit 5");
    node.containerd.kill();
    std::fs::write(node.pods().join("default_ocr-0/door/go"), "").unwrap();
    assert!(agent.event_within(Duration::from_secs(2)).is_none());
    node.containerd.resume().unwrap();
    assert_eq!(agent.exit(1), 5);
    agent.forget(1, false);
    node.assert_clean();
}

#[test]
fn a_stop_that_containerd_does_not_hear_is_ordered_again() {
    let mut node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, POLITE);
    wait_until("it runs", || node.log().contains("up"));
    node.containerd.kill();
    agent.within(|runtime| {
        edge_agent::ports::Runtime::stop(runtime, &pod(), InstanceId(1), 30_000);
    });
    assert!(agent.event_within(Duration::from_secs(1)).is_none());
    node.containerd.resume().unwrap();
    assert_eq!(agent.exit(1), 7);
    agent.forget(1, false);
    node.assert_clean();
}

#[test]
fn after_a_power_cut_the_pod_is_lost_and_starts_again_with_no_network() {
    let mut node = Node::new();
    let mut first = Agent::new(&node);
    first.start_script(1, POLITE);
    wait_until("it runs", || node.log().contains("up"));
    drop(first);
    node.containerd.cut_power().unwrap();
    node.containerd.resume().unwrap();
    let mut second = Agent::new(&node);
    let found = second.observe();
    assert_eq!((found.len(), found[0].instance), (1, InstanceId(1)), "{found:?}");
    assert_eq!(found[0].state, ObservedState::Lost);
    second.forget(1, true);
    second.start_script(2, POLITE);
    wait_until("it runs again", || node.log().matches("up").count() == 2);
    second.clear(&node, 2);
}

#[test]
fn a_pod_whose_shim_is_killed_is_lost_and_not_left() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, POLITE);
    for id in node.containerd.processes() {
        tests::real::process::signal(id, rustix::process::Signal::KILL);
    }
    assert_ne!(agent.exit(1), 0);
    agent.forget(1, true);
    agent.start_script(2, POLITE);
    agent.clear(&node, 2);
}

#[test]
fn a_start_that_containerd_has_lost_altogether_is_known_by_its_note() {
    let node = Node::new();
    let mut first = Agent::new(&node);
    first.start_script(1, POLITE);
    first.stop(1, 0);
    drop(first);
    let mut second = Agent::new(&node);
    assert_eq!(second.observe()[0].state, ObservedState::Exited { code: 137 });
    second.forget(1, true);
    node.assert_clean();
    drop(second);
    // As if the agent had been killed between its note and the sandbox.
    let note = r#"{"pod":"default/ocr-0","instance":2,"revision":9}"#;
    std::fs::write(node.pods().join("default_ocr-0/start.json"), note).unwrap();
    let found = Agent::new(&node).observe();
    assert_eq!((found[0].instance, found[0].state), (InstanceId(2), ObservedState::Lost));
}
