//! CPU time and memory of a pod, from `/proc`. Looks at all processes at most once in a while, for
//! all pods together.

use super::identity::{ProcessIdentity, ProcessStat, descendants, every_process};
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Samples of all pods within this time share one look at the processes.
const LOOK_LIFETIME: Duration = Duration::from_millis(500);

/// Microseconds in a clock tick of `/proc`: `USER_HZ` is 100 on every architecture of Linux that
/// GPUs are used on.
const TICK_USEC: u64 = 10_000;

/// What a pod uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessUsage {
    /// CPU time so far in microseconds, of its living processes and of those that they waited for.
    pub cpu_usec: u64,
    /// Resident memory in bytes; pages that its processes share are counted for each.
    pub memory_bytes: u64,
    /// Its processes and threads.
    pub threads: u64,
}

/// Reads it.
#[derive(Debug, Default)]
pub(super) struct UsageReader {
    seen: Mutex<Option<(Instant, Vec<ProcessStat>)>>,
}

impl UsageReader {
    /// The usage of `main` and of all below `keeper` (the shim, which does not count).
    pub(super) fn of(
        &self,
        keeper: ProcessIdentity,
        main: ProcessIdentity,
    ) -> Option<ProcessUsage> {
        let pod = self.processes_of(keeper, main);
        // A pod that is not in the look was started after it.
        (!pod.is_empty()).then(|| ProcessUsage {
            cpu_usec: pod.iter().fold(0, |sum, stat| sum + stat.cpu_ticks * TICK_USEC),
            memory_bytes: pod.iter().map(|stat| resident_bytes(stat.identity.pid)).sum(),
            threads: pod.iter().fold(0, |sum, stat| sum.saturating_add(stat.threads)),
        })
    }

    /// The numbers of these processes.
    pub(super) fn pids_of(&self, keeper: ProcessIdentity, main: ProcessIdentity) -> Vec<i32> {
        self.processes_of(keeper, main).iter().map(|stat| stat.identity.pid).collect()
    }

    fn processes_of(&self, keeper: ProcessIdentity, main: ProcessIdentity) -> Vec<ProcessStat> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = seen.as_ref().is_some_and(|(at, _)| at.elapsed() < LOOK_LIFETIME);
        if !is_fresh {
            *seen = Some((Instant::now(), every_process()));
        }
        let Some((_, all)) = seen.as_ref() else { return vec![] };
        let own = all.iter().filter(|stat| stat.identity == main && keeper == main && stat.runs());
        let mut pod = descendants(all, keeper.pid);
        pod.extend(own.copied());
        pod
    }
}

/// `VmRSS` of `/proc/<pid>/status`, which does not depend on the page size.
fn resident_bytes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_another_of_its_number_does_not() {
        let own = ProcessIdentity::own().unwrap();
        let usage = UsageReader::default().of(own, own).unwrap();
        assert!(usage.memory_bytes > 100_000 && usage.threads >= 1);
        let gone = ProcessIdentity { pid: i32::MAX, start_ticks: 1 };
        assert_eq!(UsageReader::default().of(gone, gone), None);
    }
}
