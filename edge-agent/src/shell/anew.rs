//! Replaces this process by a new one of the same program and number: when the store broke it, and
//! when the allocator is not set up for a small process. Pods and their shims notice nothing.

use anyhow::Context;
use std::os::unix::process::CommandExt;
use std::process::Command;
use tracing::warn;

/// Counts how often this process began anew because opening the store broke it.
const RESTARTS_VARIABLE: &str = "HINTERLAND_RESTARTS";

/// A store that breaks so many processes is a fault of something else.
const RESTARTS_MAX: u32 = 3;

/// glibc reads these when a program begins. By default it keeps an arena for each thread and gives
/// little back: 37 MiB after a backlog was written, 7 MiB with these.
const ALLOCATOR: [(&str, &str); 2] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "65536")];

/// What sled broke in this process is gone in the next.
///
/// # Errors
/// When that was done often enough, or the program can't be executed. Does not return otherwise.
pub(super) fn begin_anew(reason: &str) -> anyhow::Result<()> {
    let restarts = std::env::var(RESTARTS_VARIABLE).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    anyhow::ensure!(restarts < RESTARTS_MAX, "the store broke {restarts} processes: {reason}");
    warn!(reason, "the store broke this process; it begins anew");
    let count = (restarts + 1).to_string();
    let failure = same_program().env(RESTARTS_VARIABLE, count).exec();
    Err(failure).context("could not begin anew")
}

/// Sets the allocator up, unless whoever started this program has. An agent that can't runs with
/// what it has.
pub fn settle_allocator() {
    if ALLOCATOR.iter().all(|(name, _)| std::env::var_os(name).is_none()) {
        let failure = same_program().envs(ALLOCATOR).exec();
        warn!(error = %failure, "could not set up the allocator: the agent takes more memory");
    }
}

fn same_program() -> Command {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments);
    command
}
