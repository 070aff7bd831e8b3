//! What the types of volumes, mounts and the environment can't say. Where a path leads out of its folder,
//! or two lead to the same file, the template is refused.

use super::attached::{check_object_key, check_object_name};
use super::containers::PlacedContainer;
use super::ids::NodeId;
use super::inference_model::ModelMount;
use super::pod::{Container, PodSpec};
use super::volume::{
    ConfigMapKeySelector, EmptyDirMedium, EmptyDirVolume, KeyToPath, ObjectFieldSelector, Volume,
};
use super::workload::{InvalidWorkload, invalid};
use crate::limits::{MODELS_MAX, VOLUME_ITEMS_MAX, VOLUME_PATH_BYTES_MAX, VOLUMES_MAX};
use std::collections::BTreeSet;

type Checked = Result<(), InvalidWorkload>;

/// Checks the volumes of a template, their mounts, and what its containers take from ConfigMaps.
pub(super) fn validate_volumes(spec: &PodSpec) -> Checked {
    at_most("spec.volumes", spec.volumes.len(), VOLUMES_MAX)?;
    let mut names = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let at = format!("spec.volumes[{index}]");
        validate_volume(&at, volume)?;
        if !names.insert(volume.name.as_str()) {
            let problem = format!("there is a volume `{}` already", volume.name);
            return Err(invalid(format!("{at}.name"), problem));
        }
    }
    at_most("spec.imagePullSecrets", spec.image_pull_secrets.len(), VOLUMES_MAX)?;
    for (index, secret) in spec.image_pull_secrets.iter().enumerate() {
        let at = format!("spec.imagePullSecrets[{index}].name");
        check_object_name(&secret.name).map_err(|problem| invalid(at, problem))?;
    }
    at_most("spec.models", spec.models.len(), MODELS_MAX)?;
    for PlacedContainer { container, path, .. } in spec.in_order() {
        let mounts = validate_mounts(container, &path, &names)?;
        validate_models(&spec.models, mounts)?;
    }
    let all_mounts = spec.in_order().flat_map(|placed| &placed.container.volume_mounts);
    let mounted = |name: &str| all_mounts.clone().any(|mount| mount.name == name);
    if let Some(index) = spec.volumes.iter().position(|volume| !mounted(&volume.name)) {
        let problem =
            "nothing mounts it: expected one of the container's `volumeMounts` to name it";
        return Err(invalid(format!("spec.volumes[{index}].name"), problem));
    }
    spec.in_order().try_for_each(|placed| validate_environment(placed.container, &placed.path))
}

fn at_most(path: &str, count: usize, limit: usize) -> Checked {
    let problem = || invalid(path, format!("{count} are over the limit of {limit}"));
    (count <= limit).then_some(()).ok_or_else(problem)
}

fn validate_volume(at: &str, volume: &Volume) -> Checked {
    NodeId::new(&volume.name).map_err(|error| invalid(format!("{at}.name"), error.to_string()))?;
    let Volume { config_map, secret, empty_dir, host_path, persistent_volume_claim, .. } = volume;
    match (config_map, secret, empty_dir, host_path, persistent_volume_claim) {
        (Some(source), None, None, None, None) => {
            validate_name(&format!("{at}.configMap.name"), &source.name)?;
            validate_items(&format!("{at}.configMap.items"), &source.items)
        }
        (None, Some(source), None, None, None) => {
            validate_name(&format!("{at}.secret.secretName"), &source.secret_name)?;
            validate_items(&format!("{at}.secret.items"), &source.items)
        }
        (None, None, Some(source), None, None) => validate_empty_dir(at, source),
        (None, None, None, Some(source), None) => check_absolute(&source.path)
            .map(drop)
            .map_err(|problem| invalid(format!("{at}.hostPath.path"), problem)),
        (None, None, None, None, Some(source)) => {
            validate_name(&format!("{at}.persistentVolumeClaim.claimName"), &source.claim_name)
        }
        _ => {
            let problem = "expected exactly one of configMap, secret, emptyDir, hostPath and \
                           persistentVolumeClaim";
            Err(invalid(at, problem))
        }
    }
}

fn validate_name(path: &str, name: &str) -> Checked {
    check_object_name(name).map_err(|problem| invalid(path, problem))
}

fn validate_empty_dir(at: &str, source: &EmptyDirVolume) -> Checked {
    let path = format!("{at}.emptyDir.sizeLimit");
    match (source.medium, source.size_limit) {
        (EmptyDirMedium::Disk, Some(_)) => {
            Err(invalid(path, "is enforced with medium `Memory` only: expected none"))
        }
        (EmptyDirMedium::Memory, Some(limit)) if limit.bytes == 0 => {
            Err(invalid(path, "expected more than 0"))
        }
        _ => Ok(()),
    }
}

fn validate_items(at: &str, items: &[KeyToPath]) -> Checked {
    at_most(at, items.len(), VOLUME_ITEMS_MAX)?;
    let mut paths: Vec<&str> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let key = format!("{at}[{index}].key");
        check_object_key(&item.key).map_err(|problem| invalid(key, problem))?;
        let path = format!("{at}[{index}].path");
        check_relative(&item.path).map_err(|problem| invalid(path.as_str(), problem))?;
        if let Some(other) = paths.iter().find(|other| overlap(other, &item.path)) {
            let problem = format!("`{}` and `{other}` can't both be there", item.path);
            return Err(invalid(path, problem));
        }
        paths.push(&item.path);
    }
    Ok(())
}

/// The paths of all mounts.
fn validate_mounts<'a>(
    container: &'a Container,
    path: &str,
    volumes: &BTreeSet<&str>,
) -> Result<Vec<&'a str>, InvalidWorkload> {
    let at = format!("{path}.volumeMounts");
    at_most(&at, container.volume_mounts.len(), VOLUMES_MAX)?;
    let mut paths: Vec<&str> = Vec::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        if !volumes.contains(mount.name.as_str()) {
            let name: String = mount.name.chars().take(80).collect();
            return Err(invalid(format!("{at}[{index}].name"), format!("no volume is `{name}`")));
        }
        add_path(&mut paths, &format!("{at}[{index}].mountPath"), &mount.mount_path)?;
    }
    Ok(paths)
}

/// Adds the path of a mount that none of `paths` is in the way of.
fn add_path<'a>(paths: &mut Vec<&'a str>, at: &str, path: &'a str) -> Checked {
    let below = check_absolute(path).map_err(|problem| invalid(at, problem))?;
    if let Some(other) = paths.iter().find(|other| overlap(other, below)) {
        let problem = format!("`/{below}` and `/{other}` are one within the other, or the same");
        return Err(invalid(at, problem));
    }
    paths.push(below);
    Ok(())
}

/// Models stand where nothing else is mounted, each under a name of its own.
fn validate_models<'a>(models: &'a [ModelMount], mut paths: Vec<&'a str>) -> Checked {
    let mut names = BTreeSet::new();
    for (index, model) in models.iter().enumerate() {
        let at = |field: &str| format!("spec.models[{index}].{field}");
        NodeId::new(&model.name).map_err(|error| invalid(at("name"), error.to_string()))?;
        if !names.insert(&model.name) {
            let problem = format!("there is a model `{}` already", model.name);
            return Err(invalid(at("name"), problem));
        }
        if model.size_bytes == 0 {
            return Err(invalid(at("sizeBytes"), "expected the bytes of its file"));
        }
        add_path(&mut paths, &at("path"), &model.path)?;
    }
    Ok(())
}

/// Whether one of two paths is the other, or a folder above it.
fn overlap(one: &str, other: &str) -> bool {
    let within = |path: &str, folder: &str| {
        path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    within(one, other) || within(other, one)
}

/// What of an absolute path is below the root.
pub(super) fn check_absolute(path: &str) -> Result<&str, String> {
    let expected = "expected a path that begins with `/`, as in `/etc/ocr`";
    let below = path.strip_prefix('/').ok_or_else(|| expected.to_owned())?;
    check_relative(below).map(|()| below)
}

/// Whether a path stays within the folder that it begins in.
fn check_relative(path: &str) -> Result<(), String> {
    if path.len() > VOLUME_PATH_BYTES_MAX {
        return Err(format!("{} bytes are over the limit of {VOLUME_PATH_BYTES_MAX}", path.len()));
    }
    if path.contains('\0') {
        return Err("a path has no NUL character".to_owned());
    }
    let bad = |part: &str| part.is_empty() || part == "." || part.starts_with("..");
    match path.split('/').any(bad) {
        true => Err("expected names between single slashes, none of them `.` or beginning with \
                     `..`, and none after the last slash"
            .to_owned()),
        false => Ok(()),
    }
}

fn validate_environment(container: &Container, path: &str) -> Checked {
    let at = |field: &str| format!("{path}.{field}");
    at_most(&at("envFrom"), container.env_from.len(), VOLUMES_MAX)?;
    for (index, source) in container.env_from.iter().enumerate() {
        let at = at(&format!("envFrom[{index}]"));
        let Some(named) = &source.config_map_ref else {
            return Err(invalid(at, "expected configMapRef"));
        };
        let problem = |problem| invalid(format!("{at}.configMapRef.name"), problem);
        check_object_name(&named.name).map_err(problem)?;
        if source.prefix.contains(['=', '\0']) {
            return Err(invalid(format!("{at}.prefix"), "expected no `=` and no NUL character"));
        }
    }
    let mut sources = 0;
    for (index, variable) in container.env.iter().enumerate() {
        let Some(source) = &variable.value_from else { continue };
        sources += 1;
        let at = at(&format!("env[{index}].valueFrom"));
        if !variable.value.is_empty() {
            return Err(invalid(at, "expected value or valueFrom, not both"));
        }
        match (&source.config_map_key_ref, &source.field_ref) {
            (Some(selector), None) => {
                validate_selector(&format!("{at}.configMapKeyRef"), selector)?;
            }
            (None, Some(selector)) => validate_field(&format!("{at}.fieldRef"), selector)?,
            _ => return Err(invalid(at, "expected exactly one of configMapKeyRef and fieldRef")),
        }
    }
    at_most(&at("env"), sources, VOLUME_ITEMS_MAX)
}

fn validate_field(at: &str, selector: &ObjectFieldSelector) -> Checked {
    if selector.api_version.as_ref().is_some_and(|version| version != "v1") {
        return Err(invalid(format!("{at}.apiVersion"), "expected v1"));
    }
    let problem = "expected metadata.name, metadata.namespace, spec.nodeName, status.podIP, \
                   metadata.labels['KEY'] or metadata.annotations['KEY']";
    let path = format!("{at}.fieldPath");
    selector.field().map(drop).ok_or_else(|| invalid(path, problem))
}

fn validate_selector(at: &str, selector: &ConfigMapKeySelector) -> Checked {
    let ConfigMapKeySelector { name, key, .. } = selector;
    check_object_name(name).map_err(|problem| invalid(format!("{at}.name"), problem))?;
    check_object_key(key).map_err(|problem| invalid(format!("{at}.key"), problem))
}

#[cfg(test)]
mod tests {
    use crate::model::{
        ContainerPort, PodSpec, PodTemplate, Probe, ResourceRequirements, RestartPolicy,
    };
    use crate::wire::{decode, encode};
    use proptest::prelude::*;
    use serde::Serialize;
    use serde_json::{Value, json};

    fn template(volumes: &Value, container: Value) -> PodTemplate {
        let mut fields = json!({ "name": "a", "command": ["a"] });
        fields.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        let spec = json!({ "volumes": volumes, "containers": [fields] });
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn whole() -> PodTemplate {
        let volumes = json!([
            { "name": "settings", "configMap": { "name": "ocr",
                "items": [{ "key": "a.toml", "path": "conf/a.toml" }] } },
            { "name": "keys", "secret": { "secretName": "tokens", "optional": true } },
        ]);
        template(
            &volumes,
            json!({
                "volumeMounts": [{ "name": "settings", "mountPath": "/etc/ocr", "readOnly": true },
                    { "name": "keys", "mountPath": "/run/keys" }],
                "envFrom": [{ "configMapRef": { "name": "shared" }, "prefix": "OCR_" }],
                "env": [{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "ocr", "key": "a" } } }],
            }),
        )
    }

    #[test]
    fn what_is_named_is_known_by_kind_path_and_keys_and_survives_the_wire() {
        let template = whole();
        assert_eq!(template.validate(), Ok(()));
        assert!(template.names_objects() && !PodTemplate::default().names_objects());
        let named = template.references().map(|reference| {
            format!("{} {} {:?}", reference.path, reference.object("default"), reference.keys)
        });
        assert_eq!(
            named.collect::<Vec<_>>(),
            [
                "spec.volumes[0].configMap.name ConfigMap default/ocr [\"a.toml\"]",
                "spec.volumes[1].secret.secretName Secret default/tokens []",
                "spec.containers[0].envFrom[0].configMapRef.name ConfigMap default/shared []",
                "spec.containers[0].env[0].valueFrom.configMapKeyRef.name ConfigMap default/ocr [\"a\"]",
            ]
        );
        let bytes = encode("template", &template).unwrap();
        assert_eq!(decode::<PodTemplate>("template", &bytes, 4096).unwrap(), template);
    }

    /// What a template was before there were volumes: no pod is restarted because its hub is a newer one.
    #[test]
    fn a_template_without_volumes_is_written_as_before_there_were_any() {
        #[derive(Serialize)]
        struct EarlierSpec {
            containers: Vec<EarlierContainer>,
            restart_policy: RestartPolicy,
            termination_grace_period_seconds: u32,
        }
        #[derive(Serialize)]
        struct EarlierContainer {
            name: String,
            image: Option<String>,
            command: Vec<String>,
            args: Vec<String>,
            working_dir: Option<String>,
            env: Vec<EarlierVariable>,
            resources: ResourceRequirements,
            ports: Vec<ContainerPort>,
            startup_probe: Option<Probe>,
            readiness_probe: Option<Probe>,
            liveness_probe: Option<Probe>,
        }
        #[derive(Serialize)]
        struct EarlierVariable {
            name: String,
            value: String,
        }
        let container = EarlierContainer {
            name: "a".to_owned(),
            image: None,
            command: vec!["a".to_owned()],
            args: vec![],
            working_dir: None,
            env: vec![EarlierVariable { name: "A".to_owned(), value: "b".to_owned() }],
            resources: ResourceRequirements::default(),
            ports: vec![],
            startup_probe: None,
            readiness_probe: None,
            liveness_probe: None,
        };
        let restart_policy = RestartPolicy::Always;
        let containers = vec![container];
        let earlier =
            EarlierSpec { containers, restart_policy, termination_grace_period_seconds: 30 };
        let now = template(&json!([]), json!({ "env": [{ "name": "A", "value": "b" }] }));
        let bytes = encode("spec", &earlier).unwrap();
        assert_eq!(encode("spec", &now.spec).unwrap(), bytes);
        assert_eq!(decode::<PodSpec>("spec", &bytes, 4096).unwrap(), now.spec);
    }

    #[test]
    fn a_secret_in_the_environment_is_refused_with_words_that_say_what_to_do() {
        for container in [
            json!({ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "a" } } }] }),
            json!({ "envFrom": [{ "secretRef": { "name": "a" } }] }),
        ] {
            let mut spec = json!({ "spec": { "containers": [{ "name": "a", "command": ["a"] }] } });
            let fields = spec.pointer_mut("/spec/containers/0").unwrap().as_object_mut().unwrap();
            fields.extend(container.as_object().unwrap().clone());
            let refused = serde_json::from_value::<PodTemplate>(spec).unwrap_err().to_string();
            assert!(refused.contains("as files only"), "{refused}");
        }
    }

    /// The path of what is wrong with it.
    fn refused(volumes: &Value, container: Value) -> String {
        template(volumes, container).validate().unwrap_err().path
    }

    fn mounted(mounts: &[(&str, &str)]) -> Value {
        let mount = |(name, path): &(&str, &str)| json!({ "name": name, "mountPath": path });
        json!({ "volumeMounts": mounts.iter().map(mount).collect::<Vec<_>>() })
    }

    fn volume(name: &str) -> Value {
        json!({ "name": name, "configMap": { "name": "ocr" } })
    }

    #[test]
    fn volumes_that_can_not_be_are_refused_with_their_paths() {
        let items = |items: Value| json!([{ "name": "v", "secret": { "secretName": "ocr", "items": items } }]);
        let item = |key: &str, path: &str| json!({ "key": key, "path": path });
        let of = |kind: &str, source: Value| json!([{ "name": "v", kind: source }]);
        let cases = [
            (json!([volume("v"), volume("v")]), "spec.volumes[1].name"),
            (json!([volume("../v")]), "spec.volumes[0].name"),
            (json!([{ "name": "v" }]), "spec.volumes[0]"),
            (
                json!([{ "name": "v", "configMap": { "name": "A" } }]),
                "spec.volumes[0].configMap.name",
            ),
            (items(json!([item("a", "/a")])), "spec.volumes[0].secret.items[0].path"),
            (items(json!([item("a", "..a")])), "spec.volumes[0].secret.items[0].path"),
            (items(json!([item("a/b", "a")])), "spec.volumes[0].secret.items[0].key"),
            (
                items(json!([item("a", "a"), item("b", "a/b")])),
                "spec.volumes[0].secret.items[1].path",
            ),
            (
                json!([{ "name": "v", "emptyDir": {}, "secret": { "secretName": "a" } }]),
                "spec.volumes[0]",
            ),
            (of("emptyDir", json!({ "sizeLimit": "1Mi" })), "spec.volumes[0].emptyDir.sizeLimit"),
            (
                of("emptyDir", json!({ "medium": "Memory", "sizeLimit": "0" })),
                "spec.volumes[0].emptyDir.sizeLimit",
            ),
            (of("hostPath", json!({ "path": "a" })), "spec.volumes[0].hostPath.path"),
            (of("hostPath", json!({ "path": "/a/../b" })), "spec.volumes[0].hostPath.path"),
            (
                of("persistentVolumeClaim", json!({ "claimName": "../a" })),
                "spec.volumes[0].persistentVolumeClaim.claimName",
            ),
        ];
        for (volumes, path) in cases {
            assert_eq!(refused(&volumes, mounted(&[("v", "/v")])), path, "{volumes}");
        }
        let not_mounted = refused(&json!([volume("v")]), json!({}));
        assert_eq!(not_mounted, "spec.volumes[0].name");
    }

    #[test]
    fn folders_that_a_pod_writes_to_survive_the_wire_as_kubernetes_says_them() {
        let volumes = json!([
            { "name": "cache", "emptyDir": {} },
            { "name": "fast", "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } },
            { "name": "host", "hostPath": { "path": "/srv/media", "type": "DirectoryOrCreate" } },
            { "name": "kept", "persistentVolumeClaim": { "claimName": "ocr", "readOnly": true } },
        ]);
        let mounts = [("cache", "/a"), ("fast", "/b"), ("host", "/c"), ("kept", "/d")];
        let template = template(&volumes, mounted(&mounts));
        assert_eq!(template.validate(), Ok(()));
        assert_eq!(serde_json::to_value(&template.spec.volumes).unwrap(), volumes);
        let bytes = encode("template", &template).unwrap();
        assert_eq!(decode::<PodTemplate>("template", &bytes, 4096).unwrap(), template);
    }

    #[test]
    fn mounts_that_can_not_be_are_refused_with_their_paths() {
        for path in ["etc", "/", "/a/../../b", "/a//b", "/a/", ""] {
            let path = refused(&json!([volume("v")]), mounted(&[("v", path)]));
            assert_eq!(path, "spec.containers[0].volumeMounts[0].mountPath");
        }
        let within = refused(&json!([volume("v")]), mounted(&[("v", "/a"), ("v", "/a/b")]));
        assert_eq!(within, "spec.containers[0].volumeMounts[1].mountPath");
        let of_nothing = refused(&json!([]), mounted(&[("v", "/v")]));
        assert_eq!(of_nothing, "spec.containers[0].volumeMounts[0].name");
    }

    #[test]
    fn an_environment_that_can_not_be_is_refused_with_its_path() {
        let from = json!({ "configMapKeyRef": { "name": "ocr", "key": "../a" } });
        let field = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
        for (container, path) in [
            (json!({ "envFrom": [{}] }), "envFrom[0]"),
            (
                json!({ "envFrom": [{ "configMapRef": { "name": "a" }, "prefix": "A=" }] }),
                "envFrom[0].prefix",
            ),
            (
                json!({ "env": [{ "name": "A", "value": "b", "valueFrom": {} }] }),
                "env[0].valueFrom",
            ),
            (json!({ "env": [{ "name": "A", "valueFrom": {} }] }), "env[0].valueFrom"),
            (
                json!({ "env": [{ "name": "A", "valueFrom": field("status.hostIP") }] }),
                "env[0].valueFrom.fieldRef.fieldPath",
            ),
            (
                json!({ "env": [{ "name": "A", "valueFrom": field("metadata.labels['']") }] }),
                "env[0].valueFrom.fieldRef.fieldPath",
            ),
            (
                json!({ "env": [{ "name": "A", "valueFrom": from }] }),
                "env[0].valueFrom.configMapKeyRef.key",
            ),
        ] {
            assert_eq!(refused(&json!([]), container), format!("spec.containers[0].{path}"));
        }
    }

    proptest! {
        #[test]
        fn a_path_that_is_taken_stays_within_its_folder(path in "[a./]{0,8}") {
            if super::check_relative(&path).is_ok() {
                let joined = std::path::Path::new("/folder").join(&path);
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(joined.components().skip(1).all(plain), "{path}");
                prop_assert!(joined.starts_with("/folder") && joined.components().count() > 2);
            }
        }
    }
}
