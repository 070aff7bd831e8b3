//! Questions to the model, and whether its answers are right.

use crate::real::http::request;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The model answers in tens of milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A file, and what it is.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// The file's name, for people; the model does not see it.
    pub name: &'static str,
    /// What the reference implementation calls it.
    pub label: &'static str,
    /// Its bytes.
    pub content: &'static [u8],
}

/// The files that the demo shows to the model. `tests/tests/inference.rs` compares the labels with
/// the reference implementation's.
#[must_use]
pub fn questions() -> &'static [Question] {
    &QUESTIONS
}

macro_rules! question {
    ($name:literal is $label:literal) => {
        Question {
            name: $name,
            label: $label,
            content: include_bytes!(concat!(
                "../../../deploy/examples/file-classifier/samples/",
                $name
            )),
        }
    };
}

const QUESTIONS: [Question; 7] = [
    question!("turbine_speed.rs" is "rust"),
    question!("poll_sensor.py" is "python"),
    question!("collect_logs.sh" is "shell"),
    question!("site.json" is "json"),
    question!("visit_notes.md" is "markdown"),
    question!("ridge.png" is "png"),
    question!("inspection.pdf" is "pdf"),
];

/// What the model said.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Name, label, score, and how long the answer took.
    pub rows: Vec<(&'static str, String, f64, Duration)>,
}

impl Answers {
    /// Asks everything.
    ///
    /// # Errors
    /// When the model does not answer, or answers wrongly.
    pub fn ask(server: SocketAddr) -> anyhow::Result<Self> {
        let rows = questions().iter().map(|question| one(server, question));
        Ok(Self { rows: rows.collect::<Result<_, _>>()? })
    }

    /// Asks the first question only.
    ///
    /// # Errors
    /// When the model does not answer, or answers wrongly.
    pub fn first(server: SocketAddr) -> anyhow::Result<()> {
        let question = questions().first().context("there is no question")?;
        one(server, question).map(drop)
    }
}

fn one(
    server: SocketAddr,
    question: &Question,
) -> anyhow::Result<(&'static str, String, f64, Duration)> {
    let begin = Instant::now();
    let answer =
        request(server, "POST", "/v1/classify", question.content, ANSWER_TIMEOUT)?.json()?;
    let took = begin.elapsed();
    let label =
        answer.get("label").and_then(Value::as_str).context("the answer has no label")?.to_owned();
    let score = answer.get("score").and_then(Value::as_f64).context("the answer has no score")?;
    let (name, expected) = (question.name, question.label);
    ensure!(label == expected, "{name}: the model says `{label}`, expected `{expected}`");
    Ok((name, label, score, took))
}

/// How long the server needed to load its model.
pub(super) fn model_load(server: SocketAddr) -> anyhow::Result<Duration> {
    let ready = request(server, "GET", "/readyz", &[], ANSWER_TIMEOUT)?.json()?;
    let milliseconds =
        ready.get("model_load_ms").and_then(Value::as_f64).context("no model_load_ms")?;
    Ok(Duration::from_secs_f64(milliseconds / 1000.0))
}
