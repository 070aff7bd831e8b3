//! What is left of a pod when its agent, its shim or the power went away: it is adopted, told of or
//! cleared away, and there is never a second copy of it.

use crate::scene::{Agent, Node, OWNER, TAKEN, is_alive, kill, pod, read_pid, request, wait_until};
use edge_agent::ports::{InstanceId, ObservedState, Runtime, RuntimeEvent};
use shared::model::Revision;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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
    assert_eq!(found[0].taken, Some(TAKEN));
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
