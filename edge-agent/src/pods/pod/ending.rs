//! What follows when a start of a pod has ended: again, later, or never.

use super::{Cause, FAILED_START_WAIT_MS, Live, Pod, PodAction, State, Verdict, pending};
use shared::model::{MonotonicMs, RestartPolicy};
use std::collections::VecDeque;

impl Pod {
    pub(super) fn failed_to_start(
        &mut self,
        reason: &str,
        message: &str,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        if let State::Stopping { cause, .. } = &self.state {
            let cause = cause.clone();
            return self.stopped(cause, self.last_exit_code.unwrap_or(0), now, actions);
        }
        self.back_off_from_start(reason, message, now, actions);
    }

    fn back_off_from_start(
        &mut self,
        reason: &str,
        message: &str,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        let wait_ms = self.backoff.ended(None, now).max(FAILED_START_WAIT_MS);
        self.restarts = self.restarts.saturating_add(1);
        self.retire(None, actions);
        let (reason, message) = (reason.to_owned(), message.to_owned());
        self.state = State::BackingOff { until: now.plus_ms(wait_ms), reason, message };
    }

    pub(super) fn exited(
        &mut self,
        code: i32,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        match &self.state {
            State::Stopping { cause, .. } => {
                let cause = cause.clone();
                self.stopped(cause, code, now, actions);
            }
            State::Starting { .. } => self.ended(code, None, now, actions),
            State::Running { since, .. } => {
                let since = *since;
                self.ended(code, Some(since), now, actions);
            }
            State::Several { since, .. } => {
                let since = Some(*since);
                self.last_words.clear();
                self.count_restarts_of_containers();
                self.last_exit_code = Some(code);
                let message = "what held its containers together has ended";
                self.restart_or_finish(false, message, since, now, actions);
            }
            _ => {}
        }
    }

    /// It ended because it was asked to.
    fn stopped(
        &mut self,
        cause: Cause,
        code: i32,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        // It was told to end: why, is known; but for containers that had ended by themselves.
        let words = std::mem::take(&mut self.last_words);
        match cause {
            Cause::Unhealthy(why) => {
                self.last_exit_code = Some(code);
                self.restart_or_finish(false, &why, None, now, actions);
            }
            _ if self.wanted.is_none() => self.leave(actions),
            Cause::Concluded(verdict) => self.concluded(verdict.with_words(&words), now, actions),
            Cause::Unwanted | Cause::Replaced => {
                self.retire(None, actions);
                self.state = pending("", "");
            }
            Cause::Displaced { reason, message } => {
                self.retire(None, actions);
                self.state = pending(&reason, &message);
            }
        }
    }

    /// It was stopped because its containers had made an end of it.
    fn concluded(&mut self, verdict: Verdict, now: MonotonicMs, actions: &mut VecDeque<PodAction>) {
        match verdict {
            Verdict::InitNotStarted { reason, message } => {
                self.back_off_from_start(&reason, &message, now, actions);
            }
            Verdict::InitFailed { code, message } => {
                self.last_exit_code = Some(code);
                self.restart_or_finish(false, &message, None, now, actions);
                match &mut self.state {
                    State::BackingOff { reason, .. } if reason == "Restarting" => {
                        "Init:Error".clone_into(reason);
                    }
                    State::BackingOff { reason, .. } => "Init:CrashLoopBackOff".clone_into(reason),
                    State::Done { reason, .. } => *reason = "Init:Error",
                    _ => {}
                }
            }
            Verdict::Ended { success, code, message } => {
                self.last_exit_code = Some(code);
                self.restart_or_finish(success, &message, None, now, actions);
            }
            Verdict::Stuck(why) => self.restart_or_finish(false, &why, None, now, actions),
        }
    }

    /// It ended by itself.
    pub(super) fn ended(
        &mut self,
        code: i32,
        since: Option<MonotonicMs>,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        self.last_exit_code = Some(code);
        let words = std::mem::take(&mut self.last_words);
        let message = match words.is_empty() {
            true => exit_words(code),
            false => format!("ended with status {code}: {words}"),
        };
        self.restart_or_finish(code == 0, &message, since, now, actions);
    }

    /// Whether a start is of another revision, or with other parameters, than the wanted one.
    pub(super) fn runs_another(&self, live: &Live) -> bool {
        let is_its = |wanted: &super::Wanted| wanted.is(live.revision, live.parameters_id);
        self.wanted.as_ref().is_some_and(|wanted| !is_its(wanted))
    }

    fn restart_or_finish(
        &mut self,
        success: bool,
        message: &str,
        since: Option<MonotonicMs>,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        let policy = self.wanted.as_ref().map(|wanted| wanted.template.spec.restart_policy);
        if self.live.as_ref().is_some_and(|live| self.runs_another(live)) {
            // What should run has not run yet: the end of what did says nothing of it.
            self.retire(None, actions);
            self.state = pending("", "");
            return;
        }
        let again = match policy {
            // Let go of as soon as it is sure that nothing is wanted of it.
            None => {
                self.live = None;
                self.state = State::Found { code: self.last_exit_code };
                return;
            }
            Some(RestartPolicy::Always) => true,
            Some(RestartPolicy::OnFailure) => !success,
            Some(RestartPolicy::Never) => false,
        };
        if !again {
            self.retire(Some(success), actions);
            let reason = if success { "Completed" } else { "Error" };
            self.state = State::Done { success, reason, message: message.to_owned() };
            return;
        }
        let wait_ms = self.backoff.ended(since, now);
        self.restarts = self.restarts.saturating_add(1);
        self.retire(None, actions);
        let message = format!("{message}; is started again after {} s", wait_ms / 1000);
        let reason = if self.backoff.level > 1 { "CrashLoopBackOff" } else { "Restarting" };
        let (until, reason) = (now.plus_ms(wait_ms), reason.to_owned());
        self.state = State::BackingOff { until, reason, message };
    }

    /// The present start has ended: its end is recorded, then the runtime forgets it.
    fn retire(&mut self, completed: Option<bool>, actions: &mut VecDeque<PodAction>) {
        actions.extend(self.record(completed).map(PodAction::Record));
        if let Some(live) = self.live.take() {
            let (pod, instance) = (self.id.clone(), live.instance);
            actions.push_back(PodAction::Remove { pod, instance, keep_logs: true });
        }
    }
}

/// What an exit code says, for people.
pub(in crate::pods) fn exit_words(code: i32) -> String {
    match code {
        0 => "ended with status 0".to_owned(),
        137 => "killed with signal 9: out of memory, or by hand".to_owned(),
        code if code > 128 => format!("killed by signal {}", code - 128),
        code => format!("ended with status {code}: see its log"),
    }
}
