//! What a pod prints: rotated files, and reading their end. Pages are in `page`, times in `times`.
//!
//! `0.log` is being written; `1.log` is the one before, and so on. No file grows beyond its limit. A
//! disk that takes nothing loses lines, counted, and never holds up the pod.

mod page;
mod times;

pub use page::read_page;

use super::cri::log as container_log;
use super::folder::PodFolder;
use shared::model::{NodeId, PodId};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use times::Times;

/// The smallest limit of a file that makes sense; less would rotate with every line.
const FILE_BYTES_MIN: u64 = 4 * 1024;

/// The most files that are read or kept; more would make a rotation slow.
pub(super) const FILES_MAX: u32 = 100;

/// Writes a pod's output.
#[derive(Debug)]
pub(super) struct RotatingLog {
    folder: PathBuf,
    file_bytes_max: u64,
    files_max: u32,
    current: Option<File>,
    current_bytes: u64,
    times: Times,
    lost_bytes: u64,
}

impl RotatingLog {
    /// Goes on where the folder's log ends.
    pub(super) fn new(folder: PathBuf, file_bytes_max: u64, files_max: u32) -> Self {
        Self {
            folder,
            file_bytes_max: file_bytes_max.max(FILE_BYTES_MIN),
            files_max: files_max.clamp(1, FILES_MAX),
            current: None,
            current_bytes: 0,
            times: Times::default(),
            lost_bytes: 0,
        }
    }

    /// Appends; what can't be written is lost and counted.
    pub(super) fn append(&mut self, mut bytes: &[u8]) {
        if self.lost_bytes > 0 && self.tell_loss().is_err() {
            self.lose(bytes.len());
            return;
        }
        while !bytes.is_empty() {
            match self.append_some(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(_) => {
                    self.lose(bytes.len());
                    return;
                }
            }
        }
    }

    fn lose(&mut self, bytes: usize) {
        self.lost_bytes = self.lost_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        // Opened anew next time: the folder may have been replaced meanwhile.
        self.current = None;
    }

    fn tell_loss(&mut self) -> io::Result<()> {
        let line = format!("\n[{} bytes of this log could not be written]\n", self.lost_bytes);
        self.append_some(line.as_bytes())?;
        self.lost_bytes = 0;
        Ok(())
    }

    /// Appends as much as fits the file, to the end of a line if there is one.
    fn append_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.file_bytes_max.saturating_sub(self.open()?);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let fitting = bytes.get(..room).unwrap_or(bytes);
        let whole_lines = fitting.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
        let part = match whole_lines {
            _ if fitting.len() == bytes.len() => bytes,
            Some(end) => bytes.get(..end).unwrap_or(fitting),
            // A line is cut only when it fits no file.
            None if self.current_bytes > 0 => &[],
            None => fitting,
        };
        let written = match &mut self.current {
            Some(file) if !part.is_empty() => {
                self.times.note(&self.folder, self.current_bytes);
                file.write(part)?
            }
            _ => 0,
        };
        self.current_bytes += u64::try_from(written).unwrap_or(0);
        if part.len() < bytes.len() && written == part.len() {
            self.rotate()?;
        }
        Ok(written)
    }

    /// Opens the present file, if it is not open; its length.
    fn open(&mut self) -> io::Result<u64> {
        if self.current.is_none() {
            let mut options = OpenOptions::new();
            let file = options.create(true).append(true).mode(0o600).open(path(&self.folder, 0))?;
            self.current_bytes = file.metadata()?.len();
            self.current = Some(file);
        }
        if self.current_bytes >= self.file_bytes_max {
            self.rotate()?;
            return self.open();
        }
        Ok(self.current_bytes)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.current = None;
        for number in (0..self.files_max).rev() {
            let from = path(&self.folder, number);
            times::rename(&self.folder, number, number + 1 == self.files_max);
            let moved = if number + 1 == self.files_max {
                fs::remove_file(&from)
            } else {
                fs::rename(&from, path(&self.folder, number + 1))
            };
            match moved {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.current_bytes = 0;
        self.times.begin_file();
        Ok(())
    }
}

/// The last `lines` lines that a pod printed, over rotated files; at most `bytes_max` bytes, in
/// whole lines as far as one fits. `folder` is the folder of all pods; of several containers `container` names one,
/// else it is the first that is no init container. Blocks on the disk.
///
/// # Errors
/// A sentence, when the pod has no log here or it can't be read.
pub fn tail_log(
    folder: &Path,
    pod: &PodId,
    container: Option<&str>,
    lines: u32,
    bytes_max: usize,
) -> Result<Vec<u8>, String> {
    let folder = PodFolder::of(folder, pod).log();
    if !folder.is_dir() {
        return Err(format!("this node has no log of {pod}"));
    }
    let folder = log_of(&folder, container).map_err(|problem| format!("{pod} {problem}"))?;
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let read = if container_log::is_here(&folder) { container_log::read_tail } else { read_tail };
    read(&folder, lines, bytes_max)
        .map_err(|error| format!("the log of {pod} can't be read: {error}"))
}

/// The link to the log of the container that is meant where none is named. No container's name has a dot.
const FIRST: &str = ".first";

/// Notes which of a pod's several containers is meant where none is named; `None` where there is one alone.
pub(super) fn note_first(folder: &Path, container: Option<&str>) -> io::Result<()> {
    let link = folder.join(FIRST);
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => container.map_or(Ok(()), |container| symlink(container, &link)),
    }
}

/// The folder with the log of a container, in a pod's folder of logs.
fn log_of(folder: &Path, container: Option<&str>) -> Result<PathBuf, String> {
    let first = folder.join(FIRST);
    let is_one = fs::symlink_metadata(&first).is_err();
    match container {
        // Who asks knows that the name is right.
        _ if is_one => Ok(folder.to_owned()),
        None => Ok(first),
        // What is no name leads elsewhere.
        Some(name) if NodeId::new(name).is_ok() && folder.join(name).is_dir() => {
            Ok(folder.join(name))
        }
        Some(_) => {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let names = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let mut names: Vec<String> = names.collect();
            names.sort();
            Err(format!("has no log of such a container: expected one of {}", names.join(", ")))
        }
    }
}

fn read_tail(folder: &Path, lines: usize, bytes_max: usize) -> io::Result<Vec<u8>> {
    // One byte more than may be returned shows whether the first line is whole.
    let wanted = bytes_max.saturating_add(1);
    let (mut tail, mut last_inode) = (Vec::new(), None);
    for number in 0..FILES_MAX {
        let enough = tail.len() >= wanted || line_starts(&tail).count() > lines;
        if enough {
            break;
        }
        let file = match File::open(path(folder, number)) {
            Ok(file) => file,
            // A rotation is between two names for a moment, and the first file may not be there yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound && number == 0 => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        // The same file again: it was rotated while this reads.
        let inode = file.metadata()?.ino();
        if last_inode.replace(inode) != Some(inode) {
            let mut before = read_end(file, wanted - tail.len())?;
            before.append(&mut tail);
            tail = before;
        }
    }
    Ok(last_lines(&tail, lines, bytes_max).to_vec())
}

pub(super) fn read_end(mut file: File, bytes_max: usize) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let bytes_max = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut end = Vec::new();
    file.take(bytes_max).read_to_end(&mut end)?;
    Ok(end)
}

/// Where lines begin, last first.
fn line_starts(text: &[u8]) -> impl Iterator<Item = usize> {
    let ends = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).filter(|start| *start < text.len()).chain(
        // The first byte of a file that ends with a line's end begins a line too.
        (!text.is_empty()).then_some(0),
    )
}

pub(super) fn last_lines(text: &[u8], lines: usize, bytes_max: usize) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    let fits = |start: &usize| text.len() - start <= bytes_max;
    let start = line_starts(text).take(lines).take_while(fits).last();
    // No line fits whole: the end of the last one.
    let start = start.unwrap_or(text.len().saturating_sub(bytes_max));
    text.get(start..).unwrap_or_default()
}

fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodId {
        "default/ocr-0".parse().unwrap()
    }

    fn log(temporary: &Path, file_bytes_max: u64, files_max: u32) -> RotatingLog {
        let folder = PodFolder::of(temporary, &pod());
        folder.create().unwrap();
        RotatingLog::new(folder.log(), file_bytes_max, files_max)
    }

    fn tail(temporary: &Path, lines: u32, bytes_max: usize) -> String {
        String::from_utf8(tail_log(temporary, &pod(), None, lines, bytes_max).unwrap()).unwrap()
    }

    #[test]
    fn files_stay_below_their_limit_and_number_and_end_with_whole_lines() {
        let temporary = tempfile::tempdir().unwrap();
        let mut log = log(temporary.path(), 5000, 3);
        for number in 0..5000 {
            log.append(format!("line {number}\n").as_bytes());
        }
        let folder = PodFolder::of(temporary.path(), &pod()).log();
        let files: Vec<_> = fs::read_dir(&folder).unwrap().map(Result::unwrap).collect();
        let is_log = |file: &fs::DirEntry| file.file_name().to_string_lossy().ends_with(".log");
        let (files, times): (Vec<_>, Vec<_>) = files.into_iter().partition(is_log);
        assert_eq!((files.len(), times.len()), (3, 3));
        for file in files {
            let text = fs::read(file.path()).unwrap();
            assert!(text.len() <= 5000 && text.ends_with(b"\n") && text.starts_with(b"line "));
        }
    }

    #[test]
    fn the_tail_goes_over_rotated_files() {
        let temporary = tempfile::tempdir().unwrap();
        let mut log = log(temporary.path(), 4096, 5);
        for number in 0..1000 {
            log.append(format!("line {number}\n").as_bytes());
        }
        let expected: String = (100..1000).map(|number| format!("line {number}\n")).collect();
        assert_eq!(tail(temporary.path(), 900, 1 << 20), expected);
        assert_eq!(tail(temporary.path(), 2, 1 << 20), "line 998\nline 999\n");
        assert_eq!(tail(temporary.path(), 0, 1 << 20), "");
    }

    #[test]
    fn the_tail_is_cut_at_lines_where_one_fits_and_anywhere_else_where_none_does() {
        let temporary = tempfile::tempdir().unwrap();
        let mut log = log(temporary.path(), 4096, 2);
        log.append(b"one\ntwo\nthree");
        assert_eq!(tail(temporary.path(), 9, 100), "one\ntwo\nthree");
        assert_eq!(tail(temporary.path(), 9, 9), "two\nthree");
        assert_eq!(tail(temporary.path(), 9, 8), "three");
        assert_eq!(tail(temporary.path(), 9, 3), "ree");
        assert_eq!(tail(temporary.path(), 9, 0), "");
    }

    #[test]
    fn a_line_longer_than_a_file_is_cut_and_bounded() {
        let temporary = tempfile::tempdir().unwrap();
        let mut log = log(temporary.path(), 4096, 2);
        for _ in 0..10 {
            log.append(&[b'x'; 3000]);
        }
        let folder = PodFolder::of(temporary.path(), &pod()).log();
        let bytes = |number| fs::metadata(path(&folder, number)).unwrap().len();
        assert!(bytes(0) <= 4096 && bytes(1) <= 4096 && !path(&folder, 2).exists());
        assert_eq!(tail(temporary.path(), 1, 4000).len(), 4000);
    }

    #[test]
    fn lost_output_is_counted_when_the_disk_takes_more() {
        let temporary = tempfile::tempdir().unwrap();
        let mut log = log(temporary.path(), 4096, 2);
        let folder = PodFolder::of(temporary.path(), &pod()).log();
        fs::remove_dir(&folder).unwrap();
        log.append(b"lost\n");
        fs::create_dir(&folder).unwrap();
        log.append(b"kept\n");
        let told = "\n[5 bytes of this log could not be written]\nkept\n";
        assert_eq!(tail(temporary.path(), 9, 1000), told);
    }

    #[test]
    fn a_pod_that_never_was_here_has_no_log() {
        let temporary = tempfile::tempdir().unwrap();
        assert!(tail_log(temporary.path(), &pod(), None, 1, 1).unwrap_err().contains("no log"));
    }

    #[test]
    fn of_several_containers_the_first_is_read_unless_another_is_named() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = PodFolder::of(temporary.path(), &pod());
        folder.create().unwrap();
        for name in ["proxy", "server"] {
            fs::create_dir(folder.log().join(name)).unwrap();
            let line = format!("T stdout F {name}\n");
            fs::write(folder.log().join(name).join("container.0.log"), line).unwrap();
        }
        let read = |name: Option<&str>| {
            let text = tail_log(temporary.path(), &pod(), name, 9, 100);
            text.map(|text| String::from_utf8(text).unwrap())
        };
        assert_eq!(read(Some("main")), read(None), "one container, whatever it is called");
        note_first(&folder.log(), Some("server")).unwrap();
        note_first(&folder.log(), Some("server")).unwrap();
        assert_eq!(
            (read(None), read(Some("proxy"))),
            (Ok("server\n".into()), Ok("proxy\n".into()))
        );
        let refused = read(Some("../../default_ocr-0/log/proxy")).unwrap_err();
        assert!(refused.ends_with("expected one of proxy, server"), "{refused}");
        note_first(&folder.log(), None).unwrap();
        assert_eq!(read(None), Ok(String::new()), "what was printed as one container");
    }
}
