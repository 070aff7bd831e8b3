//! As whom a container runs and what it may do, in the words of CRI. Pure.
//!
//! What neither the template nor the image says is as kubelet and containerd have it, but for privileges, which can't
//! be gained by default.

use super::api;
use super::network::Network;
use crate::runtime::StartFailure;
use crate::runtime::access::Access;
use crate::runtime::allowed::Allowed;
use shared::model::{
    Capabilities, Container, PodSecurityContext, SeccompProfileType, SecurityContext,
};

/// What a container must not see and must not change, as containerd and kubelet have it.
const MASKED_PATHS: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What holds for one container, from its pod, itself and its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Security {
    /// Who it is, where that is known.
    user: Option<u32>,
    /// What the runtime is told of that; nothing where the image says it, with its group.
    told_user: Option<u32>,
    told_user_name: String,
    group: Option<u32>,
    groups: Vec<u32>,
    fs_group: Option<u32>,
    own: SecurityContext,
    seccomp: SeccompProfileType,
}

impl Security {
    /// # Errors
    /// When the node does not allow it, or it would run as root and must not.
    pub(super) fn of(
        pod: &PodSecurityContext,
        container: &Container,
        image: &api::Image,
        allowed: &Allowed,
    ) -> Result<Self, StartFailure> {
        let own = container.security_context.clone().unwrap_or_default();
        if own.needs_privileges() && !allowed.privileged {
            let message = "it is privileged, or adds capabilities beyond the usual ones, and this node \
                           does not allow that: expected `pods.allow_privileged = true` in its configuration";
            return Err(StartFailure::new("PrivilegedNotAllowed", message));
        }
        let of_image = image.uid.and_then(|uid| u32::try_from(uid.value).ok());
        let group = own.run_as_group.or(pod.run_as_group);
        let said = own.run_as_user.or(pod.run_as_user);
        // An image that names no user runs as root.
        let user = said.or(of_image).or(image.username.is_empty().then_some(0));
        if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
            refuse_root(user, &image.username)?;
        }
        // A group is not taken without a user.
        let told_user = said.or(group.and(user));
        let is_named = group.is_some() && told_user.is_none();
        let seccomp = own.seccomp_profile.or(pod.seccomp_profile);
        Ok(Self {
            user,
            told_user,
            told_user_name: if is_named { image.username.clone() } else { String::new() },
            group,
            groups: pod.supplemental_groups.iter().copied().chain(pod.fs_group).collect(),
            fs_group: pod.fs_group,
            own,
            seccomp: seccomp.map_or(SeccompProfileType::RuntimeDefault, |profile| profile.kind),
        })
    }

    /// The same, in a sandbox that may hold a privileged container.
    pub(super) fn in_a_sandbox_of(mut self, any_is_privileged: bool) -> Self {
        if any_is_privileged {
            self.own.privileged = Some(true);
        }
        self
    }

    pub(super) fn has_read_only_root(&self) -> bool {
        self.own.read_only_root_filesystem == Some(true)
    }

    /// Whose the files of its volumes are.
    pub(super) fn access(&self) -> Access {
        Access { is_container: true, user: self.user, group: self.fs_group }
    }

    fn is_privileged(&self) -> bool {
        self.own.privileged == Some(true)
    }

    /// What holds for the sandbox.
    pub(super) fn of_sandbox(&self, network: Network) -> api::LinuxSandboxSecurityContext {
        api::LinuxSandboxSecurityContext {
            namespace_options: Some(network.namespaces()),
            privileged: self.is_privileged(),
            seccomp: Some(seccomp(SeccompProfileType::RuntimeDefault)),
        }
    }

    /// What holds for the container.
    pub(super) fn of_container(&self, network: Network) -> api::LinuxContainerSecurityContext {
        let number = |id: u32| api::Int64Value { value: i64::from(id) };
        let paths = |paths: &[&str]| match self.is_privileged() {
            true => vec![],
            false => paths.iter().map(|path| (*path).to_owned()).collect(),
        };
        let may_gain = self.own.allow_privilege_escalation == Some(true) || self.is_privileged();
        api::LinuxContainerSecurityContext {
            capabilities: self.own.capabilities.as_ref().map(capabilities),
            privileged: self.is_privileged(),
            namespace_options: Some(network.namespaces()),
            run_as_user: self.told_user.map(number),
            run_as_username: self.told_user_name.clone(),
            readonly_rootfs: self.has_read_only_root(),
            supplemental_groups: self.groups.iter().map(|group| i64::from(*group)).collect(),
            no_new_privs: !may_gain,
            run_as_group: self.group.map(number),
            masked_paths: paths(&MASKED_PATHS),
            readonly_paths: paths(&READONLY_PATHS),
            seccomp: Some(seccomp(self.seccomp)),
        }
    }
}

fn refuse_root(user: Option<u32>, image_user: &str) -> Result<(), StartFailure> {
    let problem = match user {
        Some(0) => "it would run as root".to_owned(),
        Some(_) => return Ok(()),
        None => format!("its image runs as `{image_user}`, and whether that is root is not known"),
    };
    let message = format!(
        "{problem}, which its `runAsNonRoot` refuses: expected `runAsUser` with a number other than 0"
    );
    Err(StartFailure::new("RunsAsRoot", message))
}

fn capabilities(said: &Capabilities) -> api::Capability {
    let Capabilities { add, drop } = said.clone();
    api::Capability { add_capabilities: add, drop_capabilities: drop }
}

fn seccomp(kind: SeccompProfileType) -> api::SecurityProfile {
    use api::security_profile::ProfileType::{RuntimeDefault, Unconfined};
    let profile_type = match kind {
        SeccompProfileType::RuntimeDefault => RuntimeDefault.into(),
        SeccompProfileType::Unconfined => Unconfined.into(),
    };
    api::SecurityProfile { profile_type, localhost_ref: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(pod: Value, container: Value, image: &api::Image) -> Result<Security, StartFailure> {
        let pod = serde_json::from_value(pod).unwrap();
        let security_context = serde_json::from_value(container).unwrap();
        let container = Container { security_context, ..Container::default() };
        Security::of(&pod, &container, image, &Allowed::default())
    }

    fn image(uid: Option<i64>, username: &str) -> api::Image {
        let uid = uid.map(|value| api::Int64Value { value });
        let (id, username) = ("sha256:1".to_owned(), username.to_owned());
        api::Image { id, uid, username, ..api::Image::default() }
    }

    #[test]
    fn a_container_wins_over_its_pod_and_that_over_its_image() {
        let numbered = image(Some(5), "");
        let pod = json!({ "runAsUser": 6, "runAsGroup": 7, "fsGroup": 8, "supplementalGroups": [9],
            "seccompProfile": { "type": "Unconfined" } });
        let own = json!({ "runAsUser": 10, "seccompProfile": { "type": "RuntimeDefault" } });
        let user = |security: &Security| {
            security.of_container(Network::Node).run_as_user.map(|id| id.value)
        };
        let plain = of(json!({}), Value::Null, &numbered).unwrap();
        assert_eq!((user(&plain), plain.access().user), (None, Some(5)));
        let pods = of(pod.clone(), Value::Null, &numbered).unwrap();
        assert_eq!(user(&pods), Some(6));
        let context = pods.of_container(Network::Node);
        assert_eq!(context.supplemental_groups, [9, 8]);
        assert_eq!(context.run_as_group.unwrap().value, 7);
        assert_eq!(context.seccomp.unwrap().profile_type, 1);
        let own = of(pod, own, &numbered).unwrap();
        assert_eq!(user(&own), Some(10));
        assert_eq!(own.of_container(Network::Node).seccomp.unwrap().profile_type, 0);
        assert_eq!(own.access(), Access { is_container: true, user: Some(10), group: Some(8) });
    }

    #[test]
    fn a_group_takes_the_user_s_name_of_the_image_with_it() {
        let named = image(None, "nobody");
        let context = of(json!({ "runAsGroup": 7 }), Value::Null, &named)
            .unwrap()
            .of_container(Network::Node);
        assert_eq!(context.run_as_username, "nobody");
        let unnamed = image(None, "");
        let context = of(json!({ "runAsGroup": 7 }), Value::Null, &unnamed)
            .unwrap()
            .of_container(Network::Node);
        assert_eq!(context.run_as_user.unwrap().value, 0);
        let context = of(json!({}), Value::Null, &named).unwrap().of_container(Network::Node);
        assert_eq!((context.run_as_username.as_str(), context.run_as_user), ("", None));
    }

    #[test]
    fn who_must_not_be_root_is_known_not_to_be() {
        let refused = |pod: Value, container: Value, image: &api::Image| {
            of(pod, container, image).map(drop).map_err(|failure| failure.reason)
        };
        let non_root = json!({ "runAsNonRoot": true });
        let root = Err("RunsAsRoot".to_owned());
        assert_eq!(refused(non_root.clone(), Value::Null, &image(None, "")), root);
        assert_eq!(refused(non_root.clone(), Value::Null, &image(Some(0), "")), root);
        assert_eq!(refused(non_root.clone(), Value::Null, &image(None, "nobody")), root);
        assert_eq!(refused(non_root.clone(), Value::Null, &image(Some(5), "")), Ok(()));
        assert_eq!(refused(non_root.clone(), json!({ "runAsUser": 5 }), &image(None, "")), Ok(()));
        assert_eq!(refused(non_root, json!({ "runAsNonRoot": false }), &image(None, "")), Ok(()));
    }

    #[test]
    fn privileges_are_neither_gained_nor_given_unless_the_node_allows_it() {
        let root = image(None, "");
        let plain = of(json!({}), Value::Null, &root).unwrap().of_container(Network::Node);
        assert!(plain.no_new_privs && !plain.privileged && !plain.masked_paths.is_empty());
        let gaining = json!({ "allowPrivilegeEscalation": true });
        assert!(!of(json!({}), gaining, &root).unwrap().of_container(Network::Node).no_new_privs);
        let privileged = json!({ "privileged": true });
        let refused = of(json!({}), privileged.clone(), &root).unwrap_err();
        assert_eq!(refused.reason, "PrivilegedNotAllowed");
        let container = Container {
            security_context: serde_json::from_value(privileged).unwrap(),
            ..Container::default()
        };
        let allowed = Allowed { privileged: true, ..Allowed::default() };
        let pod = PodSecurityContext::default();
        let security = Security::of(&pod, &container, &root, &allowed).unwrap();
        let context = security.of_container(Network::Node);
        assert!(context.privileged && !context.no_new_privs && context.masked_paths.is_empty());
        assert!(security.of_sandbox(Network::Node).privileged);
    }
}
