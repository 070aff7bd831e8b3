//! What runs where.
//!
//! Pure and deterministic: the same manifests and nodes give the same assignment, and an assignment
//! that is given back as what the nodes hold gives itself. A node that is offline is offline, not
//! dead: what it holds stays assigned to it.
//!
//! Workloads are decided in the order of their priorities. First all of them keep what they hold;
//! only then are new replicas given out, so that none of them is displaced by one that could go
//! elsewhere. Does not look at GPUs, CPU or memory: whether a pod fits its node is for the node to
//! decide, and to say.
//!
//! | file | what it holds |
//! |---|---|
//! | `affinity` | whether a node's labels match a workload's terms |
//! | `eligibility` | whether a node may run a workload, and why not |
//! | `parameters` | what each node, or member cluster, has of its own |
//! | `plan` | one workload over all nodes |
//! | `room` | what one node can be told and can report |
//! | `rollout` | a workload's way from one template to the next |

mod affinity;
mod eligibility;
mod parameters;
mod plan;
pub mod rollout;
mod room;
#[cfg(test)]
mod tests;

pub(crate) use parameters::{Parameters, parameters_in_cluster};
pub use plan::REASONS_MAX;
pub use room::{NODE_BYTES_MAX, NODE_PODS_MAX};

use crate::manifests::{EdgeNode, InferenceWorkload, Manifests};
use plan::Plan;
use room::Room;
use shared::model::{NodeId, PodTemplate, Revision, Workload, WorkloadKey};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node, as far as the assignment looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetNode {
    /// Whether it is in session.
    pub online: bool,
    /// Milliseconds since it was in session, as far as this hub knows; 0 while it is.
    pub offline_ms: u64,
    /// Pods that it holds now, by workload: they stay where they can. Nothing for a node that has
    /// never been in session, since nothing can run there yet.
    pub previous: BTreeMap<WorkloadKey, u32>,
}

/// What runs where, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// What each node should run; a node that should run nothing may be left out. Nodes that are
    /// told the same share it: 100 workloads on 10 000 nodes are a million entries.
    pub per_node: BTreeMap<NodeId, BTreeMap<WorkloadKey, Arc<Workload>>>,
    /// Each workload over the fleet.
    pub workloads: BTreeMap<WorkloadKey, WorkloadSummary>,
    /// By workload, what nodes hold that can't be concluded from the manifests.
    pub kept: BTreeMap<WorkloadKey, BTreeMap<NodeId, u32>>,
    /// In so many milliseconds it may come out otherwise, though nothing has changed but the time.
    pub look_again_in_ms: Option<u64>,
}

/// One workload over the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkloadSummary {
    /// Pods that it asks for.
    pub desired: u32,
    /// Pods that are assigned to nodes.
    pub assigned: u32,
    /// Why nodes were not chosen, the commonest first, with the number of nodes; at most
    /// [`REASONS_MAX`], the last of which stands for all others where there are more.
    pub reasons: Vec<(String, u32)>,
}

/// A template that some nodes still run while its workload has another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OlderTemplate {
    /// Its name.
    pub revision: Revision,
    /// Its content.
    pub template: PodTemplate,
    /// Nodes up to this one, in the order of names, run the workload's own; none when there is none.
    pub through: Option<NodeId>,
}

impl OlderTemplate {
    fn is_for(&self, node: &NodeId) -> bool {
        self.through.as_ref().is_none_or(|through| node > through)
    }
}

/// Workloads that have two templates at present.
pub type OlderTemplates = BTreeMap<WorkloadKey, OlderTemplate>;

/// Decides for all workloads at once.
#[must_use]
pub fn assign(
    manifests: &Manifests,
    nodes: &BTreeMap<NodeId, FleetNode>,
    older: &OlderTemplates,
) -> Assignment {
    let sites = sites(manifests, nodes);
    let mut rooms = vec![Room::default(); sites.len()];
    let mut plans: Vec<Plan<'_>> = in_order(manifests)
        .into_iter()
        .map(|workload| {
            let older = older.get(&workload.key);
            Plan::of_what_is_held(workload, older, &manifests.objects, &sites, &mut rooms)
        })
        .collect();
    plans.iter_mut().for_each(|plan| plan.give_out(&mut rooms));
    let mut assignment = Assignment::default();
    let mut per_site = vec![BTreeMap::new(); sites.len()];
    for plan in &plans {
        plan.write(&sites, &mut per_site);
        let key = &plan.workload.key;
        assignment.workloads.insert(key.clone(), plan.summary());
        assignment.kept.insert(key.clone(), plan.kept(&sites));
        let sooner = assignment.look_again_in_ms.into_iter().chain(plan.look_again_in_ms()).min();
        assignment.look_again_in_ms = sooner;
    }
    let written = sites.iter().zip(per_site).filter(|(_, workloads)| !workloads.is_empty());
    assignment.per_node = written.map(|(site, workloads)| (site.id.clone(), workloads)).collect();
    assignment
}

/// A node with what manifests say of it.
struct Site<'a> {
    id: &'a NodeId,
    node: &'a FleetNode,
    said: Option<&'a EdgeNode>,
}

fn sites<'a>(manifests: &'a Manifests, nodes: &'a BTreeMap<NodeId, FleetNode>) -> Vec<Site<'a>> {
    let said = |id| manifests.nodes.get(id);
    nodes.iter().map(|(id, node)| Site { id, node, said: said(id) }).collect()
}

/// Those for edge nodes, the highest priority first; the order of names among equals.
fn in_order(manifests: &Manifests) -> Vec<&InferenceWorkload> {
    let mut workloads: Vec<_> = manifests
        .workloads
        .values()
        .filter(|workload| workload.cluster_selector.is_none())
        .collect();
    workloads.sort_by_key(|workload| Reverse(workload.priority));
    workloads
}
