//! The lock of a pod: at most one start of a pod has processes.
//!
//! The agent takes it and hands the open file to the shim at birth; from there every descendant
//! inherits it, so that it is free only when all of them are gone. A descendant can close it; the
//! environment variable [`POD_FOLDER_VARIABLE`] finds most of those too.

use super::files::PodFolder;
use super::identity::{ProcessStat, every_process};
use super::layers::{Attempt, attempt};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::Signal;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Names the pod's folder in the environment of each of its processes.
pub(super) const POD_FOLDER_VARIABLE: &str = "HINTERLAND_POD_FOLDER";

/// Between two looks at processes that were killed; the kernel takes about this long.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A process that has shown nothing for this long is not in the middle of an `exec`: it has wiped
/// its command line and environment.
const EXEC_WAIT_MAX: Duration = Duration::from_millis(200);

/// After SIGKILL a process is gone at once, unless it is stuck in the kernel (a broken disk or
/// GPU), which this does not wait out.
const KILL_WAIT_MAX: Duration = Duration::from_secs(5);

/// Takes the lock; `None` when a process of the pod has it.
pub(super) fn take(folder: &PodFolder) -> Attempt<Option<File>> {
    let file = folder.open_lock()?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(attempt(format!("lock {}", folder.path().display()))(error)),
    }
}

/// Processes that belong to the pod in `folder`: they hold its lock or carry its name.
pub(super) fn processes_of(folder: &PodFolder) -> Vec<ProcessStat> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let lock = fs::canonicalize(folder.path().join("lock")).ok();
    let marker = marker_of(folder);
    let mut found = every_process();
    found.retain(|stat| {
        let pid = stat.identity.pid;
        pid != own
            && stat.runs()
            && (carries(pid, &marker) || lock.as_ref().is_some_and(|l| holds(pid, l)))
    });
    found
}

/// Kills every process that belongs to the pod in `folder`, and waits until none is left.
/// `false` when some can't be killed. Blocks for [`KILL_WAIT_MAX`] at most.
pub(super) fn kill_all(folder: &PodFolder) -> bool {
    let begin = Instant::now();
    let mut looks_in_vain = 0;
    while looks_in_vain < 2 {
        let found = processes_of(folder);
        if found.is_empty() {
            // Who it is that is just becoming a program shows in a moment.
            let is_sure = begin.elapsed() >= EXEC_WAIT_MAX || !is_any_becoming_a_program();
            looks_in_vain += u32::from(is_sure);
        } else if begin.elapsed() >= KILL_WAIT_MAX {
            return false;
        } else {
            looks_in_vain = 0;
            // First all are stopped, so that none makes another while its siblings are killed.
            for signal in [Signal::STOP, Signal::KILL] {
                found.iter().for_each(|stat| stat.identity.signal(signal));
            }
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    true
}

/// Whether some process is in the middle of an `exec`: it has a program and shows neither command
/// line nor environment yet.
fn is_any_becoming_a_program() -> bool {
    every_process().iter().filter(|stat| stat.runs()).any(|stat| {
        let folder = format!("/proc/{}", stat.identity.pid);
        let is_empty =
            |name: &str| fs::read(format!("{folder}/{name}")).is_ok_and(|text| text.is_empty());
        is_empty("cmdline") && is_empty("environ") && fs::read_link(format!("{folder}/exe")).is_ok()
    })
}

fn marker_of(folder: &PodFolder) -> Vec<u8> {
    let path = folder.path().as_os_str().as_bytes();
    [POD_FOLDER_VARIABLE.as_bytes(), b"=", path].concat()
}

fn carries(pid: i32, marker: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == marker)
}

/// Whether the process holds the lock on this file, not merely the file open.
fn holds(pid: i32, lock: &Path) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        // The link is read, not followed: what it leads to may be on a disk that hangs.
        let is_lock = fs::read_link(entry.path()).is_ok_and(|target| target == lock);
        let name = entry.file_name();
        is_lock
            && fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", name.to_string_lossy()))
                .is_ok_and(|text| text.contains("FLOCK"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::folder::tests::folder;
    use std::process::{Command, Stdio};

    #[test]
    fn a_lock_lives_as_long_as_a_process_that_inherited_it() {
        let (_temporary, folder) = folder();
        let lock = take(&folder).unwrap().unwrap();
        let mut child = Command::new("sleep").arg("100").stdin(Stdio::from(lock)).spawn().unwrap();
        assert!(take(&folder).unwrap().is_none());
        let found = processes_of(&folder);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].identity.pid, i32::try_from(child.id()).unwrap());
        assert!(kill_all(&folder));
        assert!(take(&folder).unwrap().is_some());
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_closed_the_lock_is_known_by_its_environment() {
        let (_temporary, folder) = folder();
        let mut command = Command::new("sleep");
        command.arg("100").env(POD_FOLDER_VARIABLE, folder.path());
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while processes_of(&folder).is_empty() {
            assert!(Instant::now() < deadline, "it was not found");
        }
        assert!(kill_all(&folder));
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn who_merely_reads_the_lock_file_is_left_alone() {
        let (_temporary, folder) = folder();
        let lock = take(&folder).unwrap();
        let reader = folder.open_lock().unwrap();
        let mut child =
            Command::new("sleep").arg("100").stdin(Stdio::from(reader)).spawn().unwrap();
        assert!(processes_of(&folder).is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        drop(lock);
    }
}
