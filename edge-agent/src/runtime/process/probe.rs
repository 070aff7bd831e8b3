//! Checks of a pod by command: it runs in the pod's environment and is killed with its process group
//! afterwards.

use super::files::PodFolder;
use super::identity::{ProcessIdentity, ended};
use super::lock::POD_FOLDER_VARIABLE;
use crate::runtime::probe as checks;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use shared::model::{ExecAction, Probe};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::time::sleep;

/// The rest of an `exec` takes microseconds; a busy machine may stop it in between.
const ENVIRONMENT_LOOKS: u32 = 20;
const ENVIRONMENT_LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The pod that a check is about.
#[derive(Debug, Clone)]
pub(super) struct Probed {
    pub(super) folder: PodFolder,
    /// Its main process, whose environment a command gets; `None` when it does not run.
    pub(super) main: Option<ProcessIdentity>,
}

impl Probed {
    /// Where the pod's program was started.
    pub(super) fn working_dir(&self) -> PathBuf {
        let noted = self.folder.state().map(|state| state.working_dir);
        noted.unwrap_or_else(|| self.folder.home())
    }
}

/// Runs one check; a sentence says what failed.
pub(super) async fn run(probe: &Probe, probed: &Probed) -> Result<(), String> {
    checks::run(probe, checks::NODE_HOST, |exec| check_by_command(exec, probed)).await
}

/// A command that runs; dropping it kills its process group.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Option<Child>,
    group: Option<Pid>,
}

impl Running {
    /// Starts it, in a process group of its own.
    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).stdin(Stdio::null()).spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(Self { child: Some(child), group })
    }

    /// Waits until it has ended, and kills what is left of its group.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "it is gone");
        let group = self.group.ok_or_else(gone)?;
        let end = pidfd_open(group, PidfdFlags::empty())?;
        ended(&end).await?;
        let _ = kill_process_group(group, Signal::KILL);
        // It has ended, so this does not block; from now on the number may be another's.
        self.child.take().ok_or_else(gone)?.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Not waited for yet, so the number is still that of its group.
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        if !matches!(child.try_wait(), Ok(Some(_))) {
            // Stuck in the kernel, perhaps for ever: the agent does not wait for that.
            std::thread::spawn(move || child.wait());
        }
    }
}

async fn check_by_command(exec: &ExecAction, probed: &Probed) -> Result<(), String> {
    let (program, arguments) = exec.command.split_first().ok_or("exec.command is empty")?;
    let failed = |error: io::Error| format!("`{program}` could not be run: {error}");
    let environment = settled_environment(probed).await.ok_or("the pod does not run")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(probed.working_dir())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut running = Running::spawn(&mut command).map_err(failed)?;
    judge(program, running.ended().await.map_err(failed)?)
}

fn judge(program: &str, status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("`{program}` ended with {status}")) }
}

/// The environment of the pod's main process, which shows none for a moment when it has just become
/// its program.
pub(super) async fn settled_environment(probed: &Probed) -> Option<Vec<(OsString, OsString)>> {
    for _ in 0..ENVIRONMENT_LOOKS {
        let environment = environment(probed)?;
        if environment.iter().any(|(name, _)| name == POD_FOLDER_VARIABLE) {
            return Some(environment);
        }
        sleep(ENVIRONMENT_LOOK_AGAIN).await;
    }
    // It has changed its environment; so be it.
    environment(probed)
}

/// The environment that the pod's main process was started with.
fn environment(probed: &Probed) -> Option<Vec<(OsString, OsString)>> {
    let main = probed.main?;
    let text = fs::read(format!("/proc/{}/environ", main.pid)).ok()?;
    // Read first, then sure whose it was.
    main.is_alive().then_some(())?;
    let variables = text.split(|byte| *byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        let (name, value) = variable.split_at(at);
        let value = value.get(1..)?;
        Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())))
    });
    Some(variables.collect())
}
