//! Connections to the API: bounded in number, and none may take its time with a request's head.

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Connections at once: people, a Prometheus, a health check.
const CONNECTIONS_MAX: usize = 128;

/// From the first byte of a connection, or the end of an answer, to the end of the next head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// After the system refused a connection (no descriptors left): it is asked again, not at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, router: Router) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let service = router.clone();
                tokio::spawn(async move {
                    serve_one(stream, Peer(peer), service).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(error = %error, "a connection to the API was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

async fn serve_one(stream: TcpStream, peer: Peer, router: Router) {
    // Small answers at once; a failure costs some milliseconds.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        service.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(error = %error, "a connection to the API ended early");
    }
}
