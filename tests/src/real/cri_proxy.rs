//! A proxy before a container runtime that notes each call with its time, and a caller that gives noted calls again:
//! the same pods without an agent.
//!
//! Understands gRPC's frame of one message, and of a message no more than its first field.

use super::process::wait_until;
use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::header::HeaderMap;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;

/// Proxy and runtime answer soon.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a message of gRPC begins with: a flag and its length.
const PREFIX_BYTES: usize = 5;

/// One call that was answered.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method, without the service's name.
    pub method: String,
    /// When all of it had come.
    pub at: Instant,
    /// What was asked, and what was answered, each with gRPC's prefix.
    pub question: Bytes,
    /// Empty when it was refused.
    pub answer: Bytes,
}

impl Call {
    /// The first field of the question when that is a text, as an id is.
    ///
    /// # Errors
    /// When it is not.
    pub fn asked_id(&self) -> anyhow::Result<String> {
        first_text(&self.question).with_context(|| format!("{} was asked with no id", self.method))
    }

    /// The first field of the answer when that is a text, as an id is.
    ///
    /// # Errors
    /// When it is not.
    pub fn answered_id(&self) -> anyhow::Result<String> {
        first_text(&self.answer).with_context(|| format!("{} was answered with no id", self.method))
    }
}

/// A proxy that runs until it is dropped.
#[derive(Debug)]
pub struct CriProxy {
    socket: PathBuf,
    upstream: PathBuf,
    calls: Arc<Mutex<Vec<Call>>>,
    tasks: Runtime,
}

impl CriProxy {
    /// One at `socket`, before the runtime at `upstream`, which may come and go.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn start(socket: &Path, upstream: &Path) -> anyhow::Result<Self> {
        let tasks = tokio::runtime::Builder::new_multi_thread();
        let tasks = { tasks }.worker_threads(1).enable_all().build()?;
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let listener = tasks.block_on(async { UnixListener::bind(socket) })?;
        let (noted, to) = (Arc::clone(&calls), upstream.to_owned());
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection whose other end is not there ends; the caller sees that.
                tokio::spawn(serve(stream, to.clone(), Arc::clone(&noted)));
            }
        });
        let (socket, upstream) = (socket.to_owned(), upstream.to_owned());
        wait_until("the proxy listens", PATIENCE, || Ok(socket.exists()))?;
        Ok(Self { socket, upstream, calls, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The calls since this was asked last, in the order of their answers.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.calls))
    }

    /// Makes pods again, all at once, by the calls that made them; how long it took until all run, and their
    /// sandboxes. Each is a `RunPodSandbox` and the `CreateContainer` that followed. Through the proxy, as the
    /// agent's calls are.
    ///
    /// # Errors
    /// When a call is refused.
    pub fn make_again(&self, pods: &[(Call, Call)]) -> anyhow::Result<(Duration, Vec<String>)> {
        self.tasks.block_on(async {
            let sender = connect(&self.socket).await?;
            let begin = Instant::now();
            let made = pods.iter().map(|(sandbox, container)| {
                let (sandbox, container) = (sandbox.clone(), container.clone());
                tokio::spawn(make(sender.clone(), sandbox, container))
            });
            let mut sandboxes = Vec::new();
            for made in made.collect::<Vec<_>>() {
                sandboxes.push(made.await??);
            }
            Ok((begin.elapsed(), sandboxes))
        })
    }

    /// Waits until the runtime behind answers calls: after its start it refuses them for a moment.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_until_answered(&self) -> anyhow::Result<()> {
        wait_until("the container runtime answers", PATIENCE, || {
            let sender = connect(&self.upstream);
            let asked = async { call(sender.await?, "ListPodSandbox", framed(&[])).await };
            self.tasks.block_on(asked).map(|_| true)
        })
    }

    /// Stops and removes a sandbox with its containers.
    ///
    /// # Errors
    /// When it is refused.
    pub fn remove(&self, sandbox: &str) -> anyhow::Result<()> {
        self.tasks.block_on(async {
            let sender = connect(&self.upstream).await?;
            for method in ["StopPodSandbox", "RemovePodSandbox"] {
                call(sender.clone(), method, framed(&text_field(sandbox))).await?;
            }
            Ok(())
        })
    }
}

fn lock(calls: &Mutex<Vec<Call>>) -> MutexGuard<'_, Vec<Call>> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

type Sender = SendRequest<Full<Bytes>>;

async fn connect(socket: &Path) -> anyhow::Result<Sender> {
    let stream = UnixStream::connect(socket).await?;
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn serve(
    stream: UnixStream,
    upstream: PathBuf,
    calls: Arc<Mutex<Vec<Call>>>,
) -> anyhow::Result<()> {
    let sender = connect(&upstream).await?;
    let service = service_fn(move |request| pass_on(sender.clone(), request, Arc::clone(&calls)));
    let builder = http2::Builder::new(TokioExecutor::new());
    Ok(builder.serve_connection(TokioIo::new(stream), service).await?)
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

async fn pass_on(
    mut sender: Sender,
    request: Request<Incoming>,
    calls: Arc<Mutex<Vec<Call>>>,
) -> anyhow::Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let question = body.collect().await?.to_bytes();
    let at = Instant::now();
    let method = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let request = Request::from_parts(head, Full::new(question.clone()));
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    let answer = body.to_bytes();
    lock(&calls).push(Call { method, at, question, answer: answer.clone() });
    let trailers = async { trailers.map(Ok) };
    let body = Full::new(answer).with_trailers(trailers).boxed_unsync();
    Ok(Response::from_parts(head, body))
}

/// Makes a pod and starts its container; the sandbox's id.
async fn make(sender: Sender, sandbox: Call, container: Call) -> anyhow::Result<String> {
    let answer = call(sender.clone(), "RunPodSandbox", sandbox.question).await?;
    let id = first_text(&answer).context("RunPodSandbox was answered with no id")?;
    let question = with_first_text(&container.question, &id).context("not a CreateContainer")?;
    let answer = call(sender.clone(), "CreateContainer", question).await?;
    let container = first_text(&answer).context("CreateContainer was answered with no id")?;
    call(sender, "StartContainer", framed(&text_field(&container))).await?;
    Ok(id)
}

async fn call(mut sender: Sender, method: &str, question: Bytes) -> anyhow::Result<Bytes> {
    let request = Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(question))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?;
    // A call that is refused at once has its status in the head.
    let verdict = |headers: &HeaderMap| {
        let text =
            |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        text("grpc-status").map(|status| (status, text("grpc-message").unwrap_or_default()))
    };
    let (status, message) = verdict(&head.headers)
        .or_else(|| body.trailers().and_then(verdict))
        .context("the answer has no status")?;
    ensure!(status == "0", "{method} was refused: {message}");
    Ok(body.to_bytes())
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

/// A message whose one field, number 1, is this text; shorter than 128 bytes, as ids are.
fn text_field(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[0x0a, length], text.as_bytes()].concat()
}

/// Splits a message behind its first field, if that is a text shorter than 128 bytes.
fn split_first_text(message: &[u8]) -> Option<(&str, &[u8])> {
    let [0x0a, length, rest @ ..] = message.get(PREFIX_BYTES..)? else { return None };
    let (text, rest) = (*length < 128).then(|| rest.split_at_checked(usize::from(*length)))??;
    Some((std::str::from_utf8(text).ok()?, rest))
}

fn first_text(message: &[u8]) -> Option<String> {
    split_first_text(message).map(|(text, _)| text.to_owned())
}

fn with_first_text(message: &[u8], text: &str) -> Option<Bytes> {
    let (_, rest) = split_first_text(message)?;
    Some(framed(&[&text_field(text), rest].concat()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_is_read_and_replaced_and_the_rest_kept() {
        let message = framed(&[&text_field("old-id")[..], &[0x12, 1, 7]].concat());
        assert_eq!(first_text(&message).as_deref(), Some("old-id"));
        let other = with_first_text(&message, "a-newer-id").unwrap();
        assert_eq!(first_text(&other).as_deref(), Some("a-newer-id"));
        assert!(other.ends_with(&[0x12, 1, 7]) && other.len() == message.len() + 4);
        assert_eq!(first_text(&framed(&[0x0a, 200])), None);
    }
}
