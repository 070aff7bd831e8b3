//! Commands that ask the running agent, or look at what one left.

use super::table;
use crate::config::Config;
use crate::core::AgentStatus;
use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::http::request::Builder;
use hyper_util::rt::TokioIo;
use shared::ports::Tree;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// An answer of the agent: a status of hundreds of pods, or the tail of a log.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The agent answers at once, or it is stuck.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn status(config: &Config, json: bool) -> anyhow::Result<()> {
    let answer = get(&config.places().admin_socket, "/v1/status", ANSWER_TIMEOUT)?;
    let answer = answer.body;
    let status: AgentStatus =
        serde_json::from_slice(&answer).context("the agent answered something else")?;
    let text =
        if json { serde_json::to_string_pretty(&status)? + "\n" } else { table::status(&status) };
    print(text.as_bytes())
}

pub(super) fn version() -> anyhow::Result<()> {
    print(format!("edge-agent {}\n", env!("CARGO_PKG_VERSION")).as_bytes())
}

/// Standard output; a reader that has gone away is no failure.
pub(super) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    match std::io::stdout().write_all(bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

pub(super) fn verify_store(config: &Config) -> anyhow::Result<()> {
    let store = crate::shell::open_store_to_verify(config)?;
    let damaged = store.verify().context("could not read the store")?;
    let mut text = String::new();
    for tree in Tree::ALL {
        text.push_str(&format!("{tree:?}: {} records\n", store.record_count(tree)));
    }
    text.push_str(&format!("bytes on disk: {}\n", store.size_bytes()));
    text.push_str(&format!("records damaged or missing: {damaged}\n"));
    print(text.as_bytes())?;
    if damaged > 0 {
        bail!(
            "{damaged} records can't be read: the agent asks the hub for desired state again, and counts lost records"
        )
    }
    Ok(())
}

/// What the agent answered.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Asks the running agent.
pub(super) fn get(socket: &Path, path: &str, within: Duration) -> anyhow::Result<Answer> {
    ask(socket, Request::get(path), Vec::new(), within)
}

/// Tells it something, as JSON.
pub(super) fn post(
    socket: &Path,
    path: &str,
    body: Vec<u8>,
    within: Duration,
) -> anyhow::Result<Answer> {
    ask(socket, Request::post(path).header(CONTENT_TYPE, "application/json"), body, within)
}

#[tokio::main(flavor = "current_thread")]
async fn ask(
    socket: &Path,
    request: Builder,
    body: Vec<u8>,
    within: Duration,
) -> anyhow::Result<Answer> {
    let request = request.header(HOST, "agent").body(Full::new(Bytes::from(body)))?;
    tokio::time::timeout(within, exchange(socket, request))
        .await
        .context("the agent does not answer")?
}

async fn exchange(socket: &Path, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("no agent runs with this state folder: could not connect to {}", socket.display())
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("could not read the answer: {error}"))?;
    drop(sender);
    connection.abort();
    let body = body.to_bytes().to_vec();
    if !head.status.is_success() {
        bail!("{}", String::from_utf8_lossy(&body).trim());
    }
    Ok(Answer { headers: head.headers, body })
}
