//! Calls to nodes: each ends once, in time.

use super::super::scene;
use super::{HubEvent, MonotonicMs, World};
use rand_core::RngCore;
use shared::limits::LOG_PAGE_BYTES_MAX;
use shared::sync::CallEnded;
use shared::wire::{CallMethod, LogFrom};

/// Beyond its deadline no call stays open longer.
const GRACE_MS: u64 = 1_000;

impl World {
    /// Somebody asks a node for a log, in the old way and the new one, or for a command, which it does not allow.
    pub(super) fn call(&mut self, index: usize) {
        if self.hub.core.is_none() {
            return;
        }
        self.calls_made += 1;
        let ticket = self.calls_made;
        let timeout_ms = 1_000 + self.random.next_u32() % 30_000;
        let ends = self.now.plus_ms(u64::from(timeout_ms) + GRACE_MS);
        self.open_calls.insert(ticket, ends);
        let (node, pod) = (scene::node(index), "default/ocr-0".parse());
        let Ok(pod) = pod else { return };
        let (container, caller) = (None, "somebody".to_owned());
        let method = match self.calls_made % 3 {
            0 => CallMethod::TailLog { pod, lines: 10 },
            1 => {
                let from = LogFrom::End { lines: 10, age_ms: None };
                let (bytes_max, wait_ms) = (LOG_PAGE_BYTES_MAX, 0);
                CallMethod::ReadLog { pod, container, caller, from, bytes_max, wait_ms }
            }
            _ => {
                let command = vec!["ls".to_owned()];
                CallMethod::Exec { pod, container, caller, command, timeout_ms }
            }
        };
        self.step_hub([HubEvent::Call { ticket, node, method, timeout_ms }]);
    }

    /// Calls came to their end: each for the first time.
    pub(super) fn end_calls(&mut self, ended: Vec<CallEnded>) {
        for CallEnded { ticket, outcome, .. } in ended {
            if self.open_calls.remove(&ticket).is_none() {
                self.complain(Err(format!("call {ticket} ended twice: {outcome:?}")));
            }
        }
    }

    /// Whoever asked the hub that is gone has heard that it is.
    pub(super) fn forget_calls(&mut self) {
        self.open_calls.clear();
    }

    /// No call is open past its deadline.
    pub(super) fn check_calls(&mut self) {
        let now = self.now;
        let late = |(_, ends): &(&u64, &MonotonicMs)| **ends < now;
        if let Some((ticket, _)) = self.open_calls.iter().find(late) {
            let problem = format!("call {ticket} is open past its deadline");
            self.complain(Err(problem));
        }
    }
}
