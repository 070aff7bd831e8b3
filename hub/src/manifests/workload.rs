//! What an `InferenceWorkload` may say: a pod template, where it goes, and how many.
//!
//! A template outside the subset is refused here, with the field's path, and never run in part.

use super::affinity::check_affinity;
use super::autoscaling::{autoscaling_of, check_autoscaling};
use super::gpu::take_gpu;
use super::labels::{Invalid, check_annotations, check_labels, check_tolerations};
use super::models::{said_at, take_models};
use super::offline::offline_policy_of;
use super::parameters::parameters_of;
use super::ports::number_ports;
use super::results::routes_of;
use super::rollout::policy_of;
use super::yaml::{self, Refusal, below};
use super::{InferenceWorkload, Replicas};
use crate::api::{InferenceWorkloadSpec, PlacementSpec};
use serde::Deserialize;
use serde::de::IgnoredAny;
use shared::limits::{MAP_ITEM_BYTES_MAX, MAP_ITEMS_MAX, REPLICAS_PER_NODE_MAX};
use shared::model::{
    NodeId, PlacedContainer, PodTemplate, RestartPolicy, Revision, Workload, WorkloadKey,
};
use shared::wire::{Digest, EncodeError, encode};
use std::collections::BTreeMap;

/// Workloads of all files: one node may be assigned all of them, and its map holds no more.
pub const WORKLOADS_MAX: usize = MAP_ITEMS_MAX;

/// Pods of one workload over the fleet: ten on each of 10 000 nodes.
pub const FLEET_REPLICAS_MAX: u32 = 100_000;

/// The highest priority that a PriorityClass of users may have.
const CLUSTER_PRIORITY_MAX: i32 = 1_000_000_000;

const DEFAULT_NAMESPACE: &str = "default";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WorkloadDocument {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: NamespacedMetadata,
    spec: InferenceWorkloadSpec,
}

/// What a document of a kind that belongs to a namespace says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NamespacedMetadata {
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: Option<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// Reads one document of this kind.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read(text: &str) -> Result<InferenceWorkload, Refusal> {
    let WorkloadDocument { metadata, spec, .. } = yaml::read(text)?;
    let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let (labels, annotations) = (&metadata.labels, &metadata.annotations);
    let built = inference_workload(namespace, &metadata.name, labels, annotations, spec);
    built.map_err(|(path, problem)| {
        let line = yaml::line_of(text, &path).unwrap_or(0);
        Refusal { line, path, problem }
    })
}

/// The name of a template's content: the first eight bytes of SHA-256 over its packed CBOR.
pub(super) fn revision_of(template: &PodTemplate) -> Result<Revision, EncodeError> {
    let Digest([a, b, c, d, e, f, g, h, ..]) = Digest::of(&encode("pod template", template)?);
    Ok(Revision(u64::from_be_bytes([a, b, c, d, e, f, g, h])))
}

/// The workload that an object or a document describes.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn inference_workload(
    namespace: &str,
    name: &str,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    spec: InferenceWorkloadSpec,
) -> Result<InferenceWorkload, Invalid> {
    let InferenceWorkloadSpec {
        placement,
        priority,
        mut template,
        gpu,
        models,
        autoscaling,
        results,
        rollout,
        offline_policy,
        parameters_from,
    } = spec;
    let key = key_of(namespace, name)?;
    check_labels("metadata.labels", labels)?;
    check_annotations("metadata.annotations", annotations)?;
    check_labels("spec.placement.nodeSelector", &placement.node_selector)?;
    if let Some(selector) = &placement.cluster_selector {
        check_labels("spec.placement.clusterSelector", selector)?;
    }
    check_tolerations("spec.placement.tolerations", &placement.tolerations)?;
    placement.affinity.as_ref().map_or(Ok(()), check_affinity)?;
    let replicas = match &autoscaling {
        // Checked below to be the only one that says it.
        Some(said) if placement.cluster_selector.is_none() => Replicas::PerNode(said.min_replicas),
        _ => replicas_of(&placement)?,
    };
    let is_for_clusters = placement.cluster_selector.is_some();
    let mig = take_gpu(gpu, is_for_clusters, &mut template)?;
    take_models(models, is_for_clusters, &mut template)?;
    number_ports(&mut template)?;
    check_template(&template, is_for_clusters)?;
    check_autoscaling(autoscaling.as_ref(), &placement, &template)?;
    let results = routes_of(results)?;
    let unencodable = |error: EncodeError| ("spec.template".to_owned(), error.to_string());
    let workload = InferenceWorkload {
        key,
        revision: revision_of(&template).map_err(unencodable)?,
        priority,
        replicas,
        node_selector: placement.node_selector,
        tolerations: placement.tolerations,
        template,
        results,
        rollout: rollout.map(policy_of).transpose()?,
        cluster_selector: placement.cluster_selector,
        affinity: placement.affinity,
        offline: offline_policy_of(offline_policy, replicas)?,
        mig,
        autoscaling,
        parameters_from: parameters_of(parameters_from)?,
    };
    check_member_clusters(&workload)?;
    check_size(&workload)?;
    Ok(workload)
}

fn key_of(namespace: &str, name: &str) -> Result<WorkloadKey, Invalid> {
    WorkloadKey::new(DEFAULT_NAMESPACE, name)
        .map_err(|error| ("metadata.name".to_owned(), error.to_string()))?;
    WorkloadKey::new(namespace, name)
        .map_err(|error| ("metadata.namespace".to_owned(), error.to_string()))
}

fn replicas_of(placement: &PlacementSpec) -> Result<Replicas, Invalid> {
    let at = |field: &str| below("spec.placement", field);
    match (placement.replicas_per_node, placement.replicas) {
        (Some(_), Some(_)) => {
            let problem = "expected replicas over the fleet or replicasPerNode, not both";
            Err((at("replicas"), problem.to_owned()))
        }
        (Some(count), None) if count > REPLICAS_PER_NODE_MAX => {
            Err((at("replicasPerNode"), format!("{count} is over {REPLICAS_PER_NODE_MAX}")))
        }
        (None, Some(count)) if count > FLEET_REPLICAS_MAX => {
            Err((at("replicas"), format!("{count} is over {FLEET_REPLICAS_MAX}")))
        }
        (None, Some(count)) => Ok(Replicas::Fleet(count)),
        (count, None) => Ok(Replicas::PerNode(count.unwrap_or(1))),
    }
}

fn check_template(template: &PodTemplate, is_for_clusters: bool) -> Result<(), Invalid> {
    check_labels("spec.template.metadata.labels", &template.metadata.labels)?;
    check_annotations("spec.template.metadata.annotations", &template.metadata.annotations)?;
    let beyond = || if is_for_clusters { Ok(()) } else { template.check_without_cluster() };
    let checked = template.validate().and_then(|()| beyond());
    checked.map_err(|invalid| (said_at(&invalid.path), invalid.problem))?;
    for PlacedContainer { container, path, .. } in template.spec.in_order() {
        let at = format!("spec.template.{path}");
        // Any RFC 1123 label will do; a node's name is one.
        NodeId::new(&container.name).map_err(|error| (below(&at, "name"), error.to_string()))?;
        if let Some(port) = container.ports.iter().position(|port| port.container_port == 0) {
            let problem = "expected a port of 1 to 65535";
            return Err((format!("{at}.ports[{port}].containerPort"), problem.to_owned()));
        }
    }
    Ok(())
}

/// What only edge nodes do is refused where a workload goes to member clusters.
fn check_member_clusters(workload: &InferenceWorkload) -> Result<(), Invalid> {
    if workload.cluster_selector.is_none() {
        return Ok(());
    }
    let refused = |path: &str, problem: &str| Err((path.to_owned(), problem.to_owned()));
    if let Replicas::PerNode(count) = workload.replicas
        && count != 1
    {
        let path = "spec.placement.replicasPerNode";
        return refused(path, "a member cluster places pods itself: expected `replicas`");
    }
    if workload.priority > CLUSTER_PRIORITY_MAX {
        let problem = format!("a member cluster knows none above {CLUSTER_PRIORITY_MAX}");
        return refused("spec.priority", &problem);
    }
    if !workload.results.is_empty() {
        return refused("spec.results", "results are taken from pods on edge nodes only");
    }
    for PlacedContainer { container, path, .. } in workload.template.spec.in_order() {
        let at = format!("spec.template.{path}");
        if container.image.as_ref().is_none_or(String::is_empty) {
            return refused(&below(&at, "image"), "a member cluster needs an image");
        }
        let lists = [&container.resources.limits, &container.resources.requests];
        if lists.iter().any(|list| list.gpu_memory.is_some()) {
            let path = format!("{at}.resources.limits[hinterland.dev/gpu-memory]");
            return refused(
                &path,
                "a member cluster gives out whole GPUs: expected `nvidia.com/gpu`",
            );
        }
    }
    if workload.template.spec.restart_policy != RestartPolicy::Always {
        return refused("spec.template.spec.restartPolicy", "expected Always in a member cluster");
    }
    Ok(())
}

/// What a node is sent must fit one item of its map.
fn check_size(workload: &InferenceWorkload) -> Result<(), Invalid> {
    let sent = Workload {
        key: workload.key.clone(),
        revision: workload.revision,
        replicas: REPLICAS_PER_NODE_MAX,
        priority: workload.priority,
        tolerations: workload.tolerations.clone(),
        template: workload.template.clone(),
        results: workload.results.clone(),
        // What a node has of its own is counted where that is known.
        parameters: BTreeMap::new(),
        autoscaling: workload.autoscaling.as_ref().map(autoscaling_of),
    };
    let refused = |problem| Err(("spec".to_owned(), problem));
    match encode("workload", &sent).map(|bytes| bytes.len()) {
        Ok(bytes) if bytes <= MAP_ITEM_BYTES_MAX => Ok(()),
        Ok(bytes) => refused(format!(
            "{bytes} bytes, as a node is sent them, are over the limit of {MAP_ITEM_BYTES_MAX}"
        )),
        Err(error) => refused(error.to_string()),
    }
}
