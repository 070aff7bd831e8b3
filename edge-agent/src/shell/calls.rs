//! Answers calls: pages of logs on a thread of their own, since a disk may be slow, and commands in pods. What is allowed
//! and recorded is the core's.

use crate::runtime::{AnyRuntime, ExecOrder, read_page, tail_log};
use shared::limits::CALL_BODY_BYTES_MAX;
use shared::model::PodId;
use shared::wire::{CallMethod, CallOutcome, CallRequest, CallResponse, LogFrom, LogPage};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// Logs that are read at once; each holds a part of a file in memory for a moment.
const READS_MAX: usize = 4;

/// Readers who wait for more of a log.
const WAITS_MAX: usize = 8;

/// Commands that run at once.
const COMMANDS_MAX: usize = 4;

/// Between two looks at a log for more.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Answers calls, each in a task of its own.
pub(super) struct Answerer {
    pods_dir: PathBuf,
    /// Where answers go.
    answers: mpsc::UnboundedSender<CallResponse>,
    places: Arc<Places>,
    local: HashMap<u64, oneshot::Sender<CallOutcome>>,
    next_ticket: u64,
}

/// How much is done at once.
struct Places {
    reads: Semaphore,
    waits: Semaphore,
    commands: Semaphore,
}

impl Answerer {
    pub(super) fn new(pods_dir: PathBuf, answers: mpsc::UnboundedSender<CallResponse>) -> Self {
        let places = Places {
            reads: Semaphore::new(READS_MAX),
            waits: Semaphore::new(WAITS_MAX),
            commands: Semaphore::new(COMMANDS_MAX),
        };
        let (local, next_ticket) = (HashMap::new(), 0);
        Self { pods_dir, answers, places: Arc::new(places), local, next_ticket }
    }

    /// The number of a call of somebody on this machine, whose end goes to `reply`.
    pub(super) fn begin_local(&mut self, reply: oneshot::Sender<CallOutcome>) -> u64 {
        self.next_ticket += 1;
        self.local.insert(self.next_ticket, reply);
        self.next_ticket
    }

    pub(super) fn end_local(&mut self, ticket: u64, outcome: CallOutcome) {
        if let Some(reply) = self.local.remove(&ticket) {
            // Whoever asked may be gone.
            let _ = reply.send(outcome);
        }
    }

    /// Begins to answer.
    pub(super) fn answer(&self, request: CallRequest, runtime: &AnyRuntime) {
        let CallRequest { id, method, .. } = request;
        let (folder, places) = (self.pods_dir.clone(), Arc::clone(&self.places));
        match method {
            CallMethod::TailLog { pod, lines } => self.spawn(id, async move {
                match places.tail(folder, pod, lines).await {
                    Ok(body) => CallOutcome::done(body),
                    Err(message) => CallOutcome::Failed { message },
                }
            }),
            CallMethod::ReadLog { pod, container, from, bytes_max, wait_ms, .. } => {
                let wait = Duration::from_millis(u64::from(wait_ms));
                let log = (pod, container);
                let page = async move { places.read(folder, log, from, bytes_max, wait).await };
                self.spawn(id, async move { CallOutcome::of(page.await) });
            }
            CallMethod::Exec { pod, container, command, timeout_ms, .. } => {
                let timeout = Duration::from_millis(u64::from(timeout_ms));
                let running = runtime.exec(ExecOrder { pod, container, command, timeout });
                self.spawn(id, async move {
                    let Ok(_place) = places.commands.try_acquire() else {
                        let message = format!("{COMMANDS_MAX} commands run already");
                        return CallOutcome::Failed { message };
                    };
                    CallOutcome::of(running.await)
                });
            }
        }
    }

    fn spawn(&self, id: u64, outcome: impl Future<Output = CallOutcome> + Send + 'static) {
        let answers = self.answers.clone();
        drop(tokio::spawn(async move {
            let outcome = outcome.await;
            // Lost only when the agent stops.
            let _ = answers.send(CallResponse { id, outcome });
        }));
    }
}

impl Places {
    async fn tail(&self, folder: PathBuf, pod: PodId, lines: u32) -> Result<Vec<u8>, String> {
        self.read_once(move || tail_log(&folder, &pod, None, lines, CALL_BODY_BYTES_MAX)).await
    }

    /// A page, as soon as it has something or the wait is over.
    async fn read(
        &self,
        folder: PathBuf,
        (pod, container): (PodId, Option<String>),
        from: LogFrom,
        bytes_max: u32,
        wait: Duration,
    ) -> Result<LogPage, String> {
        let until = Instant::now() + wait;
        let mut from = from;
        let waiting = if wait.is_zero() { None } else { Some(self.waits.try_acquire()) };
        if let Some(Err(_)) = waiting {
            return Err(format!("{WAITS_MAX} others follow logs of this node already"));
        }
        loop {
            let (folder, pod, container) = (folder.clone(), pod.clone(), container.clone());
            let read = move || read_page(&folder, (&pod, container.as_deref()), &from, bytes_max);
            let page = self.read_once(read).await?;
            let is_empty = page.text.is_empty() && page.is_end && !page.gap;
            if !is_empty || Instant::now() >= until {
                return Ok(page);
            }
            from = LogFrom::After { cursor: page.next };
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn read_once<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let failed = |error: &dyn std::fmt::Display| format!("could not read the log: {error}");
        let _turn = self.reads.acquire().await.map_err(|error| failed(&error))?;
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|error| Err(failed(&error)))
    }
}
