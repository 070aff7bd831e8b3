//! A page of a pod's log: from a position on, over rotated files, no line twice and none left out unseen.
//!
//! A file is known by its inode and the time of its making, which a rotation does not change; a few bytes before the
//! position vouch for it, should a disk give both again. Files are opened from the newest to the oldest, and one
//! is read to its end only once the next has something: then nobody writes to it any more. Blocks on the disk.

use super::times;
use super::{FILES_MAX, log_of, path};
use crate::runtime::cri::log as container_log;
use crate::runtime::folder::PodFolder;
use container_log::Line;
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};
use shared::model::PodId;
use shared::wire::{LogCursor, LogFrom, LogPage};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes before a position that vouch for it.
const CHECKED_BYTES: u64 = 64;

/// What is read of a container's log for one page: its lines have more than their text.
const WINDOW_BYTES: u64 = 256 * 1024;

/// What is read of a file at once where lines are counted.
const CHUNK_BYTES: usize = 64 * 1024;

/// The page of the log of a pod, or of one of its several containers, that begins at `from`, with at most `bytes_max` bytes of text. `folder` is the folder of all
/// pods.
///
/// # Errors
/// A sentence, when the pod has no log here, it can't be read, or has no times and an age was given.
pub fn read_page(
    folder: &Path,
    (pod, container): (&PodId, Option<&str>),
    from: &LogFrom,
    bytes_max: u32,
) -> Result<LogPage, String> {
    let folder = PodFolder::of(folder, pod).log();
    if !folder.is_dir() {
        return Err(format!("this node has no log of {pod}"));
    }
    let folder = log_of(&folder, container).map_err(|problem| format!("{pod} {problem}"))?;
    let is_container = container_log::is_here(&folder);
    let log = Log { folder, is_container };
    let failed = |error: io::Error| format!("the log of {pod} can't be read: {error}");
    let files = log.files().map_err(failed)?;
    let (at, gap) = match from {
        LogFrom::After { cursor } if files.is_empty() => {
            let (text, next) = (ByteBuf::new(), *cursor);
            return Ok(LogPage { text, next, gap: false, is_end: true });
        }
        LogFrom::After { cursor } => resume(&files, cursor).map_err(failed)?,
        LogFrom::End { lines, age_ms } => {
            let since = age_ms.map(|age| times::unix_ms(SystemTime::now()).saturating_sub(age));
            if since.is_some() && !log.has_times(&files) {
                return Err(format!(
                    "the log of {pod} has no times: the pod was started by an older agent"
                ));
            }
            let lines = usize::try_from(*lines).unwrap_or(usize::MAX);
            (log.start(&files, lines, since).map_err(failed)?, false)
        }
    };
    let mut page = log.read(&files, at, bytes_max.max(1)).map_err(failed)?;
    page.gap = gap;
    Ok(page)
}

/// The files of one pod's log.
struct Log {
    folder: PathBuf,
    is_container: bool,
}

struct LogFile {
    file: File,
    number: u32,
    /// Names it.
    name: u64,
    /// Its length when it was opened.
    length: u64,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    /// Of the files, oldest first.
    index: usize,
    offset: u64,
    skip: u32,
}

/// Where lines of a file begin: the last ones.
#[derive(Debug, Default)]
struct Starts {
    at: VecDeque<u64>,
    /// What comes before is too old.
    is_cut: bool,
}

impl Starts {
    fn push(&mut self, at: u64, count_max: usize) {
        self.at.push_back(at);
        if self.at.len() > count_max {
            self.at.pop_front();
        }
    }
}

impl Log {
    /// The oldest first.
    fn files(&self) -> io::Result<Vec<LogFile>> {
        let mut files: Vec<LogFile> = Vec::new();
        for number in 0..FILES_MAX {
            let path = match self.is_container {
                true => container_log::path(&self.folder, number),
                false => path(&self.folder, number),
            };
            let file = match File::open(path) {
                Ok(file) => file,
                // A rotation is between two names for a moment, and the first file may not be there yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound && number == 0 => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            let metadata = file.metadata()?;
            let made = metadata.created().ok().and_then(|made| {
                Some(made.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos())
            });
            let name = name_of(metadata.ino(), made.unwrap_or_default());
            // The same file again: it was rotated while this reads.
            if files.last().is_none_or(|last| last.name != name) {
                files.push(LogFile { file, number, name, length: metadata.len() });
            }
        }
        files.reverse();
        Ok(files)
    }

    fn has_times(&self, files: &[LogFile]) -> bool {
        let has =
            |file: &LogFile| file.length == 0 || !times::read(&self.folder, file.number).is_empty();
        self.is_container || files.last().is_none_or(has)
    }

    /// Where the last `lines` lines begin, none older than `since`.
    fn start(&self, files: &[LogFile], lines: usize, since: Option<u64>) -> io::Result<Position> {
        let mut wanted = lines;
        let mut begin = None;
        for (index, file) in files.iter().enumerate().rev() {
            if wanted == 0 && begin.is_some() {
                break;
            }
            let (starts, end) = match self.is_container {
                true => container_starts(file, wanted, since)?,
                false => self.plain_starts(file, wanted, since)?,
            };
            // The end of the newest, where no line is wanted or there is none.
            let offset = starts.at.front().copied();
            if let Some(offset) = offset.or(begin.is_none().then_some(end)) {
                begin = Some(Position { index, offset, skip: 0 });
            }
            wanted = wanted.saturating_sub(starts.at.len());
            if starts.is_cut {
                break;
            }
        }
        Ok(begin.unwrap_or_default())
    }

    /// Of a process's log; and where it ends.
    fn plain_starts(
        &self,
        file: &LogFile,
        count_max: usize,
        since: Option<u64>,
    ) -> io::Result<(Starts, u64)> {
        let mut starts = Starts::default();
        let marks = since.map(|_| times::read(&self.folder, file.number)).unwrap_or_default();
        let older = marks.iter().rev().find(|mark| since.is_some_and(|since| mark.at_ms <= since));
        starts.is_cut = older.is_some();
        let (mut chunk, mut offset) = (vec![0; CHUNK_BYTES], 0);
        if file.length > 0 {
            starts.push(0, count_max);
        }
        while offset < file.length {
            let count = file.file.read_at(&mut chunk, offset)?;
            let Some(read) = chunk.get(..count).filter(|read| !read.is_empty()) else { break };
            let ends = read.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            for start in ends.map(|(at, _)| offset + at as u64 + 1) {
                // The line in which the mark lies is the first: rather more than less.
                if older.is_some_and(|mark| start <= mark.length) {
                    starts.at.clear();
                }
                if start < file.length {
                    starts.push(start, count_max);
                }
            }
            offset += count as u64;
        }
        Ok((starts, file.length))
    }

    fn read(&self, files: &[LogFile], at: Position, bytes_max: u32) -> io::Result<LogPage> {
        let mut page = LogPage { is_end: true, ..LogPage::default() };
        let mut at = at;
        let room = |page: &LogPage| u64::from(bytes_max).saturating_sub(page.text.len() as u64);
        while let Some(file) = files.get(at.index) {
            let is_whole = match self.is_container {
                true => read_container(file, &mut at, bytes_max, &mut page)?,
                false => {
                    let count = read_plain(file, at.offset, room(&page), &mut page)?;
                    at.offset += count;
                    count == 0
                }
            };
            if !is_whole {
                // Plain text up to the page's end, or what there was until now.
                page.is_end = !self.is_container && room(&page) > 0;
                if !page.is_end {
                    break;
                }
                continue;
            }
            page.is_end = true;
            match files.get(at.index + 1) {
                Some(next) if next.length > 0 => {
                    at = Position { index: at.index + 1, offset: 0, skip: 0 };
                }
                _ => break,
            }
        }
        page.next = match files.get(at.index) {
            Some(file) => cursor(file, at)?,
            None => LogCursor::default(),
        };
        Ok(page)
    }
}

fn name_of(inode: u64, made_ns: u128) -> u64 {
    let mut hash = Sha256::new();
    hash.update(inode.to_be_bytes());
    hash.update(made_ns.to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    // 0 stands for no file.
    digest.first_chunk().map_or(1, |first| u64::from_be_bytes(*first)).max(1)
}

/// A digest of what stands before a position.
fn check_at(file: &File, offset: u64) -> io::Result<u32> {
    let count = offset.min(CHECKED_BYTES);
    let mut bytes = vec![0; usize::try_from(count).unwrap_or_default()];
    file.read_exact_at(&mut bytes, offset - count)?;
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    Ok(digest.first_chunk().map_or(0, |first| u32::from_be_bytes(*first)))
}

fn cursor(file: &LogFile, at: Position) -> io::Result<LogCursor> {
    let check = check_at(&file.file, at.offset)?;
    Ok(LogCursor { file: file.name, offset: at.offset, skip: at.skip, check })
}

/// The position of a cursor, and whether something is missing before it: then it is the oldest that there is.
fn resume(files: &[LogFile], cursor: &LogCursor) -> io::Result<(Position, bool)> {
    let begin = Position::default();
    if cursor.file == 0 {
        return Ok((begin, false));
    }
    let Some(index) = files.iter().position(|file| file.name == cursor.file) else {
        return Ok((begin, true));
    };
    let is_same = match files.get(index) {
        Some(file) if file.length >= cursor.offset => {
            check_at(&file.file, cursor.offset)? == cursor.check
        }
        _ => false,
    };
    let at = Position { index, offset: cursor.offset, skip: cursor.skip };
    Ok(if is_same { (at, false) } else { (begin, true) })
}

/// Appends what a process printed; how many bytes.
fn read_plain(file: &LogFile, offset: u64, room: u64, page: &mut LogPage) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(room).unwrap_or(CHUNK_BYTES))];
    let count = file.file.read_at(&mut chunk, offset)?;
    page.text.extend_from_slice(chunk.get(..count).unwrap_or_default());
    Ok(count as u64)
}

/// Appends what a container printed; whether all that the file has was read.
fn read_container(
    file: &LogFile,
    at: &mut Position,
    bytes_max: u32,
    page: &mut LogPage,
) -> io::Result<bool> {
    let text_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let mut window = vec![0; usize::try_from(WINDOW_BYTES).unwrap_or(CHUNK_BYTES)];
    let count = file.file.read_at(&mut window, at.offset)?;
    let is_full = count == window.len();
    let raw = window.get(..count).unwrap_or_default();
    let end = raw.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if end == 0 && is_full {
        // No line of a container is so long.
        (at.offset, at.skip) = (at.offset + count as u64, 0);
        return Ok(false);
    }
    for line in raw.get(..end).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
        let text = Line::of(line).map(|line| line.text()).unwrap_or_default();
        let left = text.get(at.skip as usize..).unwrap_or_default();
        let room = text_max.saturating_sub(page.text.len());
        if left.len() > room {
            // Whole lines as far as one fits.
            if page.text.is_empty() {
                page.text.extend_from_slice(left.get(..room).unwrap_or_default());
                at.skip = at.skip.saturating_add(u32::try_from(room).unwrap_or(u32::MAX));
            }
            return Ok(false);
        }
        page.text.extend_from_slice(left);
        (at.offset, at.skip) = (at.offset + line.len() as u64, 0);
    }
    Ok(!is_full)
}

/// Of a container's log; and where its last whole line ends.
fn container_starts(
    file: &LogFile,
    count_max: usize,
    since: Option<u64>,
) -> io::Result<(Starts, u64)> {
    let mut starts = Starts::default();
    let mut reader = BufReader::with_capacity(CHUNK_BYTES, (&file.file).take(file.length));
    let (mut raw, mut offset, mut begins) = (Vec::new(), 0, true);
    loop {
        raw.clear();
        let count = read_line(&mut reader, &mut raw)?;
        if count == 0 || raw.last() != Some(&b'\n') {
            return Ok((starts, offset));
        }
        if let Some(line) = Line::of(&raw) {
            let is_old = since.is_some_and(|since| line.time_ms().is_some_and(|at| at < since));
            starts.is_cut |= is_old;
            if is_old {
                starts.at.clear();
            } else if begins {
                starts.push(offset, count_max);
            }
            begins = !line.is_part();
        }
        offset += count as u64;
    }
}

/// The next line, or a part of one that is longer than any of a container.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    reader.take(WINDOW_BYTES).read_until(b'\n', line)
}

#[cfg(test)]
mod tests;
