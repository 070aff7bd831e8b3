//! Health and metrics on loopback; status, logs and commands on a socket that only the owner can open.
//!
//! Answers come from the core between two events; nothing here changes it.

use crate::audit::AuditRecord;
use crate::config::Config;
use crate::core::AgentStatus;
use crate::owner_socket::bind_for_owner;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::io::remote::{CURSOR_HEADER, ExecAnswer, ExecBody, LogQuery, MARKS_HEADER, PageMarks};
use shared::model::{GpuSource, PodId, PodPhase};
use shared::wire::{CallMethod, CallOutcome, ExecResult, LogPage, decode};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{debug, warn};

/// Connections at a time: each costs a file.
const CONNECTIONS_MAX: usize = 64;

/// Questions that wait for the core. A person asks a few; more wait.
const QUERIES_MAX: usize = 16;

/// Text of one page of a log for a command on this machine.
const LOCAL_PAGE_BYTES_MAX: u32 = 1 << 20;

/// A command and what goes with it.
const BODY_BYTES_MAX: usize = 1 << 20;

/// From the first byte of a connection, or the end of an answer, to the end of the next head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// After a connection that could not be accepted: no file is free, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A question to the running agent.
#[derive(Debug)]
pub enum Query {
    /// The present status.
    Status(oneshot::Sender<AgentStatus>),
    /// A call of somebody on this machine.
    Call {
        /// What is asked.
        method: CallMethod,
        /// What came of it.
        reply: oneshot::Sender<CallOutcome>,
    },
    /// Who read logs and ran commands, the oldest first.
    Audit(oneshot::Sender<Result<Vec<AuditRecord>, String>>),
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// Anybody on this machine.
    Anybody,
    /// Whoever may open the admin socket: which user, if that is known.
    Owner(Option<u32>),
}

/// Where connections come from.
enum Listener {
    Loopback(TcpListener),
    Socket(UnixListener),
}

/// Serves health and metrics on loopback, status and logs on the admin socket. A port or a socket
/// that can't be had is said and done without: pods matter more.
pub(super) async fn serve(config: &Config) -> mpsc::Receiver<Query> {
    let (sender, queries) = mpsc::channel(QUERIES_MAX);
    match TcpListener::bind(config.admin).await {
        Ok(listener) => {
            drop(tokio::spawn(serve_all(Listener::Loopback(listener), sender.clone())));
        }
        Err(error) => {
            let address = config.admin;
            warn!(%address, %error, "health and metrics are not served: set `admin` to a free port");
        }
    }
    let socket = config.places().admin_socket;
    match bind_for_owner(&socket) {
        Ok(listener) => drop(tokio::spawn(serve_all(Listener::Socket(listener), sender))),
        Err(error) => {
            let socket = socket.display();
            warn!(%socket, %error, "status and logs are not served");
        }
    }
    queries
}

async fn serve_all(listener: Listener, queries: mpsc::Sender<Query>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        if let Err(error) = serve_next(&listener, place, &queries).await {
            warn!(%error, "a connection for status or metrics was not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

async fn serve_next(
    listener: &Listener,
    place: OwnedSemaphorePermit,
    queries: &mpsc::Sender<Query>,
) -> io::Result<()> {
    match listener {
        Listener::Loopback(listener) => {
            let (stream, _) = listener.accept().await?;
            drop(tokio::spawn(serve_connection(stream, Asker::Anybody, place, queries.clone())));
        }
        Listener::Socket(listener) => {
            let (stream, _) = listener.accept().await?;
            let user = stream.peer_cred().ok().map(|peer| peer.uid());
            drop(tokio::spawn(serve_connection(
                stream,
                Asker::Owner(user),
                place,
                queries.clone(),
            )));
        }
    }
    Ok(())
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    asker: Asker,
    _place: OwnedSemaphorePermit,
    queries: mpsc::Sender<Query>,
) {
    let service = service_fn(move |request| {
        let queries = queries.clone();
        async move { Ok::<_, Infallible>(answer(asker, request, &queries).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection for status or metrics ended early");
    }
}

type Answer = Response<Full<Bytes>>;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const EXPOSITION: &str = "text/plain; version=0.0.4";

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn stopping() -> Answer {
    respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the agent is stopping\n")
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(json) => respond(StatusCode::OK, JSON, json),
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn bad(problem: &str) -> Answer {
    respond(StatusCode::BAD_REQUEST, TEXT, format!("{problem}\n"))
}

async fn answer<B>(asker: Asker, request: Request<B>, queries: &mpsc::Sender<Query>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let uri = request.uri().clone();
    let path: Vec<&str> = uri.path().split('/').skip(1).collect();
    let get = [Method::GET, Method::HEAD].contains(request.method());
    let expected = match path[..] {
        [.., "exec"] => (request.method() == Method::POST, "expected POST\n"),
        _ => (get, "expected GET\n"),
    };
    let is_known = match asker {
        Asker::Anybody => matches!(path[..], ["healthz" | "metrics"]),
        Asker::Owner(_) => {
            matches!(path[..], ["v1", "status" | "audit"] | ["v1", "pods", _, _, "log" | "exec"])
        }
    };
    if !is_known {
        return respond(StatusCode::NOT_FOUND, TEXT, "there is nothing here\n");
    }
    if let (false, words) = expected {
        return respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, words);
    }
    match path[..] {
        ["v1", "pods", namespace, name, what] => {
            let pod = match format!("{namespace}/{name}").parse::<PodId>() {
                Ok(pod) => pod,
                Err(error) => return bad(&error.to_string()),
            };
            match what {
                "log" => read_log(asker, pod, uri.query().unwrap_or_default(), queries).await,
                _ => exec(asker, pod, request, queries).await,
            }
        }
        ["v1", "audit"] => audit(queries).await,
        _ => {
            let Some(status) = ask(queries).await else { return stopping() };
            match path[..] {
                ["healthz"] => respond(StatusCode::OK, TEXT, "ok\n"),
                ["metrics"] => respond(StatusCode::OK, EXPOSITION, exposition(&status)),
                _ => json(&status),
            }
        }
    }
}

impl Asker {
    fn in_words(self) -> String {
        match self {
            Self::Owner(Some(user)) => format!("user {user} on the node"),
            Self::Owner(None) | Self::Anybody => "somebody on the node".to_owned(),
        }
    }
}

async fn ask(queries: &mpsc::Sender<Query>) -> Option<AgentStatus> {
    let (reply, answer) = oneshot::channel();
    queries.send(Query::Status(reply)).await.ok()?;
    answer.await.ok()
}

/// What came of a call, or an answer that says why there is nothing.
async fn call<T: DeserializeOwned>(
    queries: &mpsc::Sender<Query>,
    method: CallMethod,
) -> Result<T, Answer> {
    let (reply, answer) = oneshot::channel();
    queries.send(Query::Call { method, reply }).await.map_err(|_| stopping())?;
    let failed = |message| respond(StatusCode::NOT_FOUND, TEXT, format!("{message}\n"));
    match answer.await.map_err(|_| stopping())? {
        CallOutcome::Done { body } => {
            decode("answer", &body, body.len()).map_err(|error| failed(error.to_string()))
        }
        CallOutcome::Failed { message } => Err(failed(message)),
    }
}

async fn read_log(asker: Asker, pod: PodId, query: &str, queries: &mpsc::Sender<Query>) -> Answer {
    let asked = LogQuery::parse(query)
        .and_then(|query| query.call(pod.clone(), asker.in_words(), LOCAL_PAGE_BYTES_MAX));
    let method = match asked {
        Ok(method) => method,
        Err(problem) => return bad(&problem),
    };
    let page = match call::<LogPage>(queries, method).await {
        Ok(page) => page,
        Err(answer) => return answer,
    };
    let status = ask(queries).await;
    let is_over = status.is_some_and(|status| has_ended(&status, &pod));
    let marks = PageMarks { is_over, ..PageMarks::from(&page) };
    let said = [(CURSOR_HEADER, page.next.to_string()), (MARKS_HEADER, marks.to_text())];
    let mut answer = respond(StatusCode::OK, "application/octet-stream", page.text.into_vec());
    for (name, value) in said {
        // Both are plain words.
        if let Ok(value) = HeaderValue::from_str(&value) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

fn has_ended(status: &AgentStatus, pod: &PodId) -> bool {
    let found = status.pods.iter().find(|status| status.pod == *pod);
    found.is_some_and(|pod| matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed))
}

async fn exec<B>(
    asker: Asker,
    pod: PodId,
    request: Request<B>,
    queries: &mpsc::Sender<Query>,
) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(HEAD_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return bad(&error.to_string()),
        Err(_) => return bad("the body did not come in time"),
    };
    let asked = serde_json::from_slice::<ExecBody>(&body).map_err(|error| error.to_string());
    let method = match asked.and_then(|body| body.call(pod, asker.in_words())) {
        Ok(method) => method,
        Err(problem) => return bad(&problem),
    };
    match call::<ExecResult>(queries, method).await {
        Ok(result) => json(&ExecAnswer::from(result)),
        Err(answer) => answer,
    }
}

async fn audit(queries: &mpsc::Sender<Query>) -> Answer {
    let (reply, answer) = oneshot::channel();
    if queries.send(Query::Audit(reply)).await.is_err() {
        return stopping();
    }
    match answer.await {
        Ok(Ok(records)) => json(&records),
        Ok(Err(problem)) => {
            respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{problem}\n"))
        }
        Err(_) => stopping(),
    }
}

/// The status in the Prometheus text format.
fn exposition(status: &AgentStatus) -> String {
    let pods_in = |phase: PodPhase| {
        let count = status.pods.iter().filter(|pod| pod.phase == phase).count();
        (format!("hinterland_agent_pods{{phase=\"{phase:?}\"}}"), count as u64)
    };
    let established = u64::from(status.sync.session == "established");
    let gpus = &status.node_status.capacity.gpus;
    let mut figures = vec![
        ("hinterland_agent_session_established".to_owned(), established),
        ("hinterland_agent_incarnation".to_owned(), status.incarnation),
        ("hinterland_agent_reported_in_sync".to_owned(), u64::from(status.sync.reported_in_sync)),
        ("hinterland_agent_refused_updates_total".to_owned(), status.sync.refused_updates),
        ("hinterland_agent_refused_payloads_total".to_owned(), status.sync.refused_payloads),
        (
            "hinterland_agent_outbox_records".to_owned(),
            status.outbox.event_records
                + status.outbox.telemetry_records
                + status.outbox.result_records,
        ),
        ("hinterland_agent_results_taken_total".to_owned(), status.outbox.results_taken),
        ("hinterland_agent_results_thinned_total".to_owned(), status.outbox.results_thinned),
        ("hinterland_agent_outbox_bytes".to_owned(), status.outbox.bytes),
        ("hinterland_agent_dropped_records_total".to_owned(), status.outbox.dropped_records),
        ("hinterland_agent_unstored_records_total".to_owned(), status.outbox.unstored_records),
        ("hinterland_agent_link_connects_total".to_owned(), status.link.connects),
        ("hinterland_agent_link_sent_bytes_total".to_owned(), status.link.sent_bytes),
        ("hinterland_agent_link_received_bytes_total".to_owned(), status.link.received_bytes),
        ("hinterland_agent_gpus".to_owned(), gpus.gpus().count() as u64),
        (
            "hinterland_agent_gpus_simulated".to_owned(),
            u64::from(gpus.source == GpuSource::Simulated),
        ),
    ];
    let budget = &status.budget;
    let wire = |(class, bytes): (&String, &u64)| {
        (format!("hinterland_agent_link_wire_bytes_total{{class=\"{class}\"}}"), *bytes)
    };
    figures.extend(budget.spent_bytes.iter().map(wire));
    figures.push(("hinterland_agent_link_day_bytes".to_owned(), budget.spent_in_day_bytes));
    let limit = |bytes: u64| ("hinterland_agent_link_day_bytes_max".to_owned(), bytes);
    figures.extend(budget.bytes_per_day.map(limit));
    let ready = status.pods.iter().filter(|pod| pod.ready).count();
    figures.push(("hinterland_agent_pods_ready".to_owned(), ready as u64));
    let phases = [
        PodPhase::Pending,
        PodPhase::Starting,
        PodPhase::Running,
        PodPhase::BackingOff,
        PodPhase::Stopping,
        PodPhase::Succeeded,
        PodPhase::Failed,
    ];
    figures.extend(phases.map(pods_in));
    figures.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name} {value}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::wire::{LogFrom, encode};

    /// The status and the body of an answer; a call for the core is answered with what it asks for.
    async fn asked(asker: Asker, method: Method, path: &str, body: &str) -> (u16, String) {
        let (sender, mut queries) = mpsc::channel(1);
        let core = tokio::spawn(async move {
            while let Some(query) = queries.recv().await {
                if let Query::Call { method, reply } = query {
                    let text = match method {
                        CallMethod::ReadLog {
                            pod,
                            from: LogFrom::End { lines, .. },
                            caller,
                            ..
                        } => {
                            format!("{lines} of {pod} for {caller}")
                        }
                        other => format!("{other:?}"),
                    };
                    let page = LogPage { text: text.into_bytes().into(), ..LogPage::default() };
                    let _ = reply.send(CallOutcome::done(encode("page", &page).unwrap()));
                }
            }
        });
        let body = Full::new(Bytes::from(body.to_owned()));
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        let answer = answer(asker, request, &sender).await;
        core.abort();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    const OWNER: Asker = Asker::Owner(Some(7));

    #[tokio::test]
    async fn a_log_is_for_the_owner_and_a_bad_question_is_told_so() {
        let log = "/v1/pods/default/ocr-0/log";
        let owner = |path: String| async move { asked(OWNER, Method::GET, &path, "").await };
        let words = |lines: u32| (200, format!("{lines} of default/ocr-0 for user 7 on the node"));
        assert_eq!(owner(log.to_owned()).await, words(100));
        assert_eq!(owner(format!("{log}?lines=7")).await, words(7));
        let (status, told) = owner(format!("{log}?lines=many")).await;
        assert_eq!(status, 400);
        assert!(told.contains("many"), "{told}");
        assert_eq!(owner("/v1/pods/default/_/log".to_owned()).await.0, 400);
        assert_eq!(asked(Asker::Anybody, Method::GET, log, "").await.0, 404);
        assert_eq!(asked(Asker::Anybody, Method::GET, "/v1/status", "").await.0, 404);
        assert_eq!(asked(OWNER, Method::GET, "/metrics", "").await.0, 404);
        assert_eq!(asked(OWNER, Method::POST, log, "").await.0, 405);
        assert_eq!(asked(Asker::Anybody, Method::GET, "/healthz", "").await.0, 503);
    }

    #[tokio::test]
    async fn a_command_is_posted_by_the_owner_and_what_is_no_command_is_told_so() {
        let exec = "/v1/pods/default/ocr-0/exec";
        let command = r#"{"command":["ls"],"timeoutMs":1000}"#;
        assert_eq!(asked(OWNER, Method::GET, exec, command).await.0, 405);
        assert_eq!(asked(Asker::Anybody, Method::POST, exec, command).await.0, 404);
        let (status, told) = asked(OWNER, Method::POST, exec, r#"{"command":"ls"}"#).await;
        assert!(status == 400 && told.contains("expected a sequence"), "{told}");
    }
}
