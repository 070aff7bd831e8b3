//! As much of gRPC as calls of one request and one answer need, over a connection of HTTP/2 that is there: a prefix
//! of five bytes, a path and a trailer.
//!
//! Answers are bounded; how long one may take is for whoever calls. Refuses to retry.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::client::conn::http2::SendRequest;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use prost::Message;
use shared::in_words;
use std::error::Error;
use thiserror::Error;

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

/// Sends one message and takes one.
pub(super) async fn ask<Q: Message, A: Message + Default>(
    mut sender: SendRequest<Body>,
    method: Method<'_>,
    question: &Q,
) -> Result<A, Failure> {
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
    let message =
        message.ok_or_else(|| Failure::Unanswered("the answer is not one message".to_owned()))?;
    A::decode(message).map_err(|error| broken(&error))
}

fn request_of(
    method: Method<'_>,
    question: &impl Message,
) -> Result<Request<Body>, hyper::http::Error> {
    let Method { authority, service, name, metadata, .. } = method;
    let mut request = Request::post(format!("http://{authority}/{service}/{name}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header("te", "trailers");
    if let Some((name, value)) = metadata {
        request = request.header(name, value);
    }
    request.body(Full::new(framed(question)))
}

fn framed(message: &impl Message) -> Bytes {
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
