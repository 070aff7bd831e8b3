//! What a workload may say of how many pods it has, by what they have to do.

use super::labels::Invalid;
use crate::api::{AutoscalingSpec, PlacementSpec, ScalingMetric};
use shared::limits::REPLICAS_PER_NODE_MAX;
use shared::model::{self, Autoscaling, CpuQuantity, PodTemplate};

/// Pods of one workload in one member cluster that a metric may ask for.
pub(crate) const CLUSTER_REPLICAS_MAX: u32 = 10_000;

/// As long as Kubernetes allows: an hour.
pub(crate) const STABILIZATION_SECONDS_MAX: u32 = 3600;

/// As in Kubernetes.
const SCALE_DOWN_SECONDS: u32 = 300;

/// The part of requests that is looked at where nothing is said.
const PERCENTILE: u8 = 95;

/// A metric's name: a label's value, and longer than any there is.
const METRIC_NAME_BYTES_MAX: usize = 128;

/// The annotation by which a pod's own metrics are read.
const SCRAPE: &str = "prometheus.io/scrape";

/// The annotation that names what is read of them.
const METRICS: &str = "hinterland.dev/metrics";

/// # Errors
/// The first thing that would not mean what it seems to.
pub(super) fn check_autoscaling(
    autoscaling: Option<&AutoscalingSpec>,
    placement: &PlacementSpec,
    template: &PodTemplate,
) -> Result<(), Invalid> {
    let Some(said) = autoscaling else { return Ok(()) };
    let refused = |field: &str, problem: String| Err((format!("spec.autoscaling{field}"), problem));
    let counts =
        [("replicas", placement.replicas), ("replicasPerNode", placement.replicas_per_node)];
    if let Some((field, _)) = counts.iter().find(|(_, count)| count.is_some()) {
        let problem = "the number of pods is decided by autoscaling: expected none beside it";
        return Err((format!("spec.placement.{field}"), problem.to_owned()));
    }
    let is_for_clusters = placement.cluster_selector.is_some();
    let most = if is_for_clusters { CLUSTER_REPLICAS_MAX } else { REPLICAS_PER_NODE_MAX };
    for (field, count) in [(".minReplicas", said.min_replicas), (".maxReplicas", said.max_replicas)]
    {
        if !(1..=most).contains(&count) {
            return refused(field, format!("{count}: expected 1 to {most}"));
        }
    }
    if said.min_replicas > said.max_replicas {
        return refused(".maxReplicas", "expected at least minReplicas".to_owned());
    }
    if said.target == 0 {
        return refused(".target", "expected at least 1".to_owned());
    }
    check_windows(said)?;
    check_metric(said, is_for_clusters)?;
    if is_for_clusters { Ok(()) } else { check_source(said, template) }
}

fn check_windows(said: &AutoscalingSpec) -> Result<(), Invalid> {
    let windows = [
        ("scaleUpStabilizationSeconds", said.scale_up_stabilization_seconds),
        ("scaleDownStabilizationSeconds", said.scale_down_stabilization_seconds),
    ];
    let beyond = |seconds: Option<u32>| seconds.filter(|count| *count > STABILIZATION_SECONDS_MAX);
    match windows.iter().find_map(|(field, seconds)| Some((field, beyond(*seconds)?))) {
        Some((field, seconds)) => {
            let problem = format!("{seconds} is over {STABILIZATION_SECONDS_MAX}");
            Err((format!("spec.autoscaling.{field}"), problem))
        }
        None => Ok(()),
    }
}

fn check_metric(said: &AutoscalingSpec, is_for_clusters: bool) -> Result<(), Invalid> {
    let refused = |field: &str, problem: String| Err((format!("spec.autoscaling{field}"), problem));
    let is_of_page = matches!(
        said.metric,
        ScalingMetric::RequestsPerSecond
            | ScalingMetric::QueueDepth
            | ScalingMetric::LatencyPercentile
    );
    if said.percentile.is_some() && said.metric != ScalingMetric::LatencyPercentile {
        return refused(".percentile", "expected the metric LatencyPercentile with it".to_owned());
    }
    if let Some(percentile) = said.percentile.filter(|percent| !(1..=99).contains(percent)) {
        return refused(".percentile", format!("{percentile}: expected 1 to 99"));
    }
    match &said.metric_name {
        Some(_) if said.metric == ScalingMetric::CPUUtilization => {
            refused(".metricName", "CPU has no other name".to_owned())
        }
        Some(_) if !is_for_clusters && !is_of_page => {
            refused(".metricName", "a node knows its GPUs by no other name".to_owned())
        }
        Some(name) if !is_metric_name(name) => {
            refused(".metricName", format!("`{name}` is not the name of a metric"))
        }
        _ => Ok(()),
    }
}

/// A node must be able to know the metric.
fn check_source(said: &AutoscalingSpec, template: &PodTemplate) -> Result<(), Invalid> {
    let refused = |problem: &str| Err(("spec.autoscaling.metric".to_owned(), problem.to_owned()));
    let resources = template.resources();
    match said.metric {
        ScalingMetric::CPUUtilization if resources.cpu == CpuQuantity::default() => {
            refused("CPUUtilization is per cent of the CPU that a pod requests: expected a request")
        }
        ScalingMetric::GPUUtilization if resources.gpu == model::GpuRequest::None => {
            refused("GPUUtilization is of the GPUs that a pod holds: expected it to ask for one")
        }
        ScalingMetric::GPUUtilization if matches!(resources.gpu, model::GpuRequest::Mig(_)) => {
            refused("the driver does not tell it of a MIG instance: expected another metric")
        }
        ScalingMetric::CPUUtilization | ScalingMetric::GPUUtilization => Ok(()),
        _ if said.metric_name.is_none() && template.metadata.annotations.contains_key(METRICS) => {
            let problem = "the template's annotation `hinterland.dev/metrics` names what is read: \
                           expected the one that counts";
            Err(("spec.autoscaling.metricName".to_owned(), problem.to_owned()))
        }
        _ if template.metadata.annotations.get(SCRAPE).map(String::as_str) == Some("true") => {
            Ok(())
        }
        _ => refused(
            "this metric is read from the pods themselves: expected the template's annotation \
             `prometheus.io/scrape: \"true\"`",
        ),
    }
}

/// As a node is told it.
pub(crate) fn autoscaling_of(said: &AutoscalingSpec) -> Autoscaling {
    Autoscaling {
        max_replicas: said.max_replicas,
        metric: match said.metric {
            ScalingMetric::CPUUtilization => model::ScalingMetric::CpuUtilization,
            ScalingMetric::GPUUtilization => model::ScalingMetric::GpuUtilization,
            ScalingMetric::RequestsPerSecond => model::ScalingMetric::RequestsPerSecond,
            ScalingMetric::QueueDepth => model::ScalingMetric::QueueDepth,
            ScalingMetric::LatencyPercentile => {
                model::ScalingMetric::LatencyPercentile(said.percentile.unwrap_or(PERCENTILE))
            }
        },
        target: said.target,
        metric_name: said.metric_name.clone(),
        scale_up_seconds: said.scale_up_stabilization_seconds.unwrap_or(0),
        scale_down_seconds: said.scale_down_stabilization_seconds.unwrap_or(SCALE_DOWN_SECONDS),
    }
}

fn is_metric_name(text: &str) -> bool {
    let is_part =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-' | b'.');
    (1..=METRIC_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn checked(placement: &Value, said: &Value, template: &Value) -> Result<(), Invalid> {
        let said: AutoscalingSpec = serde_json::from_value(said.clone()).unwrap();
        let placement = serde_json::from_value(placement.clone()).unwrap();
        check_autoscaling(
            Some(&said),
            &placement,
            &serde_json::from_value(template.clone()).unwrap(),
        )
    }

    fn template(scrape: bool, requests: &Value) -> Value {
        let annotations = json!({ "prometheus.io/scrape": scrape.to_string() });
        let resources = json!({ "requests": requests, "limits": requests });
        let container = json!({ "name": "a", "command": ["a"], "resources": resources });
        json!({ "metadata": { "annotations": annotations }, "spec": { "containers": [container] } })
    }

    fn queue(rest: &Value) -> Value {
        let mut said = json!({ "maxReplicas": 3, "metric": "QueueDepth", "target": 5 });
        for (field, value) in rest.as_object().unwrap() {
            said[field] = value.clone();
        }
        said
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_its_path() {
        let scraped = template(true, &json!({}));
        for (rest, path) in [
            (json!({ "minReplicas": 4 }), ".maxReplicas"),
            (json!({ "maxReplicas": 0 }), ".maxReplicas"),
            (json!({ "target": 0 }), ".target"),
            (json!({ "metricName": "a b" }), ".metricName"),
            (json!({ "metric": "CPUUtilization", "metricName": "a" }), ".metricName"),
            (json!({ "percentile": 50 }), ".percentile"),
            (json!({ "metric": "LatencyPercentile", "percentile": 100 }), ".percentile"),
            (json!({ "scaleUpStabilizationSeconds": 3601 }), ".scaleUpStabilizationSeconds"),
            (json!({ "scaleDownStabilizationSeconds": 3601 }), ".scaleDownStabilizationSeconds"),
        ] {
            for placement in [json!({}), json!({ "clusterSelector": {} })] {
                let (at, _) = checked(&placement, &queue(&rest), &scraped).unwrap_err();
                assert_eq!(at, format!("spec.autoscaling{path}"), "{rest} {placement}");
            }
        }
        for count in ["replicas", "replicasPerNode"] {
            let (at, _) = checked(&json!({ count: 2 }), &queue(&json!({})), &scraped).unwrap_err();
            assert_eq!(at, format!("spec.placement.{count}"));
        }
        assert_eq!(checked(&json!({}), &queue(&json!({})), &scraped), Ok(()));
    }

    #[test]
    fn a_node_must_be_able_to_know_the_metric() {
        let silent = template(false, &json!({}));
        for (metric, able) in [
            ("QueueDepth", template(true, &json!({}))),
            ("LatencyPercentile", template(true, &json!({}))),
            ("CPUUtilization", template(false, &json!({ "cpu": "1" }))),
            ("GPUUtilization", template(false, &json!({ "nvidia.com/gpu": 1 }))),
        ] {
            let said = queue(&json!({ "metric": metric }));
            let (at, _) = checked(&json!({}), &said, &silent).unwrap_err();
            assert_eq!(at, "spec.autoscaling.metric", "{metric}");
            assert_eq!(checked(&json!({}), &said, &able), Ok(()), "{metric}");
            assert_eq!(checked(&json!({ "clusterSelector": {} }), &said, &silent), Ok(()));
        }
        let mut named = template(true, &json!({}));
        named["metadata"]["annotations"][METRICS] = json!("a,b");
        let (at, _) = checked(&json!({}), &queue(&json!({})), &named).unwrap_err();
        assert_eq!(at, "spec.autoscaling.metricName");
        assert_eq!(checked(&json!({}), &queue(&json!({ "metricName": "b" })), &named), Ok(()));
        let instance = template(false, &json!({ "nvidia.com/mig-1g.10gb": 1 }));
        let said = queue(&json!({ "metric": "GPUUtilization" }));
        assert!(checked(&json!({}), &said, &instance).is_err());
        let said = queue(&json!({ "maxReplicas": 257 }));
        assert!(checked(&json!({}), &said, &template(true, &json!({}))).is_err());
        assert_eq!(checked(&json!({ "clusterSelector": {} }), &said, &silent), Ok(()));
    }
}
