//! The shim: keeps one pod, so that the agent may come and go.
//!
//! A small blocking loop: no tokio, no tracing, no threads. It is born with the pod's lock as its
//! standard input and a socket to the agent as its standard output. The order of its steps is what
//! makes a kill between any two of them safe:
//!
//! 1. It has the lock, before anything else.
//! 2. It notes which start this is and who it is.
//! 3. It makes the pod's process, which waits: nothing of the pod runs yet.
//! 4. It notes that process.
//! 5. It lets it go; the pod's program runs.
//! 6. When the main process has ended it ends what is left of the pod, down to the last descendant.
//! 7. It notes the exit status, durably, and ends; only then the lock is free.
//!
//! Killed before 5, the waiting process ends by itself and nothing ran. Killed after, the state
//! names the pod's main process and the descendants hold the lock.

pub(super) mod cgroup;
mod keep;
mod launch;

use super::files::{ExitFile, PodFolder, StateFile, is_disk_full};
use super::identity::{ProcessIdentity, boot_id};
use super::layers::{Attempt, attempt};
use super::log::RotatingLog;
use super::order::{Report, RunOrder, StartFailure, line_of, read_line};
use crate::ports::RuntimeError;
use cgroup::Cgroups;
use keep::Keeper;
pub(super) use launch::COMMAND_FOLLOWS;
use launch::Launched;
use rustix::process::{getpid, set_child_subreaper, setsid};
use shared::in_words;
use shared::model::UnixMs;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The word that makes this program a shim, followed by the pod's folder.
pub(super) const SHIM_WORD: &str = "shim";

/// The word that makes this program the last step before a pod's program.
const LAUNCH_WORD: &str = "shim-launch";

/// The word that makes this program a command in a pod; see [`launch::become_command`].
pub(super) const EXEC_WORD: &str = "shim-exec";

/// The order follows the spawn at once; an agent that hangs must not leave a locked pod behind.
const ORDER_WAIT_MAX: Duration = Duration::from_secs(10);

/// The exit code of a pod whose program could not be started, as shells have it.
const NOT_STARTED_CODE: i32 = 127;

/// The shim's own exit statuses.
const STATUS_DONE: u8 = 0;
const STATUS_FAILED: u8 = 1;
const STATUS_MISUSED: u8 = 2;

/// Does the work of a shim when the program was started as one; the exit status, or `None` when it
/// was not. `main` calls this before anything else, with the arguments as [`std::env::args_os`]
/// gives them: a shim must stay small.
#[must_use]
pub fn shim_if_asked(arguments: &[OsString]) -> Option<u8> {
    let word = arguments.get(1)?.to_str()?;
    match word {
        SHIM_WORD => Some(run(arguments.get(2).map(PathBuf::from))),
        LAUNCH_WORD => Some(launch::run()),
        EXEC_WORD => Some(launch::become_command(arguments.get(2..).unwrap_or_default())),
        _ => None,
    }
}

#[inline(never)]
fn run(folder: Option<PathBuf>) -> u8 {
    let Some(folder) = folder.filter(|folder| folder.is_absolute()) else {
        say("expected the absolute path of a pod's folder; the agent starts this by itself");
        return STATUS_MISUSED;
    };
    match run_pod(&PodFolder::at(folder)) {
        Ok(()) => STATUS_DONE,
        Err(error) => {
            say(&in_words(&error));
            STATUS_FAILED
        }
    }
}

fn run_pod(folder: &PodFolder) -> Attempt<()> {
    leave_the_agent()?;
    let agent = io::stdout().as_fd().try_clone_to_owned();
    let agent = UnixStream::from(agent.map_err(attempt("take the socket to the agent"))?);
    let Some(order) = receive(&agent)? else { return Ok(()) };
    let mut cgroups = Cgroups::prepare(folder.path(), order.limits);
    let result = start(folder, &order, &mut cgroups);
    match result {
        Ok((launched, control, started)) => {
            tell(&agent, &started);
            drop(agent);
            let log = RotatingLog::new(folder.log(), order.log_max_bytes, order.log_max_files);
            let code = Keeper::new(order.instance, launched, control, log).keep();
            folder.write_exit(ExitFile { instance: order.instance, code })?;
        }
        Err(failure) => {
            keep::end_children();
            let code = NOT_STARTED_CODE;
            let _ = folder.write_exit(ExitFile { instance: order.instance, code });
            tell(&agent, &Report::Failed(failure));
        }
    }
    cgroups.remove();
    Ok(())
}

/// Signals to the agent's terminal or group are not for the pod, and the pod's orphans are the
/// shim's.
fn leave_the_agent() -> Attempt<()> {
    setsid().map_err(attempt("leave the agent's session"))?;
    set_child_subreaper(Some(getpid())).map_err(attempt("become the parent of orphans"))
}

fn receive(agent: &UnixStream) -> Attempt<Option<RunOrder>> {
    let receiving = || attempt("receive the order to run");
    agent.set_read_timeout(Some(ORDER_WAIT_MAX)).map_err(receiving())?;
    read_line(agent).map_err(attempt("receive the order to run"))
}

/// Tells the agent, if it is still there.
fn tell(mut agent: &UnixStream, report: &Report) {
    if let Ok(line) = line_of(report) {
        let _ = agent.write_all(&line);
    }
}

type Begun = (Launched, File, Report);

fn start(
    folder: &PodFolder,
    order: &RunOrder,
    cgroups: &mut Cgroups,
) -> Result<Begun, StartFailure> {
    let begin = || -> Attempt<(Launched, File, StateFile)> {
        let control = keep::open_control(&folder.control())?;
        folder.reserve_exit()?;
        let mut state = state(order)?;
        folder.write_state(&state)?;
        let launched = Launched::spawn()?;
        state.main = Some(launched.identity);
        folder.write_state(&state)?;
        Ok((launched, control, state))
    };
    let (mut launched, control, state) = begin().map_err(|error| failure(&error))?;
    let mut launch = order.launch.clone();
    launch.cgroups = cgroups.entrances();
    launched.release(&launch)?;
    let remarks = cgroups.take_remarks();
    let (main, started_at) = (launched.identity, state.started_at);
    Ok((launched, control, Report::Started { main, started_at, remarks }))
}

fn state(order: &RunOrder) -> Attempt<StateFile> {
    let gone = || attempt("read who this process is")(io::Error::other("no /proc/<pid>/stat"));
    Ok(StateFile {
        instance: order.instance,
        revision: order.revision,
        boot_id: boot_id().map_err(attempt("read the boot's name"))?,
        shim: ProcessIdentity::own().ok_or_else(gone)?,
        main: None,
        started_at: now(),
        working_dir: order.launch.working_dir.clone(),
        placement: order.placement.clone(),
        taken: Some(order.taken),
        parameters_id: order.parameters_id,
    })
}

fn failure(error: &RuntimeError) -> StartFailure {
    let reason = if is_disk_full(error) { "DiskFull" } else { "ShimFailed" };
    StartFailure::new(reason, in_words(error))
}

fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Into `shim.log`, which is the standard error of a shim.
fn say(sentence: &str) {
    let _ = writeln!(io::stderr(), "shim: {sentence}");
}

/// This very program, also when its file was replaced since.
fn own_program() -> &'static Path {
    Path::new("/proc/self/exe")
}
