//! Hooks when something ends before them: the container that a hook is to precede, or the agent that does it.

use crate::scene::{Agent, Node, pod, request, wait_until};
use edge_agent::ports::{
    ContainerPlan, ContainerRequest, InstanceId, ObservedState, Runtime, RuntimeEvent, StartRequest,
};
use serde_json::{Value, json};
use shared::model::{ContainerRole, Lifecycle};
use std::fs;
use std::time::{Duration, Instant};

/// Prints what its hooks wrote.
const PRINTS: &str = "touch /tmp/hooks; tail -f /tmp/hooks";

fn hooked(instance: u64, script: &str, lifecycle: Value) -> StartRequest {
    let mut request = request(instance, script);
    request.container.lifecycle = Some(serde_json::from_value(lifecycle).unwrap());
    request
}

/// A hook at the start that hangs the first time, and then ends so.
fn second_time(code: u8) -> Value {
    let script = format!(
        "echo x >> /tmp/hooks; test $(wc -l < /tmp/hooks) -gt 1 && exit {code}; sleep 1000"
    );
    json!({ "postStart": { "exec": { "command": ["sh", "-c", script] } } })
}

fn lines(node: &Node) -> usize {
    node.log().lines().filter(|line| *line == "x").count()
}

/// The agent that comes after one that died.
fn another(node: &Node, before: Agent) -> Agent {
    drop(before);
    let mut agent = Agent::new(node);
    let found = agent.observe();
    let runs = |state| matches!(state, ObservedState::Running { .. });
    assert!(found.len() == 1 && runs(found[0].state), "{found:?}");
    agent
}

#[test]
fn a_hook_before_the_end_is_not_waited_for_when_the_end_came_before_it() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let script = "until test -e /run/hinterland/go; do sleep 0.1; done; exit 5";
    let hook = json!({ "preStop": { "sleep": { "seconds": 50 } } });
    let event = agent.start(hooked(1, script, hook));
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    let begin = Instant::now();
    agent.within(|runtime| runtime.stop(&pod(), InstanceId(1), 60_000));
    assert!(agent.event_within(Duration::from_secs(2)).is_none(), "the hook is under way");
    fs::write(node.pods().join("default_ocr-0/door/go"), "").unwrap();
    assert_eq!(agent.exit(1), 5);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    agent.forget(1, false);
    node.assert_clean();
}

#[test]
fn a_hook_at_the_start_that_was_under_way_is_done_again_and_one_that_was_done_is_not() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.within(|runtime| runtime.start(hooked(1, PRINTS, second_time(0))));
    wait_until("the hook is under way", || lines(&node) == 1);
    let agent = another(&node, agent);
    wait_until("it is done again", || lines(&node) == 2);
    let noted = node.pods().join("default_ocr-0/post-start.json");
    wait_until("that is noted", || noted.exists());
    let mut agent = another(&node, agent);
    let silence = agent.event_within(Duration::from_secs(3));
    assert!(silence.is_none() && lines(&node) == 2, "{silence:?}, {}", node.log());
    agent.clear(&node, 1);

    // Failing is its container's end, also then; a stop does not wait for it.
    agent.within(|runtime| runtime.start(hooked(2, PRINTS, second_time(4))));
    wait_until("the hook is under way", || lines(&node) == 1);
    let mut agent = another(&node, agent);
    assert_eq!(agent.exit(2), 137);
    agent.forget(2, false);
    let hangs = json!({ "postStart": { "exec": { "command":
        ["sh", "-c", "echo x >> /tmp/hooks; sleep 1000"] } } });
    agent.within(|runtime| runtime.start(hooked(3, PRINTS, hangs)));
    wait_until("the hook is under way", || lines(&node) == 1);
    let mut agent = another(&node, agent);
    let begin = Instant::now();
    agent.stop(3, 0);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    agent.forget(3, false);
    node.assert_clean();
}

#[test]
fn so_is_that_of_one_of_several_containers() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let start = hooked(1, PRINTS, second_time(0));
    let lifecycle: Lifecycle = start.container.lifecycle.clone().unwrap();
    let plan = ContainerPlan {
        name: "main".to_owned(),
        role: ContainerRole::Main,
        image: start.container.image.clone(),
        pulls: None,
        is_privileged: false,
        pre_stop: None,
        post_start: lifecycle.post_start,
    };
    let mut other = plan.clone();
    other.name = "other".to_owned();
    let several = StartRequest { containers: vec![plan, other], ..start.clone() };
    let event = agent.start(several);
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    agent.within(|runtime| runtime.start_container(ContainerRequest { start, attempt: 0 }));
    wait_until("the hook is under way", || lines(&node) == 1);
    let agent = another(&node, agent);
    wait_until("it is done again", || lines(&node) == 2);
    let noted = node.pods().join("default_ocr-0/post-start.json");
    wait_until("that is noted", || noted.exists());
    let mut agent = another(&node, agent);
    let silence = agent.event_within(Duration::from_secs(3));
    assert!(silence.is_none() && lines(&node) == 2, "{silence:?}, {}", node.log());
    agent.clear(&node, 1);
}
