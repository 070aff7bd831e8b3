//! What is left of an earlier start: found when the agent comes up, or when a lock is in the way.
//!
//! Believes the lock first, then identities, then files. Signals only processes that hold the pod's
//! lock or carry its folder in their environment, and only when nothing keeps them any more.

use super::files::{PodFolder, StateFile};
use super::layers::{Attempt, attempt};
use super::life::Keeper;
use super::lock::{kill_all, processes_of, take};
use super::shim::SHIM_WORD;
use crate::ports::InstanceId;
use shared::model::Revision;
use std::fs;
use std::io;
use std::time::{Duration, Instant};
use tracing::warn;

/// A shim notes who it is within milliseconds of taking over the lock. Its agent was killed just
/// then, or this would not be asked.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(2);

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How a pod's last start is.
#[derive(Debug)]
pub(super) enum Finding {
    /// There is none, or its end was taken note of.
    Nothing,
    /// It runs.
    Running { state: StateFile, keeper: Keeper },
    /// It ended and said how.
    Exited { instance: InstanceId, revision: Revision, code: i32 },
    /// It does not run and did not say how it ended.
    Lost { instance: InstanceId, revision: Revision },
}

/// Looks at a pod. Blocks for at most [`SETTLE_WAIT_MAX`] when it is just being started, and about
/// as long as the kernel takes to end processes that nothing keeps any more.
pub(super) fn examine(folder: &PodFolder, boot_id: &str) -> Attempt<Finding> {
    let deadline = Instant::now() + SETTLE_WAIT_MAX;
    loop {
        if let Some(_lock) = take(folder)? {
            return Ok(examine_free(folder, boot_id));
        }
        let state = folder.state().filter(|state| state.boot_id == boot_id);
        if let Some(state) = state
            && let Some(keeper) = keeper_of(&state)
        {
            return Ok(Finding::Running { state, keeper });
        }
        if Instant::now() >= deadline || !is_being_started(folder) {
            break;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    if folder.state_is_unreadable() {
        let why = io::Error::other("the state of a pod that runs can't be read; it is let be");
        return Err(attempt(format!("look at {}", folder.path().display()))(why));
    }
    end_orphans(folder);
    let Some(_lock) = take(folder)? else {
        let why = io::Error::other("processes of an earlier start can't be ended");
        return Err(attempt(format!("take the lock of {}", folder.path().display()))(why));
    };
    Ok(examine_free(folder, boot_id))
}

/// Nothing holds the lock but this.
fn examine_free(folder: &PodFolder, boot_id: &str) -> Finding {
    let Some(state) = folder.state() else {
        return match folder.path().join("state.json").exists() {
            true => Finding::Lost { instance: InstanceId(0), revision: Revision(0) },
            false => Finding::Nothing,
        };
    };
    let (instance, revision) = (state.instance, state.revision);
    if let Some(code) = folder.exit_of(instance) {
        return Finding::Exited { instance, revision, code };
    }
    if state.boot_id == boot_id {
        // Its shim was killed, and the pod closes what it inherits.
        if let Some(keeper) = state.main.and_then(Keeper::main) {
            return Finding::Running { state, keeper };
        }
        end_orphans(folder);
    }
    Finding::Lost { instance, revision }
}

/// Who keeps a start that holds its lock; `None` when that is not known yet, or nobody does.
fn keeper_of(state: &StateFile) -> Option<Keeper> {
    match state.main {
        Some(main) => Keeper::shim(state.shim).or_else(|| Keeper::main(main)),
        None => None,
    }
}

fn is_being_started(folder: &PodFolder) -> bool {
    processes_of(folder).iter().any(|stat| {
        let command = fs::read(format!("/proc/{}/cmdline", stat.identity.pid)).unwrap_or_default();
        let mut words = command.split(|byte| *byte == 0).skip(1);
        words.next().is_some_and(|word| word.starts_with(SHIM_WORD.as_bytes()))
    })
}

fn end_orphans(folder: &PodFolder) {
    let pids: Vec<i32> = processes_of(folder).iter().map(|stat| stat.identity.pid).collect();
    let folder_shown = folder.path().display();
    if !pids.is_empty() {
        warn!(folder = %folder_shown, ?pids, "ending processes that an earlier start left behind");
    }
    // Also when none was seen: it looks twice.
    if !kill_all(folder) {
        warn!(folder = %folder_shown, "some of them can't be ended; they are stuck in the kernel");
    }
}
