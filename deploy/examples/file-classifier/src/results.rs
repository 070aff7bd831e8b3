//! Hands each classification to the agent as a result, when this server runs as a pod.
//!
//! In the background, at once, and again until the agent has it: an answer never waits for that. What
//! does not fit the queue, because the agent is away for long, is left out and said.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Where the agent takes results of this pod.
const SOCKET_VARIABLE: &str = "HINTERLAND_RESULTS_SOCKET";

/// What the results are about.
const TOPIC: &str = "classifications";

/// Results that wait for the agent: a few hundred bytes each.
const WAITING_MAX: usize = 1024;

/// Results in one request; the agent takes at most 256.
const BATCH_MAX: usize = 128;

/// The agent answers when the results are on its disk.
const POST_TIME_MAX: Duration = Duration::from_secs(30);

/// Between two attempts, when the agent is away or its disk is full.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Where results go; nowhere by default.
#[derive(Default)]
pub(crate) struct Results(Option<mpsc::Sender<Value>>);

impl Results {
    /// To the agent that started this server, if one did. Within a tokio runtime.
    pub(crate) fn to_agent() -> Self {
        let Some(socket) = std::env::var_os(SOCKET_VARIABLE) else { return Self(None) };
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(hand_over(PathBuf::from(socket), waiting));
        Self(Some(sender))
    }

    /// Hands in one result.
    pub(crate) fn hand_in(&self, body: &Value) {
        let Some(sender) = &self.0 else { return };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let result = json!({ "topic": TOPIC, "time": time, "body": body });
        if sender.try_send(result).is_err() {
            tracing::warn!("a result was left out: too many wait for the agent");
        }
    }
}

async fn hand_over(socket: PathBuf, mut waiting: mpsc::Receiver<Value>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let lines: String = batch.drain(..).map(|result| format!("{result}\n")).collect();
        while let Some(problem) = attempt(&socket, &lines).await {
            tracing::warn!(problem, "results wait for the agent");
            sleep(RETRY_INTERVAL).await;
        }
    }
}

/// One attempt; what stands in its way, if it is worth another.
async fn attempt(socket: &Path, lines: &str) -> Option<String> {
    match timeout(POST_TIME_MAX, post(socket, lines)).await {
        Ok(Ok(202)) => None,
        Ok(Ok(status @ (429 | 503))) => Some(format!("the agent answers {status}")),
        Ok(Ok(status)) => {
            tracing::error!(status, "the agent refused results");
            None
        }
        Ok(Err(reason)) => Some(format!("{reason:#}")),
        Err(_) => Some("the agent does not answer".to_owned()),
    }
}

/// The status of the answer. So small a request needs no HTTP library.
async fn post(socket: &Path, lines: &str) -> anyhow::Result<u16> {
    let mut stream = UnixStream::connect(socket).await?;
    let length = lines.len();
    let head = format!(
        "POST /v1/results HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(lines.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.context("the answer has no status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_result_is_posted_again_until_the_agent_has_it() {
        let name = format!("file-classifier-results-{}", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(hand_over(socket.clone(), waiting));
        Results(Some(sender)).hand_in(&json!({ "label": "png" }));
        for status in [503, 202] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..count]).into_owned();
            assert!(request.starts_with("POST /v1/results "), "{request}");
            stream.write_all(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes()).await.unwrap();
        }
        // Nobody can hand in any more, and everything was taken.
        task.await.unwrap();
        let _ = std::fs::remove_file(&socket);
    }
}
