//! Connections to the API: bounded in number, and none may take its time with a request's head.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
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
            Ok((stream, _)) => {
                let service = router.clone();
                tokio::spawn(async move {
                    serve_one(stream, service).await;
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

async fn serve_one(stream: TcpStream, router: Router) {
    // Small answers at once; a failure costs some milliseconds.
    let _ = stream.set_nodelay(true);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!(error = %error, "a connection to the API ended early");
    }
}
