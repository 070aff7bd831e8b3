//! As much of gRPC as calls of one request and one answer need: a prefix of five bytes, a path and a trailer over
//! HTTP/2.
//!
//! Answers are bounded; how long one may take is for whoever calls. Refuses to retry. All connections are of one type,
//! whatever they go over and whatever is asked: HTTP/2 is compiled once.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use prost::Message;
use shared::in_words;
use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// What every message of gRPC begins with: a flag of compression and four bytes of length.
const PREFIX_BYTES: usize = 5;

/// Status codes of gRPC that are told apart.
pub(super) const UNKNOWN: u32 = 2;
pub(super) const DEADLINE_EXCEEDED: u32 = 4;
pub(super) const NOT_FOUND: u32 = 5;
pub(super) const UNIMPLEMENTED: u32 = 12;
pub(super) const UNAVAILABLE: u32 = 14;

/// What a connection sends.
pub(super) type Body = Full<Bytes>;

/// Whom to ask, and for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method<'a> {
    /// The host of the request's URI.
    pub(super) authority: &'a str,
    /// As in `runtime.v1.RuntimeService`.
    pub(super) service: &'a str,
    /// As in `Version`.
    pub(super) name: &'a str,
    /// A further header, where there is one.
    pub(super) metadata: Option<(&'a str, &'a str)>,
    /// What is taken of an answer, in bytes.
    pub(super) answer_bytes_max: usize,
}

/// Why a call has no answer.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// Nobody answered, or not in gRPC: what became of it, in words.
    #[error("{0}")]
    Unanswered(String),
    /// It was refused.
    #[error("refused with the code {code}: {message}")]
    Refused { code: u32, message: String },
}

/// What a connection goes over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Where what a connection needs done beside it is done.
#[derive(Debug, Clone, Default)]
pub(super) enum Tasks {
    /// For as long as it takes.
    #[default]
    Free,
    /// Until [`Tasks::end`].
    Bound(Arc<Mutex<JoinSet<()>>>),
}

impl Tasks {
    /// Ends those that are bound, whatever the other side does.
    pub(super) fn end(&self) {
        if let Self::Bound(tasks) = self {
            tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        }
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let task = async move { drop(task.await) };
        match self {
            Self::Free => drop(tokio::spawn(task)),
            Self::Bound(tasks) => {
                tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
            }
        }
    }
}

/// What the other side may have under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of answers, in bytes.
    pub(super) window_bytes: u32,
    /// Of all headers of one.
    pub(super) headers_bytes_max: u32,
}

/// Begins to speak HTTP/2; without `limits` within the library's own.
pub(super) async fn connect(
    stream: Box<dyn Stream>,
    tasks: Tasks,
    limits: Option<Limits>,
) -> Result<SendRequest<Body>, String> {
    let mut builder = Builder::new(tasks.clone());
    if let Some(Limits { window_bytes, headers_bytes_max }) = limits {
        builder
            .initial_stream_window_size(window_bytes)
            .initial_connection_window_size(window_bytes)
            .max_header_list_size(headers_bytes_max);
    }
    let made = builder.handshake::<_, Body>(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|error| in_words(&error))?;
    // Its end is seen by whoever calls next.
    tasks.execute(connection);
    Ok(sender)
}

/// Sends one message and takes one.
pub(super) async fn ask<Q: Message, A: Message + Default>(
    sender: SendRequest<Body>,
    method: Method<'_>,
    question: &Q,
) -> Result<A, Failure> {
    let answer = exchange(sender, method, framed(question)).await?;
    A::decode(answer).map_err(|error| Failure::Unanswered(in_words(&error)))
}

/// The same in bytes: what is asked has its prefix, what is answered has not.
pub(super) async fn exchange(
    mut sender: SendRequest<Body>,
    method: Method<'_>,
    question: Bytes,
) -> Result<Bytes, Failure> {
    let broken = |error: &(dyn Error + 'static)| Failure::Unanswered(in_words(error));
    let request = request_of(method, question).map_err(|error| broken(&error))?;
    sender.ready().await.map_err(|error| broken(&error))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let (head, body) = response.into_parts();
    // A call that is refused at once has its status where others have none yet.
    verdict(&head.headers).unwrap_or(Ok(()))?;
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_other = content_type.is_some_and(|value| !value.starts_with("application/grpc"));
    if !head.status.is_success() || is_other {
        let what = format!("an answer in HTTP with status {}", head.status.as_u16());
        return Err(Failure::Unanswered(what));
    }
    let body = Limited::new(body, method.answer_bytes_max).collect().await;
    let body = body.map_err(|error| broken(error.as_ref()))?;
    match body.trailers().and_then(verdict) {
        Some(verdict) => verdict?,
        None => return Err(Failure::Unanswered("the answer breaks off".to_owned())),
    }
    let message = unframed(body.to_bytes());
    message.ok_or_else(|| Failure::Unanswered("the answer is not one message".to_owned()))
}

fn request_of(method: Method<'_>, question: Bytes) -> Result<Request<Body>, hyper::http::Error> {
    let Method { authority, service, name, metadata, .. } = method;
    let mut request = Request::post(format!("http://{authority}/{service}/{name}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header("te", "trailers");
    if let Some((name, value)) = metadata {
        request = request.header(name, value);
    }
    request.body(Full::new(question))
}

/// A message with its prefix.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + message.encoded_len());
    bytes.push(0);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.into()
}

/// The one message that an answer holds.
fn unframed(answer: Bytes) -> Option<Bytes> {
    let (prefix, message) = answer.split_first_chunk::<PREFIX_BYTES>()?;
    let [0, a, b, c, d] = *prefix else { return None };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    (message.len() == length).then(|| answer.slice(PREFIX_BYTES..))
}

/// What a status says, where there is one.
fn verdict(headers: &HeaderMap) -> Option<Result<(), Failure>> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code: u32 = text("grpc-status")?.parse().unwrap_or(UNKNOWN);
    if code == 0 {
        return Some(Ok(()));
    }
    let message = unescaped(text("grpc-message").unwrap_or_default());
    Some(Err(Failure::Refused { code, message }))
}

/// Undoes the `%` escapes of a status's message.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_status_is_read_with_its_message_and_success_is_none() {
        let mut headers = HeaderMap::new();
        assert!(verdict(&headers).is_none());
        headers.insert("grpc-status", "0".parse().unwrap());
        assert!(verdict(&headers).unwrap().is_ok());
        headers.insert("grpc-status", "5".parse().unwrap());
        headers.insert("grpc-message", "no %22x%22, 100%".parse().unwrap());
        let Err(Failure::Refused { code, message }) = verdict(&headers).unwrap() else { panic!() };
        assert_eq!((code, message.as_str()), (NOT_FOUND, "no \"x\", 100%"));
        headers.insert("grpc-status", "fine".parse().unwrap());
        let refused = verdict(&headers).unwrap();
        assert!(matches!(refused, Err(Failure::Refused { code: UNKNOWN, .. })));
    }

    #[test]
    fn an_answer_is_one_message_of_the_length_that_it_says() {
        let of = |bytes: &'static [u8]| unframed(Bytes::from_static(bytes));
        assert_eq!(of(&[0, 0, 0, 0, 2, 8, 1]).as_deref(), Some([8, 1].as_slice()));
        assert_eq!(of(&[0, 0, 0, 0, 0]).as_deref(), Some([].as_slice()));
        let wrong: [&[u8]; 5] =
            [&[], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 8], &[0, 0, 0, 0, 0, 8]];
        for bytes in wrong {
            assert_eq!(of(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_message_of_a_status_makes_it_panic(text in "[%0-9a-fg é]{0,40}") {
            let _ = unescaped(&text);
        }
    }
}
