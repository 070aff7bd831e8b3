//! What a workload may say of nodes that are offline for long.

use super::Replicas;
use super::labels::Invalid;
use crate::api::OfflinePolicySpec;
use serde::{Deserialize, Serialize};

/// Ten years: longer than any node is waited for.
pub(crate) const OFFLINE_SECONDS_MAX: u32 = 315_360_000;

/// How long a deletion waits for nodes where nothing else is said.
pub(crate) const DELETION_DEADLINE_SECONDS: u32 = 300;

/// What becomes of a workload where nodes are offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflinePolicy {
    /// Replicas over the fleet of a node that has been offline for so long go elsewhere; never without.
    pub reschedule_after_ms: Option<u64>,
    /// Nodes have so long to confirm a deletion.
    pub deletion_deadline_ms: u64,
}

impl Default for OfflinePolicy {
    fn default() -> Self {
        let deletion_deadline_ms = u64::from(DELETION_DEADLINE_SECONDS) * 1000;
        Self { reschedule_after_ms: None, deletion_deadline_ms }
    }
}

/// The policy that an `offlinePolicy` describes.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn offline_policy_of(
    spec: Option<OfflinePolicySpec>,
    replicas: Replicas,
) -> Result<OfflinePolicy, Invalid> {
    let OfflinePolicySpec { reschedule, deletion_deadline_seconds } = spec.unwrap_or_default();
    let at = |field: &str| format!("spec.offlinePolicy.{field}");
    let within = |field: &str, seconds: u32, least: u32| {
        if (least..=OFFLINE_SECONDS_MAX).contains(&seconds) {
            return Ok(u64::from(seconds) * 1000);
        }
        Err((at(field), format!("{seconds}: expected {least} to {OFFLINE_SECONDS_MAX}")))
    };
    if reschedule.is_some() && !matches!(replicas, Replicas::Fleet(_)) {
        let problem = "only `placement.replicas`, which are over the fleet, can go elsewhere";
        return Err((at("reschedule"), problem.to_owned()));
    }
    let after = reschedule.map(|said| within("reschedule.afterSeconds", said.after_seconds, 1));
    Ok(OfflinePolicy {
        reschedule_after_ms: after.transpose()?,
        deletion_deadline_ms: within("deletionDeadlineSeconds", deletion_deadline_seconds, 0)?,
    })
}
