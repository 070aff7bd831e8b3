//! The API as its users see it: a real port, the production loop, a store in memory.

use super::Token;
use crate::shell::testing::{Memory, TestHub};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use shared::model::NodeId;
use shared::trust::certificate::NodeKey;
use shared::trust::enrollment::Enrollment;
use shared::trust::session::SessionPrivateKey;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

type Headers<'a> = &'a [(&'a str, &'a str)];

async fn request(
    api: SocketAddr,
    method: Method,
    path: &str,
    headers: Headers<'_>,
    body: impl Into<Bytes>,
) -> (u16, String) {
    let stream = tokio::net::TcpStream::connect(api).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header(header::HOST, api.to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(hub: &TestHub, path: &str) -> (u16, String) {
    request(hub.api, Method::GET, path, &[], "").await
}

async fn post(hub: &TestHub, path: &str, body: &str) -> (u16, String) {
    request(hub.api, Method::POST, path, &[], body.to_owned()).await
}

fn error_in(body: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(body).expect(body);
    value["error"].as_str().expect(body).to_owned()
}

/// A request of `node` with the session key of this number.
fn csr(node: &str, session_key: u8) -> String {
    let session_key = SessionPrivateKey::generate([session_key; 32]).public();
    let node = NodeId::new(node).unwrap();
    NodeKey::generate().unwrap().request(&node, &session_key).unwrap()
}

fn serial_of(answer: &str) -> u64 {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let enrollment = Enrollment::parse(answer).unwrap();
    let der = CertificateDer::from_pem_slice(enrollment.certificate_pem.as_bytes()).unwrap();
    let serial = shared::trust::certificate::serial_of_certificate(&der).unwrap();
    u64::from_str_radix(&serial, 16).unwrap()
}

async fn ready_hub() -> TestHub {
    let hub = TestHub::start(Memory::default(), None).await;
    hub.make_ready().await;
    wait_until_ready(&hub).await;
    hub
}

async fn wait_until_ready(hub: &TestHub) {
    let begin = Instant::now();
    while get(hub, "/readyz").await.0 != 200 {
        assert!(begin.elapsed() < Duration::from_secs(10), "the hub is not ready");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_hub_without_valid_manifests_is_alive_not_ready_and_says_why() {
    let hub = TestHub::start(Memory::default(), None).await;
    hub.send_problem().await;
    assert_eq!(get(&hub, "/healthz").await.0, 200);
    let begin = Instant::now();
    loop {
        let (status, body) = get(&hub, "/readyz").await;
        assert_eq!(status, 503);
        if error_in(&body).contains("a.yaml:3: spec: wrong") {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{body}");
    }
    let view: serde_json::Value = serde_json::from_str(&get(&hub, "/v1/hub").await.1).unwrap();
    assert_eq!(view["has_manifests"], false);
    assert_eq!(view["manifests"]["problems"][0], "a.yaml:3: spec: wrong");
    hub.make_ready().await;
    wait_until_ready(&hub).await;
    let view: serde_json::Value = serde_json::from_str(&get(&hub, "/v1/hub").await.1).unwrap();
    assert_eq!(view["manifests"]["problems"].as_array().unwrap().len(), 0);
    assert_eq!(view["broker"]["up"], true);
}

#[tokio::test]
async fn a_signed_node_is_known_with_an_enrolment_that_it_accepts() {
    let hub = ready_hub().await;
    let (status, answer) = post(&hub, "/v1/nodes/sign", &csr("mast-17", 1)).await;
    assert_eq!(status, 200, "{answer}");
    let enrollment = Enrollment::parse(&answer).unwrap();
    assert_eq!(enrollment.node.as_str(), "mast-17");
    assert_eq!(enrollment.broker, "mqtts://hub.example:8883");
    let (status, view) = get(&hub, "/v1/nodes/mast-17").await;
    let view: serde_json::Value = serde_json::from_str(&view).unwrap();
    assert_eq!((status, view["state"].as_str()), (200, Some("NeverSeen")));
    let nodes: serde_json::Value = serde_json::from_str(&get(&hub, "/v1/nodes").await.1).unwrap();
    assert_eq!(nodes[0]["node"], "mast-17");
    assert!(
        get(&hub, "/metrics").await.1.contains("hinterland_hub_node_online{node=\"mast-17\"} 0")
    );
}

#[tokio::test]
async fn a_name_is_signed_again_for_the_same_key_and_for_another_only_after_a_revocation() {
    let hub = ready_hub().await;
    let (_, first) = post(&hub, "/v1/nodes/sign", &csr("mast-17", 1)).await;
    let (status, again) = post(&hub, "/v1/nodes/sign", &csr("mast-17", 1)).await;
    assert_eq!(status, 200, "{again}");
    assert!(serial_of(&again) > serial_of(&first));
    let (status, body) = post(&hub, "/v1/nodes/sign", &csr("mast-17", 2)).await;
    assert_eq!(status, 409);
    assert!(error_in(&body).contains("revoke"), "{body}");
    let (status, body) = post(&hub, "/v1/nodes/mast-17/revoke", "").await;
    assert_eq!(status, 200, "{body}");
    assert!(get(&hub, "/v1/nodes/mast-17").await.1.contains("Revoked"));
    let (status, third) = post(&hub, "/v1/nodes/sign", &csr("mast-17", 2)).await;
    assert_eq!(status, 200, "{third}");
    assert!(serial_of(&third) > serial_of(&again));
}

#[tokio::test]
async fn a_restart_keeps_nodes_and_never_gives_a_serial_number_twice() {
    let store = Memory::default();
    let hub = TestHub::start(store.clone(), None).await;
    let (_, first) = post(&hub, "/v1/nodes/sign", &csr("mast-17", 1)).await;
    hub.stop().await;
    let hub = TestHub::start(store, None).await;
    assert_eq!(get(&hub, "/v1/nodes/mast-17").await.0, 200);
    let (_, second) = post(&hub, "/v1/nodes/sign", &csr("mast-18", 2)).await;
    assert!(serial_of(&second) > serial_of(&first));
}

#[tokio::test]
async fn nothing_is_signed_or_promised_while_the_store_is_full() {
    let store = Memory::default();
    let hub = TestHub::start(store.clone(), None).await;
    let (_, _) = post(&hub, "/v1/nodes/sign", &csr("mast-17", 1)).await;
    store.set_full(true);
    let (status, body) = post(&hub, "/v1/nodes/sign", &csr("mast-18", 2)).await;
    assert_eq!(status, 503);
    assert!(error_in(&body).contains("no space left"), "{body}");
    hub.break_registry();
    let (status, body) = post(&hub, "/v1/nodes/mast-17/revoke", "").await;
    assert_eq!(status, 503);
    assert!(error_in(&body).contains("after a restart"), "{body}");
}

#[tokio::test]
async fn a_revocation_that_only_the_store_took_outlives_a_restart() {
    let store = Memory::default();
    let hub = TestHub::start(store.clone(), None).await;
    let (status, body) = post(&hub, "/v1/nodes/sign", &csr("mast-17", 1)).await;
    assert_eq!(status, 200, "{body}");
    hub.break_registry();
    let (status, body) = post(&hub, "/v1/nodes/mast-17/revoke", "").await;
    assert_eq!(status, 200, "{body}");
    hub.mend_registry();
    let hub = hub.restart(store).await;
    assert!(get(&hub, "/v1/nodes/mast-17").await.1.contains("Revoked"), "let in again");
    let hub = hub.restart(Memory::default()).await;
    let (_, body) = get(&hub, "/v1/nodes/mast-17").await;
    assert!(body.contains("Revoked"), "let in again when the store was lost as well: {body}");
}

#[tokio::test]
async fn every_error_is_json_with_words() {
    let hub = ready_hub().await;
    let long = "x".repeat(9_000);
    for (method, path, body, expected, words) in [
        (Method::GET, "/v1/nodes/mast-99", "", 404, "mast-99"),
        (Method::GET, "/v1/nodes/Mast_99", "", 400, "not a valid name"),
        (Method::GET, "/v1/nodes/sign", "", 404, "there is no node `sign`"),
        (Method::GET, "/v1/workloads/default/ocr", "", 404, "default/ocr"),
        (Method::GET, "/v1/why/mast-99/default/ocr-0", "", 404, "mast-99"),
        (Method::GET, "/v1/why/mast-99/default/ocr", "", 400, "not a pod"),
        (Method::GET, "/v1/nodes/mast-99/pods/default/ocr-0/log", "", 502, "mast-99"),
        (Method::GET, "/v1/nodes/mast-99/pods/default/ocr-0/log?lines=x", "", 400, "bad request"),
        (Method::GET, "/v2", "", 404, "no such path"),
        (Method::DELETE, "/v1/nodes", "", 405, "method not allowed"),
        (Method::POST, "/v1/nodes/sign", "nonsense", 400, "PEM"),
        (Method::POST, "/v1/nodes/sign", long.as_str(), 413, "8192"),
        (Method::POST, "/v1/nodes/mast-99/revoke", "", 404, "mast-99"),
    ] {
        let (status, body) = request(hub.api, method, path, &[], body.to_owned()).await;
        assert_eq!(status, expected, "{path}: {body}");
        assert!(error_in(&body).contains(words), "{path}: {body}");
    }
}

#[tokio::test]
async fn with_a_token_only_who_shows_it_may_ask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "0123456789abcdef\n").unwrap();
    let token = Token::read(&path).unwrap();
    let hub = TestHub::start(Memory::default(), Some(token)).await;
    let shown = |value| [("authorization", value)];
    let ask =
        async |headers: Headers<'_>| request(hub.api, Method::GET, "/v1/hub", headers, "").await.0;
    assert_eq!(ask(&[]).await, 401);
    assert_eq!(ask(&shown("Bearer 0123456789abcdeg")).await, 401);
    assert_eq!(ask(&shown("Bearer 0123456789abcde")).await, 401);
    assert_eq!(ask(&shown("Bearer 0123456789abcdef")).await, 200);
    let bare = |value| [("x-hinterland-token", value)];
    assert_eq!(ask(&bare("0123456789abcdef")).await, 200, "where the bearer is another's");
    assert_eq!(ask(&bare("0123456789abcde")).await, 401);
    assert_eq!(ask(&bare("Bearer 0123456789abcdef")).await, 401);
    assert_eq!(ask(&[("authorization", "Bearer other"), bare("0123456789abcdef")[0]]).await, 200);
    assert_eq!(get(&hub, "/metrics").await.0, 401);
    assert_eq!(get(&hub, "/healthz").await.0, 200);
    std::fs::write(&path, "short\n").unwrap();
    assert!(Token::read(&path).is_err());
}

#[tokio::test]
async fn web_pages_and_foreign_host_names_are_refused_on_loopback() {
    let hub = ready_hub().await;
    let origin = [("origin", "http://evil.example")];
    let path = "/v1/nodes/mast-17/revoke";
    let (status, _) = request(hub.api, Method::POST, path, &origin, "").await;
    assert_eq!(status, 403);
    for (host, expected) in [
        ("evil.example", 403),
        ("evil.example:7080", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost:7080", 200),
        ("[::1]:7080", 200),
        ("127.0.0.1", 200),
    ] {
        let headers = [("host", host)];
        let (status, _) = request(hub.api, Method::GET, "/v1/hub", &headers, "").await;
        assert_eq!(status, expected, "{host}");
    }
}
