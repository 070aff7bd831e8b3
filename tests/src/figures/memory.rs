//! Memory of an agent with process pods, of its shims, and of a hub.

use super::full_store::fill;
use super::marks::Marks;
use super::{Figure, work_folder};
use crate::real::agent::Agent;
use crate::real::hub::Hub;
use crate::real::process::{pss_kib, signal, wait_until};
use crate::story::{Story, in_session, number};
use anyhow::{Context, ensure};
use rustix::process::Signal;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

/// Pods on the node.
const PODS: u32 = 5;

/// Agents on one hub.
const AGENTS: usize = 100;

/// An idle process has settled after this.
const SETTLING: Duration = Duration::from_secs(20);

/// Kibibytes as mebibytes with two digits.
pub(super) fn mib(kib: u64) -> String {
    format!("{}.{:02}", kib / 1024, kib % 1024 * 100 / 1024)
}

/// Memory of an idle agent and its shims. The hub is frozen (SIGSTOP) as soon as the session stands,
/// so that the link is up and the backlog stays.
pub(super) fn agent() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let mut story = Story::new(folder.path(), "mast-17")?;
    let marks = Marks::new(&folder.path().join("marks"))?;
    story.hub.apply("five.yaml", &marks.manifest("five", PODS))?;
    story.join()?;
    wait_for_pods(&story.agent)?;
    story.agent.kill();
    let (bytes, _) = fill(&story.agent)?;
    story.agent.configure(10_000, 6)?;
    story.agent.start()?;
    story.agent.wait_until_up()?;
    story.agent.wait_for("in session", PATIENCE, in_session)?;
    let hub = story.hub.id().context("the hub does not run")?;
    signal(hub, Signal::STOP);
    std::thread::sleep(SETTLING);
    let id = story.agent.id().context("the agent does not run")?;
    let idle = pss_kib(id)?;
    let waiting = number(&story.agent.status()?, "/outbox/telemetry_records");
    let shims = shims(&story.agent)?;
    signal(hub, Signal::CONT);
    let peak = peak_while_draining(&story, id)?;
    let count = shims.len() as u64;
    ensure!(count == u64::from(PODS), "{count} shims of {PODS}");
    let how = format!(
        "Pss of smaps_rollup after {SETTLING:?} of rest: connected over mutual TLS, {PODS} process pods, \
         store of {bytes} bytes with {waiting} records to deliver"
    );
    let shim_how = format!("mean Pss of {count} shims");
    let peak_how = "largest Pss seen while that backlog was delivered";
    Ok(vec![
        Figure::new("agent_pss_mib_idle_process_pods", mib(idle), "MiB", &how),
        Figure::new("agent_pss_mib_draining", mib(peak), "MiB", peak_how),
        Figure::new("shim_pss_mib", mib(shims.iter().sum::<u64>() / count), "MiB", &shim_how),
    ])
}

fn peak_while_draining(story: &Story, agent: u32) -> anyhow::Result<u64> {
    let mut peak = 0;
    wait_until("the backlog is delivered", PATIENCE, || {
        peak = peak.max(pss_kib(agent)?);
        Ok(number(&story.agent.status()?, "/outbox/telemetry_records") == 0)
    })?;
    Ok(peak)
}

fn wait_for_pods(agent: &Agent) -> anyhow::Result<()> {
    agent.wait_for("five pods are ready", PATIENCE, |status| {
        let pods = status.pointer("/pods").and_then(serde_json::Value::as_array);
        pods.is_some_and(|pods| {
            pods.len() == PODS as usize && pods.iter().all(|pod| pod["ready"] == true)
        })
    })
}

fn shims(agent: &Agent) -> anyhow::Result<Vec<u64>> {
    let is_shim = |id: &u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"shim")
    };
    agent.processes().into_iter().filter(is_shim).map(pss_kib).collect()
}

/// Memory of a hub with a hundred agents in session.
pub(super) fn hub() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let mut hub = Hub::new(&folder.path().join("hub"))?;
    let marks = Marks::new(&folder.path().join("marks"))?;
    hub.apply("one.yaml", &marks.manifest("one", 1))?;
    hub.start()?;
    let mut agents = Vec::new();
    for index in 0..AGENTS {
        let name = format!("node-{index}");
        let mut agent = Agent::new(&folder.path().join(&name), &name)?;
        agent.configure(10_000, 6)?;
        agent.enroll(&hub)?;
        agent.start()?;
        agents.push(agent);
    }
    for agent in &agents {
        agent.wait_for("in session", PATIENCE, in_session)?;
    }
    std::thread::sleep(SETTLING);
    let kib = pss_kib(hub.id().context("the hub does not run")?)?;
    let how = format!("Pss {SETTLING:?} after {AGENTS} agents with a pod each came into session");
    Ok(vec![Figure::new("hub_pss_mib_100_agents", mib(kib), "MiB", &how)])
}
