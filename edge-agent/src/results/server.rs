//! `POST /v1/results`, over a pod's socket and over loopback.
//!
//! Each connection is bounded in what it may send and how long it may take, so that a slow or hostile
//! pod holds up nobody but itself. Answers are JSON; problems are as in RFC 9457.

use super::desk::Waiting;
use super::door::{Doors, Owner};
use super::request::{REQUEST_BYTES_MAX, Refusal, Request, parse};
use super::{NewResult, PostOutcome};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use shared::model::PodId;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tracing::{debug, info, warn};

/// Where results are posted.
const PATH: &str = "/v1/results";

/// Connections to loopback of all pods at once.
const LOOPBACK_CONNECTIONS_MAX: usize = 64;

/// From the first byte of a connection, or the end of an answer, to the end of the next head. Short,
/// since on loopback nobody is known before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// For the body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// For the result to become durable; longer than a worn SD card takes.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Between two attempts to have the port.
const BIND_PAUSE: Duration = Duration::from_secs(5);

/// Seconds after which a store that could not be written is worth another attempt.
const STORE_RETRY_SECONDS: u64 = 5;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) enum Visitor {
    /// The pod whose socket it is.
    Owner(Arc<Owner>),
    /// Somebody else at the socket of this pod.
    Stranger(PodId),
    /// Whoever shows a token.
    Unknown(Arc<Held>),
}

/// The place that a connection over loopback takes up among those of its pod.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Option<(PodId, OwnedSemaphorePermit)>>);

/// What is answered when it is not 202.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<(HeaderName, String)>,
}

type Answer = Response<Full<Bytes>>;

/// Serves posts to loopback for as long as the agent runs. A port that another program has is waited
/// for: pods have their sockets meanwhile.
pub async fn serve_loopback(doors: Doors) {
    let address = doors.address();
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !told => {
                told = true;
                warn!(%address, %error, "results are not taken at this port until it is free: set `results` to another");
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_PAUSE).await;
    };
    if told {
        info!(%address, "results are taken at this port");
    }
    let free = Arc::new(Semaphore::new(LOOPBACK_CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let doors = doors.clone();
                tokio::spawn(async move {
                    serve_connection(doors, stream, Visitor::Unknown(Arc::default())).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "a connection for results was not accepted");
                tokio::time::sleep(BIND_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve_connection(
    doors: Doors,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    visitor: Visitor,
) {
    let service = service_fn(move |request| {
        let (doors, visitor) = (doors.clone(), visitor.clone());
        async move { Ok::<_, Infallible>(answer(&doors, &visitor, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection for results ended early");
    }
}

async fn answer(doors: &Doors, visitor: &Visitor, request: hyper::Request<Incoming>) -> Answer {
    match take(doors, visitor, request).await {
        Ok((results, thinned)) => {
            let body = json!({ "accepted": results, "thinned": thinned });
            response(StatusCode::ACCEPTED, "application/json", &body, None)
        }
        Err(Problem { status, detail, header }) => {
            let title = status.canonical_reason().unwrap_or_default();
            let body = json!({ "status": status.as_u16(), "title": title, "detail": detail });
            response(status, "application/problem+json", &body, header)
        }
    }
}

fn response(
    status: StatusCode,
    kind: &str,
    body: &serde_json::Value,
    header: Option<(HeaderName, String)>,
) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let kind = (CONTENT_TYPE, kind.to_owned());
    for (name, value) in header.into_iter().chain([kind]) {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None }
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.header = Some((RETRY_AFTER, seconds.to_string()));
        self
    }
}

/// How many results were taken, and how many of them thinning left out.
async fn take(
    doors: &Doors,
    visitor: &Visitor,
    request: hyper::Request<Incoming>,
) -> Result<(u64, u64), Problem> {
    if request.uri().path() != PATH {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is only POST {PATH}")));
    }
    let owner = owner_of(doors, visitor, &request)?;
    if request.method() != Method::POST {
        let detail = format!("expected POST {PATH}");
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail));
    }
    let (head, body) = request.into_parts();
    let body = read(body).await?;
    let content_type = head.headers.get(CONTENT_TYPE).map(|value| value.to_str());
    let content_type = content_type.map(|text| text.unwrap_or("not text"));
    let results = parse(Request { content_type, query: head.uri.query(), body: &body })?;
    let taken = doors.take_rate(&owner, results.len() as u64, body.len() as u64);
    taken.map_err(|seconds| {
        let detail = "the pod posts faster than the node stores";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(seconds)
    })?;
    hand_over(doors, &owner, results).await
}

fn owner_of(
    doors: &Doors,
    visitor: &Visitor,
    request: &hyper::Request<Incoming>,
) -> Result<Arc<Owner>, Problem> {
    match visitor {
        Visitor::Owner(owner) => Ok(Arc::clone(owner)),
        Visitor::Stranger(pod) => {
            let detail = format!("this socket is for processes of the pod {pod} only");
            Err(Problem::new(StatusCode::FORBIDDEN, detail))
        }
        Visitor::Unknown(held) => {
            let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let token = shown.and_then(|text| {
                let (scheme, token) = text.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
            });
            let owner = token.and_then(|token| doors.owner_of(token)).ok_or_else(|| Problem {
                status: StatusCode::UNAUTHORIZED,
                detail:
                    "expected `Authorization: Bearer $HINTERLAND_RESULTS_TOKEN` of a pod that runs"
                        .to_owned(),
                header: Some((WWW_AUTHENTICATE, "Bearer".to_owned())),
            })?;
            held.take_place(&owner)?;
            Ok(owner)
        }
    }
}

impl Held {
    /// Counts the connection as one of this pod's.
    fn take_place(&self, owner: &Arc<Owner>) -> Result<(), Problem> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|(pod, _)| *pod == owner.pod) {
            return Ok(());
        }
        let place = Arc::clone(&owner.connections).try_acquire_owned().map_err(|_| {
            let detail = "the pod has too many connections at once";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(1)
        })?;
        *held = Some((owner.pod.clone(), place));
        Ok(())
    }
}

async fn read(body: Incoming) -> Result<Bytes, Problem> {
    let whole = timeout(BODY_TIMEOUT, Limited::new(body, REQUEST_BYTES_MAX).collect()).await;
    let seconds = BODY_TIMEOUT.as_secs();
    let slow = |_| {
        let detail = format!("the body did not arrive within {seconds} s");
        Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
    };
    match whole.map_err(slow)? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("a request may have {REQUEST_BYTES_MAX} bytes");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
        }
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, error.to_string())),
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(detail) => Self::new(StatusCode::BAD_REQUEST, detail),
            Refusal::TooLarge(detail) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
            Refusal::UnsupportedType(detail) => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
            }
        }
    }
}

/// Hands the results to the loop and waits until they are durable.
async fn hand_over(
    doors: &Doors,
    owner: &Owner,
    results: Vec<NewResult>,
) -> Result<(u64, u64), Problem> {
    let unavailable = |detail: String| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(STORE_RETRY_SECONDS)
    };
    let (reply, answer) = oneshot::channel();
    let waiting = Waiting { pod: owner.pod.clone(), results, reply };
    let outcome = timeout(STORE_TIMEOUT, async {
        doors.posts().send(waiting).await.ok()?;
        answer.await.ok()
    });
    match outcome.await {
        Ok(Some(PostOutcome::Taken { results, thinned })) => Ok((results, thinned)),
        Ok(Some(PostOutcome::NoRoute { topic })) => {
            let detail = format!("no route of the workload's `results` takes the topic `{topic}`");
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
        Ok(Some(PostOutcome::TooManyTopics)) => {
            let detail = "too many topics whose results are thinned: a topic names a place or kind, not a moment";
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
        Ok(Some(PostOutcome::Unavailable(detail))) => Err(unavailable(detail)),
        Ok(None) => Err(unavailable("the agent is stopping".to_owned())),
        Err(_) => Err(unavailable("the store takes too long".to_owned())),
    }
}

#[cfg(test)]
mod tests;
