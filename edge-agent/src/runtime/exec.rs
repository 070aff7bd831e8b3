//! A command in a pod: what is asked for, and what is kept of its output.

use serde_bytes::ByteBuf;
use shared::limits::EXEC_OUTPUT_BYTES_MAX;
use shared::model::PodId;
use shared::wire::ExecResult;
use std::collections::VecDeque;
use std::time::Duration;

/// Room for the line that says how much is missing.
const NOTICE_BYTES: usize = 64;

/// A command to run in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOrder {
    /// Which pod.
    pub pod: PodId,
    /// Which of its containers, where it has several.
    pub container: Option<String>,
    /// The program and its arguments; not empty.
    pub command: Vec<String>,
    /// After so long it is killed.
    pub timeout: Duration,
}

/// The beginning and the end of what a command prints.
#[derive(Debug, Default)]
pub(super) struct Output {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Output {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut output = Self::default();
        output.push(bytes);
        output
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let room = EXEC_OUTPUT_BYTES_MAX.saturating_sub(self.head.len());
        let (head, tail) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        let kept = tail.len().min(EXEC_OUTPUT_BYTES_MAX);
        self.tail.extend(tail.iter().skip(tail.len() - kept));
        let excess = self.tail.len().saturating_sub(EXEC_OUTPUT_BYTES_MAX);
        self.tail.drain(..excess);
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.total).unwrap_or(usize::MAX)
    }

    /// At most `bytes_max` of it, and how many bytes are missing.
    fn within(self, bytes_max: usize) -> (ByteBuf, u64) {
        let total = self.total;
        let kept = [self.head, self.tail.into()].concat();
        if total <= bytes_max as u64 {
            return (ByteBuf::from(kept), 0);
        }
        let half = bytes_max.saturating_sub(NOTICE_BYTES) / 2;
        let omitted = total.saturating_sub(2 * half as u64);
        let head = kept.get(..half).unwrap_or_default();
        let tail = kept.get(kept.len().saturating_sub(half)..).unwrap_or_default();
        let notice = format!("\n[{omitted} bytes are left out here]\n");
        (ByteBuf::from([head, notice.as_bytes(), tail].concat()), omitted)
    }
}

/// What became of a command: one output gets the room that the other does not need.
pub(super) fn result_of(exit_code: Option<i32>, stdout: Output, stderr: Output) -> ExecResult {
    let half = EXEC_OUTPUT_BYTES_MAX / 2;
    let stdout_max = EXEC_OUTPUT_BYTES_MAX - stderr.bytes().min(half);
    let stderr_max = EXEC_OUTPUT_BYTES_MAX - stdout.bytes().min(half);
    let (stdout, omitted) = stdout.within(stdout_max);
    let (stderr, also_omitted) = stderr.within(stderr_max);
    let omitted_bytes = omitted.saturating_add(also_omitted);
    ExecResult { exit_code, stdout, stderr, omitted_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(result: &ExecResult) -> (String, String) {
        let text = |bytes: &ByteBuf| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&result.stdout), text(&result.stderr))
    }

    #[test]
    fn little_is_kept_whole_and_much_is_cut_in_the_middle_and_said_so() {
        let result = result_of(Some(0), Output::of(b"out"), Output::of(b"err"));
        assert_eq!((text(&result), result.omitted_bytes), (("out".into(), "err".into()), 0));
        let long: String = (0..100_000).map(|n| format!("{n}\n")).collect();
        let mut output = Output::default();
        long.as_bytes().chunks(777).for_each(|chunk| output.push(chunk));
        let result = result_of(None, output, Output::of(b"err"));
        let (stdout, stderr) = text(&result);
        assert!(stdout.starts_with("0\n1\n2\n") && stdout.ends_with("99998\n99999\n"));
        assert!(stdout.contains(&format!("[{} bytes are left out here]", result.omitted_bytes)));
        assert!(stdout.len() > EXEC_OUTPUT_BYTES_MAX - 100 && stderr == "err", "all its room");
    }

    proptest! {
        #[test]
        fn both_outputs_together_keep_the_limit_and_account_for_every_byte(
            chunks in proptest::collection::vec((any::<bool>(), 0_usize..9_000), 0..12)
        ) {
            let (mut stdout, mut stderr) = (Output::default(), Output::default());
            for (is_error, count) in &chunks {
                let output = if *is_error { &mut stderr } else { &mut stdout };
                output.push(&vec![b'x'; *count]);
            }
            let printed: u64 = chunks.iter().map(|(_, count)| *count as u64).sum();
            let result = result_of(Some(0), stdout, stderr);
            prop_assert!(result.stdout.len() + result.stderr.len() <= EXEC_OUTPUT_BYTES_MAX);
            let shown = |bytes: &ByteBuf| bytes.iter().filter(|byte| **byte == b'x').count() as u64;
            let shown = shown(&result.stdout) + shown(&result.stderr);
            prop_assert_eq!(shown + result.omitted_bytes, printed);
        }
    }
}
