//! What an agent takes while its pods, containers of a real containerd, do nothing: memory and CPU time.

use super::Figure;
use super::containers::{Node, probed, sleepers};
use super::full_store::fill_days;
use super::memory::mib;
use crate::real::process::{cpu_time, pss_kib, signal};
use crate::story::{in_session, number};
use anyhow::Context;
use rustix::process::Signal;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// Pods of the first figures, each with two probes every 10 s.
const FEW: usize = 5;

/// Pods of the second figure of memory: those, and others that have no probes.
const MANY: usize = 50;

/// Days without a link.
const DAYS: u64 = 30;

/// An idle process has settled after this.
const SETTLING: Duration = Duration::from_secs(20);

/// Memory is looked at every second for so long.
const LOOKING: Duration = Duration::from_secs(60);

/// CPU time is counted over this.
const COUNTING: Duration = Duration::from_secs(180);

/// Memory with a few pods and with many, both with a backlog.
pub(super) fn memory() -> anyhow::Result<Vec<Figure>> {
    let mut node = with_few_pods()?;
    let few = memory_with_backlog(&mut node, FEW)?;
    node.hub.apply("many.yaml", &sleepers("many", u32::try_from(MANY - FEW)?))?;
    node.wait_until_ready(MANY)?;
    let many = memory_with_backlog(&mut node, MANY)?;
    Ok(vec![
        Figure::new("agent_pss_mib_idle", mib(few.0), "MiB", &few.1),
        Figure::new("agent_pss_mib_50_pods", mib(many.0), "MiB", &many.1),
    ])
}

/// Hub and agent run, in session, and five pods, each asked twice every 10 s how it is.
fn with_few_pods() -> anyhow::Result<Node> {
    let mut node = Node::new()?;
    for number in 0..FEW {
        node.hub.apply(&format!("{number}.yaml"), &probed(&format!("pod-{number}"))?)?;
    }
    node.agent.start()?;
    node.agent.wait_until_up()?;
    node.wait_until_ready(FEW)?;
    node.agent.wait_for("in session", PATIENCE, in_session)?;
    Ok(node)
}

/// The agent is started anew over a store with a backlog, takes the pods over and comes into session. Then the hub
/// is frozen (SIGSTOP), so that the link is up and the backlog stays.
fn memory_with_backlog(node: &mut Node, pods: usize) -> anyhow::Result<(u64, String)> {
    node.agent.kill();
    let (bytes, _) = fill_days(&node.agent, DAYS)?;
    node.agent.start()?;
    node.agent.wait_until_up()?;
    node.wait_until_ready(pods)?;
    node.agent.wait_for("in session", PATIENCE, in_session)?;
    let hub = node.hub.id().context("the hub does not run")?;
    signal(hub, Signal::STOP);
    let looked = largest_pss(node);
    let waiting = number(&node.agent.status()?, "/outbox/telemetry_records");
    signal(hub, Signal::CONT);
    let how = format!(
        "largest Pss of smaps_rollup in {LOOKING:?} of looking every second, after {SETTLING:?} of rest: connected \
         over mutual TLS, {pods} pods by CRI, {FEW} of them with an HTTP and an exec probe every 10 s, store of {bytes} \
         bytes with {waiting} records to deliver ({DAYS} days by the minute)"
    );
    Ok((looked?, how))
}

fn largest_pss(node: &Node) -> anyhow::Result<u64> {
    std::thread::sleep(SETTLING);
    let id = node.agent.id().context("the agent does not run")?;
    let (begin, mut largest) = (Instant::now(), 0);
    while begin.elapsed() < LOOKING {
        largest = largest.max(pss_kib(id)?);
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(largest)
}

/// CPU time with a few pods, in session with a hub that runs.
pub(super) fn cpu() -> anyhow::Result<Vec<Figure>> {
    let node = with_few_pods()?;
    std::thread::sleep(SETTLING);
    let id = node.agent.id().context("the agent does not run")?;
    let (begin, before) = (Instant::now(), cpu_time(id)?);
    std::thread::sleep(COUNTING);
    let (used, passed) = (cpu_time(id)?.saturating_sub(before), begin.elapsed());
    let hundredths = used.as_micros() * 10_000 / passed.as_micros().max(1);
    let how = format!(
        "user and system time of the agent and of what it started, {} ms in {} s, of one core: {FEW} pods by CRI, \
         each with an HTTP and an exec probe every 10 s, in session over mutual TLS, telemetry as by default",
        used.as_millis(),
        passed.as_secs(),
    );
    let value = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    Ok(vec![Figure::new("agent_cpu_percent_idle", value, "%", &how)])
}
