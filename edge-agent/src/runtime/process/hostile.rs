//! What fuzzing reaches of this module: its decoders, fed with bytes. Part of fuzzing builds alone
//! (`tests/fuzz`).

use super::files::{ExitFile, StateFile};
use super::identity::ProcessStat;
use super::order::{Report, RunOrder, StopOrder, read_line};
use crate::runtime::probe::status_of;

/// Decodes `bytes` as what `kind` says.
pub fn decode(kind: u8, bytes: &[u8]) {
    match kind % 7 {
        0 => drop(read_line::<RunOrder>(bytes)),
        1 => drop(read_line::<StopOrder>(bytes)),
        2 => drop(read_line::<Report>(bytes)),
        3 => drop(serde_json::from_slice::<StateFile>(bytes)),
        4 => drop(serde_json::from_slice::<ExitFile>(bytes)),
        5 => drop(status_of(bytes)),
        _ => drop(ProcessStat::parse(1, &String::from_utf8_lossy(bytes))),
    }
}
