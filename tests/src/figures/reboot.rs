//! A power cut without a network, on a real containerd: how long until ten pods are back, beside the same ten by the
//! bare calls of the container runtime interface.
//!
//! A proxy before containerd notes when each call comes. Bare calls are those that the agent made, given again: the
//! same pods, all at once, with nobody who looks for what was left, keeps a store or waits for an order.

use super::containers::{Node, all_ready, sleepers};
use super::full_store::fill;
use super::{Figure, percentile};
use crate::real::cri_proxy::{Call, CriProxy};
use crate::story::in_session;
use anyhow::{Context, ensure};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Power cuts of which the median is told.
const ROUNDS: usize = 7;

const PODS: usize = 10;

/// What one power cut cost.
struct Round {
    first_start: Duration,
    all_ready: Duration,
    bare: Duration,
}

/// From the agent's start to the first order to make a sandbox, and until all are ready.
pub(super) fn offline() -> anyhow::Result<Vec<Figure>> {
    let mut node = Node::new()?;
    let proxy = CriProxy::start(&node.containerd.at("p.sock"), &node.containerd.socket())?;
    node.run_pods_by(proxy.socket())?;
    node.hub.apply("ten.yaml", &sleepers("ten", 10))?;
    node.agent.start()?;
    node.agent.wait_until_up()?;
    node.wait_until_ready(PODS)?;
    node.hub.kill();
    node.agent.cut_power();
    let (bytes, records) = fill(&node.agent)?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(round(&mut node, &proxy)?);
    }
    let median =
        |of: fn(&Round) -> u128| percentile(&mut rounds.iter().map(of).collect::<Vec<_>>(), 50);
    let ratio = median(|round| round.all_ready.as_micros() * 100 / round.bare.as_micros().max(1));
    let what = format!(
        "median of {ROUNDS}: no hub, agent, containerd, shims and containers killed with -9 and containerd back up, \
         store of {bytes} bytes with {records} records, {PODS} pods without probes"
    );
    let first = format!(
        "{what}; from just before the agent's exec until a proxy before containerd has the first RunPodSandbox"
    );
    let ready = format!(
        "{what}; from just before the agent's exec until its status shows all {PODS} ready"
    );
    let bare = format!(
        "in the same rounds the same {PODS} by the agent's own RunPodSandbox, CreateContainer and StartContainer given \
         again, all at once, until the last StartContainer is answered; what the power cut left was removed before"
    );
    Ok(vec![
        Figure::new(
            "offline_reboot_to_first_start_ms",
            median(|r| r.first_start.as_millis()),
            "ms",
            &first,
        ),
        Figure::new(
            "offline_reboot_to_all_ready_ms",
            median(|r| r.all_ready.as_millis()),
            "ms",
            &ready,
        ),
        Figure::new("bare_cri_to_all_started_ms", median(|r| r.bare.as_millis()), "ms", &bare),
        Figure::new(
            "offline_reboot_to_all_ready_ratio",
            format!("{}.{:02}", ratio / 100, ratio % 100),
            "1",
            "median of the rounds' own quotients of the two above",
        ),
    ])
}

fn round(node: &mut Node, proxy: &CriProxy) -> anyhow::Result<Round> {
    node.cut_power()?;
    proxy.wait_until_answered()?;
    drop(proxy.take_calls());
    let begin = node.agent.start()?;
    let offline = |status: &serde_json::Value| all_ready(status, PODS) && !in_session(status);
    node.agent.wait_for("ten pods are ready again", PATIENCE, offline)?;
    let all_ready = begin.elapsed();
    let calls = proxy.take_calls();
    let first_start = first_start(&calls, begin)?;
    let pods = pods_of(&calls)?;
    node.cut_power()?;
    proxy.wait_until_answered()?;
    for (sandbox, _) in &pods {
        proxy.remove(&sandbox.answered_id()?)?;
    }
    let (bare, _) = proxy.make_again(&pods)?;
    Ok(Round { first_start, all_ready, bare })
}

fn first_start(calls: &[Call], begin: Instant) -> anyhow::Result<Duration> {
    let starts = calls.iter().filter(|call| call.method == "RunPodSandbox");
    let first = starts.map(|call| call.at).min().context("no pod was started")?;
    Ok(first.duration_since(begin))
}

/// The two calls that made each pod.
fn pods_of(calls: &[Call]) -> anyhow::Result<Vec<(Call, Call)>> {
    let made = |method: &'static str| {
        calls.iter().filter(move |call| call.method == method && !call.answer.is_empty())
    };
    let mut pods = Vec::new();
    for container in made("CreateContainer") {
        let id = container.asked_id()?;
        let of_it = |sandbox: &&Call| sandbox.answered_id().is_ok_and(|answered| answered == id);
        let sandbox = made("RunPodSandbox").find(of_it).context("a container without a sandbox")?;
        pods.push((sandbox.clone(), container.clone()));
    }
    ensure!(pods.len() == PODS, "{} pods were made, not {PODS}", pods.len());
    Ok(pods)
}
