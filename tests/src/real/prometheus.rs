//! A real Prometheus that takes remote write, also of samples that are two days old.

use super::http::request;
use super::process::{Process, free_port, wait_until};
use anyhow::Context;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// It starts in a second; with a write-ahead log to read on a busy machine it needs longer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A query over a day of a few series takes milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What `docs/sinks.md` tells to configure.
const CONFIGURATION: &str = "\
storage:
  tsdb:
    out_of_order_time_window: 48h
";

/// A Prometheus with a folder of its own.
#[derive(Debug)]
pub struct Prometheus {
    folder: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
    process: Option<Process>,
}

impl Prometheus {
    /// One in `folder` that does not run yet.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("prometheus.yml"), CONFIGURATION)?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        Ok(Self { folder: folder.to_owned(), address, process: None })
    }

    /// Where samples are written to.
    #[must_use]
    pub fn write_url(&self) -> String {
        format!("http://{}/api/v1/write", self.address)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed (`tests/install.sh` does that) or does not start.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", self.folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", self.folder.join("data").display()))
            .arg(format!("--web.listen-address={}", self.address))
            .args(["--web.enable-remote-write-receiver", "--log.level=warn"]);
        let process = Process::start(&mut command, &self.folder.join("prometheus.log"));
        let process = process.context("tests/install.sh installs it")?;
        let address = self.address;
        let process = self.process.insert(process);
        wait_until("Prometheus is ready", START_TIMEOUT, || {
            anyhow::ensure!(process.runs(), "it has ended: {}", process.log());
            Ok(request(address, "GET", "/-/ready", &[], ANSWER_TIMEOUT)?.status == 200)
        })
    }

    /// Kills it with signal 9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The raw samples of each series that `selector` finds in the last `hours`, as it holds them:
    /// milliseconds and value.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn samples(
        &self,
        selector: &str,
        hours: u32,
    ) -> anyhow::Result<BTreeMap<String, Vec<(u64, f64)>>> {
        let query = percent_encoded(&format!("{selector}[{hours}h]"));
        let path = format!("/api/v1/query?query={query}");
        let answer = request(self.address, "GET", &path, &[], ANSWER_TIMEOUT)?.json()?;
        let found =
            answer.pointer("/data/result").and_then(Value::as_array).context("no result")?;
        found.iter().map(series_of).collect()
    }
}

fn series_of(found: &Value) -> anyhow::Result<(String, Vec<(u64, f64)>)> {
    let labels = found.get("metric").and_then(Value::as_object).context("no labels")?;
    let name = labels.get("__name__").and_then(|name| name.as_str()).unwrap_or_default();
    let others = labels.iter().filter(|(label, _)| *label != "__name__");
    let text = |(label, value): (&String, &Value)| {
        format!("{label}={}", value.as_str().unwrap_or_default())
    };
    let others: Vec<String> = others.map(text).collect();
    let values = found.get("values").and_then(Value::as_array).context("no values")?;
    let sample = |pair: &Value| {
        let seconds: f64 =
            pair.get(0).and_then(Value::as_f64).context("a time that is no number")?;
        let value: f64 =
            pair.get(1).and_then(Value::as_str).context("a value that is no text")?.parse()?;
        // Prometheus says seconds with three places.
        Ok((format!("{:.0}", seconds * 1000.0).parse()?, value))
    };
    let samples = values.iter().map(sample).collect::<anyhow::Result<_>>()?;
    Ok((format!("{name}{{{}}}", others.join(",")), samples))
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
