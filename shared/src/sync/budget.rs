//! The byte budget of a node's link: what may be sent now, what was spent, and by what.
//!
//! Three rules, each with its own part:
//!
//! | rule | part |
//! |---|---|
//! | in any 24 hours never more than `bytes_per_day` | [`window`]: bytes by quarter of an hour |
//! | what can wait is spread over the day | a bucket that fills at the bulk's share of the day |
//! | never more than `bytes_per_second` as a mean | a bucket of two seconds |
//!
//! Of the day's bytes 3 % are kept for alarms alone and 5 % for control (connections, greetings,
//! desired and reported state, events, calls); results, telemetry and backfill share the rest.
//! What the wire really carried is told from outside ([`Budget::handle_wire`]) and overrules the
//! estimates. So that a restart never spends a byte twice, bytes are taken from a grant that was made
//! durable before ([`Budget::poll_grant`]); what is left of it at a crash counts as spent.
//!
//! Refuses to count on a wall clock: time is what certainly has passed.

mod bucket;
mod stored;
#[cfg(test)]
mod tests;
mod window;

pub use stored::StoredBudget;

use crate::model::{LinkBudget, MonotonicMs, Now};
use crate::wire::Stream;
use bucket::Bucket;
use std::cmp::Ordering;
use window::Window;

/// Per cent of the day's bytes that only alarms may take: at 60 kB a day twelve of them.
const ALARM_RESERVE_PERCENT: u64 = 3;

/// Per cent of the day's bytes that results, telemetry and backfill leave to everything else.
const CONTROL_RESERVE_PERCENT: u64 = 8;

/// The bulk's bucket holds this part of the day's share: half an hour.
const BULK_BURST_PARTS: u64 = 48;

/// A grant goes this part of the day's bytes beyond what is asked for: about 200 small writes a day.
const GRANT_PARTS: u64 = 200;

/// And at least this much, a greeting or a batch.
const GRANT_BYTES_MIN: u64 = 1024;

/// Without traffic for this long, everything that was sent has been measured.
const QUIET_MS: u64 = 10_000;

/// A topic as in `e/mast-17/u`, for a node with a long name.
const TOPIC_BYTES: usize = 16;

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What bytes are spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum LinkClass {
    /// Connecting, TLS, MQTT, keep-alives, and whatever nothing else explains.
    Connection,
    /// Handshakes and greetings.
    Session,
    /// Desired state and its acknowledgements.
    DesiredState,
    /// Reported state and its acknowledgements.
    ReportedState,
    /// Alarms.
    Alarms,
    /// Events.
    Events,
    /// Calls and their answers.
    Calls,
    /// Results of pods.
    Results,
    /// Telemetry taken while the hub listened.
    Telemetry,
    /// Telemetry taken while it did not.
    Backfill,
}

impl LinkClass {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Connection,
        Self::Session,
        Self::DesiredState,
        Self::ReportedState,
        Self::Alarms,
        Self::Events,
        Self::Calls,
        Self::Results,
        Self::Telemetry,
        Self::Backfill,
    ];

    /// As metrics and status name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Session => "session",
            Self::DesiredState => "desired_state",
            Self::ReportedState => "reported_state",
            Self::Alarms => "alarms",
            Self::Events => "events",
            Self::Calls => "calls",
            Self::Results => "results",
            Self::Telemetry => "telemetry",
            Self::Backfill => "backfill",
        }
    }

    /// Whether it can wait for its part of the day.
    #[must_use]
    pub fn is_bulk(self) -> bool {
        matches!(self, Self::Results | Self::Telemetry | Self::Backfill)
    }
}

impl From<Stream> for LinkClass {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Alarms => Self::Alarms,
            Stream::Events => Self::Events,
            Stream::Results(_) => Self::Results,
            Stream::Telemetry => Self::Telemetry,
            Stream::Backfill => Self::Backfill,
        }
    }
}

/// Bytes by class, in the order of [`LinkClass::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpentByClass([u64; LinkClass::ALL.len()]);

impl SpentByClass {
    /// Bytes of one class.
    #[must_use]
    pub fn of(&self, class: LinkClass) -> u64 {
        self.0.get(class as usize).copied().unwrap_or_default()
    }

    /// Bytes of all classes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn add(&mut self, class: LinkClass, bytes: u64) {
        if let Some(spent) = self.0.get_mut(class as usize) {
            *spent += bytes;
        }
    }
}

/// Bytes that one message of `payload_bytes` takes on the wire, the peer's TCP acknowledgement
/// included, as measured against a proxy that counts.
#[must_use]
pub fn message_bytes(payload_bytes: usize) -> u64 {
    crate::wire_cost::message_bytes(TOPIC_BYTES, payload_bytes)
}

/// So many hundredths of `bytes`.
fn percent(bytes: u64, hundredths: u64) -> u64 {
    bytes.saturating_mul(hundredths) / 100
}

/// The byte budget of one node's link.
#[derive(Debug)]
pub struct Budget {
    limits: LinkBudget,
    /// The zero of `clock_ms` on the monotonic clock.
    clock: BudgetClock,
    all: Window,
    pace: Option<Bucket>,
    second: Option<Bucket>,
    spent: SpentByClass,
    /// Bytes that the wire has carried since the link was opened, as it says itself.
    measured: u64,
    /// Bytes charged since the link was opened.
    charged: u64,
    charged_at: MonotonicMs,
    /// What may be charged before something must be made durable again, and the slot of the window
    /// in which it counts.
    grant_left: u64,
    grant_slot: u64,
    /// Positive when results have had more than their share.
    results_lead: i64,
    /// The earliest moment at which a refused message may go.
    retry_at: Option<MonotonicMs>,
}

/// Time that has certainly passed, across restarts and reboots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BudgetClock {
    at_start_ms: u64,
    started: MonotonicMs,
}

impl BudgetClock {
    fn read_ms(self, now: MonotonicMs) -> u64 {
        self.at_start_ms.saturating_add(now.since_ms(self.started))
    }
}

impl Budget {
    /// A budget without limits; `stored` is what an earlier start of the agent left.
    #[must_use]
    pub fn restore(stored: Option<&StoredBudget>, now: Now) -> Self {
        let at_start_ms = stored.map_or(0, |stored| stored.clock_ms(now));
        Self {
            limits: LinkBudget::default(),
            clock: BudgetClock { at_start_ms, started: now.monotonic },
            all: stored.map(|stored| stored.all.clone()).unwrap_or_default(),
            pace: None,
            second: None,
            spent: SpentByClass::default(),
            measured: 0,
            charged: 0,
            charged_at: now.monotonic,
            grant_left: 0,
            grant_slot: 0,
            results_lead: 0,
            retry_at: None,
        }
    }

    /// These limits hold from now on. What was spent stays spent.
    pub fn set_limits(&mut self, limits: LinkBudget, now: MonotonicMs) {
        if limits == self.limits {
            return;
        }
        self.limits = limits;
        self.pace = self
            .bulk_bytes_per_day()
            .map(|bulk| Bucket::new(bulk, DAY_MS, bulk / BULK_BURST_PARTS, now));
        self.second = limits
            .bytes_per_second
            .map(|bytes| Bucket::new(bytes, 1000, bytes.saturating_mul(2), now));
        self.grant_left = 0;
        self.retry_at = None;
    }

    /// The limits that hold.
    #[must_use]
    pub fn limits(&self) -> LinkBudget {
        self.limits
    }

    /// Whether a message of `class` that costs `bytes` may go now. Where it may not,
    /// [`Self::poll_timeout`] says when to ask again.
    pub fn may_send(&mut self, class: LinkClass, bytes: u64, now: MonotonicMs) -> bool {
        let clock_ms = self.clock.read_ms(now);
        let in_time = match &mut self.second {
            // An alarm does not wait for what was sent in the second before.
            Some(second) if class != LinkClass::Alarms => second.wait_ms(bytes, now),
            _ => 0,
        };
        let in_pace = match &mut self.pace {
            Some(pace) if class.is_bulk() => pace.wait_ms(bytes, now),
            _ => 0,
        };
        let in_day = self.wait_for_day_ms(class, bytes, clock_ms);
        self.is_due(in_time.max(in_pace).max(in_day), now)
    }

    /// Whether there is nothing to wait for; otherwise remembers when to ask again.
    fn is_due(&mut self, wait_ms: u64, now: MonotonicMs) -> bool {
        let due = wait_ms == 0;
        if !due {
            let at = now.plus_ms(wait_ms);
            self.retry_at = Some(self.retry_at.map_or(at, |before| before.min(at)));
        }
        due
    }

    /// Milliseconds until the day's window has room; 0 when it has.
    fn wait_for_day_ms(&mut self, class: LinkClass, bytes: u64, clock_ms: u64) -> u64 {
        let Some(day) = self.limits.bytes_per_day else { return 0 };
        let reserve_percent = match class {
            LinkClass::Alarms => 0,
            class if class.is_bulk() => CONTROL_RESERVE_PERCENT,
            _ => ALARM_RESERVE_PERCENT,
        };
        self.all.wait_ms(day - percent(day, reserve_percent), bytes, clock_ms)
    }

    /// Bytes of `class` are on their way, or have come.
    pub fn charge(&mut self, class: LinkClass, bytes: u64, now: MonotonicMs) {
        let clock_ms = self.clock.read_ms(now);
        self.spent.add(class, bytes);
        self.charged += bytes;
        self.charged_at = now;
        self.all.add(bytes, clock_ms);
        if class.is_bulk() {
            if let Some(pace) = &mut self.pace {
                pace.take(bytes, now);
            }
            self.share(class, bytes);
        }
        if let Some(second) = &mut self.second {
            second.take(bytes, now);
        }
        self.grant_left = self.grant_left.saturating_sub(bytes);
    }

    /// Results may have six tenths of the bulk while telemetry waits too.
    fn share(&mut self, class: LinkClass, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let bound = i64::try_from(self.pace.as_ref().map_or(0, Bucket::capacity)).unwrap_or(0);
        let lead = match class {
            LinkClass::Results => self.results_lead.saturating_add(bytes.saturating_mul(4)),
            _ => self.results_lead.saturating_sub(bytes.saturating_mul(6)),
        };
        self.results_lead = lead.clamp(-bound.saturating_mul(10), bound.saturating_mul(10));
    }

    /// Whether telemetry goes before results, where both wait: results have had their share.
    #[must_use]
    pub fn telemetry_is_next(&self) -> bool {
        self.results_lead > 0
    }

    /// The wire has carried `total` bytes since the link was opened, both ways. What no message
    /// explains counts as the connection's.
    pub fn handle_wire(&mut self, total: u64, now: MonotonicMs) {
        if total < self.measured {
            // The link was opened anew: its count begins at zero.
            (self.measured, self.charged) = (0, 0);
        }
        self.measured = total;
        match total.cmp(&self.charged) {
            Ordering::Greater => self.charge(LinkClass::Connection, total - self.charged, now),
            Ordering::Less if now.since_ms(self.charged_at) >= QUIET_MS => {
                self.give_back(self.charged - total, now);
            }
            Ordering::Less | Ordering::Equal => {}
        }
    }

    /// Estimates were too high: nothing is on its way any more, and this was never carried.
    fn give_back(&mut self, bytes: u64, now: MonotonicMs) {
        let clock_ms = self.clock.read_ms(now);
        self.charged -= bytes;
        self.all.give_back(bytes, clock_ms);
    }

    /// Whether the link may be opened, or stay open, which costs `bytes`, and `bytes_max` at the worst: that
    /// much the day must have left. An alarm that waits may take what is kept for alarms.
    pub fn may_connect(
        &mut self,
        bytes: u64,
        bytes_max: u64,
        alarm_waits: bool,
        now: MonotonicMs,
    ) -> bool {
        let clock_ms = self.clock.read_ms(now);
        let in_day = self.wait_for_day_ms(LinkClass::Alarms, bytes_max, clock_ms);
        let in_share = match alarm_waits {
            true => 0,
            false => self.wait_for_day_ms(LinkClass::Connection, bytes, clock_ms),
        };
        self.is_due(in_day.max(in_share), now)
    }

    /// What must be durable before `bytes` more are spent: all that was spent and a grant. `None`
    /// while the last grant suffices, or without a limit of the day.
    pub fn poll_grant(&mut self, bytes: u64, now: Now) -> Option<StoredBudget> {
        let day = self.limits.bytes_per_day?;
        let clock_ms = self.clock.read_ms(now.monotonic);
        let slot = window::slot(clock_ms);
        if self.grant_left >= bytes && self.grant_slot == slot {
            return None;
        }
        let grant = (day / GRANT_PARTS).max(GRANT_BYTES_MIN).saturating_add(bytes);
        (self.grant_left, self.grant_slot) = (grant, slot);
        let mut all = self.all.clone();
        all.add(grant, clock_ms);
        Some(StoredBudget::new(clock_ms, now, all))
    }

    /// Bytes of records that go in one batch at most, so that nothing more urgent waits behind it for
    /// long, and no batch takes a large part of the day.
    #[must_use]
    pub fn batch_bytes_max(&self) -> usize {
        let second = self.limits.bytes_per_second.map(|bytes| bytes.saturating_mul(2));
        let pace = self.pace.as_ref().map(Bucket::capacity);
        let bytes = [second, pace].into_iter().flatten().min().map(|b| b.max(GRANT_BYTES_MIN));
        bytes.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Bytes of the last 24 hours, and a little more: whole quarters of an hour are counted.
    pub fn spent_in_day(&mut self, now: MonotonicMs) -> u64 {
        let clock_ms = self.clock.read_ms(now);
        self.all.total(clock_ms)
    }

    /// Bytes since the agent started, by class.
    #[must_use]
    pub fn spent(&self) -> SpentByClass {
        self.spent
    }

    /// Bytes that results, telemetry and backfill may have in a day together; `None` without a limit.
    #[must_use]
    pub fn bulk_bytes_per_day(&self) -> Option<u64> {
        self.limits.bytes_per_day.map(|day| day - percent(day, CONTROL_RESERVE_PERCENT))
    }

    /// When a message that was refused may go.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonotonicMs> {
        self.retry_at
    }

    /// The moment of [`Self::poll_timeout`] has come: ask again.
    pub fn handle_timeout(&mut self, now: MonotonicMs) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
    }
}
