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
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
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

/// Runs one check; a sentence says what failed.
pub(super) async fn run(probe: &Probe, probed: &Probed) -> Result<(), String> {
    checks::run(probe, |exec| check_by_command(exec, probed)).await
}

/// A command that runs; dropping it kills its process group.
#[derive(Debug)]
struct Running {
    child: Option<Child>,
    group: Option<Pid>,
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
    let failed = |error: std::io::Error| format!("`{program}` could not be run: {error}");
    let environment = settled_environment(probed).await.ok_or("the pod does not run")?;
    let working_dir = probed.folder.state().map(|state| state.working_dir);
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(working_dir.unwrap_or_else(|| probed.folder.home()))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut running = Running { child: Some(child), group };
    let group = group.ok_or_else(|| format!("`{program}` has no number"))?;
    let end = pidfd_open(group, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
    ended(&end).await.map_err(failed)?;
    let _ = kill_process_group(group, Signal::KILL);
    // It has ended, so this does not block; from now on the number may be another's.
    let mut child = running.child.take().ok_or_else(|| format!("`{program}` is gone"))?;
    let status = child.wait().map_err(failed)?;
    judge(program, status)
}

fn judge(program: &str, status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("`{program}` ended with {status}")) }
}

/// The environment of the pod's main process, which shows none for a moment when it has just become
/// its program.
async fn settled_environment(probed: &Probed) -> Option<Vec<(OsString, OsString)>> {
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
