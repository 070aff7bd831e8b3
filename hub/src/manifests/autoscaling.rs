//! What a workload may say of how many pods it has, by what they have to do.

use super::labels::Invalid;
use crate::api::{AutoscalingSpec, PlacementSpec, ScalingMetric};

/// Pods of one workload in one member cluster that a metric may ask for.
pub(crate) const CLUSTER_REPLICAS_MAX: u32 = 10_000;

/// A metric's name: a label's value, and longer than any there is.
const METRIC_NAME_BYTES_MAX: usize = 128;

/// # Errors
/// The first thing that would not mean what it seems to.
pub(super) fn check_autoscaling(
    autoscaling: Option<&AutoscalingSpec>,
    placement: &PlacementSpec,
) -> Result<(), Invalid> {
    let Some(said) = autoscaling else { return Ok(()) };
    let refused = |field: &str, problem: String| Err((format!("spec.autoscaling{field}"), problem));
    if placement.cluster_selector.is_none() {
        let problem = "edge nodes do not decide it yet: expected placement.clusterSelector";
        return refused("", problem.to_owned());
    }
    if placement.replicas.is_some() {
        let problem = "the number of pods is decided by autoscaling: expected none beside it";
        return Err(("spec.placement.replicas".to_owned(), problem.to_owned()));
    }
    for (field, count) in [(".minReplicas", said.min_replicas), (".maxReplicas", said.max_replicas)]
    {
        if !(1..=CLUSTER_REPLICAS_MAX).contains(&count) {
            return refused(field, format!("{count}: expected 1 to {CLUSTER_REPLICAS_MAX}"));
        }
    }
    if said.min_replicas > said.max_replicas {
        return refused(".maxReplicas", "expected at least minReplicas".to_owned());
    }
    if said.target == 0 {
        return refused(".target", "expected at least 1".to_owned());
    }
    match &said.metric_name {
        Some(_) if said.metric == ScalingMetric::CPUUtilization => {
            refused(".metricName", "CPU has no other name".to_owned())
        }
        Some(name) if !is_metric_name(name) => {
            refused(".metricName", format!("`{name}` is not the name of a metric"))
        }
        _ => Ok(()),
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

    #[test]
    fn what_contradicts_itself_is_refused_with_its_path() {
        let member = r#"{"clusterSelector":{}}"#;
        for (placement, said, path) in [
            ("{}", r#"{"maxReplicas":3,"metric":"QueueDepth","target":5}"#, ""),
            (
                member,
                r#"{"maxReplicas":3,"minReplicas":4,"metric":"QueueDepth","target":5}"#,
                ".maxReplicas",
            ),
            (member, r#"{"maxReplicas":0,"metric":"QueueDepth","target":5}"#, ".maxReplicas"),
            (member, r#"{"maxReplicas":3,"metric":"QueueDepth","target":0}"#, ".target"),
            (
                member,
                r#"{"maxReplicas":3,"metric":"QueueDepth","target":5,"metricName":"a b"}"#,
                ".metricName",
            ),
            (
                member,
                r#"{"maxReplicas":3,"metric":"CPUUtilization","target":5,"metricName":"a"}"#,
                ".metricName",
            ),
        ] {
            let placement = serde_json::from_str(placement).unwrap();
            let said: AutoscalingSpec = serde_json::from_str(said).unwrap();
            let (at, _) = check_autoscaling(Some(&said), &placement).unwrap_err();
            assert_eq!(at, format!("spec.autoscaling{path}"), "{said:?}");
        }
        let both = serde_json::from_str(r#"{"clusterSelector":{},"replicas":2}"#).unwrap();
        let said = r#"{"maxReplicas":3,"metric":"GPUUtilization","target":70}"#;
        let said: AutoscalingSpec = serde_json::from_str(said).unwrap();
        let (at, _) = check_autoscaling(Some(&said), &both).unwrap_err();
        assert_eq!((at.as_str(), said.min_replicas), ("spec.placement.replicas", 1));
        let alone = serde_json::from_str(member).unwrap();
        assert_eq!(check_autoscaling(Some(&said), &alone), Ok(()));
    }
}
