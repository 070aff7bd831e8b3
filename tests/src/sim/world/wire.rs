//! What a link costs, and whether that is within its budget.

use super::{AgentEvent, MonotonicMs, World};
use edge_agent::core::LinkStatus;
use shared::model::{LinkBudget, NodeId};
use shared::wire::UpTopicKind;
use shared::wire_cost::{
    FULL_CONNECTION_BYTES, RESET_BYTES, RESUMED_CONNECTION_BYTES, SEGMENT_HEADER_BYTES, SYN_BYTES,
    UNANSWERED_ATTEMPT_BYTES, message_bytes,
};
use std::collections::VecDeque;

/// In any such span no more than the limit.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// In any such span no more than the limit of a second allows as a mean, and [`BURST_BYTES_MAX`].
const MINUTE_MS: u64 = 60 * 1000;

/// What does not wait for the second's limit: connections, what the hub sends, alarms; and two seconds that
/// were saved. Crashes come in rows.
const BURST_BYTES_MAX: u64 = 6_000;

/// A ticket of TLS is of no use after a week.
const TICKET_MS_MAX: u64 = 7 * DAY_MS;

/// DISCONNECT, the end of TLS and of TCP, and the acknowledgements.
const FAREWELL_BYTES: u64 = 2 * 30 + 4 * SEGMENT_HEADER_BYTES;

/// Between attempts to connect, as the link has it.
const ATTEMPT_DELAY_MS_FIRST: u64 = 1_000;
const ATTEMPT_DELAY_MS_MAX: u64 = 60_000;

/// Until an attempt that nobody answers is given up.
const ATTEMPT_MS: u64 = 6_000;

/// The agent's loop looks around this often.
const LONGEST_SLEEP_MS: u64 = 60_000;

/// What a link has carried.
#[derive(Debug, Default)]
pub(in super::super) struct Meter {
    /// What was carried in the last 24 hours, since the limit is in force.
    in_day: Span,
    in_minute: Span,
    limits: LinkBudget,
    /// Bytes since the world began.
    pub(in super::super) total: u64,
    /// The most that any 24 hours had.
    pub(in super::super) day_max: u64,
    attempt_delay_ms: u64,
    ticket_until: Option<MonotonicMs>,
}

/// What was carried within a span that ends now.
#[derive(Debug, Default)]
struct Span {
    carried: VecDeque<(MonotonicMs, u64)>,
    bytes: u64,
}

impl Span {
    fn add(&mut self, bytes: u64, span_ms: u64, now: MonotonicMs) {
        self.carried.push_back((now, bytes));
        self.bytes += bytes;
        while let Some((_, old)) = self.carried.pop_front_if(|(at, _)| now.since_ms(*at) >= span_ms)
        {
            self.bytes -= old;
        }
    }
}

impl Meter {
    fn add(&mut self, bytes: u64, now: MonotonicMs) -> Result<(), String> {
        self.total += bytes;
        self.in_day.add(bytes, DAY_MS, now);
        self.in_minute.add(bytes, MINUTE_MS, now);
        self.day_max = self.day_max.max(self.in_day.bytes);
        let by_second = |limit: u64| limit * (MINUTE_MS / 1000) + BURST_BYTES_MAX;
        let (day, minute) = (self.in_day.bytes, self.in_minute.bytes);
        match (self.limits.bytes_per_day, self.limits.bytes_per_second.map(by_second)) {
            (Some(limit), _) if day > limit => {
                Err(format!("{day} bytes in a day, and {limit} are allowed"))
            }
            (_, Some(limit)) if minute > limit => {
                Err(format!("{minute} bytes in a minute, and {limit} are allowed"))
            }
            _ => Ok(()),
        }
    }

    /// These limits are in force. What was carried under others is not held against them.
    fn limits_are(&mut self, limits: LinkBudget) {
        if limits != self.limits {
            self.limits = limits;
            self.forget();
        }
    }

    /// The node no longer knows what it has spent.
    pub(super) fn forget(&mut self) {
        (self.in_day, self.in_minute) = (Span::default(), Span::default());
    }

    fn connection_bytes(&mut self, now: MonotonicMs) -> u64 {
        let resumes = self.ticket_until.replace(now.plus_ms(TICKET_MS_MAX));
        let resumed = resumes.is_some_and(|until| now < until);
        if resumed { RESUMED_CONNECTION_BYTES } else { FULL_CONNECTION_BYTES }
    }
}

impl World {
    /// The link of this agent carries so much, if anybody counts.
    fn carry(&mut self, index: usize, bytes: u64) {
        let now = self.now;
        let Some(Some(meter)) = self.meters.get_mut(index) else { return };
        let checked = meter.add(bytes, now);
        let told = || {
            let core = self.agents.get(index).and_then(|agent| agent.core.as_ref());
            core.map(|core| core.status(LinkStatus::default()).budget)
        };
        let checked = checked.map_err(|problem| {
            format!("the link of agent {index}: {problem}; its own count is {:?}", told())
        });
        self.complain(checked);
        if let Some(agent) = self.agents.get_mut(index) {
            agent.count_wire(bytes);
        }
    }

    /// A message crosses the link of this agent.
    pub(super) fn carry_message(&mut self, index: usize, payload_bytes: usize) {
        let Some(Some(_)) = self.meters.get(index) else { return };
        let Some(agent) = self.agents.get(index) else { return };
        self.carry(index, message_bytes(topic_bytes(&agent.identity.node), payload_bytes));
    }

    /// The agent connects.
    pub(super) fn carry_connection(&mut self, index: usize) {
        let now = self.now;
        let Some(Some(meter)) = self.meters.get_mut(index) else { return };
        meter.attempt_delay_ms = ATTEMPT_DELAY_MS_FIRST;
        let bytes = meter.connection_bytes(now);
        self.carry(index, bytes);
    }

    /// Whether this agent's budget lets it try to connect; when not, it looks again later.
    pub(super) fn may_connect(&mut self, index: usize) -> bool {
        let (now, at) = (self.now, self.present_at(index));
        let Some(Some(_)) = self.meters.get(index) else { return true };
        let Some(agent) = self.agents.get_mut(index) else { return false };
        let permitted = agent.core.as_mut().is_some_and(|core| core.permits_link(false, at));
        self.step_agent(index, []);
        let may = permitted && self.agents.get(index).is_some_and(|agent| agent.core.is_some());
        let due = self.agents.get(index).and_then(|agent| agent.core.as_ref()?.poll_timeout());
        let due = due.map_or(u64::MAX, |due| due.since_ms(at.monotonic));
        if let Some(at) = self.connect_at.get_mut(index).filter(|_| !may) {
            *at = now.plus_ms(due.clamp(1, LONGEST_SLEEP_MS));
        }
        may
    }

    /// This agent tries to connect and can't: nobody answers, or the broker is down.
    pub(super) fn attempt_in_vain(&mut self, index: usize, answered: bool) {
        let now = self.now;
        let Some(Some(meter)) = self.meters.get_mut(index) else { return };
        let delay = meter.attempt_delay_ms.max(ATTEMPT_DELAY_MS_FIRST);
        meter.attempt_delay_ms = (delay * 2).min(ATTEMPT_DELAY_MS_MAX);
        let (bytes, lasts_ms) = match answered {
            true => (SYN_BYTES + RESET_BYTES, 0),
            false => (UNANSWERED_ATTEMPT_BYTES, ATTEMPT_MS),
        };
        if let Some(at) = self.connect_at.get_mut(index) {
            *at = now.plus_ms(delay + lasts_ms);
        }
        self.carry(index, bytes);
        // As the link says after each attempt; what it has cost is told with it.
        self.step_agent(index, [AgentEvent::LinkDown]);
    }

    /// Looks which limit is in force.
    pub(super) fn keep_to_limit_in_force(&mut self, index: usize) {
        let Some(Some(meter)) = self.meters.get_mut(index) else { return };
        let core = self.agents.get(index).and_then(|agent| agent.core.as_ref());
        if let Some(core) = core {
            let told = core.status(LinkStatus::default()).budget;
            let (bytes_per_day, bytes_per_second) = (told.bytes_per_day, told.bytes_per_second);
            meter.limits_are(LinkBudget { bytes_per_day, bytes_per_second });
        }
    }

    /// Closes the link if the budget no longer permits it, as the agent's loop does.
    pub(super) fn keep_to_budget(&mut self, index: usize) {
        let at = self.present_at(index);
        let Some(Some(_)) = self.meters.get(index) else { return };
        let Some(agent) = self.agents.get_mut(index) else { return };
        let Some(core) = agent.core.as_mut() else { return };
        if agent.connected && !core.permits_link(true, at) {
            self.note(format!("agent {index}: its budget closes the link"));
            self.carry(index, FAREWELL_BYTES);
            self.disconnect(index);
        }
    }
}

fn topic_bytes(node: &NodeId) -> usize {
    shared::wire::UpTopic { node: node.clone(), kind: UpTopicKind::Up }.name().len()
}
