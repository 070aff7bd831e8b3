//! What must hold after every event, and once everything is healed.

use super::agent::SimAgent;
use super::hub::SimHub;
use super::runtime::Stopped;
use super::scene::{Fleet, GPU_MEMORY_BYTES, NODE_MILLICORES, POD_MILLICORES};
use shared::model::NodeId;
use std::collections::BTreeMap;

/// What was seen so far, to compare with.
#[derive(Default)]
pub(super) struct Witness {
    /// The greatest version that each node has had in force, by what its store says.
    accepted: BTreeMap<NodeId, (u64, u64)>,
    /// The content of each (node, term, generation) that was ever in force.
    contents: BTreeMap<(NodeId, u64, u64), String>,
}

impl Witness {
    /// Checks what must hold after every event, of an agent that did something.
    pub(super) fn check(&mut self, agent: &SimAgent, fleet: &Fleet) -> Result<(), String> {
        let node = &agent.identity.node;
        if let Some(pod) = agent.machine.doubled() {
            return Err(format!("{node}: {pod} was started beside itself"));
        }
        check_resources(agent)?;
        check_stops(agent, fleet)?;
        let Some(status) = agent.status() else { return Ok(()) };
        let observed = &status.node_status;
        let version = (observed.observed_term, observed.observed_generation);
        let highest = self.accepted.entry(node.clone()).or_default();
        // (0, 0): the store was lost and nothing is accepted yet; the ledger keeps the fence.
        if version == (0, 0) {
            return Ok(());
        }
        // What an older store holds, or a damaged one, is kept and not in force: all of it comes again.
        let whole = !observed.conditions.iter().any(|c| c.kind == "DesiredStateWhole");
        if !whole {
            return Ok(());
        }
        if version < *highest {
            return Err(format!(
                "{node}: the accepted version fell from {highest:?} to {version:?}"
            ));
        }
        *highest = version;
        let key = (node.clone(), version.0, version.1);
        let digest = status.sync.desired_digest.clone();
        let known = self.contents.entry(key).or_insert_with(|| digest.clone());
        if *known != digest {
            return Err(format!("{node}: {version:?} had content {known} and then {digest}"));
        }
        Ok(())
    }
}

/// A pod that runs is stopped only because the fleet no longer wants it as it is, because one of
/// higher priority may need its place, or because its GPU is gone or broken; and never while the node
/// does not know what it should run. Probes do not fail here.
fn check_stops(agent: &SimAgent, fleet: &Fleet) -> Result<(), String> {
    let stops = agent.machine.take_stops();
    let (Some(core), Some(status)) = (&agent.core, agent.status()) else { return Ok(()) };
    let node = &agent.identity.node;
    let blind = status.node_status.conditions.iter().any(|c| c.kind == "DesiredStateWhole");
    for Stopped { pod, revision, gpus } in stops {
        if blind {
            return Err(format!("{node}: {pod} was stopped by a node that lost its desired state"));
        }
        let Some(priority) = fleet.priority_of(&pod, revision) else { continue };
        let outranked = core.workloads().values().any(|other| other.priority > priority);
        let broken = gpus.iter().any(|gpu| !agent.gpu_is_healthy(gpu));
        if !outranked && !broken {
            return Err(format!("{node}: {pod} was stopped, and the fleet wants it as it was"));
        }
    }
    Ok(())
}

/// An exclusive GPU has one holder; what shares of a GPU are sold together is its memory at most; and
/// what pods ask for of the cores is what the node has at most.
fn check_resources(agent: &SimAgent) -> Result<(), String> {
    let node = &agent.identity.node;
    let running = agent.machine.running();
    if running.len() as u64 * POD_MILLICORES > NODE_MILLICORES {
        return Err(format!("{node}: {} pods run, and have no cores for it", running.len()));
    }
    let mut sold: BTreeMap<&str, u64> = BTreeMap::new();
    for (pod, held) in &running {
        for gpu in &held.gpus {
            // A whole GPU is all of its memory; its other holder, if any, has a part of it or all.
            let bytes = held.gpu_memory_bytes.unwrap_or(GPU_MEMORY_BYTES);
            let sold = sold.entry(gpu).or_default();
            *sold += bytes;
            if *sold > GPU_MEMORY_BYTES {
                return Err(format!(
                    "{node}: {gpu} is oversold: {pod} has {bytes} of {sold} bytes"
                ));
            }
        }
    }
    Ok(())
}

/// Whether nothing is left to do: digests agree, logs are drained, what runs is what should.
///
/// # Errors
/// What is not at rest yet.
pub(super) fn at_rest(agents: &[SimAgent], hub: &SimHub) -> Result<(), String> {
    let hub = hub.core.as_ref().ok_or("the hub does not run")?;
    agents.iter().try_for_each(|agent| agent_at_rest(agent, hub))
}

fn agent_at_rest(agent: &SimAgent, hub: &hub::core::HubCore) -> Result<(), String> {
    let node = &agent.identity.node;
    let status = agent.status().ok_or_else(|| format!("{node}: the agent does not run"))?;
    let view = hub.node_view(node).ok_or_else(|| format!("{node}: unknown to the hub"))?;
    if !view.in_sync {
        return Err(format!("{node}: the hub does not know that it has its desired state"));
    }
    let desired = hub.desired_digest(node).unwrap_or_default();
    let has = &status.sync.desired_digest;
    if desired.to_string() != *has {
        return Err(format!("{node}: desired state is {has} there and {desired} here"));
    }
    if !status.sync.reported_in_sync || view.pods != status.pods {
        return Err(format!("{node}: reported state differs"));
    }
    let outbox = &status.outbox;
    let waiting = (outbox.event_records, outbox.telemetry_records, outbox.result_records);
    if waiting != (0, 0, 0) {
        let (events, telemetry, results) = waiting;
        return Err(format!(
            "{node}: {events} records of events, {telemetry} of telemetry and {results} of results \
             are not delivered"
        ));
    }
    check_pods(agent, &status)
}

fn check_pods(agent: &SimAgent, status: &edge_agent::core::AgentStatus) -> Result<(), String> {
    let node = &agent.identity.node;
    let running = agent.machine.running();
    for pod in &status.pods {
        let runs = running.iter().any(|(id, run)| *id == pod.pod && run.revision == pod.revision);
        let told = pod.phase == shared::model::PodPhase::Running;
        if runs != told {
            return Err(format!("{node}: {} is told as {:?} and runs: {runs}", pod.pod, pod.phase));
        }
        let rests =
            told || (pod.phase == shared::model::PodPhase::Pending && !pod.reason.is_empty());
        if !rests {
            return Err(format!("{node}: {} is {:?}", pod.pod, pod.phase));
        }
    }
    for (pod, ..) in &running {
        if !status.pods.iter().any(|known| known.pod == *pod) {
            return Err(format!("{node}: {pod} runs and nobody knows it"));
        }
    }
    Ok(())
}
