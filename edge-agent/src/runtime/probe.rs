//! Checks of a pod by HTTP, TCP and gRPC, from the node's own network: at the pod's address, where it has one of its
//! own. Each is answered within its time, whatever the other side does. How a command is run is the runtime's affair,
//! what gRPC needs is in `health`.
//!
//! The HTTP client is as small as its task: one GET, and the status line of the answer.

use super::health::check_by_grpc;
use shared::model::{ExecAction, HttpGetAction, Port, Probe, TcpSocketAction};
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What is read of an answer: its status line stands first, and needs far less.
const STATUS_LINE_BYTES_MAX: usize = 1024;

/// The host of a pod on the node's network, where a probe names none.
pub(super) const NODE_HOST: &str = "127.0.0.1";

/// How long a check may take.
pub(super) fn limit_of(probe: &Probe) -> Duration {
    Duration::from_secs(u64::from(probe.timeout_seconds.max(1)))
}

/// Runs one check, a command by `by_command`; a sentence says what failed. `pod_host` is where the pod is found.
pub(super) async fn run<'a, C>(
    probe: &'a Probe,
    pod_host: &str,
    by_command: impl FnOnce(&'a ExecAction) -> C,
) -> Result<(), String>
where
    C: Future<Output = Result<(), String>>,
{
    let limit = limit_of(probe);
    let check = async {
        match (&probe.exec, &probe.http_get, &probe.tcp_socket, &probe.grpc) {
            (Some(exec), None, None, None) => by_command(exec).await,
            (None, Some(get), None, None) => check_by_http(get, pod_host).await,
            (None, None, Some(socket), None) => check_by_tcp(socket, pod_host).await,
            (None, None, None, Some(grpc)) => check_by_grpc(grpc, pod_host).await,
            _ => Err("the probe needs exactly one of exec, grpc, httpGet and tcpSocket".to_owned()),
        }
    };
    timeout(limit, check)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
}

pub(super) async fn connect(
    host: Option<&str>,
    pod_host: &str,
    port: u16,
) -> Result<TcpStream, String> {
    let host = host.filter(|host| !host.is_empty()).unwrap_or(pod_host);
    let failed = |error| format!("connecting to {host}:{port} failed: {error}");
    TcpStream::connect((host, port)).await.map_err(failed)
}

/// The hub puts the number where people wrote a name.
fn number_of(port: &Port) -> Result<u16, String> {
    port.number().ok_or_else(|| format!("the port `{port}` is a name, and no number"))
}

/// Host and port as a URL has them.
pub(super) fn authority(host: &str, port: &impl Display) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

async fn check_by_tcp(socket: &TcpSocketAction, pod_host: &str) -> Result<(), String> {
    connect(socket.host.as_deref(), pod_host, number_of(&socket.port)?).await.map(drop)
}

pub(super) async fn check_by_http(get: &HttpGetAction, pod_host: &str) -> Result<(), String> {
    let request = request_of(get, pod_host)?;
    let mut stream = connect(get.host.as_deref(), pod_host, number_of(&get.port)?).await?;
    let failed = |error| format!("GET {} on port {} failed: {error}", get.path, get.port);
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::with_capacity(STATUS_LINE_BYTES_MAX);
    let mut limited = stream.take(u64::try_from(STATUS_LINE_BYTES_MAX).unwrap_or(1024));
    while !answer.contains(&b'\n') {
        if limited.read_buf(&mut answer).await.map_err(failed)? == 0 {
            break;
        }
    }
    match status_of(&answer) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("GET {} was answered with status {status}", get.path)),
        None => Err(format!("port {} does not answer in HTTP", get.port)),
    }
}

/// The request's text. Refuses what would make it more than one request.
fn request_of(get: &HttpGetAction, pod_host: &str) -> Result<String, String> {
    let headers = get.http_headers.iter().flat_map(|header| [&header.name, &header.value]);
    let mut texts = headers.chain([&get.path]).chain(get.host.as_ref());
    if texts.any(|text| text.chars().any(char::is_control)) || get.path.contains(' ') {
        return Err("the probe's path, host or headers hold a character that HTTP forbids".into());
    }
    let slash = if get.path.starts_with('/') { "" } else { "/" };
    let mut request = format!("GET {slash}{} HTTP/1.1\r\n", get.path);
    let has = |name: &str| get.http_headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    if !has("host") {
        let host = get.host.as_deref().unwrap_or(pod_host);
        request.push_str(&format!("Host: {}\r\n", authority(host, &get.port)));
    }
    if !has("user-agent") {
        request.push_str("User-Agent: hinterland-probe\r\n");
    }
    for header in &get.http_headers {
        request.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    request.push_str("Accept: */*\r\nConnection: close\r\n\r\n");
    Ok(request)
}

/// The status of an answer as in `HTTP/1.1 200 OK`.
pub(super) fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok().filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::model::HttpHeader;

    #[test]
    fn a_status_line_is_read_and_anything_else_is_not() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\nX: y\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 503"), Some(503));
        for answer in ["", "SSH-2.0-x", "HTTP/1.1", "HTTP/1.1 2000 x", "HTTP/1.1 abc", "HTTP/2 200"]
        {
            assert_eq!(status_of(answer.as_bytes()), None, "`{answer}` was accepted");
        }
    }

    #[test]
    fn a_header_can_t_smuggle_a_second_request() {
        let header = HttpHeader { name: "X".into(), value: "y\r\n\r\nGET /".into() };
        let get =
            HttpGetAction { http_headers: vec![header], port: 1.into(), ..Default::default() };
        assert!(request_of(&get, NODE_HOST).is_err());
        let get = HttpGetAction { path: "/a b".into(), port: 1.into(), ..Default::default() };
        assert!(request_of(&get, NODE_HOST).is_err());
    }

    #[test]
    fn a_probe_s_own_headers_replace_the_usual_ones() {
        let header = HttpHeader { name: "host".into(), value: "ocr.local".into() };
        let get = HttpGetAction {
            path: "/ok".into(),
            port: 80.into(),
            http_headers: vec![header],
            ..Default::default()
        };
        let request = request_of(&get, NODE_HOST).unwrap();
        assert!(request.starts_with("GET /ok HTTP/1.1\r\n") && request.ends_with("\r\n\r\n"));
        assert_eq!(request.to_ascii_lowercase().matches("host:").count(), 1);
    }

    #[test]
    fn a_pod_is_asked_at_its_own_address_unless_the_probe_names_another() {
        let get = HttpGetAction { path: "/".into(), port: 80.into(), ..Default::default() };
        let host = |get: &HttpGetAction, pod_host: &str| {
            let request = request_of(get, pod_host).unwrap();
            request.lines().nth(1).unwrap().to_owned()
        };
        assert_eq!(host(&get, "10.88.0.5"), "Host: 10.88.0.5:80");
        assert_eq!(host(&get, "fd00::5"), "Host: [fd00::5]:80");
        let named = HttpGetAction { host: Some("ocr.local".into()), ..get };
        assert_eq!(host(&named, "10.88.0.5"), "Host: ocr.local:80");
    }
}
