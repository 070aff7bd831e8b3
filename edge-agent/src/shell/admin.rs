//! Health and metrics on loopback; status, logs and commands on a socket that only the owner can open.
//!
//! Answers come from the core between two events; nothing here changes it.

use crate::audit::AuditRecord;
use crate::config::Config;
use crate::core::AgentStatus;
use crate::owner_socket::bind_for_owner;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Path, Query as UrlQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use shared::io::remote::{CURSOR_HEADER, ExecAnswer, ExecBody, LogQuery, MARKS_HEADER, PageMarks};
use shared::model::{GpuSource, PodId, PodPhase};
use shared::wire::{CallMethod, CallOutcome, ExecResult, LogPage, decode};
use std::fmt::Write as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

/// Questions that wait for the core. A person asks a few; more are refused.
const QUERIES_MAX: usize = 16;

/// Text of one page of a log for a command on this machine.
const LOCAL_PAGE_BYTES_MAX: u32 = 1 << 20;

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

/// Serves health and metrics on loopback, status and logs on the admin socket. A port or a socket
/// that can't be had is said and done without: pods matter more.
pub(super) async fn serve(config: &Config) -> mpsc::Receiver<Query> {
    let (sender, queries) = mpsc::channel(QUERIES_MAX);
    match TcpListener::bind(config.admin).await {
        Ok(listener) => {
            drop(tokio::spawn(axum::serve(listener, public_router(sender.clone())).into_future()))
        }
        Err(error) => {
            let address = config.admin;
            warn!(%address, %error, "health and metrics are not served: set `admin` to a free port");
        }
    }
    let socket = config.places().admin_socket;
    match bind_for_owner(&socket) {
        Ok(listener) => {
            let router = private_router(sender).into_make_service_with_connect_info::<Peer>();
            drop(tokio::spawn(axum::serve(listener, router).into_future()));
        }
        Err(error) => {
            let socket = socket.display();
            warn!(%socket, %error, "status and logs are not served");
        }
    }
    queries
}

/// What anybody on this machine may ask.
fn public_router(queries: mpsc::Sender<Query>) -> Router {
    Router::new().route("/healthz", get(health)).route("/metrics", get(metrics)).with_state(queries)
}

/// What the owner may ask.
fn private_router(queries: mpsc::Sender<Query>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/pods/{namespace}/{name}/log", get(read_log))
        .route("/v1/pods/{namespace}/{name}/exec", post(exec))
        .route("/v1/audit", get(audit))
        .with_state(queries)
}

async fn ask(queries: &mpsc::Sender<Query>) -> Option<AgentStatus> {
    let (reply, answer) = oneshot::channel();
    queries.send(Query::Status(reply)).await.ok()?;
    answer.await.ok()
}

const STOPPING: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n");

async fn health(State(queries): State<mpsc::Sender<Query>>) -> Response {
    match ask(&queries).await {
        Some(_) => "ok\n".into_response(),
        None => STOPPING.into_response(),
    }
}

async fn status(State(queries): State<mpsc::Sender<Query>>) -> Response {
    match ask(&queries).await {
        Some(status) => Json(status).into_response(),
        None => STOPPING.into_response(),
    }
}

/// One connection: who is at its other end.
#[derive(Debug, Clone, Copy)]
struct Peer(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|peer| peer.uid()))
    }
}

impl Peer {
    fn in_words(self) -> String {
        match self.0 {
            Some(user) => format!("user {user} on the node"),
            None => "somebody on the node".to_owned(),
        }
    }
}

fn bad(sentence: String) -> Response {
    (StatusCode::BAD_REQUEST, sentence + "\n").into_response()
}

/// What came of a call, or a response that says why there is nothing.
async fn call<T: DeserializeOwned>(
    queries: &mpsc::Sender<Query>,
    method: CallMethod,
) -> Result<T, Response> {
    let (reply, answer) = oneshot::channel();
    let stopping = || STOPPING.into_response();
    queries.send(Query::Call { method, reply }).await.map_err(|_| stopping())?;
    let failed = |message| (StatusCode::NOT_FOUND, format!("{message}\n")).into_response();
    match answer.await.map_err(|_| stopping())? {
        CallOutcome::Done { body } => {
            decode("answer", &body, body.len()).map_err(|error| failed(error.to_string()))
        }
        CallOutcome::Failed { message } => Err(failed(message)),
    }
}

async fn read_log(
    State(queries): State<mpsc::Sender<Query>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((namespace, name)): Path<(String, String)>,
    UrlQuery(query): UrlQuery<LogQuery>,
) -> Response {
    let pod = match format!("{namespace}/{name}").parse::<PodId>() {
        Ok(pod) => pod,
        Err(error) => return bad(error.to_string()),
    };
    let method = match query.call(pod.clone(), peer.in_words(), LOCAL_PAGE_BYTES_MAX) {
        Ok(method) => method,
        Err(problem) => return bad(problem),
    };
    let page = match call::<LogPage>(&queries, method).await {
        Ok(page) => page,
        Err(response) => return response,
    };
    let status = ask(&queries).await;
    let is_over = status.is_some_and(|status| has_ended(&status, &pod));
    let marks = PageMarks { is_over, ..PageMarks::from(&page) };
    let headers = [(CURSOR_HEADER, page.next.to_string()), (MARKS_HEADER, marks.to_text())];
    (headers, page.text.into_vec()).into_response()
}

fn has_ended(status: &AgentStatus, pod: &PodId) -> bool {
    let found = status.pods.iter().find(|status| status.pod == *pod);
    found.is_some_and(|pod| matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed))
}

async fn exec(
    State(queries): State<mpsc::Sender<Query>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((namespace, name)): Path<(String, String)>,
    Json(body): Json<ExecBody>,
) -> Response {
    let pod = match format!("{namespace}/{name}").parse::<PodId>() {
        Ok(pod) => pod,
        Err(error) => return bad(error.to_string()),
    };
    let method = match body.call(pod, peer.in_words()) {
        Ok(method) => method,
        Err(problem) => return bad(problem),
    };
    match call::<ExecResult>(&queries, method).await {
        Ok(result) => Json(ExecAnswer::from(result)).into_response(),
        Err(response) => response,
    }
}

async fn audit(State(queries): State<mpsc::Sender<Query>>) -> Response {
    let (reply, answer) = oneshot::channel();
    if queries.send(Query::Audit(reply)).await.is_err() {
        return STOPPING.into_response();
    }
    match answer.await {
        Ok(Ok(records)) => Json(records).into_response(),
        Ok(Err(problem)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{problem}\n")).into_response()
        }
        Err(_) => STOPPING.into_response(),
    }
}

async fn metrics(State(queries): State<mpsc::Sender<Query>>) -> Response {
    let Some(status) = ask(&queries).await else { return STOPPING.into_response() };
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, exposition(&status)).into_response()
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
