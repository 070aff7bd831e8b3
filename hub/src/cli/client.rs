//! Asks the running hub over its HTTP API: one request a connection.

use crate::admin::Token;
use crate::config::Config;
use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::TcpStream;

/// An answer: ten thousand nodes in short are 3 MB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The hub gives a node 15 s for a log; all else is at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a hub is asked.
#[derive(Debug)]
pub(super) struct Client {
    /// `HOST:PORT`.
    authority: String,
    /// The value of the header that shows the token.
    bearer: Option<String>,
}

/// How every error of the API looks.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

impl Client {
    /// `api` from the command line or the environment, else the configuration's.
    pub(super) fn new(api: Option<&str>, config: &Config) -> anyhow::Result<Self> {
        let authority = match api {
            Some(api) => authority_of(api)?,
            None => config.api.to_string(),
        };
        let token = config.api_token_file.as_deref().map(Token::read).transpose()?;
        Ok(Self { authority, bearer: token.map(|token| token.bearer()) })
    }

    /// The bytes under a path.
    pub(super) fn fetch(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.ask(Method::GET, path, Vec::new())
    }

    /// The JSON under a path.
    pub(super) fn fetch_as<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        serde_json::from_slice(&self.fetch(path)?).context("the hub answered something else")
    }

    /// Tells the hub something.
    pub(super) fn post(&self, path: &str, body: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        self.ask(Method::POST, path, body)
    }

    fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = self.exchange(method, path, body);
        runtime.block_on(async {
            let answered = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
            answered.with_context(|| format!("the hub at {} does not answer", self.authority))?
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let stream = TcpStream::connect(&self.authority).await.with_context(|| {
            format!("no hub runs here: could not connect to {}", self.authority)
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, &self.authority);
        if let Some(bearer) = &self.bearer {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("could not read the answer: {error}"))?;
        connection.abort();
        let bytes = body.to_bytes().to_vec();
        if !status.is_success() {
            bail!("{}", words_of(&bytes).unwrap_or_else(|| format!("the hub answered {status}")));
        }
        Ok(bytes)
    }
}

fn words_of(body: &[u8]) -> Option<String> {
    serde_json::from_slice(body).ok().map(|ErrorBody { error }| error)
}

fn authority_of(api: &str) -> anyhow::Result<String> {
    let authority = api.strip_prefix("http://").unwrap_or(api).trim_end_matches('/');
    let is_plain = !authority.is_empty() && !authority.contains(['/', '@', ' ']);
    anyhow::ensure!(
        is_plain && authority.contains(':'),
        "--api: `{api}` is not an address: expected http://HOST:PORT"
    );
    Ok(authority.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_is_a_host_with_a_port() {
        assert_eq!(authority_of("http://127.0.0.1:7080/").unwrap(), "127.0.0.1:7080");
        assert_eq!(authority_of("hub.example:80").unwrap(), "hub.example:80");
        for api in ["", "http://", "https://a:1", "a", "http://a:1/v1", "http://u@a:1"] {
            assert!(authority_of(api).is_err(), "`{api}` was accepted");
        }
    }
}
