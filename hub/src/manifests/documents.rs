//! The documents of a file, and the kinds that there are.
//!
//! A document that is refused does not hide what is wrong with the next: the text is split at the
//! `---` lines first, each document is read by itself, and every problem is kept.

use super::attached::{AttachedObject, Lookup, Standing, standing};
use super::core_v1::{self, CORE_API_VERSION};
use super::problem::{ManifestProblem, ManifestProblems};
use super::yaml::{self, Refusal};
use super::{EdgeNode, InferenceWorkload, Manifests, WORKLOADS_MAX, node, workload};
use crate::api::API_VERSION;
use serde::Deserialize;
use shared::model::{NodeId, ObjectKind, ObjectName, WorkloadKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Documents of a directory: an `EdgeNode` for each of 10 000 nodes, twice over.
pub const DOCUMENTS_MAX: usize = 20_000;

const KINDS: [&str; 2] = ["InferenceWorkload", "EdgeNode"];

const CORE_KINDS: [&str; 2] = ["ConfigMap", "Secret"];

/// Reads the documents of one file; `file` names it in problems.
///
/// # Errors
/// Every problem that was found, at most one a document.
pub fn parse_documents(file: &str, text: &str) -> Result<Manifests, ManifestProblems> {
    let mut collection = Collection::default();
    collection.add_file(file, text);
    collection.finish()
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Collection {
    manifests: Manifests,
    /// The document in which each name was declared, by kind and name.
    declared: BTreeMap<String, String>,
    /// The document of each workload that names ConfigMaps or Secrets: its file, first line and text.
    naming: BTreeMap<WorkloadKey, (String, u64, String)>,
    documents: usize,
    problems: Vec<ManifestProblem>,
}

impl Collection {
    pub(super) fn add_problem(&mut self, problem: ManifestProblem) {
        self.problems.push(problem);
    }

    pub(super) fn add_file(&mut self, file: &str, text: &str) {
        for chunk in split(text) {
            self.documents += 1;
            if self.documents > DOCUMENTS_MAX {
                let problem = format!("more than {DOCUMENTS_MAX} documents in all files");
                return self.add_problem(ManifestProblem::new(
                    file,
                    chunk.first_line,
                    "",
                    &problem,
                ));
            }
            if let Err(refusal) = self.add_document(file, &chunk) {
                let line = chunk.line(refusal.line);
                let problem = ManifestProblem::new(file, line, &refusal.path, &refusal.problem);
                self.add_problem(problem);
            }
        }
    }

    pub(super) fn finish(mut self) -> Result<Manifests, ManifestProblems> {
        // Of what could not be read nobody knows whether it would be named.
        if self.problems.is_empty() {
            self.check_names();
        }
        if self.problems.is_empty() {
            Ok(self.manifests)
        } else {
            Err(ManifestProblems::new(self.problems))
        }
    }

    /// What a workload names must be declared: with the directory all of it is there, or will not come.
    fn check_names(&mut self) {
        let objects = &self.manifests.objects;
        let look = |name: &ObjectName| match objects.get(name) {
            Some(object) => Lookup::There(object),
            None => Lookup::Absent,
        };
        for (key, (file, first_line, text)) in &self.naming {
            let Some(workload) = self.manifests.workloads.get(key) else { continue };
            if let Standing::Lacks((path, problem)) = standing(workload, look) {
                let chunk = Chunk { first_line: *first_line, text };
                let line = chunk.line(yaml::line_of(text, &path).unwrap_or(0));
                let problem = format!("{problem} in the directory");
                self.problems.push(ManifestProblem::new(file, line, &path, &problem));
            }
        }
    }

    fn add_document(&mut self, file: &str, chunk: &Chunk<'_>) -> Result<(), Refusal> {
        let Some(document) = read_document(chunk.text)? else { return Ok(()) };
        let refused = |path: &str, problem| {
            let line = yaml::line_of(chunk.text, "metadata.name").unwrap_or(0);
            Err(Refusal { line, path: path.to_owned(), problem })
        };
        let identity = document.identity();
        if let Some(before) = self.declared.get(&identity) {
            let problem = format!("{identity} is declared already by the document at {before}");
            return refused("metadata.name", problem);
        }
        self.declared.insert(identity, format!("{file}:{}", chunk.first_line));
        match document {
            Document::Workload(_) if self.manifests.workloads.len() >= WORKLOADS_MAX => {
                refused("", format!("more than {WORKLOADS_MAX} workloads in all files"))
            }
            Document::Workload(workload) if workload.cluster_selector.is_some() => refused(
                "spec.placement.clusterSelector",
                "member clusters are custom resources: expected a hub in Kubernetes".to_owned(),
            ),
            Document::Workload(workload) => {
                if workload.template.names_objects() {
                    let document = (file.to_owned(), chunk.first_line, chunk.text.to_owned());
                    self.naming.insert(workload.key.clone(), document);
                }
                self.manifests.workloads.insert(workload.key.clone(), *workload);
                Ok(())
            }
            Document::Node(id, node) => {
                self.manifests.nodes.insert(id, node);
                Ok(())
            }
            Document::Object(name, object) => {
                self.manifests.objects.insert(name, Arc::new(object));
                Ok(())
            }
        }
    }
}

/// What one document declares.
enum Document {
    Workload(Box<InferenceWorkload>),
    Node(NodeId, EdgeNode),
    Object(ObjectName, AttachedObject),
}

impl Document {
    fn identity(&self) -> String {
        match self {
            Self::Workload(workload) => format!("InferenceWorkload `{}`", workload.key),
            Self::Node(id, _) => format!("EdgeNode `{id}`"),
            Self::Object(name, _) => {
                format!("{:?} `{}/{}`", name.kind, name.namespace, name.name)
            }
        }
    }
}

/// What tells the kinds apart; the rest is for the kind to read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
}

/// `None` for a document without content, as a comment alone is.
fn read_document(text: &str) -> Result<Option<Document>, Refusal> {
    let Some(head) = yaml::read::<Option<Head>>(text)? else { return Ok(None) };
    let refused = |path: &str, problem| {
        let line = yaml::line_of(text, path).unwrap_or(0);
        Err(Refusal { line, path: path.to_owned(), problem })
    };
    if head.api_version == CORE_API_VERSION {
        let object = |kind| core_v1::read(text, kind);
        let read = match head.kind.as_str() {
            "ConfigMap" => object(ObjectKind::ConfigMap),
            "Secret" => object(ObjectKind::Secret),
            other => {
                let [one, another] = CORE_KINDS;
                let expected = format!("expected one of `{one}`, `{another}` of `v1`");
                return refused("kind", format!("`{other}` is not known, {expected}"));
            }
        };
        return read.map(|(name, object)| Some(Document::Object(name, object)));
    }
    if head.api_version != API_VERSION {
        let found = &head.api_version;
        return refused("apiVersion", format!("`{found}` is not known, expected `{API_VERSION}`"));
    }
    match head.kind.as_str() {
        "InferenceWorkload" => Ok(Some(Document::Workload(Box::new(workload::read(text)?)))),
        "EdgeNode" => node::read(text).map(|(id, node)| Some(Document::Node(id, node))),
        other => {
            let [one, another] = KINDS;
            refused("kind", format!("`{other}` is not known, expected one of `{one}`, `{another}`"))
        }
    }
}

/// One document's text.
struct Chunk<'a> {
    /// The line of the file on which it begins, from 1.
    first_line: u64,
    text: &'a str,
}

impl Chunk<'_> {
    /// The file's line for a line of the document; its beginning when that is not known.
    fn line(&self, line: u64) -> u64 {
        self.first_line + line.saturating_sub(1)
    }
}

/// Splits at the lines that begin with `---`. Such a line can't be part of a scalar, wherever it
/// stands (YAML 1.2.2, 9.1.2, `c-forbidden`).
fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, 1, 0);
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        if is_marker(line) && offset > start {
            chunks.extend(text.get(start..offset).map(|text| Chunk { first_line, text }));
            (start, first_line) = (offset, number);
        }
        offset += line.len();
    }
    chunks.extend(text.get(start..).map(|text| Chunk { first_line, text }));
    chunks
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documents_are_split_at_their_markers_only() {
        let text = "# one\n---\na: |\n  ---\n  x\n--- # two\nb: --- c\n---d: 1\n";
        let chunks = split(text);
        let lines: Vec<_> = chunks.iter().map(|chunk| chunk.first_line).collect();
        assert_eq!(lines, [1, 2, 6]);
        assert_eq!(chunks.iter().map(|chunk| chunk.text).collect::<String>(), text);
    }

    #[test]
    fn documents_without_content_declare_nothing() {
        for text in
            ["", "\n", "# nothing\n", "---\n", "---\n---\n# x\n---\nnull\n", "\u{feff}---\n"]
        {
            assert_eq!(parse_documents("a.yaml", text), Ok(Manifests::default()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[-a-c:{}\\[\\]&*|>'\"#%! \n\u{feff}é]{0,80}") {
            let _ = parse_documents("a.yaml", &text);
        }
    }
}
