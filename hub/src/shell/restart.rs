//! The process executes itself anew, with the same arguments: the store's library can be left in a
//! state (a panic inside, a lock that is never freed) from which only a new process recovers.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use thiserror::Error;

/// Counts the restarts in a row.
const RESTARTS_VARIABLE: &str = "HINTERLAND_HUB_RESTARTS";

/// The second open quarantines a store that can't be used; a third try is one too many already.
const RESTARTS_MAX: u32 = 3;

/// Why the process did not execute itself anew.
#[derive(Debug, Error)]
pub enum RestartError {
    /// It did so too often.
    #[error("executed itself anew {RESTARTS_MAX} times in vain: {reason}")]
    TooOften {
        /// Why it had to.
        reason: String,
    },
    /// The system refused.
    #[error("could not execute {program:?} anew")]
    Exec {
        /// The program.
        program: OsString,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Replaces this process. Returns only when that fails.
#[must_use]
pub(super) fn restart(reason: String) -> RestartError {
    let before = std::env::var(RESTARTS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let before: u32 = before.unwrap_or(0);
    if before >= RESTARTS_MAX {
        return RestartError::TooOften { reason };
    }
    let program = OsString::from("/proc/self/exe");
    let source = Command::new(&program)
        .arg0(std::env::args_os().next().unwrap_or_else(|| "hub".into()))
        .args(std::env::args_os().skip(1))
        .env(RESTARTS_VARIABLE, (before + 1).to_string())
        .exec();
    RestartError::Exec { program, source }
}
