//! The requests of the API as questions to the loop, and its answers as responses.

use super::calls::{exec, read_log};
use super::guard::{Token, guard};
use super::query::{HubStatus, Query, Reply, Revoked};
use super::standby::{Standby, stand_by};
use crate::shell::SignError;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use shared::in_words;
use shared::model::{IdError, NodeId, PodId, WorkloadKey};
use shared::trust::certificate::{CertificateError, REQUEST_BYTES_MAX};
use std::str::FromStr;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait for the loop. People and a Prometheus ask a few; more wait at the socket.
const QUERIES_MAX: usize = 64;

pub(super) type Queries = mpsc::Sender<Query>;

/// What went wrong, as a response.
#[derive(Debug)]
pub(super) struct Failure(pub(super) StatusCode, pub(super) String);

/// How every error looks.
#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

/// A channel for questions.
pub(crate) fn queries() -> (Queries, mpsc::Receiver<Query>) {
    mpsc::channel(QUERIES_MAX)
}

/// The whole API.
pub(crate) fn router(queries: Queries, token: Option<Token>, standby: Standby) -> Router {
    Router::new()
        .route("/v1/hub", get(hub))
        .route("/v1/hub/confirm-regression", post(confirm_regression))
        .route("/v1/nodes", get(nodes))
        // A node may have the name `sign`: it must be possible to look at it.
        .route("/v1/nodes/sign", post(sign).get(node_of_the_name_sign))
        .route("/v1/nodes/{node}", get(node))
        .route("/v1/nodes/{node}/revoke", post(revoke))
        .route("/v1/nodes/{node}/pods/{namespace}/{pod}/log", get(read_log))
        .route("/v1/nodes/{node}/pods/{namespace}/{pod}/exec", post(exec))
        .route("/v1/workloads", get(workloads))
        .route("/v1/workloads/{namespace}/{name}", get(workload))
        .route("/v1/why/{node}/{namespace}/{pod}", get(why))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .fallback(async || Failure(StatusCode::NOT_FOUND, "there is no such path".to_owned()))
        .layer(axum::middleware::from_fn_with_state(token.map(Arc::new), guard))
        .layer(axum::middleware::from_fn_with_state(standby, stand_by))
        .with_state(queries)
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, error) = self;
        (status, axum::Json(ErrorBody { error: &error })).into_response()
    }
}

type Answer = Result<Response, Failure>;

fn stopping<T>(_: T) -> Failure {
    Failure(StatusCode::SERVICE_UNAVAILABLE, "the hub is stopping".to_owned())
}

fn not_found(what: String) -> Failure {
    Failure(StatusCode::NOT_FOUND, what)
}

pub(super) async fn ask<T>(
    queries: &Queries,
    query: impl FnOnce(Reply<T>) -> Query,
) -> Result<T, Failure> {
    let (reply, answer) = oneshot::channel();
    queries.send(query(reply)).await.map_err(stopping)?;
    answer.await.map_err(stopping)
}

fn json(body: impl Serialize) -> Answer {
    Ok(axum::Json(body).into_response())
}

/// A name out of a path.
pub(super) fn name<T: FromStr<Err = IdError>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error: IdError| Failure(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn hub(State(queries): State<Queries>) -> Answer {
    json(ask(&queries, Query::Hub).await?)
}

async fn confirm_regression(State(queries): State<Queries>) -> Answer {
    match ask(&queries, Query::ConfirmRegression).await? {
        true => json(serde_json::json!({ "confirmed": true })),
        false => Err(Failure(
            StatusCode::CONFLICT,
            "the API server was not put back to an older state: there is nothing to confirm"
                .to_owned(),
        )),
    }
}

async fn nodes(State(queries): State<Queries>) -> Answer {
    json(ask(&queries, Query::Nodes).await?)
}

async fn node(State(queries): State<Queries>, Path(node): Path<String>) -> Answer {
    show_node(&queries, &node).await
}

async fn node_of_the_name_sign(State(queries): State<Queries>) -> Answer {
    show_node(&queries, "sign").await
}

async fn show_node(queries: &Queries, node: &str) -> Answer {
    let id: NodeId = name(node)?;
    let view = ask(queries, |reply| Query::Node(id, reply)).await?;
    json(view.ok_or_else(|| not_found(format!("there is no node `{node}`")))?)
}

async fn workloads(State(queries): State<Queries>) -> Answer {
    json(ask(&queries, Query::Workloads).await?)
}

async fn workload(
    State(queries): State<Queries>,
    Path((namespace, workload)): Path<(String, String)>,
) -> Answer {
    let key: WorkloadKey = name(&format!("{namespace}/{workload}"))?;
    let view = ask(&queries, |reply| Query::Workload(key, reply)).await?;
    let none = || not_found(format!("no manifest has a workload `{namespace}/{workload}`"));
    json(view.ok_or_else(none)?)
}

async fn why(
    State(queries): State<Queries>,
    Path((node, namespace, pod)): Path<(String, String, String)>,
) -> Answer {
    let (node, pod): (NodeId, PodId) = (name(&node)?, name(&format!("{namespace}/{pod}"))?);
    json(ask(&queries, |reply| Query::Why(node, pod, reply)).await?.map_err(not_found)?)
}

async fn sign(State(queries): State<Queries>, body: Body) -> Answer {
    let too_large = |_| {
        let words = format!("a request of more than {REQUEST_BYTES_MAX} bytes is not taken");
        Failure(StatusCode::PAYLOAD_TOO_LARGE, words)
    };
    let bytes = axum::body::to_bytes(body, REQUEST_BYTES_MAX).await.map_err(too_large)?;
    let text = String::from_utf8(bytes.to_vec()).map_err(|_| {
        Failure(StatusCode::BAD_REQUEST, "expected a certificate request in PEM".to_owned())
    })?;
    let enrollment = ask(&queries, |reply| Query::Sign(text, reply)).await?;
    let enrollment = enrollment.map_err(|error| Failure(sign_status(&error), in_words(&error)))?;
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, enrollment.to_text()).into_response())
}

fn sign_status(error: &SignError) -> StatusCode {
    match error {
        SignError::Request(CertificateError::Make { .. } | CertificateError::Time { .. })
        | SignError::Enrollment(_)
        | SignError::Encode(_) => StatusCode::INTERNAL_SERVER_ERROR,
        SignError::Request(_) => StatusCode::BAD_REQUEST,
        SignError::Held { .. } => StatusCode::CONFLICT,
        SignError::KeptOut { .. } => StatusCode::FORBIDDEN,
        SignError::Store(_)
        | SignError::Registry(_)
        | SignError::Shared(_)
        | SignError::NotDurable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// That a node is out.
#[derive(Debug, Serialize)]
struct RevokedBody {
    node: NodeId,
    revoked: bool,
}

async fn revoke(State(queries): State<Queries>, Path(node): Path<String>) -> Answer {
    let id: NodeId = name(&node)?;
    let revoked = ask(&queries, |reply| Query::Revoke(id.clone(), reply)).await?;
    match revoked {
        Revoked::Durably => json(RevokedBody { node: id, revoked: true }),
        Revoked::ForNow(error) => Err(Failure(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "`{node}` is out, and would be in again after a restart, since the store can't be \
                 written: {error}"
            ),
        )),
        Revoked::Unknown => Err(not_found(format!("there is no node `{node}`"))),
    }
}

async fn metrics(State(queries): State<Queries>) -> Answer {
    let page = ask(&queries, Query::Metrics).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response())
}

async fn health(State(queries): State<Queries>) -> Answer {
    ask(&queries, Query::Hub).await?;
    Ok("ok\n".into_response())
}

/// Whether nodes are served: the broker is up, the store takes writes, and what should run is known.
async fn ready(State(queries): State<Queries>) -> Answer {
    match why_not_ready(&ask(&queries, Query::Hub).await?) {
        None => Ok("ok\n".into_response()),
        Some(why) => Err(Failure(StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}

fn why_not_ready(status: &HubStatus) -> Option<String> {
    if let Some(error) = &status.hub.store_error {
        return Some(format!("the store can't be written: {error}"));
    }
    if !status.hub.has_manifests {
        let problems = match status.manifests.problems.as_slice() {
            [] => "they are being read".to_owned(),
            problems => problems.join("; "),
        };
        return Some(format!("no valid manifests since the start: {problems}"));
    }
    if !status.broker.up {
        let problem = status.broker.problem.as_deref().unwrap_or("it is being connected to");
        return Some(format!("the broker can't be reached: {problem}"));
    }
    None
}
