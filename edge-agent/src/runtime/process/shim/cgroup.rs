//! Limits of CPU, memory and processes by cgroups, v2 or v1, where the shim may set them.
//!
//! Best effort: a limit that can't be set becomes a remark, and the pod runs without it. A cgroup is
//! made below the agent's own (v1, or v2 with a delegated tree whose agent stands in a subgroup
//! `agent`), and removed when the pod is gone. Sources: cgroup-v1 and cgroup-v2 of the kernel's
//! admin guide.

use super::super::order::ResourceLimits;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The period of CPU quotas; the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// The smallest CPU quota that the kernel takes.
const CPU_QUOTA_US_MIN: u64 = 1_000;

const MOUNT: &str = "/sys/fs/cgroup";

/// What the names of pods' cgroups begin with.
const NAME_PREFIX: &str = "hinterland-";

/// The cgroups of one pod.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    folders: Vec<PathBuf>,
    remarks: Vec<String>,
}

impl Cgroups {
    /// Makes what `limits` need; nothing when there are none.
    pub(super) fn prepare(pod_folder: &Path, limits: ResourceLimits) -> Self {
        let mut cgroups = Self::default();
        if limits == ResourceLimits::default() {
            return cgroups;
        }
        let name = name_of(pod_folder);
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let unified = Path::new(MOUNT).join("cgroup.controllers").exists();
        let quota_us = limits.cpu_millicores.map(quota_us);
        if unified {
            let settings = [
                ("cpu.max", quota_us.map(|quota| format!("{quota} {CPU_PERIOD_US}"))),
                ("memory.max", limits.memory_bytes.map(|bytes| bytes.to_string())),
                ("pids.max", limits.pids.map(|count| count.to_string())),
            ];
            let parent = unified_parent(&own);
            let control = parent.join("cgroup.subtree_control");
            let enabled = fs::write(&control, "+cpu +memory");
            // By itself: one that is not there takes no other along.
            if limits.pids.is_some() {
                let _ = fs::write(&control, "+pids");
            }
            cgroups.make(&parent.join(name), &settings, enabled.err());
            return cgroups;
        }
        let cpu = [("cpu.cfs_quota_us", quota_us.map(|quota| quota.to_string()))];
        let memory =
            [("memory.limit_in_bytes", limits.memory_bytes.map(|bytes| bytes.to_string()))];
        let pids = [("pids.max", limits.pids.map(|count| count.to_string()))];
        for (controller, settings) in [("cpu", cpu), ("memory", memory), ("pids", pids)] {
            let parent = own_path(&own, controller);
            cgroups.make(
                &Path::new(MOUNT).join(controller).join(parent).join(&name),
                &settings,
                None,
            );
        }
        cgroups
    }

    fn make(
        &mut self,
        folder: &Path,
        settings: &[(&str, Option<String>)],
        earlier: Option<io::Error>,
    ) {
        let wanted = settings.iter().filter_map(|(file, value)| Some((file, value.as_ref()?)));
        let wanted: Vec<_> = wanted.collect();
        if wanted.is_empty() {
            return;
        }
        let made = match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        if made.is_ok() {
            self.folders.push(folder.to_owned());
        }
        for (file, value) in wanted {
            let set = made.as_ref().map_err(ToString::to_string).and_then(|()| {
                fs::write(folder.join(file), value).map_err(|error| error.to_string())
            });
            if let Err(error) = set {
                let error = earlier.as_ref().map_or(error, ToString::to_string);
                let path = folder.display();
                self.remarks.push(format!("{file} = {value} is not enforced: {path}: {error}"));
            }
        }
    }

    /// Files that a process writes itself into to enter.
    pub(super) fn entrances(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| folder.join("cgroup.procs")).collect()
    }

    /// What could not be done.
    pub(super) fn take_remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }

    /// Removes them; they are empty by now.
    pub(super) fn remove(&self) {
        for folder in &self.folders {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Where a process enters the cgroups of the pod whose main process has this number.
pub(in super::super) fn entrances_of(pid: i32) -> Vec<PathBuf> {
    entrances_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default())
}

/// From lines as in `4:memory:/system.slice/hinterland-…`; only cgroups that were made for a pod.
fn entrances_in(text: &str) -> Vec<PathBuf> {
    let entrance = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, Path::new(fields.next()?));
        let is_of_pod = path.file_name()?.to_str()?.starts_with(NAME_PREFIX);
        let controller = controllers.split(',').next().unwrap_or_default();
        let folder = Path::new(MOUNT).join(controller).join(path.strip_prefix("/").ok()?);
        is_of_pod.then(|| folder.join("cgroup.procs"))
    };
    text.lines().filter_map(entrance).collect()
}

fn quota_us(millicores: u64) -> u64 {
    (millicores.saturating_mul(CPU_PERIOD_US) / 1000).max(CPU_QUOTA_US_MIN)
}

/// A name that no other pod's cgroup on this machine has: two agents may have pods of one name.
fn name_of(pod_folder: &Path) -> String {
    let pod = pod_folder.file_name().unwrap_or_default().to_string_lossy();
    // FNV-1a, 64 bit.
    let hash = pod_folder
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{NAME_PREFIX}{pod}-{hash:016x}")
}

/// The path below the controller's mount, from lines as in `4:memory:/system.slice`.
fn own_path(own: &str, controller: &str) -> PathBuf {
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then(|| path.to_owned())
    };
    let path = own.lines().find_map(of_line).unwrap_or_default();
    PathBuf::from(path.trim_start_matches('/'))
}

/// A cgroup of v2 that has processes can't have children with limits.
fn unified_parent(own: &str) -> PathBuf {
    let own = Path::new(MOUNT).join(own_path(own, ""));
    match own.parent() {
        Some(parent) if own.file_name().is_some_and(|name| name == "agent") => parent.to_owned(),
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_in_both_versions() {
        let own = "4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/system.slice/edge.service/agent\n";
        assert_eq!(own_path(own, "memory"), Path::new("a/b"));
        assert_eq!(own_path(own, "cpu"), Path::new("c"));
        assert_eq!(own_path(own, "pids"), Path::new(""));
        let parent = unified_parent(own);
        assert_eq!(parent, Path::new("/sys/fs/cgroup/system.slice/edge.service"));
    }

    #[test]
    fn a_pod_s_cgroups_are_entered_and_the_agent_s_are_not() {
        let text = "4:memory:/a/hinterland-x-1\n3:pids:/a\n2:cpu,cpuacct:/hinterland-x-1\n\
            0::/s/agent\nrubbish\n";
        let expected = ["memory/a/hinterland-x-1/cgroup.procs", "cpu/hinterland-x-1/cgroup.procs"];
        assert_eq!(entrances_in(text), expected.map(|path| Path::new(MOUNT).join(path)));
        let unified = entrances_in("0::/s/hinterland-x-1\n");
        assert_eq!(unified, [Path::new("/sys/fs/cgroup/s/hinterland-x-1/cgroup.procs")]);
    }

    #[test]
    fn a_tiny_share_of_a_core_is_raised_to_what_the_kernel_takes() {
        assert_eq!(quota_us(1), 1_000);
        assert_eq!(quota_us(500), 50_000);
        assert_eq!(quota_us(u64::MAX), u64::MAX / 1000);
    }

    #[test]
    fn pods_of_one_name_in_two_folders_have_two_cgroups() {
        assert_ne!(name_of(Path::new("/a/pods/d_x-0")), name_of(Path::new("/b/pods/d_x-0")));
    }
}
