//! The last step before a pod's program: a process that waits until it may become it.
//!
//! It has its own process number already, so that the number can be noted before the pod's program
//! runs. When the shim dies meanwhile it ends and nothing ran. That the program runs shows by its
//! end of the gate closing; that it does not, by a report through it.

use super::super::identity::ProcessIdentity;
use super::super::layers::{Attempt, attempt};
use super::super::order::{LaunchOrder, StartFailure, line_of, read_line};
use super::{LAUNCH_WORD, STATUS_DONE, STATUS_FAILED, own_program};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, set_parent_process_death_signal, setsid};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// From the release to the running program: one `exec`. A disk that takes longer does not answer.
const EXEC_WAIT_MAX: Duration = Duration::from_secs(15);

/// The lowest number for the lock's descriptor in the pod; programs use the first few for
/// themselves by number.
const LOCK_DESCRIPTOR_MIN: i32 = 100;

/// When memory is short, pods go before the agent and the shims, whose loss helps nobody.
const OOM_SCORE_ADJUSTMENT: &str = "500";

const MAKING: &str = "make the pod's process";

/// A process that waits for its release, or the pod's main process that it became.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) identity: ProcessIdentity,
    /// What the pod prints, read without blocking.
    pub(super) output: OwnedFd,
    gate: Option<UnixStream>,
}

impl Launched {
    /// Makes the process. It holds the pod's lock, which is this process's standard input.
    pub(super) fn spawn() -> Attempt<Self> {
        let (gate, inner_gate) = UnixStream::pair().map_err(attempt(MAKING))?;
        let (output, inner_output) = pipe_with(PipeFlags::CLOEXEC).map_err(attempt(MAKING))?;
        fcntl_setfl(&output, OFlags::NONBLOCK).map_err(attempt(MAKING))?;
        let lock = io::stdin().as_fd().try_clone_to_owned().map_err(attempt(MAKING))?;
        let child = Command::new(own_program())
            .arg(LAUNCH_WORD)
            .env_clear()
            .stdin(Stdio::from(lock))
            .stdout(Stdio::from(OwnedFd::from(inner_gate)))
            .stderr(Stdio::from(inner_output))
            .spawn()
            .map_err(attempt(MAKING))?;
        // Nothing else reaps it before the keeper does, so the number is its own.
        let identity = i32::try_from(child.id()).ok().and_then(ProcessIdentity::of);
        let identity = identity.ok_or_else(|| attempt(MAKING)(io::Error::other("it is gone")))?;
        Ok(Self { identity, output, gate: Some(gate) })
    }

    /// Lets it become the pod's program; returns when it has.
    pub(super) fn release(&mut self, order: &LaunchOrder) -> Result<(), StartFailure> {
        let Some(gate) = self.gate.take() else { return Ok(()) };
        let failed = |error: io::Error| {
            StartFailure::new(
                "ShimFailed",
                format!("the pod's process could not be let go: {error}"),
            )
        };
        gate.set_read_timeout(Some(EXEC_WAIT_MAX)).map_err(failed)?;
        (&gate).write_all(&line_of(order).map_err(failed)?).map_err(failed)?;
        match read_line::<StartFailure>(&gate).map_err(failed)? {
            None => Ok(()),
            Some(failure) => Err(failure),
        }
    }
}

/// The work of that process.
pub(super) fn run() -> u8 {
    let Ok(gate) = io::stdout().as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return STATUS_FAILED;
    };
    match read_line::<LaunchOrder>(&gate) {
        Ok(Some(order)) => {
            let failure = become_program(&order);
            if let Ok(line) = line_of(&failure) {
                let _ = (&gate).write_all(&line);
            }
            STATUS_FAILED
        }
        // The shim is gone.
        Ok(None) => STATUS_DONE,
        Err(_) => STATUS_FAILED,
    }
}

/// Returns only when that failed.
fn become_program(order: &LaunchOrder) -> StartFailure {
    if let Err(error) = prepare(order) {
        return StartFailure::new("ShimFailed", error.to_string());
    }
    let folder = order.working_dir.display();
    if let Err(error) = env::set_current_dir(&order.working_dir) {
        let message = format!("the working folder {folder} can't be entered: {error}");
        return StartFailure::new("WorkingDirNotUsable", message);
    }
    let output = match io::stderr().as_fd().try_clone_to_owned() {
        Ok(output) => output,
        Err(error) => return StartFailure::new("ShimFailed", error.to_string()),
    };
    let error = Command::new(&order.program)
        .args(&order.arguments)
        .env_clear()
        .envs(&order.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::from(output))
        .stderr(Stdio::inherit())
        .exec();
    not_executed(&order.program, &error)
}

/// What stands between the cgroups to enter and the command.
pub(in super::super) const COMMAND_FOLLOWS: &str = "--";

/// The program was not found, or can't be executed, as shells have it.
const STATUS_NOT_FOUND: u8 = 127;
const STATUS_NOT_EXECUTED: u8 = 126;

/// Becomes a command in a pod: enters its cgroups, ends with the agent, goes before the agent when memory is short.
/// Environment, folder and outputs are there already. Returns only when that failed.
pub(super) fn become_command(arguments: &[OsString]) -> u8 {
    let mut words = arguments.iter();
    for entrance in words.by_ref().take_while(|word| *word != COMMAND_FOLLOWS) {
        let _ = fs::write(entrance, "0");
    }
    let _ = fs::write(Path::new("/proc/self/oom_score_adj"), OOM_SCORE_ADJUSTMENT);
    // Its deadline is the agent's to keep.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let Some(program) = words.next() else { return STATUS_NOT_EXECUTED };
    let error = Command::new(program).args(words).exec();
    let failure = not_executed(&program.to_string_lossy(), &error);
    let _ = writeln!(io::stderr(), "{}", failure.message);
    match error.kind() {
        io::ErrorKind::NotFound => STATUS_NOT_FOUND,
        _ => STATUS_NOT_EXECUTED,
    }
}

fn prepare(order: &LaunchOrder) -> io::Result<()> {
    setsid()?;
    // Inherited by every descendant: no close-on-exec, and never closed here.
    let lock = fcntl_dupfd_cloexec(io::stdin(), LOCK_DESCRIPTOR_MIN)?;
    fcntl_setfd(&lock, FdFlags::empty())?;
    let _ = lock.into_raw_fd();
    // A limit that can't be set is remarked on by the shim; it does not keep the pod from running.
    for entrance in &order.cgroups {
        let _ = fs::write(entrance, "0");
    }
    let _ = fs::write(Path::new("/proc/self/oom_score_adj"), OOM_SCORE_ADJUSTMENT);
    Ok(())
}

fn not_executed(program: &str, error: &io::Error) -> StartFailure {
    let (reason, what) = match error.kind() {
        io::ErrorKind::NotFound => ("ProgramNotFound", "was not found"),
        io::ErrorKind::PermissionDenied => ("ProgramNotExecutable", "may not be executed"),
        _ => ("ProgramNotStarted", "could not be started"),
    };
    StartFailure::new(reason, format!("the program `{program}` {what}: {error}"))
}
