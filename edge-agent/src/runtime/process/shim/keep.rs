//! The shim's loop while its pod runs: logs, orders to stop, the end of the main process, the end
//! of all others.
//!
//! Signals only its own descendants, each through a pidfd. Ends only when it has no child left: as
//! the subreaper it inherits every orphan, so then nothing of the pod is left either.

use super::super::identity::{ProcessIdentity, descendants, every_process};
use super::super::layers::{Attempt, attempt};
use super::super::log::RotatingLog;
use super::super::order::StopOrder;
use super::launch::Launched;
use crate::ports::InstanceId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is read of the pod's output at once; the size of a pipe's buffer would be more memory for
/// no gain.
const OUTPUT_CHUNK_BYTES: usize = 16 * 1024;

/// Chunks read before the rest is looked after, so that a flood does not hold up a stop.
const OUTPUT_CHUNKS_PER_TURN: usize = 16;

/// What is left of a pod whose main process ended gets this long after SIGTERM.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);

/// Orphans that end do not wake the shim: it looks for them this often, sooner where there are many.
const REAP_IDLE: Duration = Duration::from_secs(30);
const REAP_BUSY: Duration = Duration::from_millis(500);

/// While the last processes of a pod are being ended.
const END_TURN: Duration = Duration::from_millis(5);

/// Orders come one at a time; more than this at once is not from the agent.
const CONTROL_BYTES_MAX: usize = 4096;

/// Keeps one pod.
#[derive(Debug)]
pub(super) struct Keeper {
    instance: InstanceId,
    main: ProcessIdentity,
    /// Readable when the main process has ended; `None` when that is known.
    main_end: Option<OwnedFd>,
    output: Option<File>,
    control: File,
    log: RotatingLog,
    code: Option<i32>,
    /// When what is left is killed; set by an order to stop and by the end of the main process.
    kill_at: Option<Instant>,
    reaped_some: bool,
}

/// Opens the FIFO that takes orders; it is made anew, so that nothing old is in it.
pub(super) fn open_control(path: &Path) -> Attempt<File> {
    let opening = || attempt(format!("make the FIFO {}", path.display()));
    let _ = std::fs::remove_file(path);
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).map_err(opening())?;
    // Open for writing too: so it never comes to an end.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map(File::from).map_err(opening())
}

impl Keeper {
    pub(super) fn new(
        instance: InstanceId,
        launched: Launched,
        control: File,
        log: RotatingLog,
    ) -> Self {
        Self {
            instance,
            main: launched.identity,
            main_end: launched.identity.open().ok(),
            output: Some(File::from(launched.output)),
            control,
            log,
            code: None,
            kill_at: None,
            reaped_some: false,
        }
    }

    /// Returns when nothing of the pod is left: the exit code of its main process, or 128 + the
    /// number of the signal that ended it.
    pub(super) fn keep(mut self) -> i32 {
        let mut buffer = vec![0_u8; OUTPUT_CHUNK_BYTES];
        loop {
            self.wait_for_something();
            self.take_output(&mut buffer);
            self.take_orders();
            let children_left = self.reap();
            if !children_left {
                self.take_output(&mut buffer);
                return self.code.unwrap_or(128 + Signal::KILL.as_raw());
            }
            self.kill_if_due();
        }
    }

    fn wait_for_something(&self) {
        let readable = |descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
        let output = self.output.as_ref().map(File::as_fd);
        let main_end = self.main_end.as_ref().map(OwnedFd::as_fd);
        let descriptors = [output, main_end, Some(self.control.as_fd())];
        let mut waiting: Vec<PollFd<'_>> =
            descriptors.into_iter().flatten().map(|fd: BorrowedFd<'_>| readable(fd)).collect();
        let timeout = Timespec::try_from(self.longest_wait()).ok();
        // Interrupted or not: the loop looks at everything anyway.
        let _ = poll(&mut waiting, timeout.as_ref());
    }

    fn longest_wait(&self) -> Duration {
        let idle = match (self.code, self.reaped_some) {
            (Some(_), _) => END_TURN,
            (None, true) => REAP_BUSY,
            (None, false) => REAP_IDLE,
        };
        let until_kill = self.kill_at.map(|at| at.saturating_duration_since(Instant::now()));
        // Past its deadline a process may still take a moment to go.
        until_kill.map_or(idle, |until| until.max(END_TURN).min(idle))
    }

    fn take_output(&mut self, buffer: &mut [u8]) {
        let Some(output) = &mut self.output else { return };
        for _ in 0..OUTPUT_CHUNKS_PER_TURN {
            match output.read(buffer) {
                Ok(0) => {
                    self.output = None;
                    return;
                }
                Ok(count) => self.log.append(buffer.get(..count).unwrap_or_default()),
                Err(_) => return,
            }
        }
    }

    fn take_orders(&mut self) {
        let mut text = [0_u8; CONTROL_BYTES_MAX];
        let Ok(count) = self.control.read(&mut text) else { return };
        let lines = text.get(..count).unwrap_or_default().split(|byte| *byte == b'\n');
        let orders = lines.filter_map(|line| serde_json::from_slice::<StopOrder>(line).ok());
        let instance = self.instance;
        for order in orders.filter(|order| order.instance == instance) {
            self.stop(Duration::from_millis(order.grace_ms));
        }
    }

    /// A later order can only shorten the grace of an earlier one. Without a grace there is no
    /// SIGTERM either: the status would be a matter of chance.
    fn stop(&mut self, grace: Duration) {
        let first = self.kill_at.is_none();
        let kill_at = Instant::now().checked_add(grace);
        self.kill_at = self.kill_at.into_iter().chain(kill_at).min();
        if first && self.code.is_none() && !grace.is_zero() {
            self.signal_main_group(Signal::TERM);
        }
    }

    /// While the main process is not reaped its number, and so its group's, is its own.
    fn signal_main_group(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.main.pid) {
            let _ = rustix::process::kill_process_group(group, signal);
        }
        // It may have left the group that it was started in.
        self.main.signal(signal);
    }

    /// Takes the status of children that ended; whether any child is left.
    fn reap(&mut self) -> bool {
        self.reaped_some = false;
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid.as_raw_pid() == self.main.pid => {
                    self.main_ended(code_of(status));
                }
                Ok(Some(_)) => self.reaped_some = true,
                Ok(None) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn main_ended(&mut self, code: i32) {
        (self.code, self.main_end) = (Some(code), None);
        let leftover = Instant::now() + LEFTOVER_GRACE;
        self.kill_at = Some(self.kill_at.map_or(leftover, |at| at.min(leftover)));
        signal_descendants(Signal::TERM);
    }

    fn kill_if_due(&self) {
        if self.kill_at.is_some_and(|at| at <= Instant::now()) {
            // First all are stopped, so that none makes another while its siblings are killed.
            signal_descendants(Signal::STOP);
            signal_descendants(Signal::KILL);
        }
    }
}

/// Kills every descendant and waits until they are gone.
pub(super) fn end_children() {
    signal_descendants(Signal::KILL);
    // Ends with an error when there is no child left.
    while matches!(wait(WaitOptions::empty()), Ok(_) | Err(Errno::INTR)) {}
}

fn signal_descendants(signal: Signal) {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    for stat in descendants(&every_process(), own) {
        stat.identity.signal(signal);
    }
}

fn code_of(status: WaitStatus) -> i32 {
    let signalled = status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or(signalled).unwrap_or(255)
}
