//! A real hub: process, folder, manifests, API.

use super::binaries::binary;
use super::http::{Answer, request};
use super::process::{Process, free_port, log_at, wait_until};
use anyhow::Context;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A hub answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A hub starts and stops in a second; a busy machine needs longer.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A hub with a folder of its own.
#[derive(Debug)]
pub struct Hub {
    folder: PathBuf,
    /// Where nodes connect.
    pub mqtt: SocketAddr,
    /// Where the API is.
    pub api: SocketAddr,
    /// Where nodes are told to connect.
    advertise: SocketAddr,
    /// At once, unless a figure asks for what a hub does by itself.
    acknowledge_after_ms: u64,
    process: Option<Process>,
}

impl Hub {
    /// A hub in `folder` that does not run yet, with an empty folder of manifests.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.to_owned();
        fs::create_dir_all(folder.join("manifests"))?;
        let mqtt = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let api = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let hub =
            Self { folder, mqtt, api, advertise: mqtt, acknowledge_after_ms: 0, process: None };
        hub.write_config()?;
        Ok(hub)
    }

    /// From the next start on acknowledgements are gathered, as a hub does by itself.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn gather_acknowledgements(&mut self) -> anyhow::Result<()> {
        self.acknowledge_after(hub::core::DELAY_MS_MAX)
    }

    /// From the next start on acknowledgements are gathered for so long.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn acknowledge_after(&mut self, ms: u64) -> anyhow::Result<()> {
        self.acknowledge_after_ms = ms;
        self.write_config()
    }

    /// From the next start on the hub uses the broker at this address instead of its own.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn use_broker(&mut self, broker: SocketAddr) -> anyhow::Result<()> {
        (self.mqtt, self.advertise) = (broker, broker);
        self.write_config()?;
        let path = self.folder.join("hub.toml");
        let text = fs::read_to_string(&path)?;
        Ok(fs::write(path, format!("broker = \"mqtts://{broker}\"\n{text}"))?)
    }

    /// From the next start on the hub's configuration has these tables as well.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn configure(&self, tables: &str) -> anyhow::Result<()> {
        let path = self.folder.join("hub.toml");
        let text = fs::read_to_string(&path)?;
        Ok(fs::write(path, format!("{text}\n{tables}"))?)
    }

    /// From the next start on nodes are told to connect here, where something passes them on to
    /// [`Self::mqtt`]; the broker's certificate is made out to this address.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn advertise(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        self.advertise = address;
        self.write_config()
    }

    fn write_config(&self) -> anyhow::Result<()> {
        let folder = self.folder.display();
        let text = format!(
            "state_dir = \"{folder}/state\"\nmanifests = \"{folder}/manifests\"\n\
             listen = \"{mqtt}\"\nadvertise = \"{advertise}\"\napi = \"{api}\"\n\
             acknowledge_after_ms = {acknowledge}\n",
            acknowledge = self.acknowledge_after_ms,
            mqtt = self.mqtt,
            advertise = self.advertise,
            api = self.api,
        );
        Ok(fs::write(self.folder.join("hub.toml"), text)?)
    }

    /// A command of the hub's program, told of this hub.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(binary("hub")?);
        command
            .arg("--config")
            .arg(self.folder.join("hub.toml"))
            .args(arguments)
            .env("HINTERLAND_HUB_API", format!("http://{}", self.api));
        Ok(command)
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.begin()?;
        self.wait_for_status("/readyz", 200)
    }

    /// Starts the process; does not wait.
    ///
    /// # Errors
    /// When the program can't be started.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        let mut command = self.command(&["run"])?;
        self.process = Some(Process::start(&mut command, &self.log_path())?);
        Ok(())
    }

    /// Waits until the API answers a question with this status.
    ///
    /// # Errors
    /// When it does not in time, or the process has ended.
    pub fn wait_for_status(&mut self, path: &str, status: u16) -> anyhow::Result<()> {
        let (api, process) = (self.api, self.process.as_mut());
        let process = process.context("the hub was not started")?;
        wait_until(&format!("{path} says {status}"), START_TIMEOUT, || {
            anyhow::ensure!(process.runs(), "the hub has ended: {}", process.log());
            Ok(request(api, "GET", path, &[], ANSWER_TIMEOUT)?.status == status)
        })
    }

    /// Stops the process as a service manager does; its exit status, if it was no signal that ended
    /// it.
    ///
    /// # Errors
    /// When it does not run or does not stop in time.
    pub fn terminate(&mut self) -> anyhow::Result<Option<i32>> {
        let mut process = self.process.take().context("the hub was not started")?;
        process.terminate(START_TIMEOUT).with_context(|| process.log())
    }

    /// Kills the process with signal 9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The process's number, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// What its processes have printed, also those that have ended.
    #[must_use]
    pub fn log(&self) -> String {
        log_at(&self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("hub.log")
    }

    /// The folder of keys and store.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Puts a manifest into the folder, whole or not at all.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn apply(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let temporary = self.folder.join(format!("{name}.new"));
        fs::write(&temporary, text)?;
        Ok(fs::rename(temporary, self.folder.join("manifests").join(name))?)
    }

    /// Takes a manifest out of the folder.
    ///
    /// # Errors
    /// When it is not there.
    pub fn withdraw(&self, name: &str) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.folder.join("manifests").join(name))?)
    }

    /// Asks the API.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn ask(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        request(self.api, "GET", path, &[], ANSWER_TIMEOUT)?.json()
    }

    /// Tells the API something.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn tell(&self, path: &str, body: &[u8]) -> anyhow::Result<Answer> {
        request(self.api, "POST", path, body, ANSWER_TIMEOUT)
    }

    /// What the hub knows of a node.
    ///
    /// # Errors
    /// When it does not know the node.
    pub fn node(&self, node: &str) -> anyhow::Result<serde_json::Value> {
        self.ask(&format!("/v1/nodes/{node}"))
    }

    /// Waits until `holds` of what the hub knows of a node.
    ///
    /// # Errors
    /// When it does not hold in time.
    pub fn wait_for_node(
        &self,
        node: &str,
        what: &str,
        timeout: Duration,
        holds: impl Fn(&serde_json::Value) -> bool,
    ) -> anyhow::Result<()> {
        wait_until(what, timeout, || {
            let view = self.node(node)?;
            let held = holds(&view);
            if held { Ok(true) } else { anyhow::bail!("the hub says {view}") }
        })
    }
}
