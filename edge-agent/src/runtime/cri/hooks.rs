//! What a container does at its start and before its end (`lifecycle`), and the words that it leaves.

use super::client::CriClient;
use super::exec::check_by_command;
use super::life::{Life, ordered, stop};
use super::{Shared, blocking};
use crate::runtime::StartFailure;
use crate::runtime::folder::{PodFolder, read, replace};
use crate::runtime::layers::{Attempt, attempt};
use crate::runtime::{probe, tail_log};
use serde::{Deserialize, Serialize};
use shared::model::{Container, Lifecycle, LifecycleHandler, PodId, TerminationMessagePolicy};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

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
    /// Done at its start, if that was not done to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) post_start: Option<LifecycleHandler>,
}

impl Ending {
    pub(super) fn of(container: &Container) -> Self {
        let fallback = TerminationMessagePolicy::FallbackToLogsOnError;
        let hooks = container.lifecycle.as_ref();
        Self {
            pre_stop: hooks.and_then(|hooks| hooks.pre_stop.clone()),
            falls_back_to_log: container.termination_message_policy == Some(fallback),
            post_start: hooks.and_then(|hooks| hooks.post_start.clone()),
        }
    }
}

/// The containers whose hook at the start was done, by their names (an only one has none) and ids.
type Done = BTreeMap<String, String>;

/// The file in the pod's folder that holds them.
const DONE_FILE: &str = "post-start.json";

impl Life {
    /// Does what `hooks` say is to be done once a container runs. Done once more where the agent dies before it has
    /// noted that: as in Kubernetes a hook is done at least once.
    pub(super) async fn post_start(
        &self,
        hooks: Option<&Lifecycle>,
        name: &str,
        container: &str,
    ) -> Result<(), StartFailure> {
        let hook = hooks.and_then(|hooks| hooks.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        self.do_post_start(hook, name, container).await.map_err(|problem| {
            let message = format!("its postStart hook failed: {problem}");
            StartFailure::new("PostStartHookFailed", message)
        })
    }

    /// Does for a container that was found running what an agent that is gone did not do to its end. If it fails the
    /// container is ended. Left off when the container is to stop, or has ended.
    pub(super) async fn make_up_for_post_start(&self, name: &str, container: &str) {
        let Some(hook) = &self.ending.post_start else { return };
        let folder = self.shared.folder(&self.pod);
        if done_in(&folder).get(name).is_some_and(|done| done == container) {
            return;
        }
        info!(pod = %self.pod, container = name, "its postStart hook is done again");
        let mut orders = self.orders.clone();
        let done = tokio::select! {
            done = self.do_post_start(hook, name, container) => done,
            _ = ordered(&mut orders) => return,
            () = self.ended(container) => return,
        };
        if let Err(problem) = done {
            warn!(pod = %self.pod, container = name, problem, "its postStart hook failed: it is ended");
            stop(&self.shared.client, container, Some(Instant::now())).await;
        }
    }

    async fn do_post_start(
        &self,
        hook: &LifecycleHandler,
        name: &str,
        container: &str,
    ) -> Result<(), String> {
        let host = self.shared.network_of(&self.pod).host();
        run(&self.shared.client, container, hook, (&host, POST_START_LIMIT)).await?;
        let (folder, shared) = (self.shared.folder(&self.pod), Arc::clone(&self.shared));
        let (name, container) = (name.to_owned(), container.to_owned());
        let noted = blocking(move || {
            let _turn = shared.writing();
            let mut done = done_in(&folder);
            done.insert(name, container);
            replace(&folder.path().join(DONE_FILE), &serde_json::to_vec(&done)?)
        });
        if let Some(Err(error)) = noted.await {
            warn!(pod = %self.pod, %error, "that its postStart hook is done was not noted");
        }
        Ok(())
    }

    /// Does what is to be done before the container is asked to end, within its grace and for as long as it runs.
    pub(super) async fn pre_stop(&self, container: &str, grace: Duration) {
        let Some(hook) = &self.ending.pre_stop else { return };
        let host = self.shared.network_of(&self.pod).host();
        let done = tokio::select! {
            done = run(&self.shared.client, container, hook, (&host, grace)) => done,
            () = self.ended(container) => return,
        };
        if let Err(problem) = done {
            warn!(pod = %self.pod, instance = %self.instance, problem, "its preStop hook failed");
        }
    }
}

fn done_in(folder: &PodFolder) -> Done {
    read(&folder.path().join(DONE_FILE)).unwrap_or_default()
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
