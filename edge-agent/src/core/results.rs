//! Results of pods on their way into the outbox: routed, thinned, numbered, answered once durable.
//!
//! What arrives together becomes durable in one commit, with what thinning knows of it; the answer
//! waits for that. While the store can't be written nothing is taken.

use super::storage::After;
use super::{AgentCore, Effect};
use crate::results::{NewResult, Offer, Post, PostOutcome, Thinner, TopicKey};
use serde_bytes::ByteBuf;
use shared::limits::LOG_RECORD_BYTES_MAX;
use shared::model::{
    BootClock, MonotonicMs, Now, PodId, PodResult, ResultRoute, SinkId, WorkloadKey, route,
};
use shared::ports::{Tree, WriteBatch};
use shared::wire::{Stream, decode, encode};
use std::collections::{BTreeMap, BTreeSet};
use tracing::warn;

/// Under keys of [`Tree::Meta`] that begin so lies what thinning knows of a topic of a pod.
const THINNING_PREFIX: &str = "results/";

/// What is known of one topic: a result and a few numbers.
const THINNING_BYTES_MAX: usize = LOG_RECORD_BYTES_MAX + 1024;

/// Results on their way into the outbox.
#[derive(Debug, Default)]
pub(super) struct Results {
    thinner: Thinner,
    /// The routes of workloads that had pods which posted: a pod that is being stopped may still
    /// post when its workload is no longer wanted.
    routes: BTreeMap<WorkloadKey, Vec<ResultRoute>>,
    /// Results that pods handed in.
    pub(super) taken: u64,
    /// How many of these were left out.
    pub(super) thinned: u64,
}

impl Results {
    /// What earlier starts left: `meta` are records of [`Tree::Meta`].
    pub(super) fn restore(meta: &[(Vec<u8>, Vec<u8>)], now: MonotonicMs) -> Self {
        let topic = |(key, value): &(Vec<u8>, Vec<u8>)| {
            let key = parse_thinning_key(key)?;
            match decode("thinning of a topic", value, THINNING_BYTES_MAX) {
                Ok(state) => Some((key, state)),
                Err(error) => {
                    warn!(pod = %key.0, topic = key.1, %error, "passed over what thinning knew");
                    None
                }
            }
        };
        let topics = meta.iter().filter_map(topic).collect();
        Self { thinner: Thinner::restore(topics, now), ..Self::default() }
    }
}

fn thinning_key((pod, topic): &TopicKey) -> Vec<u8> {
    format!("{THINNING_PREFIX}{pod}/{topic}").into_bytes()
}

/// A pod's name has exactly one `/`, a topic any number.
fn parse_thinning_key(key: &[u8]) -> Option<TopicKey> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix(THINNING_PREFIX)?;
    let (namespace, rest) = text.split_once('/')?;
    let (name, topic) = rest.split_once('/')?;
    Some((format!("{namespace}/{name}").parse().ok()?, topic.to_owned()))
}

impl AgentCore {
    pub(super) fn handle_posts(&mut self, posts: Vec<Post>, clock: BootClock, now: Now) {
        if let Some(error) = self.storage.error() {
            let outcome = PostOutcome::Unavailable(format!("the store can't be written: {error}"));
            let answers = posts.into_iter().map(|post| (post.id, outcome.clone()));
            return self.answer_posts(answers.collect());
        }
        let (mut writes, mut taken) = (WriteBatch::new(), Vec::new());
        for post in posts {
            let id = post.id;
            match self.take_post(post, clock, now, &mut writes) {
                Ok(outcome) => taken.push((id, outcome)),
                Err(refusal) => self.answer_posts(vec![(id, refusal)]),
            }
        }
        if !taken.is_empty() {
            self.persist_results(writes, After::AnswerPosts(taken));
        }
    }

    /// Takes all of a post or nothing.
    fn take_post(
        &mut self,
        post: Post,
        clock: BootClock,
        now: Now,
        writes: &mut WriteBatch,
    ) -> Result<PostOutcome, PostOutcome> {
        let Post { pod, results, .. } = post;
        let routes = self.routes_of(&pod)?;
        let mut thinned_topics = BTreeSet::new();
        for NewResult { topic, .. } in &results {
            let taken = route(&routes, topic);
            let (_, thinning) =
                taken.ok_or_else(|| PostOutcome::NoRoute { topic: topic.clone() })?;
            if thinning.is_some() {
                thinned_topics.insert(topic.as_str());
            }
        }
        if !self.results.thinner.has_room(&pod, &thinned_topics) {
            return Err(PostOutcome::TooManyTopics);
        }
        let (count, before) = (results.len() as u64, self.results.thinned);
        for result in results {
            self.take_result(&pod, &routes, result, clock, now, writes);
        }
        self.results.taken += count;
        Ok(PostOutcome::Taken { results: count, thinned: self.results.thinned - before })
    }

    fn take_result(
        &mut self,
        pod: &PodId,
        routes: &[ResultRoute],
        new: NewResult,
        clock: BootClock,
        now: Now,
        writes: &mut WriteBatch,
    ) {
        let Some((sink, thinning)) = route(routes, &new.topic) else { return };
        let result = PodResult {
            pod: pod.clone(),
            at: new.at.unwrap_or(now.wall),
            clock,
            format: new.format,
            body: ByteBuf::from(new.body),
            thinned: 0,
            topic: new.topic,
        };
        let offer = Offer { sink: SinkId::of(sink), thinning, result };
        let held = self.results.thinner.held();
        let sent = self.results.thinner.offer(offer, now.monotonic);
        // One came; what neither went nor waits was left out.
        let waiting = self.results.thinner.held() + sent.len();
        self.results.thinned += u64::from(waiting == held);
        self.append_results(sent, writes);
    }

    /// Where the results of a pod go. While its workload is here and unreadable nobody knows.
    fn routes_of(&mut self, pod: &PodId) -> Result<Vec<ResultRoute>, PostOutcome> {
        let key = &pod.workload;
        if self.undecodable.contains_key(&key.to_string()) {
            let problem =
                "this agent can't read the pod's workload: where its results go is not known";
            return Err(PostOutcome::Unavailable(problem.to_owned()));
        }
        if let Some(workload) = self.workloads.get(key) {
            self.results.routes.insert(key.clone(), workload.results.clone());
        }
        Ok(self.results.routes.get(key).cloned().unwrap_or_default())
    }

    fn append_results(&mut self, results: Vec<(SinkId, PodResult)>, writes: &mut WriteBatch) {
        for (sink, result) in results {
            let encoded = encode("result", &result).map_err(|error| error.to_string());
            let appended = encoded.and_then(|record| {
                let appended = self.outbox.append(Stream::Results(sink), record, writes);
                appended.map_err(|error| error.to_string())
            });
            // Bodies, topics and names have limits below a record's.
            if let Err(error) = appended {
                self.recorder.unstored_records += 1;
                warn!(pod = %result.pod, topic = result.topic, error, "a result was not kept");
            }
        }
    }

    /// Has `writes` made durable, with what has changed in what thinning knows.
    fn persist_results(&mut self, mut writes: WriteBatch, after: After) {
        for (key, state) in self.results.thinner.take_changes() {
            match state.map(|state| encode("thinning of a topic", state)) {
                Some(Ok(value)) => writes.put(Tree::Meta, thinning_key(&key), value),
                Some(Err(error)) => warn!(pod = %key.0, %error, "what thinning knows is not kept"),
                None => writes.delete(Tree::Meta, thinning_key(&key)),
            }
        }
        self.persist(writes, after);
    }

    /// When a result that was held is due. While the store can't be written none is sent.
    pub(super) fn results_due(&self) -> Option<MonotonicMs> {
        self.results.thinner.poll_timeout().filter(|_| !self.is_read_only())
    }

    /// Sends the results whose interval has ended.
    pub(super) fn send_held_results(&mut self, now: Now) {
        if self.results_due().is_some_and(|due| due <= now.monotonic) {
            let sent = self.results.thinner.take_due(now.monotonic);
            self.send_results(sent);
        }
    }

    /// Sends what was held for pods that are no longer here.
    pub(super) fn forget_results_of_absent_pods(&mut self) {
        let pods = &self.pods;
        let is_there = |pod: &PodId| pods.status(pod).is_some();
        let wanted = |key: &WorkloadKey| pods.statuses().any(|status| status.pod.workload == *key);
        self.results.routes.retain(|key, _| wanted(key));
        let sent = self.results.thinner.retain(is_there);
        self.send_results(sent);
    }

    fn send_results(&mut self, results: Vec<(SinkId, PodResult)>) {
        let mut writes = WriteBatch::new();
        self.append_results(results, &mut writes);
        if !writes.is_empty() || self.results.thinner.has_changes() {
            self.persist_results(writes, After::Nothing);
        }
    }

    pub(super) fn answer_posts(&mut self, posts: Vec<(u64, PostOutcome)>) {
        let answers = posts.into_iter().map(|(id, outcome)| Effect::AnswerPost { id, outcome });
        self.effects.extend(answers);
    }

    /// What these posts held is not durable, or not yet.
    pub(super) fn refuse_posts(&mut self, after: Option<&After>, error: &str) {
        if let Some(After::AnswerPosts(posts)) = after {
            let outcome = PostOutcome::Unavailable(format!("the store can't be written: {error}"));
            let refused = posts.iter().map(|(id, _)| (*id, outcome.clone())).collect();
            self.answer_posts(refused);
        }
    }
}
