//! Pods that hand in results.

use super::{AgentEvent, World};
use edge_agent::results::{NewResult, Post, PostOutcome};
use rand_core::RngCore;
use shared::model::ResultFormat;

/// What pods hand in.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Posting {
    /// Milliseconds between two posts of the whole world, on the average.
    pub(in super::super) every_ms: u32,
    /// Bytes of a result, at most.
    pub(in super::super) bytes_max: u32,
}

/// A post that was not answered yet.
#[derive(Debug)]
pub(super) struct OpenPost {
    agent: usize,
    bodies: Vec<Vec<u8>>,
}

impl World {
    /// A pod hands in results, when it is time.
    pub(super) fn post_results(&mut self) {
        let Some(posting) = self.posting.filter(|_| self.now >= self.next_post) else { return };
        let wait = self.random.next_u32() % posting.every_ms.max(1) * 2;
        self.next_post = self.now.plus_ms(1 + u64::from(wait));
        let index = usize::try_from(self.random.next_u32()).unwrap_or(0) % self.agents.len().max(1);
        let running = self.agents.get(index).map(|agent| agent.machine.running());
        let running = running.unwrap_or_default();
        let which = usize::try_from(self.random.next_u32()).unwrap_or(0) % running.len().max(1);
        let Some((pod, _)) = running.get(which).cloned() else { return };
        let count = 1 + self.random.next_u32() % 3;
        let results: Vec<NewResult> = (0..count).map(|_| self.result(posting.bytes_max)).collect();
        let bodies = results.iter().map(|result| result.body.clone()).collect();
        self.posts_made += 1;
        let id = self.posts_made;
        let now = self.present_at(index);
        let Some(agent) = self.agents.get(index).filter(|agent| agent.core.is_some()) else {
            return;
        };
        let clock = agent.boot_clock(now);
        self.open_posts.insert(id, OpenPost { agent: index, bodies });
        self.step_agent(
            index,
            [AgentEvent::Posted { posts: vec![Post { id, pod, results }], clock }],
        );
    }

    /// No two are the same.
    fn result(&mut self, bytes_max: u32) -> NewResult {
        self.results_made += 1;
        let padding = usize::try_from(self.random.next_u32() % bytes_max.max(1)).unwrap_or(0);
        let body = format!("{{\"n\":{},\"pad\":\"{}\"}}", self.results_made, "x".repeat(padding));
        let topic = format!("detections/gate-{}", self.results_made % 3);
        NewResult { topic, at: None, format: ResultFormat::Json, body: body.into_bytes() }
    }

    /// Posts were answered: what was taken must be durable.
    pub(super) fn check_answers(&mut self, answers: Vec<(u64, PostOutcome)>) {
        for (id, outcome) in answers {
            let Some(post) = self.open_posts.remove(&id) else { continue };
            let Some(agent) = self.agents.get(post.agent) else { continue };
            let node = agent.identity.node.clone();
            let taken = matches!(outcome, PostOutcome::Taken { .. });
            let durable = |body: &Vec<u8>| self.accounts.has_result(&node, body);
            if taken && !post.bodies.iter().all(durable) {
                let problem = format!("{node}: post {id} was answered, and is not durable");
                self.complain(Err(problem));
            }
            if let PostOutcome::NoRoute { .. } = outcome {
                self.complain(Err(format!("{node}: post {id} has no route: {outcome:?}")));
            }
        }
    }

    /// Whoever waited for an answer of this agent waits no more.
    pub(super) fn forget_posts(&mut self, index: usize) {
        self.open_posts.retain(|_, post| post.agent != index);
    }
}
