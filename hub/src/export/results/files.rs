//! Results as files of NDJSON: appended, made durable, and put aside when they are large.
//!
//! A result is taken when it is durable. What a crash left of a last line is cut off at the next opening:
//! its result was not taken and comes again. Files that were put aside are the site's to move or delete;
//! a disk that is full makes the sink hold.

use super::super::outlet::{Failure, Gather};
use super::{Line, ResultSink, ndjson};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Results that share an fsync.
const GATHER: Gather = Gather { bytes: 256 * 1024, wait: Duration::from_millis(20) };

/// How much of a file's end is looked at in one step for the end of its last whole line.
const STEP_BYTES: u64 = 64 * 1024;

/// A folder of files.
#[derive(Debug)]
pub(crate) struct FilesSink {
    folder: PathBuf,
    name: String,
    file_bytes_max: u64,
    /// `None` before the first use and after a failure: then it is opened, and mended.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
}

impl FilesSink {
    /// Writes `<folder>/<name>.ndjson`; past `file_bytes_max` it becomes `<name>-<time>.ndjson`.
    pub(crate) fn new(folder: PathBuf, name: String, file_bytes_max: u64) -> Self {
        Self { folder, name, file_bytes_max, open: None }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.ndjson", self.name))
    }

    fn append(&self, open: Option<Open>, text: &str) -> io::Result<Open> {
        let mut open = match open {
            Some(open) => open,
            None => open_mended(&self.folder, &self.path())?,
        };
        let more = text.len() as u64;
        if open.length > 0 && open.length.saturating_add(more) > self.file_bytes_max {
            self.put_aside()?;
            open = open_mended(&self.folder, &self.path())?;
        }
        open.file.write_all(text.as_bytes())?;
        open.file.sync_data()?;
        open.length = open.length.saturating_add(more);
        Ok(open)
    }

    fn put_aside(&self) -> io::Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let aside = (since.as_millis()..).find_map(|ms| {
            let path = self.folder.join(format!("{}-{ms}.ndjson", self.name));
            (!path.exists()).then_some(path)
        });
        fs::rename(self.path(), aside.unwrap_or_default())?;
        File::open(&self.folder)?.sync_all()
    }
}

impl ResultSink for FilesSink {
    fn gather(&self) -> Gather {
        GATHER
    }

    async fn send_lines(&mut self, part: &[Line]) -> Result<(), Failure> {
        let text = ndjson(part);
        let writer = Self {
            folder: self.folder.clone(),
            name: self.name.clone(),
            file_bytes_max: self.file_bytes_max,
            open: self.open.take(),
        };
        let written = tokio::task::spawn_blocking(move || {
            let Self { open, .. } = writer;
            let writer = Self { open: None, ..writer };
            writer.append(open, &text)
        });
        let trouble = |error: &dyn std::fmt::Display| {
            Failure::down(format!("could not write {}: {error}", self.path().display()))
        };
        let written = written.await.map_err(|error| trouble(&error))?;
        self.open = Some(written.map_err(|error| trouble(&error))?);
        Ok(())
    }
}

/// Opens a file for appending, without what a crash left of a last line.
fn open_mended(folder: &Path, path: &Path) -> io::Result<Open> {
    fs::create_dir_all(folder)?;
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    let length = whole_lines_bytes(&mut file)?;
    if file.metadata()?.len() > length {
        tracing::warn!(file = %path.display(), "cut off the beginning of a line that a crash left");
        file.set_len(length)?;
    }
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(Open { file, length })
}

/// How many bytes there are up to the end of the last whole line.
fn whole_lines_bytes(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    while end > 0 {
        let begin = end.saturating_sub(STEP_BYTES);
        file.seek(SeekFrom::Start(begin))?;
        let mut step = Vec::new();
        Read::by_ref(file).take(end - begin).read_to_end(&mut step)?;
        if let Some(at) = step.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::super::super::tally::Tally;
    use super::super::parts;
    use super::super::tests::delivery;
    use super::*;
    use shared::model::ResultFormat;

    fn part(count: usize) -> Vec<Line> {
        let body: (ResultFormat, &[u8]) = (ResultFormat::Json, b"1");
        parts(&[delivery(&vec![body; count])], &Tally::new("t", "t")).pop_front().unwrap()
    }

    fn lines_in(folder: &Path) -> Vec<(String, usize)> {
        let count = |path: PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap().lines().count())
        };
        let files = fs::read_dir(folder).unwrap();
        let mut files: Vec<_> = files.map(|file| count(file.unwrap().path())).collect();
        files.sort();
        files
    }

    #[tokio::test]
    async fn lines_are_appended_and_a_large_file_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let line_bytes = part(1)[0].text.len() as u64 + 1;
        let place = folder.path().join("results");
        let mut sink = FilesSink::new(place.clone(), "plates".to_owned(), 5 * line_bytes);
        for count in [2, 3, 2, 9, 1] {
            sink.send_lines(&part(count)).await.unwrap();
        }
        let counts: Vec<usize> = lines_in(&place).iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [5, 2, 9, 1]);
        assert_eq!(lines_in(&place)[3].0, "plates.ndjson");
    }

    #[tokio::test]
    async fn what_a_crash_left_of_a_line_is_cut_off_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plates.ndjson");
        let long = "x".repeat(200_000);
        for (left, kept) in [("a\nb\npart", "a\nb\n"), ("part", ""), ("a\n", "a\n"), (&long, "")] {
            fs::write(&path, left).unwrap();
            let mut sink = FilesSink::new(folder.path().to_owned(), "plates".to_owned(), 1 << 20);
            sink.send_lines(&part(1)).await.unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("{kept}{}\n", part(1)[0].text));
        }
    }

    #[tokio::test]
    async fn a_place_that_can_not_be_written_holds_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("results");
        // A file where the folder should be: also root can't write into that.
        fs::write(&place, "").unwrap();
        let mut sink = FilesSink::new(place.clone(), "plates".to_owned(), 1 << 20);
        let failure = sink.send_lines(&part(1)).await.unwrap_err();
        assert!(
            matches!(&failure, Failure::Down { reason, .. } if reason.contains("plates.ndjson"))
        );
        fs::remove_file(&place).unwrap();
        sink.send_lines(&part(1)).await.unwrap();
        assert_eq!(lines_in(&place), [("plates.ndjson".to_owned(), 1)]);
    }
}
