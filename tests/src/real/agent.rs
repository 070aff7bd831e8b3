//! A real agent: process, folder, shims and pods.

use super::binaries::{binary, binary_folder};
use super::http::request_unix;
use super::hub::Hub;
use super::process::{Process, free_port, kill_all_of, processes_of, wait_until};
use anyhow::{Context, bail};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// An agent with a folder of its own. Dropping it kills all that it started.
#[derive(Debug)]
pub struct Agent {
    folder: PathBuf,
    /// The node's name.
    pub node: String,
    /// Where health and metrics are.
    pub admin: SocketAddr,
    /// Where its pods post their results.
    pub results: SocketAddr,
    process: Option<Process>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Agent {
    /// An agent in `folder` that has not enrolled yet.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn new(folder: &Path, node: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let results = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let agent = Self {
            folder: folder.to_owned(),
            node: node.to_owned(),
            admin,
            results,
            process: None,
            arguments: vec![],
            environment: vec![],
        };
        agent.configure(1_000, 2)?;
        Ok(agent)
    }

    /// Writes the configuration: a sample every so many milliseconds, so many in a batch.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn configure(&self, sample_interval_ms: u64, batch: usize) -> anyhow::Result<()> {
        let text = format!(
            "state_dir = \"{state}\"\nadmin = \"{admin}\"\nresults = \"{results}\"\n[telemetry]\n\
             sample_interval_ms = {sample_interval_ms}\nsamples_per_batch = {batch}\n",
            state = self.state().display(),
            admin = self.admin,
            results = self.results,
        );
        Ok(fs::write(self.folder.join("agent.toml"), text)?)
    }

    /// Pods are run by the container runtime behind `socket`, below this cgroup. After [`Self::configure`].
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn use_cri(&self, socket: &Path, cgroup: &str) -> anyhow::Result<()> {
        let path = self.folder.join("agent.toml");
        let (text, socket) = (fs::read_to_string(&path)?, socket.display());
        let cri = format!("[cri]\nsocket = \"{socket}\"\ncgroup_parent = \"{cgroup}\"\n");
        Ok(fs::write(path, format!("runtime = \"cri\"\n{text}{cri}"))?)
    }

    /// Puts a table into the configuration. After [`Self::configure`].
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn add_table(&self, table: &str) -> anyhow::Result<()> {
        let path = self.folder.join("agent.toml");
        let text = fs::read_to_string(&path)?;
        Ok(fs::write(path, format!("{text}{table}\n"))?)
    }

    /// A further argument of `run`.
    pub fn add_argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// A further environment variable of the process.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The folder of keys, store and pods.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// A command of the agent's program, told of this agent.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(binary("edge-agent")?);
        // Pods find the example's server beside the agent, as an installation puts it into PATH.
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", binary_folder()?.display());
        command
            .arg("--config")
            .arg(self.folder.join("agent.toml"))
            .args(arguments)
            .env("PATH", path)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    fn run_command(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let output = self.command(arguments)?.output()?;
        if !output.status.success() {
            bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.stdout)
    }

    /// Makes keys and has `hub` sign them.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn enroll(&self, hub: &Hub) -> anyhow::Result<()> {
        let request = self.run_command(&["enroll", "--node", &self.node])?;
        let answer = hub.tell("/v1/nodes/sign", &request)?;
        if answer.status != 200 {
            bail!("the hub did not sign: {}", String::from_utf8_lossy(&answer.body));
        }
        let path = self.folder.join("enrollment.json");
        fs::write(&path, &answer.body)?;
        let path = path.to_str().context("the folder's name is not text")?;
        self.run_command(&["enroll", "--accept", path]).map(drop)
    }

    /// Starts the process; does not wait.
    ///
    /// # Errors
    /// When the program can't be started.
    pub fn start(&mut self) -> anyhow::Result<Instant> {
        let mut arguments = vec!["run"];
        arguments.extend(self.arguments.iter().map(String::as_str));
        let mut command = self.command(&arguments)?;
        let begin = Instant::now();
        self.process = Some(Process::start(&mut command, &self.folder.join("agent.log"))?);
        Ok(begin)
    }

    /// Waits until the agent answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_until_up(&mut self) -> anyhow::Result<()> {
        wait_until("the agent answers", Duration::from_secs(20), || {
            let process = self.process.as_mut().context("it was not started")?;
            anyhow::ensure!(process.runs(), "it has ended: {}", process.log());
            Ok(self.status().is_ok())
        })
    }

    /// Kills the agent alone with signal 9: shims and pods go on.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the agent as a service manager does.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(mut process) => process.terminate(Duration::from_secs(10)).map(drop),
            None => Ok(()),
        }
    }

    /// The power fails: agent, shims and pods are killed with signal 9.
    pub fn cut_power(&mut self) {
        kill_all_of(&self.folder);
        self.process = None;
        kill_all_of(&self.folder);
    }

    /// Every process of this node.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        processes_of(&self.folder)
    }

    /// Those that are `sleep` with an argument that begins so.
    #[must_use]
    pub fn sleepers(&self, seconds: &str) -> Vec<u32> {
        let is_one = |id: &u32| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words.next() == Some(b"sleep")
                && words.next().is_some_and(|word| word.starts_with(seconds.as_bytes()))
        };
        self.processes().into_iter().filter(is_one).collect()
    }

    /// The agent's process number, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// What the agent has printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The agent's status.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> anyhow::Result<serde_json::Value> {
        let socket = self.state().join("admin.sock");
        request_unix(&socket, "/v1/status", Duration::from_secs(5))?.json()
    }

    /// Waits until `holds` of the status.
    ///
    /// # Errors
    /// When it does not hold in time.
    pub fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        holds: impl Fn(&serde_json::Value) -> bool,
    ) -> anyhow::Result<()> {
        wait_until(what, timeout, || {
            let status = self.status()?;
            if holds(&status) { Ok(true) } else { bail!("the agent says {status}") }
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        kill_all_of(&self.folder);
    }
}
