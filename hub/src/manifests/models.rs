//! What a workload says of models, written into its template: a new model is a new template, and reaches the
//! nodes as one.

use super::labels::Invalid;
use crate::api::ModelSpec;
use shared::model::{ModelDigest, ModelMount, PodTemplate};

/// Writes `models` into the template, which is checked as a whole afterwards.
///
/// # Errors
/// The first thing that is wrong with them.
pub(super) fn take_models(
    models: Vec<ModelSpec>,
    is_for_clusters: bool,
    template: &mut PodTemplate,
) -> Result<(), Invalid> {
    if !template.spec.models.is_empty() {
        let problem = "a pod of Kubernetes has no such field: expected spec.models";
        return Err(("spec.template.spec.models".to_owned(), problem.to_owned()));
    }
    if is_for_clusters && !models.is_empty() {
        let problem = "edge nodes keep models: in a member cluster expected a volume or an image \
                       with the model";
        return Err(("spec.models".to_owned(), problem.to_owned()));
    }
    for (index, model) in models.into_iter().enumerate() {
        let ModelSpec { name, digest, size_bytes, path } = model;
        let digest: ModelDigest = digest
            .parse()
            .map_err(|error| (format!("spec.models[{index}].digest"), format!("{error}")))?;
        template.spec.models.push(ModelMount { name, digest, size_bytes, path });
    }
    Ok(())
}

/// Where in the workload a field of its template is said.
pub(super) fn said_at(template_path: &str) -> String {
    match template_path.starts_with("spec.models") {
        true => template_path.to_owned(),
        false => format!("spec.template.{template_path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::inference_workload;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn read(rest: &Value) -> Result<PodTemplate, Invalid> {
        let mut spec = json!({ "template": { "spec":
            { "containers": [{ "name": "a", "image": "a", "command": ["a"] }] } } });
        for (field, value) in rest.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let (none, spec) = (BTreeMap::new(), serde_json::from_value(spec).unwrap());
        inference_workload("default", "ocr", &none, &none, spec).map(|read| read.template)
    }

    fn model(name: &str, digit: &str, path: &str) -> Value {
        let digest = format!("sha256:{}", digit.repeat(64));
        json!({ "name": name, "digest": digest, "sizeBytes": 7, "path": path })
    }

    #[test]
    fn they_are_part_of_the_template_so_that_a_new_model_is_a_new_revision() {
        let with =
            |digit| read(&json!({ "models": [model("ocr", digit, "/m/ocr.onnx")] })).unwrap();
        assert_eq!(with("a").spec.models[0].digest, ModelDigest([0xaa; 32]));
        let revision = |template| crate::manifests::workload::revision_of(&template).unwrap();
        assert_ne!(revision(with("a")), revision(with("b")));
    }

    #[test]
    fn what_is_wrong_with_them_is_refused_with_its_path() {
        let (a, b) = (model("a", "a", "/m/a"), model("b", "b", "/m/b"));
        let mut empty = a.clone();
        empty["sizeBytes"] = json!(0);
        for (rest, path) in [
            (json!({ "models": [model("a", "g", "/m/a")] }), "spec.models[0].digest"),
            (json!({ "models": [model("A", "a", "/m/a")] }), "spec.models[0].name"),
            (json!({ "models": [a, model("a", "b", "/m/b")] }), "spec.models[1].name"),
            (json!({ "models": [b, model("a", "b", "/m/b")] }), "spec.models[1].path"),
            (json!({ "models": [model("a", "a", "m/a")] }), "spec.models[0].path"),
            (json!({ "models": [model("a", "a", "/m/../../a")] }), "spec.models[0].path"),
            (json!({ "models": [empty] }), "spec.models[0].sizeBytes"),
            (json!({ "models": [a], "placement": { "clusterSelector": {} } }), "spec.models"),
        ] {
            assert_eq!(read(&rest).unwrap_err().0, path, "{rest}");
        }
        let inner = json!({ "template": { "spec": { "models": [a],
            "containers": [{ "name": "a", "command": ["a"] }] } } });
        assert_eq!(read(&inner).unwrap_err().0, "spec.template.spec.models");
    }
}
