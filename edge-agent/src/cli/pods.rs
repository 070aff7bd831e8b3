//! Commands about one pod: its log, and what is run in it; and who did either.

use super::query::{ANSWER_TIMEOUT, get, post, print};
use super::table;
use crate::audit::AuditRecord;
use crate::config::Config;
use anyhow::Context;
use shared::io::remote::{
    CURSOR_HEADER, EndedWith, ExecAnswer, ExecBody, LogOrder, MARKS_HEADER, NoPage, PageMarks,
    ReceivedPage, show_log,
};
use shared::model::PodId;
use std::time::Duration;

/// Beyond the time that was asked for.
const MARGIN: Duration = Duration::from_secs(30);

fn path(pod: &PodId, what: &str) -> String {
    format!("/v1/pods/{}/{}/{what}", pod.workload.namespace(), pod.name())
}

pub(super) fn logs(config: &Config, pod: &PodId, order: &LogOrder) -> anyhow::Result<()> {
    let socket = config.places().admin_socket;
    let fetch = |query: &str| {
        let answer = get(&socket, &format!("{}?{query}", path(pod, "log")), MARGIN)?;
        let header = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let cursor = header(CURSOR_HEADER).map(str::to_owned);
        let marks = PageMarks::parse(header(MARKS_HEADER).unwrap_or_default());
        Ok::<_, NoPage<anyhow::Error>>(ReceivedPage { text: answer.body, cursor, marks })
    };
    show_log(order, fetch, |text| shown(std::io::stdout(), text))
}

pub(super) fn exec(config: &Config, pod: &PodId, body: &ExecBody) -> anyhow::Result<()> {
    let within = Duration::from_millis(u64::from(body.timeout_ms)) + MARGIN;
    let (socket, body) = (config.places().admin_socket, serde_json::to_vec(body)?);
    let answer = post(&socket, &path(pod, "exec"), body, within)?.body;
    let answer: ExecAnswer =
        serde_json::from_slice(&answer).context("the agent answered something else")?;
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

pub(super) fn audit(config: &Config, json: bool) -> anyhow::Result<()> {
    let answer = get(&config.places().admin_socket, "/v1/audit", ANSWER_TIMEOUT)?.body;
    let records: Vec<AuditRecord> =
        serde_json::from_slice(&answer).context("the agent answered something else")?;
    let text = match json {
        true => serde_json::to_string_pretty(&records)? + "\n",
        false => table::audit(&records),
    };
    print(text.as_bytes())
}

/// Whether a reader is there still.
fn shown(mut to: impl std::io::Write, bytes: &[u8]) -> anyhow::Result<bool> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}
