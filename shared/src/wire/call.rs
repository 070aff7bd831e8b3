//! Calls: what the hub can ask of an agent, and how it answers.
//!
//! Variants and fields are only ever appended; see the module above for the encoding. An agent that is older than a
//! method can't read the request and says nothing: the hub knows by [`crate::model::NodeStatus::remote_access`].

use crate::limits::{
    CALL_BODY_BYTES_MAX, CALLER_BYTES_MAX, EXEC_COMMAND_BYTES_MAX, EXEC_TIMEOUT_MS_MAX,
    LOG_WAIT_MS_MAX,
};
use crate::model::PodId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::fmt;
use std::str::FromStr;

/// A question with a deadline. Never stored, never repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRequest {
    /// Numbers the calls of a session.
    pub id: u64,
    /// Milliseconds within which the answer is of use.
    pub timeout_ms: u32,
    /// What is asked.
    pub method: CallMethod,
}

/// What can be asked of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallMethod {
    /// The last lines of a pod's log; asked by hubs that know no pages.
    TailLog {
        /// Which pod.
        pod: PodId,
        /// How many lines at most.
        lines: u32,
    },
    /// A page of a pod's log, answered by a [`LogPage`].
    ReadLog {
        /// Which pod.
        pod: PodId,
        /// Which of its containers; its only one where none is named.
        container: Option<String>,
        /// Who asks, in words; at most [`CALLER_BYTES_MAX`] bytes.
        caller: String,
        /// Where the page begins.
        from: LogFrom,
        /// Bytes of its text at most.
        bytes_max: u32,
        /// Milliseconds to wait for more where the log ends there; 0 for none, at most [`LOG_WAIT_MS_MAX`].
        wait_ms: u32,
    },
    /// Run a command in a pod, answered by an [`ExecResult`].
    Exec {
        /// Which pod.
        pod: PodId,
        /// Which of its containers; its only one where none is named.
        container: Option<String>,
        /// Who asks, in words; at most [`CALLER_BYTES_MAX`] bytes.
        caller: String,
        /// The program and its arguments; at most [`EXEC_COMMAND_BYTES_MAX`] bytes.
        command: Vec<String>,
        /// Milliseconds after which it is killed; at most [`EXEC_TIMEOUT_MS_MAX`].
        timeout_ms: u32,
    },
}

impl CallMethod {
    /// Whether it keeps its limits.
    ///
    /// # Errors
    /// A sentence that says which one it does not keep.
    pub fn check(&self) -> Result<(), String> {
        let caller_bytes = match self {
            Self::TailLog { .. } => 0,
            Self::ReadLog { caller, .. } | Self::Exec { caller, .. } => caller.len(),
        };
        if caller_bytes > CALLER_BYTES_MAX {
            return Err(format!("expected a caller of at most {CALLER_BYTES_MAX} bytes"));
        }
        match self {
            Self::ReadLog { wait_ms, .. } if *wait_ms > LOG_WAIT_MS_MAX => {
                Err(format!("expected a wait of at most {LOG_WAIT_MS_MAX} ms"))
            }
            Self::Exec { command, timeout_ms, .. } => check_command(command, *timeout_ms),
            _ => Ok(()),
        }
    }
}

fn check_command(command: &[String], timeout_ms: u32) -> Result<(), String> {
    let bytes: usize = command.iter().map(|word| word.len() + 1).sum();
    if command.first().is_none_or(String::is_empty) {
        return Err("expected a command: the program, then its arguments".to_owned());
    }
    if bytes > EXEC_COMMAND_BYTES_MAX {
        return Err(format!("expected a command of at most {EXEC_COMMAND_BYTES_MAX} bytes"));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err("a word of the command holds a zero byte".to_owned());
    }
    if !(1..=EXEC_TIMEOUT_MS_MAX).contains(&timeout_ms) {
        return Err(format!("expected a deadline of 1 to {EXEC_TIMEOUT_MS_MAX} ms"));
    }
    Ok(())
}

/// Where a page of a log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFrom {
    /// So that these lines are left until the end.
    End {
        /// How many lines at most.
        lines: u32,
        /// None that is older than so many milliseconds.
        age_ms: Option<u64>,
    },
    /// Where another page ended.
    After {
        /// See [`LogPage::next`].
        cursor: LogCursor,
    },
}

/// A position in a pod's log. The file is known by what it is and not by its name, which rotation changes; what stands
/// before the position vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogCursor {
    /// Names the file; 0 before there is one.
    pub file: u64,
    /// Bytes of it before the position.
    pub offset: u64,
    /// Bytes of text after `offset` that were given already: a part of a line that fits no page.
    pub skip: u32,
    /// A digest of the bytes before `offset`.
    pub check: u32,
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:x}.{:x}", self.file, self.offset, self.skip, self.check)
    }
}

impl FromStr for LogCursor {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.').map(|part| u64::from_str_radix(part, 16).ok());
        let mut next = || parts.next().flatten();
        let cursor = (|| {
            let (file, offset) = (next()?, next()?);
            let (skip, check) = (next()?.try_into().ok()?, next()?.try_into().ok()?);
            Some(Self { file, offset, skip, check })
        })();
        let whole = cursor.filter(|_| parts.next().is_none());
        whole.ok_or_else(|| format!("`{text}` is no position in a log"))
    }
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogPage {
    /// What the pod printed.
    pub text: ByteBuf,
    /// Where the next page begins.
    pub next: LogCursor,
    /// Something is missing before `text`: it was rotated away before it was asked for.
    pub gap: bool,
    /// The log ends here for now.
    pub is_end: bool,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// Its exit code, or 128 and the number of the signal that ended it; absent where it was killed at its deadline.
    pub exit_code: Option<i32>,
    /// What it printed to standard output; where it is too much, a line in the middle says how much is missing.
    pub stdout: ByteBuf,
    /// What it printed to standard error, likewise.
    pub stderr: ByteBuf,
    /// Bytes of both that are missing.
    pub omitted_bytes: u64,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallResponse {
    /// The request's number.
    pub id: u64,
    /// What came of it.
    pub outcome: CallOutcome,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallOutcome {
    /// The answer, at most [`CALL_BODY_BYTES_MAX`] bytes.
    Done {
        /// See above.
        body: ByteBuf,
    },
    /// There is none.
    Failed {
        /// A sentence that says why.
        message: String,
    },
}

impl CallResponse {
    /// Bytes of the answer itself.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        match &self.outcome {
            CallOutcome::Done { body } => body.len(),
            CallOutcome::Failed { message } => message.len(),
        }
    }
}

impl CallOutcome {
    /// `body` as an outcome, its end kept where it is too long.
    #[must_use]
    pub fn done(mut body: Vec<u8>) -> Self {
        let excess = body.len().saturating_sub(CALL_BODY_BYTES_MAX);
        body.drain(..excess);
        Self::Done { body: ByteBuf::from(body) }
    }

    /// `answer` encoded as an outcome, or why there is none.
    #[must_use]
    pub fn of<T: Serialize>(answer: Result<T, String>) -> Self {
        let encoded = answer
            .and_then(|answer| super::encode("answer", &answer).map_err(|error| error.to_string()));
        match encoded {
            Ok(body) => Self::Done { body: ByteBuf::from(body) },
            Err(message) => Self::Failed { message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(command: &[&str], timeout_ms: u32, caller: &str) -> CallMethod {
        CallMethod::Exec {
            pod: "default/ocr-0".parse().unwrap(),
            container: None,
            caller: caller.to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            timeout_ms,
        }
    }

    #[test]
    fn a_cursor_comes_back_from_its_text_and_nothing_else_is_one() {
        let cursor = LogCursor { file: u64::MAX, offset: 7, skip: u32::MAX, check: 0 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for text in ["", "1.2.3", "1.2.3.4.5", "1.2.3.x", "1.2.100000000.4", "-1.2.3.4"] {
            assert!(text.parse::<LogCursor>().unwrap_err().contains(text), "`{text}`");
        }
    }

    #[test]
    fn a_call_beyond_a_limit_says_which() {
        assert_eq!(exec(&["ls", "/"], 1, "alice").check(), Ok(()));
        let long = "x".repeat(3_000);
        for (method, words) in [
            (exec(&[], 1, ""), "the program"),
            (exec(&[""], 1, ""), "the program"),
            (exec(&["a\0b"], 1, ""), "zero byte"),
            (exec(&["a", &long], 1, ""), "2048"),
            (exec(&["a"], 0, ""), "600000"),
            (exec(&["a"], 600_001, ""), "600000"),
            (exec(&["a"], 1, &long), "caller"),
        ] {
            let refusal = method.check().unwrap_err();
            assert!(refusal.contains(words), "{refusal}");
        }
    }

    #[test]
    fn what_an_answer_holds_at_most_fits_it() {
        let output = ByteBuf::from(vec![7; crate::limits::EXEC_OUTPUT_BYTES_MAX]);
        let result = ExecResult {
            exit_code: Some(i32::MIN),
            stdout: output,
            stderr: ByteBuf::new(),
            omitted_bytes: u64::MAX,
        };
        let CallOutcome::Done { body } = CallOutcome::of(Ok(result)) else { panic!("not done") };
        assert!(body.len() <= CALL_BODY_BYTES_MAX);
        let text = ByteBuf::from(vec![7; crate::limits::LOG_PAGE_BYTES_MAX as usize]);
        let next = LogCursor { file: u64::MAX, offset: u64::MAX, skip: u32::MAX, check: u32::MAX };
        let page = LogPage { text, next, gap: true, is_end: true };
        let CallOutcome::Done { body } = CallOutcome::of(Ok(page)) else { panic!("not done") };
        assert!(body.len() <= CALL_BODY_BYTES_MAX);
    }
}
