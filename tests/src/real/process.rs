//! Processes that a test starts: killed when the test ends, whatever happened, with all they left.

use anyhow::Context;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

    /// Asks it to stop, and waits.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn terminate(&mut self, timeout: Duration) -> anyhow::Result<()> {
        signal(self.id(), rustix::process::Signal::TERM);
        wait_until("the process stops", timeout, || Ok(!self.runs()))
    }

    /// What it has printed, or the last of it.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(20_000);
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
    }
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

/// A port that is free now.
///
/// # Errors
/// When the system gives none.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
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
