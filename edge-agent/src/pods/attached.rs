//! What a workload's pods have of ConfigMaps, Secrets and models: variables of their environment, and files.
//!
//! Secrets stay sealed: they are opened where their files are written.

use crate::devices::{NodeDevice, NodeDevices};
use crate::models::NodeModels;
use crate::ports::{VolumeContent, VolumeSource};
use shared::model::{
    ConfigItem, Container, EmptyDirMedium, EnvVar, KeyToPath, ModelMount, ObjectKind, ObjectName,
    PodField, SecretItem, Volume, VolumeMount, Workload,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Stands before the name of a model's volume: no other volume's name has a dot.
const MODEL_PREFIX: &str = "model.";

/// ConfigMaps and Secrets of this node's desired state, and the models that it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeObjects {
    /// The ConfigMaps.
    pub config_maps: BTreeMap<ObjectName, Arc<ConfigItem>>,
    /// The Secrets, as they came.
    pub secrets: BTreeMap<ObjectName, Arc<SecretItem>>,
    /// The models.
    pub models: Arc<NodeModels>,
    /// The devices that its configuration names.
    pub devices: Arc<NodeDevices>,
    /// The node's name.
    pub node: String,
}

/// What the pods of a workload have of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Attachments {
    /// The environment of each container in the order of their start, each variable with its value but for those that
    /// are the pod's name or its address.
    envs: Vec<Vec<EnvVar>>,
    /// What pods' names begin with.
    workload: String,
    /// The volumes.
    pub(super) volumes: Vec<VolumeContent>,
    /// Credentials for registries.
    pub(super) pull_secrets: Vec<(ObjectName, Arc<SecretItem>)>,
    /// What is not there, so that no pod can be started.
    pub(super) lacks: Option<Lack>,
}

/// What keeps a pod from being started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lack {
    /// A word for programs.
    pub(super) reason: &'static str,
    /// A sentence for people.
    pub(super) message: String,
}

impl Attachments {
    pub(super) fn of(workload: &Workload, objects: &NodeObjects) -> Self {
        let mut gathering = Gathering { workload, objects, lacks: None };
        let containers = workload.template.spec.in_order();
        let envs = containers.map(|placed| gathering.env(placed.container)).collect();
        let volumes = workload.template.spec.volumes.iter();
        let mut volumes: Vec<_> = volumes.map(|volume| gathering.volume(volume)).collect();
        let models = workload.template.spec.models.iter();
        volumes.extend(models.filter_map(|model| gathering.model(model)));
        let secrets = workload.template.spec.image_pull_secrets.iter();
        let pull_secrets = secrets.filter_map(|secret| gathering.secret(&secret.name, false));
        let pull_secrets = pull_secrets.collect();
        let containers = workload.template.spec.in_order();
        containers.for_each(|placed| gathering.check_devices(placed.container));
        let workload = workload.key.name().to_owned();
        Self { envs, workload, volumes, pull_secrets, lacks: gathering.lacks }
    }

    /// The environments of the containers of the replica of this ordinal, each variable with its value but for those
    /// that are the pod's address: its runtime knows that.
    pub(super) fn envs_of(&self, ordinal: u32) -> impl Iterator<Item = Vec<EnvVar>> {
        let valued = move |variable: &EnvVar| match variable.value_from {
            Some(_) if !variable.is_pod_ip() => {
                literal(variable.name.clone(), format!("{}-{ordinal}", self.workload))
            }
            _ => variable.clone(),
        };
        self.envs.iter().map(move |env| env.iter().map(valued).collect())
    }
}

struct Gathering<'a> {
    workload: &'a Workload,
    objects: &'a NodeObjects,
    lacks: Option<Lack>,
}

impl Gathering<'_> {
    fn name(&self, kind: ObjectKind, name: &str) -> ObjectName {
        let namespace = self.workload.key.namespace().to_owned();
        ObjectName { kind, namespace, name: name.to_owned() }
    }

    fn lack(&mut self, optional: bool, what: impl FnOnce() -> String) {
        if !optional && self.lacks.is_none() {
            self.lacks = Some(Lack { reason: "MissingObjects", message: what() });
        }
    }

    fn config_map(&mut self, name: &str, optional: bool) -> Option<Arc<ConfigItem>> {
        let name = self.name(ObjectKind::ConfigMap, name);
        let found = self.objects.config_maps.get(&name).cloned();
        if found.is_none() {
            self.lack(optional, || format!("the hub has sent no {name}"));
        }
        found
    }

    fn secret(&mut self, name: &str, optional: bool) -> Option<(ObjectName, Arc<SecretItem>)> {
        let name = self.name(ObjectKind::Secret, name);
        match self.objects.secrets.get(&name).cloned() {
            Some(item) => Some((name, item)),
            None => {
                self.lack(optional, || format!("the hub has sent no {name}"));
                None
            }
        }
    }

    /// As in Kubernetes: what is said in `env` wins over whole ConfigMaps, and of these a later one. What is
    /// this node's own stands between.
    fn env(&mut self, container: &Container) -> Vec<EnvVar> {
        let mut env = Vec::new();
        for source in &container.env_from {
            let Some(named) = &source.config_map_ref else { continue };
            let Some(item) = self.config_map(&named.name, named.optional) else { continue };
            for (key, value) in &item.data {
                let name = format!("{}{key}", source.prefix);
                env.extend(text_of(value).map(|value| literal(name, value)));
            }
        }
        let own = self.workload.parameters.iter();
        env.extend(own.map(|(name, value)| literal(name.clone(), value.clone())));
        for variable in &container.env {
            let Some(source) = &variable.value_from else {
                env.push(variable.clone());
                continue;
            };
            let value = match (&source.config_map_key_ref, &source.field_ref) {
                (Some(selector), _) => self.value(&selector.name, &selector.key, selector.optional),
                (None, Some(selector)) => match selector.field() {
                    Some(PodField::Name | PodField::PodIp) => {
                        env.push(variable.clone());
                        continue;
                    }
                    Some(field) => Some(self.field(field)),
                    None => None,
                },
                (None, None) => None,
            };
            env.extend(value.map(|value| literal(variable.name.clone(), value)));
        }
        env
    }

    /// A field of the pod that all replicas have in common; empty where there is no such label or annotation, as in
    /// Kubernetes.
    fn field(&self, field: PodField<'_>) -> String {
        let metadata = &self.workload.template.metadata;
        match field {
            PodField::Name | PodField::PodIp => String::new(),
            PodField::Namespace => self.workload.key.namespace().to_owned(),
            PodField::NodeName => self.objects.node.clone(),
            PodField::Label(key) => metadata.labels.get(key).cloned().unwrap_or_default(),
            PodField::Annotation(key) => metadata.annotations.get(key).cloned().unwrap_or_default(),
        }
    }

    /// A device that is not there is waited for.
    fn check_devices(&mut self, container: &Container) {
        for name in &container.resources.limits.devices {
            let (reason, message) = match self.objects.devices.get(name) {
                Some(NodeDevice { is_there: true, .. }) => continue,
                Some(NodeDevice { path, .. }) => {
                    let path = path.display();
                    ("DeviceMissing", format!("the device `{name}` is not there: {path}"))
                }
                None => {
                    let problem = format!(
                        "this node has no device `{name}`: expected `[devices.{name}]` in its configuration"
                    );
                    ("DeviceUnknown", problem)
                }
            };
            self.lacks.get_or_insert(Lack { reason, message });
        }
    }

    fn value(&mut self, name: &str, key: &str, optional: bool) -> Option<String> {
        let item = self.config_map(name, optional)?;
        let value = item.data.get(key).and_then(|value| text_of(value));
        if value.is_none() {
            let name = self.name(ObjectKind::ConfigMap, name);
            self.lack(optional, || format!("{name} has no text `{key}`"));
        }
        value
    }

    fn volume(&mut self, volume: &Volume) -> VolumeContent {
        let containers = self.workload.template.spec.in_order();
        let mounts = containers.flat_map(|placed| mounts_of(placed.container, &volume.name));
        let mounts: Vec<&VolumeMount> = mounts.collect();
        let content = VolumeContent {
            name: volume.name.clone(),
            mounts: mounts.iter().map(|mount| below(mount)).collect(),
            is_secret: volume.secret.is_some(),
            ..VolumeContent::default()
        };
        if let Some((source, is_writable)) = folder_of(volume) {
            let written = mounts.iter().filter(|mount| is_writable && !mount.read_only);
            let writable_mounts = written.map(|mount| below(mount)).collect();
            return VolumeContent { source, writable_mounts, ..content };
        }
        if let Some(from) = &volume.config_map {
            let source = self.config_map(&from.name, from.optional);
            if let Some(item) = &source {
                self.check_keys(&from.name, item, &from.items, from.optional);
            }
            let source = source.map_or(VolumeSource::Nothing, VolumeSource::ConfigMap);
            return VolumeContent { source, items: from.items.clone(), ..content };
        }
        let Some(from) = &volume.secret else { return content };
        let secret = self.secret(&from.secret_name, from.optional);
        let source =
            secret.map_or(VolumeSource::Nothing, |(name, item)| VolumeSource::Secret(name, item));
        VolumeContent { source, items: from.items.clone(), optional: from.optional, ..content }
    }

    /// A model of the right content and size, or what to do where there is none.
    fn model(&mut self, model: &ModelMount) -> Option<VolumeContent> {
        let found = self.objects.models.get(&model.digest);
        if let Some(file) = found.filter(|file| file.bytes == model.size_bytes) {
            return Some(VolumeContent {
                name: format!("{MODEL_PREFIX}{}", model.name),
                mounts: vec![model.path.trim_start_matches('/').to_owned()],
                source: VolumeSource::Model(file.path.clone()),
                ..VolumeContent::default()
            });
        }
        let ModelMount { name, digest, size_bytes, .. } = model;
        let message = match found {
            Some(file) => {
                let bytes = file.bytes;
                format!(
                    "the model {name} ({digest}) has {bytes} bytes, the workload says {size_bytes}"
                )
            }
            None => format!(
                "the model {name} ({digest}, {size_bytes} bytes) is not on this node; \
                 `edge-agent models import FILE` puts it there"
            ),
        };
        self.lacks.get_or_insert(Lack { reason: "ModelMissing", message });
        None
    }

    fn check_keys(&mut self, name: &str, item: &ConfigItem, items: &[KeyToPath], optional: bool) {
        if let Some(absent) = items.iter().find(|one| !item.data.contains_key(&one.key)) {
            let name = self.name(ObjectKind::ConfigMap, name);
            self.lack(optional, || format!("{name} has no key `{}`", absent.key));
        }
    }
}

/// Where a container mounts a volume.
fn mounts_of<'a>(
    container: &'a Container,
    volume: &'a str,
) -> impl Iterator<Item = &'a VolumeMount> {
    container.volume_mounts.iter().filter(move |mount| mount.name == *volume)
}

/// The path of a mount below the container's own folder.
fn below(mount: &VolumeMount) -> String {
    mount.mount_path.trim_start_matches('/').to_owned()
}

/// What of a pod's volumes one of its containers has: what it mounts, and every model.
pub(super) fn volumes_of(container: &Container, volumes: &[VolumeContent]) -> Vec<VolumeContent> {
    let own = volumes.iter().filter_map(|volume| {
        if volume.name.starts_with(MODEL_PREFIX) {
            return Some(volume.clone());
        }
        let mounts: Vec<&VolumeMount> = mounts_of(container, &volume.name).collect();
        let is_written = |path: &String| volume.writable_mounts.contains(path);
        let written = mounts.iter().filter(|mount| !mount.read_only).map(|mount| below(mount));
        let writable_mounts = written.filter(is_written).collect();
        let mounts: Vec<String> = mounts.into_iter().map(below).collect();
        (!mounts.is_empty()).then(|| VolumeContent { mounts, writable_mounts, ..volume.clone() })
    });
    own.collect()
}

/// A folder or a file of the node, and whether a pod may write to it.
fn folder_of(volume: &Volume) -> Option<(VolumeSource, bool)> {
    if let Some(empty) = &volume.empty_dir {
        let is_in_memory = empty.medium == EmptyDirMedium::Memory;
        let bytes_max = empty.size_limit.map(|limit| limit.bytes);
        return Some((VolumeSource::EmptyDir { is_in_memory, bytes_max }, true));
    }
    if let Some(path) = &volume.host_path {
        return Some((VolumeSource::HostPath(path.clone()), true));
    }
    let claim = volume.persistent_volume_claim.as_ref()?;
    Some((VolumeSource::Claim(claim.claim_name.clone()), !claim.read_only))
}

fn literal(name: String, value: String) -> EnvVar {
    EnvVar { name, value, value_from: None }
}

/// Bytes that no environment variable can have are none.
fn text_of(value: &[u8]) -> Option<String> {
    String::from_utf8(value.to_vec()).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ModelFile;
    use serde_bytes::ByteBuf;
    use serde_json::json;
    use shared::model::{ModelDigest, Revision};

    fn workload(spec: &serde_json::Value) -> Workload {
        Workload {
            key: "default/ocr".parse().unwrap(),
            revision: Revision(1),
            replicas: 1,
            priority: 0,
            tolerations: vec![],
            template: serde_json::from_value(json!({ "spec": spec })).unwrap(),
            results: vec![],
            parameters: BTreeMap::from([("A".to_owned(), "own".to_owned())]),
            autoscaling: None,
        }
    }

    fn objects(data: &[(&str, &str)]) -> NodeObjects {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), ByteBuf::from(v.as_bytes())));
        let (kind, namespace) = (ObjectKind::ConfigMap, "default".to_owned());
        let name = ObjectName { kind, namespace, name: "settings".to_owned() };
        let item = ConfigItem { data: data.collect() };
        NodeObjects { config_maps: [(name, Arc::new(item))].into(), ..NodeObjects::default() }
    }

    #[test]
    fn what_is_said_in_env_wins_over_the_node_s_own_and_that_over_whole_config_maps() {
        let from = json!({ "configMapKeyRef": { "name": "settings", "key": "B" } });
        let absent =
            json!({ "configMapKeyRef": { "name": "other", "key": "B", "optional": true } });
        let workload = workload(&json!({ "containers": [{ "name": "a", "command": ["a"],
            "envFrom": [{ "configMapRef": { "name": "settings" }, "prefix": "P_" },
                { "configMapRef": { "name": "settings" } }],
            "env": [{ "name": "C", "valueFrom": from }, { "name": "D", "valueFrom": absent },
                { "name": "A", "value": "said" }] }] }));
        let found = Attachments::of(&workload, &objects(&[("A", "map"), ("B", "b")]));
        let env: Vec<EnvVar> = found.envs_of(0).flatten().collect();
        let pairs = env.iter().map(|v| format!("{}={}", v.name, v.value));
        let expected = ["P_A=map", "P_B=b", "A=map", "B=b", "A=own", "C=b", "A=said"];
        assert_eq!(
            (pairs.collect::<Vec<_>>(), found.lacks),
            (expected.map(str::to_owned).into(), None)
        );
        let lacking = Attachments::of(&workload, &NodeObjects::default());
        assert_eq!(
            lacking.lacks.unwrap().message,
            "the hub has sent no ConfigMap default/settings"
        );
        let lacking = Attachments::of(&workload, &objects(&[]));
        assert_eq!(lacking.lacks.unwrap().message, "ConfigMap default/settings has no text `B`");
    }

    #[test]
    fn a_volume_has_its_source_or_the_pod_lacks_it_unless_it_is_optional() {
        let spec = |optional: bool| {
            workload(&json!({ "volumes": [
                { "name": "v", "configMap": { "name": "settings", "items": [{ "key": "A", "path": "a" }] } },
                { "name": "k", "secret": { "secretName": "keys", "optional": optional } }],
                "containers": [{ "name": "a", "command": ["a"], "volumeMounts":
                    [{ "name": "v", "mountPath": "/etc/v" }, { "name": "k", "mountPath": "/k" }] }] }))
        };
        let found = Attachments::of(&spec(true), &objects(&[("A", "a")]));
        assert_eq!(found.lacks, None);
        assert_eq!(found.volumes[0].mounts, ["etc/v"]);
        assert!(found.volumes[1].is_secret && found.volumes[1].source == VolumeSource::Nothing);
        let lacks = Attachments::of(&spec(false), &objects(&[("A", "a")])).lacks.unwrap().message;
        assert_eq!(lacks, "the hub has sent no Secret default/keys");
        let lacks = Attachments::of(&spec(true), &objects(&[])).lacks.unwrap().message;
        assert_eq!(lacks, "ConfigMap default/settings has no key `A`");
    }

    #[test]
    fn a_variable_is_a_field_of_the_pod_and_its_name_is_each_replica_s_own() {
        let paths =
            ["metadata.name", "metadata.namespace", "spec.nodeName", "metadata.labels['a.b/c']"];
        let env = paths
            .map(|path| json!({ "name": "F", "valueFrom": { "fieldRef": { "fieldPath": path } } }));
        let mut workload =
            workload(&json!({ "containers": [{ "name": "a", "command": ["a"], "env": env }] }));
        workload.template.metadata.labels.insert("a.b/c".to_owned(), "blue".to_owned());
        workload.parameters.clear();
        let node = "mast-17".to_owned();
        let found = Attachments::of(&workload, &NodeObjects { node, ..NodeObjects::default() });
        let values = found.envs_of(3).flatten().map(|variable| variable.value);
        assert_eq!(values.collect::<Vec<_>>(), ["ocr-3", "default", "mast-17", "blue"]);
    }

    #[test]
    fn a_device_is_there_or_the_pod_waits_for_it() {
        let workload = workload(&json!({ "containers": [{ "name": "a", "command": ["a"],
            "resources": { "limits": { "hinterland.dev/device-camera": 1 } } }] }));
        let with = |is_there: Option<bool>| {
            let path = "/dev/v4l/by-id/cam".into();
            let device = is_there.map(|is_there| NodeDevice { path, is_there });
            let devices = device.map(|device| ("camera".to_owned(), device)).into_iter().collect();
            let objects = NodeObjects { devices: Arc::new(devices), ..NodeObjects::default() };
            Attachments::of(&workload, &objects).lacks
        };
        assert_eq!(with(Some(true)), None);
        let lack = with(Some(false)).unwrap();
        assert_eq!(lack.reason, "DeviceMissing");
        assert_eq!(lack.message, "the device `camera` is not there: /dev/v4l/by-id/cam");
        assert_eq!(with(None).unwrap().reason, "DeviceUnknown");
    }

    #[test]
    fn a_folder_is_written_to_where_neither_its_claim_nor_its_mount_says_otherwise() {
        let spec = json!({ "volumes": [
            { "name": "e", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            { "name": "c", "persistentVolumeClaim": { "claimName": "ocr", "readOnly": true } },
            { "name": "h", "hostPath": { "path": "/srv" } }],
            "containers": [{ "name": "a", "command": ["a"], "volumeMounts": [
                { "name": "e", "mountPath": "/e" }, { "name": "e", "mountPath": "/r", "readOnly": true },
                { "name": "c", "mountPath": "/c" }, { "name": "h", "mountPath": "/h" }] }] });
        let found = Attachments::of(&workload(&spec), &NodeObjects::default());
        assert_eq!(found.lacks, None);
        let seen = found.volumes.iter().map(|v| (v.mounts.join(" "), v.writable_mounts.join(" ")));
        let expected = [("e r", "e"), ("c", ""), ("h", "h")];
        assert_eq!(seen.collect::<Vec<_>>(), expected.map(|(a, b)| (a.into(), b.into())));
        let memory = VolumeSource::EmptyDir { is_in_memory: true, bytes_max: Some(1 << 20) };
        assert_eq!(found.volumes[0].source, memory);
    }

    #[test]
    fn a_model_is_found_by_its_content_or_the_pod_lacks_it() {
        let digest = ModelDigest([0xab; 32]);
        let workload = workload(&json!({ "containers": [{ "name": "a", "command": ["a"] }],
            "models": [{ "name": "ocr", "digest": digest.to_string(), "sizeBytes": 7,
                "path": "/m/ocr.onnx" }] }));
        let with = |bytes| {
            let file = ModelFile { path: "/models/ab".into(), bytes };
            let models = Arc::new(NodeModels::from([(digest, file)]));
            Attachments::of(&workload, &NodeObjects { models, ..NodeObjects::default() })
        };
        let found = with(7);
        assert_eq!(found.lacks, None);
        assert_eq!(found.volumes[0].mounts, ["m/ocr.onnx"]);
        assert_eq!(found.volumes[0].source, VolumeSource::Model("/models/ab".into()));
        assert!(with(8).lacks.unwrap().message.contains("has 8 bytes, the workload says 7"));
        let lack = Attachments::of(&workload, &NodeObjects::default()).lacks.unwrap();
        assert_eq!(lack.reason, "ModelMissing");
        assert!(lack.message.contains("edge-agent models import"), "{}", lack.message);
    }
}
