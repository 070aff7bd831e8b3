//! The asking side of calls: numbers them, and ends each one by its answer or by its deadline.

use crate::model::MonotonicMs;
use crate::wire::{CallMethod, CallOutcome, CallRequest, CallResponse};
use std::collections::BTreeMap;
use thiserror::Error;

/// Calls to one node that wait for an answer: more would only queue behind each other on its link.
const OUTSTANDING_MAX: usize = 16;

/// Too many calls wait for an answer of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{OUTSTANDING_MAX} calls to this node wait for an answer already")]
pub struct TooManyCalls;

/// A call came to its end. `ticket` is the caller's own number for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallEnded {
    /// The caller's number.
    pub ticket: u64,
    /// The answer, or why there is none.
    pub outcome: CallOutcome,
    /// Nobody answered: the outcome is not the node's.
    pub is_unanswered: bool,
}

impl CallEnded {
    /// A call that ends without the node, for a reason in words.
    #[must_use]
    pub fn without_answer(ticket: u64, message: String) -> Self {
        Self { ticket, outcome: CallOutcome::Failed { message }, is_unanswered: true }
    }
}

/// The calls to one node.
#[derive(Debug, Default)]
pub struct Calls {
    next_id: u64,
    outstanding: BTreeMap<u64, (u64, MonotonicMs)>,
}

impl Calls {
    /// A request to send now.
    ///
    /// # Errors
    /// [`TooManyCalls`].
    pub fn begin(
        &mut self,
        ticket: u64,
        method: CallMethod,
        timeout_ms: u32,
        now: MonotonicMs,
    ) -> Result<CallRequest, TooManyCalls> {
        if self.outstanding.len() >= OUTSTANDING_MAX {
            return Err(TooManyCalls);
        }
        self.next_id += 1;
        let deadline = now.plus_ms(u64::from(timeout_ms));
        self.outstanding.insert(self.next_id, (ticket, deadline));
        Ok(CallRequest { id: self.next_id, timeout_ms, method })
    }

    /// The node answers. An answer to nothing, or a second one, is passed over.
    pub fn handle_response(&mut self, response: CallResponse) -> Option<CallEnded> {
        let (ticket, _) = self.outstanding.remove(&response.id)?;
        Some(CallEnded { ticket, outcome: response.outcome, is_unanswered: false })
    }

    /// The calls whose deadline has passed.
    pub fn handle_timeout(&mut self, now: MonotonicMs) -> Vec<CallEnded> {
        let late = |(_, (_, deadline)): &(&u64, &mut (u64, MonotonicMs))| *deadline <= now;
        let late: Vec<u64> = self.outstanding.iter_mut().filter(late).map(|(id, _)| *id).collect();
        self.end(late, "the node did not answer in time")
    }

    /// The node is gone: every call ends.
    pub fn handle_disconnect(&mut self) -> Vec<CallEnded> {
        let all = self.outstanding.keys().copied().collect();
        self.end(all, "the node is offline")
    }

    fn end(&mut self, ids: Vec<u64>, why: &str) -> Vec<CallEnded> {
        let ended = ids.into_iter().filter_map(|id| self.outstanding.remove(&id));
        ended.map(|(ticket, _)| CallEnded::without_answer(ticket, why.to_owned())).collect()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonotonicMs> {
        self.outstanding.values().map(|(_, deadline)| *deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail() -> CallMethod {
        CallMethod::TailLog { pod: "default/ocr-0".parse().unwrap(), lines: 10 }
    }

    #[test]
    fn a_call_ends_once_by_its_answer() {
        let mut calls = Calls::default();
        let request = calls.begin(7, tail(), 1000, MonotonicMs(0)).unwrap();
        let response = CallResponse { id: request.id, outcome: CallOutcome::done(vec![1]) };
        let ended = calls.handle_response(response.clone()).unwrap();
        assert_eq!((ended.ticket, ended.is_unanswered), (7, false));
        assert_eq!(calls.handle_response(response), None);
        assert!(calls.handle_timeout(MonotonicMs(9999)).is_empty());
    }

    #[test]
    fn a_call_without_an_answer_ends_at_its_deadline() {
        let mut calls = Calls::default();
        calls.begin(7, tail(), 1000, MonotonicMs(0)).unwrap();
        assert!(calls.handle_timeout(MonotonicMs(999)).is_empty());
        let ended = calls.handle_timeout(MonotonicMs(1000));
        assert_eq!(ended.len(), 1);
        assert!(ended[0].is_unanswered);
        assert!(
            matches!(&ended[0].outcome, CallOutcome::Failed { message } if message.contains("in time"))
        );
    }

    #[test]
    fn the_seventeenth_call_is_refused() {
        let mut calls = Calls::default();
        for ticket in 0..16 {
            calls.begin(ticket, tail(), 1000, MonotonicMs(0)).unwrap();
        }
        assert_eq!(calls.begin(16, tail(), 1000, MonotonicMs(0)), Err(TooManyCalls));
        assert_eq!(calls.handle_disconnect().len(), 16);
        assert!(calls.begin(16, tail(), 1000, MonotonicMs(0)).is_ok());
    }

    #[test]
    fn each_call_has_a_number_and_a_deadline_of_its_own() {
        let mut calls = Calls::default();
        assert_eq!(calls.poll_timeout(), None);
        let slow = calls.begin(7, tail(), 3000, MonotonicMs(0)).unwrap();
        let quick = calls.begin(8, tail(), 1000, MonotonicMs(500)).unwrap();
        assert_eq!(calls.poll_timeout(), Some(MonotonicMs(1500)));
        let ended = calls.handle_timeout(MonotonicMs(1500));
        assert_eq!(ended.iter().map(|call| call.ticket).collect::<Vec<_>>(), [8]);
        let answer = |id| CallResponse { id, outcome: CallOutcome::done(vec![]) };
        assert_eq!(calls.handle_response(answer(quick.id)), None, "too late");
        assert_eq!(calls.handle_response(answer(slow.id)).unwrap().ticket, 7);
    }
}
