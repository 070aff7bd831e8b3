//! `kubectl proxy` before an API server: plain HTTP on loopback, for what must be measured in milliseconds.

use super::http::request;
use super::process::{Process, free_port, wait_until};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const START_TIMEOUT: Duration = Duration::from_secs(30);

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A running proxy.
#[derive(Debug)]
pub struct KubernetesProxy {
    address: SocketAddr,
    _process: Process,
}

impl KubernetesProxy {
    /// One by `program kubectl`, as whom `kubeconfig` says.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn start(program: &Path, kubeconfig: &Path, log: &Path) -> anyhow::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut command = Command::new(program);
        command.args(["kubectl", "proxy", &format!("--port={}", address.port())]);
        command.env("KUBECONFIG", kubeconfig);
        let process = Process::start(&mut command, log)?;
        wait_until("the proxy answers", START_TIMEOUT, || {
            Ok(request(address, "GET", "/readyz", &[], ANSWER_TIMEOUT)?.status == 200)
        })?;
        Ok(Self { address, _process: process })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Creates an object below `path`.
    ///
    /// # Errors
    /// Why the server refuses it.
    pub fn create(&self, path: &str, object: &Value) -> anyhow::Result<()> {
        let body = serde_json::to_vec(object)?;
        let answer = request(self.address, "POST", path, &body, ANSWER_TIMEOUT)?;
        let words = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 201, "status {}: {words}", answer.status);
        Ok(())
    }

    /// Begins to watch the objects below `path`, from those that there are.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn watch(&self, path: &str) -> anyhow::Result<Watch> {
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        // An answer to HTTP/1.0 comes without chunks: a line is an event.
        let head = format!("GET {path}?watch=true HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            ensure!(lines.read_line(&mut line)? > 0, "the watch ended before it began");
        }
        Ok(Watch { lines })
    }
}

/// A watch.
#[derive(Debug)]
pub struct Watch {
    lines: BufReader<TcpStream>,
}

impl Watch {
    /// Waits until an object is as `holds` says.
    ///
    /// # Errors
    /// When none is in time.
    pub fn wait_for(&mut self, holds: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.lines.read_line(&mut line).context("no event came in time")?;
            ensure!(read > 0, "the watch has ended");
            let event: Value = serde_json::from_str(&line)?;
            if event.get("object").is_some_and(&holds) {
                return Ok(());
            }
        }
    }
}
