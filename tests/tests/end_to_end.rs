//! Hub, broker, agents, shims and models as processes: the demo's story, and what can go wrong.

// Helpers of tests are tests as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
// The seed must be seen when a run fails.
#![allow(clippy::print_stderr)]

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_core::RngCore;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::hub::Hub;
use tests::real::process::{signal, wait_until};
use tests::real::search::files_with;
use tests::story::{Story, in_session, number};

const PATIENCE: Duration = Duration::from_secs(90);

/// Rounds of killing, each with a change of what should run.
const ROUNDS: u32 = 10;

/// Agents on one hub.
const FLEET: usize = 20;

/// A pod that is ready at once and does nothing.
fn idle_manifest(name: &str, version: u32) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: {name}\n\
         spec:\n  template:\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n        \
         - name: idle\n          command: [sleep, \"100000\"]\n          env:\n            \
         - {{name: VERSION, value: \"{version}\"}}\n"
    )
}

fn ready(status: &Value, pod: &str) -> bool {
    let pods = status.pointer("/pods").and_then(Value::as_array);
    pods.is_some_and(|pods| {
        pods.iter().any(|p| p["pod"] == pod && p["ready"] == true && p["phase"] == "Running")
    })
}

fn drained(status: &Value) -> bool {
    number(status, "/outbox/event_records") + number(status, "/outbox/telemetry_records") == 0
}

fn condition(status: &Value, kind: &str) -> Option<String> {
    let conditions = status.pointer("/node_status/conditions")?.as_array()?;
    conditions.iter().find(|c| c["kind"] == kind)?["status"].as_str().map(str::to_owned)
}

/// Processes of the node whose program's name is `name`.
fn count_programs(agent: &Agent, name: &str) -> usize {
    let is = |id: &u32| {
        fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    agent.processes().iter().filter(|id| is(id)).count()
}

/// A hub and a node with an idle pod, in session.
fn pair(folder: &Path, node: &str) -> Result<(Hub, Agent)> {
    let mut hub = Hub::new(&folder.join("hub"))?;
    hub.apply("idle.yaml", &idle_manifest("idle", 1))?;
    hub.start()?;
    let mut agent = Agent::new(&folder.join("node"), node)?;
    agent.enroll(&hub)?;
    agent.start()?;
    agent.wait_until_up()?;
    agent.wait_for("the pod is ready and delivered", PATIENCE, |status| {
        in_session(status) && ready(status, "default/idle-0")
    })?;
    Ok((hub, agent))
}

/// Node and hub agree on every sample, nothing lost.
fn same_accounts(hub: &Hub, agent: &Agent) -> Result<()> {
    wait_until("node and hub count the same samples", PATIENCE, || {
        let (status, view) = (agent.status()?, hub.node(&agent.node)?);
        let made = number(&status, "/outbox/samples_recorded");
        let (taken, lost) = (number(&view, "/samples_received"), number(&view, "/records_lost"));
        ensure!(made == taken && lost == 0, "made {made}, taken {taken}, lost {lost}");
        Ok(made > 0)
    })
}

/// What the demo tells, to its end.
fn tell(mut story: Story) -> Result<()> {
    story.join()?;
    story.deploy()?;
    story.lose_everything()?;
    story.wait_offline(2)?;
    let reunited = story.reunite()?;
    assert_eq!(reunited.samples_recorded, reunited.samples_received);
    story.end()
}

#[test]
fn the_story_of_the_demo_holds() {
    let folder = tempfile::tempdir().unwrap();
    tell(Story::new(folder.path(), "mast-17").unwrap()).unwrap();
}

#[test]
fn the_story_of_the_demo_holds_with_containers() {
    let folder = tempfile::tempdir().unwrap();
    tell(Story::in_containers(folder.path(), "mast-17").unwrap()).unwrap();
}

/// What is killed in a round.
#[derive(Debug, Clone, Copy)]
enum Kill {
    Agent,
    Hub,
    Pod,
    Power,
    AgentAndHub,
}

fn disturb(kill: Kill, story: &mut Story) -> Result<()> {
    match kill {
        Kill::Agent => {
            story.agent.kill();
            story.agent.start()?;
        }
        Kill::Hub => {
            story.hub.kill();
            story.hub.start()?;
        }
        Kill::Pod => {
            let own = story.agent.id();
            let others = story.agent.processes().into_iter().filter(|id| Some(*id) != own);
            others.for_each(|id| signal(id, rustix::process::Signal::KILL));
        }
        Kill::Power => {
            story.agent.cut_power();
            story.agent.start()?;
        }
        Kill::AgentAndHub => {
            story.agent.kill();
            story.hub.kill();
            story.agent.start()?;
            story.hub.start()?;
        }
    }
    Ok(())
}

/// A change of what should run, and kills at random moments around it; ends when all has settled.
fn one_round(
    story: &mut Story,
    kill: Kill,
    [first, second, third]: [Duration; 3],
    offline: bool,
) -> Result<()> {
    if offline {
        story.hub.kill();
    }
    let revision = story.change()?;
    std::thread::sleep(first);
    if offline {
        match kill {
            Kill::Pod => disturb(Kill::Pod, story)?,
            Kill::Power => disturb(Kill::Power, story)?,
            Kill::Agent | Kill::Hub | Kill::AgentAndHub => disturb(Kill::Agent, story)?,
        }
        std::thread::sleep(second);
        story.hub.start()?;
        std::thread::sleep(third);
    }
    disturb(kill, story)?;
    story.settle(revision)
}

#[test]
fn whatever_is_killed_when_one_right_copy_runs_and_nothing_is_lost_or_doubled() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        u64::from_le_bytes(shared::io::keys::fresh_seed()[..8].try_into().unwrap())
    });
    eprintln!("SEED={seed} repeats this run");
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut story = Story::new(folder.path(), "mast-17").unwrap();
    story.join().unwrap();
    story.deploy().unwrap();
    let kinds = [Kill::Agent, Kill::Power, Kill::Pod, Kill::AgentAndHub, Kill::Hub];
    let phase = random.next_u32();
    for round in 0..ROUNDS {
        let kill = kinds[(phase.wrapping_add(round) as usize) % kinds.len()];
        let mut pause = || Duration::from_millis(u64::from(random.next_u32() % 400));
        let pauses = [pause(), pause(), pause()];
        // Every other round the change is made, and the first kill falls, while the hub is away.
        let offline = round % 2 == 1;
        let told = format!("SEED={seed} round {round}: {kill:?}, {pauses:?}, offline: {offline}");
        one_round(&mut story, kill, pauses, offline).context(told.clone()).unwrap();
        assert_eq!(count_programs(&story.agent, "file-classifier"), 1, "{told}");
    }
    story.compare_accounts().unwrap();
}

#[test]
fn twenty_agents_settle_again_when_their_hub_is_killed_in_the_middle_of_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::new(&folder.path().join("hub")).unwrap();
    hub.apply("idle.yaml", &idle_manifest("idle", 1)).unwrap();
    hub.start().unwrap();
    let mut agents = Vec::new();
    for index in 0..FLEET {
        let name = format!("node-{index}");
        let mut agent = Agent::new(&folder.path().join(&name), &name).unwrap();
        agent.enroll(&hub).unwrap();
        agent.start().unwrap();
        agents.push(agent);
    }
    let all_run = |agents: &[Agent], pod: &str| {
        for agent in agents {
            agent
                .wait_for("in session with its pod", PATIENCE, |status| {
                    in_session(status) && ready(status, pod)
                })
                .unwrap();
        }
    };
    all_run(&agents, "default/idle-0");
    for round in 0..3 {
        let name = format!("extra-{round}");
        hub.apply(&format!("{name}.yaml"), &idle_manifest(&name, round)).unwrap();
        std::thread::sleep(Duration::from_millis(30 * u64::from(round)));
        hub.kill();
        hub.start().unwrap();
        all_run(&agents, &format!("default/{name}-0"));
    }
    for agent in &agents {
        agent.wait_for("delivered", PATIENCE, drained).unwrap();
        same_accounts(&hub, agent).unwrap();
        assert_eq!(count_programs(agent, "sleep"), 4);
    }
}

#[test]
fn a_damaged_store_is_put_aside_and_healed_by_the_hub_while_pods_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, mut agent) = pair(folder.path(), "mast-17").unwrap();
    let pod = |agent: &Agent| {
        agent.processes().into_iter().find(|id| {
            fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|comm| comm.trim() == "sleep")
        })
    };
    let before = pod(&agent).unwrap();
    agent.kill();
    damage(&agent.state().join("store"));
    agent.start().unwrap();
    agent
        .wait_for("healed", PATIENCE, |status| {
            in_session(status) && ready(status, "default/idle-0") && drained(status)
        })
        .unwrap();
    assert_eq!(pod(&agent), Some(before), "the pod was restarted");
    hub.wait_for_node("mast-17", "the hub hears of it", PATIENCE, |view| {
        let events = view["events"].as_array();
        events.is_some_and(|events| events.iter().any(|e| e["reason"] == "StoreQuarantined"))
    })
    .unwrap();
}

/// Overwrites every file of a store with what it never wrote.
fn damage(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let length = fs::metadata(&path).unwrap().len();
            let noise: Vec<u8> = (0..length).map(|n| (n * 31 % 251) as u8).collect();
            fs::write(path, noise).unwrap();
        }
    }
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(folder: &'a Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"])
            .arg(folder)
            .status();
        assert!(mount.unwrap().success(), "mounting a tmpfs needs root");
        Self(folder)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_stops_no_pod_is_said_and_is_recovered_from() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("small");
    let _disk = SmallDisk::mount(&place);
    let (hub, agent) = pair(&place, "mast-17").unwrap();
    // The hub shares the disk on purpose: it must recover as well.
    let ballast = place.join("ballast");
    let fill = || {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&ballast).unwrap();
        while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
    };
    fill();
    wait_until("the agent says that its store can't be written", PATIENCE, || {
        fill();
        Ok(condition(&agent.status()?, "StoreWritable").as_deref() == Some("False"))
    })
    .unwrap();
    assert!(ready(&agent.status().unwrap(), "default/idle-0"));
    fs::remove_file(&ballast).unwrap();
    agent
        .wait_for("writable again and delivered", PATIENCE, |status| {
            condition(status, "StoreWritable").as_deref() == Some("True")
                && in_session(status)
                && drained(status)
        })
        .unwrap();
    same_accounts(&hub, &agent).unwrap();
    hub.apply("more.yaml", &idle_manifest("more", 1)).unwrap();
    agent
        .wait_for("new desired state is taken", PATIENCE, |status| ready(status, "default/more-0"))
        .unwrap();
    drop(agent);
    drop(hub);
}

#[test]
fn a_clock_in_1970_or_in_2100_keeps_a_node_from_nothing() {
    for time in ["1970-01-02 00:00:00", "2100-01-01 00:00:00"] {
        let folder = tempfile::tempdir().unwrap();
        let mut hub = Hub::new(&folder.path().join("hub")).unwrap();
        hub.apply("idle.yaml", &idle_manifest("idle", 1)).unwrap();
        hub.start().unwrap();
        let mut agent = Agent::new(&folder.path().join("node"), "mast-17").unwrap();
        agent.set_environment("LD_PRELOAD", &faketime_library());
        agent.set_environment("FAKETIME", &format!("@{time}"));
        agent.set_environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        agent.enroll(&hub).unwrap();
        agent.start().unwrap();
        agent.wait_until_up().unwrap();
        let settled = |status: &Value| in_session(status) && ready(status, "default/idle-0");
        agent.wait_for("in session with its pod", PATIENCE, settled).unwrap();
        agent.wait_for("delivered", PATIENCE, drained).unwrap();
        same_accounts(&hub, &agent).unwrap();
        let day = time.split(' ').next().unwrap();
        assert!(agent.log().contains(day), "the clock was not faked: {}", agent.log());
        agent.cut_power();
        hub.kill();
        agent.start().unwrap();
        let back = |status: &Value| ready(status, "default/idle-0");
        agent.wait_for("back after a power cut, offline", PATIENCE, back).unwrap();
    }
}

fn faketime_library() -> String {
    let folders = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    let paths = folders.map(|folder| format!("/usr/lib/{folder}/faketime/libfaketime.so.1"));
    paths
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("tests/install.sh installs faketime")
}

#[test]
fn a_revoked_node_is_thrown_out_and_keeps_its_pods() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, agent) = pair(folder.path(), "mast-17").unwrap();
    let answer = hub.tell("/v1/nodes/mast-17/revoke", &[]).unwrap();
    assert!((200..300).contains(&answer.status), "{answer:?}");
    agent.wait_for("out of session", PATIENCE, |status| !in_session(status)).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let status = agent.status().unwrap();
    assert!(!in_session(&status) && ready(&status, "default/idle-0"), "{status}");
}

#[test]
fn a_graceful_stop_leaves_pods_running_and_the_next_start_adopts_them() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, mut agent) = pair(folder.path(), "mast-17").unwrap();
    agent.terminate().unwrap();
    assert_eq!(count_programs(&agent, "sleep"), 1);
    agent.start().unwrap();
    agent
        .wait_for("adopted", PATIENCE, |status| {
            in_session(status) && ready(status, "default/idle-0") && drained(status)
        })
        .unwrap();
    assert_eq!(count_programs(&agent, "sleep"), 1);
    assert_eq!(number(&agent.status().unwrap(), "/pods/0/restarts"), 0);
    same_accounts(&hub, &agent).unwrap();
}

const CONFIGURED: &str = "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: ocr}
spec:
  parametersFrom: [{configMapPrefix: nap-, label: kubernetes.io/hostname}]
  template:
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{name: keys, secret: {secretName: keys}}]
      containers:
      - name: server
        command: [sh, -c, 'test -s $HOME/keys/token && exec sleep $NAP']
        volumeMounts: [{name: keys, mountPath: /keys}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: nap-mast-17}
data: {NAP: '4201'}
";

fn secret(token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\nstringData: {{token: {token}}}\n"
    )
}

#[test]
fn what_a_directory_declares_reaches_the_pod_and_is_there_again_after_a_power_cut_without_a_network()
 {
    const TOKEN: &str = "the-token-of-a-directory";
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::new(&folder.path().join("hub")).unwrap();
    hub.start().unwrap();
    let mut agent = Agent::new(&folder.path().join("agent"), "mast-17").unwrap();
    agent.enroll(&hub).unwrap();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();

    // What a workload names must be there, or nothing of the directory is taken over.
    hub.apply("ocr.yaml", CONFIGURED).unwrap();
    wait_until("the hub says what is missing", PATIENCE, || {
        let problems = hub.ask("/v1/hub")?["manifests"]["problems"].to_string();
        Ok(problems.contains("there is no Secret default/keys in the directory"))
    })
    .unwrap();
    hub.apply("secret.yaml", &secret(TOKEN)).unwrap();
    wait_until("a pod runs", PATIENCE, || Ok(agent.sleepers("4201").len() == 1)).unwrap();
    let link = agent.state().join("pods/default_ocr-0/home/keys/token");
    let file = fs::canonicalize(&link).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), TOKEN);
    for folder in [agent.state(), hub.state()] {
        assert_eq!(files_with(&folder, TOKEN.as_bytes()), Vec::<PathBuf>::new());
    }

    // The power goes, and with it what was in memory; nobody is there when the node comes back.
    hub.kill();
    agent.cut_power();
    let memory = file.ancestors().nth(4).unwrap();
    fs::remove_dir_all(memory).unwrap();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    wait_until("the pod runs again", PATIENCE, || Ok(agent.sleepers("4201").len() == 1)).unwrap();
    assert_eq!(fs::read_to_string(&link).unwrap(), TOKEN);
    let pod = agent.sleepers("4201");

    hub.start().unwrap();
    hub.apply("secret.yaml", &secret("another")).unwrap();
    wait_until("the file is another", PATIENCE, || Ok(fs::read_to_string(&link)? == "another"))
        .unwrap();
    assert_eq!(agent.sleepers("4201"), pod, "and the pod is the same");
    drop(agent);
    let _ = fs::remove_dir_all(memory);
}
