//! Against real servers on loopback: each kind of answer, and what is none.

use super::super::probe;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use shared::model::Probe;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a server answers: its head's own fields, its body, its trailers.
#[derive(Debug, Clone, Default)]
struct Said {
    status: u16,
    head: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    trailers: Vec<(&'static str, &'static str)>,
    hangs: bool,
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");
const WELL: (&str, &str) = ("grpc-status", "0");

/// An answer of this `ServingStatus`.
fn health(status: u8) -> Said {
    let body = if status == 0 { vec![0, 0, 0, 0, 0] } else { vec![0, 0, 0, 0, 2, 8, status] };
    Said { status: 200, head: vec![GRPC], body, trailers: vec![WELL], hangs: false }
}

/// A call that is refused at once.
fn refusal(code: &'static str, message: &'static str) -> Said {
    let head = vec![GRPC, ("grpc-status", code), ("grpc-message", message)];
    Said { status: 200, head, ..Said::default() }
}

fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let one = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), value.parse().unwrap())
    };
    fields.iter().map(one).collect()
}

async fn answer(request: Request<Incoming>, said: Said) -> Result<Response<Answered>, Infallible> {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(asked.as_ref(), b"\0\0\0\0\x05\x0a\x03ocr");
    if said.hangs {
        pending::<()>().await;
    }
    let trailers = Some(Ok(fields(&said.trailers))).filter(|_| !said.trailers.is_empty());
    let body = Full::new(Bytes::from(said.body));
    let body = body.with_trailers(Box::pin(ready(trailers)) as Trailers);
    let mut response = Response::new(body);
    *response.status_mut() = said.status.try_into().unwrap();
    response.headers_mut().extend(fields(&said.head));
    Ok(response)
}

type Trailers =
    std::pin::Pin<Box<dyn Future<Output = Option<Result<HeaderMap, Infallible>>> + Send>>;
type Answered = http_body_util::combinators::WithTrailers<Full<Bytes>, Trailers>;

/// The port of a server that says this to everybody.
async fn serve(said: Said) -> u16 {
    serve_bytes(move |_, stream| talk(stream, said.clone())).await
}

async fn talk(stream: TcpStream, said: Said) {
    let service = service_fn(move |request| answer(request, said.clone()));
    let server = http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// The port of a server that talks with one after the other, who are counted.
async fn serve_bytes<F: Future<Output = ()> + Send>(
    talk: impl Fn(u32, TcpStream) -> F + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let talking = talk(number, stream);
            talking.await;
        }
    });
    port
}

fn asking(port: u16) -> Probe {
    serde_json::from_value(json!({ "grpc": { "port": port, "service": "ocr" } })).unwrap()
}

async fn check(port: u16) -> Result<(), String> {
    probe::run(&asking(port), probe::NODE_HOST, |_| ready(Ok(()))).await
}

#[tokio::test]
async fn a_server_that_serves_is_well_and_every_other_answer_is_said() {
    assert_eq!(check(serve(health(1)).await).await, Ok(()));
    for (said, words) in [
        (health(0), "the service `ocr` on port PORT is UNKNOWN"),
        (health(2), "the service `ocr` on port PORT is NOT_SERVING"),
        (health(3), "the service `ocr` on port PORT is SERVICE_UNKNOWN"),
        (health(9), "the service `ocr` on port PORT is of the status 9, which is none"),
        (
            refusal("5", "unknown"),
            "the server on port PORT does not know the service `ocr` (NOT_FOUND)",
        ),
        (
            refusal("12", "unknown service grpc.health.v1.Health"),
            "the server on port PORT does not have the health service (UNIMPLEMENTED)",
        ),
        (refusal("7", "go%20away"), "the server on port PORT refused with the code 7: go away"),
        (
            Said { status: 404, head: vec![("content-type", "text/html")], ..Said::default() },
            "port PORT does not answer in gRPC over HTTP/2: an answer in HTTP with status 404",
        ),
        (
            Said { head: vec![("content-type", "text/html")], ..health(1) },
            "port PORT does not answer in gRPC over HTTP/2: an answer in HTTP with status 200",
        ),
        (
            Said { trailers: vec![], ..health(1) },
            "port PORT does not answer in gRPC over HTTP/2: the answer breaks off",
        ),
        (
            Said { body: vec![1, 0, 0, 0, 2, 8, 1], ..health(1) },
            "port PORT does not answer in gRPC over HTTP/2: the answer is not one message",
        ),
        (
            Said { body: vec![0; 5000], ..health(1) },
            "port PORT does not answer in gRPC over HTTP/2: length limit exceeded",
        ),
    ] {
        let port = serve(said.clone()).await;
        let expected = words.replace("PORT", &port.to_string());
        assert_eq!(check(port).await, Err(expected), "{said:?}");
    }
}

#[tokio::test]
async fn what_is_no_message_of_health_and_a_long_word_are_no_answer() {
    let junk = Said { body: vec![0, 0, 0, 0, 3, 8, 0xff, 0xff], ..health(1) };
    let words = check(serve(junk).await).await.unwrap_err();
    assert!(words.contains("failed to decode"), "{words}");
    let long: &'static str = Box::leak("x".repeat(2000).into_boxed_str());
    let words = check(serve(refusal("2", long)).await).await.unwrap_err();
    assert!(words.ends_with("xxx") && words.len() < 300, "{words}");
    let headers: &'static str = Box::leak("x".repeat(20_000).into_boxed_str());
    let words = check(serve(refusal("2", headers)).await).await.unwrap_err();
    assert!(words.contains("does not answer in gRPC") && words.len() < 300, "{words}");
}

#[tokio::test]
async fn a_server_of_something_else_is_told_from_one_that_is_not_there() {
    let http = serve_bytes(|_, mut stream| async move {
        let mut asked = [0; 1024];
        let _ = stream.read(&mut asked).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let words = check(http.await).await.unwrap_err();
    assert!(words.contains("does not answer in gRPC over HTTP/2"), "{words}");
    let closing = serve_bytes(|_, stream| async move { drop(stream) });
    let words = check(closing.await).await.unwrap_err();
    assert!(words.contains("does not answer in gRPC over HTTP/2"), "{words}");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let words = check(nobody).await.unwrap_err();
    assert!(words.starts_with(&format!("connecting to 127.0.0.1:{nobody} failed")), "{words}");
}

#[tokio::test]
async fn a_server_that_hangs_costs_the_probe_its_time_and_its_connection() {
    let silent = serve_bytes(|number, mut stream| async move {
        if number > 0 {
            return talk(stream, health(1)).await;
        }
        // Until the other side goes away.
        let mut asked = vec![];
        let _ = stream.read_to_end(&mut asked).await;
    });
    let hanging =
        serve_bytes(|number, stream| talk(stream, Said { hangs: number == 0, ..health(1) }));
    for port in [hanging.await, silent.await] {
        let begin = Instant::now();
        assert_eq!(check(port).await, Err("no answer within 1 s".to_owned()));
        assert!(begin.elapsed() < Duration::from_secs(3));
        assert_eq!(check(port).await, Ok(()), "the first connection was left open");
    }
}
