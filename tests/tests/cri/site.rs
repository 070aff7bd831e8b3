//! A whole node, with hub and agent as processes and a containerd of its own.

use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::containerd::Containerd;
use tests::real::hub::Hub;
use tests::real::process::wait_until;

/// Nothing here takes this long on a machine that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The node and its hub. What is declared goes to both.
pub(crate) struct Site {
    _folder: tempfile::TempDir,
    pub(crate) containerd: Containerd,
    pub(crate) hub: Hub,
    pub(crate) agent: Agent,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::configured(&[])
    }

    /// One whose agent has these tables in its configuration.
    pub(crate) fn configured(tables: &[&str]) -> Self {
        Self::on(Containerd::start().unwrap(), tables)
    }

    /// One whose pods have networks of their own.
    pub(crate) fn with_network() -> Self {
        let mut containerd = Containerd::start().unwrap();
        containerd.take_network().unwrap().configure().unwrap();
        Self::on(containerd, &["network = \"pod\""])
    }

    fn on(containerd: Containerd, tables: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut hub = Hub::new(&folder.path().join("hub")).unwrap();
        hub.start().unwrap();
        let mut agent = Agent::new(&folder.path().join("node"), "mast-17").unwrap();
        agent.use_cri(&containerd.socket(), &containerd.cgroup).unwrap();
        tables.iter().for_each(|table| agent.add_table(table).unwrap());
        agent.enroll(&hub).unwrap();
        agent.start().unwrap();
        agent.wait_until_up().unwrap();
        Self { _folder: folder, containerd, hub, agent }
    }

    /// Waits until `holds` of the only pod.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        self.agent.wait_for(what, PATIENCE, |status| holds(&status["pods"][0])).unwrap();
    }

    /// Waits until so many pods are ready.
    #[track_caller]
    pub(crate) fn wait_ready(&self, what: &str, count: usize) {
        self.agent.wait_for(what, PATIENCE, |status| ready(status) == count).unwrap();
    }

    /// A file that all containers of the pod `box-0` see.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.agent.state().join("pods/default_box-0/door").join(name)
    }

    /// The log of the pod `box-0`.
    pub(crate) fn log(&self, container: &[&str]) -> String {
        let arguments = [&["logs", "default/box-0"], container].concat();
        let output = self.agent.command(&arguments).unwrap().output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The power fails: what lay in memory is gone. The container runtime is back, the agent is not.
    pub(crate) fn cut_power(&mut self) {
        self.agent.cut_power();
        self.containerd.cut_power().unwrap();
        self.containerd.resume().unwrap();
    }

    #[track_caller]
    pub(crate) fn assert_nothing_is_left(&self) {
        wait_until("nothing of it is left", PATIENCE, || {
            let leaks = self.containerd.leaks()?;
            anyhow::ensure!(leaks.is_empty(), "{leaks:?}");
            Ok(true)
        })
        .unwrap();
    }
}

/// How many pods of a status are ready.
pub(crate) fn ready(status: &Value) -> usize {
    let pods = status["pods"].as_array().into_iter().flatten();
    pods.filter(|pod| pod["ready"] == true).count()
}
