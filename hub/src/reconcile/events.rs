//! What a person should hear of: changes of conditions that somebody can act on.
//!
//! Nodes that come and go are none of them: on a poor link that is every hour, and the status says it.

use serde_json::Value;

/// Reasons of conditions that somebody can act on.
const WARNINGS: [&str; 11] = [
    "Denied",
    "Failed",
    "Invalid",
    "MissingObjects",
    "NoAccess",
    "NoClusters",
    "NotApplied",
    "Revoked",
    "RolledBack",
    "Unreachable",
    "Unschedulable",
];

/// What an object is told of as a Kubernetes Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectEvent {
    pub(crate) is_warning: bool,
    /// A word for programs.
    pub(crate) reason: String,
    /// A sentence for people.
    pub(crate) message: String,
}

/// What has changed from one status to the next that somebody should hear of.
pub(super) fn events_between(before: &Value, after: &Value) -> Vec<ObjectEvent> {
    let conditions = after.get("conditions").and_then(Value::as_array);
    let event = |condition: &Value| {
        let kind = word(condition, "type");
        let reason = word(condition, "reason");
        let earlier = condition_of(before, kind).map_or("", |earlier| word(earlier, "reason"));
        if earlier == reason {
            return None;
        }
        let message = word(condition, "message").to_owned();
        if WARNINGS.contains(&reason) && word(condition, "status") != "True" {
            return Some(ObjectEvent { is_warning: true, reason: reason.to_owned(), message });
        }
        let is_done = earlier == "RollingOut" && word(condition, "status") == "True";
        let reason = "RolloutComplete".to_owned();
        is_done.then_some(ObjectEvent { is_warning: false, reason, message })
    };
    conditions.into_iter().flatten().filter_map(event).collect()
}

fn condition_of<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = status.get("conditions")?.as_array()?;
    conditions.iter().find(|condition| word(condition, "type") == kind)
}

fn word<'a>(condition: &'a Value, field: &str) -> &'a str {
    condition.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(reason: &str, is: &str) -> Value {
        json!({ "conditions": [{ "type": "Ready", "status": is, "reason": reason, "message": "why" }] })
    }

    fn reasons(before: &Value, after: &Value) -> Vec<(bool, String)> {
        let events = events_between(before, after).into_iter();
        events.map(|event| (event.is_warning, event.reason)).collect()
    }

    #[test]
    fn what_somebody_can_act_on_is_said_once_when_it_begins() {
        let (good, bad) = (status("AllReady", "True"), status("Unschedulable", "False"));
        assert_eq!(reasons(&good, &bad), [(true, "Unschedulable".to_owned())]);
        assert_eq!(reasons(&Value::Null, &bad), [(true, "Unschedulable".to_owned())]);
        assert_eq!(reasons(&bad, &bad), []);
        assert_eq!(reasons(&bad, &good), []);
        assert_eq!(reasons(&good, &status("Offline", "Unknown")), [], "that is every hour");
        assert_eq!(reasons(&good, &status("Unreachable", "Unknown")).len(), 1);
    }

    #[test]
    fn the_end_of_a_rollout_is_said() {
        let rolling = status("RollingOut", "False");
        let ended = status("AllReady", "True");
        assert_eq!(reasons(&rolling, &ended), [(false, "RolloutComplete".to_owned())]);
        assert_eq!(
            reasons(&rolling, &status("RolledBack", "False")),
            [(true, "RolledBack".to_owned())]
        );
    }
}
