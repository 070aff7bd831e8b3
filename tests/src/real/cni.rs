//! A network for the pods of a containerd: a bridge and a range of addresses that no other test on this machine has,
//! made by Debian's CNI plugins. What it leaves behind can be asked for; what it left goes with it.
//!
//! The chains that `portmap` shares between all networks stay, empty.

use anyhow::{Context, bail, ensure};
use serde_json::json;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian has `ip` and `iptables` where not everybody's PATH has them.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where plugins' results are kept, whatever the network.
const RESULTS: &str = "/var/lib/cni/results";

/// A network.
#[derive(Debug)]
pub struct CniNetwork {
    /// The bridge's name and the network's.
    name: String,
    /// The third number of its addresses.
    number: u8,
    /// Where its configuration is to be.
    folder: PathBuf,
    /// Where its addresses are noted: not in `/run`, as on every node.
    leases: PathBuf,
}

impl CniNetwork {
    /// Takes a bridge that nobody has. The container runtime knows nothing of it before [`Self::configure`].
    ///
    /// # Errors
    /// When there is none, or this is not root.
    pub(super) fn take(folder: &Path, leases: &Path) -> anyhow::Result<Self> {
        let first = u8::try_from(std::process::id() % 256)?;
        for number in (0..=255_u8).map(|step| first.wrapping_add(step)) {
            let name = format!("cni-ht{number}");
            if add_bridge(&name).is_ok() {
                let (folder, leases) = (folder.to_owned(), leases.to_owned());
                return Ok(Self { name, number, folder, leases });
            }
        }
        bail!("no bridge could be made: expected root, and one of cni-ht0 to cni-ht255 to be free")
    }

    /// Lets the container runtime know it.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn configure(&self) -> anyhow::Result<()> {
        let subnet = format!("10.213.{}.0/24", self.number);
        let ipam = json!({
            "type": "host-local",
            "dataDir": self.leases,
            "ranges": [[{ "subnet": subnet }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        });
        let bridge =
            json!({ "type": "bridge", "bridge": self.name, "isGateway": true, "ipam": ipam });
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        let list =
            json!({ "cniVersion": "0.4.0", "name": self.name, "plugins": [bridge, portmap] });
        // Whole at once: it is watched.
        let path = self.folder.join("10-test.conflist");
        fs::write(path.with_extension("new"), serde_json::to_vec(&list)?)?;
        Ok(fs::rename(path.with_extension("new"), path)?)
    }

    /// The node's address in it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, 1)
    }

    /// Addresses that are taken.
    #[must_use]
    pub fn taken(&self) -> Vec<Ipv4Addr> {
        let names = names_in(&self.leases.join(&self.name));
        names.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// What is left of pods: addresses, devices, rules, results.
    #[must_use]
    pub fn leaks(&self) -> Vec<String> {
        let taken = self.taken().into_iter().map(|address| format!("address {address}"));
        let devices = names_in(&Path::new("/sys/class/net").join(&self.name).join("brif"));
        let devices = devices.into_iter().map(|name| format!("device {name}"));
        let rules = self.rules().into_iter().map(|rule| format!("rule {rule}"));
        let results = self.results().into_iter().map(|path| path.display().to_string());
        taken.chain(devices).chain(rules).chain(results).collect()
    }

    /// Devices and rules are gone with the power; files are not.
    ///
    /// # Errors
    /// When they can't be removed.
    pub(super) fn cut_power(&self) -> anyhow::Result<()> {
        self.remove();
        // Nobody else is to take it.
        add_bridge(&self.name)
    }

    fn remove(&self) {
        let _ = run("ip", &["link", "delete", &self.name]);
        for rule in self.rules() {
            // As `iptables` itself wrote it, quotes and all.
            let delete = format!("iptables -w -t nat {}", rule.replacen("-A", "-D", 1));
            let _ = run("sh", &["-c", &delete]);
            let chain = rule.rsplit(' ').next().unwrap_or_default();
            let _ = run("iptables", &["-w", "-t", "nat", "-F", chain]);
            let _ = run("iptables", &["-w", "-t", "nat", "-X", chain]);
        }
    }

    /// Rules that name it, each ending with the chain of a pod.
    fn rules(&self) -> Vec<String> {
        let listed = run("iptables", &["-w", "-t", "nat", "-S"]).unwrap_or_default();
        let name = format!("name: \\\"{}\\\"", self.name);
        listed.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect()
    }

    fn results(&self) -> Vec<PathBuf> {
        let (folder, prefix) = (Path::new(RESULTS), format!("{}-", self.name));
        let own = names_in(folder).into_iter().filter(|name| name.starts_with(&prefix));
        own.map(|name| folder.join(name)).collect()
    }
}

impl Drop for CniNetwork {
    fn drop(&mut self) {
        self.remove();
        self.results().iter().for_each(|path| drop(fs::remove_file(path)));
    }
}

fn add_bridge(name: &str) -> anyhow::Result<()> {
    run("ip", &["link", "add", name, "type", "bridge"]).map(drop)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).env("PATH", PATH).output();
    let output = output.with_context(|| format!("no {program}: tests/install.sh installs it"))?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{program} {arguments:?}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
