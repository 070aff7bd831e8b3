//! Calls: whether they are allowed, their records, and their answers on the link.
//!
//! A record is durable before a command runs; a store that can't be written refuses commands and lets logs be read, since
//! they may say why. A call is handed out once: a payload that comes again is none of the session. An answer
//! goes after reported state and within its deadline, or not at all; pages of logs go at a bounded rate.

use super::storage::After;
use super::{AgentCore, Effect};
use crate::audit::{AuditAction, AuditOutcome, AuditRecord};
use shared::limits::{
    CALLER_BYTES_MAX, EXEC_COMMAND_BYTES_MAX, LOG_PAGE_BYTES_MAX, NAME_BYTES_MAX,
};
use shared::model::{MonotonicMs, Now, PodId, RemoteAccess};
use shared::ports::WriteBatch;
use shared::sync::SessionFault;
use shared::wire::{
    CallMethod, CallOutcome, CallRequest, CallResponse, ExecResult, LogFrom, Message, decode,
};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use tracing::{info, warn};

/// Calls that run at once; a hub has 16 at most.
const CALLS_MAX: usize = 32;

/// Whoever asks for the next page within this time goes on with what was recorded.
const READING_PAUSE_MS: u64 = 120_000;

/// Readings that are remembered.
const READINGS_MAX: usize = 64;

/// What pages of logs take of the link: a fifth of a megabit.
const LOG_BYTES_PER_SECOND: u64 = 24 * 1024;

/// What a node lets others do from afar, and where that is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemotePolicy {
    /// What is allowed.
    pub access: RemoteAccess,
    /// The configuration that says so; absent where there is none.
    pub file: Option<PathBuf>,
}

impl Default for RemotePolicy {
    /// Logs may be read, commands may not be run.
    fn default() -> Self {
        Self { access: RemoteAccess { logs: true, exec: false }, file: None }
    }
}

impl RemotePolicy {
    fn check(&self, action: &AuditAction) -> Result<(), String> {
        let (is_allowed, key, what) = match action {
            AuditAction::ReadLog => (self.access.logs, "logs", "reading logs"),
            AuditAction::Exec { .. } => (self.access.exec, "exec", "running commands"),
        };
        if is_allowed {
            return Ok(());
        }
        let file = match &self.file {
            Some(file) => format!("in {} on the node", file.display()),
            None => "in a configuration of the agent, which has none".to_owned(),
        };
        Err(format!(
            "the node does not allow {what} from afar: `remote_access.{key} = true` {file} would"
        ))
    }
}

/// Whose call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Hub {
        id: u64,
        deadline: MonotonicMs,
    },
    Local {
        ticket: u64,
    },
    /// The link of whoever asked is gone.
    Nobody,
}

#[derive(Debug)]
struct OpenCall {
    origin: Origin,
    request: CallRequest,
    /// To be completed when it ends.
    record: Option<AuditRecord>,
}

/// A log that somebody reads: who, of which pod, of which of its containers.
type Reading = (String, PodId, Option<String>);

/// The calls of this start.
#[derive(Debug)]
pub(super) struct Calls {
    policy: RemotePolicy,
    next_id: u64,
    open: BTreeMap<u64, OpenCall>,
    /// The number of the newest record.
    newest_record: u64,
    readings: BTreeMap<Reading, MonotonicMs>,
    answers: VecDeque<(CallResponse, MonotonicMs, bool)>,
    next_page: MonotonicMs,
    /// When a page that waits for its turn may go; `None` where it waits for something else, or none does.
    page_due: Option<MonotonicMs>,
}

impl Calls {
    pub(super) fn new(newest_record: u64) -> Self {
        Self {
            policy: RemotePolicy::default(),
            next_id: 0,
            open: BTreeMap::new(),
            newest_record,
            readings: BTreeMap::new(),
            answers: VecDeque::new(),
            next_page: MonotonicMs(0),
            page_due: None,
        }
    }

    /// Who asked hears nothing on this link any more.
    pub(super) fn handle_link_down(&mut self) {
        self.answers.clear();
        self.page_due = None;
        for call in self.open.values_mut() {
            if matches!(call.origin, Origin::Hub { .. }) {
                call.origin = Origin::Nobody;
            }
        }
    }

    /// When an answer that waits for its turn may go.
    pub(super) fn poll_timeout(&self) -> Option<MonotonicMs> {
        self.page_due
    }

    /// The moment of [`Self::poll_timeout`] may have come.
    pub(super) fn handle_timeout(&mut self, now: MonotonicMs) {
        self.page_due = self.page_due.filter(|due| *due > now);
    }

    /// Whether it goes on with a reading that is recorded already.
    fn goes_on(&mut self, method: &CallMethod, now: MonotonicMs) -> bool {
        let CallMethod::ReadLog { pod, container, caller, from, wait_ms, .. } = method else {
            return false;
        };
        self.readings.retain(|_, until| *until > now);
        let key = (caller.clone(), pod.clone(), container.clone());
        let is_after = matches!(from, LogFrom::After { .. });
        let goes_on = is_after && self.readings.contains_key(&key);
        if self.readings.len() < READINGS_MAX || goes_on {
            self.readings.insert(key, now.plus_ms(u64::from(*wait_ms) + READING_PAUSE_MS));
        }
        goes_on
    }
}

impl AgentCore {
    /// From now on others may do this from afar.
    pub fn set_remote_policy(&mut self, policy: RemotePolicy, now: Now) {
        self.calls.policy = policy;
        self.schedule_report(now.monotonic);
    }

    pub(super) fn remote_access(&self) -> RemoteAccess {
        self.calls.policy.access
    }

    /// The number of the newest record of what was read and run.
    #[must_use]
    pub fn newest_audit_record(&self) -> u64 {
        self.calls.newest_record
    }

    pub(super) fn handle_call_request(&mut self, request: CallRequest, now: Now) {
        let deadline = now.monotonic.plus_ms(u64::from(request.timeout_ms));
        let origin = Origin::Hub { id: request.id, deadline };
        let CallRequest { timeout_ms, method, .. } = request;
        self.begin_call(origin, timeout_ms, method, now);
    }

    pub(super) fn handle_local_call(&mut self, ticket: u64, method: CallMethod, now: Now) {
        self.begin_call(Origin::Local { ticket }, u32::MAX, method, now);
    }

    fn begin_call(&mut self, origin: Origin, timeout_ms: u32, method: CallMethod, now: Now) {
        if self.calls.open.len() >= CALLS_MAX {
            let message = format!("{CALLS_MAX} calls are being answered already");
            return self.end_call(origin, CallOutcome::Failed { message }, false, now);
        }
        self.calls.next_id += 1;
        let id = self.calls.next_id;
        let refusal = self.refusal(origin, &method);
        let goes_on = refusal.is_none() && self.calls.goes_on(&method, now.monotonic);
        let record = (!goes_on).then(|| self.new_record(origin, &method, now));
        let request =
            CallRequest { id, timeout_ms, method: bounded(origin, self.of_its_container(method)) };
        let call = OpenCall { origin, request, record: record.clone() };
        self.calls.open.insert(id, call);
        match (refusal, record) {
            (Some(why), _) => self.fail_call(id, &why, now),
            (None, Some(record)) => self.record_and_begin(id, &record, now),
            (None, None) => self.hand_out(id),
        }
    }

    fn refusal(&self, origin: Origin, method: &CallMethod) -> Option<String> {
        let (pod, container, action) = parts(method);
        let allowed = match origin {
            Origin::Hub { .. } => self.calls.policy.check(&action),
            Origin::Local { .. } | Origin::Nobody => Ok(()),
        };
        let checked = allowed
            .and_then(|()| method.check())
            .and_then(|()| self.check_container(pod, container));
        checked.err()
    }

    fn check_container(&self, pod: &PodId, container: Option<&str>) -> Result<(), String> {
        let Some(asked) = container else { return Ok(()) };
        let workload = self.workloads.get(&pod.workload);
        let containers = workload.into_iter().flat_map(|found| found.template.spec.in_order());
        let names: Vec<&str> = containers.map(|placed| placed.container.name.as_str()).collect();
        if names.contains(&asked) {
            return Ok(());
        }
        Err(format!("{pod} has no container `{asked}`: it has {}", names.join(", ")))
    }

    /// Where a pod has several containers the one that is meant, where it has one none.
    fn of_its_container(&self, mut method: CallMethod) -> CallMethod {
        if let CallMethod::ReadLog { pod, container, .. } | CallMethod::Exec { pod, container, .. } =
            &mut method
            && let Some(workload) = self.workloads.get(&pod.workload)
        {
            let spec = &workload.template.spec;
            let first = spec.containers.first().map(|first| first.name.clone());
            *container =
                if spec.has_several_containers() { container.take().or(first) } else { None };
        }
        method
    }

    fn new_record(&mut self, origin: Origin, method: &CallMethod, now: Now) -> AuditRecord {
        let (pod, container, action) = parts(method);
        let caller = match method {
            CallMethod::TailLog { .. } => "one who is not named",
            CallMethod::ReadLog { caller, .. } | CallMethod::Exec { caller, .. } => caller,
        };
        let caller = kept(caller, CALLER_BYTES_MAX);
        let caller = match origin {
            Origin::Hub { .. } => format!("hub: {caller}"),
            Origin::Local { .. } | Origin::Nobody => caller,
        };
        self.calls.newest_record += 1;
        let record = AuditRecord {
            number: self.calls.newest_record,
            at: now.wall,
            clock: now.quality,
            caller,
            pod: pod.clone(),
            container: container.map(|name| kept(name, NAME_BYTES_MAX)),
            action: kept_action(action),
            outcome: AuditOutcome::Began,
        };
        info!(node = %self.node, record = record.number, caller = record.caller, pod = %record.pod,
            action = ?record.action, "asked for");
        record
    }

    fn record_and_begin(&mut self, id: u64, record: &AuditRecord, now: Now) {
        let Some(batch) = batch_of(record) else {
            return self.fail_call(id, "it can't be recorded", now);
        };
        match self.storage.error().map(str::to_owned) {
            // Joins what waits for the store.
            Some(error) => {
                self.persist(batch, After::Nothing);
                self.begin_unrecorded(id, &error, now);
            }
            None => self.persist(batch, After::HandOut(id)),
        }
    }

    /// The record of a call is not durable.
    pub(super) fn begin_unrecorded(&mut self, id: u64, error: &str, now: Now) {
        let Some(call) = self.calls.open.get(&id) else { return };
        if matches!(call.request.method, CallMethod::Exec { .. }) {
            let why = format!("the command was not run, since it can't be recorded: {error}");
            self.fail_call(id, &why, now);
        } else {
            self.hand_out(id);
        }
    }

    /// Its record is durable.
    pub(super) fn hand_out(&mut self, id: u64) {
        let call = self.calls.open.get(&id);
        self.effects.extend(call.map(|call| Effect::AnswerCall(call.request.clone())));
    }

    /// Refuses it without trying.
    fn fail_call(&mut self, id: u64, why: &str, now: Now) {
        let Some(call) = self.calls.open.remove(&id) else { return };
        self.complete(call.record, AuditOutcome::refused(why));
        let outcome = CallOutcome::Failed { message: why.to_owned() };
        self.end_call(call.origin, outcome, false, now);
    }

    pub(super) fn handle_call_answered(&mut self, response: CallResponse, now: Now) {
        let Some(call) = self.calls.open.remove(&response.id) else { return };
        let is_exec = matches!(call.request.method, CallMethod::Exec { .. });
        self.complete(call.record, outcome_of(is_exec, &response.outcome));
        self.end_call(call.origin, response.outcome, !is_exec, now);
    }

    fn complete(&mut self, record: Option<AuditRecord>, outcome: AuditOutcome) {
        let Some(record) = record else { return };
        let record = AuditRecord { outcome, ..record };
        info!(node = %self.node, record = record.number, outcome = ?record.outcome, "ended");
        if let Some(batch) = batch_of(&record) {
            self.persist(batch, After::Nothing);
        }
    }

    fn end_call(&mut self, origin: Origin, outcome: CallOutcome, is_page: bool, now: Now) {
        match origin {
            Origin::Hub { id, deadline } if deadline > now.monotonic => {
                let response = CallResponse { id, outcome };
                self.calls.answers.push_back((response, deadline, is_page));
            }
            // The hub has told whoever asked that there was no answer.
            Origin::Hub { .. } | Origin::Nobody => {}
            Origin::Local { ticket } => {
                self.effects.push_back(Effect::EndLocalCall { ticket, outcome });
            }
        }
    }

    /// Hands answers to the link as far as they may go now.
    pub(super) fn transmit_answers(&mut self, now: Now) -> Result<(), SessionFault> {
        let at = now.monotonic;
        self.calls.answers.retain(|(_, deadline, _)| *deadline > at);
        self.calls.page_due = None;
        while let Some((response, deadline, is_page)) = self.calls.answers.pop_front() {
            let bytes = response.body_bytes() as u64;
            let message = Message::CallResponse(response.clone());
            let is_due = !is_page || self.calls.next_page <= at;
            if !is_due {
                self.calls.page_due = Some(self.calls.next_page);
            }
            if !is_due || !self.may_answer(&message, at) {
                self.calls.answers.push_front((response, deadline, is_page));
                break;
            }
            if is_page {
                let pause_ms = bytes * 1000 / LOG_BYTES_PER_SECOND;
                self.calls.next_page = self.calls.next_page.max(at).plus_ms(pause_ms);
            }
            self.send(&message, now)?;
        }
        Ok(())
    }
}

/// What a call is about.
fn parts(method: &CallMethod) -> (&PodId, Option<&str>, AuditAction) {
    match method {
        CallMethod::TailLog { pod, .. } => (pod, None, AuditAction::ReadLog),
        CallMethod::ReadLog { pod, container, .. } => {
            (pod, container.as_deref(), AuditAction::ReadLog)
        }
        CallMethod::Exec { pod, container, command, .. } => {
            (pod, container.as_deref(), AuditAction::Exec { command: command.clone() })
        }
    }
}

/// What is recorded of a text that may be anything.
fn kept(text: &str, characters_max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(characters_max).collect()
}

/// A command within its limit is recorded as it is, the beginning of another.
fn kept_action(action: AuditAction) -> AuditAction {
    let AuditAction::Exec { command } = action else { return action };
    let mut room = EXEC_COMMAND_BYTES_MAX;
    let fits = |word: &String| {
        let fits = word.len() < room;
        room = room.saturating_sub(word.len() + 1);
        fits
    };
    AuditAction::Exec { command: command.into_iter().take_while(fits).collect() }
}

/// What crosses the link has its limits whatever was asked for.
fn bounded(origin: Origin, method: CallMethod) -> CallMethod {
    match method {
        CallMethod::ReadLog { pod, container, caller, from, bytes_max, wait_ms }
            if matches!(origin, Origin::Hub { .. }) =>
        {
            let bytes_max = bytes_max.min(LOG_PAGE_BYTES_MAX);
            CallMethod::ReadLog { pod, container, caller, from, bytes_max, wait_ms }
        }
        other => other,
    }
}

fn outcome_of(is_exec: bool, outcome: &CallOutcome) -> AuditOutcome {
    match outcome {
        CallOutcome::Failed { message } => AuditOutcome::failed(message),
        CallOutcome::Done { body } if is_exec => {
            let result = decode::<ExecResult>("result", body, body.len());
            AuditOutcome::Done { exit_code: result.ok().and_then(|result| result.exit_code) }
        }
        CallOutcome::Done { .. } => AuditOutcome::Done { exit_code: None },
    }
}

fn batch_of(record: &AuditRecord) -> Option<WriteBatch> {
    let mut batch = WriteBatch::new();
    match record.put(&mut batch) {
        Ok(()) => Some(batch),
        Err(error) => {
            warn!(record = record.number, error = %error, "a record can't be encoded");
            None
        }
    }
}
