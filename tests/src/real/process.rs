//! Processes that a test starts: killed when the test ends, whatever happened, with all they left.

use anyhow::Context;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a person reads of a failure's log.
const LOG_BYTES_SHOWN_MAX: usize = 20_000;

/// A process with its output in a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    ///
    /// # Errors
    /// When the program can't be started.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let output: File = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("could not start {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it with signal 9 and takes its status.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop, and waits; its exit status, if it was no signal that ended it.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn terminate(&mut self, timeout: Duration) -> anyhow::Result<Option<i32>> {
        signal(self.id(), rustix::process::Signal::TERM);
        wait_until("the process stops", timeout, || Ok(!self.runs()))?;
        Ok(self.child.wait()?.code())
    }

    /// What it has printed, or the last of it.
    #[must_use]
    pub fn log(&self) -> String {
        log_at(&self.log)
    }
}

/// What a process has printed into `log`, or the last of it.
#[must_use]
pub fn log_at(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let from = text.len().saturating_sub(LOG_BYTES_SHOWN_MAX);
    String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let (name, log) = (self.log.display(), self.log());
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("---- {name}\n{log}\n"),
            );
        }
    }
}

/// Sends a signal to a process that this test started.
pub fn signal(id: u32, signal: rustix::process::Signal) {
    let id = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        let _ = rustix::process::kill_process(id, signal);
    }
}

/// Waits until `holds`, asking often.
///
/// # Errors
/// When it does not hold in time; names what was waited for and why it did not.
pub fn wait_until(
    what: &str,
    timeout: Duration,
    mut holds: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut why;
    loop {
        match holds() {
            Ok(true) => return Ok(()),
            Ok(false) => why = String::new(),
            Err(error) => why = format!(": {error:#}"),
        }
        if begin.elapsed() >= timeout {
            anyhow::bail!("waited {timeout:?} in vain until {what}{why}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every process whose command line, environment or working folder names `folder`: agent, shims and
/// pods of one test, also those that left their process group.
#[must_use]
pub fn processes_of(folder: &Path) -> Vec<u32> {
    // With the slash, or `node-1` would be found in `node-10`.
    let needle = [folder.as_os_str().as_encoded_bytes(), b"/"].concat();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let own = std::process::id();
    ids.filter(|id| *id != own && names(*id, &needle)).collect()
}

fn names(id: u32, needle: &[u8]) -> bool {
    let found = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let read = |name: &str| std::fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
    let cwd = std::fs::read_link(format!("/proc/{id}/cwd"));
    let in_folder = cwd.is_ok_and(|cwd| found(cwd.as_os_str().as_encoded_bytes()));
    found(&read("cmdline")) || found(&read("environ")) || in_folder
}

/// Kills every process of `folder` with signal 9, again and again until none is left.
pub fn kill_all_of(folder: &Path) {
    for _ in 0..50 {
        let ids = processes_of(folder);
        if ids.is_empty() {
            return;
        }
        ids.iter().for_each(|id| signal(*id, rustix::process::Signal::KILL));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Where ports begin that [`free_port`] gives.
const PORT_FIRST: u16 = 20_000;

/// How many there are: all lie below 30000, and so below those that systems give to outgoing
/// connections (Linux: from 32768 on), which would take the port of a hub while it is down.
const PORT_COUNT: u16 = 10_000;

/// What this process has been given: how many ports were tried, and what keeps the good ones its own.
static PORTS: Mutex<(u16, Vec<UnixListener>)> = Mutex::new((0, Vec::new()));

/// A port of loopback that is free now, and that no other call gets, here or in a test process beside
/// this one, as long as this process lives.
///
/// # Errors
/// When none is left.
pub fn free_port() -> anyhow::Result<u16> {
    let mut ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let (tried, claims) = &mut *ports;
    while *tried < PORT_COUNT {
        let port = nth_port(*tried);
        *tried += 1;
        let Some(claim) = claim_port(port) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            claims.push(claim);
            return Ok(port);
        }
    }
    anyhow::bail!("no port between {PORT_FIRST} and {} is left", PORT_FIRST + PORT_COUNT - 1)
}

/// The first of `count` such ports, one after the other.
///
/// # Errors
/// When there are no such ports left.
pub fn free_ports_in_a_row(count: u16) -> anyhow::Result<u16> {
    let mut first = free_port()?;
    let mut last = first;
    while last.saturating_sub(first) + 1 < count {
        let next = free_port()?;
        if next != last + 1 {
            first = next;
        }
        last = next;
    }
    Ok(first)
}

/// Processes that run at the same time begin far apart.
fn nth_port(number: u16) -> u16 {
    let begin = u64::from(std::process::id()) * 101;
    let offset = (begin + u64::from(number)) % u64::from(PORT_COUNT);
    PORT_FIRST + u16::try_from(offset).unwrap_or(0)
}

/// A socket with a name but without a file: the kernel gives one name to one process at a time, takes
/// it back when the process ends however it ends, and keeps names apart by network as it does ports.
fn claim_port(port: u16) -> Option<UnixListener> {
    let name = format!("hinterland-port-{port}");
    let address = SocketAddr::from_abstract_name(name).ok()?;
    UnixListener::bind_addr(&address).ok()
}

/// Proportional memory of a process in KiB (`Pss` of `smaps_rollup`).
///
/// # Errors
/// When the process is gone.
pub fn pss_kib(id: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let words = line.context("smaps_rollup has no Pss")?;
    Ok(words.trim().trim_end_matches("kB").trim().parse()?)
}

/// User and system time of a process, of all its threads and of what it started and has seen end (`proc(5)`); in
/// ticks of 10 ms.
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(id: u32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in parentheses may hold spaces; fields 14 to 17 are the eleventh to fourteenth behind it.
    let (_, fields) = text.rsplit_once(") ").context("stat has no name")?;
    let ticks = fields.split(' ').skip(11).take(4).map(str::parse::<u64>);
    let ticks: u64 = ticks.collect::<Result<Vec<_>, _>>()?.into_iter().sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Memory of a process that is resident, in KiB: now (`VmRSS`), and the most that ever was (`VmHWM`).
///
/// # Errors
/// When the process is gone.
pub fn resident_kib(id: u32) -> anyhow::Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let field = |name: &str| -> anyhow::Result<u64> {
        let words = text.lines().find_map(|line| line.strip_prefix(name));
        let words = words.with_context(|| format!("the status has no {name}"))?;
        Ok(words.trim().trim_end_matches("kB").trim().parse()?)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// Runs a program to its end: what stands behind the first `: ` of its lines, by what stands before.
///
/// # Errors
/// In words, when it does not start, fails, panics, or runs longer than `deadline`.
pub fn lines_of(
    command: &mut Command,
    deadline: Duration,
) -> Result<BTreeMap<String, String>, String> {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().map_err(|error| error.to_string())?;
    let begin = Instant::now();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if begin.elapsed() > deadline {
            // It may have ended just now.
            let _ = child.kill();
            let _ = child.wait();
            return Err("it hangs".to_owned());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}\n{text}\n{errors}", output.status));
    }
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    Ok(lines.map(|(word, value)| (word.to_owned(), value.to_owned())).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ports_are_given_once_and_are_not_those_of_outgoing_connections() {
        let ports: BTreeSet<u16> = (0..200).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 200);
        assert!(ports.iter().all(|port| (20_000..30_000).contains(port)), "{ports:?}");
    }

    #[test]
    fn a_port_that_is_claimed_or_in_use_is_given_to_nobody_else() {
        let port = free_port().unwrap();
        assert!(claim_port(port).is_none(), "another process could claim it");
        // What a process beside this one did: one port claimed, one in use by something else.
        let next = PORTS.lock().unwrap_or_else(PoisonError::into_inner).0;
        let claimed = (next..PORT_COUNT).find_map(|number| {
            let port = nth_port(number);
            Some((port, claim_port(port)?))
        });
        let (claimed, _claim) = claimed.unwrap();
        let used = (next..PORT_COUNT).find_map(|number| {
            let port = nth_port(number);
            (port != claimed).then(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())?
        });
        let used = used.unwrap();
        let given: Vec<u16> = (0..20).map(|_| free_port().unwrap()).collect();
        assert!(!given.contains(&claimed), "{claimed} in {given:?}");
        assert!(!given.contains(&used.local_addr().unwrap().port()), "{used:?} in {given:?}");
    }
}
