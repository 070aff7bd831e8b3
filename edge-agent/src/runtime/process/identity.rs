//! Who a process is: its number and when it started, in a given boot. A number alone is reused.
//!
//! Signals go through a pidfd that was opened before the identity was checked, so that no process
//! is ever signalled that merely has the number of one that ended.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process in the present boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::runtime) struct ProcessIdentity {
    /// Its number.
    pub(in crate::runtime) pid: i32,
    /// Clock ticks from boot to its start; field 22 of `/proc/<pid>/stat`. `exec` keeps it.
    pub(in crate::runtime) start_ticks: u64,
}

/// What `/proc/<pid>/stat` says of a process. Source of the fields: proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime) struct ProcessStat {
    pub(in crate::runtime) identity: ProcessIdentity,
    /// A letter, as in `R`, `S`, `Z`.
    pub(in crate::runtime) state: char,
    pub(in crate::runtime) parent: i32,
    /// User and system time of it and of its children that were waited for.
    pub(in crate::runtime) cpu_ticks: u64,
    /// Its threads.
    pub(in crate::runtime) threads: u64,
}

impl ProcessIdentity {
    /// The process that has this number now; also one that ended and was not waited for.
    pub(in crate::runtime) fn of(pid: i32) -> Option<Self> {
        ProcessStat::of(pid).map(|stat| stat.identity)
    }

    /// The calling process.
    pub(in crate::runtime) fn own() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// Whether it runs: a zombie does not.
    pub(in crate::runtime) fn is_alive(self) -> bool {
        ProcessStat::of(self.pid).is_some_and(|stat| stat.identity == self && stat.runs())
    }

    /// A descriptor of this very process; it becomes readable when the process ends.
    ///
    /// # Errors
    /// `NotFound` when it is gone or its number is another's now.
    pub(in crate::runtime) fn open(self) -> io::Result<OwnedFd> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the process is gone");
        // A file may hold any number; 0 and below address groups, 1 is init.
        let pid = Some(self.pid).filter(|pid| *pid > 1).and_then(Pid::from_raw).ok_or_else(gone)?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error {
            Errno::SRCH => gone(),
            other => other.into(),
        })?;
        // The descriptor pins the process: if it is the right one now, it stays so.
        if Self::of(self.pid) == Some(self) { Ok(descriptor) } else { Err(gone()) }
    }

    /// Sends it a signal; one that is gone needs none.
    pub(in crate::runtime) fn signal(self, signal: Signal) {
        if let Ok(descriptor) = self.open() {
            let _ = pidfd_send_signal(descriptor, signal);
        }
    }
}

impl ProcessStat {
    /// Reads it; `None` when there is no such process.
    pub(in crate::runtime) fn of(pid: i32) -> Option<Self> {
        // The name of a process need not be UTF-8.
        let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &String::from_utf8_lossy(&bytes))
    }

    pub(in crate::runtime) fn parse(pid: i32, text: &str) -> Option<Self> {
        // The second field is the name in parentheses and may contain anything, also `) R 1`.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // `fields` begins with field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let times = [number(14)?, number(15)?, number(16)?, number(17)?];
        Some(Self {
            identity: ProcessIdentity { pid, start_ticks: number(22)? },
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            cpu_ticks: times.into_iter().fold(0, u64::saturating_add),
            threads: number(20)?,
        })
    }

    /// Whether it runs: neither a zombie nor dead.
    pub(in crate::runtime) fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Returns when the process of a pidfd has ended; it may still have to be waited for.
///
/// # Errors
/// When the runtime of tasks can't watch it.
// Deprecated in favour of an unsafe function, for types whose descriptor can change; that of an
// `OwnedFd` can't.
#[allow(deprecated)]
pub(in crate::runtime) async fn ended(descriptor: &OwnedFd) -> io::Result<()> {
    let descriptor = AsyncFd::with_interest(descriptor.as_fd(), Interest::READABLE)?;
    descriptor.readable().await.map(drop)
}

/// Every process there is.
pub(in crate::runtime) fn every_process() -> Vec<ProcessStat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(ProcessStat::of).collect()
}

/// The processes of `all` below `ancestor`, without it and without zombies.
pub(in crate::runtime) fn descendants(all: &[ProcessStat], ancestor: i32) -> Vec<ProcessStat> {
    let mut ancestors = std::collections::BTreeSet::from([ancestor]);
    // Numbers do not rise with age once they have wrapped, so: again until nothing is new.
    loop {
        let known = ancestors.len();
        let below = all.iter().filter(|stat| ancestors.contains(&stat.parent));
        let below: Vec<i32> = below.map(|stat| stat.identity.pid).collect();
        ancestors.extend(below);
        if ancestors.len() == known {
            break;
        }
    }
    let found = all.iter().filter(|stat| {
        let pid = stat.identity.pid;
        pid != ancestor && ancestors.contains(&pid) && stat.runs()
    });
    found.copied().collect()
}

/// Names the present boot; another boot has other processes.
///
/// # Errors
/// When `/proc` is not mounted.
pub(in crate::runtime) fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: i32, parent: i32, state: char) -> ProcessStat {
        let identity = ProcessIdentity { pid, start_ticks: 1 };
        ProcessStat { identity, state, parent, cpu_ticks: 0, threads: 1 }
    }

    #[test]
    fn a_process_that_names_itself_like_a_stat_line_is_still_read_rightly() {
        let text = "42 (x) R 1 (y) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 9000 1 5 0";
        let stat = ProcessStat::parse(42, text).unwrap();
        assert_eq!(stat.identity, ProcessIdentity { pid: 42, start_ticks: 9000 });
        assert_eq!((stat.state, stat.parent), ('S', 7));
        assert_eq!((stat.cpu_ticks, stat.threads), (100, 1));
    }

    #[test]
    fn a_torn_stat_line_is_no_process() {
        let cut =
            ["", "42", "42 (x", "42 (x) S 1 2", "42 (x) S a b c d e f g h i j k l m n o p q r s"];
        for text in cut {
            assert_eq!(ProcessStat::parse(42, text), None, "`{text}` was accepted");
        }
    }

    #[test]
    fn the_same_number_with_another_start_is_another_process() {
        let own = ProcessIdentity::own().unwrap();
        assert!(own.is_alive() && own.open().is_ok());
        let other = ProcessIdentity { start_ticks: own.start_ticks + 1, ..own };
        assert!(!other.is_alive());
        assert_eq!(other.open().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn nobody_has_the_numbers_that_address_groups_or_init() {
        for pid in [-5, 0, 1] {
            assert!(ProcessIdentity { pid, start_ticks: 0 }.open().is_err(), "{pid} was opened");
        }
    }

    #[test]
    fn descendants_are_found_whatever_the_order_of_their_numbers() {
        let all = [stat(5, 90, 'S'), stat(90, 10, 'S'), stat(6, 5, 'Z'), stat(7, 1, 'S')];
        let found: Vec<i32> = descendants(&all, 10).iter().map(|stat| stat.identity.pid).collect();
        assert_eq!(found, [5, 90]);
    }
}
