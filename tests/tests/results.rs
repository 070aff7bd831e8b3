//! Results of real pods: over both roads, in both forms, through kills of agent and hub.
//!
//! Pods are shells that do as the test says, so that what reaches the agent comes from processes of
//! theirs. The hub acknowledges; what the agent still holds is what `status` says.

// Helpers of tests are tests as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
// The number of series is worth seeing.
#![allow(clippy::print_stderr)]

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::real::agent::Agent;
use tests::real::http::request;
use tests::real::hub::Hub;
use tests::real::process::wait_until;
use tests::story::{Answers, Story, in_session, number, questions};

const PATIENCE: Duration = Duration::from_secs(60);

/// A pod that runs each script that is put into its home, one after the other.
const WORKER: &str = r#"while :; do
  if [ -f go ]; then sh ./go >out 2>&1; mv go went; fi
  sleep 0.02
done"#;

/// Posts to the pod's own socket; what follows are arguments of curl and the query.
const CURL: &str = r#"post() { q="$1"; shift; curl -s -m 20 -w ' %{http_code}\n' --unix-socket "$HINTERLAND_RESULTS_SOCKET" "$@" "http://agent/v1/results$q"; }
post_tcp() { q="$1"; shift; curl -s -m 20 -w ' %{http_code}\n' -H "Authorization: Bearer $HINTERLAND_RESULTS_TOKEN" "$@" "$HINTERLAND_RESULTS_URL$q"; }
"#;

fn manifest(name: &str, results: &str) -> String {
    let worker = WORKER.replace('\n', "\n              ");
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: {name}\n\
         spec:\n{results}  template:\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers:\n        - name: worker\n          command:\n            - sh\n            - -c\n            \
         - |\n              {worker}\n"
    )
}

fn home(agent: &Agent, pod: &str) -> PathBuf {
    agent.state().join("pods").join(format!("default_{pod}-0")).join("home")
}

/// What the shim notes of the start that runs: another start has another.
fn start_of(agent: &Agent, pod: &str) -> String {
    fs::read_to_string(home(agent, pod).parent().unwrap().join("state.json")).unwrap()
}

/// Runs a script within the pod; what it printed.
fn within(agent: &Agent, pod: &str, script: &str) -> String {
    let home = home(agent, pod);
    let _ = fs::remove_file(home.join("went"));
    fs::write(home.join("new"), format!("{CURL}{script}\n")).unwrap();
    fs::rename(home.join("new"), home.join("go")).unwrap();
    wait_until("the pod has run the script", PATIENCE, || Ok(home.join("went").exists())).unwrap();
    fs::read_to_string(home.join("out")).unwrap()
}

fn ready(status: &Value, name: &str) -> bool {
    let pods = status.pointer("/pods").and_then(Value::as_array);
    let pod = format!("default/{name}-0");
    pods.is_some_and(|pods| pods.iter().any(|p| p["pod"] == *pod && p["ready"] == true))
}

fn held(status: &Value) -> u64 {
    number(status, "/outbox/result_records")
}

/// Where the hub puts results.
fn default_sink(folder: &Path) -> String {
    let folder = folder.join("delivered");
    format!("[[sinks]]\nname = \"default\"\nkind = \"files\"\nfolder = \"{}\"\n", folder.display())
}

/// A hub and a node with these pods, in session.
fn scene(folder: &Path, pods: &[(&str, &str)]) -> (Hub, Agent) {
    let mut hub = Hub::new(&folder.join("hub")).unwrap();
    for (name, results) in pods {
        hub.apply(&format!("{name}.yaml"), &manifest(name, results)).unwrap();
    }
    hub.configure(&default_sink(folder)).unwrap();
    hub.start().unwrap();
    let mut agent = Agent::new(&folder.join("node"), "mast-17").unwrap();
    agent.enroll(&hub).unwrap();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    agent
        .wait_for("in session with its pods", PATIENCE, |status| {
            in_session(status) && pods.iter().all(|(name, _)| ready(status, name))
        })
        .unwrap();
    (hub, agent)
}

fn restart(agent: &mut Agent, pod: &str) {
    agent.kill();
    agent.start().unwrap();
    agent.wait_until_up().unwrap();
    agent.wait_for("the pod is adopted", PATIENCE, |status| ready(status, pod)).unwrap();
}

fn delivered(hub: &Hub, agent: &Agent) {
    agent
        .wait_for("every result is acknowledged", PATIENCE, |status| {
            in_session(status) && held(status) == 0
        })
        .unwrap();
    let view = hub.node(&agent.node).unwrap();
    assert_eq!(number(&view, "/records_lost"), 0, "{view}");
}

/// Topic and body of each result that lies at the default sink, which is the pod's own.
fn at_the_sink(folder: &Path) -> Vec<Value> {
    let files = fs::read_dir(folder.join("delivered")).unwrap().map(|entry| entry.unwrap().path());
    let text: String = files.map(|file| fs::read_to_string(file).unwrap()).collect();
    let results = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let shown = |result: Value| {
        assert_eq!(result["pod"], "default/worker-0", "{result}");
        json!([result["topic"], result["body"]])
    };
    results.map(shown).collect()
}

#[test]
fn a_pod_posts_json_and_cbor_over_its_socket_and_over_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, agent) = scene(folder.path(), &[("worker", "")]);
    let script = r#"
post '?topic=counts/gate-3' --data '{"n": 1}'
post_tcp '?topic=counts/gate-3&time=2026-11-24T18:40:10Z' --data '{"n": 2}'
post '' -H 'Content-Type: application/json' --data '[{"topic":"a","body":1},{"topic":"b","time":5,"body":[2]}]'
printf '\243\145topic\141a\144time\005\144body\371\076\000' >one.cbor
post '' -H 'Content-Type: application/cbor' --data-binary @one.cbor
post_tcp '' -H 'Content-Type: application/cbor' --data-binary @one.cbor
printf '{"topic":"a","body":1}\n{"topic":"a","body":2}\n{"topic":"a","body":3}\n' >lines
post_tcp '' -H 'Content-Type: application/x-ndjson' --data-binary @lines"#;
    let out = within(&agent, "worker", script);
    assert_eq!(out.lines().filter(|line| line.trim() == "202").count(), 6, "{out}");
    let status = agent.status().unwrap();
    assert_eq!(number(&status, "/outbox/results_taken"), 9, "{status}");
    delivered(&hub, &agent);
    let mut there = at_the_sink(folder.path());
    there.sort_by_key(ToString::to_string);
    let mut posted = vec![
        json!(["counts/gate-3", {"n": 1}]),
        json!(["counts/gate-3", {"n": 2}]),
        json!(["a", 1]),
        json!(["b", [2]]),
        json!(["a", 1.5]),
        json!(["a", 1.5]),
        json!(["a", 1]),
        json!(["a", 2]),
        json!(["a", 3]),
    ];
    posted.sort_by_key(ToString::to_string);
    assert_eq!(there, posted);
}

#[test]
fn what_a_pod_does_wrong_is_said_and_taken_from_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let routes = "  results:\n    - topic: 'counts/*'\n";
    let (_hub, agent) = scene(folder.path(), &[("worker", routes), ("other", "")]);
    let out = within(
        &agent,
        "worker",
        r#"post '?topic=counts/a' --data hello
post '?topic=alarms' --data 1
post '?topic=counts/a' -H 'Content-Type: text/plain' --data 1
head -c 9000 /dev/zero | tr '\0' 1 >large
post '?topic=counts/a' --data-binary @large
HINTERLAND_RESULTS_TOKEN=0123456789abcdef0123456789abcdef0123456789abcdef
post_tcp '?topic=counts/a' --data 1
env >env"#,
    );
    let codes: Vec<&str> = out.lines().map(str::trim).filter(|line| line.len() == 3).collect();
    assert_eq!(codes, ["400", "404", "415", "413", "401"], "{out}");
    // Another pod at this one's socket, and a process that is of none.
    let socket = home(&agent, "worker").parent().unwrap().join("results");
    let foreign = format!("HINTERLAND_RESULTS_SOCKET='{}'\n", socket.display());
    let out = within(&agent, "other", &(foreign + "post '?topic=counts/a' --data 1"));
    assert!(out.trim_end().ends_with("403"), "{out}");
    let curl = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--data", "1", "--unix-socket"])
        .arg(&socket)
        .arg("http://agent/v1/results?topic=counts/a")
        .output();
    assert_eq!(curl.expect("tests/install.sh installs curl").stdout, b"403");
    assert_eq!(number(&agent.status().unwrap(), "/outbox/results_taken"), 0);
}

#[test]
fn a_token_ends_with_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, agent) = scene(folder.path(), &[("worker", "")]);
    let print = "echo $HINTERLAND_RESULTS_TOKEN";
    let first = within(&agent, "worker", print);
    // Another revision is another start.
    let changed = manifest("worker", "").replace("sleep 0.02", "sleep 0.03");
    hub.apply("worker.yaml", &changed).unwrap();
    wait_until("the pod was replaced", PATIENCE, || {
        let status = agent.status()?;
        Ok(ready(&status, "worker") && within(&agent, "worker", print) != first)
    })
    .unwrap();
    let old = format!("HINTERLAND_RESULTS_TOKEN={first}post_tcp '?topic=a' --data 1");
    let out = within(&agent, "worker", &old);
    assert!(out.trim_end().ends_with("401"), "{out}");
    let out = within(&agent, "worker", "post_tcp '?topic=a' --data 1");
    assert!(out.trim_end().ends_with("202"), "{out}");
}

#[test]
fn what_was_answered_with_202_outlives_kills_of_the_agent_before_it_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, mut agent) = scene(folder.path(), &[("worker", "")]);
    let pod = start_of(&agent, "worker");
    hub.kill();
    let mut answered = 0;
    for round in 0..4 {
        let lines = "for n in 1 2 3 4 5 6 7 8 9 10; do echo $n; done >lines\n\
                     post '?topic=a' -H 'Content-Type: application/x-ndjson' --data-binary @lines\n\
                     post_tcp '?topic=b' --data 1";
        let out = within(&agent, "worker", lines);
        assert_eq!(out.matches(" 202").count() + out.matches("\n202").count(), 2, "{out}");
        answered += 11;
        restart(&mut agent, "worker");
        assert_eq!(held(&agent.status().unwrap()), answered, "round {round}");
    }
    assert_eq!(start_of(&agent, "worker"), pod, "the pod was started again");
    hub.start().unwrap();
    delivered(&hub, &agent);
}

#[test]
fn results_posted_without_a_pause_lose_nothing_that_was_answered_when_the_agent_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, mut agent) = scene(folder.path(), &[("worker", "")]);
    hub.kill();
    // In the background: it goes on posting while the agent is killed and started again.
    let script = r#"( n=0; while [ -f going ]; do
  post '?topic=a' --data $n >answer && tail -c 5 answer | grep -q 202 && n=$((n+1)) && echo $n >answered
done; echo yes >ended ) >/dev/null 2>&1 &"#;
    within(&agent, "worker", &format!("touch going\n{script}"));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(700));
        restart(&mut agent, "worker");
    }
    let home = home(&agent, "worker");
    fs::remove_file(home.join("going")).unwrap();
    wait_until("the last post was answered", PATIENCE, || Ok(home.join("ended").exists())).unwrap();
    let answered = fs::read_to_string(home.join("answered")).unwrap();
    let answered: u64 = answered.trim().parse().unwrap();
    let kept = held(&agent.status().unwrap());
    // A post whose answer was lost with the agent was taken and is posted again.
    assert!(answered > 10 && (answered..=answered + 3).contains(&kept), "{answered} {kept}");
    hub.start().unwrap();
    delivered(&hub, &agent);
}

#[test]
fn thinning_counts_exactly_what_it_leaves_out_and_changes_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let routes = "  results:\n    - {topic: nth, thinning: {everyNth: 5}}\n    \
                  - {topic: latest, thinning: {latestEverySeconds: 3600}}\n    \
                  - {topic: soon, thinning: {latestEverySeconds: 1}}\n    \
                  - {topic: band, thinning: {deadband: {field: /v, by: 0.5}}}\n    - topic: '*'\n";
    let (mut hub, mut agent) = scene(folder.path(), &[("worker", routes)]);
    let pod = start_of(&agent, "worker");
    hub.kill();
    let counts = |agent: &Agent| {
        let status = agent.status().unwrap();
        (number(&status, "/outbox/results_thinned"), held(&status))
    };
    let out = within(
        &agent,
        "worker",
        r#"for n in 1 2 3 4 5 6 7 8 9 10 11 12 13; do post '?topic=nth' --data $n; done
for v in 1 1.2 0.9 1.5 1.4 2; do post '?topic=band' --data "{\"v\":$v}"; done
for n in 1 2 3; do post '?topic=latest' --data $n; done
post '?topic=other' --data 1"#,
    );
    assert_eq!(out.matches("202").count(), 23, "{out}");
    // 13 of `nth` less 3, 6 of `band` less 3, and the first two of `latest`.
    assert_eq!(counts(&agent), (10 + 3 + 2, 3 + 3 + 1));
    restart(&mut agent, "worker");
    // What was held for an hour goes when the agent comes back, and the count goes on.
    wait_until("what was held is in the outbox", PATIENCE, || Ok(counts(&agent).1 == 8)).unwrap();
    within(&agent, "worker", "for n in 14 15 16; do post '?topic=nth' --data $n; done");
    assert_eq!(counts(&agent), (2, 9));
    within(&agent, "worker", "for n in 1 2 3 4; do post '?topic=soon' --data $n; done");
    wait_until("the interval has ended", PATIENCE, || Ok(counts(&agent).1 >= 10)).unwrap();
    let (thinned, held) = counts(&agent);
    // A slow machine may let the interval end among the four.
    assert_eq!(thinned + held, 2 + 9 + 4);
    hub.start().unwrap();
    delivered(&hub, &agent);
    hub.apply("worker.yaml", &manifest("worker", "  results:\n    - topic: only/this\n")).unwrap();
    wait_until("the new routes are in force", PATIENCE, || {
        let out = within(&agent, "worker", "post '?topic=nth' --data 17");
        Ok(out.trim_end().ends_with("404"))
    })
    .unwrap();
    assert_eq!(start_of(&agent, "worker"), pod, "the pod was started again");
}

/// Series of a node at the hub, as Prometheus would read them.
fn series(hub: &Hub, node: &str) -> Result<Vec<String>> {
    let page = request(hub.api, "GET", "/metrics", &[], PATIENCE)?;
    let page = String::from_utf8(page.body)?;
    let label = format!("node=\"{node}\"");
    let of_node = page.lines().filter(|line| line.contains(&label));
    let measured = of_node.filter(|line| !line.starts_with("hinterland_"));
    Ok(measured.map(str::to_owned).collect())
}

#[test]
fn the_example_hands_in_a_result_for_each_answer_and_its_own_metrics_are_in_the_samples() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = Story::new(folder.path(), "mast-17").unwrap();
    story.agent.add_argument("--simulate-gpus=1x8Gi");
    story.hub.configure(&default_sink(folder.path())).unwrap();
    story.join().unwrap();
    story.deploy().unwrap();
    Answers::ask(story.server).unwrap();
    let asked = 2 * questions().len() as u64;
    story
        .agent
        .wait_for("a result for each answer, delivered", PATIENCE, |status| {
            number(status, "/outbox/results_taken") == asked && held(status) == 0
        })
        .unwrap();
    wait_until("the samples have what is to be measured", PATIENCE, || {
        let found = series(&story.hub, "mast-17")?;
        let has = |name: &str| found.iter().any(|line| line.starts_with(name));
        for name in [
            "node_cpu_seconds_total",
            "node_load1",
            "node_memory_MemAvailable_bytes",
            "node_filesystem_avail_bytes",
            "DCGM_FI_DEV_GPU_UTIL",
            "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
            "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS",
            "DCGM_FI_DEV_PCIE_TX_THROUGHPUT",
            "kube_pod_container_status_restarts_total",
            "container_cpu_usage_seconds_total",
            "container_memory_working_set_bytes",
            "file_classifier_requests_total",
            "file_classifier_request_seconds_bucket",
            "file_classifier_request_seconds_sum",
        ] {
            ensure!(has(name), "{name} is not among {found:#?}");
        }
        eprintln!("{} series of a node with one GPU and one pod", found.len());
        Ok((40..=75).contains(&found.len()))
    })
    .unwrap();
}
