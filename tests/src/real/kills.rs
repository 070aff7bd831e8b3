//! kill -9 of a real agent under load, again and again, and what must be true after each kill.
//!
//! Samples come every 100 ms, desired state changes, and a kill falls at any moment: while the agent
//! boots, while it greets, while it works. Pods are never touched: the same processes must be there.

use super::agent::Agent;
use super::hub::Hub;
use super::process::wait_until;
use anyhow::{Context, ensure};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use shared::io::ledger::{Ledger, LedgerState};
use std::fs;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// What pods sleep that stay, and what those sleep that come and go: a command line tells them apart.
const STAYS: &str = "100000";
const CHANGES: &str = "90000";

/// Pods that stay.
const PODS: u32 = 3;

/// Kills between two changes of desired state.
const KILLS_PER_CHANGE: u64 = 4;

/// After a start, kills of a boot fall within this; an agent is up after about half of it.
const BOOT: Duration = Duration::from_millis(150);

/// Work between a start that is awaited and the next kill.
const WORK: Duration = Duration::from_millis(500);

/// What came of the kills.
#[derive(Debug, Default)]
pub struct Killed {
    /// How many there were.
    pub kills: u64,
    /// Of those, in how many the agent had not answered yet.
    pub at_boot: u64,
    /// Changes of desired state that were made meanwhile.
    pub changes: u64,
    /// Samples that the node recorded, and that the hub has.
    pub samples: u64,
    /// What was not as it must be, in words.
    pub failures: Vec<String>,
}

/// Kills an agent `kills` times and then compares the accounts of node and hub.
///
/// # Errors
/// When hub or agent can't even be started, or never settle.
pub fn kill_again_and_again(folder: &Path, kills: u64, seed: u64) -> anyhow::Result<Killed> {
    let mut scene = Scene::new(folder)?;
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    let mut killed = Killed::default();
    for number in 1..=kills {
        if number % KILLS_PER_CHANGE == 0 {
            killed.changes += 1;
            scene.change(killed.changes)?;
        }
        let at_boot = random.next_u32() % 5 < 2;
        killed.at_boot += u64::from(at_boot);
        if let Err(failure) = scene.one_kill(at_boot, &mut random) {
            killed.failures.push(format!("kill {number}, at boot: {at_boot}: {failure:#}"));
        }
        killed.kills = number;
    }
    killed.samples = scene.settle(killed.changes)?;
    Ok(killed)
}

/// Hub and agent, and what is known of them.
struct Scene {
    hub: Hub,
    agent: Agent,
    pods: Vec<u32>,
    ledger: LedgerState,
}

impl Scene {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let mut hub = Hub::new(&folder.join("hub"))?;
        hub.apply("stays.yaml", &manifest("stays", STAYS, PODS, 0))?;
        hub.apply("changes.yaml", &manifest("changes", CHANGES, 1, 0))?;
        hub.start()?;
        let mut agent = Agent::new(&folder.join("node"), "mast-17")?;
        agent.configure(100, 2)?;
        agent.enroll(&hub)?;
        agent.start()?;
        agent.wait_until_up()?;
        let mut scene = Self { hub, agent, pods: vec![], ledger: LedgerState::default() };
        wait_until("the pods run", PATIENCE, || Ok(scene.sleepers(STAYS).len() == PODS as usize))?;
        scene.pods = scene.sleepers(STAYS);
        Ok(scene)
    }

    fn change(&self, version: u64) -> anyhow::Result<()> {
        self.hub.apply("changes.yaml", &manifest("changes", CHANGES, 1, version))
    }

    /// Waits for a random moment of the agent that runs, kills it, looks at what it left, and starts
    /// the next one.
    fn one_kill(&mut self, at_boot: bool, random: &mut ChaCha20Rng) -> anyhow::Result<()> {
        let seen = if at_boot { Ok(()) } else { self.is_well() };
        let most = if at_boot { BOOT } else { WORK };
        std::thread::sleep(most.mul_f64(f64::from(random.next_u32()) / f64::from(u32::MAX)));
        self.agent.kill();
        let left = self.left_behind();
        self.agent.start()?;
        seen.and(left)
    }

    /// It comes up, by itself, and its pods are the ones of before.
    fn is_well(&mut self) -> anyhow::Result<()> {
        self.agent.wait_until_up()?;
        let pods = self.sleepers(STAYS);
        ensure!(pods == self.pods, "the pods were {:?} and are {pods:?}", self.pods);
        Ok(())
    }

    /// Of an agent that was killed: its store is in its place, its ledger has not fallen.
    fn left_behind(&mut self) -> anyhow::Result<()> {
        let names = fs::read_dir(self.agent.state())?.flatten().map(|entry| entry.file_name());
        let aside = names.filter(|name| name.to_string_lossy().contains("quarantined"));
        let aside: Vec<_> = aside.collect();
        ensure!(aside.is_empty(), "the store was put aside: {aside:?}");
        let ledger = Ledger::open(&self.agent.state().join("ledger"))?;
        let (before, after) = (self.ledger, ledger.state());
        self.ledger = after;
        ensure!(
            after.accepted >= before.accepted
                && after.incarnation >= before.incarnation
                && after.time_floor >= before.time_floor,
            "the ledger fell from {before:?} to {after:?}"
        );
        Ok(())
    }

    /// Everything comes to rest: the last change is in force, all is delivered, and both sides have
    /// counted the same samples, which is how many.
    fn settle(&mut self, version: u64) -> anyhow::Result<u64> {
        self.is_well()?;
        wait_until("the last change is in force", PATIENCE, || {
            let running = self.sleepers(&changing(version));
            let all = self.sleepers(CHANGES);
            ensure!(running.len() == 1 && all.len() == 1, "{running:?} of {all:?}");
            Ok(true)
        })?;
        // No more samples are made, so that the counts can meet.
        self.agent.terminate()?;
        self.agent.configure(600_000, 2)?;
        self.agent.start()?;
        self.agent.wait_until_up()?;
        let mut samples = 0;
        wait_until("node and hub count the same samples", PATIENCE, || {
            let (status, view) = (self.agent.status()?, self.hub.node(&self.agent.node)?);
            let number = |value: &serde_json::Value, pointer: &str| {
                value.pointer(pointer).and_then(serde_json::Value::as_u64).context("no number")
            };
            samples = number(&status, "/outbox/samples_recorded")?;
            let received = number(&view, "/samples_received")?;
            let lost = number(&view, "/records_lost")?;
            ensure!(
                lost == 0 && samples == received,
                "{samples}, {received} received, {lost} lost"
            );
            Ok(true)
        })?;
        Ok(samples)
    }

    /// Processes of this node that sleep so long, in order.
    fn sleepers(&self, seconds: &str) -> Vec<u32> {
        let mut ids = self.agent.sleepers(seconds);
        ids.sort_unstable();
        ids
    }
}

/// What the pod sleeps that version `version` of the changing workload asks for.
fn changing(version: u64) -> String {
    format!("{CHANGES}.{version}")
}

fn manifest(name: &str, seconds: &str, replicas: u32, version: u64) -> String {
    let seconds = if seconds == CHANGES { changing(version) } else { seconds.to_owned() };
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: {name}\nspec:\n  \
         placement:\n    replicasPerNode: {replicas}\n  template:\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n        - name: idle\n          command: \
         [sleep, \"{seconds}\"]\n"
    )
}
