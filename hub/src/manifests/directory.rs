//! The manifest files of a directory.
//!
//! Reads `*.yaml` and `*.yml` of the directory itself, in the order of their names; not hidden
//! files, not subdirectories. Symbolic links are followed, so that a mounted ConfigMap works.
//! Refuses what is no regular file rather than wait for a pipe, and bounds what it reads.

use super::Manifests;
use super::documents::Collection;
use super::problem::{ManifestProblem, ManifestProblems};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Manifest files of a directory: one for each of 10 000 nodes, twice over.
pub const FILES_MAX: usize = 20_000;

/// One file. 10 000 `EdgeNode` documents in one file are about 2 MiB.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// All files: sixteen times what a ConfigMap can hold; read in a few seconds.
pub const DIRECTORY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads all manifests of the directory at `path`. Blocks.
///
/// # Errors
/// Every problem that was found; nothing of the directory is to be used then.
pub fn read_directory(path: &Path) -> Result<Manifests, ManifestProblems> {
    let mut collection = Collection::default();
    match manifest_files(path) {
        Ok(files) => add_files(&mut collection, &files),
        Err(error) => {
            let problem = format!("the directory can't be read: {error}");
            collection.add_problem(ManifestProblem::of_file(&path.to_string_lossy(), &problem));
        }
    }
    collection.finish()
}

/// What the file system says of a manifest file.
#[derive(Debug)]
pub(super) struct Stamp {
    pub(super) file: PathBuf,
    /// When its inode was changed last, which unlike the time of modification nobody sets.
    pub(super) changed_at: SystemTime,
    /// It is a symbolic link; the rest is said of what it leads to.
    pub(super) linked: bool,
    /// It has no bytes.
    pub(super) empty: bool,
}

/// What the file system says of each manifest file; nothing of those that are gone already.
pub(super) fn stamps(path: &Path) -> Vec<Stamp> {
    let files = manifest_files(path).unwrap_or_default();
    files.into_iter().filter_map(stamp).collect()
}

fn stamp(file: PathBuf) -> Option<Stamp> {
    let linked = fs::symlink_metadata(&file).ok()?.is_symlink();
    let metadata = fs::metadata(&file).ok()?;
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    let nanoseconds = u32::try_from(metadata.ctime_nsec()).ok()?;
    let changed_at = UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))?;
    Some(Stamp { file, changed_at, linked, empty: metadata.len() == 0 })
}

fn manifest_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_manifest_name(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether the file at `path` is read, by its name.
pub(super) fn is_manifest_name(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    yaml && !hidden
}

fn add_files(collection: &mut Collection, files: &[PathBuf]) {
    if files.len() > FILES_MAX {
        let directory = files.first().and_then(|file| file.parent()).unwrap_or(Path::new("."));
        let problem = format!("{} files are over the limit of {FILES_MAX}", files.len());
        let problem = ManifestProblem::of_file(&directory.to_string_lossy(), &problem);
        return collection.add_problem(problem);
    }
    let mut left_bytes = DIRECTORY_BYTES_MAX;
    for path in files {
        let file = path.to_string_lossy();
        match read_text(path, left_bytes) {
            Ok(text) => {
                left_bytes = left_bytes.saturating_sub(text.len() as u64);
                collection.add_file(&file, &text);
            }
            Err((line, problem)) => {
                collection.add_problem(ManifestProblem::new(&file, line, "", &problem));
            }
        }
    }
}

/// The text of one file, or what is wrong with it and on which line.
fn read_text(path: &Path, left_bytes: u64) -> Result<String, (u64, String)> {
    let unreadable = |error: io::Error| (0, format!("can't be read: {error}"));
    // Before it is opened: opening a pipe waits for someone to write into it.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err((0, "is not a regular file".to_owned()));
    }
    let limit_bytes = FILE_BYTES_MAX.min(left_bytes);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err((0, format!("is over the limit of {FILE_BYTES_MAX} bytes a file")));
    }
    if bytes.len() as u64 > left_bytes {
        return Err((0, format!("all files are over the limit of {DIRECTORY_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = valid.filter(|byte| **byte == b'\n').count() as u64 + 1;
        (line, "is not UTF-8".to_owned())
    })
}
