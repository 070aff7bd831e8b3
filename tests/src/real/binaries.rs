//! The programs that were built beside the one that runs now.

use anyhow::Context;
use std::path::PathBuf;

/// The folder of the built programs: a test lies one level below it.
///
/// # Errors
/// When the running program's own place is unknown.
pub fn binary_folder() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own place is unknown")?;
    let folder = own.parent().context("this program lies in no folder")?;
    let folder = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    Ok(folder.context("the programs lie in no folder")?.to_owned())
}

/// A program of this workspace.
///
/// # Errors
/// When it is not built: `cargo build --workspace --bins --tests` does it.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let path = binary_folder()?.join(name);
    anyhow::ensure!(
        path.exists(),
        "{} is not built: run `cargo build --workspace --bins --tests` first",
        path.display()
    );
    Ok(path)
}
