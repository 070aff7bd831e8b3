//! The trial of a suspicious store in a child process, where a panic or a hang of sled hurts nobody.
//!
//! The child opens the database, reads every page and says in one line what it found. It needs no
//! key and changes nothing but what sled changes when it opens.

use super::database::{Database, Remedy};
use super::{ALL_TREES, StoreFiles};
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The hidden first argument of the child.
const PROBE: &str = "__probe-store";

/// The running program, even when its file was replaced by an upgrade.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// A line of words; less than a pipe holds, so that the child never waits for its reader.
const REASON_BYTES_MAX: u64 = 2048;

const USABLE: u8 = 0;
const UNUSABLE: u8 = 2;
/// The child could not find out: no rights, no room, or another process has the store.
const UNKNOWN: u8 = 3;

/// What a trial found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Probed {
    Usable,
    Unusable(String),
    /// No child could be started or it could not find out; the open in this process will tell.
    Unknown,
}

/// The child process that tries an open. `main` calls it first, with all of the process's arguments
/// (the program's name included), and exits with the code if there is one.
#[must_use]
pub fn probe_if_asked(args: &[OsString]) -> Option<u8> {
    let [_, probe, folder, deadline_ms] = args else { return None };
    if probe != OsStr::new(PROBE) {
        return None;
    }
    let deadline_ms = deadline_ms.to_str().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let deadline = Duration::from_millis(deadline_ms);
    std::thread::spawn(move || {
        // Nobody may be left to kill a child that hangs.
        std::thread::sleep(deadline);
        std::process::exit(UNUSABLE.into());
    });
    // Also where a panic ends a program.
    std::panic::set_hook(Box::new(|panic| {
        let words = panic.to_string().replace('\n', " ");
        let _ = writeln!(std::io::stdout(), "sled panicked in a trial: {words}");
        std::process::exit(UNUSABLE.into());
    }));
    let (code, words) = judge(Path::new(folder), deadline);
    let _ = writeln!(std::io::stdout(), "{words}");
    Some(code)
}

fn judge(folder: &Path, deadline: Duration) -> (u8, String) {
    match Database::open(folder, &ALL_TREES, &ALL_TREES, deadline) {
        Ok(_) => (USABLE, String::new()),
        Err(error) => match error.remedy() {
            Remedy::Quarantine | Remedy::NewProcess => (UNUSABLE, error.in_words()),
            Remedy::Room | Remedy::Unlock | Remedy::Operator => (UNKNOWN, error.in_words()),
        },
    }
}

/// Tries the store in a child of this program.
pub(super) fn probe(files: &StoreFiles, deadline: Duration) -> Probed {
    let deadline_ms = deadline.as_millis().to_string();
    let child = Command::new(OWN_PROGRAM)
        .args([OsStr::new(PROBE), files.folder().as_os_str(), OsStr::new(&deadline_ms)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return Probed::Unknown };
    let code = wait(&mut child, deadline + Duration::from_millis(500));
    let mut words = String::new();
    if let Some(pipe) = child.stdout.take() {
        let _ = pipe.take(REASON_BYTES_MAX).read_to_string(&mut words);
    }
    let words = words.trim();
    match code {
        Some(code) if code == i32::from(USABLE) => Probed::Usable,
        Some(code) if code == i32::from(UNKNOWN) => Probed::Unknown,
        _ if words.is_empty() => Probed::Unusable("sled hung or died in a trial".to_owned()),
        _ => Probed::Unusable(words.to_owned()),
    }
}

/// The child's exit code; None when a signal ended it, ours included.
fn wait(child: &mut Child, deadline: Duration) -> Option<i32> {
    let begin = Instant::now();
    while begin.elapsed() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return status.code(),
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}
