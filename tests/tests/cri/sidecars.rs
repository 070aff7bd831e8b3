//! A workload of several containers on a whole node, with hub and agent as processes: the agent is killed while an
//! init container runs, a container crashes beside the others, an init container fails.

use crate::site::{PATIENCE, Site};
use serde_json::Value;
use tests::real::containerd::Containerd;
use tests::real::process::wait_until;

/// Each waits for a file that the test lays where all of them look.
fn manifest() -> String {
    let image = Containerd::image();
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{greeting: hello}}
---
apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: box}}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{{name: v, configMap: {{name: settings}}}}]
      initContainers:
      - name: fetch
        image: {image}
        command: [sh, -c, 'echo $(cat /v/greeting); until test -e /run/hinterland/go; do sleep 0.1; done']
        volumeMounts: [{{name: v, mountPath: /v}}]
      - name: proxy
        image: {image}
        command: [sh, -c, 'echo up; exec sleep 100000']
        restartPolicy: Always
      containers:
      - name: server
        image: {image}
        command: [sh, -c, 'echo up; until test -e /run/hinterland/crash; do sleep 0.1; done; exit 3']
      - name: worker
        image: {image}
        command: [sh, -c, 'echo $(cat /w/greeting); exec sleep 100000']
        volumeMounts: [{{name: v, mountPath: /w}}]
        readinessProbe: {{exec: {{command: [test, -e, /run/hinterland/ready]}}, periodSeconds: 1, timeoutSeconds: 5}}
"
    )
}

/// A workload whose init container fails.
fn failing() -> String {
    let image = Containerd::image();
    format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: failing}}
spec:
  template:
    spec:
      initContainers: [{{name: fetch, image: {image}, command: [sh, -c, 'exit 3']}}]
      containers: [{{name: server, image: {image}, command: [sleep, '100000']}}]
"
    )
}

fn says(pod: &Value, reason: &str, words: &str) -> bool {
    pod["reason"] == reason && pod["message"].as_str().is_some_and(|text| text.contains(words))
}

#[test]
fn an_agent_killed_in_the_middle_goes_on_and_a_crash_is_one_containers_own() {
    let mut site = Site::new();
    site.hub.apply("box.yaml", &manifest()).unwrap();
    let runs = "the init container `fetch`: runs";
    site.wait("the init container runs", |pod| says(pod, "Init:0/2", runs));
    wait_until("it prints", PATIENCE, || Ok(site.log(&["-c", "fetch"]) == "hello\n")).unwrap();

    let before = site.containerd.containers().unwrap();
    site.agent.kill();
    site.agent.start().unwrap();
    site.agent.wait_until_up().unwrap();
    site.wait("it runs still", |pod| says(pod, "Init:0/2", runs));
    assert_eq!(site.containerd.containers().unwrap(), before, "it is the same");

    std::fs::write(site.file("go"), "").unwrap();
    let waits = "the container `worker`: ";
    site.wait("one is not ready", |pod| {
        says(pod, "NotReady", waits) && pod["containers"][2]["ready"] == true
    });
    std::fs::write(site.file("ready"), "").unwrap();
    site.wait("both are", |pod| pod["ready"] == true);
    assert_eq!(site.log(&["-c", "worker"]), "hello\n");

    std::fs::write(site.file("crash"), "").unwrap();
    let ended = "the container `server`: ended with status 3: see its log; is started again after";
    site.wait("one crashes", |pod| says(pod, "CrashLoopBackOff", ended));
    std::fs::remove_file(site.file("crash")).unwrap();
    site.wait("it is back", |pod| pod["ready"] == true);
    site.wait("that was counted", |pod| {
        let restarts = |index: usize| pod["containers"][index]["restarts"].as_u64();
        let [fetch, proxy, server, worker] = [0, 1, 2, 3].map(restarts);
        server >= Some(2)
            && [fetch, proxy, worker] == [Some(0); 3]
            && pod["restarts"].as_u64() == server
    });
    assert!(site.log(&[]).starts_with("up\nup\n"), "{}", site.log(&[]));
    assert_eq!(site.log(&["--container", "proxy"]), "up\n", "the sidecar went on");
    site.hub.withdraw("box.yaml").unwrap();
    site.assert_nothing_is_left();
}

#[test]
fn an_init_container_that_fails_is_said_and_tried_again_later() {
    let site = Site::new();
    site.hub.apply("failing.yaml", &failing()).unwrap();
    let ended =
        "the init container `fetch`: ended with status 3: see its log; is started again after 10 s";
    site.wait("it backs off", |pod| says(pod, "Init:CrashLoopBackOff", ended));
    let restarts = |pod: &Value| pod["restarts"].as_u64().unwrap_or_default();
    site.wait("it is tried again", |pod| restarts(pod) >= 3);
    let longer = "is started again after 20 s";
    site.wait("later than before", |pod| says(pod, "Init:CrashLoopBackOff", longer));
    site.hub.withdraw("failing.yaml").unwrap();
    site.assert_nothing_is_left();
}
