//! What an XID error of NVIDIA's driver means for the pods of a GPU.
//!
//! Pure: a table and the marks that follow from it; the caller says what time it is. What an application
//! did wrong is the application's; what the device can't do any more keeps pods away. Resets nothing.
//!
//! Source: NVIDIA, "Xid Errors" with its Xid Catalog (8 and 13 are mended by starting the application
//! again, 64 and 95 by a reset), and the application errors in NVIDIA's device plugin for Kubernetes (13, 31,
//! 43, 45, 68, 109). Stricter than the catalog: a GPU that remapped a row (63), counts many mended errors (92)
//! or contained one (94) is left alone for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a GPU is left alone after an error that it mends itself: long enough that its pods end and the
/// alarm is told, and short, since it may be the only one at a site that nobody visits.
pub(super) const QUIET: Duration = Duration::from_secs(60);

/// What follows from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum XidPolicy {
    /// An application's fault: its pod ends by itself, others are not concerned.
    Ignore,
    /// The GPU has mended or contained it: pods leave, and it is used again after [`QUIET`].
    Drain,
    /// Pods leave, and it is used again once the GPU was reset and the driver loaded anew.
    WaitForReset,
}

use XidPolicy::{Drain, Ignore, WaitForReset};

/// Errors by number, in NVIDIA's words made short.
const XIDS: [(u64, XidPolicy, &str); 21] = [
    (8, Ignore, "an application stopped its GPU work"),
    (13, Ignore, "graphics engine exception of an application"),
    (31, Ignore, "memory page fault of an application"),
    (43, Ignore, "an application stopped processing"),
    (45, Ignore, "clean-up after an application"),
    (48, WaitForReset, "double bit ECC error"),
    (61, WaitForReset, "internal micro-controller breakpoint"),
    (62, WaitForReset, "internal micro-controller halt"),
    (63, Drain, "a memory row was remapped or a page retired"),
    (64, WaitForReset, "a memory row could not be remapped or a page not retired"),
    (68, Ignore, "video decoder exception of an application"),
    (74, WaitForReset, "NVLink error"),
    (79, WaitForReset, "the GPU has fallen off the bus"),
    (92, Drain, "high rate of single bit ECC errors"),
    (94, Drain, "contained memory error"),
    (95, WaitForReset, "uncontained memory error"),
    (109, Ignore, "context switch timeout of an application"),
    (119, WaitForReset, "the GPU's system processor does not answer"),
    (120, WaitForReset, "error of the GPU's system processor"),
    (140, WaitForReset, "unrecovered ECC error"),
    (143, WaitForReset, "the GPU could not be initialised"),
];

/// What follows from error `xid`. One that the table does not know keeps pods away for a while: it may
/// be anything, and nobody may be there to say that it was nothing.
pub(super) fn policy(xid: u64) -> (XidPolicy, &'static str) {
    let known = XIDS.iter().find(|(number, _, _)| *number == xid);
    known.map_or((Drain, "an error that is not in the agent's table"), |(_, policy, words)| {
        (*policy, words)
    })
}

/// GPUs from which pods are kept away because of an error, by UUID: since when, and which. The last error
/// counts, but for one that waits for a reset.
#[derive(Debug, Default)]
pub(super) struct XidMarks(BTreeMap<String, (Instant, u64)>);

impl XidMarks {
    /// Notes an error. True when the GPU's health has changed by it.
    pub(super) fn note(&mut self, gpu: &str, xid: u64, now: Instant) -> bool {
        let waits = self.0.get(gpu).is_some_and(|(_, held)| policy(*held).0 == WaitForReset);
        if waits || policy(xid).0 == Ignore {
            return false;
        }
        self.0.insert(gpu.to_owned(), (now, xid));
        true
    }

    /// Why pods are kept away from a GPU at `now`, in words a person can act on.
    pub(super) fn reason(&self, gpu: &str, now: Instant) -> Option<String> {
        let (since, xid) = self.0.get(gpu)?;
        let (policy, words) = policy(*xid);
        let what_helps = match policy {
            Ignore => return None,
            Drain if now.saturating_duration_since(*since) >= QUIET => return None,
            Drain => format!("it is used again after {} quiet seconds", QUIET.as_secs()),
            WaitForReset => {
                "stop the agent, reset the GPU or restart the machine, start the agent".to_owned()
            }
        };
        Some(format!("XID {xid}: {words}; {what_helps}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_table_is_in_order_and_names_each_error_once() {
        assert!(XIDS.is_sorted_by(|(one, ..), (next, ..)| one < next));
    }

    #[test]
    fn what_an_application_did_keeps_no_pod_away() {
        let (mut marks, now) = (XidMarks::default(), Instant::now());
        for xid in [13, 31, 43, 45, 68, 109] {
            assert!(!marks.note("GPU-a", xid, now), "{xid}");
        }
        assert_eq!(marks.reason("GPU-a", now), None);
    }

    #[test]
    fn what_the_gpu_mends_itself_keeps_pods_away_for_a_while() {
        let (mut marks, now) = (XidMarks::default(), Instant::now());
        for xid in [63, 92, 94, 4711] {
            assert!(marks.note("GPU-a", xid, now), "{xid}");
        }
        assert!(marks.reason("GPU-a", now + 59 * SECOND).unwrap().starts_with("XID 4711: "));
        assert_eq!(marks.reason("GPU-a", now + 60 * SECOND), None);
        assert_eq!(marks.reason("GPU-b", now), None);
        assert!(marks.note("GPU-a", 94, now + 100 * SECOND));
        assert!(marks.reason("GPU-a", now + 159 * SECOND).is_some());
    }

    #[test]
    fn what_only_a_reset_mends_waits_for_it_whatever_comes_after() {
        let (mut marks, now) = (XidMarks::default(), Instant::now());
        for xid in [48, 64, 74, 79, 95, 119, 120] {
            assert_eq!(policy(xid).0, WaitForReset, "{xid}");
        }
        assert!(marks.note("GPU-a", 79, now));
        assert!(!marks.note("GPU-a", 63, now + SECOND));
        assert_eq!(
            marks.reason("GPU-a", now + 100_000 * SECOND).unwrap(),
            "XID 79: the GPU has fallen off the bus; stop the agent, reset the GPU or restart the machine, \
             start the agent"
        );
    }
}
