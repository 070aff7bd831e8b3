//! What the HTTP API and the commands over it show.

use super::{HubCore, NodeState, corrected_time};
use crate::fleet::WorkloadSummary;
use crate::fleet::rollout::RolloutPhase;
use crate::manifests::{DRAIN_TAINT, EdgeNode, InferenceWorkload};
use serde::{Deserialize, Serialize};
use shared::model::{
    NodeEvent, NodeId, NodeStatus, PodId, PodStatus, Revision, SinkId, UnixMs, Workload,
    WorkloadKey,
};
use shared::telemetry::Sample;
use shared::wire::{Digest, Stream};
use std::collections::BTreeMap;

/// The hub itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubView {
    /// The term that it leads with.
    pub term: u64,
    /// Enrolled nodes.
    pub nodes: u64,
    /// Nodes in session.
    pub nodes_online: u64,
    /// Workloads in the manifests.
    pub workloads: u64,
    /// Whether valid manifests were read since the hub started. Until then no node is told anything.
    pub has_manifests: bool,
    /// Payloads that were not genuine or not decodable since the hub started.
    pub refused_payloads: u64,
    /// Why the store can't be written; `None` when it can.
    pub store_error: Option<String>,
    /// Sinks that nodes have results for and this hub was not configured with.
    #[serde(default)]
    pub missing_sinks: Vec<MissingSink>,
    /// Batches that were not taken, since too much waited for their sink already; their nodes repeat
    /// them.
    #[serde(default)]
    pub crowded_out_batches: u64,
}

/// A sink that nodes have results for and this hub was not configured with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingSink {
    /// Its number, in eight hexadecimal digits: nodes do not send the name.
    pub sink: String,
    /// Nodes that have results for it.
    pub nodes: u64,
}

/// Records that wait at the hub until their sink takes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingLog {
    /// `telemetry`, `backfill`, or `results` with the sink's number.
    pub stream: String,
    /// How many.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// `Online`, `Offline`, `NeverSeen`, `Denied` or `Revoked`.
    pub state: String,
    /// Why it is denied, in words; empty where it is not.
    #[serde(default)]
    pub kept_out: String,
    /// Its key for sessions, in hexadecimal.
    #[serde(default)]
    pub session_key: String,
    /// When something genuine was last heard of it, as of the last commit.
    pub last_seen: Option<UnixMs>,
    /// The agent's version, as it greeted.
    pub agent_version: String,
    /// As the node reports itself.
    pub status: Option<NodeStatus>,
    /// The (term, generation) that it should run, as `term.generation`.
    pub desired_version: String,
    /// Whether it is known to have what it should run.
    pub in_sync: bool,
    /// Pods as the node reports them.
    pub pods: Vec<PodStatus>,
    /// Workloads that are assigned to it.
    pub workloads: Vec<String>,
    /// The newest events, with their true times as far as these are known.
    pub events: Vec<NodeEvent>,
    /// Samples of telemetry that were taken over.
    pub samples_received: u64,
    /// Events that were taken over.
    pub events_received: u64,
    /// Records that the node no longer had when their turn came.
    pub records_lost: u64,
    /// Results that their sinks have.
    #[serde(default)]
    pub results_received: u64,
    /// What waits at the hub for a sink.
    #[serde(default)]
    pub waiting: Vec<WaitingLog>,
    /// Sinks that it has results for and this hub was not configured with, by number.
    #[serde(default)]
    pub missing_sinks: Vec<String>,
    /// `Cordoned` or `Draining`; empty where new pods may come.
    #[serde(default)]
    pub scheduling: String,
}

/// One node in short: a list of thousands must stay small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// Its name.
    pub node: String,
    /// `Online`, `Offline`, `NeverSeen` or `Revoked`.
    pub state: String,
    /// When something genuine was last heard of it, as of the last commit.
    pub last_seen: Option<UnixMs>,
    /// The agent's version, as it greeted.
    pub agent_version: String,
    /// The (term, generation) that it should run, as `term.generation`.
    pub desired_version: String,
    /// Whether it is known to have what it should run.
    pub in_sync: bool,
    /// Workloads that are assigned to it.
    pub workloads: u64,
    /// Pods that it reports.
    pub pods: u64,
    /// Of those, pods that are ready.
    pub pods_ready: u64,
    /// `Cordoned` or `Draining`; empty where new pods may come.
    #[serde(default)]
    pub scheduling: String,
}

/// One pod of one node, with the reason why it is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodView {
    /// Its node.
    pub node: String,
    /// As the node reports it.
    pub status: PodStatus,
    /// What the hub adds: whether the report is fresh, and whether the node should run it.
    pub remarks: Vec<String>,
}

/// One workload over the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkloadView {
    /// `namespace/name`.
    pub workload: String,
    /// Pods that it asks for.
    pub desired: u32,
    /// Pods that are assigned to nodes.
    pub assigned: u32,
    /// Pods that nodes run beyond the fewest, by its autoscaling.
    #[serde(default)]
    pub autoscaled: u32,
    /// Assigned pods that are ready, as reported.
    pub ready: u32,
    /// Assigned pods of the present template, as reported.
    #[serde(default)]
    pub updated: u32,
    /// Assigned pods on nodes that are offline.
    #[serde(default)]
    pub assigned_offline: u32,
    /// Ready pods on nodes that are online.
    #[serde(default)]
    pub ready_online: u32,
    /// Assigned pods of the present template on nodes that are online.
    #[serde(default)]
    pub updated_online: u32,
    /// Nodes that it is assigned to.
    pub nodes: u32,
    /// Of those, nodes that are offline.
    pub nodes_offline: u32,
    /// Of those, nodes that have not been in session since the hub's start.
    #[serde(default)]
    pub nodes_unheard: u32,
    /// Why nodes were not chosen, the commonest reasons first, with the number of nodes.
    pub reasons: Vec<(String, u32)>,
    /// How far a new template is; `None` while all nodes have the same.
    #[serde(default)]
    pub rollout: Option<RolloutView>,
}

/// A new template on its way to the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutView {
    /// `Progressing`, `Paused`, `Failed` or `RolledBack`.
    pub phase: String,
    /// The wave that is under way, from 1.
    pub wave: u32,
    /// How many there are.
    pub waves: u32,
    /// Nodes up to this one, in the order of names, have the new template; none while it is empty.
    pub through: String,
    /// The new template.
    pub target: String,
    /// The one that all other nodes run.
    pub stable: String,
    /// What went wrong.
    pub message: String,
}

impl WorkloadView {
    /// Adds the pods that `node` should run of it, whose present template is `revision`.
    fn count(&mut self, node: &NodeState, workload: &Workload, revision: Revision) {
        let online = node.is_online();
        self.nodes += 1;
        self.nodes_offline += u32::from(!online);
        self.nodes_unheard += u32::from(!online && !node.heard);
        self.assigned_offline += if online { 0 } else { workload.replicas };
        for pod in workload.pods().filter_map(|pod| node.pods.get(&pod.to_string())) {
            self.ready += u32::from(pod.ready);
            self.ready_online += u32::from(pod.ready && online);
            self.updated += u32::from(pod.revision == revision);
            self.updated_online += u32::from(pod.revision == revision && online);
        }
        if workload.autoscaling.is_some() {
            let is_beyond = |pod: &&PodStatus| {
                pod.pod.ordinal >= workload.replicas && pod.pod.workload == workload.key
            };
            let run = node.pods.values().filter(is_beyond).count();
            self.autoscaled += u32::try_from(run).unwrap_or(u32::MAX);
        }
    }
}

impl HubCore {
    /// The hub itself.
    #[must_use]
    pub fn view(&self) -> HubView {
        HubView {
            term: self.term,
            nodes: self.nodes.len() as u64,
            nodes_online: self.nodes.values().filter(|node| node.is_online()).count() as u64,
            workloads: self.manifests.as_ref().map_or(0, |read| read.workloads.len() as u64),
            has_manifests: self.manifests.is_some(),
            refused_payloads: self.refused_payloads,
            store_error: self.commit.error().map(str::to_owned),
            missing_sinks: self.missing_sinks(),
            crowded_out_batches: self.crowded_out_batches,
        }
    }

    fn missing_sinks(&self) -> Vec<MissingSink> {
        let mut nodes: BTreeMap<SinkId, u64> = BTreeMap::new();
        for sink in self.nodes.values().flat_map(|node| &node.missing_sinks) {
            *nodes.entry(*sink).or_default() += 1;
        }
        let view = |(sink, nodes)| MissingSink { sink: sink_number(sink), nodes };
        nodes.into_iter().map(view).collect()
    }

    /// Every node in short, by name; copies nothing of what nodes report.
    pub fn node_summaries(&self) -> impl Iterator<Item = NodeSummary> + '_ {
        self.nodes.iter().map(|(id, node)| NodeSummary {
            scheduling: self.scheduling_word(id).to_owned(),
            ..summary_of(id, node)
        })
    }

    /// Nodes in session, by name.
    pub fn nodes_online(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.iter().filter(|(_, node)| node.is_online()).map(|(id, _)| id)
    }

    /// One node.
    #[must_use]
    pub fn node_view(&self, node: &NodeId) -> Option<NodeView> {
        self.nodes.get(node).map(|state| self.view_of(node, state))
    }

    /// The digest of what `node` should run.
    #[must_use]
    pub fn desired_digest(&self, node: &NodeId) -> Option<Digest> {
        self.nodes.get(node).map(|state| state.desired.content().digest())
    }

    fn view_of(&self, id: &NodeId, node: &NodeState) -> NodeView {
        NodeView {
            node: id.to_string(),
            state: state_word(node).to_owned(),
            kept_out: node.kept_out.unwrap_or_default().to_owned(),
            session_key: node.record.session_key.to_string(),
            last_seen: node.record.last_seen,
            agent_version: node.agent_version.clone(),
            status: node.status.clone(),
            desired_version: node.desired.position().version.to_string(),
            in_sync: node.desired.is_in_sync(),
            pods: node.pods.values().cloned().collect(),
            workloads: workloads_of(node).cloned().collect(),
            events: node.events.iter().map(|event| at_its_time(event, node)).collect(),
            samples_received: node.record.samples_received,
            events_received: node.record.events_received,
            records_lost: node.record.records_lost,
            results_received: node.record.results_received,
            waiting: waiting_of(node),
            missing_sinks: node.missing_sinks.iter().map(|sink| sink_number(*sink)).collect(),
            scheduling: self.scheduling_word(id).to_owned(),
        }
    }

    fn scheduling_word(&self, node: &NodeId) -> &'static str {
        let said = self.manifests.as_ref().and_then(|manifests| manifests.nodes.get(node));
        said.map_or("", EdgeNode::scheduling_word)
    }

    /// What a person should know of a node to which nothing new comes.
    fn scheduling_remark(&self, node: &NodeId) -> Option<String> {
        match self.scheduling_word(node) {
            "" => None,
            "Cordoned" => {
                Some("the node is cordoned: what it has stays, nothing new comes".to_owned())
            }
            _ => Some(format!("the node is being drained: only what bears `{DRAIN_TAINT}` stays")),
        }
    }

    /// One pod, and why it is as it is.
    ///
    /// # Errors
    /// A sentence when there is no such node or no such pod.
    pub fn why(&self, node: &NodeId, pod: &PodId) -> Result<PodView, String> {
        let state = self.nodes.get(node).ok_or_else(|| format!("there is no node `{node}`"))?;
        let assigned = state.desired.content().items().contains_key(&pod.workload.to_string());
        let Some(status) = state.pods.get(&pod.to_string()) else {
            return Err(self.why_absent(node, state, &pod.workload, assigned));
        };
        let mut remarks = Vec::new();
        if !state.is_online() {
            remarks.push("the node is offline: this is what it said last".to_owned());
        }
        if !assigned {
            remarks.push("the node should no longer run it".to_owned());
        } else if !state.desired.is_in_sync() {
            remarks.push("the node does not have its newest desired state yet".to_owned());
        }
        remarks.extend(self.scheduling_remark(node));
        Ok(PodView { node: node.to_string(), status: status.clone(), remarks })
    }

    fn why_absent(
        &self,
        node: &NodeId,
        state: &NodeState,
        workload: &WorkloadKey,
        assigned: bool,
    ) -> String {
        if assigned && !state.is_online() {
            return format!("assigned to `{node}`, which is offline and has not reported it");
        }
        if assigned {
            return format!("assigned to `{node}`, which has not reported it yet");
        }
        match self.assignment.workloads.get(workload) {
            None => format!("no manifest has a workload `{workload}`"),
            Some(summary) => {
                let reasons = summary.reasons.iter().map(|(why, count)| format!("{count} {why}"));
                let reasons = reasons.collect::<Vec<_>>().join(", ");
                let remark = self.scheduling_remark(node).map(|remark| format!("{remark}; "));
                let remark = remark.unwrap_or_default();
                format!(
                    "`{workload}` is not assigned to `{node}`: {remark}nodes not chosen: {reasons}"
                )
            }
        }
    }

    /// Every workload, by name.
    pub fn workload_views(&self) -> impl Iterator<Item = WorkloadView> + use<> {
        let written = |key: &WorkloadKey| self.manifests.as_ref()?.workloads.get(key);
        let view = |(key, summary): (&WorkloadKey, &WorkloadSummary)| {
            let view = WorkloadView {
                workload: key.to_string(),
                desired: summary.desired,
                assigned: summary.assigned,
                reasons: summary.reasons.clone(),
                rollout: written(key).and_then(|workload| self.rollout_view(workload)),
                ..WorkloadView::default()
            };
            (key.clone(), view)
        };
        let mut views: BTreeMap<_, _> = self.assignment.workloads.iter().map(view).collect();
        for (node, workloads) in &self.assignment.per_node {
            let Some(node) = self.nodes.get(node) else { continue };
            for workload in workloads.values() {
                if let Some(view) = views.get_mut(&workload.key) {
                    let written = written(&workload.key);
                    let revision = written.map_or(workload.revision, |written| written.revision);
                    view.count(node, workload, revision);
                }
            }
        }
        views.into_values()
    }

    fn rollout_view(&self, workload: &InferenceWorkload) -> Option<RolloutView> {
        let (state, stable) = self.rollouts.of(workload)?;
        let policy = workload.rollout.as_ref()?;
        let paused = policy.paused && state.phase == RolloutPhase::Progressing;
        Some(RolloutView {
            phase: if paused { "Paused" } else { state.phase.name() }.to_owned(),
            wave: state.wave.saturating_add(1),
            waves: policy.wave_count(),
            through: state.through.as_ref().map(NodeId::to_string).unwrap_or_default(),
            target: state.target.to_string(),
            stable: stable.to_string(),
            message: state.message.clone(),
        })
    }

    /// Nodes that have not confirmed that nothing of a workload is left there, and how many of them are
    /// offline. What is revoked confirms nothing.
    #[must_use]
    pub fn holders_of(&self, workload: &WorkloadKey) -> (u32, u32) {
        let name = workload.to_string();
        let trusted = self.nodes.values().filter(|node| node.is_trusted());
        let holders = trusted.filter(|node| {
            node.desired.peer_may_hold(&name)
                || node.pods.values().any(|status| status.pod.workload == *workload)
        });
        holders
            .fold((0, 0), |(all, offline), node| (all + 1, offline + u32::from(!node.is_online())))
    }

    /// The newest sample of each node's telemetry.
    pub fn latest_samples(&self) -> impl Iterator<Item = (&NodeId, &Sample)> {
        self.nodes.iter().filter_map(|(id, node)| Some((id, node.latest.as_ref()?)))
    }
}

/// A sink's number as people see it.
pub(crate) fn sink_number(sink: SinkId) -> String {
    format!("{:08x}", sink.0)
}

fn waiting_of(node: &NodeState) -> Vec<WaitingLog> {
    let view = |log: &shared::wire::LogId| {
        let weight = node.held.weight(log);
        let stream = match log.stream {
            Stream::Results(sink) => format!("results {}", sink_number(sink)),
            other => format!("{other:?}").to_lowercase(),
        };
        WaitingLog { stream, records: weight.records, bytes: weight.bytes }
    };
    node.held.logs().map(view).collect()
}

/// The keys of its desired state that are workloads': the others have another number of slashes.
fn workloads_of(node: &NodeState) -> impl Iterator<Item = &String> {
    let items = node.desired.content().items();
    items.keys().filter(|key| key.matches('/').count() == 1)
}

fn summary_of(id: &NodeId, node: &NodeState) -> NodeSummary {
    NodeSummary {
        node: id.to_string(),
        state: state_word(node).to_owned(),
        last_seen: node.record.last_seen,
        agent_version: node.agent_version.clone(),
        desired_version: node.desired.position().version.to_string(),
        in_sync: node.desired.is_in_sync(),
        workloads: workloads_of(node).count() as u64,
        pods: node.pods.len() as u64,
        pods_ready: node.pods.values().filter(|pod| pod.ready).count() as u64,
        scheduling: String::new(),
    }
}

fn at_its_time(event: &NodeEvent, node: &NodeState) -> NodeEvent {
    let at = corrected_time(event.at, event.stamp(), &node.clocks).at;
    NodeEvent { at, ..event.clone() }
}

fn state_word(node: &NodeState) -> &'static str {
    if node.record.revoked {
        "Revoked"
    } else if node.kept_out.is_some() {
        "Denied"
    } else if node.greeted {
        "Online"
    } else if node.record.last_seen.is_some() {
        "Offline"
    } else {
        "NeverSeen"
    }
}
