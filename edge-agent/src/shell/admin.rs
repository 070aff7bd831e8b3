//! Health and metrics on loopback, status and logs on a socket that only the owner can open.
//!
//! Answers come from the core between two events; nothing here changes it.

use crate::config::Config;
use crate::core::AgentStatus;
use crate::owner_socket::bind_for_owner;
use axum::Router;
use axum::extract::{Path, Query as UrlQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use shared::model::{GpuSource, PodId, PodPhase};
use std::fmt::Write as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

/// Questions that wait for the core. A person asks a few; more are refused.
const QUERIES_MAX: usize = 16;

/// Lines of a log that are given at once.
const LOG_LINES_MAX: u32 = 10_000;

/// A question to the running agent.
#[derive(Debug)]
pub enum Query {
    /// The present status.
    Status(oneshot::Sender<AgentStatus>),
    /// The last lines of a pod's log.
    TailLog {
        /// Which pod.
        pod: PodId,
        /// Which of its several containers, where it is not the first.
        container: Option<String>,
        /// How many lines at most.
        lines: u32,
        /// The text, or a sentence that says why there is none.
        reply: oneshot::Sender<Result<Vec<u8>, String>>,
    },
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
            drop(tokio::spawn(axum::serve(listener, private_router(sender)).into_future()));
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
        .route("/v1/pods/{namespace}/{name}/log", get(tail_log))
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
        Some(status) => axum::Json(status).into_response(),
        None => STOPPING.into_response(),
    }
}

#[derive(Deserialize)]
struct Tail {
    #[serde(default)]
    container: Option<String>,
    #[serde(default = "default_lines")]
    lines: u32,
}

fn default_lines() -> u32 {
    100
}

async fn tail_log(
    State(queries): State<mpsc::Sender<Query>>,
    Path((namespace, name)): Path<(String, String)>,
    UrlQuery(tail): UrlQuery<Tail>,
) -> Response {
    let pod = match format!("{namespace}/{name}").parse::<PodId>() {
        Ok(pod) => pod,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let (reply, answer) = oneshot::channel();
    let Tail { container, lines } = tail;
    let query = Query::TailLog { pod, container, lines: lines.min(LOG_LINES_MAX), reply };
    if queries.send(query).await.is_err() {
        return STOPPING.into_response();
    }
    match answer.await {
        Ok(Ok(text)) => text.into_response(),
        Ok(Err(problem)) => (StatusCode::NOT_FOUND, format!("{problem}\n")).into_response(),
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
