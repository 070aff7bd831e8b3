//! Commands in a pod's container: checks of a probe, and what people ask for. The runtime kills what is too slow.

use super::api;
use super::client::{CallError, CriClient};
use crate::runtime::ExecOrder;
use crate::runtime::exec::{Output, result_of};
use shared::in_words;
use shared::model::ExecAction;
use shared::wire::ExecResult;
use std::time::Duration;

/// Beyond the limit of a command, for the runtime to say that it was too slow.
const EXEC_MARGIN: Duration = Duration::from_secs(2);

/// Runs a command in the pod's container.
pub(super) async fn check_by_command(
    client: &CriClient,
    container: Option<String>,
    exec: &ExecAction,
    limit: Duration,
) -> Result<(), String> {
    let program = exec.command.first().ok_or("exec.command is empty")?;
    let container_id = container.ok_or("the pod does not run")?;
    let timeout = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    let order = api::ExecSyncRequest { container_id, cmd: exec.command.clone(), timeout };
    let answer = client.call("ExecSync", &order, limit + EXEC_MARGIN).await;
    let api::ExecSyncResponse { exit_code, .. } = answer.map_err(|error| in_words(&error))?;
    match exit_code {
        0 => Ok(()),
        code => Err(format!("`{program}` ended with exit status: {code}")),
    }
}

/// Runs a command in the pod's container; what it printed until its deadline is not known where it came to that.
pub(super) async fn run_command(
    client: &CriClient,
    container: Option<String>,
    order: ExecOrder,
) -> Result<ExecResult, String> {
    let container_id = container.ok_or("the pod does not run")?;
    // Whole seconds; 0 is no deadline at all.
    let seconds = order.timeout.as_secs() + u64::from(order.timeout.subsec_nanos() > 0);
    let limit = Duration::from_secs(seconds.max(1));
    let timeout = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    let request = api::ExecSyncRequest { container_id, cmd: order.command, timeout };
    let answer = client.call("ExecSync", &request, limit + EXEC_MARGIN).await;
    let none = || (Output::default(), Output::default());
    match answer {
        Ok(api::ExecSyncResponse { exit_code, stdout, stderr }) => {
            Ok(result_of(Some(exit_code), Output::of(&stdout), Output::of(&stderr)))
        }
        Err(error) if is_too_slow(&error) => {
            let (stdout, stderr) = none();
            Ok(result_of(None, stdout, stderr))
        }
        Err(error) => Err(in_words(&error)),
    }
}

/// Whether the runtime has killed a command at its deadline. containerd 1.6 says so with any code.
fn is_too_slow(error: &CallError) -> bool {
    matches!(error, CallError::Refused { message, .. }
        if message.contains("timeout") && message.contains("exceeded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_told_from_another_refusal() {
        let refused = |message: &str| {
            let message = message.to_owned();
            is_too_slow(&CallError::Refused { call: "ExecSync", code: 2, message })
        };
        let too_slow =
            "failed to exec in container: timeout 1s exceeded: context deadline exceeded";
        assert!(refused(too_slow));
        assert!(!refused("executable file not found in $PATH"));
    }
}
