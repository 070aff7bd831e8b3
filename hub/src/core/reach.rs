//! What is known of a pod and its node before the node is asked about it.

use super::HubCore;
use shared::model::{NodeId, PodId, PodPhase};
use shared::wire::{CallMethod, LogFrom};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reach {
    /// The version of the node's agent, where it knows neither pages of logs nor commands.
    pub older_agent: Option<String>,
    /// The pod has ended for good.
    pub is_over: bool,
}

impl HubCore {
    /// What is known of `pod` on `node`.
    #[must_use]
    pub fn reach(&self, node: &NodeId, pod: &PodId) -> Reach {
        let Some(state) = self.nodes.get(node) else { return Reach::default() };
        let status = state.status.as_ref();
        let is_older = status.is_some_and(|status| status.remote_access.is_none());
        let phase = state.pods.get(&pod.to_string()).map(|pod| pod.phase);
        Reach {
            older_agent: is_older.then(|| state.agent_version.clone()),
            is_over: matches!(phase, Some(PodPhase::Succeeded | PodPhase::Failed)),
        }
    }
}

impl Reach {
    /// What the agent is asked, in words that it knows.
    ///
    /// # Errors
    /// A sentence, when it knows none.
    pub fn in_its_words(&self, method: CallMethod) -> Result<CallMethod, String> {
        let Some(version) = &self.older_agent else { return Ok(method) };
        let what = match method {
            CallMethod::ReadLog {
                pod,
                container: None,
                from: LogFrom::End { lines, age_ms: None },
                ..
            } => return Ok(CallMethod::TailLog { pod, lines }),
            CallMethod::TailLog { .. } => return Ok(method),
            CallMethod::ReadLog { .. } => "`since`, `follow` and `container`",
            CallMethod::Exec { .. } => "commands",
        };
        Err(format!("the node's agent does not know {what}: its version {version} is too old"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: LogFrom) -> CallMethod {
        let pod = "default/ocr-0".parse().unwrap();
        let (container, caller) = (None, "alice".to_owned());
        CallMethod::ReadLog { pod, container, caller, from, bytes_max: 1, wait_ms: 0 }
    }

    #[test]
    fn an_older_agent_is_asked_what_it_knows_and_nothing_else() {
        let older = Reach { older_agent: Some("0.0.9".to_owned()), is_over: false };
        let plain = read(LogFrom::End { lines: 5, age_ms: None });
        let pod: PodId = "default/ocr-0".parse().unwrap();
        let tail = CallMethod::TailLog { pod: pod.clone(), lines: 5 };
        assert_eq!(older.in_its_words(plain.clone()), Ok(tail));
        assert_eq!(Reach::default().in_its_words(plain.clone()), Ok(plain));
        let exec = CallMethod::Exec {
            pod,
            container: None,
            caller: String::new(),
            command: vec!["ls".to_owned()],
            timeout_ms: 1,
        };
        let after = read(LogFrom::After { cursor: Default::default() });
        let since = read(LogFrom::End { lines: 5, age_ms: Some(1) });
        for method in [after, since, exec.clone()] {
            let refused = older.in_its_words(method).unwrap_err();
            assert!(refused.contains("does not know") && refused.contains("0.0.9"), "{refused}");
        }
        assert_eq!(Reach::default().in_its_words(exec.clone()), Ok(exec));
    }
}
