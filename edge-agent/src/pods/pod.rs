//! One pod: what is wanted of it, how it is, and what follows when either changes.

use super::backoff::Backoff;
use super::probes::Probes;
use super::record::{PodAction, PodRecord};
use crate::placement::{Decision, Placement, PodDemand};
use crate::ports::{InstanceId, ProbeRequest, RuntimeEvent, StartRequest};
use shared::model::{
    Container, MonotonicMs, PodId, PodPhase, PodStatus, PodTemplate, RestartPolicy, Revision,
    Toleration, UnixMs, Workload,
};
use std::collections::VecDeque;

/// A start that is not answered within this time is given up. A process starts in milliseconds; a
/// container's sandbox on a slow disk in seconds.
const START_DEADLINE_MS: u64 = 120_000;

/// Beyond the grace period, until a stop is asked for again, without grace.
const STOP_MARGIN_MS: u64 = 30_000;

/// What should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) revision: Revision,
    priority: i32,
    tolerations: Vec<Toleration>,
    template: PodTemplate,
    /// Why the template can't be run.
    invalid: Option<String>,
}

impl Wanted {
    pub(super) fn of(workload: &Workload) -> Self {
        Self {
            revision: workload.revision,
            priority: workload.priority,
            tolerations: workload.tolerations.clone(),
            template: workload.template.clone(),
            invalid: workload.template.validate().err().map(|error| error.to_string()),
        }
    }

    fn container(&self) -> Container {
        self.template.spec.containers.first().cloned().unwrap_or_default()
    }

    fn grace_seconds(&self) -> u32 {
        self.template.spec.termination_grace_period_seconds
    }
}

/// A start of the pod that may be running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) instance: InstanceId,
    pub(super) revision: Revision,
    pub(super) placement: Placement,
    grace_ms: u64,
}

/// Why a pod is being stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    /// Nothing like it is wanted here.
    Unwanted,
    /// Another revision is wanted.
    Replaced,
    /// It has to leave its place.
    Displaced { reason: String, message: String },
    /// It does not do what it should.
    Unhealthy(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Pending {
        reason: String,
        message: String,
    },
    Starting {
        deadline: MonotonicMs,
    },
    Running {
        since: MonotonicMs,
        started_at: UnixMs,
        probes: Probes,
    },
    Stopping {
        cause: Cause,
        deadline: MonotonicMs,
    },
    BackingOff {
        until: MonotonicMs,
        reason: String,
        message: String,
    },
    /// Found ended when the agent came up; judged once it is known what is wanted.
    Found {
        code: Option<i32>,
    },
    Done {
        success: bool,
        message: String,
    },
    Gone,
}

/// One pod.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    id: PodId,
    wanted: Option<Wanted>,
    live: Option<Live>,
    state: State,
    restarts: u32,
    backoff: Backoff,
    last_exit_code: Option<i32>,
    /// The revision that was started last; `None` before the first start.
    started_revision: Option<Revision>,
}

impl Pod {
    pub(super) fn new(id: PodId, wanted: Wanted) -> Self {
        Self {
            id,
            wanted: Some(wanted),
            live: None,
            state: pending("", ""),
            restarts: 0,
            backoff: Backoff::default(),
            last_exit_code: None,
            started_revision: None,
        }
    }

    /// A pod as its record tells it; nothing is wanted of it yet.
    pub(super) fn of_record(record: &PodRecord) -> Self {
        let state = match record.completed {
            Some(success) => State::Done { success, message: String::new() },
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
            started_revision: Some(record.revision),
        }
    }

    /// A start of it was found running.
    pub(super) fn adopt_running(
        &mut self,
        instance: InstanceId,
        revision: Revision,
        placement: Placement,
        started_at: UnixMs,
        now: MonotonicMs,
    ) {
        self.live = Some(Live { instance, revision, placement, grace_ms: DEFAULT_GRACE_MS });
        self.started_revision = Some(revision);
        // Its probes are known once it is known what is wanted.
        self.state = State::Running { since: now, started_at, probes: Probes::default() };
    }

    /// Its last start was found ended.
    pub(super) fn adopt_ended(&mut self, code: Option<i32>) {
        if !matches!(self.state, State::Done { .. }) {
            self.state = State::Found { code };
        }
    }

    pub(super) fn is_instance(&self, instance: InstanceId) -> bool {
        self.live.as_ref().is_some_and(|live| live.instance == instance)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// What is wanted of it from now on.
    pub(super) fn want(&mut self, wanted: Option<Wanted>, now: MonotonicMs) {
        let (before, after) = (self.current_revision(), wanted.as_ref().map(|w| w.revision));
        let first = self.wanted.is_none();
        self.wanted = wanted;
        if after.is_some() && before.is_some() && after != before {
            self.begin_anew();
        }
        let Some(wanted) = &self.wanted else { return };
        let matching = self.live.as_mut().filter(|live| live.revision == wanted.revision);
        if let Some(live) = matching {
            live.grace_ms = u64::from(wanted.grace_seconds()) * 1000;
            if let State::Running { probes, .. } = &mut self.state
                && first
            {
                *probes = Probes::new(&wanted.container(), now);
            }
        }
    }

    fn current_revision(&self) -> Option<Revision> {
        self.wanted.as_ref().map(|wanted| wanted.revision).or(self.started_revision)
    }

    /// Another content: what the one before did is not held against it.
    fn begin_anew(&mut self) {
        (self.restarts, self.backoff, self.last_exit_code) = (0, Backoff::default(), None);
        let ended = matches!(
            self.state,
            State::BackingOff { .. } | State::Done { .. } | State::Found { .. }
        );
        if ended {
            self.state = pending("", "");
        }
    }

    /// What it asks of the node; `None` when it asks for nothing.
    pub(super) fn demand(&self) -> Option<PodDemand> {
        let wanted = self.wanted.as_ref().filter(|wanted| wanted.invalid.is_none())?;
        if matches!(self.state, State::Done { .. } | State::Gone) {
            return None;
        }
        Some(PodDemand {
            pod: self.id.clone(),
            revision: wanted.revision,
            priority: wanted.priority,
            resources: wanted.template.resources(),
            tolerations: wanted.tolerations.clone(),
            held: self.live.as_ref().map(|live| live.placement.clone()),
        })
    }

    /// What it holds; `None` when nothing of it runs.
    pub(super) fn placement(&self) -> Option<&Placement> {
        self.live.as_ref().map(|live| &live.placement)
    }

    pub(super) fn holds_gpus(&self) -> bool {
        self.placement().is_some_and(|placement| !placement.gpus.is_empty())
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.state, State::Stopping { .. })
    }

    /// Stops it, or lets it go, when it should not run as it does.
    pub(super) fn stop_if_unwanted(
        &mut self,
        decision: Option<&Decision>,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        match self.state {
            State::Starting { .. } | State::Running { .. } => {
                if let Some(cause) = self.cause_to_stop(decision) {
                    self.stop(cause, now, actions);
                }
            }
            State::Stopping { .. } | State::Gone => {}
            _ if self.wanted.is_none() => self.leave(actions),
            _ => {}
        }
    }

    fn cause_to_stop(&self, decision: Option<&Decision>) -> Option<Cause> {
        let live = self.live.as_ref()?;
        let Some(wanted) = &self.wanted else { return Some(Cause::Unwanted) };
        if wanted.revision != live.revision || wanted.invalid.is_some() {
            return Some(Cause::Replaced);
        }
        match decision {
            Some(Decision::Placed(placement)) if *placement != live.placement => {
                let reason = "Moved".to_owned();
                let message = "moves to another GPU".to_owned();
                Some(Cause::Displaced { reason, message })
            }
            Some(Decision::Unplaced { reason, message }) => {
                let (reason, message) = (reason.clone(), message.clone());
                Some(Cause::Displaced { reason, message })
            }
            Some(Decision::Placed(_)) | None => None,
        }
    }

    fn stop(&mut self, cause: Cause, now: MonotonicMs, actions: &mut VecDeque<PodAction>) {
        let Some(live) = &self.live else { return };
        let deadline = now.plus_ms(live.grace_ms + STOP_MARGIN_MS);
        let (pod, instance, grace_ms) = (self.id.clone(), live.instance, live.grace_ms);
        actions.push_back(PodAction::Stop { pod, instance, grace_ms });
        self.state = State::Stopping { cause, deadline };
    }

    /// Nothing of it runs and nothing is wanted of it.
    fn leave(&mut self, actions: &mut VecDeque<PodAction>) {
        let instance = self.live.take().map(|live| live.instance).unwrap_or_default();
        let pod = self.id.clone();
        actions.push_back(PodAction::Remove { pod, instance, keep_logs: false });
        actions.push_back(PodAction::Forget(self.id.clone()));
        self.state = State::Gone;
    }

    /// Whether it may be started now, if there is room. While held only what ran before may.
    pub(super) fn may_start(
        &mut self,
        now: MonotonicMs,
        held: bool,
        actions: &mut VecDeque<PodAction>,
    ) -> bool {
        let Some(wanted) = &self.wanted else { return false };
        if let Some(problem) = &wanted.invalid {
            if self.live.is_none() {
                self.state = pending("InvalidTemplate", problem);
            }
            return false;
        }
        let ran_before = self.started_revision == Some(wanted.revision);
        if let State::Found { code } = self.state {
            self.judge_found(code, now, actions);
        }
        let due = match &self.state {
            State::Pending { .. } => true,
            State::BackingOff { until, .. } => *until <= now,
            _ => false,
        };
        due && (!held || ran_before)
    }

    /// It was found ended when the agent came up. Without a status the power went, which is not its
    /// fault.
    fn judge_found(
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

    /// There is no room.
    pub(super) fn wait_for(&mut self, decision: &Decision) {
        if let Decision::Unplaced { reason, message } = decision {
            self.state = pending(reason, message);
        } else {
            self.state =
                pending("WaitingForGpu", "the GPU it gets is still held by a pod that stops");
        }
    }

    /// Begins a start. Its record comes first.
    pub(super) fn start(
        &mut self,
        instance: InstanceId,
        placement: Placement,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        let Some(wanted) = &self.wanted else { return };
        let grace_seconds = wanted.grace_seconds();
        let live = Live {
            instance,
            revision: wanted.revision,
            placement: placement.clone(),
            grace_ms: u64::from(grace_seconds) * 1000,
        };
        let request = StartRequest {
            pod: self.id.clone(),
            instance,
            revision: wanted.revision,
            container: wanted.container(),
            gpus: placement.gpus,
            gpu_memory_bytes: placement.gpu_memory_bytes,
            grace_seconds,
        };
        self.started_revision = Some(wanted.revision);
        self.live = Some(live);
        self.state = State::Starting { deadline: now.plus_ms(START_DEADLINE_MS) };
        actions.extend(self.record(None).map(PodAction::Record));
        actions.push_back(PodAction::Start(request));
    }

    pub(super) fn record(&self, completed: Option<bool>) -> Option<PodRecord> {
        let live = self.live.as_ref()?;
        Some(PodRecord {
            pod: self.id.clone(),
            revision: live.revision,
            instance: live.instance,
            placement: live.placement.clone(),
            restarts: self.restarts,
            backoff_level: self.backoff.level,
            last_exit_code: self.last_exit_code,
            completed,
        })
    }

    /// The runtime says something of its present start.
    pub(super) fn handle_runtime(
        &mut self,
        event: RuntimeEvent,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        match event {
            RuntimeEvent::Started { started_at, .. } => self.started(started_at, now),
            RuntimeEvent::StartFailed { reason, message, .. } => {
                self.failed_to_start(&reason, &message, now, actions);
            }
            RuntimeEvent::Exited { code, .. } => self.exited(code, now, actions),
            RuntimeEvent::Probed { kind, result, .. } => {
                if let State::Running { probes, .. } = &mut self.state {
                    probes.handle(kind, result);
                    if let Some(why) = probes.condemned() {
                        self.stop(Cause::Unhealthy(why), now, actions);
                    }
                }
            }
        }
    }

    fn started(&mut self, started_at: UnixMs, now: MonotonicMs) {
        if let (State::Starting { .. }, Some(wanted)) = (&self.state, &self.wanted) {
            let probes = Probes::new(&wanted.container(), now);
            self.state = State::Running { since: now, started_at, probes };
        }
    }

    fn failed_to_start(
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
        let wait_ms = self.backoff.ended(None, now).max(FAILED_START_WAIT_MS);
        self.restarts = self.restarts.saturating_add(1);
        self.retire(None, actions);
        let (reason, message) = (reason.to_owned(), message.to_owned());
        self.state = State::BackingOff { until: now.plus_ms(wait_ms), reason, message };
    }

    fn exited(&mut self, code: i32, now: MonotonicMs, actions: &mut VecDeque<PodAction>) {
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
        match cause {
            Cause::Unhealthy(why) => {
                self.last_exit_code = Some(code);
                self.restart_or_finish(false, &why, None, now, actions);
            }
            _ if self.wanted.is_none() => self.leave(actions),
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

    /// It ended by itself.
    fn ended(
        &mut self,
        code: i32,
        since: Option<MonotonicMs>,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        self.last_exit_code = Some(code);
        let message = match code {
            0 => "ended with status 0".to_owned(),
            137 => "killed with signal 9: out of memory, or by hand".to_owned(),
            code if code > 128 => format!("killed by signal {}", code - 128),
            code => format!("ended with status {code}: see its log"),
        };
        self.restart_or_finish(code == 0, &message, since, now, actions);
    }

    /// Whether a start is of another revision than the wanted one.
    fn runs_another(&self, live: &Live) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.revision != live.revision)
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
            self.state = State::Done { success, message: message.to_owned() };
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

    /// A deadline may have passed, a probe may be due.
    pub(super) fn handle_timeout(&mut self, now: MonotonicMs, actions: &mut VecDeque<PodAction>) {
        let Some(live) = &self.live else { return };
        let (pod, instance) = (self.id.clone(), live.instance);
        match &mut self.state {
            State::Starting { deadline } if *deadline <= now => {
                let seconds = START_DEADLINE_MS / 1000;
                let why = format!("the runtime did not start it within {seconds} s");
                self.stop(Cause::Unhealthy(why), now, actions);
            }
            State::Stopping { deadline, .. } if *deadline <= now => {
                *deadline = now.plus_ms(STOP_MARGIN_MS);
                actions.push_back(PodAction::Stop { pod, instance, grace_ms: 0 });
            }
            State::Running { probes, .. } => {
                for (kind, probe) in probes.take_due(now) {
                    let pod = pod.clone();
                    let request = ProbeRequest { pod, instance, kind, probe };
                    actions.push_back(PodAction::Probe(request));
                }
            }
            _ => {}
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<MonotonicMs> {
        match &self.state {
            State::Starting { deadline } | State::Stopping { deadline, .. } => Some(*deadline),
            State::BackingOff { until, .. } => Some(*until),
            State::Running { probes, .. } => probes.poll_timeout(),
            _ => None,
        }
    }

    pub(super) fn status(&self) -> PodStatus {
        let (phase, ready, reason, message) = self.phase();
        let started_at = match &self.state {
            State::Running { started_at, .. } => Some(*started_at),
            _ => None,
        };
        PodStatus {
            pod: self.id.clone(),
            revision: self.shown_revision(),
            phase,
            ready,
            reason,
            message,
            restarts: self.restarts,
            started_at,
            last_exit_code: self.last_exit_code,
            gpus: self.live.as_ref().map(|live| live.placement.gpus.clone()).unwrap_or_default(),
        }
    }

    /// What runs, else what should.
    fn shown_revision(&self) -> Revision {
        let live = self.live.as_ref().map(|live| live.revision);
        live.or(self.current_revision()).unwrap_or_default()
    }

    fn phase(&self) -> (PodPhase, bool, String, String) {
        let words = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
        let (phase, ready, (reason, message)) = match &self.state {
            State::Pending { reason, message } => {
                (PodPhase::Pending, false, words(reason, message))
            }
            State::Found { .. } | State::Gone => (PodPhase::Pending, false, words("", "")),
            State::Starting { .. } => (PodPhase::Starting, false, words("", "")),
            State::Running { probes, .. } if probes.is_ready() => {
                (PodPhase::Running, true, words("", ""))
            }
            State::Running { probes, .. } => {
                (PodPhase::Running, false, words("NotReady", &probes.unready_message()))
            }
            State::Stopping { cause, .. } => (PodPhase::Stopping, false, cause.words()),
            State::BackingOff { reason, message, .. } => {
                (PodPhase::BackingOff, false, words(reason, message))
            }
            State::Done { success: true, message } => {
                (PodPhase::Succeeded, false, words("Completed", message))
            }
            State::Done { success: false, message } => {
                (PodPhase::Failed, false, words("Error", message))
            }
        };
        (phase, ready, reason, message)
    }
}

/// The grace period of Kubernetes, for an adopted start whose own is not known yet.
const DEFAULT_GRACE_MS: u64 = 30_000;

/// A program that is not there is not tried in a tight loop.
const FAILED_START_WAIT_MS: u64 = 10_000;

impl Cause {
    fn words(&self) -> (String, String) {
        let (reason, message) = match self {
            Self::Unwanted => ("Removed", "is no longer wanted here"),
            Self::Replaced => ("Replaced", "makes place for another revision"),
            Self::Displaced { reason, message } => (reason.as_str(), message.as_str()),
            Self::Unhealthy(why) => ("Unhealthy", why.as_str()),
        };
        (reason.to_owned(), message.to_owned())
    }
}

fn pending(reason: &str, message: &str) -> State {
    State::Pending { reason: reason.to_owned(), message: message.to_owned() }
}
