//! Logs and commands asked for at the hub and answered by a node, whose pods are processes: hub, broker and agent as
//! they are installed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::real::agent::Agent;
use tests::real::hub::Hub;
use tests::real::process::wait_until;
use tests::real::proxy::{Proxy, Shape};
use tests::story::in_session;

const PATIENCE: Duration = Duration::from_secs(90);

const NODE: &str = "mast-17";
const POD: &str = "default/box-0";

/// Logs of a few kilobytes, so that they are rotated within seconds; commands are allowed.
const TABLES: &str =
    "[pod_logs]\nmax_size = \"4Ki\"\nmax_files = 4\n[remote_access]\nexec = true\n";

fn manifest(script: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: box}}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        command: [bash, -c, '{script}']
        env: [{{name: MODEL, value: m}}]
        resources: {{limits: {{memory: 256Mi}}}}
"
    )
}

/// Counts, about a hundred lines a second.
const COUNTING: &str = "n=0; while :; do for i in 0 1 2 3 4 5 6 7 8 9; do echo line $n; n=$((n+1)); done; sleep 0.1; done";

const SLEEPING: &str = "echo up; exec sleep 4200";

struct Site {
    hub: Hub,
    agent: Agent,
    folder: tempfile::TempDir,
}

impl Site {
    /// A hub and a node with one pod, in session; `prepare` comes before the hub starts.
    fn new(script: &str, prepare: impl FnOnce(&mut Hub) -> Result<()>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut hub = Hub::new(&folder.path().join("hub")).unwrap();
        prepare(&mut hub).unwrap();
        hub.apply("box.yaml", &manifest(script)).unwrap();
        hub.start().unwrap();
        let mut agent = Agent::new(&folder.path().join("node"), NODE).unwrap();
        agent.add_table(TABLES).unwrap();
        agent.enroll(&hub).unwrap();
        agent.start().unwrap();
        agent.wait_until_up().unwrap();
        let site = Self { hub, agent, folder };
        site.wait_for_session();
        site
    }

    fn wait_for_session(&self) {
        let settled = |status: &Value| in_session(status) && status["pods"][0]["ready"] == true;
        self.agent.wait_for("in session with its pod", PATIENCE, settled).unwrap();
        let reported = |view: &Value| view["pods"][0]["ready"] == true && view["state"] == "Online";
        self.hub.wait_for_node(NODE, "the hub knows", PATIENCE, reported).unwrap();
    }

    fn hub_says(&self, arguments: &[&str]) -> Said {
        Said::by(self.hub.command(arguments).unwrap())
    }

    fn exec(&self, options: &[&str], command: &[&str]) -> Said {
        self.hub_says(&[&["exec", NODE, POD], options, &["--"], command].concat())
    }

    fn node_says(&self, arguments: &[&str]) -> Said {
        Said::by(self.agent.command(arguments).unwrap())
    }

    fn audit(&self) -> Vec<Value> {
        let said = self.node_says(&["audit", "--output", "json"]);
        serde_json::from_str(&said.out).expect(&said.err)
    }

    /// A command of the hub that goes on, and what it has printed so far.
    fn begin(&self, arguments: &[&str]) -> Going {
        let path = self.folder.path().join("followed");
        let output = File::create(&path).unwrap();
        let mut command = self.hub.command(arguments).unwrap();
        let child = command.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        Going { child, path: path.display().to_string() }
    }
}

/// What a command said, and its exit status.
#[derive(Debug)]
struct Said {
    out: String,
    err: String,
    status: Option<i32>,
}

impl Said {
    fn by(mut command: Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { out: text(&output.stdout), err: text(&output.stderr), status: output.status.code() }
    }
}

struct Going {
    child: Child,
    path: String,
}

impl Going {
    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    #[track_caller]
    fn wait_until(&self, what: &str, holds: impl Fn(&str) -> bool) {
        wait_until(what, PATIENCE, || {
            let text = self.text();
            let held = holds(&text);
            if held { Ok(true) } else { anyhow::bail!("{}", text.lines().last().unwrap_or("-")) }
        })
        .unwrap();
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The numbers of lines, each of which follows the one before.
#[track_caller]
fn counted(text: &str) -> std::ops::RangeInclusive<u32> {
    let number = |line: &str| line.strip_prefix("line ").expect(line).parse::<u32>().unwrap();
    let numbers: Vec<u32> = text.lines().map(number).collect();
    let gaps: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
    assert!(gaps.is_empty(), "{gaps:?}");
    *numbers.first().expect("no line")..=*numbers.last().unwrap()
}

fn last_line(text: &str) -> u32 {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let last = whole.lines().last().and_then(|line| line.strip_prefix("line "));
    last.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[test]
fn a_log_is_read_from_the_end_by_age_and_followed_over_rotations_and_the_death_of_the_agent() {
    let mut site = Site::new(COUNTING, |_| Ok(()));
    let followed = site.begin(&["logs", NODE, POD, "--tail", "1", "--follow"]);
    followed.wait_until("some lines", |text| last_line(text) > 300);
    // The pod goes on; so does its log, which is read again when the agent is back.
    site.agent.kill();
    std::thread::sleep(Duration::from_secs(1));
    site.agent.start().unwrap();
    site.agent.wait_until_up().unwrap();
    site.wait_for_session();
    followed.wait_until("a few rotations", |text| last_line(text) > 1_500);
    let text = followed.text();
    let (whole, _) = text.rsplit_once('\n').unwrap();
    let notices: Vec<_> = whole.lines().filter(|line| line.starts_with('[')).collect();
    assert!(notices.iter().all(|line| line.contains("when it can be read again")), "{notices:?}");
    let lines: Vec<_> = whole.lines().filter(|line| !line.starts_with('[')).collect();
    counted(&lines.join("\n"));
    drop(followed);

    let tail = site.hub_says(&["logs", NODE, POD, "--tail", "5"]);
    let five = counted(&tail.out);
    assert_eq!(five.end() - five.start(), 4, "{tail:?}");
    let all = counted(&site.hub_says(&["logs", NODE, POD, "--tail", "10000"]).out);
    let recent = counted(&site.hub_says(&["logs", NODE, POD, "--since", "3s"]).out);
    assert!(recent.start() > all.start() && recent.end() >= all.end(), "{recent:?} of {all:?}");
    let local = counted(&site.node_says(&["logs", POD, "--tail", "700"]).out);
    assert_eq!(local.end() - local.start(), 699);

    // Who follows is recorded once; the agent that came back does not know that.
    let audit = site.audit();
    let readers: Vec<_> = audit.iter().map(|record| record["caller"].as_str().unwrap()).collect();
    assert_eq!(readers.len(), 6, "{readers:?}");
    assert!(readers[0].starts_with("hub: ") && readers[0].contains("on the hub's machine"));
    assert!(readers[5].ends_with(" on the node"), "{readers:?}");
    assert!(site.hub.log().contains("a log is asked for"), "{}", site.hub.log());
}

#[test]
fn a_followed_log_goes_on_after_the_link_was_lost_and_says_what_was_rotated_away_meanwhile() {
    let mut proxy = None;
    let site = Site::new(COUNTING, |hub| {
        let started = Proxy::start(hub.mqtt, Shape::default())?;
        hub.advertise(started.address())?;
        proxy = Some(started);
        Ok(())
    });
    let mut proxy = proxy.unwrap();
    let followed = site.begin(&["logs", NODE, POD, "--tail", "1", "--follow"]);
    followed.wait_until("some lines", |text| last_line(text) > 100);
    proxy.refuse();
    proxy.cut();
    followed.wait_until("the loss is said", |text| text.contains("when it can be read again]"));
    let before = followed.text();
    proxy.accept_again().unwrap();
    followed.wait_until("it goes on", |text| last_line(text) > last_line(&before) + 100);
    // Longer than four files hold.
    proxy.refuse();
    proxy.cut();
    let position = last_line(&followed.text());
    wait_until("the log is rotated away", PATIENCE, || {
        let tail = site.node_says(&["logs", POD, "--tail", "10000"]);
        Ok(*counted(&tail.out).start() > position + 50)
    })
    .unwrap();
    proxy.accept_again().unwrap();
    followed.wait_until("the gap is said", |text| {
        text.contains("[lines are missing here: they were rotated away]\n")
            && last_line(text) > position + 50
    });
    // Between two notices every line is there.
    let text = followed.text();
    let (whole, _) = text.rsplit_once('\n').unwrap();
    for part in whole.split("[lines are missing here: they were rotated away]\n") {
        let lines: Vec<_> = part.lines().filter(|line| !line.starts_with('[')).collect();
        counted(&lines.join("\n"));
    }
}

#[test]
fn a_command_runs_in_the_pod_with_its_outputs_its_exit_code_and_its_deadline() {
    let site = Site::new(SLEEPING, |_| Ok(()));
    let script = "echo $HINTERLAND_POD_NAME $MODEL; pwd; echo no >&2; exit 3";
    let said = site.exec(&[], &["sh", "-c", script]);
    let home = site.agent.state().join("pods/default_box-0/home");
    let home = fs::canonicalize(home).unwrap();
    assert_eq!(said.out, format!("box-0 m\n{}\n", home.display()), "{said:?}");
    assert_eq!((said.err.as_str(), said.status), ("no\n", Some(3)));
    let local = site.node_says(&["exec", POD, "--", "sh", "-c", "echo here; exit 4"]);
    assert_eq!((local.out.as_str(), local.status), ("here\n", Some(4)));

    // It is where the pod is, and not where the agent is.
    let pod = site.agent.sleepers("4200")[0];
    let cgroups = fs::read_to_string(format!("/proc/{pod}/cgroup")).unwrap();
    assert_eq!(site.exec(&[], &["cat", "/proc/self/cgroup"]).out, cgroups);

    let long = site.exec(&[], &["seq", "100000"]);
    assert!(long.out.starts_with("1\n2\n") && long.out.ends_with("99999\n100000\n"));
    assert!(long.out.contains(" bytes are left out here]") && long.out.len() < 12_000);
    let absent = site.exec(&[], &["no-such-program"]);
    assert!(absent.status == Some(127) && absent.err.contains("was not found"), "{absent:?}");
    let other = site.exec(&["-c", "sidecar"], &["true"]);
    assert!(other.err.contains("no container `sidecar`: it has main"), "{other:?}");
    assert_eq!(site.exec(&["-c", "main"], &["true"]).status, Some(0));

    let begin = Instant::now();
    let slow =
        site.exec(&["--timeout", "1s"], &["sh", "-c", "echo begun; sleep 4300 & sleep 4301"]);
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    assert_eq!((slow.out.as_str(), slow.status), ("begun\n", Some(124)), "{slow:?}");
    wait_until("what it started is gone", PATIENCE, || Ok(site.agent.sleepers("43").is_empty()))
        .unwrap();

    let audit = site.audit();
    let outcome = |at: usize| audit[at]["outcome"].to_string();
    assert_eq!(audit[0]["action"]["Exec"]["command"][2], script, "{audit:?}");
    assert_eq!(outcome(0), r#"{"Done":{"exit_code":3}}"#);
    assert!(audit[1]["caller"].as_str().unwrap().ends_with(" on the node"));
    assert_eq!(outcome(audit.len() - 1), r#"{"Done":{"exit_code":null}}"#);
    let shown = site.node_says(&["audit"]).out;
    assert!(shown.contains("exit code 3") && shown.contains("killed at its deadline"), "{shown}");
    let log = site.hub.log();
    assert!(log.contains("a command is asked for") && log.contains("exit code 3"), "{log}");
}

#[test]
fn a_command_ends_with_its_agent_and_its_pod_and_its_record_outlives_both() {
    let mut site = Site::new(SLEEPING, |_| Ok(()));
    let running = site.begin(&["exec", NODE, POD, "--timeout", "5m", "--", "sleep", "4400"]);
    let begun = |site: &Site| Ok(!site.agent.sleepers("44").is_empty());
    let ended = |site: &Site| Ok(site.agent.sleepers("44").is_empty());
    wait_until("it runs", PATIENCE, || begun(&site)).unwrap();
    site.agent.kill();
    wait_until("it has ended with the agent", PATIENCE, || ended(&site)).unwrap();
    running.wait_until("whoever asked is told", |text| text.contains("edge-agent audit"));
    site.agent.start().unwrap();
    site.agent.wait_until_up().unwrap();
    site.wait_for_session();
    assert!(site.agent.sleepers("44").is_empty(), "it ran again");
    assert_eq!(site.audit()[0]["outcome"], "Began", "nobody knows how it ended");

    let running = site.begin(&["exec", NODE, POD, "--timeout", "5m", "--", "sleep", "4401"]);
    wait_until("it runs", PATIENCE, || begun(&site)).unwrap();
    site.hub.withdraw("box.yaml").unwrap();
    running.wait_until("whoever asked is told", |text| text.contains("the pod ended meanwhile"));
    wait_until("it has ended with the pod", PATIENCE, || ended(&site)).unwrap();
    let audit = site.audit();
    assert_eq!(audit.len(), 2, "{audit:?}");
    let gone = site.hub_says(&["logs", NODE, POD, "--follow"]);
    assert!(gone.err.contains("no log of default/box-0") && gone.status == Some(1), "{gone:?}");
}

#[test]
fn a_node_that_allows_nothing_refuses_with_the_option_of_its_file_and_records_it() {
    let mut site = Site::new(SLEEPING, |_| Ok(()));
    site.agent.configure(1_000, 2).unwrap();
    site.agent.add_table("[remote_access]\nlogs = false").unwrap();
    site.agent.terminate().unwrap();
    site.agent.start().unwrap();
    site.agent.wait_until_up().unwrap();
    site.wait_for_session();
    let file = |said: &Said, option: &str| {
        let words = format!("`remote_access.{option} = true` in ");
        assert!(said.err.contains(&words) && said.err.contains("agent.toml"), "{said:?}");
        assert_eq!(said.status, Some(1));
    };
    file(&site.exec(&[], &["true"]), "exec");
    file(&site.hub_says(&["logs", NODE, POD]), "logs");
    assert_eq!(site.node_says(&["logs", POD]).out, "up\n", "its own people may");
    assert_eq!(site.node_says(&["exec", POD, "--", "true"]).status, Some(0));
    let audit = site.audit();
    let refused = |record: &&Value| record["outcome"].get("Refused").is_some();
    assert_eq!((audit.len(), audit.iter().filter(refused).count()), (4, 2), "{audit:?}");
    let reported = |view: &Value| view["status"]["remote_access"]["logs"] == false;
    site.hub.wait_for_node(NODE, "the hub knows it", PATIENCE, reported).unwrap();
    let described = site.hub_says(&["describe", NODE]).out;
    assert!(described.contains("logs not allowed, exec not allowed"), "{described}");
}

#[test]
fn the_api_says_what_is_wrong_with_a_request() {
    let site = Site::new(SLEEPING, |_| Ok(()));
    let base = format!("/v1/nodes/{NODE}/pods/{POD}");
    let told = |path: &str, body: &str| {
        let answer = site.hub.tell(&format!("{base}/{path}"), body.as_bytes()).unwrap();
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    };
    for (body, words) in [
        ("", "as JSON"),
        (r#"{"command":[],"timeoutMs":1}"#, "the program"),
        (r#"{"command":["ls"],"timeoutMs":0}"#, "1 to 600000"),
        (r#"{"command":["ls"],"timeoutMs":1,"tty":true}"#, "tty"),
    ] {
        let (status, said) = told("exec", body);
        assert!(status == 400 && said.contains(words), "{status}: {said}");
    }
    let asked = |query: &str| site.hub.ask(&format!("{base}/log?{query}")).unwrap_err().to_string();
    assert!(asked("cursor=x").contains("`x` is no position in a log"));
    assert!(asked("wait_ms=99999999").contains("60000"));
    assert!(Path::new(&site.agent.state()).exists());
}
