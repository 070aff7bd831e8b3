//! A server of `grpc.health.v1.Health` on loopback, in this process: what it says of each service is the test's.

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// `ServingStatus` of `grpc/health/v1/health.proto`.
pub const SERVING: u8 = 1;
/// The same.
pub const NOT_SERVING: u8 = 2;

/// Before a message: no compression, four bytes of length. Before a service's name: its field and its length.
const PREFIX_BYTES: usize = 5;
const FIELD_BYTES: usize = 2;

type Statuses = Arc<Mutex<BTreeMap<String, u8>>>;

/// A running server; ends on drop.
#[derive(Debug)]
pub struct HealthServer {
    statuses: Statuses,
    port: u16,
    _tasks: Runtime,
}

impl HealthServer {
    /// Starts one that knows no service.
    ///
    /// # Errors
    /// When there is no port for it.
    pub fn start() -> anyhow::Result<Self> {
        let tasks = tokio::runtime::Builder::new_multi_thread();
        let tasks = { tasks }.worker_threads(1).enable_all().build()?;
        let listener = tasks.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let (port, statuses) = (listener.local_addr()?.port(), Statuses::default());
        tasks.spawn(serve(listener, Arc::clone(&statuses)));
        Ok(Self { statuses, port, _tasks: tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on it says this of a service, which it knows then.
    pub fn set(&self, service: &str, status: u8) {
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.insert(service.to_owned(), status);
    }
}

async fn serve(listener: TcpListener, statuses: Statuses) {
    while let Ok((stream, _)) = listener.accept().await {
        let statuses = Arc::clone(&statuses);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&statuses)));
            let server = http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    statuses: Statuses,
) -> anyhow::Result<Response<impl Body<Data = Bytes, Error = Infallible>>> {
    let is_known = request.uri().path() == "/grpc.health.v1.Health/Check";
    let asked = request.into_body().collect().await?.to_bytes();
    let service = asked.get(PREFIX_BYTES + FIELD_BYTES..).unwrap_or_default();
    let service = String::from_utf8_lossy(service).into_owned();
    let statuses = statuses.lock().unwrap_or_else(PoisonError::into_inner);
    let (code, body) = match statuses.get(&service) {
        Some(status) if is_known => ("0", vec![0, 0, 0, 0, 2, 8, *status]),
        None if is_known => ("5", vec![]),
        _ => ("12", vec![]),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    let ended = std::future::ready(Some(Ok(trailers)));
    let mut response = Response::new(Full::new(Bytes::from(body)).with_trailers(ended));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}
