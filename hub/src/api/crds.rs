//! The definitions of the custom resources, as they are installed.

use super::schema::make_structural;
use super::{EdgeCluster, EdgeNode, InferenceWorkload};
use kube::CustomResourceExt as _;
use serde_json::{Map, Value, json};
use thiserror::Error;

/// The rules of a schema.
const RULES: &str = "x-kubernetes-validations";

/// A definition can't be written; only a mistake in these types makes it so.
#[derive(Debug, Error)]
pub enum CrdError {
    /// As JSON.
    #[error("a definition can't be written as JSON")]
    Json(#[from] serde_json::Error),
    /// As YAML.
    #[error("a definition can't be written as YAML: {0}")]
    Yaml(String),
}

/// Every definition: the file that it has under `deploy/crds`, and its text.
///
/// # Errors
/// [`CrdError`].
pub fn crd_files() -> Result<Vec<(String, String)>, CrdError> {
    let crds = [InferenceWorkload::crd(), EdgeNode::crd(), EdgeCluster::crd()];
    crds.iter()
        .map(|crd| {
            let mut value = serde_json::to_value(crd)?;
            let versions = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
            for version in versions.into_iter().flatten() {
                let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") else { continue };
                make_structural(schema);
                let spec = schema.pointer_mut("/properties/spec").and_then(Value::as_object_mut);
                // A spec in which nothing must be said need not be there.
                let must_say =
                    |spec: &Map<_, _>| spec.contains_key("required") || spec.contains_key(RULES);
                for spec in spec.into_iter().filter(|spec| !must_say(spec)) {
                    spec.insert("default".to_owned(), json!({}));
                }
            }
            let text = serde_saphyr::to_string(&value)
                .map_err(|error| CrdError::Yaml(error.to_string()))?;
            Ok((format!("{}.yaml", crd.spec.names.plural), text))
        })
        .collect()
}

/// All definitions as one text, for `kubectl apply --server-side -f -`.
///
/// # Errors
/// [`CrdError`].
pub fn crds_yaml() -> Result<String, CrdError> {
    let files = crd_files()?;
    Ok(files.into_iter().map(|(_, text)| format!("---\n{text}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_committed_definitions_are_those_of_these_types() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
        for (name, text) in crd_files().unwrap() {
            let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert!(committed == text, "{name} is stale: run `hub crds --output deploy/crds`");
        }
    }

    /// The API server's store takes objects of up to 1.5 MiB; a Helm release, compressed, 1 MiB.
    #[test]
    fn the_definitions_are_small_enough_to_be_stored() {
        let bytes: usize = crd_files().unwrap().iter().map(|(_, text)| text.len()).sum();
        assert!(bytes < 1024 * 1024, "{bytes}");
    }
}
