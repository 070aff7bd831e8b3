//! What a pod's state is called, and the words for it.

use super::{Cause, Containers, Pod, State, Verdict};
use shared::model::{PodPhase, PodStatus, Revision};

impl Pod {
    pub(in crate::pods) fn status(&self) -> PodStatus {
        let (phase, ready, reason, message) = self.phase();
        let started_at = match &self.state {
            State::Running { started_at, .. } | State::Several { started_at, .. } => {
                Some(*started_at)
            }
            _ => None,
        };
        let containers = match &self.state {
            State::Several { containers, .. } => Some(containers),
            _ => None,
        };
        let restarts_of_containers = containers.map_or(0, Containers::restarts);
        PodStatus {
            pod: self.id.clone(),
            revision: self.shown_revision(),
            phase,
            ready,
            reason,
            message,
            restarts: self.restarts.saturating_add(restarts_of_containers),
            started_at,
            last_exit_code: self.last_exit_code,
            gpus: self.live.as_ref().map(|live| live.placement.gpus.clone()).unwrap_or_default(),
            containers: containers.map(Containers::statuses).unwrap_or_default(),
            pod_ip: self.live.as_ref().and_then(|live| live.pod_ip),
        }
    }

    /// What runs, else what should.
    fn shown_revision(&self) -> Revision {
        let live = self.live.as_ref().map(|live| live.revision);
        live.or(self.current().map(|(revision, _)| revision)).unwrap_or_default()
    }

    fn phase(&self) -> (PodPhase, bool, String, String) {
        let words = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
        let (phase, ready, (reason, message)) = match &self.state {
            State::Pending { reason, message } => {
                (PodPhase::Pending, false, words(reason, message))
            }
            State::Found { .. } | State::Gone => (PodPhase::Pending, false, words("", "")),
            State::Starting { doing: (reason, message), .. } => {
                (PodPhase::Starting, false, words(reason, message))
            }
            State::Running { probes, .. } if probes.is_ready() => {
                (PodPhase::Running, true, words("", ""))
            }
            State::Running { probes, .. } => {
                (PodPhase::Running, false, words("NotReady", &probes.unready_message()))
            }
            State::Several { containers, .. } if containers.is_ready() => {
                (PodPhase::Running, true, words("", ""))
            }
            State::Several { containers, .. } if containers.is_initialising() => {
                (PodPhase::Starting, false, containers.words())
            }
            State::Several { containers, .. } => (PodPhase::Running, false, containers.words()),
            State::Stopping { cause, .. } => (PodPhase::Stopping, false, cause.words()),
            State::BackingOff { reason, message, .. } => {
                (PodPhase::BackingOff, false, words(reason, message))
            }
            State::Done { success: true, reason, message } => {
                (PodPhase::Succeeded, false, words(reason, message))
            }
            State::Done { success: false, reason, message } => {
                (PodPhase::Failed, false, words(reason, message))
            }
        };
        (phase, ready, reason, message)
    }
}

impl Cause {
    fn words(&self) -> (String, String) {
        let (reason, message) = match self {
            Self::Unwanted => ("Removed", "is no longer wanted here"),
            Self::Replaced => ("Replaced", "makes place for another revision"),
            Self::Displaced { reason, message } => (reason.as_str(), message.as_str()),
            Self::Unhealthy(why) => ("Unhealthy", why.as_str()),
            Self::Concluded(Verdict::InitFailed { message, .. }) => {
                ("Init:Error", message.as_str())
            }
            Self::Concluded(Verdict::InitNotStarted { reason, message }) => {
                (reason.as_str(), message.as_str())
            }
            Self::Concluded(Verdict::Ended { success: true, message, .. }) => {
                ("Completed", message.as_str())
            }
            Self::Concluded(Verdict::Ended { message, .. } | Verdict::Stuck(message)) => {
                ("Error", message.as_str())
            }
        };
        (reason.to_owned(), message.to_owned())
    }
}
