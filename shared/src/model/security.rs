//! As whom a pod's containers run, and what they may do: `securityContext` of pod and container.
//!
//! Field names are those of `core/v1`. One default is stricter than Kubernetes': privileges can't be gained
//! (`allowPrivilegeEscalation`). What is not here is refused where it is read.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use super::workload::{InvalidWorkload, invalid};
use crate::limits::{CAPABILITIES_MAX, SUPPLEMENTAL_GROUPS_MAX};
use serde::{Deserialize, Serialize};

/// The greatest number of a user or group, as in Kubernetes.
const ID_MAX: u32 = 0x7fff_ffff;

/// The longest name of a capability is `CHECKPOINT_RESTORE`.
const CAPABILITY_BYTES_MAX: usize = 32;

/// Capabilities that add nothing to what a container has by default, as in the baseline of Kubernetes' Pod
/// Security Standards.
const BASELINE: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What holds for all containers of a pod, unless one says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSecurityContext {
    /// The user's number; the image's user when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<u32>,
    /// The group's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<u32>,
    /// Whether a container that would run as root is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_non_root: Option<bool>,
    /// A further group of all processes, to which the files of volumes belong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_group: Option<u32>,
    /// Further groups of all processes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supplemental_groups: Vec<u32>,
    /// Which system calls there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<SeccompProfile>,
}

/// What holds for one container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityContext {
    /// The user's number; the pod's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<u32>,
    /// The group's number; the pod's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<u32>,
    /// Whether it is refused if it would run as root; as the pod says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_non_root: Option<bool>,
    /// Whether nothing but its volumes can be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root_filesystem: Option<bool>,
    /// What it may do beyond other users, and what not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Which system calls there are; as the pod says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<SeccompProfile>,
    /// Whether its processes may gain privileges, as by a program that is `setuid`. Not by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_privilege_escalation: Option<bool>,
    /// Whether it may do what root of the node may do. Its node has to allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
}

/// Changes to the capabilities that a container has by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capabilities {
    /// Which it has besides, as in `NET_BIND_SERVICE`, or `ALL`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Which it has not, or `ALL`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
}

/// Which system calls there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompProfile {
    /// Which profile.
    #[serde(rename = "type")]
    pub kind: SeccompProfileType,
}

/// A profile that every node has. One in a file of the node (`Localhost`) is refused: whether it is there, nobody
/// here can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfileType {
    /// The container runtime's own.
    RuntimeDefault,
    /// All system calls.
    Unconfined,
}

impl SecurityContext {
    /// Whether it is more than a container has by default, so that its node has to allow it.
    #[must_use]
    pub fn needs_privileges(&self) -> bool {
        let added = self.capabilities.iter().flat_map(|capabilities| &capabilities.add);
        self.privileged == Some(true) || { added }.any(|name| !BASELINE.contains(&name.as_str()))
    }
}

impl PodSecurityContext {
    /// Checks what the types can't say.
    ///
    /// # Errors
    /// The first field that is out of bounds, with its path.
    pub(super) fn validate(&self) -> Result<(), InvalidWorkload> {
        let at = |field: &str| format!("spec.securityContext.{field}");
        let groups = &self.supplemental_groups;
        if groups.len() > SUPPLEMENTAL_GROUPS_MAX {
            let problem = format!("{} are over {SUPPLEMENTAL_GROUPS_MAX}", groups.len());
            return Err(invalid(at("supplementalGroups"), problem));
        }
        let one = |group: &u32| ("supplementalGroups", Some(*group));
        let ids = [
            ("runAsUser", self.run_as_user),
            ("runAsGroup", self.run_as_group),
            ("fsGroup", self.fs_group),
        ];
        for (field, id) in ids.into_iter().chain(groups.iter().map(one)) {
            validate_id(&at(field), id)?;
        }
        Ok(())
    }
}

impl SecurityContext {
    /// Checks what the types can't say; `at` is its path.
    ///
    /// # Errors
    /// The first field that is out of bounds, with its path.
    pub(super) fn validate(
        &self,
        at: &str,
        pod: &PodSecurityContext,
    ) -> Result<(), InvalidWorkload> {
        validate_id(&format!("{at}.runAsUser"), self.run_as_user)?;
        validate_id(&format!("{at}.runAsGroup"), self.run_as_group)?;
        let refuses_root = self.run_as_non_root.or(pod.run_as_non_root) == Some(true);
        if refuses_root && self.run_as_user.or(pod.run_as_user) == Some(0) {
            let problem = "is 0, which is root, and runAsNonRoot refuses that";
            return Err(invalid(format!("{at}.runAsUser"), problem));
        }
        if self.privileged == Some(true) && self.allow_privilege_escalation == Some(false) {
            let problem = "expected not false for a container that is privileged";
            return Err(invalid(format!("{at}.allowPrivilegeEscalation"), problem));
        }
        let Some(capabilities) = &self.capabilities else { return Ok(()) };
        for (field, names) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
            validate_capabilities(&format!("{at}.capabilities.{field}"), names)?;
        }
        Ok(())
    }
}

fn validate_id(path: &str, id: Option<u32>) -> Result<(), InvalidWorkload> {
    match id.filter(|id| *id > ID_MAX) {
        Some(id) => Err(invalid(path, format!("{id} is over {ID_MAX}"))),
        None => Ok(()),
    }
}

fn validate_capabilities(path: &str, names: &[String]) -> Result<(), InvalidWorkload> {
    if names.len() > CAPABILITIES_MAX {
        return Err(invalid(path, format!("{} are over {CAPABILITIES_MAX}", names.len())));
    }
    let is_name = |name: &String| {
        (1..=CAPABILITY_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
            && !name.starts_with("CAP_")
    };
    match names.iter().position(|name| !is_name(name)) {
        Some(index) => {
            let problem =
                "expected a capability without `CAP_`, as in `NET_BIND_SERVICE`, or `ALL`";
            Err(invalid(format!("{path}[{index}]"), problem))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::model::PodTemplate;
    use crate::wire::{decode, encode};
    use serde_json::{Value, json};

    fn template(pod: &Value, container: &Value) -> PodTemplate {
        let one = json!({ "name": "a", "command": ["a"], "securityContext": container });
        let spec = json!({ "containers": [one], "securityContext": pod });
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn a_context_survives_the_wire_and_says_what_needs_privileges() {
        let pod = json!({ "runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 2000,
            "supplementalGroups": [3000], "seccompProfile": { "type": "Unconfined" } });
        let container = json!({ "readOnlyRootFilesystem": true, "runAsGroup": 5,
            "capabilities": { "add": ["NET_BIND_SERVICE"], "drop": ["ALL"] } });
        let template = template(&pod, &container);
        assert_eq!(template.validate(), Ok(()));
        let bytes = encode("template", &template).unwrap();
        assert_eq!(decode::<PodTemplate>("template", &bytes, 4096).unwrap(), template);
        let said = serde_json::to_value(&template.spec.security_context).unwrap();
        assert_eq!(said, pod);
        assert!(!template.spec.containers[0].security_context.as_ref().unwrap().needs_privileges());
        for more in
            [json!({ "privileged": true }), json!({ "capabilities": { "add": ["SYS_ADMIN"] } })]
        {
            let template = super::tests::template(&json!({}), &more);
            assert_eq!(template.validate(), Ok(()));
            let context = template.spec.containers[0].security_context.as_ref().unwrap();
            assert!(context.needs_privileges(), "{more}");
        }
    }

    #[test]
    fn what_can_not_be_is_refused_with_its_path() {
        let at = "spec.containers[0].securityContext";
        for (pod, container, path) in [
            (
                json!({ "fsGroup": 0x8000_0000_u32 }),
                json!({}),
                "spec.securityContext.fsGroup".into(),
            ),
            (
                json!({ "supplementalGroups": [1, u32::MAX] }),
                json!({}),
                "spec.securityContext.supplementalGroups".into(),
            ),
            (json!({ "runAsNonRoot": true }), json!({ "runAsUser": 0 }), format!("{at}.runAsUser")),
            (
                json!({}),
                json!({ "privileged": true, "allowPrivilegeEscalation": false }),
                format!("{at}.allowPrivilegeEscalation"),
            ),
            (
                json!({}),
                json!({ "capabilities": { "drop": ["ALL", "CAP_CHOWN"] } }),
                format!("{at}.capabilities.drop[1]"),
            ),
        ] {
            let error = template(&pod, &container).validate().unwrap_err();
            assert_eq!(error.path, path, "{pod} {container}");
        }
        let unknown = json!({ "containers": [], "securityContext":
            { "seccompProfile": { "type": "Localhost" } } });
        let refused = serde_json::from_value::<crate::model::PodSpec>(unknown).unwrap_err();
        assert!(refused.to_string().contains("unknown variant `Localhost`"), "{refused}");
    }
}
