//! What fuzzing reaches of this module: what the container runtime answers, what containers print, what lies on the
//! node. Part of fuzzing builds alone (`tests/fuzz`).

use super::api;
use super::calls::condition_of;
use super::credentials::credentials_for;
use super::leavings::{cgroup_of_bundle, of_shim};
use super::log::Line;
use super::note::{NOTE_ANNOTATION, StartNote};
use crate::ports::ObservedState;
use prost::Message;

/// Decodes `bytes` as what `kind` says.
pub fn decode(kind: u8, bytes: &[u8]) {
    let text = || String::from_utf8_lossy(bytes).into_owned();
    match kind % 9 {
        0 => {
            let annotations = [(NOTE_ANNOTATION.to_owned(), text())].into();
            let note = StartNote::from_annotations(&annotations);
            drop(note.map(|note| note.observed(ObservedState::Lost)));
        }
        1 => drop(api::ContainerStatus::decode(bytes).map(|status| condition_of(&status))),
        2 => drop(api::ListContainersResponse::decode(bytes)),
        3 => drop(api::PodSandboxStatusResponse::decode(bytes)),
        4 => drop(api::ListContainerStatsResponse::decode(bytes)),
        5 => {
            let line = Line::of(bytes);
            let _ = line.map(|line| (line.text().len(), line.time_ms(), line.is_part()));
        }
        6 => drop(credentials_for("registry.example:5000/site/ocr:3", bytes)),
        7 => drop(cgroup_of_bundle(bytes)),
        _ => drop(of_shim(&text())),
    }
}
