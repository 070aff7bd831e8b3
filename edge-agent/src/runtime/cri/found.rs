//! What is left of earlier starts when the agent comes up.
//!
//! Asked over a connection of its own, on a thread of its own: the agent's loop does not run yet.

use super::api;
use super::calls::{ContainerCondition, condition_of, is_unstarted, until_answered};
use super::client::{CallError, CriClient};
use super::network::Network;
use super::note::{AgentName, StartNote};
use crate::ports::{ContainerPlan, ObservedContainer, ObservedState};
use crate::runtime::layers::{Attempt, attempt};
use shared::model::{ContainerRole, PodId, UnixMs};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;
use tracing::warn;

/// How long the agent waits at its start for a runtime that starts at the same time. Then it ends, and its
/// service manager starts it again.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a container that is just being started is looked at, and the time between.
const NEW_LOOKS_MAX: u32 = 100;
const NEW_LOOK_PAUSE: Duration = Duration::from_millis(100);

/// A start that the runtime knows.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) note: StartNote,
    pub(super) state: ObservedState,
    pub(super) sandbox: String,
    /// Empty when there is none, and where there are several.
    pub(super) container: String,
    /// The last of each of its several containers, with its id.
    pub(super) members: Vec<Member>,
    /// The network of one that runs.
    pub(super) network: Network,
}

/// One of several containers, and its id.
pub(super) type Member = (ObservedContainer, String);

/// Names and ids of those that run.
pub(super) fn running_of(members: &[Member]) -> Vec<(String, String)> {
    let running = members.iter().filter(|(observed, _)| is_running(observed.state));
    running.map(|(observed, id)| (observed.name.clone(), id.clone())).collect()
}

fn is_running(state: ObservedState) -> bool {
    matches!(state, ObservedState::Running { .. })
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
        let own = || containers.iter().filter(|c| c.pod_sandbox_id == sandbox.id);
        let one = if note.containers.is_empty() {
            let container = own().next().map(|container| container.id.clone()).unwrap_or_default();
            let state = state_of(client, &sandbox, &container).await?;
            let (sandbox, members) = (sandbox.id.clone(), vec![]);
            Found { note, state, sandbox, container, members, network: Network::Node }
        } else {
            find_group(client, &sandbox, note, own()).await?
        };
        let one = with_network(client, one).await?;
        if !found.get(&one.note.pod).is_some_and(|found| is_running(found.state)) {
            found.insert(one.note.pod.clone(), one);
        }
    }
    Ok(found.into_values().collect())
}

async fn with_network(client: &CriClient, found: Found) -> Result<Found, CallError> {
    if !found.note.has_own_network || !is_running(found.state) {
        return Ok(found);
    }
    let network = Network::Own(client.address(&found.sandbox).await?);
    Ok(Found { network, ..found })
}

/// A start of a pod of several containers: it runs for as long as its sandbox stands.
async fn find_group(
    client: &CriClient,
    sandbox: &api::PodSandbox,
    note: StartNote,
    containers: impl Iterator<Item = &api::Container>,
) -> Result<Found, CallError> {
    let mut last: BTreeMap<String, Member> = BTreeMap::new();
    for container in containers {
        let Some(metadata) = &container.metadata else { continue };
        let Some(state) = state_of_member(client, &container.id).await? else { continue };
        let (name, attempt) = (metadata.name.clone(), metadata.attempt);
        let is_older = |(one, _): &Member| one.attempt < attempt;
        if last.get(&name).is_none_or(is_older) {
            let observed = ObservedContainer { name: name.clone(), attempt, state };
            last.insert(name, (observed, container.id.clone()));
        }
    }
    let members: Vec<Member> = last.into_values().collect();
    let created_at_ms = u64::try_from(sandbox.created_at / 1_000_000).unwrap_or_default();
    let state = if sandbox.state == i32::from(api::PodSandboxState::SandboxReady) {
        ObservedState::Running { started_at: UnixMs(created_at_ms) }
    } else {
        // Nothing can start in it; whoever starts the pod or forgets it removes it.
        end_of_group(&note, &members)
    };
    let sandbox = sandbox.id.clone();
    Ok(Found { note, state, sandbox, container: String::new(), members, network: Network::Node })
}

/// How a container is; `None` for one that was never started, and is not any more.
async fn state_of_member(client: &CriClient, id: &str) -> Result<Option<ObservedState>, CallError> {
    for _ in 0..NEW_LOOKS_MAX {
        match client.status(id).await? {
            Some(status) if status.state() == api::ContainerState::ContainerCreated => {
                // It may have been about to start when the agent was killed.
                if client.remove_container(id).await.is_ok() {
                    return Ok(None);
                }
                sleep(NEW_LOOK_PAUSE).await;
            }
            Some(status) if is_unstarted(&status) => {
                // containerd may just be ending what the agent that was killed had it start.
                if client.remove_container(id).await.is_ok() {
                    return Ok(None);
                }
                sleep(NEW_LOOK_PAUSE).await;
            }
            status => return Ok(status.map(|status| observed_of(&condition_of(&status)))),
        }
    }
    Ok(Some(ObservedState::Lost))
}

/// How a pod of several containers ended whose sandbox is down: as its containers say, if they all had ended before.
fn end_of_group(note: &StartNote, members: &[Member]) -> ObservedState {
    let code_of = |plan: &ContainerPlan| {
        let (observed, _) = members.iter().find(|(one, _)| one.name == plan.name)?;
        match observed.state {
            ObservedState::Exited { code } => Some(code),
            _ => None,
        }
    };
    let plans = |role| note.containers.iter().filter(move |plan| plan.role == role);
    let failed = |role| plans(role).filter_map(code_of).find(|code| *code != 0);
    if let Some(code) = failed(ContainerRole::Init) {
        return ObservedState::Exited { code };
    }
    match plans(ContainerRole::Main).all(|plan| code_of(plan).is_some()) {
        true => ObservedState::Exited { code: failed(ContainerRole::Main).unwrap_or(0) },
        false => ObservedState::Lost,
    }
}

fn observed_of(condition: &ContainerCondition) -> ObservedState {
    match condition {
        ContainerCondition::Runs { started_at_ms } => {
            ObservedState::Running { started_at: UnixMs(*started_at_ms) }
        }
        ContainerCondition::Ended { code, .. } => ObservedState::Exited { code: *code },
        ContainerCondition::Lost => ObservedState::Lost,
    }
}

async fn state_of(
    client: &CriClient,
    sandbox: &api::PodSandbox,
    container: &str,
) -> Result<ObservedState, CallError> {
    let condition = match container {
        "" => ContainerCondition::Lost,
        container => client.condition(container).await?,
    };
    // It may have been about to start when the agent was killed. In a sandbox that is not ready, as after a power
    // cut, nothing can start; whoever starts the pod or forgets it removes it.
    let is_ready = sandbox.state() == api::PodSandboxState::SandboxReady;
    if condition == ContainerCondition::Lost && is_ready {
        client.stop_sandbox(&sandbox.id).await?;
    }
    Ok(observed_of(&condition))
}
