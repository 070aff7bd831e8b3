//! What a process did to the files below a folder, as `tests/recorder/recorder.c` writes it down.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One operation. Paths are relative to the recorded folder; a file is its inode's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Create { file: u64, path: PathBuf },
    Write { file: u64, at: usize, bytes: Vec<u8> },
    Resize { file: u64, size: usize },
    SyncFile { file: u64 },
    SyncFolder { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    MakeFolder { path: PathBuf },
    /// Something was promised to whoever asked for it, in words.
    Promise(String),
}

/// Builds the recorder, and records what commands do to one folder.
#[derive(Debug)]
pub(super) struct Recorder {
    library: PathBuf,
    root: PathBuf,
    log: PathBuf,
    promises: PathBuf,
}

impl Recorder {
    /// A recorder of `root`, which must not exist or be empty; its own files lie in `folder`.
    pub(super) fn new(folder: &Path, root: &Path) -> Self {
        let library = folder.join("recorder.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/recorder.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
        let built = cc.arg(&library).arg(source).status();
        assert!(built.is_ok_and(|status| status.success()), "cc must build {source}");
        let [log, promises] = ["log", "promises"].map(|name| folder.join(name));
        Self { library, root: root.to_owned(), log, promises }
    }

    /// Where a recorded process writes its promises.
    pub(super) fn promises(&self) -> &Path {
        &self.promises
    }

    /// Has `command` recorded.
    pub(super) fn attach<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("LD_PRELOAD", &self.library)
            .env("RECORDER_ROOT", &self.root)
            .env("RECORDER_LOG", &self.log)
            .env("RECORDER_ACKS", &self.promises)
            .stdin(Stdio::null())
    }

    /// Everything recorded so far.
    pub(super) fn operations(&self) -> Vec<Operation> {
        let log = std::fs::read(&self.log).unwrap();
        let mut rest = &log[..];
        let mut operations = Vec::new();
        // A process that was killed may have written half of its last record.
        while let Some(operation) = self.take_operation(&mut rest) {
            operations.extend(operation);
        }
        operations
    }

    /// One record makes several operations where one write held several promises.
    fn take_operation(&self, rest: &mut &[u8]) -> Option<Vec<Operation>> {
        let number = |from: usize, bytes: usize| -> Option<usize> {
            let bytes: Vec<u8> = rest.get(from..from + bytes)?.to_vec();
            Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
        };
        let (kind, a, b) = (*rest.first()?, number(1, 8)?, number(9, 8)?);
        let (x_bytes, y_bytes) = (number(17, 4)?, number(21, 4)?);
        let x = rest.get(25..25 + x_bytes)?;
        let y = rest.get(25 + x_bytes..25 + x_bytes + y_bytes)?;
        *rest = &rest[25 + x_bytes + y_bytes..];
        let path = |bytes: &[u8]| {
            let path = PathBuf::from(std::str::from_utf8(bytes).unwrap());
            path.strip_prefix(&self.root).unwrap().to_owned()
        };
        let file = a as u64;
        Some(vec![match kind {
            b'C' => Operation::Create { file, path: path(x) },
            b'W' => Operation::Write { file, at: b, bytes: x.to_vec() },
            b'T' => Operation::Resize { file, size: b },
            b'S' => Operation::SyncFile { file },
            b'D' => Operation::SyncFolder { path: path(x) },
            b'R' => Operation::Rename { from: path(x), to: path(y) },
            b'U' => Operation::Remove { path: path(x) },
            b'M' => Operation::MakeFolder { path: path(x) },
            b'A' => return Some(promises(x)),
            other => panic!("the recorder wrote a record of kind {other}"),
        }])
    }
}

fn promises(bytes: &[u8]) -> Vec<Operation> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().map(|line| Operation::Promise(line.to_owned())).collect()
}
