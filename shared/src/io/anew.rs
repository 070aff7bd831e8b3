//! Replaces this process by a new one of the same program, number and arguments: when the store's
//! library broke it (a panic inside, a lock that is never freed), and when the allocator is not set
//! up for a small process. Children notice nothing.

use std::io;
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
    let before = std::env::var(RESTARTS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let before: u32 = before.unwrap_or(0);
    if before >= RESTARTS_MAX {
        return AnewError::TooOften { reason };
    }
    let count = (before + 1).to_string();
    AnewError::Exec(same_program().env(RESTARTS_VARIABLE, count).exec())
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

fn same_program() -> Command {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    // Not by its path: after an update another program lies there.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments);
    command
}
