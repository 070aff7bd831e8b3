//! What nodes report, for tests.

use shared::model::{PodPhase, PodStatus, Revision};
use shared::wire::encode;

/// An item of reported state: a pod that runs and is ready.
pub(crate) fn reported_pod(pod: &str) -> (String, Vec<u8>) {
    let status = PodStatus {
        pod: pod.parse().unwrap(),
        revision: Revision(1),
        phase: PodPhase::Running,
        ready: true,
        reason: String::new(),
        message: String::new(),
        restarts: 0,
        started_at: None,
        last_exit_code: None,
        gpus: vec![],
        containers: vec![],
        pod_ip: None,
    };
    (format!("p/{pod}"), encode("pod status", &status).unwrap())
}
