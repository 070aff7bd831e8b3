//! The cgroup of a pod's start, where pods have a limit of processes. The agent makes it and sets the limit before
//! there is a sandbox; the container runtime puts all of the pod below it; the agent removes it afterwards.
//!
//! Each start has one of its own: what removes that of an earlier start can't take that of the next. One that has
//! processes can't be removed, whoever asks. Sources: cgroup-v1 and cgroup-v2 of the kernel's admin guide.

use super::ids::Running;
use super::{Shared, blocking};
use crate::ports::InstanceId;
use crate::runtime::StartFailure;
use crate::runtime::layers::{Attempt, attempt};
use shared::in_words;
use shared::model::PodId;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Where cgroups are.
const MOUNT: &str = "/sys/fs/cgroup";

/// Digits of a container's id.
const ID_LENGTH: usize = 64;

/// A process that has just been killed holds its cgroup for a moment.
const TRIES_MAX: u32 = 20;
const TRY_PAUSE: Duration = Duration::from_millis(50);

/// A container's cgroup as containerd and CRI-O name it, by itself and by systemd.
const AROUND_ID: [(&str, &str); 4] =
    [("", ""), ("cri-containerd-", ".scope"), ("crio-", ".scope"), ("crio-", "")];

impl Shared {
    /// Where processes are limited: makes the cgroup of a start that is about to begin.
    pub(super) fn limit_processes(
        &self,
        pod: &PodId,
        instance: InstanceId,
    ) -> Result<(), StartFailure> {
        let Some(pids_max) = self.options.pids_max else { return Ok(()) };
        let made = make(Path::new(MOUNT), &self.cgroup_of(pod, instance), pids_max);
        made.map_err(|error| StartFailure::new("PidLimitNotSet", in_words(&error)))
    }

    /// Removes the cgroups whose names begin so, of starts whose sandboxes are removed.
    pub(super) async fn remove_cgroups(&self, prefix: String) {
        let parent = self.options.cgroup_parent.clone();
        blocking(move || remove(Path::new(MOUNT), &parent, &prefix)).await;
    }

    /// Removes those of starts whose end an earlier agent did not live to see.
    pub(super) fn remove_cgroups_left(&self) {
        remove(Path::new(MOUNT), &self.options.cgroup_parent, &self.agent.cgroups());
    }

    /// Processes and threads of a container that runs, where that is told.
    pub(super) fn threads_of(&self, container: &Running) -> Option<u64> {
        let instance = self.live().get(&container.pod).map(|live| live.instance)?;
        let own = self.cgroup_of(&container.pod, instance);
        let parents = [own.as_str(), &self.options.cgroup_parent];
        parents.iter().find_map(|parent| threads_of(Path::new(MOUNT), parent, &container.id))
    }

    fn cgroup_of(&self, pod: &PodId, instance: InstanceId) -> String {
        let parent = self.options.cgroup_parent.trim_end_matches('/');
        format!("{parent}/{}", self.agent.cgroup_of_start(pod, instance))
    }
}

/// Makes the cgroup `path` below `mount`, in which there may be so many processes and threads.
fn make(mount: &Path, path: &str, pids_max: u64) -> Attempt<()> {
    let folder = folder_of_pids(mount, path);
    let making = format!("limit processes in the cgroup {}", folder.display());
    if is_unified(mount) {
        // What a cgroup's children can limit it has to say itself. Where that fails the limit can't be set either.
        let outer = folder.ancestors().skip(1).take_while(|outer| outer.starts_with(mount));
        for outer in outer.collect::<Vec<_>>().into_iter().rev() {
            let _ = fs::create_dir(outer);
            let _ = fs::write(outer.join("cgroup.subtree_control"), "+pids");
        }
    }
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("pids.max"), pids_max.to_string()))
        .map_err(attempt(making))
}

/// Removes all cgroups below `parent` whose names begin so and that have no processes, in every hierarchy.
fn remove(mount: &Path, parent: &str, prefix: &str) {
    let parents = roots(mount).map(|root| root.join(parent.trim_start_matches('/')));
    for folder in parents.flat_map(|parent| fs::read_dir(parent).into_iter().flatten().flatten()) {
        if folder.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            remove_one(&folder.path());
        }
    }
}

/// Removes the cgroup `path` in every hierarchy, if it has no processes.
pub(super) fn remove_of(path: &Path) {
    let path = path.strip_prefix("/").unwrap_or(path);
    roots(Path::new(MOUNT)).map(|root| root.join(path)).for_each(|folder| remove_one(&folder));
}

/// Cgroups of containers below `parent`, also in those of starts, in which there is nothing; by hierarchy, each with the
/// id of its container.
pub(super) fn idle_below(parent: &str) -> Vec<(String, PathBuf)> {
    let folders = |of: &Path| {
        let entries = fs::read_dir(of).into_iter().flatten().flatten();
        let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        entries.filter(is_folder).map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let parents = roots(Path::new(MOUNT)).map(|root| root.join(parent.trim_start_matches('/')));
    let first: Vec<PathBuf> = parents.flat_map(|parent| folders(&parent)).collect();
    let second: Vec<PathBuf> = first.iter().flat_map(|folder| folders(folder)).collect();
    let is_empty = |folder: &Path| {
        fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|text| text.is_empty())
    };
    let found = first.into_iter().chain(second).filter_map(|folder| {
        let id = folder.file_name()?.to_str()?.to_owned();
        let is_id = id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_id && is_empty(&folder)).then_some((id, folder))
    });
    found.collect()
}

/// The root of every hierarchy.
fn roots(mount: &Path) -> impl Iterator<Item = PathBuf> {
    let hierarchies = fs::read_dir(mount).into_iter().flatten().flatten();
    hierarchies.map(|entry| entry.path()).chain([mount.to_owned()])
}

pub(super) fn remove_one(folder: &Path) {
    for _ in 0..TRIES_MAX {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && is_idle(folder) => {
                sleep(TRY_PAUSE);
            }
            _ => return,
        }
    }
}

/// Whether no container has its cgroup there.
fn is_idle(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    !entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

/// Processes and threads of a container whose cgroup lies below `parent`, where that is told.
fn threads_of(mount: &Path, parent: &str, container: &str) -> Option<u64> {
    let parent = folder_of_pids(mount, parent);
    AROUND_ID.iter().find_map(|(before, after)| {
        let folder = parent.join(format!("{before}{container}{after}"));
        fs::read_to_string(folder.join("pids.current")).ok()?.trim().parse().ok()
    })
}

fn folder_of_pids(mount: &Path, path: &str) -> PathBuf {
    let hierarchy = if is_unified(mount) { mount.to_owned() } else { mount.join("pids") };
    hierarchy.join(path.trim_start_matches('/'))
}

fn is_unified(mount: &Path) -> bool {
    mount.join("cgroup.controllers").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_set_in_the_hierarchy_of_processes_and_all_of_it_is_removed() {
        let mount = tempfile::tempdir().unwrap();
        let at = |path: &str| mount.path().join(path);
        make(mount.path(), "/edge/a-1", 100).unwrap();
        assert_eq!(fs::read_to_string(at("pids/edge/a-1/pids.max")).unwrap(), "100");
        // The container runtime makes the others.
        for path in ["memory/edge/a-1", "cpu/edge/a-1", "cpu/edge/b-1", "cpu/edge/a-2/id"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::remove_file(at("pids/edge/a-1/pids.max")).unwrap();
        remove(mount.path(), "/edge", "a-");
        for path in ["pids/edge/a-1", "memory/edge/a-1", "cpu/edge/a-1"] {
            assert!(!at(path).exists(), "{path}");
        }
        assert!(at("cpu/edge/b-1").exists() && at("cpu/edge/a-2/id").exists());
    }

    #[test]
    fn with_one_hierarchy_each_outer_cgroup_passes_the_limit_on() {
        let mount = tempfile::tempdir().unwrap();
        fs::write(mount.path().join("cgroup.controllers"), "cpu pids").unwrap();
        make(mount.path(), "/edge/a-1", 7).unwrap();
        let read = |path: &str| fs::read_to_string(mount.path().join(path)).unwrap();
        assert_eq!(read("cgroup.subtree_control"), "+pids");
        assert_eq!(read("edge/cgroup.subtree_control"), "+pids");
        assert_eq!(read("edge/a-1/pids.max"), "7");
        fs::create_dir(mount.path().join("edge/a-1/cri-containerd-x.scope")).unwrap();
        fs::write(mount.path().join("edge/a-1/cri-containerd-x.scope/pids.current"), "5\n")
            .unwrap();
        assert_eq!(threads_of(mount.path(), "/edge/a-1", "x"), Some(5));
        assert_eq!(threads_of(mount.path(), "/edge/a-1", "y"), None);
    }

    #[test]
    fn what_can_t_be_limited_says_where() {
        let mount = tempfile::tempdir().unwrap();
        fs::write(mount.path().join("pids"), "").unwrap();
        let error = make(mount.path(), "/edge/a-1", 7).unwrap_err();
        assert!(error.to_string().contains("limit processes in the cgroup"), "{error}");
    }
}
