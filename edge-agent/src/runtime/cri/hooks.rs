//! What a container does at its start and before its end (`lifecycle`), and the words that it leaves.

use super::Shared;
use super::client::CriClient;
use super::exec::check_by_command;
use crate::ports::StartRequest;
use crate::runtime::StartFailure;
use crate::runtime::folder::PodFolder;
use crate::runtime::layers::{Attempt, attempt};
use crate::runtime::{probe, tail_log};
use serde::{Deserialize, Serialize};
use shared::model::{Container, LifecycleHandler, PodId, TerminationMessagePolicy};
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long a hook at the start may take. The pod counts as starting for so long.
const POST_START_LIMIT: Duration = Duration::from_secs(60);

/// The file of a container's last words, where its template names none. As in Kubernetes.
const LAST_WORDS_PATH: &str = "/dev/termination-log";

/// What is taken of last words, as in Kubernetes: of the file, and of a log in its place.
const LAST_WORDS_BYTES_MAX: u64 = 4096;
const LOG_LINES_MAX: u32 = 80;
const LOG_BYTES_MAX: usize = 2048;

/// What is to be known when a start ends, also by an agent that has not started it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ending {
    /// Done before the container is asked to end.
    pub(super) pre_stop: Option<LifecycleHandler>,
    /// Whether the end of its log tells why it failed.
    pub(super) falls_back_to_log: bool,
}

impl Ending {
    pub(super) fn of(container: &Container) -> Self {
        let fallback = TerminationMessagePolicy::FallbackToLogsOnError;
        Self {
            pre_stop: container.lifecycle.as_ref().and_then(|hooks| hooks.pre_stop.clone()),
            falls_back_to_log: container.termination_message_policy == Some(fallback),
        }
    }
}

/// Does what is to be done once the container runs.
pub(super) async fn post_start(
    client: &CriClient,
    request: &StartRequest,
    container: &str,
    pod_host: &str,
) -> Result<(), StartFailure> {
    let hooks = request.container.lifecycle.as_ref();
    let Some(hook) = hooks.and_then(|hooks| hooks.post_start.as_ref()) else { return Ok(()) };
    run(client, container, hook, (pod_host, POST_START_LIMIT)).await.map_err(|problem| {
        StartFailure::new("PostStartHookFailed", format!("its postStart hook failed: {problem}"))
    })
}

/// Does what is to be done before the container is asked to end, for so long at most.
pub(super) async fn pre_stop(
    client: &CriClient,
    hook: &LifecycleHandler,
    container: &str,
    pod_host: &str,
    limit: Duration,
) -> Result<(), String> {
    run(client, container, hook, (pod_host, limit)).await
}

async fn run(
    client: &CriClient,
    container: &str,
    hook: &LifecycleHandler,
    (pod_host, limit): (&str, Duration),
) -> Result<(), String> {
    let act = async {
        match (&hook.exec, &hook.http_get, &hook.sleep) {
            (Some(exec), ..) => {
                check_by_command(client, Some(container.to_owned()), exec, limit).await
            }
            (_, Some(get), _) => probe::check_by_http(get, pod_host).await,
            (_, _, Some(pause)) => {
                sleep(Duration::from_secs(u64::from(pause.seconds))).await;
                Ok(())
            }
            _ => Ok(()),
        }
    };
    let late = || Err(format!("it did not end within {} s", limit.as_secs()));
    timeout(limit, act).await.unwrap_or_else(|_| late())
}

/// The path of a container's last words, within it.
pub(super) fn last_words_path(container: &Container) -> String {
    container.termination_message_path.clone().unwrap_or_else(|| LAST_WORDS_PATH.to_owned())
}

/// The same on the node.
pub(super) fn last_words_file(folder: &PodFolder) -> PathBuf {
    folder.path().join("last-words")
}

/// Makes the file empty, for whomever the container runs as.
pub(super) fn make_last_words_file(folder: &PodFolder) -> Attempt<()> {
    let path = last_words_file(folder);
    let making = || format!("make the file {}", path.display());
    File::create(&path).map_err(attempt(making()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o666)).map_err(attempt(making()))
}

impl Shared {
    /// The words with which a container ended, or nothing.
    pub(super) fn last_words(&self, pod: &PodId, ending: &Ending, code: i32) -> String {
        let mut words = Vec::new();
        let file = File::open(last_words_file(&self.folder(pod)));
        let _ = file.and_then(|file| file.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut words));
        if words.is_empty() && ending.falls_back_to_log && code != 0 {
            let log = tail_log(&self.options.folder, pod, None, LOG_LINES_MAX, LOG_BYTES_MAX);
            words = log.unwrap_or_default();
        }
        String::from_utf8_lossy(&words).trim().to_owned()
    }
}
