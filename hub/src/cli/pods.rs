//! Commands about one pod of one node: its log, and what is run in it.

use super::client::Client;
use anyhow::Context;
use clap::Args;
use hyper::Method;
use shared::io::remote::{
    CURSOR_HEADER, EndedWith, ExecAnswer, ExecBody, LogOrder, MARKS_HEADER, NoPage, PageMarks,
    ReceivedPage, Unanswered, parse_time, show_log,
};
use shared::model::{NodeId, PodId};
use std::time::Duration;

/// Beyond the time that a node is given.
const MARGIN: Duration = Duration::from_secs(45);

/// What of a log is shown.
#[derive(Debug, Args)]
pub(super) struct LogOptions {
    /// How many lines; 100 unless `--since` is given
    #[arg(long, alias = "lines")]
    tail: Option<u32>,
    /// None that is older, as in `10m`
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Duration>,
    /// Go on with what is printed from now on; a link that is lost is waited for
    #[arg(long, short)]
    follow: bool,
    /// For how long to follow
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_time)]
    timeout: Duration,
    /// The container
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
}

/// What is run.
#[derive(Debug, Args)]
pub(super) struct ExecOptions {
    /// When it is killed, as in `90s`; at most 10m
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_time)]
    timeout: Duration,
    /// The container
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
    /// The program and its arguments, after `--`
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(super) fn logs(
    client: &Client,
    node: &NodeId,
    pod: &PodId,
    options: LogOptions,
) -> anyhow::Result<()> {
    let LogOptions { tail, since, follow, timeout, container } = options;
    let order = LogOrder { tail, since, follow: follow.then_some(timeout), container };
    let fetch = |query: &str| {
        let path = format!("/v1/nodes/{node}/pods/{pod}/log?{query}");
        let answer = client.ask(Method::GET, &path, Vec::new(), MARGIN);
        let answer = answer.map_err(|error| match error.downcast::<Unanswered>() {
            Ok(unanswered) => NoPage::Unanswered(unanswered),
            Err(other) => NoPage::Other(other),
        })?;
        let header = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let cursor = header(CURSOR_HEADER).map(str::to_owned);
        let marks = PageMarks::parse(header(MARKS_HEADER).unwrap_or_default());
        Ok(ReceivedPage { text: answer.body, cursor, marks })
    };
    show_log(&order, fetch, |text| shown(std::io::stdout(), text))
}

pub(super) fn exec(
    client: &Client,
    node: &NodeId,
    pod: &PodId,
    options: ExecOptions,
) -> anyhow::Result<()> {
    let ExecOptions { timeout, container, command } = options;
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let body = serde_json::to_vec(&ExecBody { command, timeout_ms, container })?;
    let path = format!("/v1/nodes/{node}/pods/{pod}/exec");
    let within = timeout.saturating_add(MARGIN);
    let answer = client.ask(Method::POST, &path, body, within).map_err(|error| {
        let is_unknown = error.is::<Unanswered>();
        let words = "whether it was run is not known here: `edge-agent audit` on the node says";
        if is_unknown { error.context(words) } else { error }
    })?;
    let answer: ExecAnswer =
        serde_json::from_slice(&answer.body).context("the hub answered something else")?;
    shown(std::io::stdout(), answer.stdout.as_bytes())?;
    shown(std::io::stderr(), answer.stderr.as_bytes())?;
    if answer.exit_code.is_none() {
        shown(std::io::stderr(), b"[the command was killed at its deadline]\n")?;
    }
    match answer.status() {
        0 => Ok(()),
        status => Err(EndedWith(status).into()),
    }
}

/// Whether a reader is there still.
fn shown(mut to: impl std::io::Write, bytes: &[u8]) -> anyhow::Result<bool> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}
