//! The HTTP side: probes, metrics and `POST /v1/classify`.
//!
//! Answers from its first moment: "not ready" until the model has been loaded and run once. It keeps
//! no body: of each it holds two blocks at a time, so many slow or large requests cost little memory.

use std::future::{IntoFuture as _, pending};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::body::{Body, HttpBody as _};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::classifier::{Answer, Classifier, LoadTime};
use crate::metrics::Metrics;
use crate::model::ModelError;
use crate::results::Results;
use crate::window::Window;

/// Bytes of a body: nobody needs to send more than the two blocks that count, and what is longer is
/// read for nothing.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// For a whole body to arrive: loopback and site networks need far less, and a stalled sender must
/// not hold a connection for ever.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// For requests under way when a stop is asked for; below the five seconds of grace in the manifest.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(4);

/// Prometheus takes this page by its OpenMetrics name.
const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What all requests share.
#[derive(Default)]
pub(crate) struct Service {
    metrics: Metrics,
    results: Results,
    loaded: OnceLock<(Classifier, LoadTime)>,
}

/// Why a request got no classification.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the model is still loading; ask /readyz when it is ready")]
    NotReady,
    #[error("the body is larger than {BODY_BYTES_MAX} bytes")]
    BodyTooLarge,
    #[error("the body did not arrive within {} s", BODY_TIME_MAX.as_secs())]
    BodyTooSlow,
    #[error("reading the body")]
    BodyBroken(#[source] axum::Error),
    #[error("classifying the body")]
    Inference(#[source] ModelError),
    #[error("the thread that ran the model ended early")]
    InferenceThread(#[source] tokio::task::JoinError),
}

/// Serves until SIGTERM or SIGINT, then finishes the requests under way.
///
/// # Errors
///
/// If the model can't be loaded or signals can't be received. A connection's own failure is not one.
pub(crate) async fn serve(listener: TcpListener, service: Arc<Service>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    let stop = Arc::new(Notify::new());
    let server = axum::serve(listener, router(service.clone()))
        .with_graceful_shutdown(stop.clone().notified_owned());
    let drain_over = async {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        tracing::info!("stopping: the requests under way are finished first");
        stop.notify_one();
        tokio::time::sleep(DRAIN_TIME_MAX).await;
    };
    tokio::select! {
        served = server.into_future() => served.context("serving"),
        failure = load_failure(&service) => Err(failure),
        () = drain_over => {
            tracing::warn!("requests still under way after {} s are cut", DRAIN_TIME_MAX.as_secs());
            Ok(())
        }
    }
}

/// Loads the model; ends only if that fails.
async fn load_failure(service: &Service) -> anyhow::Error {
    match load_model(service).await {
        Ok(()) => pending().await,
        Err(failure) => failure.context("loading the model"),
    }
}

async fn load_model(service: &Service) -> anyhow::Result<()> {
    let (classifier, took) = tokio::task::spawn_blocking(Classifier::load).await??;
    service.metrics.model_loaded(took);
    let (model_load_ms, warm_up_ms) = (milliseconds(took.load), milliseconds(took.warm_up));
    tracing::info!(model_load_ms, warm_up_ms, "model loaded in {model_load_ms:.0} ms");
    service.loaded.get_or_init(|| (classifier, took));
    Ok(())
}

fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/classify", post(classify))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(service)
}

/// Alive is what answers at all.
async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(service): State<Arc<Service>>) -> Response {
    match service.loaded.get() {
        Some((_, took)) => Json(json!({
            "ready": true,
            "model_load_ms": milliseconds(took.load),
            "warm_up_ms": milliseconds(took.warm_up),
        }))
        .into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false }))).into_response(),
    }
}

async fn metrics(State(service): State<Arc<Service>>) -> Response {
    match service.metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn classify(State(service): State<Arc<Service>>, body: Body) -> Response {
    let started = Instant::now();
    let response = match service.classify(body).await {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refusal.into_response(),
    };
    service.metrics.request_answered(response.status().as_u16(), started.elapsed());
    response
}

impl Service {
    /// A service without a model yet, that hands each answer to `results`.
    pub(crate) fn handing_results_in(results: Results) -> Self {
        Self { results, ..Self::default() }
    }

    async fn classify(&self, body: Body) -> Result<Answer, Refusal> {
        let (classifier, _) = self.loaded.get().cloned().ok_or(Refusal::NotReady)?;
        let window = tokio::time::timeout(BODY_TIME_MAX, read_window(body))
            .await
            .map_err(|_| Refusal::BodyTooSlow)??;
        let bytes = window.total_bytes();
        let answer = tokio::task::spawn_blocking(move || classifier.classify(&window))
            .await
            .map_err(Refusal::InferenceThread)?
            .map_err(Refusal::Inference)?;
        if !answer.inference().is_zero() {
            self.metrics.model_ran(answer.inference());
        }
        self.results.hand_in(&answer.as_result(bytes));
        Ok(answer)
    }
}

/// Reads a body and keeps its two blocks. One that declares itself too large is not read at all.
async fn read_window(mut body: Body) -> Result<Window, Refusal> {
    if body.size_hint().lower() > BODY_BYTES_MAX {
        return Err(Refusal::BodyTooLarge);
    }
    let mut window = Window::default();
    while let Some(frame) = body.frame().await {
        // Trailers are no content.
        if let Ok(chunk) = frame.map_err(Refusal::BodyBroken)?.into_data() {
            window.push(&chunk);
        }
        if window.total_bytes() > BODY_BYTES_MAX {
            return Err(Refusal::BodyTooLarge);
        }
    }
    Ok(window)
}

/// Milliseconds with three decimals.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyBroken(_) => StatusCode::BAD_REQUEST,
            Self::Inference(_) | Self::InferenceThread(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::error!(reason = ?self, "a classification failed");
        }
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_before_the_model_is_loaded_is_refused_as_not_ready() {
        let refusal = Service::default().classify(Body::from("fn main() {}")).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
        let response = ready(State(Arc::new(Service::default()))).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn after_loading_the_probe_is_answered_with_the_load_time() {
        let service = Arc::new(Service::default());
        load_model(&service).await.unwrap();
        let response = ready(State(service)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(body["model_load_ms"].as_f64().unwrap() > 0.0, "{body}");
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_is_read_and_one_byte_more_is_refused() {
        let limit = usize::try_from(BODY_BYTES_MAX).unwrap();
        let window = read_window(Body::from(vec![b'a'; limit])).await.unwrap();
        assert_eq!(window.total_bytes(), BODY_BYTES_MAX);
        let refusal = read_window(Body::from(vec![b'a'; limit + 1])).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
