//! Damage beside and below real processes: an agent's and a hub's store, ledger and keys are cut,
//! emptied, removed, or replaced by older ones while they are down. Each comes up again by itself or
//! says which file it needs; pods are the same processes, and what was lost is said.

// Helpers of tests are tests as well.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::hub::Hub;
use tests::real::process::wait_until;
use tests::story::{in_session, number};

const PATIENCE: Duration = Duration::from_secs(60);

/// What is done to the files of `state`; `old` has what they were some commits before.
type Damage = fn(state: &Path, old: &Path);

fn manifest(version: u32) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: changes\nspec:\n  \
         template:\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n        - name: idle\n          \
         command: [sleep, \"90000.{version}\"]\n"
    )
}

const STAYS: &str = "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: \
    stays\nspec:\n  template:\n    spec:\n      containers:\n        - name: idle\n          command: [sleep, \
    \"100000\"]\n";

fn cut(path: &Path, to: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(to).unwrap();
}

fn zero(path: &Path) {
    let length = fs::metadata(path).unwrap().len();
    fs::write(path, vec![0; usize::try_from(length).unwrap()]).unwrap();
}

/// One bit in each page.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.iter_mut().skip(777).step_by(4096).for_each(|byte| *byte ^= 0x10);
    fs::write(path, bytes).unwrap();
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    fs::create_dir_all(to).unwrap();
    for name in names {
        let target = to.join(name);
        let _ = fs::remove_dir_all(&target).or_else(|_| fs::remove_file(&target));
        let copied = Command::new("cp").arg("-a").arg(from.join(name)).arg(&target).status();
        assert!(copied.unwrap().success(), "{name}");
    }
}

/// What is done, what it is, and words of which one must be in the agent's log.
const AGENT: [(&str, Damage, &[&str]); 15] = [
    ("the database is cut", |state, _| cut(&state.join("store/db"), 8_000), SAID),
    ("the database is empty", |state, _| cut(&state.join("store/db"), 0), SAID),
    ("the database is zeros", |state, _| zero(&state.join("store/db")), SAID),
    ("the database has flipped bits", |state, _| flip(&state.join("store/db")), SAID),
    ("the database is gone", |state, _| fs::remove_file(state.join("store/db")).unwrap(), SAID),
    ("the keyring is gone", |state, _| fs::remove_file(state.join("store/keyring")).unwrap(), SAID),
    ("the keyring is zeros", |state, _| zero(&state.join("store/keyring")), SAID),
    ("the store is gone", |state, _| fs::remove_dir_all(state.join("store")).unwrap(), GONE),
    ("the store is older", |state, old| copy(old, state, &["store"]), SAID),
    (
        "store and witness are older",
        |state, old| copy(old, state, &["store", "store.lock"]),
        FENCED,
    ),
    (
        "store, witness and ledger are older",
        |state, old| copy(old, state, &["store", "store.lock", "ledger"]),
        FENCED,
    ),
    ("the ledger is older", |state, old| copy(old, state, &["ledger"]), LEDGER),
    ("the ledger is zeros", |state, _| zero(&state.join("ledger")), LEDGER),
    ("the ledger is cut", |state, _| cut(&state.join("ledger"), 100), LEDGER),
    ("the ledger is gone", |state, _| fs::remove_file(state.join("ledger")).unwrap(), LEDGER),
];

const SAID: &[&str] =
    &["StoreQuarantined", "the store was quarantined", "the disk lost", "the store lost what"];
const GONE: &[&str] = &["there was a store, and it is gone"];
const LEDGER: &[&str] =
    &["a part of the ledger beside the store was damaged", "the ledger is older than the store"];
/// Not told apart from a life that was shorter; what was accepted last does not fall all the same,
/// because one of the two remembers it, or the hub sends it again.
const FENCED: &[&str] = &[];

struct Node<'a> {
    hub: &'a Hub,
    agent: Agent,
    old: PathBuf,
    /// Of its last start.
    incarnation: u64,
}

impl<'a> Node<'a> {
    /// A node that has lived a while, with a copy of what it was before its last change; it is down.
    fn that_lived(folder: &Path, hub: &'a Hub, name: &str, version: u32) -> Result<Self> {
        let agent = Agent::new(&folder.join(name), name)?;
        agent.configure(100, 2)?;
        agent.enroll(hub)?;
        let old = folder.join(format!("{name}-old"));
        hub.apply("changes.yaml", &manifest(version))?;
        let mut node = Self { hub, agent, old, incarnation: 0 };
        node.agent.start()?;
        node.runs(version)?;
        node.agent.terminate()?;
        copy(&node.agent.state(), &node.old, &["store", "store.lock", "ledger"]);
        node.agent.start()?;
        hub.apply("changes.yaml", &manifest(version + 1))?;
        node.runs(version + 1)?;
        let before = samples(&node.agent.status()?);
        // More commits than the witness may miss.
        node.agent.wait_for("it has lived", PATIENCE, |status| samples(status) > before + 30)?;
        node.incarnation = number(&node.agent.status()?, "/incarnation");
        node.agent.kill();
        Ok(node)
    }

    /// In session, with the pods that version `version` asks for.
    fn runs(&mut self, version: u32) -> Result<()> {
        self.agent.wait_until_up()?;
        self.agent.wait_for("in session", PATIENCE, in_session)?;
        let wanted = format!("90000.{version}");
        wait_until("its pods run", PATIENCE, || {
            Ok(self.sleepers("100000").len() == 1
                && self.sleepers(&wanted).len() == 1
                && self.sleepers("90000").len() == 1)
        })
    }

    /// What it records from now on reaches the hub, under numbers that are new there.
    fn is_heard(&self) -> Result<()> {
        let received = || -> Result<u64> {
            Ok(number(&self.hub.node(&self.agent.node)?, "/samples_received"))
        };
        let before = received()?;
        wait_until("its samples arrive", PATIENCE, || Ok(received()? > before + 8))
    }

    fn sleepers(&self, seconds: &str) -> Vec<u32> {
        self.agent.sleepers(seconds)
    }

    /// What the log gained since it had `from` bytes.
    fn said(&self, from: usize) -> String {
        let log = self.agent.state().parent().unwrap().join("agent.log");
        String::from_utf8_lossy(&fs::read(log).unwrap()[from..]).into_owned()
    }

    fn survives(&mut self, damage: Damage, words: &[&str], version: u32) -> Result<()> {
        let pod = self.sleepers("100000");
        damage(&self.agent.state(), &self.old);
        let from = self.said(0).len();
        self.agent.start()?;
        self.runs(version)?;
        ensure!(self.sleepers("100000") == pod, "the pod was started anew");
        let incarnation = number(&self.agent.status()?, "/incarnation");
        ensure!(incarnation > self.incarnation, "{incarnation} was an incarnation before");
        self.is_heard()?;
        let said = self.said(from);
        ensure!(!said.contains("panicked at") || said.contains("quarantined"), "a panic: {said}");
        let is_said = words.is_empty() || words.iter().any(|words| said.contains(words));
        ensure!(is_said, "silence: {said}");
        self.hub.apply("changes.yaml", &manifest(version + 1))?;
        self.runs(version + 1)?;
        // The next start finds nothing to say.
        self.agent.terminate()?;
        let from = self.said(0).len();
        self.agent.start()?;
        self.runs(version + 1)?;
        let said = self.said(from);
        ensure!(!said.contains("WARN") || !said.contains("store"), "again: {said}");
        Ok(())
    }
}

fn samples(status: &Value) -> u64 {
    status.pointer("/outbox/samples_recorded").and_then(Value::as_u64).unwrap_or(0)
}

fn hub_with_pods(folder: &Path) -> Hub {
    let mut hub = Hub::new(&folder.join("hub")).unwrap();
    hub.apply("stays.yaml", STAYS).unwrap();
    hub.apply("changes.yaml", &manifest(0)).unwrap();
    hub.start().unwrap();
    hub
}

#[test]
fn an_agent_comes_up_with_its_pods_whatever_became_of_its_store_and_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub_with_pods(folder.path());
    let mut failures = Vec::new();
    for (number, (what, damage, words)) in (0..).zip(AGENT) {
        let version = 10 * number;
        let name = format!("node-{number}");
        let node = Node::that_lived(folder.path(), &hub, &name, version);
        let mut node = node.context(what).unwrap();
        if let Err(error) = node.survives(damage, words, version + 1) {
            failures.push(format!("{what}: {error:#}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn an_agent_without_the_right_keys_names_the_file_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub_with_pods(folder.path());
    let mut node = Node::that_lived(folder.path(), &hub, "mast-17", 1).unwrap();
    let keys = node.agent.state().join("keys");
    let names: Vec<_> = fs::read_dir(&keys).unwrap().map(|e| e.unwrap().file_name()).collect();
    // Without the key of results the agent runs: pods are still known by their sockets.
    let names = names.into_iter().filter(|name| name != "results.key").collect::<Vec<_>>();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        let path = keys.join(&name);
        let whole = fs::read(&path).unwrap();
        let is_store_key = name == "store.key";
        let contents = [None, Some("0".repeat(64)), Some("no key".to_owned())];
        for content in contents {
            match &content {
                None => fs::remove_file(&path).unwrap(),
                Some(text) => fs::write(&path, text).unwrap(),
            }
            let output = node.agent.command(&["run"]).unwrap().output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && !said.contains("panicked"), "{name:?}: {said}");
            let names_it = said.contains(name.to_str().unwrap())
                || (is_store_key && said.contains("another key"))
                || said.contains("key");
            assert!(names_it, "{name:?} {content:?}: {said}");
            let _ = fs::remove_file(&path);
            let mut options = fs::OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.write(true).create(true).open(&path).unwrap();
            std::io::Write::write_all(&mut file, &whole).unwrap();
        }
    }
    node.agent.start().unwrap();
    node.runs(2).unwrap();
    assert!(!node.agent.state().join("store.quarantined-1").exists());
}

/// What is done to the hub's store.
const HUB: [(&str, Damage); 8] = [
    ("the database is cut", |state, _| cut(&state.join("store/db"), 3_000)),
    ("the database is empty", |state, _| cut(&state.join("store/db"), 0)),
    ("the database is zeros", |state, _| zero(&state.join("store/db"))),
    ("the database has flipped bits", |state, _| flip(&state.join("store/db"))),
    ("the database is gone", |state, _| fs::remove_file(state.join("store/db")).unwrap()),
    ("the keyring is gone", |state, _| fs::remove_file(state.join("store/keyring")).unwrap()),
    ("the store is older", |state, old| copy(old, state, &["store"])),
    ("store and witness are older", |state, old| copy(old, state, &["store", "store.lock"])),
];

#[test]
fn a_hub_serves_its_nodes_whatever_became_of_its_store() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = hub_with_pods(folder.path());
    let mut agent = Agent::new(&folder.path().join("node"), "mast-17").unwrap();
    agent.configure(100, 2).unwrap();
    agent.enroll(&hub).unwrap();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    let old = folder.path().join("old");
    for (number, (what, damage)) in (1..).zip(HUB) {
        agent.wait_for("in session", PATIENCE, in_session).context(what).unwrap();
        // Each loss of the hub doubles the pause before an agent connects again: a fresh start has none.
        agent.terminate().unwrap();
        hub.terminate().unwrap();
        copy(&hub.state(), &old, &["store", "store.lock"]);
        hub.start().unwrap();
        agent.start().unwrap();
        agent.wait_until_up().unwrap();
        agent.wait_for("in session", PATIENCE, in_session).context(what).unwrap();
        std::thread::sleep(Duration::from_secs(4));
        let term = hub.ask("/v1/hub").unwrap()["hub"]["term"].as_u64();
        let from = log_bytes(folder.path());
        hub.kill();
        damage(&hub.state(), &old);
        hub.apply("changes.yaml", &manifest(number)).unwrap();
        hub.start().context(what).unwrap();
        let wanted = format!("90000.{number}");
        wait_until("the change is in force", PATIENCE, || {
            let line = |id: &u32| fs::read_to_string(format!("/proc/{id}/cmdline"));
            let is_it = |id: &u32| line(id).is_ok_and(|line| line.contains(&wanted));
            Ok(agent.processes().iter().any(is_it))
        })
        .context(what)
        .unwrap();
        let log = fs::read(folder.path().join("hub/hub.log")).unwrap();
        let said = String::from_utf8_lossy(&log[from..]).into_owned();
        let is_said = what.contains("witness")
            || ["put aside", "the store lost what"].iter().any(|w| said.contains(w));
        assert!(is_said, "{what}: silence: {said}");
        let after = hub.ask("/v1/hub").unwrap()["hub"]["term"].as_u64();
        assert!(after > term || term.is_none(), "{what}: the term was {term:?} and is {after:?}");
    }
}

fn log_bytes(folder: &Path) -> usize {
    fs::metadata(folder.join("hub/hub.log")).map_or(0, |log| usize::try_from(log.len()).unwrap())
}
