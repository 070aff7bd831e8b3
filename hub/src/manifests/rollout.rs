//! What a workload may say of how its new templates reach the nodes.

use super::labels::Invalid;
use crate::api::{OnFailure, RolloutSpec};
use crate::fleet::rollout::{NodeShare, RolloutPolicy};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Waves before the last one, which is of all nodes.
pub(crate) const WAVES_MAX: usize = 32;

const EXPECTED: &str = "expected a number of nodes from 1, as in 5, or a part of them, as in 10%";

/// The policy that a `rollout` describes.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn policy_of(spec: RolloutSpec) -> Result<RolloutPolicy, Invalid> {
    let at = |field: &str| format!("spec.rollout.{field}");
    if spec.waves.len() > WAVES_MAX {
        let problem = format!("{} waves are over the limit of {WAVES_MAX}", spec.waves.len());
        return Err((at("waves"), problem));
    }
    let share = |field: String, share: &IntOrString| {
        node_share(share).ok_or_else(|| (field, format!("{}: {EXPECTED}", written(share))))
    };
    let waves = spec.waves.iter().enumerate();
    let waves: Vec<NodeShare> = waves
        .map(|(index, wave)| share(at(&format!("waves[{index}]")), wave))
        .collect::<Result<_, _>>()?;
    if let Some(index) = waves.windows(2).position(|pair| !grows(pair)) {
        let problem = "expected more nodes than in the wave before".to_owned();
        return Err((at(&format!("waves[{}]", index + 1)), problem));
    }
    if spec.progress_deadline_seconds <= spec.min_ready_seconds {
        let problem =
            format!("expected more than minReadySeconds, which is {}", spec.min_ready_seconds);
        return Err((at("progressDeadlineSeconds"), problem));
    }
    Ok(RolloutPolicy {
        waves,
        max_unavailable: share(at("maxUnavailable"), &spec.max_unavailable)?,
        paused: spec.paused,
        min_ready_ms: u64::from(spec.min_ready_seconds) * 1000,
        restarts_max: spec.max_restarts,
        progress_deadline_ms: u64::from(spec.progress_deadline_seconds) * 1000,
        rolls_back: spec.on_failure == OnFailure::Rollback,
    })
}

fn node_share(share: &IntOrString) -> Option<NodeShare> {
    match share {
        IntOrString::Int(count) => {
            u32::try_from(*count).ok().filter(|n| *n > 0).map(NodeShare::Nodes)
        }
        IntOrString::String(text) => {
            let (digits, is_percent) =
                text.strip_suffix('%').map_or((text.as_str(), false), |digits| (digits, true));
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let number = digits.parse::<u32>().ok().filter(|number| *number > 0)?;
            match is_percent {
                true => (number <= 100).then_some(NodeShare::Percent(number)),
                false => Some(NodeShare::Nodes(number)),
            }
        }
    }
}

fn written(share: &IntOrString) -> String {
    match share {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => format!("`{text}`"),
    }
}

/// Whether the second wave has more nodes than the first, as far as one can see.
fn grows(pair: &[NodeShare]) -> bool {
    match pair {
        [NodeShare::Nodes(a), NodeShare::Nodes(b)]
        | [NodeShare::Percent(a), NodeShare::Percent(b)] => a < b,
        _ => true,
    }
}
