//! A whole node: hub, agent and containerd as processes, and a workload that is declared.

use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::containerd::Containerd;
use tests::real::hub::Hub;
use tests::real::process::wait_until;

const PATIENCE: Duration = Duration::from_secs(90);

fn manifest(image: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: box}}
spec:
  placement: {{replicasPerNode: 2}}
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {image}
        command: [sh, -c, 'echo up; touch /tmp/ready; exec sleep 100000']
        resources: {{limits: {{cpu: 100m, memory: 16Mi}}}}
        readinessProbe: {{exec: {{command: [test, -e, /tmp/ready]}}, periodSeconds: 1, timeoutSeconds: 5}}
"
    )
}

fn ready(status: &serde_json::Value) -> usize {
    let pods = status["pods"].as_array().into_iter().flatten();
    pods.filter(|pod| pod["ready"] == true).count()
}

#[test]
fn a_workload_runs_in_containers_and_is_back_after_a_power_cut_with_no_hub_and_no_network() {
    let folder = tempfile::tempdir().unwrap();
    let mut containerd = Containerd::start().unwrap();
    let mut hub = Hub::new(&folder.path().join("hub")).unwrap();
    hub.start().unwrap();
    let mut agent = Agent::new(&folder.path().join("node"), "mast-17").unwrap();
    agent.use_cri(&containerd.socket(), &containerd.cgroup).unwrap();
    agent.enroll(&hub).unwrap();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    hub.apply("box.yaml", &manifest(Containerd::image())).unwrap();
    agent.wait_for("both pods are ready", PATIENCE, |status| ready(status) == 2).unwrap();
    assert_eq!(containerd.containers().unwrap().len(), 4);

    // The agent alone: what runs is adopted.
    let before = containerd.processes();
    agent.kill();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    agent.wait_for("both are ready again", PATIENCE, |status| ready(status) == 2).unwrap();
    assert_eq!(containerd.processes(), before);

    hub.kill();
    agent.cut_power();
    containerd.cut_power().unwrap();
    containerd.resume().unwrap();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    agent.wait_for("both pods are back", PATIENCE, |status| ready(status) == 2).unwrap();
    let output = agent.command(&["logs", "default/box-0"]).unwrap().output().unwrap();
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(log, "up\nup\n", "{}", String::from_utf8_lossy(&output.stderr));

    hub.start().unwrap();
    hub.withdraw("box.yaml").unwrap();
    wait_until("nothing of them is left", PATIENCE, || {
        let leaks = containerd.leaks()?;
        anyhow::ensure!(leaks.is_empty(), "{leaks:?}");
        Ok(true)
    })
    .unwrap();
}
