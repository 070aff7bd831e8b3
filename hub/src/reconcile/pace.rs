//! When the status of an object is looked at, and what of it is on its way.
//!
//! What follows upon each other within a moment is one write, so that a fleet that changes together costs its
//! API server a few writes a node, not one for every step of every pod: a node is looked at a second after
//! something was heard of it, a workload's status is written three times a second at most (accepted, under way,
//! ready), and of no object are two statuses on their way.
//!
//! Times are of the wall clock: one that jumps makes a status early, or late by what it jumped, never lost.

use super::objects::{Kind, ObjectKey};
use serde_json::Value;
use shared::model::{NodeId, UnixMs};
use std::collections::{BTreeMap, BTreeSet};

/// From the first thing that was heard of a node to the look at its status: what it is told, does and reports
/// belongs together.
pub(super) const SETTLE_MS: u64 = 1_000;

/// Within this time a workload or a member cluster has [`SPOKEN_MAX`] statuses: each of a fleet's nodes changes
/// its workload's.
pub(super) const SPACING_MS: u64 = 1_000;

/// What one node does at once is seen at once: accepted, under way, ready.
const SPOKEN_MAX: usize = 3;

/// After the hub's start: its nodes come back within a minute, handshakes of all of them take some more.
/// Until then one that was not heard of is not known to be away.
pub(super) const RETURN_MS: u64 = 90_000;

/// A status that was handed out, until the watch shows what became of it.
#[derive(Debug)]
struct Sent {
    status: Value,
    /// The API server has taken it.
    written: bool,
    /// The watch has shown it.
    seen: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The first look.
    began: Option<UnixMs>,
    sent: BTreeMap<ObjectKey, Sent>,
    /// Nodes that are to be looked at at once.
    due: BTreeSet<ObjectKey>,
    /// Nodes of which something was heard since the last look.
    touched: BTreeSet<ObjectKey>,
    /// Nodes that are to be looked at later.
    settling: BTreeMap<ObjectKey, UnixMs>,
    /// Nodes of which something was heard since the start; not kept longer than [`RETURN_MS`].
    heard: BTreeSet<ObjectKey>,
    /// When statuses of a workload or cluster were handed out, in the last second.
    spoke: BTreeMap<ObjectKey, Vec<UnixMs>>,
    /// When the next look is due for the sake of what was held back.
    wakes: Option<UnixMs>,
}

impl Pace {
    /// The watch shows an object with this status. `is_another` where it is not the one that had its name.
    pub(super) fn shown(&mut self, key: &ObjectKey, status: &Value, is_another: bool) {
        match self.sent.get_mut(key) {
            // Of an earlier write, or it is what is on its way.
            Some(sent) if !sent.written && !is_another => sent.seen |= sent.status == *status,
            _ => drop(self.sent.remove(key)),
        }
        self.look_at(key);
    }

    /// The API server has taken what was handed out.
    pub(super) fn written(&mut self, key: &ObjectKey) {
        if let Some(sent) = self.sent.get_mut(key) {
            sent.written = true;
            if sent.seen {
                self.sent.remove(key);
            }
        }
        self.look_at(key);
    }

    /// What was handed out was not written.
    pub(super) fn not_written(&mut self, key: &ObjectKey) {
        self.sent.remove(key);
        self.spoke.remove(key);
        self.look_at(key);
    }

    /// The object is gone.
    pub(super) fn gone(&mut self, key: &ObjectKey) {
        self.sent.remove(key);
        self.due.remove(key);
        self.touched.remove(key);
        self.settling.remove(key);
        self.heard.remove(key);
        self.spoke.remove(key);
    }

    fn look_at(&mut self, key: &ObjectKey) {
        if key.kind == Kind::Node {
            self.due.insert(key.clone());
        }
    }

    /// Something was heard of a node.
    pub(super) fn touch(&mut self, key: ObjectKey) {
        self.touched.insert(key);
    }

    /// What the API server has of an object's status, where that is more than the watch has shown.
    pub(super) fn status(&self, key: &ObjectKey) -> Option<&Value> {
        self.sent.get(key).map(|sent| &sent.status)
    }

    /// Begins a look at the statuses; the nodes that are to be looked at.
    pub(super) fn begin_look(&mut self, now: UnixMs) -> Vec<ObjectKey> {
        self.began.get_or_insert(now);
        self.wakes = None;
        self.spoke.retain(|_, times| {
            times.retain(|at| is_within(now, *at, SPACING_MS));
            !times.is_empty()
        });
        if self.is_returning(now) {
            self.heard.extend(self.touched.iter().cloned());
        } else {
            self.heard.clear();
        }
        for key in std::mem::take(&mut self.touched) {
            let soon = UnixMs(now.0.saturating_add(SETTLE_MS));
            let at = self.settling.entry(key).or_insert(soon);
            *at = (*at).min(soon);
        }
        // A clock that was put back would let them wait for as long.
        let longest = UnixMs(now.0.saturating_add(RETURN_MS));
        let ripe = |at: &mut UnixMs| *at <= now || *at > longest;
        let ripe: Vec<_> = self.settling.extract_if(.., |_, at| ripe(at)).collect();
        let mut due = std::mem::take(&mut self.due);
        due.retain(|key| !self.settling.contains_key(key));
        due.extend(ripe.into_iter().map(|(key, _)| key));
        // Those with a status on their way are due again when it has come to its end.
        due.into_iter().filter(|key| !self.is_on_its_way(key)).collect()
    }

    fn is_on_its_way(&self, key: &ObjectKey) -> bool {
        self.sent.get(key).is_some_and(|sent| !sent.written)
    }

    /// Whether nodes of a hub that has just started may still be on their way back.
    pub(super) fn is_returning(&self, now: UnixMs) -> bool {
        self.began.is_some_and(|began| is_within(now, began, RETURN_MS))
    }

    /// Whether nothing is known of a node, since the hub has just started.
    pub(super) fn is_awaited(&self, key: &ObjectKey, now: UnixMs) -> bool {
        self.is_returning(now) && !self.heard.contains(key)
    }

    /// A status was left as it was because nodes are on their way back: a look is due when they should be.
    pub(super) fn await_return(&mut self, key: &ObjectKey) {
        let Some(began) = self.began else { return };
        let until = UnixMs(began.0.saturating_add(RETURN_MS));
        if key.kind == Kind::Node {
            self.settling.entry(key.clone()).or_insert(until);
        }
        self.wake_at(until);
    }

    /// Whether a status that differs may be handed out now; what may not is due later.
    pub(super) fn may_hand_out(&mut self, key: &ObjectKey) -> bool {
        if self.is_on_its_way(key) {
            return false;
        }
        let spoken = self.spoke.get(key).filter(|times| times.len() >= SPOKEN_MAX);
        let first = spoken.and_then(|times| times.first()).copied();
        if let Some(at) = first {
            self.wake_at(UnixMs(at.0.saturating_add(SPACING_MS)));
        }
        first.is_none()
    }

    /// A status is handed out.
    pub(super) fn handed_out(&mut self, key: &ObjectKey, status: Value, now: UnixMs) {
        self.sent.insert(key.clone(), Sent { status, written: false, seen: false });
        if key.kind != Kind::Node {
            self.spoke.entry(key.clone()).or_default().push(now);
        }
    }

    fn wake_at(&mut self, at: UnixMs) {
        self.wakes = Some(self.wakes.map_or(at, |wakes| wakes.min(at)));
    }

    /// Milliseconds until the next look is due, if it is for the sake of what was held back.
    pub(super) fn wait_ms(&self, now: UnixMs) -> Option<u64> {
        let settled = self.settling.values().min().copied();
        let at = [settled, self.wakes].into_iter().flatten().min()?;
        Some(at.0.saturating_sub(now.0).min(RETURN_MS))
    }
}

/// The node's key.
pub(super) fn key_of_node(node: &NodeId) -> ObjectKey {
    ObjectKey { kind: Kind::Node, namespace: String::new(), name: node.to_string() }
}

/// Whether `now` is less than so long after `at`.
fn is_within(now: UnixMs, at: UnixMs, ms: u64) -> bool {
    (at.0..at.0.saturating_add(ms)).contains(&now.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const START: UnixMs = UnixMs(1_764_000_000_000);

    fn at(ms: u64) -> UnixMs {
        UnixMs(START.0 + ms)
    }

    fn node() -> ObjectKey {
        key_of_node(&NodeId::new("mast-17").unwrap())
    }

    fn workload() -> ObjectKey {
        ObjectKey { kind: Kind::Workload, namespace: "default".to_owned(), name: "ocr".to_owned() }
    }

    #[test]
    fn what_is_heard_of_a_node_within_a_second_is_one_look() {
        let mut pace = Pace::default();
        pace.touch(node());
        assert_eq!(pace.begin_look(at(0)), []);
        assert_eq!(pace.wait_ms(at(0)), Some(SETTLE_MS));
        pace.touch(node());
        assert_eq!(pace.begin_look(at(900)), []);
        assert_eq!(pace.begin_look(at(1_000)), [node()], "talking on does not put it off");
        assert_eq!(pace.begin_look(at(1_100)), []);
        assert_eq!(pace.wait_ms(at(1_100)), None);
    }

    #[test]
    fn of_one_object_only_one_status_is_on_its_way() {
        let mut pace = Pace::default();
        pace.handed_out(&node(), json!(1), at(0));
        pace.touch(node());
        pace.begin_look(at(0));
        assert_eq!(pace.begin_look(at(2_000)), [], "one is on its way");
        assert!(!pace.may_hand_out(&node()));
        pace.written(&node());
        assert_eq!(pace.begin_look(at(2_000)), [node()]);
        assert!(pace.may_hand_out(&node()));
    }

    #[test]
    fn a_late_sight_of_an_earlier_write_hides_no_later_one() {
        let mut pace = Pace::default();
        pace.handed_out(&node(), json!(1), at(0));
        pace.written(&node());
        pace.handed_out(&node(), json!(2), at(0));
        pace.shown(&node(), &json!(1), false);
        assert_eq!(pace.status(&node()), Some(&json!(2)));
        pace.written(&node());
        assert_eq!(pace.status(&node()), Some(&json!(2)), "it has not been shown yet");
        pace.shown(&node(), &json!(2), false);
        assert_eq!(pace.status(&node()), None);
        // The watch may be faster than the answer; what somebody else made of it then is seen.
        pace.handed_out(&node(), json!(3), at(0));
        pace.shown(&node(), &json!(3), false);
        pace.shown(&node(), &json!("theirs"), false);
        pace.written(&node());
        assert_eq!(pace.status(&node()), None);
        // Another of the same name has nothing of what was sent.
        pace.handed_out(&node(), json!(4), at(0));
        pace.shown(&node(), &Value::Null, true);
        assert_eq!(pace.status(&node()), None);
    }

    #[test]
    fn a_workload_speaks_three_times_a_second_and_at_once_where_it_was_not_heard() {
        let mut pace = Pace::default();
        for ms in [0, 10, 20] {
            pace.begin_look(at(ms));
            assert!(pace.may_hand_out(&workload()));
            pace.handed_out(&workload(), json!(ms), at(ms));
            pace.written(&workload());
        }
        pace.begin_look(at(400));
        assert!(!pace.may_hand_out(&workload()));
        assert_eq!(pace.wait_ms(at(400)), Some(600));
        pace.begin_look(at(1_000));
        assert!(pace.may_hand_out(&workload()));
        pace.handed_out(&workload(), json!(2), at(1_000));
        pace.not_written(&workload());
        assert!(pace.may_hand_out(&workload()));
    }

    #[test]
    fn a_node_is_awaited_after_the_start_until_it_is_heard_of_or_its_time_is_over() {
        let mut pace = Pace::default();
        pace.shown(&node(), &Value::Null, false);
        assert_eq!(pace.begin_look(at(0)), [node()]);
        assert!(pace.is_awaited(&node(), at(0)));
        pace.await_return(&node());
        assert_eq!(pace.wait_ms(at(0)), Some(RETURN_MS));
        assert_eq!(pace.begin_look(at(RETURN_MS)), [node()]);
        assert!(!pace.is_awaited(&node(), at(RETURN_MS)));

        let mut pace = Pace::default();
        pace.shown(&node(), &Value::Null, false);
        pace.begin_look(at(0));
        pace.await_return(&node());
        pace.touch(node());
        assert_eq!(pace.begin_look(at(10)), []);
        assert!(!pace.is_awaited(&node(), at(10)));
        assert_eq!(pace.begin_look(at(10 + SETTLE_MS)), [node()]);
    }

    #[test]
    fn a_clock_that_is_put_back_lets_nothing_wait_for_long() {
        let mut pace = Pace::default();
        pace.touch(node());
        pace.begin_look(at(0));
        let back = UnixMs(START.0 - 3_600_000);
        assert!(pace.wait_ms(back).unwrap() <= RETURN_MS);
        assert_eq!(pace.begin_look(back), [node()]);
    }
}
