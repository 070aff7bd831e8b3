//! Documents of `core/v1` in a directory: ConfigMaps and Secrets that its workloads name.
//!
//! What is wrong with a Secret's content is said without a word of it.

use super::attached::AttachedObject;
use super::labels::{Invalid, check_annotations, check_labels};
use super::workload::NamespacedMetadata;
use super::yaml::{self, Refusal, below};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use shared::model::{NodeId, ObjectKind, ObjectName, check_object_name};
use std::collections::BTreeMap;
use zeroize::Zeroize;

/// What such a document says of its version.
pub(super) const CORE_API_VERSION: &str = "v1";

const DEFAULT_NAMESPACE: &str = "default";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigMapDocument {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: NamespacedMetadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    binary_data: BTreeMap<String, String>,
    /// A file that is another is another, whatever it says.
    #[serde(default, rename = "immutable")]
    _immutable: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretDocument {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: NamespacedMetadata,
    /// For people.
    #[serde(default, rename = "type")]
    _kind_of_secret: Option<String>,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    string_data: BTreeMap<String, String>,
    #[serde(default, rename = "immutable")]
    _immutable: bool,
}

impl NamespacedMetadata {
    fn object(&self, kind: ObjectKind) -> Result<ObjectName, Invalid> {
        let at = |field: &str, problem: String| (format!("metadata.{field}"), problem);
        check_object_name(&self.name).map_err(|problem| at("name", problem))?;
        let namespace = self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        // Any RFC 1123 label will do; a node's name is one.
        NodeId::new(namespace).map_err(|error| at("namespace", error.to_string()))?;
        check_labels("metadata.labels", &self.labels)?;
        check_annotations("metadata.annotations", &self.annotations)?;
        Ok(ObjectName { kind, namespace: namespace.to_owned(), name: self.name.clone() })
    }
}

/// Reads one document of this kind.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read(text: &str, kind: ObjectKind) -> Result<(ObjectName, AttachedObject), Refusal> {
    let built = match kind {
        ObjectKind::ConfigMap => config_map(yaml::read(text)?),
        ObjectKind::Secret => secret(yaml::read(text).map_err(without_content)?),
    };
    built.map_err(|(path, problem)| {
        let line = yaml::line_of(text, &path).unwrap_or(0);
        Refusal { line, path, problem }
    })
}

/// The words of a reader quote what they found.
fn without_content(refusal: Refusal) -> Refusal {
    let Refusal { line, path, problem } = refusal;
    let is_content = !path.starts_with("metadata") && problem != "is missing";
    let problem = match is_content {
        true => {
            "is not what a Secret may have there (its content is not shown): expected `data` and \
                 `stringData` with texts, in quotes where they may be taken for something else"
                .to_owned()
        }
        false => problem,
    };
    Refusal { line, path, problem }
}

fn config_map(document: ConfigMapDocument) -> Result<(ObjectName, AttachedObject), Invalid> {
    let name = document.metadata.object(ObjectKind::ConfigMap)?;
    let binary = decoded("binaryData", document.binary_data)?;
    let object = AttachedObject::config_map(document.data, binary);
    Ok((name, object.map_err(|problem| ("data".to_owned(), problem))?))
}

fn secret(document: SecretDocument) -> Result<(ObjectName, AttachedObject), Invalid> {
    let name = document.metadata.object(ObjectKind::Secret)?;
    let mut data = decoded("data", document.data)?;
    // As in Kubernetes it wins.
    data.extend(document.string_data.into_iter().map(|(key, text)| (key, text.into_bytes())));
    let object = AttachedObject::secret(String::new(), data);
    Ok((name, object.map_err(|problem| ("data".to_owned(), problem))?))
}

fn decoded(
    field: &str,
    texts: BTreeMap<String, String>,
) -> Result<BTreeMap<String, Vec<u8>>, Invalid> {
    let decode = |(key, mut text): (String, String)| {
        // As YAML folds long lines.
        let mut packed: String = text.split_whitespace().collect();
        let bytes = BASE64_STANDARD.decode(&packed);
        text.zeroize();
        packed.zeroize();
        match bytes {
            Ok(bytes) => Ok((key, bytes)),
            Err(_) => Err((below(field, &key), "expected base64".to_owned())),
        }
    };
    texts.into_iter().map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::super::parse_documents;
    use super::*;

    const HEAD: &str = "apiVersion: v1\nmetadata: {name: keys}\n";

    fn problem(text: &str) -> String {
        parse_documents("a.yaml", &format!("{HEAD}{text}")).unwrap_err().to_string()
    }

    #[test]
    fn a_secret_has_what_its_document_says_and_what_is_wrong_with_it_does_not_show_it() {
        let text = "kind: Secret\ndata: {a: aHVudGVyMg==, b: eA==}\nstringData: {b: yy}\n";
        let read = parse_documents("a.yaml", &format!("{HEAD}{text}")).unwrap();
        let data =
            ["a", "b"].map(str::to_owned).into_iter().zip([b"hunter2".to_vec(), b"yy".to_vec()]);
        let expected = AttachedObject::secret(String::new(), data.collect()).unwrap();
        assert_eq!(*read.objects.into_values().next().unwrap(), expected);
        for wrong in [
            "kind: Secret\nstringData: {a: 271828}\n",
            "kind: Secret\nstringData: [271828]\n",
            "kind: Secret\nstringData: {a: true, b: 271828}\n",
            "kind: Secret\nstringData: {a: {b: 271828}}\n",
            "kind: Secret\nstringdata: {271828: 271828}\n",
            "kind: Secret\ndata: {a: '271828'}\n",
            "kind: Secret\nstringData: {a: '271828\n",
            "kind: Secret\nstringData: 271828\n",
        ] {
            let problem = problem(wrong);
            assert!(!problem.contains("271828"), "{problem}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("kind: ConfigMap\ndata: {a/b: c}\n", "data: `a/b` is not a key"),
            (
                "kind: ConfigMap\ndata: {a: b}\nbinaryData: {a: Yg==}\n",
                "`a` is in data and in binaryData",
            ),
            ("kind: ConfigMap\nbinaryData: {a: '?'}\n", "binaryData.a: expected base64"),
            ("kind: ConfigMap\ndata: {a: 5}\n", "data.a: "),
            ("kind: ConfigMap\nspec: {}\n", "spec: unknown field"),
            ("kind: Pod\n", "kind: `Pod` is not known"),
        ] {
            let problem = problem(text);
            assert!(problem.contains(words), "{problem}");
        }
        let large = format!("kind: ConfigMap\ndata: {{a: {}}}\n", "x".repeat(300_000));
        assert!(problem(&large).contains("over the limit of 262144"));
    }
}
