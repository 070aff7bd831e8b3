//! Commands that people run in a pod: in its environment, its folder and its cgroups, and with it they end. A command has no
//! terminal and no input, and is killed at its deadline with its process group.

use super::identity::ended;
use super::probe::{Probed, Running, settled_environment};
use super::shim::{COMMAND_FOLLOWS, EXEC_WORD, cgroup};
use crate::runtime::ExecOrder;
use crate::runtime::exec::{Output, result_of};
use rustix::fd::OwnedFd;
use shared::wire::ExecResult;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};

/// What a command has printed is there when it has ended; its children may hold its outputs for longer.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(200);

/// What is read of an output at once.
const CHUNK_BYTES: usize = 4096;

/// Runs a command in a pod; a sentence says why it did not run. `program` is this one.
pub(super) async fn run(
    order: ExecOrder,
    probed: Probed,
    program: PathBuf,
) -> Result<ExecResult, String> {
    let none = || "the pod does not run".to_owned();
    let main = probed.main.ok_or_else(none)?;
    let environment = settled_environment(&probed).await.ok_or_else(none)?;
    let pod_end = main.open().map_err(|_| none())?;
    let mut command = command(&program, &order.command, main.pid);
    command.env_clear().envs(environment).current_dir(probed.working_dir());
    let failed = |error: io::Error| format!("the command could not be run: {error}");
    let mut running = Running::spawn(&mut command).map_err(failed)?;
    let (stdout, stderr) = pipes(&mut running).map_err(failed)?;
    let (mut printed, mut complained) = (Output::default(), Output::default());
    let status = {
        let mut reading =
            pin!(async { tokio::join!(read(stdout, &mut printed), read(stderr, &mut complained)) });
        let mut is_read = false;
        let mut deadline = pin!(sleep(order.timeout));
        let mut pod_ended = pin!(ended(&pod_end));
        let status = {
            let mut end = pin!(running.ended());
            loop {
                tokio::select! {
                    status = &mut end => break Some(status.map_err(failed)?),
                    () = &mut deadline => break None,
                    _ = &mut pod_ended => {
                        return Err("the pod ended meanwhile, and the command with it".to_owned());
                    }
                    _ = &mut reading, if !is_read => is_read = true,
                }
            }
        };
        // Kills what is left of it.
        drop(running);
        if !is_read {
            let _ = timeout(LAST_WORDS_WAIT, reading).await;
        }
        status
    };
    Ok(result_of(status.map(code_of), printed, complained))
}

/// This program, which enters the pod's cgroups and becomes the command.
fn command(program: &Path, words: &[String], main: i32) -> Command {
    let mut command = Command::new(program);
    command
        .arg(EXEC_WORD)
        .args(cgroup::entrances_of(main))
        .arg(COMMAND_FOLLOWS)
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn pipes(running: &mut Running) -> io::Result<(Receiver, Receiver)> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "it has no outputs");
    let child = running.child.as_mut().ok_or_else(gone)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let stdout = OwnedFd::from(stdout.ok_or_else(gone)?);
    let stderr = OwnedFd::from(stderr.ok_or_else(gone)?);
    Ok((Receiver::from_owned_fd(stdout)?, Receiver::from_owned_fd(stderr)?))
}

/// Reads until nobody can write any more.
async fn read(mut from: Receiver, into: &mut Output) {
    let mut chunk = [0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        into.push(chunk.get(..count).unwrap_or_default());
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}
