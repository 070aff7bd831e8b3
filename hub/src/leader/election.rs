//! When to take the Lease, when to renew it, when to give up. Pure.
//!
//! The rules are those of Kubernetes' own controllers (`client-go/tools/leaderelection`, Apache 2.0): a
//! Lease has run out when it was seen unchanged for as long as it holds, by the watcher's own clock.

use shared::model::MonotonicMs;

/// How long a Lease holds without being renewed.
pub(super) const LEASE_SECONDS: u16 = 15;

/// A leader that could not renew for so long has ended: well before another may take over.
const GIVE_UP_MS: u64 = 10_000;

/// Between two renewals.
const RENEW_MS: u64 = 5_000;

/// Between an attempt that failed and the next.
const RETRY_MS: u64 = 500;

/// What a Lease says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// Who holds it; `None` where it is free, or not there.
    pub(super) holder: Option<String>,
    /// Another with every renewal.
    pub(super) renewal: String,
    /// For how long it holds from a renewal on.
    pub(super) holds_ms: u64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing before this moment; `None` where the Lease must be seen first.
    Wait(Option<MonotonicMs>),
    /// Write that it is ours.
    Write,
    /// It is not ours any more.
    Lost,
}

/// One candidate's view of the election.
#[derive(Debug)]
pub(super) struct Election {
    own: String,
    /// As it was seen last, and when it was first seen like that.
    seen: Option<(Seen, MonotonicMs)>,
    /// When the request began that renewed it last.
    renewed: Option<MonotonicMs>,
    not_before: MonotonicMs,
}

impl Election {
    /// `own` is a name that no other process has, or had before.
    pub(super) fn new(own: String) -> Self {
        Self { own, seen: None, renewed: None, not_before: MonotonicMs(0) }
    }

    pub(super) fn own(&self) -> &str {
        &self.own
    }

    /// Who holds it, as far as was seen.
    pub(super) fn holder(&self) -> Option<&str> {
        self.seen.as_ref()?.0.holder.as_deref()
    }

    /// The Lease was seen like this.
    pub(super) fn observe(&mut self, seen: Seen, now: MonotonicMs) {
        if self.seen.as_ref().is_none_or(|(known, _)| *known != seen) {
            self.seen = Some((seen, now));
        }
    }

    /// A write that began at `began` was taken.
    pub(super) fn written(&mut self, seen: Seen, began: MonotonicMs) {
        self.seen = Some((seen, began));
        self.renewed = Some(began);
    }

    /// A write was not taken, or nobody knows.
    pub(super) fn failed(&mut self, now: MonotonicMs) {
        self.not_before = now.plus_ms(RETRY_MS);
    }

    /// Until when this one leads, if it does.
    pub(super) fn leads_until(&self) -> Option<MonotonicMs> {
        self.renewed.map(|renewed| renewed.plus_ms(GIVE_UP_MS))
    }

    pub(super) fn turn(&self, now: MonotonicMs) -> Turn {
        let due = match self.leads_until() {
            Some(until) if until <= now || self.is_anothers() => return Turn::Lost,
            Some(_) => self.renewed.unwrap_or_default().plus_ms(RENEW_MS),
            None => match &self.seen {
                None => return Turn::Wait(None),
                Some((seen, first)) if seen.holder.is_some() => first.plus_ms(seen.holds_ms),
                Some(_) => now,
            },
        };
        let due = due.max(self.not_before);
        // A leader that fails to renew is asked again when it has to give up.
        let wakes = self.leads_until().map_or(due, |until| due.min(until));
        if due <= now { Turn::Write } else { Turn::Wait(Some(wakes)) }
    }

    fn is_anothers(&self) -> bool {
        self.seen.as_ref().is_some_and(|(seen, _)| seen.holder.as_ref() != Some(&self.own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(holder: Option<&str>, renewal: u64) -> Seen {
        let holder = holder.map(str::to_owned);
        Seen { holder, renewal: renewal.to_string(), holds_ms: u64::from(LEASE_SECONDS) * 1000 }
    }

    fn at(ms: u64) -> MonotonicMs {
        MonotonicMs(ms)
    }

    #[test]
    fn nothing_is_taken_before_it_is_known_who_has_it() {
        let mut election = Election::new("a".to_owned());
        assert_eq!(election.turn(at(1_000_000)), Turn::Wait(None));
        election.observe(Seen::default(), at(1_000_000));
        assert_eq!(election.turn(at(1_000_000)), Turn::Write);
    }

    #[test]
    fn another_ones_is_taken_once_it_was_seen_unchanged_for_as_long_as_it_holds() {
        let mut election = Election::new("a".to_owned());
        election.observe(of(Some("b"), 1), at(100));
        assert_eq!(election.turn(at(100)), Turn::Wait(Some(at(15_100))));
        election.observe(of(Some("b"), 2), at(5_100));
        election.observe(of(Some("b"), 2), at(9_000));
        assert_eq!(election.turn(at(15_100)), Turn::Wait(Some(at(20_100))));
        assert_eq!(election.turn(at(20_100)), Turn::Write);
        election.failed(at(20_100));
        assert_eq!(election.turn(at(20_200)), Turn::Wait(Some(at(20_600))));
        // One that was released is free at once.
        election.observe(of(None, 3), at(20_600));
        assert_eq!(election.turn(at(20_600)), Turn::Write);
    }

    #[test]
    fn a_leader_renews_and_gives_up_before_another_may_take_over() {
        let mut election = Election::new("a".to_owned());
        election.written(of(Some("a"), 1), at(0));
        assert_eq!(election.turn(at(10)), Turn::Wait(Some(at(5_000))));
        assert_eq!(election.turn(at(5_000)), Turn::Write);
        election.failed(at(9_800));
        assert_eq!(election.turn(at(9_900)), Turn::Wait(Some(at(10_000))));
        assert_eq!(election.turn(at(10_000)), Turn::Lost);
        election.written(of(Some("a"), 2), at(8_000));
        assert_eq!(election.turn(at(10_000)), Turn::Wait(Some(at(13_000))));
        election.observe(of(Some("b"), 3), at(10_100));
        assert_eq!(election.turn(at(10_100)), Turn::Lost);
    }

    proptest! {
        /// Two candidates on one Lease, stopped and started as it comes, whose writes are compared and
        /// swapped: at no moment do both believe that they lead.
        #[test]
        fn two_never_lead_at_once(
            steps in prop::collection::vec((1..4_000_u64, any::<bool>(), any::<bool>(), any::<bool>()), 1..300),
        ) {
            let mut lease = of(None, 0);
            let mut candidates = ["a", "b"].map(|own| Election::new(own.to_owned()));
            let (mut now, mut renewals) = (0, 0);
            for (elapsed, first, is_heard, is_taken) in steps {
                now += elapsed;
                let candidate = &mut candidates[usize::from(first)];
                if is_heard {
                    candidate.observe(lease.clone(), at(now));
                }
                match candidate.turn(at(now)) {
                    Turn::Write if candidate.seen.as_ref().is_some_and(|(seen, _)| *seen == lease) && is_taken => {
                        renewals += 1;
                        lease = of(Some(candidate.own()), renewals);
                        candidate.written(lease.clone(), at(now));
                    }
                    Turn::Write => candidate.failed(at(now)),
                    // It ends, and comes back under another name; here it only forgets.
                    Turn::Lost => *candidate = Election::new(candidate.own().to_owned()),
                    Turn::Wait(_) => {}
                }
                let leading = candidates.iter().filter_map(Election::leads_until).filter(|until| *until > at(now));
                prop_assert!(leading.count() <= 1, "both lead at {now}");
            }
        }
    }
}
