//! One pod: what is wanted of it, how it is, and what follows when either changes.

mod ending;
mod found;
mod several;
mod start;
mod status;

pub(super) use ending::exit_words;

use super::backoff::Backoff;
use super::containers::{Containers, Planned, Verdict};
use super::probes::Probes;
use super::record::PodAction;
use super::wanted::Wanted;
use crate::placement::{Decision, EVICTED, MainShare, Placement, PodDemand};
use crate::ports::{InstanceId, ProbeRequest, RuntimeEvent};
use shared::model::{ContainerPort, MonotonicMs, PodId, Revision, UnixMs};
use std::collections::VecDeque;
use std::net::IpAddr;

/// A start that is not answered for so long is given up: a sandbox on a slow disk takes seconds.
const START_DEADLINE_MS: u64 = 120_000;

/// Beyond the grace period, until a stop is asked for again, without grace.
const STOP_MARGIN_MS: u64 = 30_000;

/// A start of the pod that may be running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) instance: InstanceId,
    pub(super) revision: Revision,
    pub(super) parameters_id: u64,
    pub(super) placement: Placement,
    /// What it takes besides GPUs; `None` where nobody noted it.
    pub(super) taken: Option<MainShare>,
    pub(super) grace_ms: u64,
    /// Names what its volumes were last told to hold; `None` where another start of the agent did.
    pub(super) volumes_version: Option<u64>,
    /// Ports of the node that lead to it, as far as that is known.
    pub(super) host_ports: Vec<ContainerPort>,
    /// Its address, where it has a network of its own.
    pub(super) pod_ip: Option<IpAddr>,
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
    /// Its containers have made an end of it.
    Concluded(Verdict),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Pending {
        reason: String,
        message: String,
    },
    Starting {
        deadline: MonotonicMs,
        /// What takes so long: a word and a sentence.
        doing: (String, String),
    },
    Running {
        since: MonotonicMs,
        started_at: UnixMs,
        probes: Probes,
    },
    /// It runs, and has several containers.
    Several {
        since: MonotonicMs,
        started_at: UnixMs,
        containers: Containers,
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
        reason: &'static str,
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
    /// What its last start wrote before it ended.
    last_words: String,
    /// The revision that was started last, and what was the node's own then; `None` before the first start.
    started: Option<(Revision, u64)>,
    /// Its several containers, while it is being started.
    planned: Vec<Planned>,
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
            last_words: String::new(),
            started: None,
            planned: vec![],
        }
    }

    pub(super) fn is_instance(&self, instance: InstanceId) -> bool {
        self.live.as_ref().is_some_and(|live| live.instance == instance)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// What is wanted of it from now on.
    pub(super) fn want(
        &mut self,
        wanted: Option<Wanted>,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        let before = self.current();
        let first = self.wanted.is_none();
        let pulls_anew = self.pulls_otherwise(wanted.as_ref());
        self.wanted = wanted;
        if self.wanted.is_some() && self.current() != before {
            self.begin_anew();
        }
        let Some(wanted) = &self.wanted else { return };
        let matching = |live: &&mut Live| wanted.is(live.revision, live.parameters_id);
        let matching = self.live.as_mut().filter(matching);
        if let Some(live) = matching {
            live.grace_ms = u64::from(wanted.grace_seconds()) * 1000;
            live.host_ports = wanted.network(self.id.ordinal).host_ports;
            if let State::Running { probes, .. } = &mut self.state
                && first
            {
                *probes = Probes::new(&wanted.container(self.id.ordinal), now);
            }
            self.learn_containers(now);
        }
        if pulls_anew {
            self.stop(Cause::Replaced, now, actions);
        }
        self.renew_volumes(actions);
        self.drive(now, actions);
    }

    /// Has the files of its volumes replaced, where they are others now. One that starts has them from its
    /// start, and is looked at once it runs.
    fn renew_volumes(&mut self, actions: &mut VecDeque<PodAction>) {
        let (Some(wanted), Some(live)) = (&self.wanted, &mut self.live) else { return };
        let version = Some(wanted.volumes_version);
        let is_same = wanted.volumes().is_empty() || live.volumes_version == version;
        let is_its = wanted.is(live.revision, live.parameters_id);
        let runs = matches!(self.state, State::Running { .. } | State::Several { .. });
        if runs && is_its && !is_same && wanted.lacks().is_none() {
            live.volumes_version = version;
            let (pod, instance, volumes) =
                (self.id.clone(), live.instance, wanted.volumes().to_vec());
            actions.push_back(PodAction::Attach { pod, instance, volumes });
        }
    }

    fn current(&self) -> Option<(Revision, u64)> {
        let wanted = self.wanted.as_ref();
        wanted.map(|wanted| (wanted.revision, wanted.parameters_id)).or(self.started)
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
            planned: None,
        })
    }

    /// What it holds; `None` when nothing of it runs.
    pub(super) fn placement(&self) -> Option<&Placement> {
        self.live.as_ref().map(|live| &live.placement)
    }

    /// What it takes besides GPUs, as long as anything of it runs.
    pub(super) fn taken(&self) -> Option<MainShare> {
        let wanted =
            || self.wanted.as_ref().map(|wanted| MainShare::of(&wanted.template.resources()));
        self.live.as_ref().and_then(|live| live.taken.or_else(wanted))
    }

    /// Ports of the node that lead to it, as long as anything of it runs.
    pub(super) fn host_ports(&self) -> &[ContainerPort] {
        self.live.as_ref().map_or(&[], |live| &live.host_ports)
    }

    /// Ports of the node that are to lead to it.
    pub(super) fn wanted_host_ports(&self) -> Vec<ContainerPort> {
        let wanted = self.wanted.as_ref();
        wanted.map(|wanted| wanted.network(self.id.ordinal).host_ports).unwrap_or_default()
    }

    pub(super) fn holds_gpus(&self) -> bool {
        self.placement().is_some_and(|placement| !placement.gpus.is_empty())
    }

    /// Stops it, or lets it go, when it should not run as it does.
    pub(super) fn stop_if_unwanted(
        &mut self,
        decision: Option<&Decision>,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        match self.state {
            State::Starting { .. } | State::Running { .. } | State::Several { .. } => {
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
        if let Some(Decision::Unplaced { reason, message }) = decision
            && reason == EVICTED
        {
            return Some(Cause::Displaced { reason: reason.clone(), message: message.clone() });
        }
        if !wanted.is(live.revision, live.parameters_id) && wanted.lacks().is_some() {
            // What would take its place can't be started: it goes on.
            return None;
        }
        if !wanted.is(live.revision, live.parameters_id) || wanted.invalid.is_some() {
            return Some(Cause::Replaced);
        }
        match decision {
            Some(Decision::Placed(placement)) if *placement != live.placement => {
                let reason = "Moved".to_owned();
                let message = "moves to another GPU".to_owned();
                Some(Cause::Displaced { reason, message })
            }
            Some(Decision::Unplaced { reason, message }) => {
                Some(Cause::Displaced { reason: reason.clone(), message: message.clone() })
            }
            Some(Decision::Placed(_)) | None => None,
        }
    }

    fn stop(&mut self, cause: Cause, now: MonotonicMs, actions: &mut VecDeque<PodAction>) {
        self.count_restarts_of_containers();
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
        if let Some(lack) = wanted.lacks() {
            if self.live.is_none() && !matches!(self.state, State::Done { .. }) {
                self.state = pending(lack.reason, &lack.message);
            }
            return false;
        }
        let ran_before = self.started == Some((wanted.revision, wanted.parameters_id));
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

    /// It has no place.
    pub(super) fn wait(&mut self, reason: &str, message: &str) {
        self.state = pending(reason, message);
    }

    /// The runtime says something of its present start.
    pub(super) fn handle_runtime(
        &mut self,
        event: RuntimeEvent,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        match event {
            RuntimeEvent::Started { started_at, .. } => self.started(started_at, now, actions),
            RuntimeEvent::StartFailed { reason, message, .. } => {
                self.failed_to_start(&reason, &message, now, actions);
            }
            RuntimeEvent::Preparing { reason, message, .. } => {
                if let State::Starting { deadline, doing } = &mut self.state {
                    *deadline = now.plus_ms(START_DEADLINE_MS);
                    *doing = (reason, message);
                }
            }
            RuntimeEvent::Addressed { pod_ip, .. } => {
                self.live.iter_mut().for_each(|live| live.pod_ip = Some(pod_ip));
            }
            RuntimeEvent::Exited { code, .. } => self.exited(code, now, actions),
            RuntimeEvent::LastWords { message, .. } => self.last_words = message,
            // Whatever happens next has it tried again.
            RuntimeEvent::NotAttached { .. } => {
                self.live.iter_mut().for_each(|live| live.volumes_version = None);
            }
            RuntimeEvent::Probed { container: Some(container), kind, result, .. } => {
                if let State::Several { containers, .. } = &mut self.state {
                    containers.handle_probe(&container, kind, result, now);
                    self.drive(now, actions);
                }
            }
            RuntimeEvent::Probed { container: None, kind, result, .. } => {
                if let State::Running { probes, .. } = &mut self.state {
                    probes.handle(kind, result);
                    if let Some(why) = probes.condemned() {
                        self.stop(Cause::Unhealthy(why), now, actions);
                    }
                }
            }
            RuntimeEvent::Container { container, event, .. } => {
                if let State::Several { containers, .. } = &mut self.state {
                    containers.handle(&container, event, now);
                    self.drive(now, actions);
                }
            }
            RuntimeEvent::ImageRemoved { .. } => {}
        }
    }

    /// A deadline may have passed, a probe may be due.
    pub(super) fn handle_timeout(&mut self, now: MonotonicMs, actions: &mut VecDeque<PodAction>) {
        let Some(live) = &self.live else { return };
        let (pod, instance) = (self.id.clone(), live.instance);
        match &mut self.state {
            State::Starting { deadline, .. } if *deadline <= now => {
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
                    let request = ProbeRequest { pod, instance, container: None, kind, probe };
                    actions.push_back(PodAction::Probe(request));
                }
            }
            State::Several { .. } => self.drive(now, actions),
            _ => {}
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<MonotonicMs> {
        match &self.state {
            State::Starting { deadline, .. } | State::Stopping { deadline, .. } => Some(*deadline),
            State::BackingOff { until, .. } => Some(*until),
            State::Running { probes, .. } => probes.poll_timeout(),
            State::Several { containers, .. } => containers.poll_timeout(),
            _ => None,
        }
    }
}

/// The grace period of Kubernetes, for an adopted start whose own is not known yet.
pub(super) const DEFAULT_GRACE_MS: u64 = 30_000;

/// A program that is not there is not tried in a tight loop.
const FAILED_START_WAIT_MS: u64 = 10_000;

fn pending(reason: &str, message: &str) -> State {
    State::Pending { reason: reason.to_owned(), message: message.to_owned() }
}
