//! What a pod may use, by cgroups of v1 or v2 where this machine lets a test make one, and what it
//! used. Where a limit can't be set the test says so in words and asserts that the pod runs all the
//! same.

use crate::scene::{Agent, Node, is_alive, pod, request, wait_until};
use edge_agent::ports::RuntimeEvent;
use shared::model::{CpuQuantity, MemoryQuantity};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MOUNT: &str = "/sys/fs/cgroup";

/// A limit as the kernel shows it: in which file of which cgroup.
struct Limit {
    /// Where the agent may make the pod's cgroup: below that of this process, which is the agent here.
    parent: PathBuf,
    file: &'static str,
    value: &'static str,
}

/// Processes and threads that a pod may have here.
const PIDS_MAX: u64 = 40;

/// Half a core, 64 MiB and so many processes, in the words of the cgroup version that this machine has.
fn limits_of_this_machine() -> [Limit; 3] {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = |controller: &str| {
        let line = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == controller).then_some(path)
        });
        PathBuf::from(line.unwrap_or_default().trim_start_matches('/'))
    };
    if Path::new(MOUNT).join("cgroup.controllers").exists() {
        let own = Path::new(MOUNT).join(path(""));
        // As the agent's unit has it: processes in the subgroup `agent`, pods beside it.
        let parent = if own.ends_with("agent") { own.parent().unwrap().to_owned() } else { own };
        let limit = |file, value| Limit { parent: parent.clone(), file, value };
        return [
            limit("cpu.max", "50000 100000"),
            limit("memory.max", "67108864"),
            limit("pids.max", "40"),
        ];
    }
    let limit = |controller, file, value| Limit {
        parent: Path::new(MOUNT).join(controller).join(path(controller)),
        file,
        value,
    };
    [
        limit("cpu", "cpu.cfs_quota_us", "50000"),
        limit("memory", "memory.limit_in_bytes", "67108864"),
        limit("pids", "pids.max", "40"),
    ]
}

impl Limit {
    /// Tries what the shim has to do, in a cgroup of the test's own.
    fn try_to_set(&self) -> io::Result<()> {
        let folder = self.parent.join(format!("hinterland-test-{}", std::process::id()));
        if self.file.ends_with(".max") {
            // It may be on already; whether it is shows in the file below.
            for controllers in ["+cpu +memory", "+pids"] {
                let _ = fs::write(self.parent.join("cgroup.subtree_control"), controllers);
            }
        }
        fs::create_dir(&folder)?;
        let set = fs::write(folder.join(self.file), self.value);
        fs::remove_dir(&folder)?;
        set
    }
}

/// The pod's own cgroups, as the pod printed them.
fn cgroups_of(log: &str) -> Vec<PathBuf> {
    let own = log.lines().filter(|line| line.contains("/hinterland-default_ocr-0-"));
    let folder = |line: &str| {
        let (controller, path) = line.split_once(':')?.1.split_once(':')?;
        Some(Path::new(MOUNT).join(controller).join(path.trim_start_matches('/')))
    };
    own.filter_map(folder).collect()
}

#[test]
fn limits_are_set_where_they_may_be_and_leave_nothing_behind() {
    let node = Node::new();
    let mut agent = Agent::limiting(&node, PIDS_MAX);
    let mut request = request(1, "cat /proc/self/cgroup; echo all; exec sleep 1000");
    let limits = &mut request.container.resources.limits;
    limits.cpu = Some(CpuQuantity { millicores: 500 });
    limits.memory = Some(MemoryQuantity { bytes: 64 << 20 });
    assert!(matches!(agent.start(request), RuntimeEvent::Started { .. }));
    wait_until("the pod has printed its cgroups", || node.log().ends_with("all\n"));
    let folders = cgroups_of(&node.log());
    for limit in limits_of_this_machine() {
        let found = folders.iter().find_map(|it| fs::read_to_string(it.join(limit.file)).ok());
        match limit.try_to_set() {
            Ok(()) => {
                let found = found.as_deref().map(str::trim);
                assert_eq!(found, Some(limit.value), "{} in {folders:?}", limit.file);
            }
            Err(error) => {
                let (file, parent) = (limit.file, limit.parent.display());
                let _ = writeln!(
                    io::stderr(),
                    "{file} can't be set below {parent} here ({error}): this run shows only that \
                     the pod runs without it"
                );
                assert_eq!(found, None, "{file} was set, although this test may not");
            }
        }
    }
    assert!(is_alive(node.pid("main")));
    assert_eq!(agent.stop(1, 0), 128 + 9);
    assert!(!folders.iter().any(|folder| folder.exists()), "{folders:?}");
}

#[test]
fn a_pod_that_makes_processes_without_end_has_its_limit_where_one_may_be_set() {
    let [_, _, limit] = limits_of_this_machine();
    if let Err(error) = limit.try_to_set() {
        let _ =
            writeln!(io::stderr(), "processes can't be limited here ({error}): nothing is shown");
        return;
    }
    let node = Node::new();
    let mut agent = Agent::limiting(&node, PIDS_MAX);
    let bomb = "sh -c 'while :; do sleep 1000 & done'; echo refused; exec sleep 1000";
    agent.start_script(1, bomb);
    wait_until("it is refused more", || node.log().contains("refused"));
    let count = agent.within(|runtime| runtime.usage(&pod())).unwrap().threads;
    assert!((PIDS_MAX / 2..=PIDS_MAX).contains(&count), "{count}");
    assert!(is_alive(node.pid("main")));
    assert_eq!(agent.stop(1, 0), 128 + 9);
}

#[test]
fn usage_counts_the_whole_pod_and_not_its_shim() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    agent.start_script(1, "(while :; do :; done) & exec sleep 1000");
    let usage = |agent: &mut Agent| agent.within(|runtime| runtime.usage(&pod()));
    wait_until("CPU time is counted", || {
        usage(&mut agent).is_some_and(|usage| usage.cpu_usec >= 100_000)
    });
    assert!(usage(&mut agent).unwrap().memory_bytes > 500_000);
    agent.stop(1, 0);
    assert_eq!(usage(&mut agent), None);
}
