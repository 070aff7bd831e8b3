//! Logs and commands asked for at the hub, of a pod in a container.

use crate::site::{PATIENCE, Site};
use std::process::Command;
use std::time::{Duration, Instant};
use tests::real::containerd::Containerd;
use tests::real::process::wait_until;

fn manifest(image: &str) -> String {
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
        image: {image}
        command: [sh, -c, 'n=0; while :; do for i in 0 1 2 3 4; do echo line $n; n=$((n+1)); done; sleep 0.1; done']
        env: [{{name: MODEL, value: m}}]
"
    )
}

fn said(mut command: Command) -> (String, String, Option<i32>) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// The first and the last number of lines that follow one another.
#[track_caller]
fn counted(text: &str) -> (u32, u32) {
    let number = |line: &str| line.strip_prefix("line ").expect(line).parse::<u32>().unwrap();
    let numbers: Vec<u32> = text.lines().map(number).collect();
    let gaps: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
    assert!(gaps.is_empty(), "{gaps:?}");
    (*numbers.first().expect("no line"), *numbers.last().unwrap())
}

#[test]
fn a_container_s_log_is_read_and_followed_and_commands_run_in_it() {
    let site = Site::configured(&[
        "[pod_logs]\nmax_size = \"8Ki\"\nmax_files = 4",
        "[remote_access]\nexec = true",
    ]);
    let Site { containerd, hub, agent, .. } = &site;
    hub.apply("box.yaml", &manifest(Containerd::image())).unwrap();
    hub.wait_for_node("mast-17", "the pod is ready", PATIENCE, |view| {
        view["pods"][0]["ready"] == true
    })
    .unwrap();
    let logs = |options: &[&str]| {
        let arguments = [&["logs", "mast-17", "default/box-0"], options].concat();
        hub.command(&arguments).unwrap()
    };
    let exec = |options: &[&str], command: &[&str]| {
        let head = ["exec", "mast-17", "default/box-0"];
        said(hub.command(&[&head, options, &["--"], command].concat()).unwrap())
    };

    // Its file is rotated every 5 s or so.
    let (out, err, status) = said(logs(&["--tail", "1", "--follow", "--timeout", "30s"]));
    let (first, last) = counted(&out);
    assert!(last > first + 400 && status == Some(0), "{first} to {last}: {err}");
    let log = agent.state().join("pods/default_box-0/log");
    assert!(log.join("container.2.log").exists(), "it was not rotated");
    let (first, last) = counted(&said(logs(&["--tail", "300"])).0);
    assert_eq!(last - first, 299);
    let (first, last) = counted(&said(logs(&["--since", "4s", "-c", "main"])).0);
    assert!((5..300).contains(&(last - first)), "{first} to {last}");

    let script = "echo $HINTERLAND_POD_NAME $MODEL; echo no >&2; exit 3";
    let (out, err, status) = exec(&[], &["sh", "-c", script]);
    assert_eq!((out.as_str(), err.as_str(), status), ("box-0 m\n", "no\n", Some(3)));
    let (out, ..) = exec(&[], &["seq", "100000"]);
    assert!(out.contains(" bytes are left out here]") && out.ends_with("100000\n"));
    let begin = Instant::now();
    let (_, err, status) = exec(&["--timeout", "1s"], &["sleep", "4300"]);
    assert!(status == Some(124) && begin.elapsed() < Duration::from_secs(20), "{err}");
    let sleeps = || {
        let lines = containerd
            .processes()
            .into_iter()
            .map(|id| std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default());
        lines.filter(|line| line.starts_with(b"sleep\x004300")).count()
    };
    wait_until("it is killed", PATIENCE, || Ok(sleeps() == 0)).unwrap();
    let (_, err, status) = exec(&[], &["no-such-program"]);
    assert!(status == Some(1) && err.contains("no-such-program"), "{err}");

    let (audit, ..) = said(agent.command(&["audit"]).unwrap());
    assert!(audit.contains("exit code 3") && audit.contains("killed at its deadline"), "{audit}");
    let (out, ..) = said(agent.command(&["exec", "default/box-0", "--", "echo", "here"]).unwrap());
    assert_eq!(out, "here\n");

    hub.withdraw("box.yaml").unwrap();
    site.assert_nothing_is_left();
}
