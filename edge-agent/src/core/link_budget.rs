//! What the link may carry: every message is weighed before it is sent, and what arrives is counted.
//!
//! Limits come with desired state. What is spent is taken from grants that are durable before the
//! message leaves, so that no restart spends a byte twice. They lie in the ledger, which can be written
//! when the disk is full: a node that can store nothing still tells of it, and stays within its budget.

use super::{AgentCore, Effect};
use shared::model::{LinkBudget, MonotonicMs, NODE_POLICY_KEY, NodePolicy, Now};
use shared::sync::{LinkClass, SessionFault, StoredBudget, message_bytes};
use shared::wire::{MapAck, MapName, Message, decode};
use shared::wire_cost::{FULL_CONNECTION_BYTES, RESUMED_CONNECTION_BYTES};
use tracing::warn;

/// Bytes of a node's policy.
const POLICY_BYTES_MAX: usize = 4096;

/// A handshake and a greeting, with their answers.
const SESSION_BYTES: usize = 900;

/// An acknowledgement or a refusal.
const ACK_BYTES: usize = 120;

/// A chunk of an update for a node that pays for each byte, with its signed header.
const CHUNK_BYTES: usize = 1024 + 250;

/// Below this the link is closed until the window has moved on: the first chunk of an update, which the
/// hub sends unasked, and the farewell still fit.
pub(super) const FAREWELL_BYTES: u64 = 950;

/// What connecting costs: TCP, TLS and MQTT, a greeting with its answer, and what must be left while the
/// link is open; with a resumed TLS session, and without.
const RECONNECT_BYTES: u64 = RESUMED_CONNECTION_BYTES + 250 + FAREWELL_BYTES;
const CONNECT_BYTES: u64 = FULL_CONNECTION_BYTES + 1_400 + FAREWELL_BYTES;

/// Per cent of the day's bytes from which on only alarms go, and below which others go again.
const EXHAUSTED_FROM_PERCENT: u64 = 97;
const EXHAUSTED_UNTIL_PERCENT: u64 = 94;

/// Without the next chunk for this long, a grant for it was lost.
const GRANT_LOST_MS: u64 = 60_000;

/// An update of desired state that the node takes as fast as it can afford.
#[derive(Debug)]
pub(super) struct DesiredPace {
    ack: MapAck,
    /// When the last chunks were asked for; `None` while there is no budget for any.
    asked_at: Option<MonotonicMs>,
}

/// What a message is spent on.
fn class_of(message: &Message) -> LinkClass {
    let of_map = |map: &MapName| match map {
        MapName::Desired => LinkClass::DesiredState,
        MapName::Reported => LinkClass::ReportedState,
    };
    match message {
        Message::Hello(_)
        | Message::HelloReply(_)
        | Message::Introduction(_)
        | Message::Resume(_)
        | Message::Resumed(_) => LinkClass::Session,
        Message::MapChunk(chunk) => of_map(&chunk.map),
        Message::MapAck(MapAck::Partial { map, .. } | MapAck::Applied { map, .. }) => of_map(map),
        Message::MapRefusal(refusal) => of_map(&refusal.map),
        Message::LogBatch(batch) => batch.log.stream.into(),
        Message::LogAck(ack) => ack.log.stream.into(),
        Message::LogHold(hold) => hold.log.stream.into(),
        Message::CallRequest(_) | Message::CallResponse(_) => LinkClass::Calls,
    }
}

impl AgentCore {
    /// The limits in the desired state that is in force; none where it says nothing or can't be read.
    pub(super) fn apply_policy(&mut self, now: MonotonicMs) {
        let item = self.desired.content().items().get(NODE_POLICY_KEY);
        let policy = item.map(|bytes| decode::<NodePolicy>("node policy", bytes, POLICY_BYTES_MAX));
        match policy {
            Some(Ok(policy)) => self.budget.set_limits(policy.link, now),
            Some(Err(error)) => {
                warn!(node = %self.node, error = %error, "can't read the node's policy: kept as it was");
            }
            None => self.budget.set_limits(LinkBudget::default(), now),
        }
        self.decide_rung(now);
    }

    /// Says it when the day's bytes are spent, and when there are some again.
    pub(super) fn watch_budget(&mut self, now: Now) {
        let spent = self.budget.spent_in_day(now.monotonic);
        self.spent_in_day = spent;
        let Some(day) = self.budget.limits().bytes_per_day else {
            self.budget_exhausted = false;
            return;
        };
        let exhausted = if self.budget_exhausted {
            spent.saturating_mul(100) > day.saturating_mul(EXHAUSTED_UNTIL_PERCENT)
        } else {
            spent.saturating_mul(100) > day.saturating_mul(EXHAUSTED_FROM_PERCENT)
        };
        if exhausted == self.budget_exhausted {
            return;
        }
        self.budget_exhausted = exhausted;
        let (reason, message) = if exhausted {
            ("BudgetExhausted", format!("{spent} of the link's {day} bytes a day are spent"))
        } else {
            ("BudgetAvailable", format!("{spent} of the link's {day} bytes a day are spent"))
        };
        self.record_event("node", reason, &message, now);
        self.schedule_report(now.monotonic);
    }

    /// Whether the link may be opened, or stay open. What opening it costs is granted first: the effects
    /// that this leaves are to be performed before it is opened.
    pub fn permits_link(&mut self, is_open: bool, now: Now) -> bool {
        if !is_open && !self.attempts.may_try(now.monotonic) {
            return false;
        }
        let alarm_waits = self.outbox.holds(shared::wire::Stream::Alarms);
        let (bytes, bytes_max) = match is_open {
            true => (FAREWELL_BYTES, FAREWELL_BYTES),
            false => (RECONNECT_BYTES, CONNECT_BYTES),
        };
        let may = self.budget.may_connect(bytes, bytes_max, is_open || alarm_waits, now.monotonic);
        if may
            && !is_open
            && let Some(grant) = self.budget.poll_grant(bytes_max, now)
        {
            self.persist_grant(&grant);
        }
        may
    }

    /// Whether a handshake or a greeting may go.
    pub(super) fn may_open_session(&mut self, now: MonotonicMs) -> bool {
        self.budget.may_send(LinkClass::Session, message_bytes(SESSION_BYTES), now)
    }

    /// Seals `message` and hands it to the link.
    pub(super) fn send(&mut self, message: &Message, now: Now) -> Result<(), SessionFault> {
        let payload = self.session.seal(message)?;
        self.send_payload(class_of(message), payload, now);
        Ok(())
    }

    /// Hands a payload to the link, once what it costs is granted durably.
    pub(super) fn send_payload(&mut self, class: LinkClass, payload: Vec<u8>, now: Now) {
        let bytes = message_bytes(payload.len());
        self.grant(bytes, now);
        self.budget.charge(class, bytes, now.monotonic);
        self.effects.push_back(Effect::Send(payload));
    }

    /// Makes durable that `bytes` will be spent, and what the hub may send unasked with them.
    fn grant(&mut self, bytes: u64, now: Now) {
        if let Some(grant) = self.budget.poll_grant(bytes.saturating_add(FAREWELL_BYTES), now) {
            self.persist_grant(&grant);
        }
    }

    fn persist_grant(&mut self, grant: &StoredBudget) {
        match grant.encode() {
            Ok(record) => self.effects.push_back(Effect::NoteLinkBudget(record)),
            Err(error) => warn!(node = %self.node, error = %error, "a budget was not recorded"),
        }
    }

    /// A genuine message has come: it was paid for as well.
    pub(super) fn count_received(&mut self, message: &Message, payload_bytes: usize, now: Now) {
        let bytes = message_bytes(payload_bytes);
        self.budget.charge(class_of(message), bytes, now.monotonic);
        self.grant(0, now);
    }

    /// Whether the answer may go now.
    pub(super) fn may_answer(&mut self, message: &Message, now: MonotonicMs) -> bool {
        let payload_bytes = match message {
            Message::CallResponse(response) => response.body_bytes() + ACK_BYTES,
            _ => ACK_BYTES,
        };
        self.budget.may_send(class_of(message), message_bytes(payload_bytes), now)
    }

    /// A part of desired state has arrived and more is to come: the publisher is told how much the
    /// node can afford, where it has a budget.
    pub(super) fn pace_desired(&mut self, ack: MapAck) {
        if self.budget.limits() == LinkBudget::default() {
            return self.answer(Message::MapAck(ack));
        }
        self.desired_pace = Some(DesiredPace { ack, asked_at: None });
        self.desired_stalled_told = false;
    }

    /// Nothing more is expected of an update.
    pub(super) fn end_pace(&mut self) {
        self.desired_pace = None;
    }

    /// Asks for the next chunk of desired state when there is budget for it, and otherwise says once
    /// that nothing can be afforded.
    pub(super) fn ask_for_desired(&mut self, now: Now) -> Result<(), SessionFault> {
        let Some(pace) = &self.desired_pace else { return Ok(()) };
        let at = now.monotonic;
        if pace.asked_at.is_some_and(|asked| at.since_ms(asked) < GRANT_LOST_MS) {
            return Ok(());
        }
        let MapAck::Partial { map, version, next, .. } = pace.ack else { return Ok(()) };
        let one = message_bytes(CHUNK_BYTES) + message_bytes(ACK_BYTES);
        let affordable = self.budget.may_send(LinkClass::DesiredState, one, at);
        let told = std::mem::replace(&mut self.desired_stalled_told, !affordable);
        if let Some(pace) = &mut self.desired_pace {
            pace.asked_at = affordable.then_some(at);
        }
        if !affordable && told {
            return Ok(());
        }
        if affordable {
            self.grant(one, now);
        }
        let window = Some(u32::from(affordable));
        self.send(&Message::MapAck(MapAck::Partial { map, version, next, window }), now)
    }

    /// When a grant for the next chunk counts as lost.
    pub(super) fn pace_timeout(&self) -> Option<MonotonicMs> {
        self.desired_pace.as_ref()?.asked_at.map(|asked| asked.plus_ms(GRANT_LOST_MS))
    }
}
