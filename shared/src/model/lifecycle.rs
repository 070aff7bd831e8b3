//! What is done at a container's start and before its end, and the words that it leaves.
//!
//! Field names are those of `core/v1`. Wire format (packed CBOR, fields by position): fields are only ever appended.

use super::pod::{ExecAction, HttpGetAction};
use super::workload::{InvalidWorkload, invalid};
use crate::limits::GRACE_PERIOD_SECONDS_MAX;
use serde::{Deserialize, Serialize};

/// Hooks of one container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifecycle {
    /// Done once its program runs; before, it is not taken for started. If it fails the container is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_start: Option<LifecycleHandler>,
    /// Done before it is asked to end, within its grace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<LifecycleHandler>,
}

/// What a hook does. Exactly one action is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LifecycleHandler {
    /// Runs a command in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// Asks by HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    /// Waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep: Option<SleepAction>,
}

/// Waits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SleepAction {
    /// For so long.
    pub seconds: u32,
}

/// Where the words come from with which a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TerminationMessagePolicy {
    /// A file that it wrote.
    #[default]
    File,
    /// The end of its log, where it wrote none and failed.
    FallbackToLogsOnError,
}

impl Lifecycle {
    /// Checks what the types can't say; `at` is its path.
    ///
    /// # Errors
    /// The first field that is out of bounds, with its path.
    pub(super) fn validate(&self, at: &str) -> Result<(), InvalidWorkload> {
        let hooks = [("postStart", &self.post_start), ("preStop", &self.pre_stop)];
        let mut given = hooks.iter().filter_map(|(name, hook)| Some((name, hook.as_ref()?)));
        given.try_for_each(|(name, hook)| hook.validate(&format!("{at}.{name}")))
    }
}

impl LifecycleHandler {
    fn validate(&self, at: &str) -> Result<(), InvalidWorkload> {
        match (&self.exec, &self.http_get, &self.sleep) {
            (Some(exec), None, None) if exec.command.is_empty() => {
                Err(invalid(format!("{at}.exec.command"), "expected a program"))
            }
            (None, Some(get), None) => get.port.validate(&format!("{at}.httpGet.port")),
            (None, None, Some(sleep)) if sleep.seconds > GRACE_PERIOD_SECONDS_MAX => {
                let problem = format!("{} is over {GRACE_PERIOD_SECONDS_MAX}", sleep.seconds);
                Err(invalid(format!("{at}.sleep.seconds"), problem))
            }
            (Some(_), None, None) | (None, None, Some(_)) => Ok(()),
            _ => Err(invalid(at, "expected exactly one of exec, httpGet and sleep")),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::PodTemplate;
    use crate::wire::{decode, encode};
    use serde_json::{Value, json};

    fn template(container: Value) -> PodTemplate {
        let mut fields = json!({ "name": "a", "command": ["a"] });
        fields.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        serde_json::from_value(json!({ "spec": { "containers": [fields] } })).unwrap()
    }

    #[test]
    fn hooks_and_last_words_survive_the_wire() {
        let template = template(json!({
            "lifecycle": { "postStart": { "exec": { "command": ["a"] } },
                "preStop": { "sleep": { "seconds": 5 } } },
            "terminationMessagePath": "/run/last", "terminationMessagePolicy": "FallbackToLogsOnError",
        }));
        assert_eq!(template.validate(), Ok(()));
        let bytes = encode("template", &template).unwrap();
        assert_eq!(decode::<PodTemplate>("template", &bytes, 4096).unwrap(), template);
    }

    #[test]
    fn hooks_and_paths_that_can_not_be_are_refused_with_their_paths() {
        let hook = |hook: Value| json!({ "lifecycle": { "preStop": hook } });
        for (container, path) in [
            (hook(json!({})), "lifecycle.preStop"),
            (hook(json!({ "exec": { "command": [] } })), "lifecycle.preStop.exec.command"),
            (hook(json!({ "httpGet": { "port": 0 } })), "lifecycle.preStop.httpGet.port"),
            (hook(json!({ "sleep": { "seconds": 3601 } })), "lifecycle.preStop.sleep.seconds"),
            (
                hook(json!({ "sleep": { "seconds": 1 }, "exec": { "command": ["a"] } })),
                "lifecycle.preStop",
            ),
            (json!({ "terminationMessagePath": "log" }), "terminationMessagePath"),
            (json!({ "terminationMessagePath": "/a/../b" }), "terminationMessagePath"),
        ] {
            let error = template(container).validate().unwrap_err();
            assert_eq!(error.path, format!("spec.containers[0].{path}"));
        }
    }
}
