//! Asks the running hub over its HTTP API: one request a connection, or through the API server's proxy to the
//! hub's service.

use crate::admin::{CALLER_HEADER, TOKEN_HEADER, Token};
use crate::config::Config;
use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use shared::io::remote::Unanswered;
use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// An answer: ten thousand nodes in short are 3 MB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The hub answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a hub is asked.
pub(super) struct Client {
    runtime: Rc<Runtime>,
    way: Way,
    token: Option<Token>,
}

/// How a hub is reached.
pub(super) enum Way {
    /// At `HOST:PORT`.
    Direct(String),
    /// Below this path of an API server.
    Proxy(kube::Client, String),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(authority) => f.write_str(authority),
            Self::Proxy(_, path) => write!(f, "{path} of the API server"),
        }
    }
}

/// How every error of the API looks; the API server's own have a `message`.
#[derive(Deserialize)]
struct ErrorBody {
    #[serde(alias = "message")]
    error: String,
}

/// What the hub answered.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// What a command waits for others in.
pub(super) fn runtime() -> anyhow::Result<Rc<Runtime>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(Rc::new(runtime.context("could not start the runtime of tasks")?))
}

impl Client {
    /// `api` from the command line or the environment, else the configuration's.
    pub(super) fn new(api: Option<&str>, config: &Config) -> anyhow::Result<Self> {
        let authority = match api {
            Some(api) => authority_of(api)?,
            None => config.api.to_string(),
        };
        let token = config.api_token_file.as_deref().map(Token::read).transpose()?;
        Ok(Self::by(runtime()?, Way::Direct(authority), token))
    }

    /// By a way that is known.
    pub(super) fn by(runtime: Rc<Runtime>, way: Way, token: Option<Token>) -> Self {
        Self { runtime, way, token }
    }

    /// The bytes under a path.
    pub(super) fn fetch(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        Ok(self.ask(Method::GET, path, Vec::new(), ANSWER_TIMEOUT)?.body)
    }

    /// The JSON under a path.
    pub(super) fn fetch_as<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        serde_json::from_slice(&self.fetch(path)?).context("the hub answered something else")
    }

    /// Tells the hub something.
    pub(super) fn post(&self, path: &str, body: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        Ok(self.ask(Method::POST, path, body, ANSWER_TIMEOUT)?.body)
    }

    /// Asks, and waits for so long.
    ///
    /// # Errors
    /// [`Unanswered`], where the hub could not ask the node; else a sentence.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        within: Duration,
    ) -> anyhow::Result<Answer> {
        let asked = async {
            match &self.way {
                Way::Direct(authority) => self.exchange(authority, method, path, body).await,
                Way::Proxy(client, base) => {
                    self.pass_on(client, method, format!("{base}{path}"), body).await
                }
            }
        };
        self.runtime.block_on(async {
            let answered = tokio::time::timeout(within, asked).await;
            answered.with_context(|| format!("the hub at {} does not answer", self.way))?
        })
    }

    /// `Authorization` is for the API server: the hub sees nothing of it.
    async fn pass_on(
        &self,
        client: &kube::Client,
        method: Method,
        path: String,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let mut request =
            Request::builder().method(method).uri(path).header(CALLER_HEADER, own_name());
        if let Some(token) = &self.token {
            request = request.header(TOKEN_HEADER, token.bare());
        }
        let response = client.send(request.body(kube::client::Body::from(body))?).await;
        read(response.context("could not ask the API server")?).await
    }

    async fn exchange(
        &self,
        authority: &str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        // Who follows a log waits for a hub that starts again.
        let absent = |error| {
            Unanswered(format!("no hub runs here: could not connect to {authority}: {error}"))
        };
        let stream = TcpStream::connect(authority).await.map_err(absent)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, authority);
        request = request.header(CALLER_HEADER, own_name());
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.bearer());
        }
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let answer = read(response).await;
        connection.abort();
        answer
    }
}

/// The body of a response that is none of an error.
async fn read<B>(response: Response<B>) -> anyhow::Result<Answer>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("could not read the answer: {error}"))?;
    let body = body.to_bytes().to_vec();
    if head.status.is_success() {
        return Ok(Answer { headers: head.headers, body });
    }
    let words = words_of(&body).unwrap_or_else(|| format!("the hub answered {}", head.status));
    if head.status == StatusCode::GATEWAY_TIMEOUT {
        return Err(Unanswered(words).into());
    }
    bail!("{words}")
}

/// Who this is, as the node's record shows it beside what is known. Printable, as a header must be.
fn own_name() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("USER").or_else(|| variable("LOGNAME"));
    let user = user.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = format!("{user}@{}", host.trim());
    name.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(64).collect()
}

fn words_of(body: &[u8]) -> Option<String> {
    serde_json::from_slice(body).ok().map(|ErrorBody { error }| error)
}

pub(super) fn authority_of(api: &str) -> anyhow::Result<String> {
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
    fn errors_of_the_hub_and_of_the_api_server_are_told_in_their_words() {
        assert_eq!(words_of(br#"{"error":"no node"}"#).unwrap(), "no node");
        let status = br#"{"kind":"Status","status":"Failure","message":"forbidden","code":403}"#;
        assert_eq!(words_of(status).unwrap(), "forbidden");
        assert_eq!(words_of(b"<html>"), None);
    }

    #[tokio::test]
    async fn a_hub_is_asked_through_a_proxy_that_takes_authorization_away() {
        let token = || Token::parse("0123456789abcdef").unwrap();
        let hub = crate::shell::testing::TestHub::start(Default::default(), Some(token())).await;
        let (url, shown) = (format!("http://{}", hub.api), Some(token()));
        let ask = move || {
            let runtime = runtime().unwrap();
            let client = {
                let _entered = runtime.enter();
                kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()
            };
            // The hub itself stands for the proxy: it sees no other header than the proxy leaves.
            let ask = |base: &str, token| {
                let way = Way::Proxy(client.clone(), base.to_owned());
                Client::by(Rc::clone(&runtime), way, token).fetch("/v1/hub")
            };
            (ask("", shown), ask("", None), ask("/elsewhere", Some(token())))
        };
        let (answered, refused, elsewhere) = tokio::task::spawn_blocking(ask).await.unwrap();
        assert!(answered.unwrap().starts_with(b"{"));
        assert!(refused.unwrap_err().to_string().contains("X-Hinterland-Token"));
        assert_eq!(elsewhere.unwrap_err().to_string(), "there is no such path");
    }

    #[test]
    fn an_api_is_a_host_with_a_port() {
        assert_eq!(authority_of("http://127.0.0.1:7080/").unwrap(), "127.0.0.1:7080");
        assert_eq!(authority_of("hub.example:80").unwrap(), "hub.example:80");
        for api in ["", "http://", "https://a:1", "a", "http://a:1/v1", "http://u@a:1"] {
            assert!(authority_of(api).is_err(), "`{api}` was accepted");
        }
    }
}
