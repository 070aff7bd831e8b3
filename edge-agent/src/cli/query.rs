//! Commands that ask the running agent, or look at what one left.

use super::table;
use crate::config::Config;
use crate::core::AgentStatus;
use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use shared::model::{NodeId, PodId};
use shared::ports::Tree;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// An answer of the agent: a status of hundreds of pods, or the tail of a log.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The agent answers at once, or it is stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn status(config: &Config, json: bool) -> anyhow::Result<()> {
    let answer = ask(&config.places().admin_socket, "/v1/status")?;
    let status: AgentStatus =
        serde_json::from_slice(&answer).context("the agent answered something else")?;
    let text =
        if json { serde_json::to_string_pretty(&status)? + "\n" } else { table::status(&status) };
    print(text.as_bytes())
}

pub(super) fn logs(
    config: &Config,
    pod: &PodId,
    container: Option<&NodeId>,
    lines: u32,
) -> anyhow::Result<()> {
    let namespace = pod.workload.namespace();
    let of = container.map(|name| format!("&container={name}")).unwrap_or_default();
    let path = format!("/v1/pods/{namespace}/{}/log?lines={lines}{of}", pod.name());
    print(&ask(&config.places().admin_socket, &path)?)
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

#[tokio::main(flavor = "current_thread")]
async fn ask(socket: &Path, path: &str) -> anyhow::Result<Vec<u8>> {
    tokio::time::timeout(ANSWER_TIMEOUT, request(socket, path))
        .await
        .context("the agent does not answer")?
}

async fn request(socket: &Path, path: &str) -> anyhow::Result<Vec<u8>> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("no agent runs with this state folder: could not connect to {}", socket.display())
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header(hyper::header::HOST, "agent")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("could not read the answer: {error}"))?;
    drop(sender);
    connection.abort();
    let bytes = body.to_bytes().to_vec();
    if !status.is_success() {
        bail!("{}", String::from_utf8_lossy(&bytes).trim());
    }
    Ok(bytes)
}
