//! Posts on their way to the loop and answers on their way back. What arrives within a few
//! milliseconds goes together, so that it shares one commit.

use super::{NewResult, Post, PostOutcome};
use shared::model::PodId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// So long the first waits for others: a commit costs a few milliseconds of a disk's time.
const GATHER_TIME: Duration = Duration::from_millis(20);

/// Bytes and results of one commit, beyond which nothing more is waited for.
const GATHER_BYTES_MAX: usize = 512 * 1024;
const GATHER_RESULTS_MAX: usize = 1024;

/// A post whose pod waits for the answer.
#[derive(Debug)]
pub struct Waiting {
    /// Whose it is.
    pub pod: PodId,
    /// What it holds.
    pub results: Vec<NewResult>,
    /// Where the answer goes; nobody may be there any more.
    pub reply: oneshot::Sender<PostOutcome>,
}

/// Gathers what arrives, until nobody sends or nobody receives any more.
pub async fn gather(mut arriving: mpsc::Receiver<Waiting>, gathered: mpsc::Sender<Vec<Waiting>>) {
    while let Some(first) = arriving.recv().await {
        let deadline = Instant::now() + GATHER_TIME;
        let (mut bytes, mut results) = size_of(&first);
        let mut together = vec![first];
        while bytes < GATHER_BYTES_MAX && results < GATHER_RESULTS_MAX {
            let Ok(Some(next)) = timeout_at(deadline, arriving.recv()).await else { break };
            let size = size_of(&next);
            (bytes, results) = (bytes + size.0, results + size.1);
            together.push(next);
        }
        if gathered.send(together).await.is_err() {
            return;
        }
    }
}

fn size_of(waiting: &Waiting) -> (usize, usize) {
    (waiting.results.iter().map(|result| result.body.len()).sum(), waiting.results.len())
}

/// Who waits for which answer.
#[derive(Debug, Default)]
pub struct Desk {
    taken: u64,
    replies: BTreeMap<u64, oneshot::Sender<PostOutcome>>,
}

impl Desk {
    /// Notes who waits; what the core is told.
    pub fn take(&mut self, waiting: Vec<Waiting>) -> Vec<Post> {
        let number = |waiting: Waiting| {
            self.taken += 1;
            self.replies.insert(self.taken, waiting.reply);
            Post { id: self.taken, pod: waiting.pod, results: waiting.results }
        };
        waiting.into_iter().map(number).collect()
    }

    /// Answers one; a pod that has gone away misses it.
    pub fn answer(&mut self, id: u64, outcome: PostOutcome) {
        if let Some(reply) = self.replies.remove(&id) {
            let _ = reply.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(pod: &str) -> (Waiting, oneshot::Receiver<PostOutcome>) {
        let (reply, answer) = oneshot::channel();
        (Waiting { pod: pod.parse().unwrap(), results: vec![], reply }, answer)
    }

    #[tokio::test]
    async fn what_arrives_together_goes_together_and_each_gets_its_own_answer() {
        let (sender, arriving) = mpsc::channel(8);
        let (to_loop, mut gathered) = mpsc::channel(1);
        tokio::spawn(gather(arriving, to_loop));
        let ((first, first_answer), (second, second_answer)) = (post("a/b-0"), post("a/c-0"));
        sender.send(first).await.unwrap();
        sender.send(second).await.unwrap();
        let mut desk = Desk::default();
        let posts = desk.take(gathered.recv().await.unwrap());
        let ids: Vec<_> = posts.iter().map(|post| (post.id, post.pod.to_string())).collect();
        assert_eq!(ids, [(1, "a/b-0".to_owned()), (2, "a/c-0".to_owned())]);
        desk.answer(2, PostOutcome::TooManyTopics);
        desk.answer(1, PostOutcome::Taken { results: 1, thinned: 0 });
        desk.answer(7, PostOutcome::TooManyTopics);
        assert_eq!(second_answer.await.unwrap(), PostOutcome::TooManyTopics);
        assert_eq!(first_answer.await.unwrap(), PostOutcome::Taken { results: 1, thinned: 0 });
        let (late, _) = post("a/b-0");
        sender.send(late).await.unwrap();
        assert_eq!(desk.take(gathered.recv().await.unwrap())[0].id, 3);
    }
}
