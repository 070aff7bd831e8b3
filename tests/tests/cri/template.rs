//! What a template asks for beyond a program and its files: as whom it runs, folders that it writes to, devices,
//! hooks, and the words that it leaves.

use crate::scene::{Agent, Node, request, wait_until};
use crate::volumes::{config, model, secret};
use edge_agent::ports::{RuntimeEvent, StartRequest, VolumeContent, VolumeSource};
use edge_agent::runtime::Allowed;
use serde_json::{Value, json};
use shared::model::{HostPathVolume, Revision};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

/// A start of `script` under these security contexts.
fn secured(instance: u64, script: &str, pod: Value, container: Value) -> StartRequest {
    let mut request = request(instance, script);
    request.security = serde_json::from_value(pod).unwrap();
    request.container.security_context = serde_json::from_value(container).unwrap();
    request
}

#[track_caller]
fn start(agent: &mut Agent, request: StartRequest) {
    let event = agent.start(request);
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
}

#[test]
fn a_container_runs_as_whom_its_template_says_and_reads_its_files() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let file = node.folder.path().join("model");
    fs::write(&file, "weights").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    let script = "id; cat /etc/ocr/ocr.toml /models/ocr.onnx; grep -q hunter2 /keys/token && echo; \
                  grep -q hunter2 /keys/token && echo secret read; echo x > /keys/token || echo kept; \
                  test -w $HINTERLAND_RESULTS_SOCKET && echo door open; \
                  grep -q '^[^ ]* / [^ ]* ro,' /proc/mounts && echo root read-only; \
                  grep -E 'NoNewPrivs|CapEff|CapBnd|Seccomp:' /proc/self/status; sleep 1000";
    let volumes = || vec![config("first"), secret("hunter2"), model(&file)];
    let context = json!({ "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } });
    // By the owner, and by the group.
    let by_user = json!({ "runAsUser": 1234, "runAsGroup": 5678, "runAsNonRoot": true });
    let by_group = json!({ "runAsUser": 1234, "fsGroup": 77, "supplementalGroups": [78] });
    for (instance, of_pod, id) in
        [(1, by_user, "uid=1234 gid=5678"), (2, by_group, "uid=1234 gid=0")]
    {
        let request = secured(instance, script, of_pod, context.clone());
        start(&mut agent, StartRequest { volumes: volumes(), ..request });
        wait_until("it has looked around", || node.log().contains("Seccomp"));
        let log = node.log();
        for words in [
            id,
            "firstweights",
            "secret read\n",
            "kept\n",
            "door open\n",
            "root read-only\n",
            "NoNewPrivs:\t1\n",
            "CapBnd:\t0000000000000000\n",
            "Seccomp:\t2\n",
        ] {
            assert!(log.contains(words), "{words:?} is not in {log}");
        }
        assert!(instance == 1 || (log.contains("77") && log.contains("78")), "{log}");
        agent.clear(&node, instance);
    }
}

#[test]
fn a_container_that_would_run_as_root_or_be_privileged_is_refused_unless_its_node_allows_it() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let non_root = secured(1, "true", json!({ "runAsNonRoot": true }), json!({}));
    let (reason, message) = agent.refusal(non_root);
    assert_eq!(reason, "RunsAsRoot");
    assert!(message.contains("runAsNonRoot"), "{message}");
    let script = "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; \
                  mount -t tmpfs x /tmp && echo mounted; sleep 1000";
    let privileged = |instance| secured(instance, script, json!({}), json!({ "privileged": true }));
    let (reason, message) = agent.refusal(privileged(2));
    assert_eq!(reason, "PrivilegedNotAllowed");
    assert!(message.contains("pods.allow_privileged"), "{message}");
    let more = json!({ "capabilities": { "add": ["SYS_ADMIN"] } });
    assert_eq!(agent.refusal(secured(3, "true", json!({}), more)).0, "PrivilegedNotAllowed");
    drop(agent);

    let mut agent = Agent::allowing(&node, Allowed { privileged: true, ..Allowed::default() });
    agent.observe();
    start(&mut agent, privileged(4));
    wait_until("it has mounted", || node.log().contains("mounted"));
    assert!(node.log().contains("Seccomp:\t0\n"), "{}", node.log());
    agent.clear(&node, 4);
    let unconfined = json!({ "seccompProfile": { "type": "Unconfined" } });
    let gaining = json!({ "allowPrivilegeEscalation": true });
    start(&mut agent, secured(5, script, unconfined, gaining));
    wait_until("it has looked", || node.log().contains("Seccomp"));
    for words in ["Seccomp:\t0\n", "NoNewPrivs:\t0\n"] {
        assert!(node.log().contains(words), "{words:?} is not in {}", node.log());
    }
    assert!(!node.log().contains("mounted"), "{}", node.log());
    agent.clear(&node, 5);
}

fn folder(name: &str, source: VolumeSource) -> VolumeContent {
    let mounts = vec![name.to_owned()];
    let writable_mounts = mounts.clone();
    VolumeContent { name: name.to_owned(), mounts, writable_mounts, source, ..Default::default() }
}

fn empty(bytes_max: Option<u64>) -> VolumeSource {
    VolumeSource::EmptyDir { is_in_memory: bytes_max.is_some(), bytes_max }
}

fn mounts_of(node: &Node) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let pods = node.pods().display().to_string();
    table.lines().filter(|line| line.contains(&pods)).count()
}

#[test]
fn an_empty_folder_lives_through_starts_again_and_the_agent_s_and_goes_with_the_pod() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let script = "cat /disk/count /fast/count 2>/dev/null; echo x >> /disk/count; echo y >> /fast/count; \
                  head -c 3000000 /dev/zero > /fast/large && echo fits; rm /fast/large; grep ' /fast ' /proc/mounts; echo done; \
                  trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let volumes = vec![folder("disk", empty(None)), folder("fast", empty(Some(1 << 20)))];
    let of = |instance, revision| {
        let request = secured(instance, script, json!({ "runAsUser": 1000 }), json!({}));
        let revision = Revision(revision);
        StartRequest { revision, volumes: volumes.clone(), ..request }
    };
    start(&mut agent, of(1, 9));
    wait_until("it has written", || node.log().contains("done"));
    let log = node.log();
    assert!(log.contains("size=1024k") && !log.contains("fits"), "{log}");
    // The agent comes back, then the container is started again.
    drop(agent);
    let mut agent = Agent::new(&node);
    assert_eq!(agent.observe().len(), 1);
    assert_eq!(agent.stop(1, 30_000), 0);
    agent.forget(1, true);
    start(&mut agent, of(2, 9));
    wait_until("it has written again", || node.log().matches("done").count() == 2);
    assert!(node.log().contains("x\ny\n"), "{}", node.log());
    assert_eq!(mounts_of(&node), 1);
    assert_eq!(agent.stop(2, 30_000), 0);
    agent.forget(2, true);
    // Another revision is another pod.
    start(&mut agent, of(3, 10));
    wait_until("it has written anew", || node.log().matches("done").count() == 3);
    let log = node.log();
    assert_eq!(log.matches("x\n").count(), 1, "{log}");
    agent.clear(&node, 3);
    wait_until("nothing is mounted", || mounts_of(&node) == 0);
    wait_until("nothing is left", || {
        fs::read_dir(node.pods().join(".memory")).unwrap().count() == 0
    });
}

#[test]
fn a_claim_outlives_its_pod_and_is_read_only_where_that_is_said() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let claim = || folder("kept", VolumeSource::Claim("ocr".to_owned()));
    let script = "echo kept > /kept/file && echo written; sleep 1000";
    let user = json!({ "runAsUser": 1000, "fsGroup": 2000 });
    let request = secured(1, script, user.clone(), json!({}));
    start(&mut agent, StartRequest { volumes: vec![claim()], ..request });
    wait_until("it has written", || node.log().contains("written"));
    agent.clear(&node, 1);
    assert!(!node.pods().join("default_ocr-0").exists());
    let script = "cat /kept/file; ls -n /kept; echo x > /kept/file || echo read-only; sleep 1000";
    let mut read = claim();
    read.writable_mounts.clear();
    start(&mut agent, StartRequest { volumes: vec![read], ..secured(2, script, user, json!({})) });
    wait_until("it has read", || node.log().contains("read-only"));
    // What it complains of comes by another pipe, perhaps earlier.
    assert!(node.log().lines().any(|line| line == "kept"), "{}", node.log());
    assert!(node.log().contains("1000     2000"), "{}", node.log());
    agent.clear(&node, 2);
    let kept = node.folder.path().join("volumes/default_ocr/file");
    assert_eq!(fs::read_to_string(kept).unwrap(), "kept\n");
}

fn host(path: &Path, kind: &str) -> VolumeContent {
    let source: HostPathVolume =
        serde_json::from_value(json!({ "path": path, "type": kind })).unwrap();
    folder("host", VolumeSource::HostPath(source))
}

#[test]
fn a_path_of_the_node_is_mounted_where_the_node_allows_it_and_no_link_leads_out() {
    let node = Node::new();
    let media = node.folder.path().join("media");
    fs::create_dir(&media).unwrap();
    symlink("/etc", media.join("out")).unwrap();
    let host_paths = vec![media.clone()];
    let mut agent = Agent::allowing(&node, Allowed { host_paths, ..Allowed::default() });
    for (path, reason) in [
        (Path::new("/etc"), "HostPathNotAllowed"),
        (&media.join("out"), "HostPathNotAllowed"),
        (&media.join("none"), "HostPathMissing"),
    ] {
        let volumes = vec![host(path, "Directory")];
        let (found, message) = agent.refusal(StartRequest { volumes, ..request(1, "true") });
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(&path.display().to_string()), "{message}");
    }
    let volumes = vec![host(&media.join("clips/new"), "DirectoryOrCreate")];
    let script = "echo clip > /host/file && echo written; sleep 1000";
    start(&mut agent, StartRequest { volumes, ..request(2, script) });
    wait_until("it has written", || node.log().contains("written"));
    assert_eq!(fs::read_to_string(media.join("clips/new/file")).unwrap(), "clip\n");
    agent.clear(&node, 2);
}

#[test]
fn a_device_of_the_node_is_found_by_its_name_also_when_it_is_another_by_now() {
    let node = Node::new();
    let by_id = node.folder.path().join("by-id");
    let devices = [("camera".to_owned(), by_id.clone())].into();
    let mut agent = Agent::allowing(&node, Allowed { devices, ..Allowed::default() });
    let script =
        "test -c /dev/hinterland/camera && head -c 3 /dev/hinterland/camera | wc -c; sleep 1000";
    let with_device = |instance, name: &str| {
        let mut request = request(instance, script);
        request.container.resources.limits.devices.insert(name.to_owned());
        request
    };
    let (reason, message) = agent.refusal(with_device(1, "camera"));
    assert_eq!(reason, "DeviceMissing", "{message}");
    for (instance, device, bytes) in [(2, "/dev/zero", "3\n"), (3, "/dev/null", "0\n")] {
        let _ = fs::remove_file(&by_id);
        symlink(device, &by_id).unwrap();
        start(&mut agent, with_device(instance, "camera"));
        wait_until("it has read", || !node.log().is_empty());
        assert_eq!(node.log(), bytes);
        agent.clear(&node, instance);
    }
    assert_eq!(agent.refusal(with_device(4, "lidar")).0, "DeviceMissing");
    node.assert_clean();
}

fn hooked(instance: u64, script: &str, container: Value) -> StartRequest {
    let request = request(instance, script);
    let mut fields = serde_json::to_value(&request.container).unwrap();
    fields.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    StartRequest { container: serde_json::from_value(fields).unwrap(), ..request }
}

#[test]
fn hooks_are_done_at_the_start_and_before_the_end_also_by_an_agent_that_came_back() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let exec = |script: &str| json!({ "exec": { "command": ["sh", "-c", script] } });
    let script = "trap 'cat /tmp/hooks; exit 5' TERM; while :; do sleep 0.1; done";
    let hooks = |post_start: &str, pre_stop: Value| json!({ "lifecycle": { "postStart": exec(post_start), "preStop": pre_stop } });
    let pre_stop = exec("sleep 1; echo stops >> /tmp/hooks");
    start(&mut agent, hooked(1, script, hooks("sleep 1; echo began > /tmp/hooks", pre_stop)));
    drop(agent);
    let mut agent = Agent::new(&node);
    assert_eq!(agent.observe().len(), 1);
    assert_eq!(agent.stop(1, 30_000), 5);
    assert_eq!(node.log(), "began\nstops\n");
    agent.forget(1, false);
    // One that takes longer than the grace is left behind, and so is the container.
    let begin = Instant::now();
    let hooks_of_the_deaf = hooks("true", json!({ "sleep": { "seconds": 60 } }));
    start(&mut agent, hooked(2, "trap '' TERM; while :; do sleep 0.1; done", hooks_of_the_deaf));
    assert_eq!(agent.stop(2, 2_000), 137);
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
    agent.forget(2, false);
    let (reason, message) = agent.refusal(hooked(3, script, hooks("exit 4", exec("true"))));
    assert_eq!(reason, "PostStartHookFailed");
    assert!(message.contains("exit status: 4"), "{message}");
    node.assert_clean();
}

#[test]
fn the_words_that_a_container_leaves_are_told_with_its_end() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let last_words = |agent: &mut Agent| match agent.event() {
        RuntimeEvent::LastWords { message, .. } => message,
        event => panic!("expected last words, not {event:?}"),
    };
    let wrote = "echo '  no camera  ' > /dev/termination-log; exit 3";
    let large = "head -c 100000 /dev/zero | tr '\\0' x > /run/last; exit 0";
    let fallback = json!({ "terminationMessagePolicy": "FallbackToLogsOnError" });
    let user = json!({ "runAsUser": 1000 });
    start(
        &mut agent,
        StartRequest {
            security: serde_json::from_value(user).unwrap(),
            ..hooked(1, wrote, fallback.clone())
        },
    );
    assert_eq!((last_words(&mut agent).as_str(), agent.exit(1)), ("no camera", 3));
    agent.forget(1, true);
    start(&mut agent, hooked(2, large, json!({ "terminationMessagePath": "/run/last" })));
    assert_eq!(last_words(&mut agent), "x".repeat(4096));
    assert_eq!(agent.exit(2), 0);
    agent.forget(2, true);
    start(&mut agent, hooked(3, "echo out of memory; exit 1", fallback.clone()));
    assert!(last_words(&mut agent).ends_with("out of memory"));
    assert_eq!(agent.exit(3), 1);
    agent.forget(3, true);
    // Neither a success nor a container that asks for nothing has words of its log.
    start(&mut agent, hooked(4, "echo fine", fallback));
    assert_eq!(agent.exit(4), 0);
    agent.forget(4, true);
    start(&mut agent, hooked(5, "echo bad; exit 1", json!({})));
    assert_eq!(agent.exit(5), 1);
    agent.forget(5, false);
    node.assert_clean();
}
