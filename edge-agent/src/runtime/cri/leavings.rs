//! What a container runtime that was killed left of a start: containerd's shim, perhaps with a process in it that waits
//! for ever, and cgroups, with or without one. The one that runs now does not know of them and never will, so nobody
//! else ends them.
//!
//! A shim is taken for left when the runtime lists neither sandbox nor container of its id, and either it is older
//! than the runtime, which has read all that it knows before it answers, or that has been so for longer than a start can
//! take. It is touched only where what it was to run lies in a cgroup below the agent's, since shims of others are
//! theirs, or where it runs nothing and the runtime has removed what it was to run.

use super::cgroup::{idle_below, remove_of, remove_one};
use super::client::{CallError, CriClient, ORDER_LIMIT};
use super::note::Pairs;
use super::{Shared, blocking};
use crate::runtime::process::identity::{ProcessIdentity, every_process};
use rustix::process::Signal;
use shared::in_words;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

/// Between two looks at whether the runtime is another.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// No start is under way for so long: its client has given it up by then.
const START_MAX: Duration = ORDER_LIMIT.saturating_add(Duration::from_secs(30));

/// What the kernel puts behind the name of a folder that is removed.
const REMOVED: &str = " (deleted)";

/// How the program is called whose processes are shims.
const SHIM: &str = "containerd-shim";

/// A shim whose id the runtime does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaving {
    shim: ProcessIdentity,
    id: String,
    /// The cgroup of what it was to run, as its bundle says it; `None` where that is removed and nothing runs.
    cgroup: Option<PathBuf>,
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// The runtime that was asked last, and when.
    asked: Option<(ProcessIdentity, Instant)>,
    /// Shims that it did not know, since when.
    unknown: BTreeMap<ProcessIdentity, Instant>,
    /// Cgroups without processes of containers that it did not know, since when.
    idle: BTreeMap<PathBuf, Instant>,
}

/// Looks until the runtime is gone.
pub(super) async fn look(shared: Weak<Shared>) {
    let mut seen = Seen::default();
    loop {
        sleep(LOOK_INTERVAL).await;
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = end_leavings(&shared, &mut seen).await {
            debug!(error = in_words(&error), "what the container runtime knows was not told");
        }
    }
}

async fn end_leavings(shared: &Arc<Shared>, seen: &mut Seen) -> Result<(), CallError> {
    let Some(server) = server(&shared.client).await else { return Ok(()) };
    let is_asked = |(asked, at): &(_, Instant)| *asked == server && at.elapsed() < START_MAX;
    if seen.asked.as_ref().is_some_and(is_asked) {
        return Ok(());
    }
    let begin = Instant::now();
    // Before the runtime is asked: what begins meanwhile is not among them.
    let (socket, parent) = (shared.options.socket.clone(), shared.options.cgroup_parent.clone());
    let looked = blocking(move || (shims(&socket, &parent), idle_below(&parent)));
    let (shims, idle) = looked.await.unwrap_or_default();
    let known = known(&shared.client).await?;
    if self::server(&shared.client).await != Some(server) {
        return Ok(());
    }
    let unknown: Vec<_> = shims.into_iter().filter(|shim| !known.contains(&shim.id)).collect();
    let before = std::mem::take(&mut seen.unknown);
    let since = |shim: &ProcessIdentity| before.get(shim).copied().unwrap_or(begin);
    seen.unknown = unknown.iter().map(|one| (one.shim, since(&one.shim))).collect();
    seen.asked = Some((server, begin));
    let before = std::mem::take(&mut seen.idle);
    let idle = idle.into_iter().filter(|(id, _)| !known.contains(id)).map(|(_, folder)| {
        let since = before.get(&folder).copied().unwrap_or(begin);
        (folder, since)
    });
    seen.idle = idle.collect();
    let old = |since: &Instant| since.elapsed() >= START_MAX;
    let empty: Vec<_> = seen.idle.iter().filter(|(_, since)| old(since)).collect();
    let empty: Vec<PathBuf> = empty.into_iter().map(|(folder, _)| folder.clone()).collect();
    // One that has processes by now can't be removed.
    blocking(move || empty.iter().for_each(|folder| remove_one(folder))).await;
    for leaving in unknown {
        let is_older = leaving.shim.start_ticks < server.start_ticks;
        if is_older || since(&leaving.shim).elapsed() >= START_MAX {
            warn!(id = leaving.id, "the container runtime has lost this: it is ended");
            blocking(move || end(&leaving)).await;
        }
    }
    Ok(())
}

/// The process behind the socket.
async fn server(client: &CriClient) -> Option<ProcessIdentity> {
    client.server().await.and_then(ProcessIdentity::of)
}

/// The ids of all sandboxes and containers, whoever made them.
async fn known(client: &CriClient) -> Result<BTreeSet<String>, CallError> {
    let sandboxes = client.sandboxes(Pairs::new()).await?;
    let containers = client.containers(Pairs::new()).await?;
    let sandboxes = sandboxes.into_iter().map(|sandbox| sandbox.id);
    Ok(sandboxes.chain(containers.into_iter().map(|container| container.id)).collect())
}

/// The shims of the runtime behind `socket` that have a cgroup below `parent`.
fn shims(socket: &Path, parent: &str) -> Vec<Leaving> {
    let Ok(socket) = fs::canonicalize(socket) else { return vec![] };
    let all = every_process();
    let found = all.iter().filter(|stat| stat.runs()).filter_map(|stat| {
        let shim = stat.identity;
        let line = fs::read(format!("/proc/{}/cmdline", shim.pid)).ok()?;
        let (id, address) = of_shim(&String::from_utf8_lossy(&line))?;
        (fs::canonicalize(address).ok()? == socket).then_some(())?;
        // Its working folder is its bundle.
        let cgroup = match fs::read(format!("/proc/{}/cwd/config.json", shim.pid)) {
            Ok(bundle) => Some(cgroup_of_bundle(&bundle).filter(|path| is_below(path, parent))?),
            Err(_) => {
                let bundle = fs::read_link(format!("/proc/{}/cwd", shim.pid)).ok()?;
                let is_idle = !all.iter().any(|other| other.parent == shim.pid && other.runs());
                (is_idle && bundle.to_string_lossy().ends_with(REMOVED)).then_some(None)?
            }
        };
        // Read first, then sure whose it was.
        shim.is_alive().then_some(Leaving { shim, id, cgroup })
    });
    found.collect()
}

/// What a shim is for, and the socket of its runtime, from its command line.
pub(super) fn of_shim(line: &str) -> Option<(String, PathBuf)> {
    let words: Vec<&str> = line.split('\0').collect();
    let program = words.first()?.rsplit('/').next()?;
    let value = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    let id = value("-id").filter(|id| !id.is_empty() && program.starts_with(SHIM))?;
    Some((id.to_owned(), value("-address")?.into()))
}

/// Where a container's cgroup is, from the configuration of its bundle: a path, or, where systemd makes it,
/// `slice:prefix:name`. Source: the runtime specification of OCI.
pub(super) fn cgroup_of_bundle(configuration: &[u8]) -> Option<PathBuf> {
    let configuration: serde_json::Value = serde_json::from_slice(configuration).ok()?;
    let path = configuration.pointer("/linux/cgroupsPath")?.as_str()?;
    // Those of systemd end with their processes.
    (path.starts_with('/') && !path.contains("..")).then(|| path.into())
}

fn is_below(path: &Path, parent: &str) -> bool {
    let parent = parent.trim_end_matches('/');
    !parent.is_empty() && path.strip_prefix(parent).is_ok_and(|rest| rest.components().count() > 0)
}

/// Ends what is in its cgroup, then the shim, which would tell of that end to nobody.
fn end(leaving: &Leaving) {
    if let Some(cgroup) = &leaving.cgroup {
        let name = cgroup.to_string_lossy();
        let is_in = |pid: i32| {
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            cgroups.lines().any(|line| line.ends_with(&*name))
        };
        let inside = every_process().into_iter().map(|stat| stat.identity);
        inside.filter(|one| is_in(one.pid)).for_each(|one| one.signal(Signal::KILL));
    }
    leaving.shim.signal(Signal::KILL);
    leaving.cgroup.iter().for_each(|cgroup| remove_of(cgroup));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_known_by_its_program_and_says_what_it_is_for() {
        let line = |program: &str| {
            [program, "-namespace", "k8s.io", "-id", "ab12", "-address", "/run/c.sock", ""]
                .join("\0")
        };
        let expected = ("ab12".to_owned(), PathBuf::from("/run/c.sock"));
        assert_eq!(of_shim(&line("/usr/bin/containerd-shim-runc-v2")), Some(expected));
        assert_eq!(of_shim(&line("/usr/bin/shim")), None);
        assert_eq!(of_shim(""), None);
        assert_eq!(of_shim("containerd-shim\0-address\0/run/c.sock\0-id"), None);
    }

    #[test]
    fn only_what_lies_below_the_agents_cgroup_is_its_own() {
        let of = |path: &str| {
            let text = serde_json::json!({ "linux": { "cgroupsPath": path } }).to_string();
            cgroup_of_bundle(text.as_bytes()).is_some_and(|path| is_below(&path, "/hinterland"))
        };
        assert!(of("/hinterland/ab12") && of("/hinterland/pod/ab12"));
        assert!(!of("/hinterland") && !of("/hinterlands/ab12") && !of("/default/ab12"));
        assert!(!of("system.slice:cri-containerd:ab12") && !of("/hinterland/../x"));
        assert_eq!(cgroup_of_bundle(b"{}"), None);
        assert!(!is_below(Path::new("/x"), ""), "without a cgroup of its own nothing is its own");
    }
}
