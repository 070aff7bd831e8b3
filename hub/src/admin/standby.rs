//! What a hub answers that stands by for another: that it is well, and who leads.

use super::routes::Failure;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::{Arc, PoisonError, RwLock};

/// Who leads, while this hub does not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standby(Arc<RwLock<Option<String>>>);

impl Standby {
    /// `leader` leads; nobody as far as is known, where it is empty.
    pub(crate) fn begin(&self, leader: &str) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(leader.to_owned());
    }

    /// This hub leads.
    pub(crate) fn end(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn leader(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Lets requests through unless the hub stands by.
pub(super) async fn stand_by(
    State(standby): State<Standby>,
    request: Request,
    next: Next,
) -> Response {
    let Some(leader) = standby.leader() else { return next.run(request).await };
    let path = request.uri().path();
    // Or an update of a StatefulSet would wait for ever for a hub that is as it should be.
    if path == "/healthz" || path == "/readyz" {
        return (StatusCode::OK, "stands by\n").into_response();
    }
    let leads = match leader.as_str() {
        "" => "none leads".to_owned(),
        leader => format!("`{leader}` leads"),
    };
    let words = format!("this hub stands by: {leads}");
    Failure(StatusCode::SERVICE_UNAVAILABLE, words).into_response()
}
