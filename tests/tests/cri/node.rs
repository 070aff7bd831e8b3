//! A whole node: hub, agent and containerd as processes, and a workload that is declared.

use crate::site::Site;
use tests::real::containerd::Containerd;

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

#[test]
fn a_workload_runs_in_containers_and_is_back_after_a_power_cut_with_no_hub_and_no_network() {
    let mut site = Site::new();
    site.hub.apply("box.yaml", &manifest(Containerd::image())).unwrap();
    site.wait_ready("both pods are ready", 2);
    assert_eq!(site.containerd.containers().unwrap().len(), 4);

    // The agent alone: what runs is adopted.
    let before = site.containerd.processes();
    site.agent.kill();
    site.agent.start().unwrap();
    site.agent.wait_until_up().unwrap();
    site.wait_ready("both are ready again", 2);
    assert_eq!(site.containerd.processes(), before);

    site.hub.kill();
    site.cut_power();
    site.agent.start().unwrap();
    site.agent.wait_until_up().unwrap();
    site.wait_ready("both pods are back", 2);
    assert_eq!(site.log(&[]), "up\nup\n");

    site.hub.start().unwrap();
    site.hub.withdraw("box.yaml").unwrap();
    site.assert_nothing_is_left();
}
