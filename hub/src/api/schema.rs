//! What the derived schemas lack: quantities, taints, the pod template and its rules; and what makes a
//! derived schema one that the API server takes.

use crate::manifests::WAVES_MAX;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};
use shared::limits::{CONTAINERS_MAX, VOLUMES_MAX};

/// Fields of a pod's spec that Hinterland runs.
const POD_SPEC_FIELDS: [&str; 9] = [
    "containers",
    "dnsPolicy",
    "hostNetwork",
    "imagePullSecrets",
    "initContainers",
    "restartPolicy",
    "securityContext",
    "terminationGracePeriodSeconds",
    "volumes",
];

/// Fields of a pod's security context that Hinterland runs.
const POD_SECURITY_FIELDS: [&str; 6] =
    ["fsGroup", "runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile", "supplementalGroups"];

/// Fields of a container's security context that Hinterland runs.
const CONTAINER_SECURITY_FIELDS: [&str; 8] = [
    "allowPrivilegeEscalation",
    "capabilities",
    "privileged",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seccompProfile",
];

/// Fields of a volume that Hinterland runs.
const VOLUME_FIELDS: [&str; 6] =
    ["configMap", "emptyDir", "hostPath", "name", "persistentVolumeClaim", "secret"];

/// Fields of a container that Hinterland runs.
const CONTAINER_FIELDS: [&str; 19] = [
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "restartPolicy",
    "securityContext",
    "startupProbe",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeMounts",
    "workingDir",
];

/// Where security contexts stand, what they are called there, and their fields.
const SECURITY_CONTEXTS: [(&str, &str, &[&str]); 3] = [
    (
        "/properties/spec/properties/securityContext",
        "template.spec.securityContext",
        &POD_SECURITY_FIELDS,
    ),
    (
        "/properties/spec/properties/containers/items/properties/securityContext",
        "template.spec.containers[].securityContext",
        &CONTAINER_SECURITY_FIELDS,
    ),
    (
        "/properties/spec/properties/initContainers/items/properties/securityContext",
        "template.spec.initContainers[].securityContext",
        &CONTAINER_SECURITY_FIELDS,
    ),
];

/// Lists whose entries have names, by their fields' names, and what names an entry.
const NAMED_LISTS: [(&str, &[&str]); 7] = [
    ("containers", &["name"]),
    ("env", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("initContainers", &["name"]),
    ("ports", &["containerPort", "protocol"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// An amount with an optional suffix.
pub(super) fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
    })
}

/// A number of nodes, or a part of them.
pub(super) fn node_share(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "pattern": r"^([1-9][0-9]{0,5}|([1-9][0-9]?|100)%)$",
    })
}

pub(super) fn waves(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": WAVES_MAX,
        "items": node_share(generator),
        "x-kubernetes-list-type": "atomic",
    })
}

pub(super) fn taints(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {
            "type": "object",
            "required": ["key", "effect"],
            "properties": {
                "key": { "type": "string", "description": "The taint's name." },
                "value": { "type": "string", "description": "Its value, often empty." },
                "effect": {
                    "type": "string",
                    "enum": ["NoSchedule", "NoExecute"],
                    "description": "`NoSchedule`: new pods are kept away. `NoExecute`: running ones \
                                    are stopped as well.",
                },
            },
        },
        // One writer may add its taint beside those of another, as who drains a node does.
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["key", "effect"],
    })
}

pub(super) fn tolerations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {
            "type": "object",
            "properties": {
                "key": {
                    "type": "string",
                    "description": "The taint's name; absent with `Exists` tolerates every taint.",
                },
                "operator": {
                    "type": "string",
                    "enum": ["Equal", "Exists"],
                    "default": "Equal",
                    "description": "How `value` is compared.",
                },
                "value": { "type": "string", "description": "The taint's value, for `Equal`." },
                "effect": {
                    "type": "string",
                    "enum": ["NoSchedule", "NoExecute"],
                    "description": "The effect; absent means every effect.",
                },
            },
            "x-kubernetes-validations": [
                {
                    "rule": "has(self.key) || self.operator == 'Exists'",
                    "message": "key: is missing: only operator Exists goes without a key",
                },
                {
                    "rule": "!(self.operator == 'Exists' && has(self.value) && self.value != '')",
                    "message": "value: expected no value with operator Exists",
                },
            ],
        },
    })
}

/// Conditions are merged by their type, so that other writers may add theirs.
pub(super) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let condition =
        generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>();
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": condition,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// The whole `core/v1` pod template, and a rule for each of its fields that is not supported.
pub(super) fn pod_template(generator: &mut SchemaGenerator) -> Schema {
    let mut template = generator.subschema_for::<PodTemplateSpec>().to_value();
    if let Some(template) = template.as_object_mut() {
        template.insert(
            "description".to_owned(),
            json!(
                "What each pod is: a `core/v1` pod template. What Hinterland does not support is \
                   refused, never run in part."
            ),
        );
        template.insert("required".to_owned(), json!(["spec"]));
    }
    if let Some(spec) = template.pointer_mut("/properties/spec") {
        let mut rules = unsupported(spec, "template.spec", &POD_SPEC_FIELDS);
        rules.push(json!({
            "rule": "self.containers.size() >= 1",
            "message": format!("template.spec.containers: expected 1 to {CONTAINERS_MAX}"),
        }));
        add_rules(spec, rules);
    }
    for list in ["containers", "initContainers"] {
        let path = format!("/properties/spec/properties/{list}");
        if let Some(containers) = template.pointer_mut(&path)
            && let Some(container) = containers.pointer_mut("/items")
        {
            add_rules(container, container_rules(container, list));
            // Bounds what the rules may cost.
            insert(containers, "maxItems", json!(CONTAINERS_MAX));
        }
    }
    for (at, path, supported) in SECURITY_CONTEXTS {
        if let Some(context) = template.pointer_mut(at) {
            let rules = unsupported(context, path, supported);
            add_rules(context, rules);
        }
    }
    if let Some(volumes) = template.pointer_mut("/properties/spec/properties/volumes")
        && let Some(volume) = volumes.pointer_mut("/items")
    {
        let rules = unsupported(volume, "template.spec.volumes[]", &VOLUME_FIELDS);
        add_rules(volume, rules);
        insert(volumes, "maxItems", json!(VOLUMES_MAX));
    }
    name_entries(&mut template);
    Schema::try_from(template).unwrap_or_default()
}

/// What a container in one of the two lists may not say.
fn container_rules(container: &Value, list: &str) -> Vec<Value> {
    let at = format!("template.spec.{list}[]");
    let mut rules = unsupported(container, &at, &CONTAINER_FIELDS);
    let of_sidecars = "!has(self.restartPolicy) || self.restartPolicy == 'Always'";
    let (rule, expected) = match list {
        "initContainers" => (of_sidecars, "expected Always, or none"),
        _ => ("!has(self.restartPolicy)", "only an init container has one"),
    };
    let message = format!("{at}.restartPolicy: {expected}");
    rules.push(json!({ "rule": rule, "message": message }));
    rules
}

/// A rule for each property that is not among `supported`, naming it.
fn unsupported(schema: &Value, path: &str, supported: &[&str]) -> Vec<Value> {
    let properties = schema.pointer("/properties").and_then(Value::as_object);
    let names = properties.into_iter().flat_map(Map::keys);
    let rule = |name: &String| {
        json!({
            "rule": format!("!has(self.{name})"),
            "message": format!("{path}.{name}: is not supported on edge nodes"),
        })
    };
    names.filter(|name| !supported.contains(&name.as_str())).map(rule).collect()
}

fn add_rules(schema: &mut Value, rules: Vec<Value>) {
    insert(schema, "x-kubernetes-validations", Value::Array(rules));
}

fn insert(schema: &mut Value, key: &str, value: Value) {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert(key.to_owned(), value);
    }
}

/// Marks the lists whose entries have names, so that server-side apply merges them by these.
fn name_entries(schema: &mut Value) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(name_entries),
        Value::Object(fields) => {
            if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
                for (list, keys) in NAMED_LISTS {
                    let Some(list) = properties.get_mut(list) else { continue };
                    if list.pointer("/type") == Some(&json!("array")) && has_all(list, keys) {
                        insert(list, "x-kubernetes-list-type", json!("map"));
                        insert(list, "x-kubernetes-list-map-keys", json!(keys));
                        if let Some(protocol) = list.pointer_mut("/items/properties/protocol") {
                            insert(protocol, "default", json!("TCP"));
                        }
                    }
                }
            }
            fields.values_mut().for_each(name_entries);
        }
        _ => {}
    }
}

fn has_all(list: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|key| list.pointer(&format!("/items/properties/{key}")).is_some())
}

/// Makes a derived schema one that the API server takes: it knows no unsigned numbers, and drops what
/// it does not know where `additionalProperties: false` would refuse it. A `null` is dropped as well, so
/// that rules see a field that is not there.
pub(super) fn make_structural(schema: &mut Value) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(make_structural),
        Value::Object(fields) => {
            if fields.get("additionalProperties") == Some(&json!(false)) {
                fields.remove("additionalProperties");
            }
            if fields.get("nullable") == Some(&json!(true)) {
                fields.remove("nullable");
            }
            let signed = match fields.get("format").and_then(Value::as_str) {
                Some("uint8" | "uint16" | "int8" | "int16") => Some("int32"),
                Some("uint32" | "uint64") => Some("int64"),
                _ => None,
            };
            if let Some(signed) = signed {
                fields.insert("format".to_owned(), json!(signed));
            }
            fields.values_mut().for_each(make_structural);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::model::PodTemplate;

    /// A template with `field` given, as far as its schema tells what to give.
    fn with_field(at: &str, field: &str) -> String {
        let mut template = json!({ "spec": { "containers": [{ "name": "a", "command": ["a"],
            "securityContext": {} }], "volumes": [{ "name": "v" }], "securityContext": {} } });
        insert(template.pointer_mut(at).unwrap(), field, Value::Null);
        serde_json::from_value::<PodTemplate>(template)
            .map_or_else(|e| e.to_string(), |_| String::new())
    }

    #[test]
    fn the_fields_with_a_rule_are_those_that_the_reader_does_not_know() {
        let mut generator = SchemaGenerator::new(
            schemars::generate::SchemaSettings::openapi3()
                .with(|settings| settings.inline_subschemas = true),
        );
        let template = pod_template(&mut generator).to_value();
        let spec = template.pointer("/properties/spec").unwrap();
        let container = spec.pointer("/properties/containers/items").unwrap();
        let volume = spec.pointer("/properties/volumes/items").unwrap();
        let [pod_security, container_security, _] =
            SECURITY_CONTEXTS.map(|(at, _, _)| template.pointer(at).unwrap());
        let mut fields = 0;
        for (schema, at, supported) in [
            (spec, "/spec", POD_SPEC_FIELDS.as_slice()),
            (container, "/spec/containers/0", CONTAINER_FIELDS.as_slice()),
            (volume, "/spec/volumes/0", VOLUME_FIELDS.as_slice()),
            (pod_security, "/spec/securityContext", POD_SECURITY_FIELDS.as_slice()),
            (
                container_security,
                "/spec/containers/0/securityContext",
                CONTAINER_SECURITY_FIELDS.as_slice(),
            ),
        ] {
            for field in schema.pointer("/properties").unwrap().as_object().unwrap().keys() {
                let unknown = with_field(at, field).contains("unknown field");
                assert_eq!(unknown, !supported.contains(&field.as_str()), "{at}/{field}");
                fields += 1;
            }
        }
        assert!(fields > 60, "{fields}");
    }
}
