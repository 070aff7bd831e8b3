//! A pod that is there when the agent comes up: as its record tells it, and as the runtime found it.

use super::{Backoff, Containers, Live, Pod, PodAction, Probes, State, pending};
use crate::pods::record::PodRecord;
use crate::ports::ObservedContainer;
use shared::model::{MonotonicMs, UnixMs};
use std::collections::VecDeque;

impl Pod {
    /// A pod as its record tells it; nothing is wanted of it yet.
    pub(in crate::pods) fn of_record(record: &PodRecord) -> Self {
        let state = match record.completed {
            Some(success) => {
                let reason = if success { "Completed" } else { "Error" };
                State::Done { success, reason, message: String::new() }
            }
            None => State::Found { code: None },
        };
        Self {
            id: record.pod.clone(),
            wanted: None,
            live: None,
            state,
            restarts: record.restarts,
            backoff: Backoff { level: record.backoff_level },
            last_exit_code: record.last_exit_code,
            last_words: String::new(),
            started: Some((record.revision, record.parameters_id)),
            planned: vec![],
        }
    }

    /// A start of it was found running.
    pub(in crate::pods) fn adopt_running(
        &mut self,
        live: Live,
        started_at: UnixMs,
        containers: Vec<ObservedContainer>,
        since: MonotonicMs,
    ) {
        self.started = Some((live.revision, live.parameters_id));
        self.live = Some(live);
        // Its probes are known once it is known what is wanted; so is what its containers are.
        self.state = match containers.is_empty() {
            true => State::Running { since, started_at, probes: Probes::default() },
            false => {
                State::Several { since, started_at, containers: Containers::found(containers) }
            }
        };
    }

    /// Its last start was found ended.
    pub(in crate::pods) fn adopt_ended(&mut self, code: Option<i32>) {
        if !matches!(self.state, State::Done { .. }) {
            self.state = State::Found { code };
        }
    }

    /// It was found ended when the agent came up. Without a status the power went, which is not its
    /// fault.
    pub(super) fn judge_found(
        &mut self,
        code: Option<i32>,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        match code {
            Some(code) => self.ended(code, None, now, actions),
            None => {
                self.restarts = self.restarts.saturating_add(1);
                self.state = pending("", "");
            }
        }
    }
}
