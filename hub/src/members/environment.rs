//! What the environment of a member's pods is: as the template says it, with what is the member's own. Pure.

use super::share::MemberShare;
use crate::fleet::Parameters;
use crate::manifests::AttachedObject;
use serde_json::{Value, json};
use shared::model::{Container, EnvVar, ObjectKind, ObjectName};
use shared::wire::Digest;
use std::collections::BTreeMap;

/// The variables of a container: those of the member, and the template's own, which win.
pub(super) fn variables(container: &Container, parameters: &Parameters) -> Vec<Value> {
    let is_own = |name: &String| container.env.iter().any(|variable| variable.name == *name);
    let given = parameters.iter().filter(|(name, _)| may_be_set(name) && !is_own(name));
    let given = given.map(|(name, value)| json!({ "name": name, "value": literal(value) }));
    given.chain(container.env.iter().map(variable)).collect()
}

/// Older API servers refuse a Deployment for a name that begins with a digit; of a whole ConfigMap a cluster
/// leaves it out, and so is it here.
fn may_be_set(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
}

/// In a cluster `$(NAME)` stands for another variable, and `$$` for a dollar sign.
fn literal(value: &str) -> String {
    value.replace('$', "$$")
}

fn variable(variable: &EnvVar) -> Value {
    let EnvVar { name, value, value_from } = variable;
    match value_from {
        Some(source) => json!({ "name": name, "valueFrom": source }),
        None => json!({ "name": name, "value": value }),
    }
}

/// Names what the environment of the pods has of ConfigMaps; `None` where it has nothing of them. Files follow
/// a change by themselves, an environment only at the start of a pod.
pub(super) fn environment_hash(share: &MemberShare) -> Option<String> {
    let MemberShare { workload, objects, .. } = share;
    let mut used = BTreeMap::new();
    let mut take = |name: &str, key: Option<&str>| {
        let (kind, namespace) = (ObjectKind::ConfigMap, workload.key.namespace().to_owned());
        let named = ObjectName { kind, namespace, name: name.to_owned() };
        let Some(AttachedObject::ConfigMap(item)) = objects.get(&named).map(|o| &**o) else {
            return;
        };
        let taken = item.data.iter().filter(|(has, _)| key.is_none_or(|key| key == *has));
        // A name has no slash.
        used.extend(taken.map(|(key, value)| (format!("{name}/{key}"), Digest::of(value))));
    };
    let containers = || workload.template.spec.in_order().map(|placed| placed.container);
    let key_of = |variable: &EnvVar| variable.value_from.as_ref()?.config_map_key_ref.clone();
    let one: Vec<_> = containers().flat_map(|c| c.env.iter().filter_map(key_of)).collect();
    let sources = containers().flat_map(|container| &container.env_from);
    let whole: Vec<_> = sources.filter_map(|source| source.config_map_ref.as_ref()).collect();
    if one.is_empty() && whole.is_empty() {
        return None;
    }
    whole.iter().for_each(|source| take(&source.name, None));
    one.iter().for_each(|source| take(&source.name, Some(&source.key)));
    let used = used.iter().map(|(key, digest): (&String, &Digest)| (key.as_str(), *digest));
    Some(Digest::of_map(used).to_string())
}
