//! A node whose pods are containers of a real containerd, with its hub; and what it is to run.

use super::work_folder;
use crate::real::agent::Agent;
use crate::real::containerd::Containerd;
use crate::real::hub::Hub;
use crate::real::process::free_port;
use std::path::Path;
use std::time::Duration;

/// Fifty pods on two cores take half a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// Hub, agent and containerd, each a process with a folder of its own.
pub(super) struct Node {
    pub(super) hub: Hub,
    pub(super) agent: Agent,
    pub(super) containerd: Containerd,
    _folder: tempfile::TempDir,
}

impl Node {
    /// An enrolled agent that does not run yet, a hub and a containerd that do. Telemetry as by default.
    pub(super) fn new() -> anyhow::Result<Self> {
        let folder = work_folder()?;
        let containerd = Containerd::start()?;
        let mut hub = Hub::new(&folder.path().join("hub"))?;
        hub.start()?;
        let agent = Agent::new(&folder.path().join("node"), "mast-17")?;
        agent.enroll(&hub)?;
        let node = Self { hub, agent, containerd, _folder: folder };
        node.run_pods_by(&node.containerd.socket())?;
        Ok(node)
    }

    /// From its next start on the agent finds the container runtime behind this socket.
    pub(super) fn run_pods_by(&self, socket: &Path) -> anyhow::Result<()> {
        self.agent.configure(10_000, 6)?;
        self.agent.use_cri(socket, &self.containerd.cgroup)
    }

    /// Waits until so many pods are there, all ready.
    pub(super) fn wait_until_ready(&self, pods: usize) -> anyhow::Result<()> {
        self.agent.wait_for("all pods are ready", PATIENCE, |status| all_ready(status, pods))
    }

    /// The power fails, and comes back to containerd, which answers when this returns. The agent is not started.
    pub(super) fn cut_power(&mut self) -> anyhow::Result<()> {
        self.agent.cut_power();
        self.containerd.cut_power()?;
        self.containerd.resume()
    }
}

pub(super) fn all_ready(status: &serde_json::Value, count: usize) -> bool {
    let pods = status.pointer("/pods").and_then(serde_json::Value::as_array);
    pods.is_some_and(|pods| pods.len() == count && pods.iter().all(|pod| pod["ready"] == true))
}

/// A workload whose pods sleep.
pub(super) fn sleepers(name: &str, replicas: u32) -> String {
    workload(name, replicas, "command: [sleep, '100000']")
}

/// A workload of one pod that is asked every 10 s over HTTP whether it is ready, and by a command whether it lives.
pub(super) fn probed(name: &str) -> anyhow::Result<String> {
    let port = free_port()?;
    let container = format!(
        "command: [httpd, -f, -p, '127.0.0.1:{port}', -h, /www]
        readinessProbe: {{httpGet: {{port: {port}, path: /ok}}, periodSeconds: 10}}
        livenessProbe: {{exec: {{command: ['true']}}, periodSeconds: 10, timeoutSeconds: 5}}"
    );
    Ok(workload(name, 1, &container))
}

fn workload(name: &str, replicas: u32, container: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: {name}}}
spec:
  placement: {{replicasPerNode: {replicas}}}
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {image}
        {container}
",
        image = Containerd::image(),
    )
}
