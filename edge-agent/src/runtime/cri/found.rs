//! What is left of earlier starts when the agent comes up.
//!
//! Asked over a connection of its own, on a thread of its own: the agent's loop does not run yet.

use super::calls::{ContainerCondition, until_answered};
use super::client::{CallError, CriClient};
use super::note::{AgentName, StartNote};
use crate::ports::ObservedState;
use crate::runtime::layers::{Attempt, attempt};
use shared::model::{PodId, UnixMs};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;
use tracing::warn;

/// How long the agent waits at its start for a runtime that starts at the same time. Then it ends, and its
/// service manager starts it again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A start that the runtime knows.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) note: StartNote,
    pub(super) state: ObservedState,
    pub(super) sandbox: String,
    /// Empty when there is none.
    pub(super) container: String,
}

/// The starts of this agent's pods that the runtime knows; blocks until it answers.
pub(super) fn find(socket: &Path, agent: &AgentName) -> Attempt<Vec<Found>> {
    let asking = format!("ask the container runtime at {}", socket.display());
    let (socket, agent, asked) = (socket.to_owned(), agent.clone(), asking.clone());
    let work = move || {
        let tasks = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let client = CriClient::new(&socket);
        let found = until_answered(Some(PATIENCE), || take_stock(&client, &agent));
        tasks.map_err(attempt(asked.as_str()))?.block_on(found).map_err(attempt(asked))
    };
    let thread = std::thread::Builder::new().name("pods".to_owned()).spawn(work);
    let found = thread.map_err(attempt(asking.as_str()))?.join();
    found.unwrap_or_else(|_| Err(attempt(asking)(io::Error::other("the thread broke off"))))
}

async fn take_stock(client: &CriClient, agent: &AgentName) -> Result<Vec<Found>, CallError> {
    let sandboxes = client.sandboxes(agent.labels()).await?;
    let containers = client.containers(agent.labels()).await?;
    let mut found: BTreeMap<PodId, Found> = BTreeMap::new();
    for sandbox in sandboxes {
        let Some(note) = StartNote::from_annotations(&sandbox.annotations) else {
            warn!(sandbox = sandbox.id, "a sandbox without a note of its start is removed");
            client.remove_sandbox(&sandbox.id).await?;
            continue;
        };
        let container = containers.iter().find(|c| c.pod_sandbox_id == sandbox.id);
        let container = container.map(|container| container.id.clone()).unwrap_or_default();
        let state = state_of(client, &sandbox.id, &container).await?;
        let one = Found { note, state, sandbox: sandbox.id, container };
        let is_running = |found: &Found| matches!(found.state, ObservedState::Running { .. });
        if !found.get(&one.note.pod).is_some_and(is_running) {
            found.insert(one.note.pod.clone(), one);
        }
    }
    Ok(found.into_values().collect())
}

async fn state_of(
    client: &CriClient,
    sandbox: &str,
    container: &str,
) -> Result<ObservedState, CallError> {
    let condition = match container {
        "" => ContainerCondition::Lost,
        container => client.condition(container).await?,
    };
    Ok(match condition {
        ContainerCondition::Runs { started_at_ms } => {
            ObservedState::Running { started_at: UnixMs(started_at_ms) }
        }
        ContainerCondition::Ended { code, .. } => ObservedState::Exited { code },
        ContainerCondition::Lost => {
            // It may have been about to start when the agent was killed.
            client.stop_sandbox(sandbox).await?;
            ObservedState::Lost
        }
    })
}
