//! When what stands in a log was printed: beside `N.log` lies `N.times`, a list of moments and of how long the log was
//! then. A process's log has no other times.
//!
//! An entry is milliseconds since 1970 and a length, 8 bytes each, big endian. One is written at most once a second,
//! and then only after [`STEP_BYTES`] of log or [`PAUSE_MAX`]: a quarter of the log's own size at most. A list
//! that can't be written is done without.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const ENTRY_BYTES: usize = 16;

/// Bytes of log from one entry to the next.
const STEP_BYTES: u64 = 64;

/// Between two entries, at least and, where something is printed, at most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Until when a log was so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at_ms: u64,
    pub(super) length: u64,
}

/// Writes the list of the file that is being written.
#[derive(Debug, Default)]
pub(super) struct Times {
    file: Option<File>,
    last: Option<(Instant, u64)>,
}

impl Times {
    /// Something is about to be appended to a log of this length.
    pub(super) fn note(&mut self, folder: &Path, length: u64) {
        if self.last.is_some_and(|(at, before)| !is_due(at.elapsed(), length, before)) {
            return;
        }
        self.last = Some((Instant::now(), length));
        // Times are a convenience: what the pod printed is not held up by them.
        if self.write(folder, length).is_err() {
            self.file = None;
        }
    }

    fn write(&mut self, folder: &Path, length: u64) -> io::Result<()> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            options.create(true).append(true).mode(0o600);
            self.file = Some(options.open(path(folder, 0))?);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut entry = unix_ms(SystemTime::now()).to_be_bytes().to_vec();
        entry.extend_from_slice(&length.to_be_bytes());
        file.write_all(&entry)
    }

    /// The log begins a new file.
    pub(super) fn begin_file(&mut self) {
        *self = Self::default();
    }
}

fn is_due(since: Duration, length: u64, before: u64) -> bool {
    let moved = length.saturating_sub(before);
    since >= PAUSE_MAX || (since >= PAUSE_MIN && moved >= STEP_BYTES)
}

/// Moves a list on with its log.
pub(super) fn rename(folder: &Path, number: u32, is_last: bool) {
    let from = path(folder, number);
    // The log itself counts.
    let _ =
        if is_last { fs::remove_file(&from) } else { fs::rename(&from, path(folder, number + 1)) };
}

/// The list of one file of a log; empty where there is none.
pub(super) fn read(folder: &Path, number: u32) -> Vec<Mark> {
    let bytes = fs::read(path(folder, number)).unwrap_or_default();
    let entries = bytes.chunks_exact(ENTRY_BYTES).filter_map(|entry| {
        let (at, length) = entry.split_first_chunk::<8>()?;
        let length = u64::from_be_bytes(*length.first_chunk()?);
        Some(Mark { at_ms: u64::from_be_bytes(*at), length })
    });
    entries.collect()
}

/// Milliseconds since 1970.
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number}.times"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_due_when_there_is_something_to_tell_apart_and_not_more_often() {
        let second = Duration::from_secs(1);
        assert!(!is_due(Duration::ZERO, 1_000_000, 0));
        assert!(!is_due(second, 63, 0));
        assert!(is_due(second, 64, 0));
        assert!(is_due(second * 60, 1, 0));
    }

    #[test]
    fn a_list_moves_on_with_its_log_and_a_torn_entry_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut times = Times::default();
        times.note(folder.path(), 7);
        times.note(folder.path(), 8);
        let marks = read(folder.path(), 0);
        assert_eq!(marks.iter().map(|mark| mark.length).collect::<Vec<_>>(), [7]);
        assert!(marks[0].at_ms > 1_600_000_000_000);
        rename(folder.path(), 0, false);
        times.begin_file();
        fs::write(path(folder.path(), 0), [0; 20]).unwrap();
        assert_eq!(read(folder.path(), 0), [Mark { at_ms: 0, length: 0 }]);
        assert_eq!(read(folder.path(), 1), marks);
        rename(folder.path(), 1, true);
        assert_eq!(read(folder.path(), 1), []);
    }
}
