//! Checks of a pod by command, HTTP and TCP. Each is answered within its time, whatever the other
//! side does.
//!
//! A command runs in the pod's environment and is killed with its process group afterwards. The
//! HTTP client is as small as its task: one GET, and the status line of the answer.

use super::files::PodFolder;
use super::identity::{ProcessIdentity, ended};
use super::lock::POD_FOLDER_VARIABLE;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use shared::model::{ExecAction, HttpGetAction, Probe, TcpSocketAction};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// What is read of an answer: its status line stands first, and needs far less.
const STATUS_LINE_BYTES_MAX: usize = 1024;

/// The rest of an `exec` takes microseconds; a busy machine may stop it in between.
const ENVIRONMENT_LOOKS: u32 = 20;
const ENVIRONMENT_LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The node itself, when a probe names no host.
const DEFAULT_HOST: &str = "127.0.0.1";

/// The pod that a check is about.
#[derive(Debug, Clone)]
pub(super) struct Probed {
    pub(super) folder: PodFolder,
    /// Its main process, whose environment a command gets; `None` when it does not run.
    pub(super) main: Option<ProcessIdentity>,
}

/// Runs one check; a sentence says what failed.
pub(super) async fn run(probe: &Probe, probed: &Probed) -> Result<(), String> {
    let seconds = probe.timeout_seconds.max(1);
    let check = async {
        match (&probe.exec, &probe.http_get, &probe.tcp_socket) {
            (Some(exec), None, None) => check_by_command(exec, probed).await,
            (None, Some(get), None) => check_by_http(get).await,
            (None, None, Some(socket)) => check_by_tcp(socket).await,
            _ => Err("the probe needs exactly one of exec, httpGet and tcpSocket".to_owned()),
        }
    };
    timeout(Duration::from_secs(u64::from(seconds)), check)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {seconds} s")))
}

/// A command that runs; dropping it kills its process group.
#[derive(Debug)]
struct Running {
    child: Option<Child>,
    group: Option<Pid>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Not waited for yet, so the number is still that of its group.
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        if !matches!(child.try_wait(), Ok(Some(_))) {
            // Stuck in the kernel, perhaps for ever: the agent does not wait for that.
            std::thread::spawn(move || child.wait());
        }
    }
}

async fn check_by_command(exec: &ExecAction, probed: &Probed) -> Result<(), String> {
    let (program, arguments) = exec.command.split_first().ok_or("exec.command is empty")?;
    let failed = |error: std::io::Error| format!("`{program}` could not be run: {error}");
    let environment = settled_environment(probed).await.ok_or("the pod does not run")?;
    let working_dir = probed.folder.state().map(|state| state.working_dir);
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(working_dir.unwrap_or_else(|| probed.folder.home()))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut running = Running { child: Some(child), group };
    let group = group.ok_or_else(|| format!("`{program}` has no number"))?;
    let end = pidfd_open(group, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
    ended(&end).await.map_err(failed)?;
    let _ = kill_process_group(group, Signal::KILL);
    // It has ended, so this does not block; from now on the number may be another's.
    let mut child = running.child.take().ok_or_else(|| format!("`{program}` is gone"))?;
    let status = child.wait().map_err(failed)?;
    judge(program, status)
}

fn judge(program: &str, status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("`{program}` ended with {status}")) }
}

/// The environment of the pod's main process, which shows none for a moment when it has just become
/// its program.
async fn settled_environment(probed: &Probed) -> Option<Vec<(OsString, OsString)>> {
    for _ in 0..ENVIRONMENT_LOOKS {
        let environment = environment(probed)?;
        if environment.iter().any(|(name, _)| name == POD_FOLDER_VARIABLE) {
            return Some(environment);
        }
        sleep(ENVIRONMENT_LOOK_AGAIN).await;
    }
    // It has changed its environment; so be it.
    environment(probed)
}

/// The environment that the pod's main process was started with.
fn environment(probed: &Probed) -> Option<Vec<(OsString, OsString)>> {
    let main = probed.main?;
    let text = fs::read(format!("/proc/{}/environ", main.pid)).ok()?;
    // Read first, then sure whose it was.
    main.is_alive().then_some(())?;
    let variables = text.split(|byte| *byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        let (name, value) = variable.split_at(at);
        let value = value.get(1..)?;
        Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())))
    });
    Some(variables.collect())
}

async fn connect(host: Option<&str>, port: u16) -> Result<TcpStream, String> {
    let host = host.filter(|host| !host.is_empty()).unwrap_or(DEFAULT_HOST);
    let failed = |error| format!("connecting to {host}:{port} failed: {error}");
    TcpStream::connect((host, port)).await.map_err(failed)
}

async fn check_by_tcp(socket: &TcpSocketAction) -> Result<(), String> {
    connect(socket.host.as_deref(), socket.port).await.map(drop)
}

async fn check_by_http(get: &HttpGetAction) -> Result<(), String> {
    let request = request_of(get)?;
    let mut stream = connect(get.host.as_deref(), get.port).await?;
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
fn request_of(get: &HttpGetAction) -> Result<String, String> {
    let headers = get.http_headers.iter().flat_map(|header| [&header.name, &header.value]);
    let mut texts = headers.chain([&get.path]).chain(get.host.as_ref());
    if texts.any(|text| text.chars().any(char::is_control)) || get.path.contains(' ') {
        return Err("the probe's path, host or headers hold a character that HTTP forbids".into());
    }
    let slash = if get.path.starts_with('/') { "" } else { "/" };
    let mut request = format!("GET {slash}{} HTTP/1.1\r\n", get.path);
    let has = |name: &str| get.http_headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    if !has("host") {
        let host = get.host.as_deref().unwrap_or(DEFAULT_HOST);
        request.push_str(&format!("Host: {host}:{}\r\n", get.port));
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
        let get = HttpGetAction { http_headers: vec![header], port: 1, ..Default::default() };
        assert!(request_of(&get).is_err());
        let get = HttpGetAction { path: "/a b".into(), port: 1, ..Default::default() };
        assert!(request_of(&get).is_err());
    }

    #[test]
    fn a_probe_s_own_headers_replace_the_usual_ones() {
        let header = HttpHeader { name: "host".into(), value: "ocr.local".into() };
        let get = HttpGetAction {
            path: "/ok".into(),
            port: 80,
            http_headers: vec![header],
            ..Default::default()
        };
        let request = request_of(&get).unwrap();
        assert!(request.starts_with("GET /ok HTTP/1.1\r\n") && request.ends_with("\r\n\r\n"));
        assert_eq!(request.to_ascii_lowercase().matches("host:").count(), 1);
    }
}
