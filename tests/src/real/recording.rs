//! What processes do to the files below a folder, as `tests/recorder/recorder.c` writes it down.
//!
//! Linux only, like everything here; the library is built by `cc` when it is needed.

use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the recorder's source lies.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/recorder.c");

/// kind (1) ‖ a (8) ‖ b (8) ‖ length of x (4) ‖ length of y (4).
const HEAD_BYTES: usize = 25;

/// One operation. Paths are relative to the recorded folder; a file is its inode's number.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of fields say what they are")]
pub enum Operation {
    /// A file was made.
    Create { file: u64, path: PathBuf },
    /// Bytes were written.
    Write { file: u64, at: usize, bytes: Vec<u8> },
    /// A file was cut or extended.
    Resize { file: u64, size: usize },
    /// Bytes were handed to the disk, without a promise about power (`sync_file_range`).
    Flush { file: u64, at: usize, length: usize },
    /// A file became durable.
    SyncFile { file: u64 },
    /// A folder's names became durable.
    SyncFolder { path: PathBuf },
    /// A name was changed.
    Rename { from: PathBuf, to: PathBuf },
    /// A name was removed.
    Remove { path: PathBuf },
    /// A folder was made.
    MakeFolder { path: PathBuf },
    /// Something was promised to whoever asked for it, in words.
    Promise(String),
}

/// Builds the recorder, and records what commands do to one folder.
#[derive(Debug)]
pub struct Recorder {
    library: PathBuf,
    root: PathBuf,
    log: PathBuf,
    promises: PathBuf,
}

impl Recorder {
    /// A recorder of `root`; its own files lie in `folder`.
    ///
    /// # Errors
    /// When `cc` can't build it.
    pub fn new(folder: &Path, root: &Path) -> anyhow::Result<Self> {
        let library = folder.join("recorder.so");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
        let built = cc.arg(&library).arg(SOURCE).status().context("cc is missing")?;
        ensure!(built.success(), "cc could not build {SOURCE}");
        let [log, promises] = ["log", "promises"].map(|name| folder.join(name));
        Ok(Self { library, root: root.to_owned(), log, promises })
    }

    /// Where a recorded process writes its promises.
    #[must_use]
    pub fn promises(&self) -> &Path {
        &self.promises
    }

    /// What a process's environment needs for it to be recorded.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, &Path); 4] {
        [
            ("LD_PRELOAD", &self.library),
            ("RECORDER_ROOT", &self.root),
            ("RECORDER_LOG", &self.log),
            ("RECORDER_ACKS", &self.promises),
        ]
    }

    /// Everything recorded so far.
    ///
    /// # Errors
    /// When nothing was, or the recorder wrote something else.
    pub fn operations(&self) -> anyhow::Result<Vec<Operation>> {
        let log = std::fs::read(&self.log).context("nothing was recorded")?;
        let mut rest = &log[..];
        let mut operations = Vec::new();
        // A process that was killed may have written half of its last record.
        while let Some(record) = Record::take(&mut rest) {
            self.read(&record, &mut operations)?;
        }
        Ok(operations)
    }

    /// One record makes several operations where one write held several promises.
    fn read(&self, record: &Record<'_>, operations: &mut Vec<Operation>) -> anyhow::Result<()> {
        let Record { kind, a: file, b, x, y } = *record;
        let b = usize::try_from(b)?;
        operations.push(match kind {
            b'C' => Operation::Create { file, path: self.path(x)? },
            b'W' => Operation::Write { file, at: b, bytes: x.to_vec() },
            b'T' => Operation::Resize { file, size: b },
            b'F' => {
                let length = usize::try_from(u64::from_le_bytes(x.try_into()?))?;
                Operation::Flush { file, at: b, length }
            }
            b'S' => Operation::SyncFile { file },
            b'D' => Operation::SyncFolder { path: self.path(x)? },
            b'R' => Operation::Rename { from: self.path(x)?, to: self.path(y)? },
            b'U' => Operation::Remove { path: self.path(x)? },
            b'M' => Operation::MakeFolder { path: self.path(x)? },
            b'A' => {
                let lines = std::str::from_utf8(x)?.lines();
                operations.extend(lines.map(|line| Operation::Promise(line.to_owned())));
                return Ok(());
            }
            other => bail!("the recorder wrote a record of kind {other}"),
        });
        Ok(())
    }

    fn path(&self, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        Ok(Path::new(std::str::from_utf8(bytes)?).strip_prefix(&self.root)?.to_owned())
    }
}

#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    kind: u8,
    a: u64,
    b: u64,
    x: &'a [u8],
    y: &'a [u8],
}

impl<'a> Record<'a> {
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let (head, behind) = rest.split_at_checked(HEAD_BYTES)?;
        let (kind, head) = head.split_first()?;
        let (a, head) = head.split_first_chunk()?;
        let (b, head) = head.split_first_chunk()?;
        let (x_bytes, head) = head.split_first_chunk()?;
        let (y_bytes, _) = head.split_first_chunk()?;
        let length = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
        let (x, behind) = behind.split_at_checked(length(x_bytes)?)?;
        let (y, behind) = behind.split_at_checked(length(y_bytes)?)?;
        *rest = behind;
        Some(Self { kind: *kind, a: u64::from_le_bytes(*a), b: u64::from_le_bytes(*b), x, y })
    }
}
