//! What must be left after a power cut, and whether it is.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;
use tests::real::process::lines_of;
use tests::real::recording::Operation;

/// Far longer than anything here takes; what reaches it hangs.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// What was promised before the cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Promised {
    pub(super) commit: u64,
    pub(super) accepted: u64,
    pub(super) incarnation: u64,
    /// The last commit that may have been tried.
    pub(super) tried: u64,
}

impl Promised {
    pub(super) fn of(operations: &[Operation]) -> Self {
        let mut promised = Self::default();
        for operation in operations {
            let Operation::Promise(line) = operation else { continue };
            let Some((word, number)) = line.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match word {
                "commit" => promised.commit = number,
                "accepted" => promised.accepted = number,
                "incarnation" => promised.incarnation = number,
                "tries" => promised.tried = number,
                _ => {}
            }
        }
        promised
    }

    /// # Errors
    /// What was promised and is not there, in words.
    pub(super) fn check(&self, found: &Found) -> Result<(), String> {
        let is_kept = found.number("last") >= self.commit
            && found.number("last") <= self.tried
            && found.number("accepted") >= self.accepted
            && found.number("incarnation") >= self.incarnation;
        let is_whole = found.word("content") == "whole" && found.word("content again") == "whole";
        let is_quiet = found.number("damaged") + found.number("lost") == 0;
        let opening = found.word("opening");
        // Where nothing was promised yet, half a creation may be put aside.
        let opens = opening == "existing" || self.commit == 0;
        let opens_again =
            found.word("opening again") == "existing" && found.number("restarts") == 0;
        let is_right = is_kept && is_whole && is_quiet && opens && opens_again;
        if is_right { Ok(()) } else { Err(format!("{found:?}")) }
    }
}

/// What the writer said, by the first words of its lines.
#[derive(Debug, Default)]
pub(super) struct Found(BTreeMap<String, String>);

impl Found {
    fn word(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.word(name).parse().unwrap_or(u64::MAX)
    }

    pub(super) fn outcome(&self) -> String {
        self.word("opening").to_owned()
    }
}

/// Runs the writer to its end.
///
/// # Errors
/// A panic, a failure or a hang, with what was said.
pub(super) fn run(command: &mut Command) -> Result<Found, String> {
    lines_of(command, DEADLINE).map(Found)
}
