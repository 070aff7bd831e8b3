//! What is noted of a start: on its sandbox and container, so that the runtime knows them again, and in the pod's
//! folder, so that a start is known when the runtime has lost it.

use super::hooks::Ending;
use super::network::Network;
use crate::placement::{MainShare, Placement};
use crate::ports::{ContainerPlan, InstanceId, Observation, ObservedState, StartRequest};
use crate::runtime::access::Access;
use crate::runtime::folder::{PodFolder, read, replace};
use crate::runtime::layers::{Attempt, attempt};
use serde::{Deserialize, Serialize};
use shared::model::{PodId, Revision};
use shared::wire::Digest;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The labels by which sandboxes and containers are found.
const AGENT_LABEL: &str = "hinterland.dev/agent";
const NAMESPACE_LABEL: &str = "hinterland.dev/namespace";
const WORKLOAD_LABEL: &str = "hinterland.dev/workload";
const ORDINAL_LABEL: &str = "hinterland.dev/ordinal";
const INSTANCE_LABEL: &str = "hinterland.dev/instance";

/// The annotation that holds the note, as JSON.
pub(super) const NOTE_ANNOTATION: &str = "hinterland.dev/start";

/// The note's file in the pod's folder.
const NOTE_FILE: &str = "start.json";

/// Labels or annotations.
pub(super) type Pairs = BTreeMap<String, String>;

/// One start, as it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StartNote {
    pub(super) pod: PodId,
    pub(super) instance: InstanceId,
    pub(super) revision: Revision,
    #[serde(default)]
    pub(super) placement: Placement,
    #[serde(default)]
    pub(super) taken: Option<MainShare>,
    #[serde(default)]
    pub(super) parameters_id: u64,
    /// Its containers in the order of their start, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) containers: Vec<ContainerPlan>,
    /// Whose the files of its volumes are.
    #[serde(default)]
    pub(super) access: Access,
    /// What is to be known when it ends.
    #[serde(default)]
    pub(super) ending: Ending,
    /// Whether it has a network of its own; its address is the runtime's to say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) has_own_network: bool,
}

/// Tells the pods of this agent from those of another on the same runtime, by the folder of its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AgentName(String);

impl AgentName {
    /// That of the agent whose pods' folder this is, by its resolved path.
    pub(super) fn of(pods: &Path) -> Self {
        Self(Digest::of(pods.as_os_str().as_bytes()).to_string())
    }

    /// What all its sandboxes and containers carry.
    pub(super) fn labels(&self) -> Pairs {
        Pairs::from([(AGENT_LABEL.to_owned(), self.0.clone())])
    }

    /// What those of one pod carry.
    pub(super) fn labels_of_pod(&self, pod: &PodId) -> Pairs {
        let own = [
            (NAMESPACE_LABEL, pod.workload.namespace().to_owned()),
            (WORKLOAD_LABEL, pod.workload.name().to_owned()),
            (ORDINAL_LABEL, pod.ordinal.to_string()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        self.labels().into_iter().chain(own).collect()
    }

    /// What those of one start carry.
    pub(super) fn labels_of_start(&self, pod: &PodId, instance: InstanceId) -> Pairs {
        let mut labels = self.labels_of_pod(pod);
        labels.insert(INSTANCE_LABEL.to_owned(), instance.to_string());
        labels
    }

    /// What the names of all its cgroups begin with.
    pub(super) fn cgroups(&self) -> String {
        format!("{}-", self.0)
    }

    /// What those of a pod's starts begin with.
    pub(super) fn cgroups_of_pod(&self, pod: &PodId) -> String {
        format!("{}{}-", self.cgroups(), self.uid_of(pod))
    }

    /// The name of the cgroup of one start of a pod.
    pub(super) fn cgroup_of_start(&self, pod: &PodId, instance: InstanceId) -> String {
        format!("{}{instance}", self.cgroups_of_pod(pod))
    }

    /// The pod's uid: the runtime refuses a second sandbox for it, whatever the start.
    pub(super) fn uid_of(&self, pod: &PodId) -> String {
        Digest::of(format!("{}/{pod}", self.0).as_bytes()).to_string()
    }
}

impl StartNote {
    /// What is noted of a start that is asked for.
    pub(super) fn of(request: &StartRequest, access: Access, network: Network) -> Self {
        let (gpus, gpu_memory_bytes) = (request.gpus.clone(), request.gpu_memory_bytes);
        Self {
            pod: request.pod.clone(),
            instance: request.instance,
            revision: request.revision,
            placement: Placement { gpus, gpu_memory_bytes },
            taken: Some(request.taken),
            parameters_id: request.parameters_id,
            containers: request.containers.clone(),
            access,
            ending: Ending::of(&request.container),
            has_own_network: network.is_own(),
        }
    }

    /// As annotations.
    pub(super) fn annotations(&self) -> Pairs {
        // A note of plain values is always a JSON.
        let text = serde_json::to_string(self).unwrap_or_default();
        Pairs::from([(NOTE_ANNOTATION.to_owned(), text)])
    }

    /// What annotations say.
    pub(super) fn from_annotations(annotations: &Pairs) -> Option<Self> {
        serde_json::from_str(annotations.get(NOTE_ANNOTATION)?).ok()
    }

    /// Notes it in the pod's folder.
    pub(super) fn write(&self, folder: &PodFolder) -> Attempt<()> {
        let path = folder.path().join(NOTE_FILE);
        let writing = || format!("write {}", path.display());
        let text = serde_json::to_vec(self).map_err(attempt(writing()))?;
        replace(&path, &text).map_err(attempt(writing()))
    }

    /// What the pod's folder says.
    pub(super) fn read(folder: &PodFolder) -> Option<Self> {
        read(&folder.path().join(NOTE_FILE))
    }

    /// Removes it from the pod's folder, if it is of this start.
    pub(super) fn forget(folder: &PodFolder, instance: InstanceId) {
        if Self::read(folder).is_none_or(|note| note.instance == instance) {
            let _ = std::fs::remove_file(folder.path().join(NOTE_FILE));
        }
    }

    /// As an observation; what has ended holds nothing.
    pub(super) fn observed(self, state: ObservedState) -> Observation {
        let runs = matches!(state, ObservedState::Running { .. });
        Observation {
            pod: self.pod,
            instance: self.instance,
            revision: self.revision,
            state,
            placement: if runs { self.placement } else { Placement::default() },
            taken: self.taken.filter(|_| runs),
            parameters_id: if runs { self.parameters_id } else { 0 },
            containers: vec![],
            pod_ip: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::folder::tests::folder;
    use shared::model::LifecycleHandler;

    fn note() -> StartNote {
        StartNote {
            pod: "default/ocr-0".parse().unwrap(),
            instance: InstanceId(7),
            revision: Revision(9),
            placement: Placement { gpus: vec!["GPU-1".to_owned()], gpu_memory_bytes: Some(1) },
            taken: Some(MainShare::default()),
            parameters_id: 3,
            containers: vec![],
            access: Access { is_container: true, user: Some(5), group: None },
            ending: Ending {
                pre_stop: Some(LifecycleHandler::default()),
                falls_back_to_log: true,
                post_start: Some(LifecycleHandler::default()),
            },
            has_own_network: true,
        }
    }

    #[test]
    fn a_note_comes_back_from_annotations_and_from_the_folder() {
        let (_temporary, folder) = folder();
        assert_eq!(StartNote::from_annotations(&note().annotations()), Some(note()));
        assert_eq!(StartNote::from_annotations(&Pairs::new()), None);
        note().write(&folder).unwrap();
        StartNote::forget(&folder, InstanceId(8));
        assert_eq!(StartNote::read(&folder), Some(note()), "that was another start");
        StartNote::forget(&folder, InstanceId(7));
        assert_eq!(StartNote::read(&folder), None);
    }

    #[test]
    fn pods_of_two_agents_on_one_runtime_are_told_apart() {
        let (one, other) = (AgentName::of(Path::new("/a")), AgentName::of(Path::new("/b")));
        let pod = note().pod;
        assert_ne!(one.labels(), other.labels());
        assert_ne!(one.uid_of(&pod), other.uid_of(&pod));
        assert_eq!(one.uid_of(&pod), one.uid_of(&pod));
        assert_eq!(one.labels_of_start(&pod, InstanceId(1)).len(), 5);
        let cgroup = one.cgroup_of_start(&pod, InstanceId(1));
        assert!(cgroup.starts_with(&one.cgroups_of_pod(&pod)) && !cgroup.contains(['/', '.']));
        assert!(one.cgroups_of_pod(&pod).starts_with(&one.cgroups()));
        assert_ne!(one.cgroups(), other.cgroups());
    }
}
