//! A client of CRI v1 over a Unix socket.
//!
//! Every call has a limit of time, and says whether its failure may pass by itself: the socket is silent while
//! the runtime behind it restarts. A connection is made when it is needed and shared by all calls. Refuses to
//! retry: whoever calls knows whether that is safe.

use super::api;
use crate::runtime::grpc::{
    self, Body, DEADLINE_EXCEEDED, Failure, Method, NOT_FOUND, Tasks, UNAVAILABLE, UNKNOWN,
};
use bytes::Bytes;
use hyper::client::conn::http2::SendRequest;
use prost::Message;
use shared::in_words;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// The longest answer: what a check prints is in one of them. As kubelet's.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A question is answered from memory.
pub(super) const QUESTION_LIMIT: Duration = Duration::from_secs(10);

/// An order may wait for a slow disk. As kubelet's.
pub(super) const ORDER_LIMIT: Duration = Duration::from_secs(120);

/// Images of many gigabytes come over slow links; the runtime itself gives up on one that does not move.
const PULL_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// The service of images.
const IMAGES: &str = "runtime.v1.ImageService";

/// The service of what containerd has on its disk, which is not of CRI, and the namespace that CRI has there.
const CONTENT: &str = "containerd.services.content.v1.Content";
const CONTENT_NAMESPACE: (&str, &str) = ("containerd-namespace", "k8s.io");

/// What containerd says, with the code `UNKNOWN`, of what passes: while it reads its own state at its start, and
/// while it starts or removes what is to be removed.
const PASSING: [&str; 3] =
    ["server is not initialized yet", "is already in removing state", "is in starting state"];

/// Ids are 64 hexadecimal digits.
const ID_LENGTH_MIN: usize = 32;

/// Why a call has no answer.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// Nobody answered; whether it was carried out is not known.
    #[error("{call} was not answered at {socket}: {what}")]
    Unanswered { call: &'static str, socket: String, what: String },
    /// It was refused.
    #[error("{call} was refused: {message}")]
    Refused { call: &'static str, code: u32, message: String },
}

impl CallError {
    /// Whether the same call may be answered a little later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unanswered { .. } => true,
            Self::Refused { code, message, .. } => {
                [UNAVAILABLE, DEADLINE_EXCEEDED].contains(code)
                    || (*code == UNKNOWN && PASSING.iter().any(|words| message.contains(words)))
            }
        }
    }

    /// Whether a sandbox of this name is there, or is just being made or removed; nothing was begun.
    pub(super) fn is_name_taken(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("is reserved for"))
    }

    /// The container that can't be removed because it runs.
    pub(super) fn running_task(&self) -> Option<&str> {
        let Self::Refused { message, .. } = self else { return None };
        let (_, rest) = message.split_once("cannot delete running task ")?;
        let id = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
        // Looked for in the names of cgroups: no short word.
        (id.len() >= ID_LENGTH_MIN).then_some(id)
    }

    /// Whether there is no such sandbox or container.
    pub(super) fn is_not_found(&self) -> bool {
        // containerd 1.6 passes some on with the code `UNKNOWN`.
        matches!(self, Self::Refused { code, message, .. }
            if *code == NOT_FOUND || (*code == UNKNOWN && message.ends_with("not found")))
    }
}

/// The client; its clones share a connection.
#[derive(Debug, Clone)]
pub(super) struct CriClient(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    socket: PathBuf,
    /// Held while it is made: whoever calls meanwhile waits for that one. Fifty pods that were found at a start had
    /// fifty connections otherwise, 45 KiB each.
    sender: Mutex<Option<SendRequest<Body>>>,
}

impl CriClient {
    /// A client of the runtime behind `socket`. Connects to nothing yet.
    pub(super) fn new(socket: &Path) -> Self {
        Self(Arc::new(Connection { socket: socket.to_owned(), sender: Mutex::default() }))
    }

    /// Calls a method of the service of pods.
    pub(super) async fn call<Q: Message, A: Message + Default>(
        &self,
        method: &'static str,
        question: &Q,
        limit: Duration,
    ) -> Result<A, CallError> {
        self.call_at("runtime.v1.RuntimeService", method, question, limit).await
    }

    /// An image that is on the disk.
    pub(super) async fn image(&self, image: &str) -> Result<Option<api::Image>, CallError> {
        let image = Some(api::ImageSpec { image: image.to_owned() });
        let question = api::ImageStatusRequest { image };
        let answer = self.call_at(IMAGES, "ImageStatus", &question, QUESTION_LIMIT).await?;
        let api::ImageStatusResponse { image } = answer;
        Ok(image.filter(|image| !image.id.is_empty()))
    }

    /// Whether the runtime sees what is mounted here: both are in one mount namespace.
    pub(super) async fn shares_mounts(&self) -> bool {
        let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
        let theirs = self.server().await.and_then(|pid| namespace(&pid.to_string()));
        theirs.is_some() && theirs == namespace("self")
    }

    /// The process behind the socket, by its number.
    pub(super) async fn server(&self) -> Option<i32> {
        let stream = UnixStream::connect(&self.0.socket).await.ok()?;
        stream.peer_cred().ok()?.pid()
    }

    /// Has an image brought here, as who `auth` says.
    pub(super) async fn pull(
        &self,
        image: &str,
        auth: Option<api::AuthConfig>,
    ) -> Result<(), CallError> {
        let image = Some(api::ImageSpec { image: image.to_owned() });
        let order = api::PullImageRequest { image, auth };
        let answer: Result<api::PullImageResponse, _> =
            self.call_at(IMAGES, "PullImage", &order, PULL_LIMIT).await;
        answer.map(|_| ())
    }

    /// Removes an image with all of its names.
    pub(super) async fn remove_image(&self, id: &str) -> Result<(), CallError> {
        let order =
            api::RemoveImageRequest { image: Some(api::ImageSpec { image: id.to_owned() }) };
        let done: Result<api::Nothing, _> =
            self.call_at(IMAGES, "RemoveImage", &order, ORDER_LIMIT).await;
        done.map(|_| ())
    }

    /// Calls a method of containerd's service of content; another runtime refuses it.
    pub(super) async fn content<Q: Message, A: Message + Default>(
        &self,
        method: &'static str,
        question: &Q,
        limit: Duration,
    ) -> Result<A, CallError> {
        self.call_at(CONTENT, method, question, limit).await
    }

    async fn call_at<Q: Message, A: Message + Default>(
        &self,
        service: &'static str,
        method: &'static str,
        question: &Q,
        limit: Duration,
    ) -> Result<A, CallError> {
        let answer = self.answer_to(service, method, grpc::framed(question), limit).await?;
        A::decode(answer).map_err(|error| self.unanswered(method, in_words(&error)))
    }

    async fn answer_to(
        &self,
        service: &'static str,
        method: &'static str,
        question: Bytes,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        // On the heap for as long as it takes: whoever keeps a pod waits for calls in tasks of their own, that would
        // each have room for one.
        let exchange = Box::pin(async {
            let sender = self.sender().await.map_err(Failure::Unanswered)?;
            let metadata = (service == CONTENT).then_some(CONTENT_NAMESPACE);
            let authority = "localhost";
            let (name, answer_bytes_max) = (method, ANSWER_BYTES_MAX);
            let asked = Method { authority, service, name, metadata, answer_bytes_max };
            grpc::exchange(sender, asked, question).await
        });
        match timeout(limit, exchange).await {
            Ok(answer) => answer.map_err(|failure| match failure {
                Failure::Unanswered(what) => self.unanswered(method, what),
                Failure::Refused { code, message } => {
                    CallError::Refused { call: method, code, message }
                }
            }),
            Err(_) => Err(self.unanswered(method, format!("not within {limit:?}"))),
        }
    }

    fn unanswered(&self, call: &'static str, what: String) -> CallError {
        CallError::Unanswered { call, socket: self.0.socket.display().to_string(), what }
    }

    /// The connection, made anew where there is none.
    async fn sender(&self) -> Result<SendRequest<Body>, String> {
        let mut open = self.0.sender.lock().await;
        if let Some(sender) = open.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = UnixStream::connect(&self.0.socket).await;
        let stream = Box::new(stream.map_err(|error| error.to_string())?);
        let sender = grpc::connect(stream, Tasks::Free, None).await?;
        *open = Some(sender.clone());
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_says_while_it_starts_or_removes_may_pass() {
        for words in PASSING {
            let message = format!("container x: {words}");
            let error = CallError::Refused { call: "RemovePodSandbox", code: UNKNOWN, message };
            assert!(error.may_pass() && !error.is_not_found(), "{words}");
        }
    }

    #[test]
    fn a_container_that_runs_and_is_taken_for_ended_is_known_by_its_id() {
        let of = |message: &str| {
            let message = message.to_owned();
            let error = CallError::Refused { call: "RemoveContainer", code: 9, message };
            error.running_task().map(str::to_owned)
        };
        let id = "fd5939ee51d658bed75098db6cba8f363c9eb6220e1dd16b63530492b58415ff";
        let words = format!("failed to delete \"{id}\": cannot delete running task {id}: failed");
        assert_eq!(of(&words).as_deref(), Some(id));
        assert_eq!(of("cannot delete running task : failed"), None);
        assert_eq!(of("no such container"), None);
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let client = CriClient::new(&folder.path().join("cri.sock"));
        let error = client.image("ocr:1").await.unwrap_err();
        assert!(error.may_pass() && error.to_string().contains("cri.sock"), "{error}");
    }
}
