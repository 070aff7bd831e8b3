//! What every request passes: who may ask, and for how long. And every error becomes JSON.
//!
//! Without a token the API is on loopback alone, where web pages of a browser on the same machine
//! reach it as well: a request that carries an `Origin`, or that was made for another host's name,
//! is refused.
//!
//! The token is shown as a bearer, or in [`TOKEN_HEADER`]: who asks through the API server's proxy shows
//! `Authorization` to the API server, which passes it on to nobody.

use super::routes::Failure;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Nothing but calls to nodes takes a second.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A call ends by its own time: a command after ten minutes at most.
const CALL_TIMEOUT: Duration = Duration::from_secs(700);

/// Shows the token where `Authorization` is another's.
pub(crate) const TOKEN_HEADER: &str = "x-hinterland-token";

/// Shorter is guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// Longer is a mistake: the wrong file.
const TOKEN_BYTES_MAX: usize = 1024;

/// Why a token is not taken.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The file can't be read.
    #[error("could not read the API's token from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Too short, too long, or not printable.
    #[error(
        "{path}: expected a token of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} printable characters \
         in its first line"
    )]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// Who asks has shown the token.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByToken;

/// What a request must show.
pub(crate) struct Token(String);

impl Token {
    /// The first line of a file.
    ///
    /// # Errors
    /// [`TokenError`], which names the file.
    pub(crate) fn read(path: &Path) -> Result<Self, TokenError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).ok_or_else(|| TokenError::Form { path: path.to_owned() })
    }

    /// The first line of a text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let token = text.lines().next().unwrap_or_default().trim();
        let fits = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len());
        let is_one = fits && token.bytes().all(|byte| byte.is_ascii_graphic());
        is_one.then(|| Self(token.to_owned()))
    }

    /// The value of the header that shows it.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// The value of [`TOKEN_HEADER`].
    pub(crate) fn bare(&self) -> &str {
        &self.0
    }

    fn is_shown_in(&self, headers: &HeaderMap) -> bool {
        let shown = |name: &str| headers.get(name).map(|value| value.as_bytes());
        let as_bearer = is_same(shown(header::AUTHORIZATION.as_str()), self.bearer().as_bytes());
        let bare = is_same(shown(TOKEN_HEADER), self.0.as_bytes());
        as_bearer | bare
    }
}

/// Compares in a time that does not tell how much of it is right.
fn is_same(shown: Option<&[u8]>, expected: &[u8]) -> bool {
    let shown = shown.unwrap_or_default();
    let differing = shown.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b));
    shown.len() == expected.len() && differing == 0
}

/// Passes on what may pass.
pub(super) async fn guard(
    State(token): State<Option<Arc<Token>>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(failure) = admit(token.as_deref(), &request) {
        return failure.into_response();
    }
    if token.is_some() {
        request.extensions_mut().insert(ByToken);
    }
    let path = request.uri().path();
    let is_call = path.ends_with("/log") || path.ends_with("/exec");
    let limit = if is_call { CALL_TIMEOUT } else { REQUEST_TIMEOUT };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => with_words(response),
        Err(_) => {
            let words = "the hub did not answer in time".to_owned();
            Failure(StatusCode::GATEWAY_TIMEOUT, words).into_response()
        }
    }
}

fn admit(token: Option<&Token>, request: &Request) -> Result<(), Failure> {
    let headers = request.headers();
    let for_machines = matches!(request.uri().path(), "/healthz" | "/readyz");
    if let Some(token) = token.filter(|_| !for_machines) {
        if token.is_shown_in(headers) {
            return Ok(());
        }
        let words = "expected the API's token, as `Authorization: Bearer TOKEN` or \
                     `X-Hinterland-Token: TOKEN`"
            .to_owned();
        return Err(Failure(StatusCode::UNAUTHORIZED, words));
    }
    let foreign = |words: &str| Err(Failure(StatusCode::FORBIDDEN, words.to_owned()));
    if request.method() != Method::GET && headers.contains_key(header::ORIGIN) {
        return foreign("requests of web pages are refused");
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if token.is_none() && !host.is_none_or(is_own_host) {
        return foreign("expected an IP address or `localhost` as the host's name");
    }
    Ok(())
}

/// Whether a host's name can't be one that somebody else's DNS points here.
fn is_own_host(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || host.parse::<SocketAddr>().is_ok() || bare.parse::<IpAddr>().is_ok()
}

/// An error of the framework (a method, a query that can't be read) in the form of all others.
fn with_words(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let words = status.canonical_reason().unwrap_or("refused").to_lowercase();
    Failure(status, words).into_response()
}
