//! The calls that lives, lookers and the one that takes stock have in common. A sandbox or container that is not
//! there any more is stopped and removed.

use super::client::{CallError, CriClient, ORDER_LIMIT, QUESTION_LIMIT};
use super::note::Pairs;
use super::watcher::is_in;
use super::{api, blocking};
use crate::runtime::process::identity::every_process;
use prost::Message;
use rustix::process::Signal;
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::warn;

/// Between two calls while nobody answers: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often what runs and is taken for ended is ended before its removal is given up.
const ENDS_MAX: u32 = 20;

/// The code of an end that nobody could see. Not 0: it is no success.
pub(super) const UNKNOWN_EXIT_CODE: i32 = 255;

/// What containerd gives as the reason of such an end: the power went, or its shim was killed.
const REASON_UNKNOWN: &str = "Unknown";

/// What it gives where a start broke off.
const REASON_UNSTARTED: &str = "StartError";

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContainerCondition {
    /// It runs, since then in milliseconds since 1970.
    Runs { started_at_ms: u64 },
    /// It ended with this code, and perhaps a reason.
    Ended { code: i32, reason: String },
    /// It does not run, and nobody saw it end.
    Lost,
}

impl CriClient {
    /// Sandboxes with these labels.
    pub(super) async fn sandboxes(&self, labels: Pairs) -> Result<Vec<api::PodSandbox>, CallError> {
        let filter = Some(api::PodSandboxFilter { label_selector: labels });
        let question = api::ListPodSandboxRequest { filter };
        let answer = self.call("ListPodSandbox", &question, QUESTION_LIMIT).await?;
        let api::ListPodSandboxResponse { items } = answer;
        Ok(items)
    }

    /// Containers with these labels.
    pub(super) async fn containers(&self, labels: Pairs) -> Result<Vec<api::Container>, CallError> {
        let filter = Some(api::ContainerFilter { label_selector: labels });
        let question = api::ListContainersRequest { filter };
        let answer = self.call("ListContainers", &question, QUESTION_LIMIT).await?;
        let api::ListContainersResponse { containers } = answer;
        Ok(containers)
    }

    /// How a container is; one that is not there is lost.
    pub(super) async fn condition(&self, id: &str) -> Result<ContainerCondition, CallError> {
        let status = self.status(id).await?;
        Ok(status.as_ref().map_or(ContainerCondition::Lost, condition_of))
    }

    /// What the runtime says of a container, if it is there.
    pub(super) async fn status(&self, id: &str) -> Result<Option<api::ContainerStatus>, CallError> {
        let question = api::ContainerStatusRequest { container_id: id.to_owned() };
        match self.call("ContainerStatus", &question, QUESTION_LIMIT).await {
            Ok(api::ContainerStatusResponse { status }) => Ok(Some(status.unwrap_or_default())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends a container at once and removes it; its log stays.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), CallError> {
        let order = api::StopContainerRequest { container_id: id.to_owned(), timeout: 0 };
        gone_is_well(self.call("StopContainer", &order, ORDER_LIMIT).await)?;
        self.remove("RemoveContainer", &api::RemoveContainerRequest { container_id: id.to_owned() })
            .await
    }

    /// Ends all containers of a sandbox at once, and the sandbox.
    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), CallError> {
        let order = api::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_well(self.call("StopPodSandbox", &order, ORDER_LIMIT).await)
    }

    /// Ends a sandbox and removes it with its containers; their logs stay.
    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), CallError> {
        self.stop_sandbox(id).await?;
        let order = api::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.remove("RemovePodSandbox", &order).await
    }

    /// Removes it. A start whose client goes away in the middle may leave a container that containerd 1.6 takes for
    /// ended, and can't remove because it runs: then it is ended here.
    async fn remove(&self, call: &'static str, order: &impl Message) -> Result<(), CallError> {
        let mut answer = gone_is_well(self.call(call, order, ORDER_LIMIT).await);
        for _ in 0..ENDS_MAX {
            let Err(error) = &answer else { break };
            let Some(task) = error.running_task().map(str::to_owned) else { break };
            warn!(task, "the container runtime takes for ended what runs: it is ended");
            blocking(move || end_all_in(&task)).await;
            sleep(PAUSE_MIN).await;
            answer = gone_is_well(self.call(call, order, ORDER_LIMIT).await);
        }
        answer
    }

    /// Ends and removes all sandboxes with these labels.
    pub(super) async fn remove_sandboxes(&self, labels: Pairs) -> Result<(), CallError> {
        for sandbox in self.sandboxes(labels).await? {
            self.remove_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }
}

/// Kills every process of a container.
fn end_all_in(container: &str) {
    let processes = every_process().into_iter().map(|stat| stat.identity);
    processes.filter(|one| is_in(one.pid, container)).for_each(|one| one.signal(Signal::KILL));
}

fn gone_is_well(answer: Result<api::Nothing, CallError>) -> Result<(), CallError> {
    match answer {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn condition_of(status: &api::ContainerStatus) -> ContainerCondition {
    match status.state() {
        api::ContainerState::ContainerRunning => {
            let started_at_ms = u64::try_from(status.started_at / 1_000_000).unwrap_or_default();
            ContainerCondition::Runs { started_at_ms }
        }
        api::ContainerState::ContainerExited if is_seen(status) => {
            let reason = status.reason.clone();
            ContainerCondition::Ended { code: status.exit_code, reason }
        }
        _ => ContainerCondition::Lost,
    }
}

/// Whether it did not even start: whoever asked for it went away, say.
pub(super) fn is_unstarted(status: &api::ContainerStatus) -> bool {
    status.state() == api::ContainerState::ContainerExited && status.reason == REASON_UNSTARTED
}

/// Whether somebody saw it end.
fn is_seen(status: &api::ContainerStatus) -> bool {
    let is_lost = status.exit_code == UNKNOWN_EXIT_CODE && status.reason == REASON_UNKNOWN;
    !is_lost && !is_unstarted(status)
}

/// Calls again while the failure may pass, until `patience` is at its end; for ever without one.
pub(super) async fn until_answered<A, C>(
    patience: Option<Duration>,
    mut call: impl FnMut() -> C,
) -> Result<A, CallError>
where
    C: Future<Output = Result<A, CallError>>,
{
    let (begin, mut pause) = (Instant::now(), PAUSE_MIN);
    loop {
        match call().await {
            Err(error) if error.may_pass() && patience.is_none_or(|p| begin.elapsed() < p) => {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: api::ContainerState, exit_code: i32, reason: &str) -> ContainerCondition {
        let (state, reason) = (state.into(), reason.to_owned());
        let started_at = 5_000_000;
        let message = String::new();
        condition_of(&api::ContainerStatus { state, started_at, exit_code, reason, message })
    }

    #[test]
    fn an_end_that_nobody_saw_is_no_exit() {
        use api::ContainerState::{ContainerExited, ContainerRunning, ContainerUnknown};
        let ended = |code, reason: &str| {
            let reason = reason.to_owned();
            ContainerCondition::Ended { code, reason }
        };
        let runs = ContainerCondition::Runs { started_at_ms: 5 };
        assert_eq!(status(ContainerRunning, 0, ""), runs);
        assert_eq!(status(ContainerExited, 255, "Error"), ended(255, "Error"));
        assert_eq!(status(ContainerExited, 137, "OOMKilled"), ended(137, "OOMKilled"));
        assert_eq!(status(ContainerExited, 255, "Unknown"), ContainerCondition::Lost);
        assert_eq!(status(ContainerExited, 128, "StartError"), ContainerCondition::Lost);
        assert_eq!(status(ContainerUnknown, 0, ""), ContainerCondition::Lost);
    }
}
