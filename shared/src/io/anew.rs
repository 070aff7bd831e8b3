//! Replaces this process by a new one of the same program, number and arguments: when the store's
//! library broke it (a panic inside, a lock that is never freed), and when the allocator is not set
//! up for a small process. Children notice nothing.

use super::store::blame_sled;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt;
use std::process::Command;
use thiserror::Error;

/// Counts how often this process began anew because the store broke it.
const RESTARTS_VARIABLE: &str = "HINTERLAND_RESTARTS";

/// The second open quarantines a store that can't be used; a third try is one too many already.
const RESTARTS_MAX: u32 = 3;

/// glibc reads these when a program begins. By default it keeps an arena for each thread and gives
/// little back: an agent has 37 MiB after a backlog was written, 7 MiB with the first two. Buffers of a moment
/// are pages of their own by the third, and leave no hole behind.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_TRIM_THRESHOLD_", "65536"),
    ("MALLOC_MMAP_THRESHOLD_", "32768"),
];

/// Why the process did not begin anew.
#[derive(Debug, Error)]
pub enum AnewError {
    /// It did so too often.
    #[error("began anew {RESTARTS_MAX} times in vain: {reason}")]
    TooOften {
        /// Why it had to.
        reason: String,
    },
    /// The system refused.
    #[error("could not execute this program anew")]
    Exec(#[source] io::Error),
}

/// Replaces this process because the store broke it. Returns only when that fails.
#[must_use]
pub fn begin_anew(reason: String) -> AnewError {
    let before = restarts();
    if before >= RESTARTS_MAX {
        return AnewError::TooOften { reason };
    }
    let count = (before + 1).to_string();
    AnewError::Exec(same_program().env(RESTARTS_VARIABLE, count).exec())
}

/// How often this process began anew because the store broke it.
#[must_use]
pub fn restarts() -> u32 {
    std::env::var(RESTARTS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Sets the allocator up, unless whoever started this program did: replaces this process then.
/// Called before anything is opened.
///
/// # Errors
/// When the system refuses; the program can go on, with more memory.
pub fn settle_allocator() -> Result<(), AnewError> {
    if ALLOCATOR.iter().any(|(name, _)| std::env::var_os(name).is_some()) {
        return Ok(());
    }
    Err(AnewError::Exec(same_program().envs(ALLOCATOR).exec()))
}

/// From now on any panic ends this process, whatever thread it is in: one in the store's library by beginning anew,
/// any other by SIGABRT, without a core dump, so that whoever started the program starts it again. A program that may end at any point
/// has no other way to go on with what a panic left half done.
pub fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if let Some(reason) = blame_sled(panic) {
            let failure = begin_anew(reason);
            let _ = writeln!(io::stderr(), "could not begin anew: {}", crate::in_words(&failure));
        }
        // Keys and Secrets are in its memory, and a core dump is on a disk.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        std::process::abort();
    }));
}

fn same_program() -> Command {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    // Not by its path: after an update another program lies there.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments);
    command
}
