//! Results on their way into the outbox: durable before answered, routed, thinned, remembered.

use super::*;
use crate::core::StoredState;
use crate::results::{NewResult, Post, PostOutcome};
use shared::model::{BootClock, PodResult, ResultFormat, ResultRoute, SinkId, Thinning};
use shared::wire::decode;

const POD: &str = "default/ocr-0";

fn post(id: u64, results: &[(&str, &str)]) -> Post {
    let result = |(topic, body): &(&str, &str)| NewResult {
        topic: (*topic).to_owned(),
        at: None,
        format: ResultFormat::Json,
        body: body.as_bytes().to_vec(),
    };
    Post { id, pod: POD.parse().unwrap(), results: results.iter().map(result).collect() }
}

fn posted(posts: Vec<Post>) -> Event {
    let quality = shared::model::ClockQuality::Unsynchronised;
    let clock = BootClock { boot: 7, since_boot_ms: 1, offset_ms: 0, quality };
    Event::Posted { posts, clock }
}

fn with_routes(results: Vec<ResultRoute>) -> Workload {
    Workload { results, ..workload("ocr", 1) }
}

fn to(topic: &str, sink: &str, thinning: Option<Thinning>) -> ResultRoute {
    ResultRoute { topic: topic.to_owned(), sink: sink.to_owned(), thinning }
}

impl Bench {
    fn answers(&self) -> Vec<(u64, PostOutcome)> {
        let answer = |effect: &Effect| match effect {
            Effect::AnswerPost { id, outcome } => Some((*id, outcome.clone())),
            _ => None,
        };
        self.others.iter().filter_map(answer).collect()
    }

    /// What the store holds now.
    fn stored(&self) -> BTreeMap<(Tree, Vec<u8>), Vec<u8>> {
        let mut stored = BTreeMap::new();
        for write in self.persisted.iter().flat_map(|batch| batch.writes.clone()) {
            match write {
                Write::Put { tree, key, value } => drop(stored.insert((tree, key), value)),
                Write::Delete { tree, key } => drop(stored.remove(&(tree, key))),
            }
        }
        stored
    }

    /// Topic, body and count of every result in the outbox, in the order of its keys.
    fn kept(&self) -> Vec<(String, String, u64)> {
        let result = |record: &[u8]| decode::<PodResult>("result", record, 16_384).ok();
        let shown = |((tree, _), record): (&(Tree, Vec<u8>), &Vec<u8>)| {
            let result = Some(tree).filter(|tree| **tree == Tree::Outbox).and(result(record))?;
            let body = String::from_utf8(result.body.to_vec()).unwrap();
            Some((result.topic, body, result.thinned))
        };
        self.stored().iter().filter_map(shown).collect()
    }

    /// The agent is killed and starts again on what is durable; `pods` still run.
    pub(super) fn restarted(&self, observations: Vec<Observation>) -> Self {
        let stored = self.stored();
        let of = |wanted: Tree| stored.iter().filter(move |((tree, _), _)| *tree == wanted);
        let desired = of(Tree::Desired)
            .map(|((_, key), value)| (String::from_utf8(key.clone()).unwrap(), value.clone()));
        let meta: Vec<_> =
            of(Tree::Meta).map(|((_, key), value)| (key.clone(), value.clone())).collect();
        let header = meta.iter().find(|(key, _)| key == b"desired/header");
        let stored = StoredState {
            desired: desired.collect(),
            desired_header: header.map(|(_, value)| value.clone()),
            pods: vec![],
            meta: meta.clone(),
        };
        let restored = Restored { stored, observations, ..Restored::default() };
        let mut bench = Self::starting_with(restored);
        let before = self.persisted.clone();
        bench.persisted = [before, std::mem::take(&mut bench.persisted)].concat();
        bench
    }
}

fn entry(topic: &str, body: &str, thinned: u64) -> (String, String, u64) {
    (topic.to_owned(), body.to_owned(), thinned)
}

#[test]
fn posts_that_arrive_together_share_a_commit_and_are_answered_after_it() {
    let mut bench = Bench::new();
    let posts = vec![post(1, &[("a", "1"), ("b", "2")]), post(2, &[("a", "3")])];
    bench.core.handle_event(posted(posts), at(bench.now));
    let Some(Effect::Persist(batch)) = bench.core.poll_effect() else { panic!("nothing to store") };
    assert_eq!(bench.core.poll_effect(), None, "answered before it was durable");
    bench.persisted.push(batch);
    bench.core.handle_event(Event::Persisted, at(bench.now));
    bench.settle();
    let taken = |results| PostOutcome::Taken { results, thinned: 0 };
    assert_eq!(bench.answers(), [(1, taken(2)), (2, taken(1))]);
    let kept = [entry("a", "1", 0), entry("b", "2", 0), entry("a", "3", 0)];
    assert_eq!(bench.kept(), kept);
    let outbox = bench.core.status(LinkStatus::default()).outbox;
    assert_eq!((outbox.result_records, outbox.results_taken), (3, 3));
}

#[test]
fn while_the_store_can_t_be_written_no_result_is_taken_and_afterwards_it_is() {
    let mut bench = Bench::new();
    bench.full = true;
    bench.tell(posted(vec![post(1, &[("a", "1")])]));
    bench.tell(posted(vec![post(2, &[("a", "2")])]));
    let unavailable = |outcome: &PostOutcome| matches!(outcome, PostOutcome::Unavailable(_));
    let answers = bench.answers();
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|(_, outcome)| unavailable(outcome)), "{answers:?}");
    bench.full = false;
    bench.wait(6 * SECOND_MS);
    bench.tell(posted(vec![post(3, &[("a", "3")])]));
    assert_eq!(bench.answers()[2], (3, PostOutcome::Taken { results: 1, thinned: 0 }));
    // The first was on its way when the store failed; the second never was.
    let bodies: Vec<String> = bench.kept().into_iter().map(|(_, body, _)| body).collect();
    assert_eq!(bodies, ["1", "3"]);
}

/// Found by the simulated world: of the two positions of the log in one batch the older one was kept,
/// so that a restart did not know the second record.
#[test]
fn records_of_one_post_that_failed_are_all_known_after_a_restart() {
    let mut bench = Bench::new();
    bench.full = true;
    bench.tell(posted(vec![post(1, &[("a", "1"), ("a", "2")])]));
    bench.full = false;
    bench.wait(6 * SECOND_MS);
    assert_eq!(bench.kept().len(), 2);
    let restarted = bench.restarted(vec![]);
    let outbox = restarted.core.status(LinkStatus::default()).outbox;
    assert_eq!(outbox.result_records, 2);
}

#[test]
fn a_post_with_one_topic_without_a_route_is_refused_whole() {
    let mut bench = Bench::new();
    bench.join();
    let routes = vec![to("counts/*", "lake", None), to("alarms", "default", None)];
    bench.desire(&[with_routes(routes)], version(1, 2));
    bench.tell(posted(vec![post(1, &[("counts/a", "1"), ("other", "2")])]));
    let refused = PostOutcome::NoRoute { topic: "other".to_owned() };
    assert_eq!(bench.answers(), [(1, refused)]);
    assert_eq!(bench.kept(), []);
    bench.tell(posted(vec![post(2, &[("counts/a", "1"), ("alarms", "2")])]));
    let streams = [SinkId::of("lake"), SinkId::of("default")];
    let totals = streams.map(|sink| bench.core.outbox.totals(shared::wire::Stream::Results(sink)));
    assert_eq!(totals.map(|total| total.records), [1, 1]);
}

#[test]
fn the_newest_of_an_interval_goes_at_its_end() {
    let mut bench = Bench::new();
    bench.join();
    let thinning = Some(Thinning::LatestEverySeconds(10));
    bench.desire(&[with_routes(vec![to("*", "default", thinning)])], version(1, 2));
    bench.tell(posted(vec![post(1, &[("a", "1"), ("a", "2"), ("a", "3")])]));
    assert_eq!(bench.answers(), [(1, PostOutcome::Taken { results: 3, thinned: 2 })]);
    bench.wait(9 * SECOND_MS);
    assert_eq!(bench.kept(), []);
    bench.wait(2 * SECOND_MS);
    assert_eq!(bench.kept(), [entry("a", "3", 2)]);
    let left = bench.stored().into_keys().filter(|(_, key)| key.starts_with(b"results/"));
    assert_eq!(left.count(), 0, "what is settled is forgotten");
}

#[test]
fn what_is_held_while_the_store_fails_goes_when_it_can_be_written_again() {
    let mut bench = Bench::new();
    bench.join();
    let thinning = Some(Thinning::LatestEverySeconds(1));
    bench.desire(&[with_routes(vec![to("*", "default", thinning)])], version(1, 2));
    bench.tell(posted(vec![post(1, &[("a", "1")])]));
    bench.full = true;
    bench.tell(posted(vec![post(2, &[("b", "1")])]));
    // Past the end of the interval, without an endless loop over what is overdue.
    bench.wait(4 * SECOND_MS);
    assert_eq!(bench.kept(), []);
    bench.full = false;
    bench.wait(10 * SECOND_MS);
    assert!(bench.kept().contains(&entry("a", "1", 0)), "{:?}", bench.kept());
}

#[test]
fn a_restart_sends_what_was_held_and_goes_on_counting() {
    let mut bench = Bench::new();
    bench.join();
    let routes = vec![
        to("latest", "default", Some(Thinning::LatestEverySeconds(1000))),
        to("nth", "default", Some(Thinning::EveryNth(4))),
    ];
    bench.desire(&[with_routes(routes)], version(1, 2));
    bench.run_the_only_pod();
    let results = [("latest", "1"), ("latest", "2"), ("nth", "1"), ("nth", "2"), ("nth", "3")];
    bench.tell(posted(vec![post(1, &results)]));
    assert_eq!(bench.kept(), [entry("nth", "1", 0)]);
    let mut again = bench.restarted(bench.observed());
    again.wait(1);
    again.tell(posted(vec![post(1, &[("nth", "4"), ("nth", "5")])]));
    let mut kept = again.kept();
    kept.sort();
    assert_eq!(kept, [entry("latest", "2", 1), entry("nth", "1", 0), entry("nth", "5", 3)]);
}

#[test]
fn a_pod_that_is_no_more_leaves_what_was_held_and_is_forgotten() {
    let mut bench = Bench::new();
    bench.join();
    let routes = vec![
        to("latest", "default", Some(Thinning::LatestEverySeconds(1000))),
        to("nth", "lake", Some(Thinning::EveryNth(4))),
    ];
    bench.desire(&[with_routes(routes)], version(1, 2));
    bench.run_the_only_pod();
    bench.tell(posted(vec![post(1, &[("latest", "1"), ("nth", "1")])]));
    bench.desire(&[], version(1, 3));
    // It is being stopped, and its routes still hold.
    bench.tell(posted(vec![post(2, &[("nth", "2"), ("latest", "2")])]));
    let StartRequest { pod, instance, .. } = bench.the_only_start();
    bench.tell(Event::Runtime(RuntimeEvent::Exited { pod, instance, code: 0 }));
    let mut kept = bench.kept();
    kept.sort();
    assert_eq!(kept, [entry("latest", "2", 1), entry("nth", "1", 0)]);
    let left = bench.stored().into_keys().filter(|(_, key)| key.starts_with(b"results/"));
    assert_eq!(left.count(), 0);
}
