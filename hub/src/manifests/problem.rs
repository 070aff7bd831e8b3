//! What is wrong with manifests, in words: which file, which line, which field, what was expected.
//!
//! Does not decide what is wrong. Bounded: a directory full of mistakes makes no endless log.

use std::fmt;
use thiserror::Error;

/// Problems that are kept; the rest is counted. A person mends the first hundred first.
pub const PROBLEMS_MAX: usize = 100;

/// Characters of one problem's text. A mistake may quote what was found, and that may be long.
const PROBLEM_CHARS_MAX: usize = 600;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestProblem {
    /// The file, as it was named to the reader.
    pub file: String,
    /// The line, from 1; 0 when the whole file is meant.
    pub line: u64,
    /// The field's path, as in `spec.template.spec.containers[0].image`; empty when the whole
    /// document is meant.
    pub path: String,
    /// What was wrong and what was expected.
    pub problem: String,
}

impl ManifestProblem {
    /// A problem; control characters in it are escaped and its length is bounded, since it quotes
    /// what was read and ends on a terminal.
    pub(super) fn new(file: &str, line: u64, path: &str, problem: &str) -> Self {
        let [file, path, problem] = [file, path, problem].map(printable);
        Self { file, line, path, problem }
    }

    /// A problem of a file or directory as a whole.
    pub(super) fn of_file(file: &str, problem: &str) -> Self {
        Self::new(file, 0, "", problem)
    }
}

fn printable(text: &str) -> String {
    let mut printable = String::new();
    for character in text.chars().take(PROBLEM_CHARS_MAX) {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

impl fmt::Display for ManifestProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// Why manifests were refused: everything that was found, in the order of files and lines.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ManifestProblems {
    /// The first [`PROBLEMS_MAX`] of them.
    pub problems: Vec<ManifestProblem>,
    /// How many more there are.
    pub omitted: usize,
}

impl ManifestProblems {
    pub(super) fn new(mut problems: Vec<ManifestProblem>) -> Self {
        let omitted = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        Self { problems, omitted }
    }
}

impl fmt::Display for ManifestProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        match self.omitted {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_can_not_steer_a_terminal() {
        let problem = ManifestProblem::new("a.yaml", 3, "spec", "`\u{1b}[2J`\n is not known");
        assert_eq!(problem.to_string(), "a.yaml:3: spec: `\\u{1b}[2J`\\n is not known");
    }

    #[test]
    fn a_thousand_problems_are_a_hundred_and_a_number() {
        let problem = ManifestProblem::of_file("a.yaml", "is not UTF-8");
        let problems = ManifestProblems::new(vec![problem; 1000]);
        assert_eq!(problems.problems.len(), PROBLEMS_MAX);
        assert!(problems.to_string().ends_with("\n… and 900 more"));
    }
}
