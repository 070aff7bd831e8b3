//! From the bytes of a file to the answer: features, model, decision, in this order.
//!
//! It blocks its thread while the model runs; it knows nothing of HTTP.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::features::Features;
use crate::labels::{ContentType, OUTPUTS, best_of};
use crate::model::{Model, ModelError};
use crate::window::Window;

/// Something for the first run, which allocates what later runs reuse.
const WARM_UP_INPUT: &[u8] = b"fn main() { println!(\"warm\"); }\n";

/// How long it took until the first answer could be given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadTime {
    /// Parsing and optimising the network.
    pub(crate) load: Duration,
    /// The first run of it.
    pub(crate) warm_up: Duration,
}

/// What a file is.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    label: &'static str,
    /// How sure the model is, 0 to 1; 1 where a rule decided.
    score: f32,
    mime_type: &'static str,
    description: &'static str,
    /// Microseconds that the model ran; 0 where a rule decided.
    inference_us: u64,
}

/// A model that has answered once.
#[derive(Clone)]
pub(crate) struct Classifier {
    model: Model,
}

impl Classifier {
    /// Loads the model and runs it once.
    ///
    /// # Errors
    ///
    /// Those of [`Model::load`] and [`Model::scores`].
    pub(crate) fn load() -> Result<(Self, LoadTime), ModelError> {
        let started = Instant::now();
        let classifier = Self { model: Model::load()? };
        let load = started.elapsed();
        classifier.classify(&Window::from(WARM_UP_INPUT))?;
        Ok((classifier, LoadTime { load, warm_up: started.elapsed().saturating_sub(load) }))
    }

    /// Tells what the file is whose first and last block these are.
    ///
    /// # Errors
    ///
    /// Those of [`Model::scores`].
    pub(crate) fn classify(&self, window: &Window) -> Result<Answer, ModelError> {
        match Features::extract(window) {
            Features::Ruled(content_type) => Ok(Answer::new(content_type, 1.0, Duration::ZERO)),
            Features::ForModel(tokens) => self.infer(&tokens),
        }
    }

    fn infer(&self, tokens: &[i32]) -> Result<Answer, ModelError> {
        let started = Instant::now();
        let scores = self.model.scores(tokens)?;
        let inference = started.elapsed();
        let best = best_of(&scores).and_then(|(at, score)| Some((OUTPUTS.get(at)?, score)));
        let (output, score) = best.ok_or(ModelError::ScoreCount { found: scores.len() })?;
        Ok(Answer::new(output.decide(score), score, inference))
    }
}

impl Answer {
    fn new(content_type: &ContentType, score: f32, inference: Duration) -> Self {
        let ContentType { label, mime_type, description, .. } = *content_type;
        let inference_us = u64::try_from(inference.as_micros()).unwrap_or(u64::MAX);
        Self { label, score, mime_type, description, inference_us }
    }

    /// What is worth sending to the hub of a file of so many bytes.
    pub(crate) fn as_result(&self, bytes: u64) -> Value {
        let Self { label, score, mime_type, .. } = *self;
        json!({ "label": label, "score": score, "mime_type": mime_type, "bytes": bytes })
    }

    /// Time that the model ran; zero where a rule decided.
    pub(crate) fn inference(&self) -> Duration {
        Duration::from_micros(self.inference_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_file_is_rust() {
        let (classifier, _) = Classifier::load().unwrap();
        let answer = classifier.classify(&Window::from(include_bytes!("classifier.rs").as_slice()));
        let answer = answer.unwrap();
        assert_eq!(answer.label, "rust");
        assert!(answer.score > 0.9, "{answer:?}");
        assert!(answer.inference() > Duration::ZERO);
    }

    #[test]
    fn what_a_rule_decides_is_certain_and_takes_no_inference() {
        let (classifier, _) = Classifier::load().unwrap();
        let answer = classifier.classify(&Window::default()).unwrap();
        assert_eq!((answer.label, answer.score, answer.inference_us), ("empty", 1.0, 0));
    }
}
