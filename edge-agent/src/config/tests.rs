//! What is taken, and what is refused with which words.

use super::*;

fn refusal(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let error = Config::load(Some(&path)).unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

#[test]
fn an_unknown_key_is_named() {
    let words = refusal("stat_dir = \"/x\"");
    assert!(words.contains("agent.toml") && words.contains("stat_dir"), "{words}");
}

#[test]
fn a_wrong_quantity_says_what_was_expected() {
    let words = refusal("[reserved]\nmemory = \"128MB\"");
    assert!(words.contains("128MB") && words.contains("512Mi"), "{words}");
}

#[test]
fn an_admin_port_that_others_could_reach_is_refused() {
    let words = refusal("admin = \"0.0.0.0:7071\"");
    assert!(words.contains("`admin`") && words.contains("loopback"), "{words}");
}

#[test]
fn a_results_port_that_pods_could_not_find_again_is_refused() {
    for address in ["127.0.0.1:0", "10.0.0.1:7072"] {
        let words = refusal(&format!("results = \"{address}\""));
        assert!(words.contains("`results`") && words.contains("loopback"), "{words}");
    }
}

#[test]
fn a_library_that_depends_on_the_folder_of_the_start_is_refused() {
    let words = refusal("nvml_library = \"libnvidia-ml.so.1\"");
    assert!(words.contains("`nvml_library`") && words.contains("absolute"), "{words}");
}

#[test]
fn a_container_runtime_that_can_t_be_meant_is_refused() {
    assert!(refusal("runtime = \"docker\"").contains("process"));
    assert!(refusal("[cri]\nsocket = \"cri.sock\"").contains("`cri.socket`"));
    assert!(refusal("[pods]\nhost_paths = [\"media\"]").contains("`pods.host_paths`"));
    assert!(refusal("[devices.Camera]\npath = \"/dev/video0\"").contains("`devices`: `Camera`"));
    assert!(refusal("[devices.camera]\npath = \"video0\"").contains("absolute"));
    assert!(refusal("[cri]\ncgroup_parent = \"/\"").contains("`cri.cgroup_parent`"));
}

#[test]
fn a_limit_of_processes_is_a_number_and_what_must_be_left_of_them_may_be_a_share() {
    use crate::pressure::PidAmount;
    assert!(refusal("[pods]\npid_limit = 15").contains("`pods.pid_limit`: expected at least 16"));
    let slice = "runtime = \"cri\"\n[pods]\npid_limit = 100\n[cri]\ncgroup_parent = \"edge.slice\"";
    assert!(refusal(slice).contains("slice of systemd"));
    let left = |text: &str| {
        let text = format!("[eviction]\npid_available = {text}");
        toml::from_str::<Config>(&text).map(|config| config.eviction_limits().pids_available)
    };
    assert_eq!(Config::default().eviction_limits().pids_available, PidAmount::Percent(5));
    assert_eq!(left("1000"), Ok(PidAmount::Count(1000)));
    assert_eq!(left("\"1000\""), Ok(PidAmount::Count(1000)));
    assert_eq!(left("\"10%\""), Ok(PidAmount::Percent(10)));
    for wrong in ["\"100%\"", "\"-1%\"", "\"many\"", "\"\""] {
        let error = left(wrong).unwrap_err().to_string();
        assert!(error.contains("process ids") && error.contains("5%"), "{wrong}: {error}");
    }
}

#[test]
fn logs_may_be_read_and_commands_not_be_run_unless_the_file_says_so_which_is_then_known() {
    assert!(refusal("[remote_access]\nshell = true").contains("shell"));
    let RemoteAccess { logs, exec } = Config::default().remote_policy().access;
    assert!(logs && !exec);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, "").unwrap();
    assert_eq!(Config::load(Some(&path)).unwrap().remote_policy().file, Some(path));
}

#[test]
fn limits_that_no_gpu_can_keep_are_refused() {
    let words = refusal("[gpu_limits]\ncelsius = 20");
    assert!(words.contains("gpu_limits.celsius") && words.contains("30 to 120"), "{words}");
    let words = refusal("[gpu_limits]\nwatts = 1");
    assert!(words.contains("gpu_limits.watts"), "{words}");
}

#[test]
fn a_full_example_is_accepted() {
    let text = "state_dir = \"/s\"\nadmin = \"127.0.0.1:1\"\nresults = \"127.0.0.1:2\"\nsimulate_gpus = \"2x8Gi\"\n\
        nvml_library = \"/lib/libnvidia-ml.so.1\"\nruntime = \"cri\"\nlog_format = \"json\"\n[reserved]\ncpu = \"1\"\nmemory = \"1Gi\"\n[telemetry]\n\
        sample_interval_ms = 1000\nsamples_per_batch = 10\n[pod_logs]\nmax_size = \"1Mi\"\nmax_files = 2\n\
        [pods]\nallow_privileged = true\nhost_paths = [\"/srv\"]\n\
        [devices.camera]\npath = \"/dev/v4l/by-id/usb-cam\"\n\
        [cri]\nsocket = \"/run/k3s/containerd/containerd.sock\"\ncgroup_parent = \"pods.slice\"\ncdi = true\n\
        gpu_runtime_handler = \"nvidia\"\n[remote_access]\nlogs = false\nexec = true";
    let config: Config = toml::from_str(text).unwrap();
    assert_eq!(config.reserved().cpu_millicores, 1000);
    let RemoteAccess { logs, exec } = config.remote_policy().access;
    assert!(!logs && exec);
    assert_eq!(config.places().store, PathBuf::from("/s/store"));
}
