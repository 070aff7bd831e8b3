//! A pod of several containers: what they want done is done, and what they make of the pod is carried out.

use super::{Cause, Containers, Pod, PodAction, State};
use crate::pods::containers::{Step, Verdict};
use crate::ports::ProbeRequest;
use shared::model::MonotonicMs;
use std::collections::VecDeque;

impl Pod {
    /// Does what is due of its containers, if it has several; ends it when they have.
    pub(super) fn drive(&mut self, now: MonotonicMs, actions: &mut VecDeque<PodAction>) {
        let State::Several { containers, .. } = &mut self.state else { return };
        let Some(live) = &self.live else { return };
        let (pod, instance, grace_ms) = (&self.id, live.instance, live.grace_ms);
        let steps = match containers.verdict() {
            None => containers.due(now, grace_ms),
            Some(_) => vec![],
        };
        actions.extend(steps.into_iter().map(|step| match step {
            Step::Start(request) => PodAction::StartContainer(*request),
            Step::Stop { container, at_once } => {
                let grace_ms = if at_once { 0 } else { grace_ms };
                PodAction::StopContainer { pod: pod.clone(), instance, container, grace_ms }
            }
            Step::Probe { container, kind, probe } => {
                let (pod, container, probe) = (pod.clone(), Some(container), *probe);
                PodAction::Probe(ProbeRequest { pod, instance, container, kind, probe })
            }
        }));
        let cause = match containers.verdict() {
            Some(Verdict::Stuck(why)) => Some(Cause::Unhealthy(why)),
            Some(verdict) => Some(Cause::Concluded(verdict)),
            // What is left of another revision, which nobody knows any more.
            None if containers.is_spent() && self.wanted.is_some() => Some(Cause::Replaced),
            None => None,
        };
        if let Some(cause) = cause {
            self.stop(cause, now, actions);
        }
    }

    /// It was found running, and it is known now what is wanted: so are its containers, if it has several.
    pub(super) fn learn_containers(&mut self, now: MonotonicMs) {
        let (Some(wanted), Some(live)) = (&self.wanted, &self.live) else { return };
        let planned = wanted.planned(&self.request_of(wanted, live));
        let policy = wanted.template.spec.restart_policy;
        if planned.is_empty() {
            return;
        }
        if let State::Running { since, started_at, .. } = self.state {
            // None of them was started yet.
            let containers = Containers::found(vec![]);
            self.state = State::Several { since, started_at, containers };
        }
        if let State::Several { containers, .. } = &mut self.state {
            containers.learn(planned, policy, now);
        }
    }

    /// Its containers are about to be forgotten: how often they were started again is not.
    pub(super) fn count_restarts_of_containers(&mut self) {
        if self.live.as_ref().is_some_and(|live| self.runs_another(live)) {
            // Not held against what is wanted now.
            return;
        }
        if let State::Several { containers, .. } = &self.state {
            self.restarts = self.restarts.saturating_add(containers.restarts());
        }
    }
}
