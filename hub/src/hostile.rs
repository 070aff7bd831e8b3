//! What fuzzing reaches of this crate: its private decoders, fed with bytes. Part of fuzzing builds alone
//! (`tests/fuzz`).

use crate::export::results;
use crate::shell;

/// A result's body, as sinks that write JSON show it.
pub fn result_body(bytes: &[u8]) {
    results::show_as_json(bytes);
}

/// A file of the registry of enrolments; whether it is one.
#[must_use]
pub fn enrolment(bytes: &[u8]) -> bool {
    shell::is_enrolment(bytes)
}
