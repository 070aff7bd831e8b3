//! One POST after another to one address, over HTTP/1.1 and a connection that is kept.
//!
//! `hyper` without a pool: a sink has one request under way at a time, and an address is configured, not
//! discovered. It follows no redirection, repeats nothing by itself, reads a bounded part of an answer
//! and waits for a bounded time.

use super::outlet::Failure;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// To connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// From the first byte of a request to the last of its answer. A Prometheus under load takes seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer is read to see why; more is not read, and ends the connection.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Of an answer, what a person is shown.
const REASON_CHARS_MAX: usize = 300;

/// A token longer than this is the wrong file.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

const AGENT: &str = concat!("hinterland-hub/", env!("CARGO_PKG_VERSION"));

/// `http://HOST[:PORT]/PATH` or `https://…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpUrl {
    uri: Uri,
    pub(crate) https: bool,
    host: String,
    port: u16,
}

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            let shown: String = text.chars().take(80).collect();
            format!("`{shown}`: expected a URL as in https://receiver.example/results")
        };
        let uri: Uri = text.parse().map_err(|_| expected())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(expected()),
        };
        let authority = uri.authority().ok_or_else(expected)?;
        if authority.as_str().contains('@') {
            return Err("a URL must not hold a password: use `bearer_token_file`".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        ServerName::try_from(host.as_str()).map_err(|_| expected())?;
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { uri, https, host, port })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The beginning of the body, on one line.
    pub(crate) words: String,
    retry_after: Option<Duration>,
}

impl Answer {
    /// Taken, refused for good, or something that another attempt may mend. Only what speaks of the
    /// request's content is a refusal: a wrong path or a token that has expired says nothing about it,
    /// and must not cost records.
    pub(crate) fn judge(self) -> Result<(), Failure> {
        let reason = format!("HTTP {}: {}", self.status, self.words);
        match self.status.as_u16() {
            200..=299 => Ok(()),
            400 | 409 | 413 | 422 => Err(Failure::Refused(reason)),
            _ => Err(Failure::Down { reason, pause: self.retry_after }),
        }
    }
}

/// Posts to one address.
pub(crate) struct HttpClient {
    url: HttpUrl,
    tls: Option<Arc<ClientConfig>>,
    token_file: Option<PathBuf>,
    connection: Option<Connection>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authorization: Option<HeaderValue>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl HttpClient {
    /// `tls` is needed where the URL is `https`.
    pub(crate) fn new(
        url: HttpUrl,
        tls: Option<Arc<ClientConfig>>,
        token_file: Option<PathBuf>,
    ) -> Self {
        Self { url, tls, token_file, connection: None }
    }

    /// Posts `body` once.
    ///
    /// # Errors
    /// When there is no answer: [`Failure::Down`].
    pub(crate) async fn post(
        &mut self,
        body: Bytes,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Answer, Failure> {
        // A connection that fails, or is left in the middle, is never used again.
        let mut connection = match self.connection.take().filter(|kept| !kept.sender.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let request = self.request(&connection, body, headers)?;
        let exchange = tokio::time::timeout(REQUEST_TIMEOUT, exchange(&mut connection, request));
        let (answer, whole) = match exchange.await {
            Ok(result) => result.map_err(|error| self.trouble("the request failed", &error))?,
            Err(_) => return Err(self.trouble("no answer in time", &"it hangs")),
        };
        // After a 401 the token is read anew, and that is done when connecting.
        if whole && answer.status != StatusCode::UNAUTHORIZED {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    fn trouble(&self, what: &str, error: &dyn fmt::Display) -> Failure {
        Failure::down(format!("{}: {what}: {error}", self.url))
    }

    fn request(
        &self,
        connection: &Connection,
        body: Bytes,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let path = self.url.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.url.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::post(path).header(HOST, host).header(USER_AGENT, AGENT);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = &connection.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request
            .body(Full::new(body))
            .map_err(|error| self.trouble("could not make the request", &error))
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let authorization = self.authorization()?;
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await;
        let (sender, driver) = connected
            .map_err(|_| self.trouble("could not connect", &"no answer in time"))?
            .map_err(|error| self.trouble("could not connect", &error))?;
        Ok(Connection { sender, authorization, driver })
    }

    async fn open(&self) -> Result<(SendRequest<Full<Bytes>>, JoinHandle<()>), String> {
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port)).await;
        let stream = stream.map_err(|error| error.to_string())?;
        // Small requests at once; a failure costs some milliseconds.
        let _ = stream.set_nodelay(true);
        if !self.url.https {
            return begin(stream).await;
        }
        let tls = self.tls.clone().ok_or("no TLS is configured")?;
        let name =
            ServerName::try_from(self.url.host.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(tls).connect(name, stream).await;
        begin(stream.map_err(|error| error.to_string())?).await
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, Failure> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let trouble = |why: &str| Failure::down(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| trouble(&error.to_string()))?;
        let token = text.lines().next().unwrap_or_default().trim();
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(trouble("expected a bearer token in the first line"));
        }
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value =
            value.map_err(|_| trouble("the token has characters that can't be sent"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

async fn begin<S>(stream: S) -> Result<(SendRequest<Full<Bytes>>, JoinHandle<()>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Its end shows as the failure of the request.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok((sender, driver))
}

/// The answer, and whether the connection can be used again.
async fn exchange(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
) -> Result<(Answer, bool), hyper::Error> {
    connection.sender.ready().await?;
    let response = connection.sender.send_request(request).await?;
    let status = response.status();
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = seconds.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let whole = body.is_ok();
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    let words = one_line(&String::from_utf8_lossy(&bytes));
    Ok((Answer { status, words, retry_after }, whole))
}

/// The beginning of `text`, without anything that could steer a terminal or break a line.
pub(crate) fn one_line(text: &str) -> String {
    let shown = text.trim().chars().take(REASON_CHARS_MAX);
    shown.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tls::client_config;
    use super::*;
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use shared::io::clock::SystemClock;
    use shared::io::tls::install_crypto_provider;
    use shared::trust::certificate::CertificateAuthority;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn answer(status: u16) -> Result<(), Failure> {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, words: String::new(), retry_after: None }.judge()
    }

    #[test]
    fn only_what_speaks_of_the_content_costs_records() {
        for status in [200, 202, 204] {
            assert_eq!(answer(status), Ok(()));
        }
        for status in [400, 413, 422] {
            assert!(matches!(answer(status), Err(Failure::Refused(_))), "{status}");
        }
        for status in [301, 401, 403, 404, 405, 408, 429, 500, 502, 503] {
            assert!(matches!(answer(status), Err(Failure::Down { .. })), "{status}");
        }
    }

    #[test]
    fn urls_are_http_without_passwords() {
        for text in ["http://a.example/x", "https://192.0.2.1:9090/api/v1/write", "http://[::1]:1/"]
        {
            assert_eq!(text.parse::<HttpUrl>().unwrap().to_string(), text);
        }
        for text in ["", "a.example", "ftp://a.example/", "http://", "https://u:p@a.example/", "/x"]
        {
            assert!(text.parse::<HttpUrl>().is_err(), "`{text}` was accepted");
        }
    }

    /// The head of one request on `stream`, answered by `status`; its body is left out.
    async fn answer_one<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, status: &str) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.read_exact(&mut [0; 4]).await.unwrap();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap().to_lowercase()
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_a_token_that_is_refused_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "old-token\nsecond line").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/write?x=1", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut heads = Vec::new();
            let (mut first, _) = listener.accept().await.unwrap();
            heads.push(answer_one(&mut first, "204 No Content").await);
            heads.push(answer_one(&mut first, "401 Unauthorized").await);
            let (mut second, _) = listener.accept().await.unwrap();
            heads.push(answer_one(&mut second, "200 OK").await);
            heads
        });
        let mut client = HttpClient::new(url.parse().unwrap(), None, Some(token.clone()));
        let mut statuses = Vec::new();
        for _ in 0..3 {
            let answer = client.post(Bytes::from_static(b"body"), &[]).await.unwrap();
            statuses.push(answer.status.as_u16());
            std::fs::write(&token, "new-token").unwrap();
        }
        assert_eq!(statuses, [204, 401, 200]);
        let heads = server.await.unwrap();
        assert!(heads[0].starts_with("post /write?x=1 http/1.1\r\n"), "{}", heads[0]);
        assert!(heads[1].contains("authorization: bearer old-token\r\n"), "{}", heads[1]);
        assert!(heads[2].contains("authorization: bearer new-token\r\n"), "{}", heads[2]);
    }

    #[tokio::test]
    async fn https_is_spoken_with_a_server_under_the_named_ca_and_with_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let ca = |name: &str, authority: &CertificateAuthority| {
            let path = folder.path().join(name);
            std::fs::write(&path, authority.certificate_pem()).unwrap();
            client_config(Some(&path)).unwrap()
        };
        let now = SystemClock::new().now().wall;
        let authority = CertificateAuthority::create("site", now).unwrap();
        let other = CertificateAuthority::create("other", now).unwrap();
        let server = authority.issue_server(&["127.0.0.1".to_owned()], now, 1).unwrap();
        let certificate =
            CertificateDer::from_pem_slice(server.certificate_pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes()).unwrap();
        install_crypto_provider();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: HttpUrl = format!("https://{}/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    answer_one(&mut stream, "200 OK").await;
                }
            }
        });
        let mut stranger = HttpClient::new(url.clone(), Some(ca("other", &other)), None);
        let refused = stranger.post(Bytes::from_static(b"body"), &[]).await;
        assert!(matches!(refused, Err(Failure::Down { .. })), "{refused:?}");
        let mut client = HttpClient::new(url, Some(ca("site", &authority)), None);
        let answer = client.post(Bytes::from_static(b"body"), &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
    }
}
