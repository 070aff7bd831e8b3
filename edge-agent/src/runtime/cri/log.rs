//! What a container prints, as the runtime writes it: lines of `TIME STREAM F TEXT`, where `P` stands for a
//! part of a line. Rotated by the agent, which then has the runtime open the file anew.
//!
//! `container.0.log` is being written; `container.1.log` is the one before, and so on.
//! Source of the format: the Kubernetes design proposal "kubelet: CRI logging".

use crate::results::parse_rfc3339;
use crate::runtime::log::{FILES_MAX, last_lines, read_end};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file that is being written, below the pod's folder of logs.
pub(super) const LOG_NAME: &str = "container.0.log";

/// What a line holds besides its text, at most.
const LINE_OVERHEAD_BYTES: usize = 48;

/// Whether a pod's folder of logs holds those of a container.
pub(in crate::runtime) fn is_here(folder: &Path) -> bool {
    path(folder, 0).exists() || path(folder, 1).exists()
}

/// The last `lines` lines, over rotated files; at most `bytes_max` bytes of text.
pub(in crate::runtime) fn read_tail(
    folder: &Path,
    lines: usize,
    bytes_max: usize,
) -> io::Result<Vec<u8>> {
    // Short lines are shorter than what stands before them: twice as much holds enough of most texts.
    let raw_max = bytes_max.saturating_mul(2).saturating_add(lines.min(1000) * LINE_OVERHEAD_BYTES);
    let (mut tail, mut last_inode) = (Vec::new(), None);
    for number in 0..FILES_MAX {
        if tail.len() > bytes_max || last_lines(&tail, lines, usize::MAX).len() < tail.len() {
            break;
        }
        let file = match File::open(path(folder, number)) {
            Ok(file) => file,
            // A rotation is between two names for a moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound && number == 0 => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        // The same file again: it was rotated while this reads.
        let metadata = file.metadata()?;
        if last_inode.replace(metadata.ino()) != Some(metadata.ino()) {
            let is_whole = usize::try_from(metadata.len()).is_ok_and(|length| length <= raw_max);
            let mut before = text_of(&read_end(file, raw_max)?, is_whole);
            before.append(&mut tail);
            tail = before;
        }
    }
    Ok(last_lines(&tail, lines, bytes_max).to_vec())
}

/// The text alone. What is no such line is passed over; so is the first, unless it is whole.
fn text_of(raw: &[u8], is_whole: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(raw.len());
    let skipped = usize::from(!is_whole);
    for line in raw.split_inclusive(|byte| *byte == b'\n').skip(skipped) {
        let Some(line) = Line::of(line) else { continue };
        text.extend_from_slice(line.part);
        if !line.is_part() {
            text.push(b'\n');
        }
    }
    text
}

/// One line of the file.
#[derive(Debug, Clone, Copy)]
pub(in crate::runtime) struct Line<'a> {
    time: &'a [u8],
    tag: &'a [u8],
    /// The text without a line's end.
    part: &'a [u8],
    /// The text with the end of the line in the file, if it has one.
    ended: &'a [u8],
}

impl<'a> Line<'a> {
    /// A line with its end; `None` when it is none of a container.
    pub(in crate::runtime) fn of(line: &'a [u8]) -> Option<Self> {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let (time, _stream) = (words.next()?, words.next()?);
        let (tag, ended) = (words.next()?, words.next()?);
        let part = ended.strip_suffix(b"\n").unwrap_or(ended);
        Some(Self { time, tag, part, ended })
    }

    /// Whether what the container printed goes on in the next.
    pub(in crate::runtime) fn is_part(&self) -> bool {
        self.tag.starts_with(b"P")
    }

    /// What the container printed.
    pub(in crate::runtime) fn text(&self) -> &'a [u8] {
        if self.is_part() { self.part } else { self.ended }
    }

    /// When, in milliseconds since 1970.
    pub(in crate::runtime) fn time_ms(&self) -> Option<u64> {
        parse_rfc3339(std::str::from_utf8(self.time).ok()?).map(|time| time.0)
    }
}

/// What is to be done about a container's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// Nothing.
    Small,
    /// The runtime has to open the file anew.
    Reopen,
}

/// Moves the files of a log on by one where the present one is larger than `bytes_max`.
pub(super) fn rotate(folder: &Path, bytes_max: u64, files_max: u32) -> io::Result<Rotation> {
    match fs::metadata(path(folder, 0)) {
        Ok(metadata) if metadata.len() < bytes_max => return Ok(Rotation::Small),
        Ok(_) => {}
        // Moved on before, and not opened anew since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(if path(folder, 1).exists() { Rotation::Reopen } else { Rotation::Small });
        }
        Err(error) => return Err(error),
    }
    let files_max = files_max.clamp(1, FILES_MAX);
    for number in (0..files_max).rev() {
        let from = path(folder, number);
        let moved = if number + 1 >= files_max.max(2) {
            fs::remove_file(&from)
        } else {
            fs::rename(&from, path(folder, number + 1))
        };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(Rotation::Reopen)
}

pub(in crate::runtime) fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("container.{number}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(folder: &Path, lines: usize, bytes_max: usize) -> String {
        String::from_utf8(read_tail(folder, lines, bytes_max).unwrap()).unwrap()
    }

    #[test]
    fn parts_of_a_line_are_put_together_and_what_is_no_line_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let raw = "T stdout P one \nT stdout F line\nrubbish\nT stderr F two  words\nT stdout F \n";
        fs::write(path(folder.path(), 0), raw).unwrap();
        assert_eq!(tail(folder.path(), 9, 1000), "one line\ntwo  words\n\n");
        assert_eq!(tail(folder.path(), 2, 1000), "two  words\n\n");
        assert_eq!(tail(folder.path(), 0, 1000), "");
    }

    #[test]
    fn the_tail_goes_over_rotated_files_and_no_file_is_kept_too_long() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..6 {
            fs::write(path(folder.path(), 0), format!("T stdout F line {number}\n")).unwrap();
            assert_eq!(rotate(folder.path(), 10, 3).unwrap(), Rotation::Reopen);
        }
        assert_eq!(rotate(folder.path(), 10, 3).unwrap(), Rotation::Reopen, "none was opened");
        assert_eq!(tail(folder.path(), 9, 1000), "line 4\nline 5\n");
        fs::write(path(folder.path(), 0), "T stdout F last\n").unwrap();
        assert_eq!(rotate(folder.path(), 1000, 3).unwrap(), Rotation::Small);
        assert_eq!(tail(folder.path(), 2, 1000), "line 5\nlast\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn the_tail_is_bounded_by_the_bytes_of_its_text() {
        let folder = tempfile::tempdir().unwrap();
        let raw: String = (0..1000).map(|n| format!("T stdout F line {n}\n")).collect();
        fs::write(path(folder.path(), 0), raw).unwrap();
        assert_eq!(tail(folder.path(), 1000, 18), "line 998\nline 999\n");
    }
}
