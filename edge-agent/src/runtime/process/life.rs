//! The agent's side of one start of a pod: one task that begins it, watches it and passes orders.
//!
//! The lock is taken here and handed to the shim at its birth, so there is no moment at which a
//! start is under way and the lock is free. Blocks the loop for nothing but small files and a spawn.

use super::adopt::{Finding, examine};
use super::files::PodFolder;
use super::identity::{ProcessIdentity, ended};
use super::layers::{Attempt, attempt};
use super::lock;
use super::order::{MESSAGE_BYTES_MAX, read_line};
use super::order::{Report, RunOrder, StartFailure, StopOrder, line_of};
use super::shim::SHIM_WORD;
use super::{Shared, UNKNOWN_EXIT_CODE, volumes};
use crate::ports::{InstanceId, RuntimeError, RuntimeEvent, StartRequest};
use crate::runtime::access::Access;
use crate::runtime::volumes::Writer;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use shared::in_words;
use shared::model::{PodId, UnixMs};
use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

/// From the order to the running program. Longer than the shim itself waits for any step.
const START_WAIT_MAX: Duration = Duration::from_secs(20);

/// Beyond the grace, until a shim that does not end is killed and its pod with it.
const SHIM_MARGIN: Duration = Duration::from_secs(10);

/// A shim that has said its last word ends at once.
const SHIM_END_WAIT_MAX: Duration = Duration::from_secs(5);

/// What is quoted of a shim's own words.
const SHIM_WORDS_BYTES_MAX: usize = 300;

/// One start.
pub(super) struct Life {
    pub(super) shared: Arc<Shared>,
    pub(super) pod: PodId,
    pub(super) instance: InstanceId,
    pub(super) folder: PodFolder,
    /// Milliseconds of grace, once it shall stop.
    pub(super) orders: watch::Receiver<Option<u64>>,
}

/// Whose end is the end of the start.
#[derive(Debug)]
pub(super) struct Keeper {
    identity: ProcessIdentity,
    /// Becomes readable when it ends.
    end: OwnedFd,
    is_shim: bool,
}

impl Keeper {
    /// The shim; `None` when it does not run.
    pub(super) fn shim(identity: ProcessIdentity) -> Option<Self> {
        Self::of(identity, true)
    }

    /// The main process of a pod whose shim was killed; `None` when it does not run.
    pub(super) fn main(identity: ProcessIdentity) -> Option<Self> {
        Self::of(identity, false)
    }

    fn of(identity: ProcessIdentity, is_shim: bool) -> Option<Self> {
        let end = identity.open().ok().filter(|_| identity.is_alive())?;
        Some(Self { identity, end, is_shim })
    }

    pub(super) fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Returns when it has ended, and has been waited for if it is a child of the agent.
    async fn ended(&self) -> io::Result<()> {
        ended(&self.end).await?;
        let _ =
            waitid(WaitId::PidFd(self.end.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        Ok(())
    }
}

struct Begun {
    keeper: Keeper,
    main: ProcessIdentity,
    started_at: UnixMs,
}

impl Life {
    /// Begins it and stays until it has ended.
    pub(super) async fn started(mut self, order: RunOrder, request: StartRequest) {
        let (pod, instance) = (self.pod.clone(), self.instance);
        match self.begin(order, request).await {
            Ok(begun) => {
                if let Some(live) = self.shared.live().get_mut(&pod) {
                    live.keeper = Some(begun.keeper.identity);
                    live.main = Some(begun.main);
                }
                let started_at = begun.started_at;
                self.shared.tell(RuntimeEvent::Started { pod, instance, started_at });
                self.keep(begun.keeper, Some(begun.main)).await;
            }
            Err(failure) => {
                self.shared.live().remove(&pod);
                self.shared.tell_failure(pod, instance, failure);
            }
        }
    }

    /// Stays with a start that was found running until it has ended.
    pub(super) async fn adopted(mut self, keeper: Keeper) {
        let main = self.folder.state().and_then(|state| state.main);
        self.keep(keeper, main).await;
    }

    async fn begin(&self, order: RunOrder, request: StartRequest) -> Result<Begun, StartFailure> {
        let prepare = || -> Attempt<()> { self.folder.create() };
        prepare().map_err(|error| failed(&error))?;
        let lock = self.take_lock().await?;
        // What an earlier start noted must not be taken for this one's.
        self.folder.forget();
        self.lay_down(request).await?;
        let (keeper, socket) = self.spawn(lock).map_err(|error| failed(&error))?;
        let report = timeout(START_WAIT_MAX, converse(socket, &order)).await;
        match report {
            Ok(Ok(Some(Report::Started { main, started_at, remarks }))) => {
                for remark in remarks {
                    warn!(pod = %self.pod, instance = %self.instance, "{remark}");
                }
                Ok(Begun { keeper, main, started_at })
            }
            Ok(Ok(Some(Report::Failed(failure)))) => {
                self.finish(keeper).await;
                Err(failure)
            }
            Ok(Ok(None)) => Err(self.abandon(keeper, "ended without an answer").await),
            Ok(Err(error)) => Err(self.abandon(keeper, &format!("does not answer: {error}")).await),
            Err(_) => Err(self.abandon(keeper, "does not answer in time").await),
        }
    }

    async fn lay_down(&self, request: StartRequest) -> Result<(), StartFailure> {
        let (shared, folder) = (self.shared.clone(), self.folder.clone());
        let work = move || {
            let _turn = shared.writing();
            let (storage, access) = (&shared.storage, Access::default());
            storage.keep_only(&folder, &request);
            let writer = Writer { secrets: shared.secrets.as_ref(), access };
            let find = |volume: &_| storage.place(&folder, &request, volume, access);
            volumes::lay_down(&folder, &request.volumes, writer, find)
        };
        let ended = || StartFailure::new("VolumeFailed", "the agent ends");
        blocking(work).await.unwrap_or_else(|| Err(ended()))
    }

    async fn take_lock(&self) -> Result<File, StartFailure> {
        if let Some(lock) = lock::take(&self.folder).map_err(|error| failed(&error))? {
            return Ok(lock);
        }
        let (folder, boot_id) = (self.folder.clone(), self.shared.boot_id.clone());
        let finding = blocking(move || examine(&folder, &boot_id)).await;
        let still = |message: String| StartFailure::new("StillRunning", message);
        match finding {
            Some(Ok(Finding::Running { state, .. })) => {
                let instance = state.instance;
                return Err(still(format!("start {instance} of this pod still runs")));
            }
            Some(Err(error)) => return Err(still(in_words(&error))),
            _ => {}
        }
        let lock = lock::take(&self.folder).map_err(|error| failed(&error))?;
        lock.ok_or_else(|| still("a process of an earlier start still holds the lock".to_owned()))
    }

    fn spawn(&self, lock: File) -> Attempt<(Keeper, UnixStream)> {
        let starting = || attempt(format!("start the shim of {}", self.pod));
        let (socket, inner_socket) = std::os::unix::net::UnixStream::pair().map_err(starting())?;
        socket.set_nonblocking(true).map_err(starting())?;
        let words = File::create(self.folder.shim_log()).map_err(starting())?;
        // Its working folder is the root, so that it holds no file system that is to be unmounted.
        let child = Command::new(&self.shared.options.shim_program)
            .arg(SHIM_WORD)
            .arg(self.folder.path())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(lock))
            .stdout(Stdio::from(OwnedFd::from(inner_socket)))
            .stderr(Stdio::from(words))
            .spawn()
            .map_err(starting())?;
        let gone = || starting()(io::Error::other("it has ended"));
        let identity = i32::try_from(child.id()).ok().and_then(ProcessIdentity::of);
        let identity = identity.ok_or_else(gone)?;
        // Not waited for yet, so the number is still its own even if it has ended.
        let end = identity.open().map_err(starting())?;
        let socket = UnixStream::from_std(socket).map_err(starting())?;
        Ok((Keeper { identity, end, is_shim: true }, socket))
    }

    /// The shim has said that nothing runs; then it ends.
    async fn finish(&self, shim: Keeper) {
        if timeout(SHIM_END_WAIT_MAX, shim.ended()).await.is_err() {
            self.abandon(shim, "does not end").await;
        }
    }

    /// Kills the shim and what it may have started.
    async fn abandon(&self, shim: Keeper, what: &str) -> StartFailure {
        let _ = pidfd_send_signal(&shim.end, Signal::KILL);
        let _ = timeout(SHIM_END_WAIT_MAX, shim.ended()).await;
        self.kill_all().await;
        let words = std::fs::read(self.folder.shim_log()).unwrap_or_default();
        let words = words.get(..words.len().min(SHIM_WORDS_BYTES_MAX)).unwrap_or_default();
        let words = String::from_utf8_lossy(words);
        StartFailure::new("ShimFailed", format!("the shim {what}. {}", words.trim()))
    }

    async fn kill_all(&self) {
        let folder = self.folder.clone();
        if blocking(move || lock::kill_all(&folder)).await != Some(true) {
            warn!(pod = %self.pod, instance = %self.instance, "processes of it can't be ended");
        }
    }

    /// Stays until nothing of it runs, then says so.
    async fn keep(&mut self, keeper: Keeper, main: Option<ProcessIdentity>) {
        let code = match self.end_of(&keeper).await {
            Some(code) => code,
            None => self.end_without_shim(&keeper, main).await,
        };
        self.shared.live().remove(&self.pod);
        let (pod, instance) = (self.pod.clone(), self.instance);
        self.shared.tell(RuntimeEvent::Exited { pod, instance, code });
    }

    /// The code that the shim left; `None` when there was no shim or it was killed.
    async fn end_of(&mut self, keeper: &Keeper) -> Option<i32> {
        if keeper.is_shim {
            self.watch_shim(keeper).await;
            // A pod without a file of its end had its shim killed.
            return self.folder.exit_of(self.instance);
        }
        None
    }

    async fn watch_shim(&mut self, shim: &Keeper) {
        let mut force_at = None;
        loop {
            let force = sleep_until(force_at.unwrap_or_else(Instant::now));
            tokio::select! {
                ended = shim.ended() => match ended {
                    Ok(()) => return,
                    Err(error) => {
                        warn!(pod = %self.pod, %error, "the shim can't be watched; its pod is ended");
                        let _ = pidfd_send_signal(&shim.end, Signal::KILL);
                        return;
                    }
                },
                Some(grace_ms) = ordered(&mut self.orders) => {
                    self.pass_stop(grace_ms);
                    let limit = Duration::from_millis(grace_ms) + SHIM_MARGIN;
                    force_at = Instant::now().checked_add(limit);
                }
                () = force, if force_at.is_some() => {
                    warn!(pod = %self.pod, "the shim does not end; it is killed with its pod");
                    let _ = pidfd_send_signal(&shim.end, Signal::KILL);
                    force_at = None;
                }
            }
        }
    }

    fn pass_stop(&self, grace_ms: u64) {
        let write = || -> io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let mut control = File::from(open(self.folder.control(), flags, Mode::empty())?);
            control.write_all(&line_of(&StopOrder { instance: self.instance, grace_ms })?)
        };
        if let Err(error) = write() {
            warn!(pod = %self.pod, %error, "the order to stop did not reach the shim");
        }
    }

    /// Its shim was killed. Its main process may run on; nobody will ever know its exit status.
    async fn end_without_shim(&mut self, keeper: &Keeper, main: Option<ProcessIdentity>) -> i32 {
        let is_forced = keeper.is_shim && self.orders.borrow().is_some();
        if let Some(main) = main.filter(|_| !is_forced).and_then(Keeper::main) {
            let (pod, instance) = (&self.pod, self.instance);
            info!(%pod, %instance, "the pod runs without its shim, which was killed");
            if let Some(live) = self.shared.live().get_mut(&self.pod) {
                live.keeper = live.main;
            }
            self.watch_main(&main).await;
        }
        self.kill_all().await;
        UNKNOWN_EXIT_CODE
    }

    /// Returns when the main process has ended, or its grace.
    async fn watch_main(&mut self, main: &Keeper) {
        let mut kill_at = None;
        loop {
            let kill = sleep_until(kill_at.unwrap_or_else(Instant::now));
            tokio::select! {
                _ = main.ended() => return,
                Some(grace_ms) = ordered(&mut self.orders) => {
                    let _ = pidfd_send_signal(&main.end, Signal::TERM);
                    kill_at = Instant::now().checked_add(Duration::from_millis(grace_ms));
                }
                () = kill, if kill_at.is_some() => return,
            }
        }
    }
}

/// The next order to stop; never ready again when there can be none.
async fn ordered(orders: &mut watch::Receiver<Option<u64>>) -> Option<u64> {
    if orders.changed().await.is_err() {
        // The runtime is gone, and with it soon this task.
        std::future::pending::<()>().await;
    }
    *orders.borrow_and_update()
}

/// Gives the order and takes the report; `None` when the shim ended before it was whole.
async fn converse(mut socket: UnixStream, order: &RunOrder) -> io::Result<Option<Report>> {
    socket.write_all(&line_of(order)?).await?;
    let max = u64::try_from(MESSAGE_BYTES_MAX).unwrap_or(u64::MAX);
    let (mut line, mut chunk) = (Vec::new(), [0_u8; 512]);
    let mut socket = socket.take(max);
    while line.last() != Some(&b'\n') {
        let count = socket.read(&mut chunk).await?;
        if count == 0 {
            break;
        }
        line.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
    read_line(line.as_slice())
}

/// Work that may take its time; `None` when the runtime is being shut down.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Option<T>> {
    let task = tokio::task::spawn_blocking(work);
    async { task.await.ok() }
}

fn failed(error: &RuntimeError) -> StartFailure {
    let reason = if super::files::is_disk_full(error) { "DiskFull" } else { "ShimFailed" };
    StartFailure::new(reason, in_words(error))
}
