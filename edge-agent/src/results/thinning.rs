//! What of a pod's results is left out on the node, and what of them is still to be sent.
//!
//! Pure. Every change of a topic's state comes out as something to be stored together with the
//! results themselves, so that a restart neither loses a result that was taken nor miscounts those
//! that were left out.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use shared::model::{MonotonicMs, PodId, PodResult, ResultFormat, SinkId, Thinning};
use std::collections::{BTreeMap, BTreeSet};

/// Topics of one pod of which results are left out. A pod that makes up topics is stopped here.
const TOPICS_PER_POD_MAX: usize = 256;

/// Topics of all pods: each is a record of the store.
const TOPICS_MAX: usize = 4096;

/// A topic of a pod.
pub type TopicKey = (PodId, String);

/// A result, with where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer<'a> {
    /// Which sink takes it.
    pub sink: SinkId,
    /// What is left out of its topic, if anything.
    pub thinning: Option<&'a Thinning>,
    /// The result.
    pub result: PodResult,
}

/// What is known of one topic.
///
/// Store format (packed CBOR, fields by position): fields are only ever appended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopicState {
    thinning: Thinning,
    sink: SinkId,
    /// Results left out since the last one that was sent.
    left_out: u64,
    /// The newest result, which waits for the end of its interval.
    held: Option<PodResult>,
    /// The value that was sent last.
    value: Option<f64>,
}

/// Leaves results out.
#[derive(Debug, Default)]
pub struct Thinner {
    topics: BTreeMap<TopicKey, TopicState>,
    /// When what is held is sent.
    due: BTreeMap<TopicKey, MonotonicMs>,
    changed: BTreeSet<TopicKey>,
}

impl Thinner {
    /// What an earlier start of the agent knew. What it held is due at once.
    #[must_use]
    pub fn restore(topics: BTreeMap<TopicKey, TopicState>, now: MonotonicMs) -> Self {
        let held = topics.iter().filter(|(_, state)| state.held.is_some());
        let due = held.map(|(key, _)| (key.clone(), now)).collect();
        Self { topics, due, changed: BTreeSet::new() }
    }

    /// Whether results of these topics can be thinned: an account of each is kept.
    #[must_use]
    pub fn has_room(&self, pod: &PodId, topics: &BTreeSet<&str>) -> bool {
        let own = self.topics.keys().filter(|(owner, _)| owner == pod);
        let own: BTreeSet<&str> = own.map(|(_, topic)| topic.as_str()).collect();
        let new = topics.difference(&own).count();
        own.len() + new <= TOPICS_PER_POD_MAX && self.topics.len() + new <= TOPICS_MAX
    }

    /// Takes a result; what is to be sent now, oldest first.
    pub fn offer(&mut self, offer: Offer<'_>, now: MonotonicMs) -> Vec<(SinkId, PodResult)> {
        let Offer { sink, thinning, mut result } = offer;
        let key = (result.pod.clone(), result.topic.clone());
        let known = self.topics.get(&key);
        let same =
            known.is_some_and(|state| thinning == Some(&state.thinning) && state.sink == sink);
        let mut sent = Vec::new();
        let mut left_out = 0;
        if !same && let Some(earlier) = self.topics.remove(&key) {
            // Another rule holds from now on: what waited for the old one goes before.
            self.due.remove(&key);
            self.changed.insert(key.clone());
            let (waited, rest) = earlier.close();
            sent.extend(waited);
            left_out = rest;
        }
        let Some(thinning) = thinning else {
            result.thinned = left_out;
            sent.push((sink, result));
            return sent;
        };
        let state = self.topics.entry(key.clone()).or_insert_with(|| TopicState {
            thinning: thinning.clone(),
            sink,
            left_out,
            held: None,
            value: None,
        });
        let first = !same;
        if let Thinning::LatestEverySeconds(seconds) = thinning {
            let end = now.plus_ms(u64::from(*seconds) * 1000);
            self.due.entry(key.clone()).or_insert(end);
        }
        sent.extend(state.take(result, first).map(|result| (sink, result)));
        self.changed.insert(key);
        sent
    }

    /// When [`Self::take_due`] has something.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonotonicMs> {
        self.due.values().min().copied()
    }

    /// Results whose interval has ended.
    pub fn take_due(&mut self, now: MonotonicMs) -> Vec<(SinkId, PodResult)> {
        let due = self.due.iter().filter(|(_, due)| **due <= now);
        let due: Vec<TopicKey> = due.map(|(key, _)| key.clone()).collect();
        due.into_iter().filter_map(|key| self.release(key)).collect()
    }

    /// Pods that are no more: what was held for them goes, and they are forgotten.
    pub fn retain(&mut self, is_there: impl Fn(&PodId) -> bool) -> Vec<(SinkId, PodResult)> {
        let gone = self.topics.keys().filter(|(pod, _)| !is_there(pod));
        let gone: Vec<TopicKey> = gone.cloned().collect();
        let mut sent = Vec::new();
        for key in gone {
            self.due.remove(&key);
            let state = self.topics.remove(&key);
            self.changed.insert(key);
            sent.extend(state.and_then(|state| state.close().0));
        }
        sent
    }

    fn release(&mut self, key: TopicKey) -> Option<(SinkId, PodResult)> {
        self.due.remove(&key);
        // An interval leaves nothing to be known when it ends.
        let state = self.topics.remove(&key)?;
        self.changed.insert(key);
        state.close().0
    }

    /// How many results wait for the end of an interval.
    #[must_use]
    pub fn held(&self) -> usize {
        self.due.len()
    }

    /// Whether [`Self::take_changes`] has something.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What changed since the last call: the state to be stored, or `None` to be forgotten.
    pub fn take_changes(&mut self) -> Vec<(TopicKey, Option<&TopicState>)> {
        let changed = std::mem::take(&mut self.changed);
        let state = |key: TopicKey| {
            let state = self.topics.get(&key);
            (key, state)
        };
        changed.into_iter().map(state).collect()
    }
}

impl TopicState {
    /// The result to send, with what was left out before it.
    fn take(&mut self, mut result: PodResult, first: bool) -> Option<PodResult> {
        let goes = match &self.thinning {
            Thinning::LatestEverySeconds(_) => {
                self.left_out += u64::from(self.held.is_some());
                self.held = Some(result);
                return None;
            }
            Thinning::EveryNth(count) => first || self.left_out + 1 >= u64::from(*count),
            Thinning::Deadband { field, by_millionths } => {
                let value = value_at(&result, field);
                let moved = has_moved(self.value, value, *by_millionths);
                self.value = if moved { value.or(self.value) } else { self.value };
                moved
            }
        };
        if !goes {
            self.left_out += 1;
            return None;
        }
        result.thinned = std::mem::take(&mut self.left_out);
        Some(result)
    }

    /// What waited, if anything did, and what was left out and is not told by it.
    fn close(self) -> (Option<(SinkId, PodResult)>, u64) {
        match self.held {
            Some(mut result) => {
                result.thinned = self.left_out;
                (Some((self.sink, result)), 0)
            }
            None => (None, self.left_out),
        }
    }
}

/// What has no value is sent: it may be the news that there is none.
fn has_moved(before: Option<f64>, value: Option<f64>, by_millionths: u64) -> bool {
    let (Some(before), Some(value)) = (before, value) else { return true };
    // At most 1e15, which a double holds exactly.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let by = by_millionths as f64 / 1e6;
    // Also when the difference is no number.
    let still = (value - before).abs() < by;
    !still
}

/// The number at a JSON pointer, or at what corresponds to it in CBOR.
fn value_at(result: &PodResult, pointer: &str) -> Option<f64> {
    let number = match result.format {
        ResultFormat::Json => {
            let body: Json = serde_json::from_slice(&result.body).ok()?;
            body.pointer(pointer)?.as_f64()?
        }
        ResultFormat::Cbor => {
            let body: serde_cbor::Value = serde_cbor::from_slice(&result.body).ok()?;
            let mut levels = pointer.split('/').skip(1);
            let found = levels.try_fold(&body, cbor_below)?;
            cbor_number(found)?
        }
    };
    Some(number).filter(|number| number.is_finite())
}

fn cbor_below<'a>(at: &'a serde_cbor::Value, level: &str) -> Option<&'a serde_cbor::Value> {
    match at {
        serde_cbor::Value::Map(map) => {
            let key = level.replace("~1", "/").replace("~0", "~");
            map.get(&serde_cbor::Value::Text(key))
        }
        serde_cbor::Value::Array(items) => items.get(level.parse::<usize>().ok()?),
        _ => None,
    }
}

fn cbor_number(value: &serde_cbor::Value) -> Option<f64> {
    match value {
        // Past 2^53 the last digits are lost; a deadband there is wider.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        serde_cbor::Value::Integer(number) => Some(*number as f64),
        serde_cbor::Value::Float(number) => Some(*number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::model::{BootClock, ClockQuality, UnixMs};

    const SINK: SinkId = SinkId(1);

    fn result(number: u64, body: &str) -> PodResult {
        let quality = ClockQuality::Unsynchronised;
        PodResult {
            pod: "default/ocr-0".parse().unwrap(),
            topic: "a".to_owned(),
            at: UnixMs(number),
            clock: BootClock { boot: 0, since_boot_ms: 0, offset_ms: 0, quality },
            format: ResultFormat::Json,
            body: body.as_bytes().to_vec().into(),
            thinned: 0,
        }
    }

    /// Offers bodies one after the other; the (time, thinned) of those that went, the time being
    /// their place.
    fn went(thinner: &mut Thinner, thinning: &Thinning, bodies: &[&str]) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        for (number, body) in (1..).zip(bodies) {
            let offer =
                Offer { sink: SINK, thinning: Some(thinning), result: result(number, body) };
            all.extend(thinner.offer(offer, MonotonicMs(0)));
        }
        all.iter().map(|(_, result)| (result.at.0, result.thinned)).collect()
    }

    fn deadband(by_millionths: u64) -> Thinning {
        Thinning::Deadband { field: "/v".to_owned(), by_millionths }
    }

    #[test]
    fn of_every_third_the_first_goes_and_says_how_many_were_left_out() {
        let sent = went(&mut Thinner::default(), &Thinning::EveryNth(3), &["1"; 8]);
        assert_eq!(sent, [(1, 0), (4, 2), (7, 2)]);
    }

    #[test]
    fn only_the_newest_of_an_interval_goes_at_its_end() {
        let mut thinner = Thinner::default();
        let latest = Thinning::LatestEverySeconds(10);
        assert_eq!(went(&mut thinner, &latest, &["1"; 5]), []);
        assert_eq!(thinner.poll_timeout(), Some(MonotonicMs(10_000)));
        assert_eq!(thinner.take_due(MonotonicMs(9_999)), []);
        let sent = thinner.take_due(MonotonicMs(10_000));
        assert_eq!((sent.len(), sent[0].1.at, sent[0].1.thinned), (1, UnixMs(5), 4));
        assert_eq!((thinner.poll_timeout(), thinner.topics.len()), (None, 0));
    }

    #[test]
    fn what_moves_less_than_the_deadband_is_left_out() {
        let bodies = [
            r#"{"v":1}"#,
            r#"{"v":1.4}"#,
            r#"{"v":0.6}"#,
            r#"{"v":1.5}"#,
            r#"{"v":1.1}"#,
            r#"{"v":1}"#,
        ];
        let sent = went(&mut Thinner::default(), &deadband(500_000), &bodies);
        assert_eq!(sent, [(1, 0), (4, 2), (6, 1)]);
    }

    #[test]
    fn what_has_no_value_goes_and_moves_nothing() {
        let bodies = [r#"{"v":1}"#, r#"{"w":1}"#, r#"{"v":"x"}"#, r#"{"v":1.1}"#, "7"];
        let sent = went(&mut Thinner::default(), &deadband(500_000), &bodies);
        assert_eq!(sent, [(1, 0), (2, 0), (3, 0), (5, 1)]);
    }

    #[test]
    fn a_value_in_cbor_is_found_by_the_same_pointer() {
        let of = |bytes: &[u8], pointer: &str| {
            let format = ResultFormat::Cbor;
            value_at(&PodResult { format, body: bytes.to_vec().into(), ..result(0, "") }, pointer)
        };
        // {"a/b": [10, 1.5]}
        let bytes = [&[0xa1, 0x63][..], b"a/b", &[0x82, 0x0a, 0xf9, 0x3e, 0x00]].concat();
        assert_eq!(of(&bytes, "/a~1b/0"), Some(10.0));
        assert_eq!(of(&bytes, "/a~1b/1"), Some(1.5));
        assert_eq!(
            (of(&bytes, "/a~1b/2"), of(&bytes, ""), of(b"\x05", "")),
            (None, None, Some(5.0))
        );
        assert_eq!(of(b"\xf9\x7e\x00", ""), None, "not a number");
    }

    #[test]
    fn another_rule_lets_what_waited_go_first_and_forgets_no_count() {
        let mut thinner = Thinner::default();
        went(&mut thinner, &Thinning::LatestEverySeconds(10), &["1"; 3]);
        let sent = went(&mut thinner, &Thinning::EveryNth(2), &["1"; 4]);
        assert_eq!(sent, [(3, 2), (1, 0), (3, 1)]);
        let offer = Offer { sink: SINK, thinning: None, result: result(9, "1") };
        let sent = thinner.offer(offer, MonotonicMs(0));
        assert_eq!((sent.len(), sent[0].1.thinned), (1, 1));
        assert!(thinner.topics.is_empty() && thinner.due.is_empty());
    }

    #[test]
    fn a_pod_that_is_gone_leaves_what_it_held() {
        let mut thinner = Thinner::default();
        went(&mut thinner, &Thinning::LatestEverySeconds(10), &["1"; 3]);
        thinner.take_changes();
        assert_eq!(thinner.retain(|_| true), []);
        assert_eq!(thinner.retain(|_| false)[0].1.thinned, 2);
        let key = ("default/ocr-0".parse().unwrap(), "a".to_owned());
        assert_eq!(thinner.take_changes(), [(key, None)]);
    }

    #[test]
    fn a_pod_that_makes_up_topics_finds_no_room() {
        let mut thinner = Thinner::default();
        for number in 0..TOPICS_PER_POD_MAX {
            let result = PodResult { topic: format!("t{number}"), ..result(0, "1") };
            let thinning = Thinning::EveryNth(2);
            thinner.offer(Offer { sink: SINK, thinning: Some(&thinning), result }, MonotonicMs(0));
        }
        let ocr = "default/ocr-0".parse().unwrap();
        assert!(thinner.has_room(&ocr, &["t0"].into()));
        assert!(!thinner.has_room(&ocr, &["t0", "new"].into()));
        assert!(thinner.has_room(&"default/ocr-1".parse().unwrap(), &["new"].into()));
    }

    proptest! {
        /// Whatever the rules, and wherever the agent starts anew: what went and what those say that
        /// was left out before them is all that was offered, but for what is still to be told.
        #[test]
        fn every_result_is_sent_or_counted(steps in proptest::collection::vec((0_u8..5, 0_u64..4), 1..60)) {
            let mut thinner = Thinner::default();
            let mut stored: BTreeMap<TopicKey, TopicState> = BTreeMap::new();
            let (mut sent, mut offered, mut now) = (Vec::new(), 0, MonotonicMs(0));
            for (kind, value) in steps {
                let rule = match kind {
                    0 => Some(Thinning::LatestEverySeconds(2)),
                    1 => Some(Thinning::EveryNth(3)),
                    2 => Some(deadband(1_500_000)),
                    3 => None,
                    _ => {
                        thinner = Thinner::restore(stored.clone(), now);
                        continue;
                    }
                };
                offered += 1;
                now = now.plus_ms(value * 400);
                sent.extend(thinner.take_due(now));
                let result = result(offered, &format!("{{\"v\":{value}}}"));
                sent.extend(thinner.offer(Offer { sink: SINK, thinning: rule.as_ref(), result }, now));
                for (key, state) in thinner.take_changes() {
                    match state.cloned() {
                        Some(state) => drop(stored.insert(key, state)),
                        None => drop(stored.remove(&key)),
                    }
                }
                prop_assert_eq!(&stored, &thinner.topics);
            }
            let told: u64 = sent.iter().map(|(_, result)| 1 + result.thinned).sum();
            let untold = thinner.topics.values().map(|s| s.left_out + u64::from(s.held.is_some()));
            prop_assert_eq!(told + untold.sum::<u64>(), offered);
        }
    }
}
