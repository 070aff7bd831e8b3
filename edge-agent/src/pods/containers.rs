//! The several containers of one start of a pod: which runs when, which is started again, and what that makes of
//! the pod. As in Kubernetes: init containers in their order, sidecars for as long as anything else runs, each of
//! the others started again by itself, with a backoff of its own.
//!
//! Pure. What only the whole pod can do, as to begin anew after a failed init container, is a [`Verdict`].

use super::backoff::Backoff;
use super::pod::exit_words;
use super::probes::Probes;
use crate::ports::{
    ContainerEvent, ContainerRequest, ObservedContainer, ObservedState, ProbeKind, StartRequest,
};
use shared::model::{ContainerRole, ContainerStatus, MonotonicMs, Probe, RestartPolicy};

/// A start of a container that is not answered within this time has the pod begin anew.
const START_DEADLINE_MS: u64 = 120_000;

/// Beyond the grace period, until a stop is asked for again, without grace.
const STOP_MARGIN_MS: u64 = 30_000;

/// One that could not be started is not tried in a tight loop.
const FAILED_START_WAIT_MS: u64 = 10_000;

/// The code of an end that nobody saw.
const UNSEEN_EXIT_CODE: i32 = 255;

/// A container as it is to be started, and what it is in its pod.
pub(super) type Planned = (ContainerRole, StartRequest);

/// The containers of one start of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Containers {
    policy: RestartPolicy,
    /// In the order of their start; none until it is known what was found.
    members: Vec<Member>,
    /// What the runtime had when the agent came up.
    found: Vec<ObservedContainer>,
    /// What ends the pod, whatever its containers do.
    broken: Option<Verdict>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    role: ContainerRole,
    request: StartRequest,
    state: State,
    restarts: u32,
    backoff: Backoff,
    last_exit_code: Option<i32>,
    /// Of a sidecar: what comes after it need not wait any more.
    has_started: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Its turn has not come.
    Waiting,
    Starting {
        deadline: MonotonicMs,
    },
    Running {
        since: MonotonicMs,
        probes: Probes,
    },
    /// It does not do what it should.
    Stopping {
        why: String,
        /// When a stop is asked for, again.
        due: MonotonicMs,
        asked: bool,
    },
    BackingOff {
        until: MonotonicMs,
        reason: String,
        message: String,
    },
    Ended {
        success: bool,
        message: String,
    },
}

/// Something to do for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Start(Box<ContainerRequest>),
    /// `at_once` after a stop that was asked for with grace.
    Stop {
        container: String,
        at_once: bool,
    },
    Probe {
        container: String,
        kind: ProbeKind,
        probe: Box<Probe>,
    },
}

/// Why the pod ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An init container ended with this code, which is no success.
    InitFailed { code: i32, message: String },
    /// An init container could not be started.
    InitNotStarted { reason: String, message: String },
    /// All that the pod is for have ended and are not started again; the code is that of the one that decided.
    Ended { success: bool, code: i32, message: String },
    /// The runtime does not do what it was asked for.
    Stuck(String),
}

impl Verdict {
    /// With what the containers wrote last.
    pub(super) fn with_words(mut self, words: &str) -> Self {
        if let (Self::Ended { message, .. } | Self::InitFailed { message, .. }, false) =
            (&mut self, words.is_empty())
        {
            *message = format!("{message}: {words}");
        }
        self
    }
}

impl Containers {
    /// Those of a pod that has just started.
    pub(super) fn new(planned: Vec<Planned>, policy: RestartPolicy) -> Self {
        let members = planned.into_iter().map(Member::new).collect();
        Self { policy, members, found: vec![], broken: None }
    }

    /// Those of a pod that was found running.
    pub(super) fn found(found: Vec<ObservedContainer>) -> Self {
        Self { found, ..Self::new(vec![], RestartPolicy::Always) }
    }

    /// What those that were found are.
    pub(super) fn learn(&mut self, planned: Vec<Planned>, policy: RestartPolicy, now: MonotonicMs) {
        if !self.members.is_empty() {
            return;
        }
        let found = std::mem::take(&mut self.found);
        *self = Self::new(planned, policy);
        let mut past = 0;
        for (index, member) in self.members.iter_mut().enumerate() {
            let name = &member.request.container.name;
            let Some(one) = found.iter().find(|one| one.name == *name) else { continue };
            past = index;
            (member.restarts, member.backoff.level) = (one.attempt, one.attempt);
            match one.state {
                ObservedState::Running { .. } => member.started(now),
                ObservedState::Exited { code } => member.ended(code, policy, now),
                ObservedState::Lost => member.ended(UNSEEN_EXIT_CODE, policy, now),
            }
        }
        // What was before one that was started has let it.
        for member in self.members.iter_mut().take(past) {
            member.has_started = true;
            if member.role == ContainerRole::Init && member.state == State::Waiting {
                let message = String::new();
                member.state = State::Ended { success: true, message };
            }
        }
    }

    /// The runtime says something of one.
    pub(super) fn handle(&mut self, container: &str, event: ContainerEvent, now: MonotonicMs) {
        let policy = self.policy;
        let Some(member) = self.member(container) else {
            return self.note_found(container, &event);
        };
        match event {
            ContainerEvent::Started { .. } => member.started(now),
            ContainerEvent::Exited { code } => member.ended(code, policy, now),
            ContainerEvent::StartFailed { reason, message } => {
                let message = member.sentence(&message);
                // An image that is gone is brought when the pod begins anew.
                if member.role == ContainerRole::Init || reason == "ImageMissing" {
                    self.broken = Some(Verdict::InitNotStarted { reason, message });
                } else {
                    member.failed_to_start(reason, message, now);
                }
            }
        }
        // The runtime starts one after the other: those that wait for their turn wait from now on.
        for one in &mut self.members {
            if let State::Starting { deadline } = &mut one.state {
                *deadline = now.plus_ms(START_DEADLINE_MS);
            }
        }
    }

    /// It is not known yet what it is of.
    fn note_found(&mut self, container: &str, event: &ContainerEvent) {
        let found = self.found.iter_mut().find(|one| one.name == container);
        if let (Some(one), ContainerEvent::Exited { code }) = (found, event) {
            one.state = ObservedState::Exited { code: *code };
        }
    }

    /// A probe of one came to its end.
    pub(super) fn handle_probe(
        &mut self,
        container: &str,
        kind: ProbeKind,
        result: Result<(), String>,
        now: MonotonicMs,
    ) {
        let Some(member) = self.member(container) else { return };
        let State::Running { probes, .. } = &mut member.state else { return };
        probes.handle(kind, result);
        member.has_started |= probes.has_started();
        if let Some(why) = probes.condemned() {
            member.state = State::Stopping { why, due: now, asked: false };
        }
    }

    /// What is to be done now.
    pub(super) fn due(&mut self, now: MonotonicMs, grace_ms: u64) -> Vec<Step> {
        let allowed = self.allowed();
        let mut steps = vec![];
        for member in self.members.iter_mut().take(allowed) {
            let container = member.request.container.name.clone();
            match &mut member.state {
                State::Waiting => steps.push(member.start(now)),
                State::BackingOff { until, .. } if *until <= now => steps.push(member.start(now)),
                State::Starting { deadline } if *deadline <= now => {
                    let seconds = START_DEADLINE_MS / 1000;
                    let why = format!("the runtime did not start it within {seconds} s");
                    self.broken = Some(Verdict::Stuck(member.sentence(&why)));
                }
                State::Running { probes, .. } => {
                    let probe = |(kind, probe)| {
                        let (container, probe) = (container.clone(), Box::new(probe));
                        Step::Probe { container, kind, probe }
                    };
                    steps.extend(probes.take_due(now).into_iter().map(probe));
                }
                State::Stopping { due, asked, .. } if *due <= now => {
                    let grace_ms = if *asked { 0 } else { grace_ms };
                    *due = now.plus_ms(grace_ms + STOP_MARGIN_MS);
                    steps.push(Step::Stop { container, at_once: std::mem::replace(asked, true) });
                }
                _ => {}
            }
        }
        steps
    }

    /// How many of them may have been started, in their order.
    fn allowed(&self) -> usize {
        let holds_back = |member: &Member| !member.lets_next();
        self.members.iter().position(holds_back).map_or(self.members.len(), |first| first + 1)
    }

    /// Why the pod ends, if it does.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        if self.broken.is_some() {
            return self.broken.clone();
        }
        let ended = |role: ContainerRole, wanted: bool| {
            self.members.iter().filter(move |one| one.role == role).find_map(move |member| {
                let State::Ended { success, message } = &member.state else { return None };
                (*success == wanted).then(|| (member.last_exit_code, member.sentence(message)))
            })
        };
        if let Some((code, message)) = ended(ContainerRole::Init, false) {
            let code = code.unwrap_or(UNSEEN_EXIT_CODE);
            return Some(Verdict::InitFailed { code, message });
        }
        let mut mains = self.mains().peekable();
        mains.peek()?;
        if !mains.all(|member| matches!(member.state, State::Ended { .. })) {
            return None;
        }
        Some(match ended(ContainerRole::Main, false) {
            Some((code, message)) => {
                let code = code.unwrap_or(UNSEEN_EXIT_CODE);
                Verdict::Ended { success: false, code, message }
            }
            None => {
                let message = "its containers ended with status 0".to_owned();
                Verdict::Ended { success: true, code: 0, message }
            }
        })
    }

    /// Whether nothing that was found runs, and nobody knows what it was.
    pub(super) fn is_spent(&self) -> bool {
        let runs = |one: &ObservedContainer| matches!(one.state, ObservedState::Running { .. });
        self.members.is_empty() && !self.found.iter().any(runs)
    }

    /// When [`Self::due`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<MonotonicMs> {
        let members = self.members.iter().take(self.allowed());
        let due = members.filter_map(|member| match &member.state {
            State::Starting { deadline: due }
            | State::BackingOff { until: due, .. }
            | State::Stopping { due, .. } => Some(*due),
            State::Running { probes, .. } => probes.poll_timeout(),
            State::Waiting | State::Ended { .. } => None,
        });
        due.min()
    }

    /// Whether all that is to run can serve.
    pub(super) fn is_ready(&self) -> bool {
        let mut to_run = self.members.iter().filter(|one| one.role != ContainerRole::Init);
        !self.members.is_empty() && to_run.all(Member::is_ready)
    }

    /// Whether init containers still have to run, or sidecars to start.
    pub(super) fn is_initialising(&self) -> bool {
        !self.members.is_empty() && self.mains().all(|member| member.state == State::Waiting)
    }

    /// How often any of them was started again.
    pub(super) fn restarts(&self) -> u32 {
        self.members.iter().fold(0, |sum, member| sum.saturating_add(member.restarts))
    }

    /// A word and a sentence for why the pod is not ready.
    pub(super) fn words(&self) -> (String, String) {
        let members = self.members.iter();
        if self.is_initialising() {
            let init = || members.clone().filter(|one| one.role != ContainerRole::Main);
            let (done, all) = (init().filter(|one| one.lets_next()).count(), init().count());
            let present = init().find(|one| !one.lets_next());
            let (reason, message) = present.map(Member::words).unwrap_or_default();
            let reason = match reason.as_str() {
                "" | "NotReady" => format!("Init:{done}/{all}"),
                reason => format!("Init:{reason}"),
            };
            return (reason, message);
        }
        let mut unready = members
            .filter(|one| one.role != ContainerRole::Init && !one.is_ready())
            .map(Member::words);
        let first = unready.clone().next().unwrap_or_default();
        // What fails goes before what only waits.
        unready.find(|(reason, _)| reason != "NotReady").unwrap_or(first)
    }

    pub(super) fn statuses(&self) -> Vec<ContainerStatus> {
        self.members.iter().map(Member::status).collect()
    }

    fn mains(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role == ContainerRole::Main)
    }

    fn member(&mut self, container: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.request.container.name == container)
    }
}

impl Member {
    fn new((role, request): Planned) -> Self {
        Self {
            role,
            request,
            state: State::Waiting,
            restarts: 0,
            backoff: Backoff::default(),
            last_exit_code: None,
            has_started: false,
        }
    }

    /// Whether what comes after it may start.
    fn lets_next(&self) -> bool {
        match self.role {
            ContainerRole::Init => matches!(self.state, State::Ended { success: true, .. }),
            ContainerRole::Sidecar => self.has_started,
            ContainerRole::Main => true,
        }
    }

    fn is_ready(&self) -> bool {
        matches!(&self.state, State::Running { probes, .. } if probes.is_ready())
    }

    fn start(&mut self, now: MonotonicMs) -> Step {
        self.state = State::Starting { deadline: now.plus_ms(START_DEADLINE_MS) };
        let (start, attempt) = (self.request.clone(), self.restarts);
        Step::Start(Box::new(ContainerRequest { start, attempt }))
    }

    fn started(&mut self, now: MonotonicMs) {
        if matches!(self.state, State::Starting { .. } | State::Waiting) {
            let probes = Probes::new(&self.request.container, now);
            self.has_started |= probes.has_started();
            self.state = State::Running { since: now, probes };
        }
    }

    fn failed_to_start(&mut self, reason: String, message: String, now: MonotonicMs) {
        let wait_ms = self.backoff.ended(None, now).max(FAILED_START_WAIT_MS);
        self.restarts = self.restarts.saturating_add(1);
        self.state = State::BackingOff { until: now.plus_ms(wait_ms), reason, message };
    }

    fn ended(&mut self, code: i32, policy: RestartPolicy, now: MonotonicMs) {
        let (since, why) = match &self.state {
            State::Running { since, .. } => (Some(*since), None),
            State::Stopping { why, .. } => (None, Some(why.clone())),
            State::Starting { .. } | State::Waiting => (None, None),
            State::BackingOff { .. } | State::Ended { .. } => return,
        };
        self.last_exit_code = Some(code);
        let success = why.is_none() && code == 0;
        let message = why.unwrap_or_else(|| exit_words(code));
        let again = match (self.role, policy) {
            (ContainerRole::Init, _) => false,
            (ContainerRole::Sidecar, _) | (_, RestartPolicy::Always) => true,
            (ContainerRole::Main, RestartPolicy::OnFailure) => !success,
            (ContainerRole::Main, RestartPolicy::Never) => false,
        };
        if !again {
            self.state = State::Ended { success, message };
            return;
        }
        let wait_ms = self.backoff.ended(since, now);
        self.restarts = self.restarts.saturating_add(1);
        let reason = if self.backoff.level > 1 { "CrashLoopBackOff" } else { "Restarting" };
        let message = format!("{message}; is started again after {} s", wait_ms / 1000);
        let message = self.sentence(&message);
        let (until, reason) = (now.plus_ms(wait_ms), reason.to_owned());
        self.state = State::BackingOff { until, reason, message };
    }

    /// Says of which container it is.
    fn sentence(&self, message: &str) -> String {
        let kind = match self.role {
            ContainerRole::Init => "init container",
            ContainerRole::Sidecar => "sidecar",
            ContainerRole::Main => "container",
        };
        format!("the {kind} `{}`: {message}", self.request.container.name)
    }

    /// A word and a sentence for what it waits for.
    fn words(&self) -> (String, String) {
        let not_ready = |message: &str| ("NotReady".to_owned(), self.sentence(message));
        match &self.state {
            State::Waiting => not_ready("waits for its turn"),
            State::Starting { .. } => not_ready("is being started"),
            State::Running { .. } if self.role == ContainerRole::Init => not_ready("runs"),
            State::Running { probes, .. } => not_ready(&probes.unready_message()),
            State::Stopping { why, .. } => ("Unhealthy".to_owned(), self.sentence(why)),
            State::BackingOff { reason, message, .. } => (reason.clone(), message.clone()),
            State::Ended { message, .. } => not_ready(message),
        }
    }

    fn status(&self) -> ContainerStatus {
        let is_done = matches!(self.state, State::Ended { success: true, .. });
        let reason = match &self.state {
            State::Stopping { .. } => "Unhealthy",
            State::BackingOff { reason, .. } => reason,
            State::Ended { success: true, .. } => "Completed",
            State::Ended { success: false, .. } => "Error",
            State::Waiting => "Waiting",
            State::Starting { .. } | State::Running { .. } => "",
        };
        ContainerStatus {
            name: self.request.container.name.clone(),
            ready: self.is_ready() || (self.role == ContainerRole::Init && is_done),
            restarts: self.restarts,
            reason: reason.to_owned(),
            last_exit_code: self.last_exit_code,
        }
    }
}
