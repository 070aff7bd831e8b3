//! The file classifier as a real process: its answers against Magika's own implementation, and its
//! manners as a server.
//!
//! The reference is the PyPI package `magika` on ONNX Runtime, which shares nothing with ours but the
//! model's bytes. It is installed on the first run; if that fails, the test fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use tests::real::binaries::{binary, binary_folder};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Two runtimes may differ in the last bits of a score, and no more.
const SCORE_DIFFERENCE_MAX: f64 = 0.01;

/// For the server to load its model, on a busy machine.
const READY_TIME_MAX: Duration = Duration::from_secs(30);

/// For the server to stop: it gives requests under way four seconds.
const STOP_TIME_MAX: Duration = Duration::from_secs(6);

/// One line of the server's log.
#[derive(Deserialize)]
struct LogLine {
    message: String,
    address: Option<SocketAddr>,
}

/// What either implementation says of a file.
#[derive(Debug, Deserialize)]
struct Verdict {
    label: String,
    score: f64,
}

/// A running server; killed when dropped.
struct Server {
    process: Child,
    log: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let mut process = Command::new(binary("file-classifier")?)
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the file classifier")?;
        let log = BufReader::new(process.stdout.take().context("its log is piped")?);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { process, log, address: nowhere };
        server.address = server.log_line()?.address.context("its first line says where it is")?;
        Ok(server)
    }

    fn log_line(&mut self) -> anyhow::Result<LogLine> {
        let mut line = String::new();
        self.log.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("reading the log line `{line}`"))
    }

    /// Polls the readiness probe; returns its answer once it is positive.
    async fn until_ready(&self) -> anyhow::Result<Value> {
        let deadline = Instant::now() + READY_TIME_MAX;
        while Instant::now() < deadline {
            let (status, body) = self.request(Method::GET, "/readyz", Vec::new()).await?;
            match status {
                StatusCode::OK => return Ok(serde_json::from_slice(&body)?),
                StatusCode::SERVICE_UNAVAILABLE => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => bail!("/readyz answered {other}"),
            }
        }
        bail!("not ready after {READY_TIME_MAX:?}")
    }

    async fn classify(&self, content: Vec<u8>) -> anyhow::Result<Value> {
        let (status, body) = self.request(Method::POST, "/v1/classify", content).await?;
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        content: Vec<u8>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .body(Full::new(Bytes::from(content)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok((status, body))
    }

    /// Sends the head of a request whose body would have this length; returns the answer's first line.
    async fn declare_body(&self, length_bytes: u64) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
        let head = format!(
            "POST /v1/classify HTTP/1.1\r\nhost: test\r\ncontent-length: {length_bytes}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut status_line = String::new();
        tokio::io::BufReader::new(stream).read_line(&mut status_line).await?;
        Ok(status_line)
    }

    fn terminate(&self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.process), Signal::TERM).context("sending SIGTERM")
    }

    async fn until_ended(&mut self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + STOP_TIME_MAX;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("still running {STOP_TIME_MAX:?} after SIGTERM")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the reference implementation says of these files.
fn reference_verdicts(files: &[PathBuf]) -> anyhow::Result<BTreeMap<PathBuf, Verdict>> {
    let cache_dir = binary_folder()?.with_file_name("magika-reference");
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/magika_reference.py"))
        .arg(cache_dir)
        .args(files)
        .stderr(Stdio::inherit())
        .output()
        .context("running python3")?;
    ensure!(output.status.success(), "the reference ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("reading what the reference printed")
}

/// The samples of the demo and of this folder, the beginning of this very program, and the awkward cases.
fn inputs(generated_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let tests_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = generated_dir.join("program");
    let mut beginning = Vec::new();
    File::open(std::env::current_exe()?)?.take(1 << 20).read_to_end(&mut beginning)?;
    std::fs::write(&program, beginning)?;
    let mut files = vec![program, tests_dir.join("../Cargo.toml")];
    for samples in ["reference/samples", "../deploy/examples/file-classifier/samples"] {
        for entry in std::fs::read_dir(tests_dir.join(samples))? {
            files.push(entry?.path());
        }
    }
    for (name, content) in awkward_contents() {
        let file = generated_dir.join(name);
        std::fs::write(&file, content)?;
        files.push(file);
    }
    Ok(files)
}

fn awkward_contents() -> Vec<(&'static str, Vec<u8>)> {
    let code = "fn answer() -> u32 {\n    42\n}\n";
    let late_code = format!("{}{code}", " \n".repeat(1500));
    let hidden_code = format!("{}{code}", " \n".repeat(3000));
    // A block boundary cuts one of these characters in two.
    let split_character = format!("{}{}", " ".repeat(4095), "ü".repeat(3000));
    vec![
        ("empty", Vec::new()),
        ("seven_letters", b"letters".to_vec()),
        ("eight_letters", b"eletters".to_vec()),
        ("few_bytes", vec![0xff, 0x00, 0xfe]),
        ("only_space", b" \t\r\n\x0b\x0c ".repeat(100)),
        ("long_space", b"\n".repeat(10_000)),
        ("code_after_space", late_code.into_bytes()),
        ("code_behind_first_block", hidden_code.into_bytes()),
        ("split_character", split_character.into_bytes()),
        ("separators_are_no_space", b"\x1cabcdefgh\x1f".to_vec()),
        ("zeros", vec![0; 5000]),
        ("random_short", random_bytes(300)),
        ("random_long", random_bytes(100_000)),
        ("code_two_hundred_times", code.repeat(200).into_bytes()),
    ]
}

/// Always the same bytes without a pattern: xorshift64 (Marsaglia, 2003).
fn random_bytes(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(step).flatten().take(count).collect()
}

#[tokio::test]
async fn every_answer_is_that_of_the_reference_implementation() {
    let generated = tempfile::tempdir().unwrap();
    let files = inputs(generated.path()).unwrap();
    let expected = reference_verdicts(&files).unwrap();
    assert_eq!(expected.len(), files.len());
    let server = Server::start().unwrap();
    server.until_ready().await.unwrap();
    let mut differences = Vec::new();
    let mut labels = BTreeSet::new();
    for file in &files {
        let answer = server.classify(std::fs::read(file).unwrap()).await.unwrap();
        let ours: Verdict = serde_json::from_value(answer).unwrap();
        let theirs = &expected[file];
        let score_differs = (ours.score - theirs.score).abs() > SCORE_DIFFERENCE_MAX;
        if ours.label != theirs.label || score_differs {
            differences.push(format!("{}: {ours:?}, reference {theirs:?}", file.display()));
        }
        labels.insert(ours.label);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(labels.len() >= 15, "the inputs must be varied, and gave only {labels:?}");
}

#[tokio::test]
async fn an_answer_names_the_type_for_programs_and_for_people() {
    let server = Server::start().unwrap();
    server.until_ready().await.unwrap();
    let answer = server.classify(include_bytes!("inference.rs").to_vec()).await.unwrap();
    assert_eq!(answer["label"], "rust");
    assert_eq!(answer["mime_type"], "application/x-rust");
    assert_eq!(answer["description"], "Rust source");
    assert!(answer["inference_us"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn the_port_answers_before_the_model_is_loaded_and_says_when_it_is() {
    let mut server = Server::start().unwrap();
    let (live, _) = server.request(Method::GET, "/healthz", Vec::new()).await.unwrap();
    assert_eq!(live, StatusCode::OK);
    let ready = server.until_ready().await.unwrap();
    assert!(ready["model_load_ms"].as_f64().unwrap() > 0.0, "{ready}");
    let line = server.log_line().unwrap().message;
    assert!(line.starts_with("model loaded in ") && line.ends_with(" ms"), "{line}");
}

#[tokio::test]
async fn a_body_over_16_mib_is_refused_and_counted() {
    let server = Server::start().unwrap();
    server.until_ready().await.unwrap();
    let declared_only = server.declare_body(16 * 1024 * 1024 + 1).await.unwrap();
    assert!(declared_only.starts_with("HTTP/1.1 413 "), "{declared_only}");
    server.classify(b"{\"a\": [1, 2, 3]}".to_vec()).await.unwrap();
    let (_, page) = server.request(Method::GET, "/metrics", Vec::new()).await.unwrap();
    let page = String::from_utf8(page.to_vec()).unwrap();
    assert!(page.contains("file_classifier_requests_total{code=\"413\"} 1\n"), "{page}");
    assert!(page.contains("file_classifier_inference_seconds_count 1\n"), "{page}");
}

#[tokio::test]
async fn sigterm_ends_it_with_status_0_even_with_an_idle_connection_open() {
    let mut server = Server::start().unwrap();
    server.until_ready().await.unwrap();
    let _idle = TcpStream::connect(server.address).await.unwrap();
    server.terminate().unwrap();
    assert!(server.until_ended().await.unwrap().success());
}
