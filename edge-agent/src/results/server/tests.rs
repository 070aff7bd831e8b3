//! The endpoint with doors of its own, and a loop that takes whatever comes.

use super::super::{Doors, TokenKey, Waiting, gather};
use super::*;
use crate::ports::InstanceId;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

/// Doors over a temporary folder, and a taker that answers every post with `outcome`.
struct Scene {
    folder: tempfile::TempDir,
    doors: Doors,
    address: std::net::SocketAddr,
}

impl Scene {
    async fn new(outcome: PostOutcome) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = TokenKey::load_or_create(&folder.path().join("key")).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let (doors, arriving) = Doors::new(key, address);
        let (to_loop, mut gathered) = mpsc::channel::<Vec<Waiting>>(1);
        tokio::spawn(gather(arriving, to_loop));
        tokio::spawn(serve_loopback(doors.clone()));
        tokio::spawn(async move {
            while let Some(posts) = gathered.recv().await {
                posts.into_iter().for_each(|post| drop(post.reply.send(outcome.clone())));
            }
        });
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self { folder, doors, address }
    }

    fn open(&self, pod: &str, instance: u64, members: fn(i32) -> bool) -> super::super::Door {
        let socket = self.socket(pod);
        self.doors.open(&pod.parse().unwrap(), InstanceId(instance), &socket, Box::new(members))
    }

    fn socket(&self, pod: &str) -> std::path::PathBuf {
        self.folder.path().join(pod.replace('/', "_")).join("results")
    }
}

fn taken() -> PostOutcome {
    PostOutcome::Taken { results: 1, thinned: 0 }
}

fn variable(door: &super::super::Door, name: &str) -> String {
    door.environment().into_iter().find(|(key, _)| key == name).unwrap().1
}

fn request(head: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/results?topic=a HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{head}\r\n{body}"
    )
}

/// The status that a request gets, and the whole answer.
async fn status(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}\n") {
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk).await.unwrap();
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&chunk[..count]);
    }
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    (status, answer)
}

async fn over_socket(path: &Path, request: &str) -> (u16, String) {
    status(UnixStream::connect(path).await.unwrap(), request).await
}

async fn over_loopback(scene: &Scene, token: &str, body: &str) -> (u16, String) {
    let stream = TcpStream::connect(scene.address).await.unwrap();
    status(stream, &request(&format!("Authorization: Bearer {token}\r\n"), body)).await
}

#[tokio::test]
async fn a_pod_is_known_by_its_socket_and_by_its_token() {
    let scene = Scene::new(taken()).await;
    let door = scene.open("default/ocr-0", 7, |_| true);
    let socket = variable(&door, "HINTERLAND_RESULTS_SOCKET");
    let (code, answer) = over_socket(Path::new(&socket), &request("", "{}")).await;
    assert!(code == 202 && answer.ends_with("{\"accepted\":1,\"thinned\":0}\n"), "{answer}");
    let token = variable(&door, "HINTERLAND_RESULTS_TOKEN");
    assert_eq!(over_loopback(&scene, &token, "{}").await.0, 202);
    let url = variable(&door, "HINTERLAND_RESULTS_URL");
    assert_eq!(url, format!("http://{}/v1/results", scene.address));
}

#[tokio::test]
async fn a_stranger_at_the_socket_and_a_token_that_is_not_valid_are_refused() {
    let scene = Scene::new(taken()).await;
    let door = scene.open("default/ocr-0", 7, |_| false);
    let token = variable(&door, "HINTERLAND_RESULTS_TOKEN");
    let (code, answer) = over_socket(&scene.socket("default/ocr-0"), &request("", "{}")).await;
    assert!(code == 403 && answer.contains("default/ocr-0"), "{answer}");
    for wrong in ["", "x", &token[..47], &format!("{}0", &token[..47]), &"0".repeat(48)] {
        if wrong != token {
            assert_eq!(over_loopback(&scene, wrong, "{}").await.0, 401, "`{wrong}`");
        }
    }
    drop(door);
    assert_eq!(over_loopback(&scene, &token, "{}").await.0, 401, "its pod has ended");
    assert!(!scene.socket("default/ocr-0").exists());
}

#[tokio::test]
async fn each_outcome_has_its_status() {
    let cases = [
        (PostOutcome::NoRoute { topic: "a".to_owned() }, 404, "`a`"),
        (PostOutcome::TooManyTopics, 400, "topics"),
        (PostOutcome::Unavailable("no space".to_owned()), 503, "no space"),
    ];
    for (outcome, code, words) in cases {
        let scene = Scene::new(outcome).await;
        let door = scene.open("default/ocr-0", 7, |_| true);
        let (found, answer) = over_socket(&scene.socket("default/ocr-0"), &request("", "{}")).await;
        assert!(found == code && answer.contains(words), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        drop(door);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let scene = Scene::new(taken()).await;
    let _door = scene.open("default/ocr-0", 7, |_| true);
    let socket = scene.socket("default/ocr-0");
    let ask = |text: String| {
        let socket = socket.clone();
        async move { over_socket(&socket, &text).await.0 }
    };
    assert_eq!(ask(request("", "hello")).await, 400);
    assert_eq!(ask(request("Content-Type: text/plain\r\n", "1")).await, 415);
    assert_eq!(ask(request("", &format!("\"{}\"", "x".repeat(8191)))).await, 413);
    assert_eq!(ask(request("", &" ".repeat(REQUEST_BYTES_MAX + 1))).await, 413);
    assert_eq!(ask(request("", "1").replace("POST", "PUT")).await, 405);
    assert_eq!(ask(request("", "1").replace("/v1/results", "/v1/secrets")).await, 404);
}

#[tokio::test]
async fn a_pod_that_posts_too_fast_is_told_to_wait() {
    let scene = Scene::new(taken()).await;
    let _door = scene.open("default/ocr-0", 7, |_| true);
    let lines = request("Content-Type: application/x-ndjson\r\n", &"1\n".repeat(256));
    let mut codes = Vec::new();
    for _ in 0..12 {
        codes.push(over_socket(&scene.socket("default/ocr-0"), &lines).await);
    }
    let refused = codes.iter().find(|(code, _)| *code == 429).expect("all were taken");
    assert!(refused.1.to_ascii_lowercase().contains("retry-after: "), "{}", refused.1);
    assert_eq!(codes[0].0, 202);
}

#[tokio::test]
async fn a_pod_with_all_its_connections_idle_holds_up_no_other() {
    let scene = Scene::new(taken()).await;
    let _slow = scene.open("default/slow-0", 1, |_| true);
    let _quick = scene.open("default/quick-0", 2, |_| true);
    let mut idle = Vec::new();
    for _ in 0..50 {
        let mut stream = UnixStream::connect(scene.socket("default/slow-0")).await.unwrap();
        stream.write_all(b"POST /v1/results HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
    }
    let (socket, post) = (scene.socket("default/quick-0"), request("", "1"));
    let answer = over_socket(&socket, &post);
    let answer = timeout(Duration::from_secs(5), answer).await;
    assert_eq!(answer.unwrap().0, 202);
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_leaves_the_token() {
    let scene = Scene::new(taken()).await;
    let pod: PodId = "default/ocr-0".parse().unwrap();
    let long = scene.folder.path().join("x".repeat(120));
    let door = scene.doors.open(&pod, InstanceId(7), &long, Box::new(|_| true));
    assert!(door.environment().iter().all(|(name, _)| name != "HINTERLAND_RESULTS_SOCKET"));
    let token = variable(&door, "HINTERLAND_RESULTS_TOKEN");
    assert_eq!(over_loopback(&scene, &token, "{}").await.0, 202);
}
