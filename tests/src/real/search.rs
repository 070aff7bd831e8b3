//! What lies in the files of a folder.

use std::fs;
use std::path::{Path, PathBuf};

/// Files below `folder` that hold `needle`; all of them with an empty one. Links are not followed: what they lead to lies elsewhere.
#[must_use]
pub fn files_with(folder: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        match kind {
            Ok(kind) if kind.is_dir() => found.extend(files_with(&path, needle)),
            Ok(kind) if kind.is_file() => {
                let bytes = fs::read(&path).unwrap_or_default();
                if needle.is_empty() || bytes.windows(needle.len()).any(|window| window == needle) {
                    found.push(path);
                }
            }
            _ => {}
        }
    }
    found
}
