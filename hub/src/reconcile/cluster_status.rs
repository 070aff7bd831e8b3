//! What the hub says of member clusters, and of workloads in them.

use super::objects::{ObjectKey, Verdict};
use super::status::{Aspect, acceptance, conditions};
use crate::api::{ClusterCounts, EdgeClusterStatus, InferenceWorkloadStatus};
use crate::members::{MemberReport, MemberWorkload};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use shared::model::{ConditionStatus, WorkloadKey};
use std::collections::BTreeMap;

/// Clusters that are named in a message.
const NAMED_MAX: usize = 3;

/// The clusters of a workload, and what is known of each.
pub(super) struct InClusters<'a> {
    /// Pods that it asks for in each, and their names.
    pub(super) clusters: (u32, Vec<&'a str>),
    pub(super) reports: &'a BTreeMap<String, MemberReport>,
}

/// The status of an `EdgeCluster`.
pub(super) fn cluster_status(
    report: Option<&MemberReport>,
    verdict: &Verdict,
    before: &Value,
    now: &Time,
) -> EdgeClusterStatus {
    let facts = report.and_then(|report| report.facts.as_ref().ok());
    let earlier = serde_json::from_value::<EdgeClusterStatus>(before.clone()).unwrap_or_default();
    let aspects = vec![readiness(report), acceptance(verdict)];
    let workloads = report.map_or(earlier.workloads, |report| count(report.workloads.len()));
    // What is not reached is what it was.
    let (version, nodes, gpus) = match facts {
        Some(facts) => (facts.version.clone(), facts.nodes, facts.gpus),
        None => (earlier.version, earlier.nodes, earlier.gpus),
    };
    EdgeClusterStatus {
        observed_generation: Some(verdict.generation),
        conditions: conditions(aspects, before, verdict.generation, now),
        version,
        nodes,
        gpus,
        workloads,
    }
}

fn readiness(report: Option<&MemberReport>) -> Aspect {
    let ready =
        |status, reason: &str, message: String| Aspect::new("Ready", status, reason, message);
    match report.map(|report| (report.facts.as_ref(), report)) {
        None => ready(ConditionStatus::Unknown, "Connecting", "not heard of yet".to_owned()),
        Some((Err((reason, message)), _)) => {
            ready(ConditionStatus::Unknown, reason, format!("{message}; what runs there goes on"))
        }
        Some((Ok(_), report)) => {
            let problem = report.workloads.iter().find_map(|(key, workload)| {
                workload.problem.as_ref().map(|problem| format!("{key}: {problem}"))
            });
            match problem {
                Some(problem) => ready(ConditionStatus::False, "NotApplied", problem),
                None => {
                    let message = format!("it has all of {} workloads", report.workloads.len());
                    ready(ConditionStatus::True, "InSync", message)
                }
            }
        }
    }
}

/// The status of a workload with a `clusterSelector`.
pub(super) fn workload_in_clusters(
    found: &InClusters<'_>,
    key: &ObjectKey,
    verdict: &Verdict,
    before: &Value,
    now: &Time,
) -> InferenceWorkloadStatus {
    let (wanted, clusters) = &found.clusters;
    let key = WorkloadKey::new(&key.namespace, &key.name).ok();
    let known: Vec<(&str, &MemberReport, Option<&MemberWorkload>)> = clusters
        .iter()
        .filter_map(|cluster| {
            let report = found.reports.get(*cluster)?;
            Some((*cluster, report, report.workloads.get(key.as_ref()?)))
        })
        .collect();
    let there = || known.iter().filter_map(|(_, _, workload)| *workload);
    let sum = |of: fn(&MemberWorkload) -> u32| there().map(of).fold(0, u32::saturating_add);
    let reached = known.iter().filter(|(_, report, _)| report.facts.is_ok());
    let ready = reached.clone().filter(|(_, _, found)| found.is_some_and(MemberWorkload::is_ready));
    let counts = ClusterCounts {
        selected: count(clusters.len()),
        ready: count(ready.count()),
        unreachable: count(known.len() - reached.clone().count()),
    };
    let problems = reached.filter_map(|(cluster, _, workload)| {
        Some(format!("{cluster}: {}", workload.as_ref()?.problem.as_ref()?))
    });
    let aspect = in_clusters(&counts, problems.collect());
    let desired = wanted.saturating_mul(counts.selected);
    let assigned = sum(|workload| workload.wanted);
    InferenceWorkloadStatus {
        observed_generation: Some(verdict.generation),
        conditions: conditions(vec![acceptance(verdict), aspect], before, verdict.generation, now),
        desired,
        assigned,
        ready: sum(|workload| workload.ready),
        autoscaled: 0,
        updated: sum(|workload| workload.updated),
        offline: 0,
        unschedulable: desired.saturating_sub(assigned),
        unchosen: vec![],
        clusters: Some(counts),
        rollout: None,
        selector: String::new(),
    }
}

fn in_clusters(counts: &ClusterCounts, problems: Vec<String>) -> Aspect {
    let ready = |status, reason, message: String| Aspect::new("Ready", status, reason, message);
    let ClusterCounts { selected, ready: whole, unreachable } = counts;
    let message = format!("ready in {whole} of {selected} member clusters");
    let away =
        if *unreachable > 0 { format!(", {unreachable} are not reached") } else { String::new() };
    if !problems.is_empty() {
        let others = problems.len().saturating_sub(NAMED_MAX);
        let named = problems.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join("; ");
        let more = if others > 0 { format!("; and {others} more") } else { String::new() };
        let message = format!("{message}{away}: {named}{more}");
        return ready(ConditionStatus::False, "NotApplied", message);
    }
    let message = format!("{message}{away}");
    match (*selected, whole + unreachable == *selected, *unreachable) {
        (0, _, _) => {
            let message = "no member cluster has these labels".to_owned();
            ready(ConditionStatus::False, "NoClusters", message)
        }
        (_, true, 0) => ready(ConditionStatus::True, "AllReady", message),
        // One that is not reached is not dead, as with nodes.
        (_, true, _) => ready(ConditionStatus::True, "ClustersUnreachable", message),
        (_, false, _) => ready(ConditionStatus::False, "Progressing", message),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
