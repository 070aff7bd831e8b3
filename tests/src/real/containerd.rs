//! A containerd of the test's own: its folders, its socket, its cgroup, its images. Whatever it started ends with
//! it, and what it leaves behind can be asked for.
//!
//! Needs root. The images are built here: no registry is asked.

use super::cni::CniNetwork;
use super::oci::{BOX_IMAGE, PAUSE_IMAGE, import_images};
use super::process::{Process, signal, wait_until};
use anyhow::{Context, ensure};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Nothing here takes this long on a machine that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Debian has runc where not everybody's PATH has it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the configuration of its pods' network is.
const CNI_FOLDER: &str = "cni";

/// Tells the cgroups of the tests of one process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A containerd that runs.
#[derive(Debug)]
pub struct Containerd {
    folder: tempfile::TempDir,
    process: Option<Process>,
    /// The network of its pods that have one of their own, where there is one.
    network: Option<CniNetwork>,
    /// The cgroup below which its pods are to be.
    pub cgroup: String,
}

impl Containerd {
    /// Starts one that has the images [`BOX_IMAGE`] and [`PAUSE_IMAGE`].
    ///
    /// # Errors
    /// When it is not installed (`tests/install.sh` does), or does not start.
    pub fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/hinterland-test-{}-{number}", std::process::id());
        let mut containerd = Self { folder, process: None, network: None, cgroup };
        containerd.write_configuration()?;
        containerd.resume()?;
        import_images(&containerd)?;
        Ok(containerd)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.at("c.sock")
    }

    /// Where it keeps images, containers and what containers write.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.at("root")
    }

    /// A place in its folder.
    #[must_use]
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_configuration(&self) -> anyhow::Result<()> {
        fs::create_dir(self.at(CNI_FOLDER))?;
        let at = |name: &str| self.at(name).display().to_string();
        let (root, state, socket, ttrpc) = (at("root"), at("state"), at("c.sock"), at("c.ttrpc"));
        let cni = at(CNI_FOLDER);
        // Root has no CAP_SYS_RESOURCE in every test machine.
        let text = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{ttrpc}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#
        );
        Ok(fs::write(self.at("config.toml"), text)?)
    }

    /// Starts it (again), with what it has on its disk; returns when it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.at("config.toml")).env("PATH", PATH);
        self.process = Some(Process::start(&mut command, &self.at("log"))?);
        wait_until("containerd answers", PATIENCE, || self.ctr(&["version"]).map(|_| true))
    }

    /// Takes a network for its pods, which it does not know before that is configured.
    ///
    /// # Errors
    /// When there is none.
    pub fn take_network(&mut self) -> anyhow::Result<&CniNetwork> {
        let network = CniNetwork::take(&self.at(CNI_FOLDER), &self.at("leases"))?;
        Ok(self.network.insert(network))
    }

    /// The network that was taken.
    #[must_use]
    pub fn network(&self) -> Option<&CniNetwork> {
        self.network.as_ref()
    }

    /// Kills it with signal 9; containers go on.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Runs `ctr` in the namespace of CRI; what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]);
        let output = command.args(arguments).env("PATH", PATH).output().context("no ctr")?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "ctr {arguments:?}: {error}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Sandboxes and containers that it knows.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn containers(&self) -> anyhow::Result<Vec<String>> {
        let listed = self.ctr(&["containers", "list", "--quiet"])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// What a power cut does: everything ends at once, and what lay in memory is gone.
    ///
    /// # Errors
    /// When something can't be ended.
    pub fn cut_power(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.end_everything()?;
        self.network.as_ref().map_or(Ok(()), CniNetwork::cut_power)?;
        Ok(fs::remove_dir_all(self.at("state"))?)
    }

    fn end_everything(&self) -> anyhow::Result<()> {
        wait_until("nothing of it runs", PATIENCE, || {
            let processes = self.processes();
            processes.iter().for_each(|id| signal(*id, Signal::KILL));
            Ok(processes.is_empty())
        })?;
        for mount in self.mounts().iter().rev() {
            let _ = Command::new("umount").arg("--lazy").arg(mount).status();
        }
        // One whose last process is dead and not yet reaped can't be removed.
        wait_until("its cgroups are gone", PATIENCE, || {
            let cgroups = self.cgroups();
            cgroups.iter().rev().for_each(|cgroup| drop(fs::remove_dir(cgroup)));
            Ok(cgroups.is_empty())
        })
    }

    /// Its shims and all processes of its containers.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let folder = self.folder.path().display().to_string();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_own = |id: &u32| {
            let read = |name: &str| {
                String::from_utf8_lossy(&fs::read(format!("/proc/{id}/{name}")).unwrap_or_default())
                    .into_owned()
            };
            let is_shim =
                read("cmdline").contains("containerd-shim") && read("cmdline").contains(&folder);
            let is_dead = read("stat").rsplit_once(") ").is_none_or(|(_, s)| s.starts_with('Z'));
            !is_dead && (is_shim || read("cgroup").contains(&format!("{}/", self.cgroup)))
        };
        ids.filter(is_own).collect()
    }

    /// Mounts in its folders.
    #[must_use]
    pub fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let places = table.lines().filter_map(|line| line.split(' ').nth(4));
        let folder = self.folder.path().display().to_string();
        places.filter(|place| place.starts_with(&folder)).map(str::to_owned).collect()
    }

    /// The cgroup of its pods, in every hierarchy, and what lies below; outer ones first.
    #[must_use]
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let roots = hierarchies.map(|entry| entry.path().join(self.cgroup.trim_start_matches('/')));
        let mut found: Vec<PathBuf> = roots.filter(|root| root.is_dir()).collect();
        let mut next = 0;
        while let Some(folder) = found.get(next).cloned() {
            let below = fs::read_dir(folder).into_iter().flatten().flatten();
            found.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
            next += 1;
        }
        found
    }

    /// What is left of pods: sandboxes and containers, processes, mounts (also those of networks), cgroups, and what
    /// its network says. Empty when all is well.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn leaks(&self) -> anyhow::Result<Vec<String>> {
        let mut leaks = self.containers()?;
        leaks.extend(self.processes().iter().map(|id| format!("process {id}")));
        leaks.extend(self.mounts());
        leaks.extend(self.network.iter().flat_map(CniNetwork::leaks));
        let depth = |path: &Path| path.components().count();
        let parent = Path::new("/sys/fs/cgroup/x").join(self.cgroup.trim_start_matches('/'));
        let of_pods = self.cgroups().into_iter().filter(|path| depth(path) > depth(&parent));
        leaks.extend(of_pods.map(|path| path.display().to_string()));
        Ok(leaks)
    }

    /// The image that pods here are of.
    #[must_use]
    pub fn image() -> &'static str {
        BOX_IMAGE
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.kill();
        let _ = self.end_everything();
    }
}
