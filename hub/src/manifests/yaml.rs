//! One strict YAML document, and where in it a field stands.
//!
//! Stricter than YAML where YAML guesses: a key may be given once, and a number or a truth value is
//! no string unless it is quoted, as the Kubernetes API server has it. Bounded in depth, size and
//! the expansion of aliases whatever the document claims.

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::{Path, Segment, Track};
use serde_saphyr::{
    DefaultMessageFormatter, Error, MessageFormatter, Options, Spanned, budget, options,
    with_deserializer_from_str_with_options,
};
use std::fmt;

/// Nesting. A pod template nests 9 deep below `spec`.
const DEPTH_MAX: usize = 32;

/// Scalars, sequences and mappings of one document: a workload at its size limit has about 20 000.
const NODES_MAX: usize = 100_000;

/// Anchors of one document, and uses of them. Someone may share an environment between probes;
/// a document that does so a thousand times is an attack.
const ANCHORS_MAX: usize = 100;
const ALIASES_MAX: usize = 1000;

/// Events that aliases may repeat in one document: what an alias bomb multiplies.
const ALIAS_EVENTS_MAX: usize = 50_000;

/// Why a document was refused. Lines count from 1 at the document's own beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The line; 0 when it is not known.
    pub(super) line: u64,
    /// The field's path; empty for the document as a whole.
    pub(super) path: String,
    /// What was wrong and what was expected.
    pub(super) problem: String,
}

/// Reads one document.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    let mut failed_at = None;
    let result = with_deserializer_from_str_with_options(text, strict_options(), |yaml| {
        let mut track = Track::new();
        let tracked = serde_path_to_error::Deserializer::new(yaml, &mut track);
        let result = T::deserialize(tracked);
        result.inspect_err(|_| failed_at = Some(track.path()))
    });
    result.map_err(|error| refusal_of(&error, failed_at.as_ref()))
}

/// The line of the field at `path`, or of the nearest field above it that is there. `None` when
/// nothing of the path is there.
pub(super) fn line_of(text: &str, path: &str) -> Option<u64> {
    let root =
        serde_saphyr::from_str_with_options::<Spanned<Tree>>(text, lenient_options()).ok()?;
    let mut line = None;
    let mut tree = &root.value;
    for step in steps(path) {
        let Some((step_line, below)) = tree.step(&step) else { break };
        (line, tree) = (Some(step_line), below);
    }
    line
}

/// `path` with `field` below it.
pub(super) fn below(path: &str, field: &str) -> String {
    let quoted = field.contains(['.', '/', '[', ']']) || field.is_empty();
    match (path.is_empty(), quoted) {
        (_, true) => format!("{path}[{field}]"),
        (true, false) => field.to_owned(),
        (false, false) => format!("{path}.{field}"),
    }
}

fn strict_options() -> Options {
    let mut options = lenient_options();
    options.no_schema = true;
    options
}

fn lenient_options() -> Options {
    let mut options = options! {
        budget: budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_anchors: ANCHORS_MAX,
            max_aliases: ALIASES_MAX,
            max_merge_keys: ALIASES_MAX,
            max_documents: 1,
        },
        emit_comments: false,
        with_snippet: false,
        reject_unsupported_tags: true,
    };
    options.alias_limits.max_total_replayed_events = ALIAS_EVENTS_MAX;
    options
}

fn refusal_of(error: &Error, failed_at: Option<&Path>) -> Refusal {
    let line = error.location().map_or(0, |location| location.line());
    let path = failed_at.map_or_else(String::new, written_path);
    match original(error) {
        Error::SerdeMissingField { field, .. } => {
            Refusal { line, path: below(&path, field), problem: "is missing".to_owned() }
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            Refusal { line, path: below(&path, key), problem: "is given twice".to_owned() }
        }
        error => Refusal { line, path, problem: in_words(error) },
    }
}

/// The error itself, without the alias through which it was reached.
fn original(mut error: &Error) -> &Error {
    while let Error::AliasError { error: inner, .. } | Error::WithSnippet { error: inner, .. } =
        error
    {
        error = inner;
    }
    error
}

fn in_words(error: &Error) -> String {
    match error {
        Error::Message { msg, .. } => msg.clone(),
        Error::SerdeUnknownField { expected, .. } => {
            format!("unknown field, expected one of {}", listed(expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("`{variant}` is not known, expected one of {}", listed(expected))
        }
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("found {unexpected}, expected {expected}")
        }
        Error::QuotingRequired { value, .. } => {
            format!("`{value}` is a number or a truth value, expected a string: put it in quotes")
        }
        Error::InvalidScalar { ty, .. } => format!("expected {}", number_in_words(ty)),
        Error::Unexpected { expected: "sequence start", .. } => "expected a list".to_owned(),
        Error::Unexpected { expected: "mapping start", .. } => "expected a mapping".to_owned(),
        Error::NullIntoString { .. } => "found nothing, expected a string".to_owned(),
        Error::Budget { breach, .. } => format!("is larger or deeper than is read: {breach:?}"),
        other => DefaultMessageFormatter.format_message(other).into_owned(),
    }
}

fn number_in_words(rust_type: &str) -> String {
    match rust_type {
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "i32" => format!("a whole number from {} to {}", i32::MIN, i32::MAX),
        other => format!("a value of type {other}"),
    }
}

fn listed(expected: &[&'static str]) -> String {
    let quoted: Vec<_> = expected.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// A path as [`below`] writes it.
pub(crate) fn written_path(path: &Path) -> String {
    path.iter().fold(String::new(), |written, segment| match segment {
        Segment::Seq { index } => format!("{written}[{index}]"),
        Segment::Map { key } => below(&written, key),
        // A variant's name is no field, and an unknown segment has no name.
        Segment::Enum { .. } | Segment::Unknown => written,
    })
}

/// The steps of a path as [`below`] writes it: `a.b[0][c.d/e]` is `a`, `b`, `0`, `c.d/e`.
fn steps(path: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    let mut bracketed = false;
    for character in path.chars() {
        match character {
            '.' if !bracketed => steps.push(String::new()),
            '[' if !bracketed => {
                bracketed = true;
                steps.push(String::new());
            }
            ']' if bracketed => bracketed = false,
            other => {
                if let Some(step) = steps.last_mut() {
                    step.push(other);
                }
            }
        }
    }
    steps.retain(|step| !step.is_empty());
    steps
}

/// Any YAML with the places of its parts.
enum Tree {
    Scalar,
    Sequence(Vec<Spanned<Tree>>),
    Mapping(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl Tree {
    fn step(&self, step: &str) -> Option<(u64, &Self)> {
        match self {
            Self::Scalar => None,
            Self::Sequence(items) => {
                let item = items.get(step.parse::<usize>().ok()?)?;
                Some((item.referenced.line(), &item.value))
            }
            Self::Mapping(entries) => {
                let (key, value) = entries.iter().find(|(key, _)| key.value == step)?;
                Some((key.referenced.line(), &value.value))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_i128<E>(self, _: i128) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_u128<E>(self, _: u128) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Tree::Sequence(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = mapping.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Mapping(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IgnoredAny;
    use std::collections::BTreeMap;

    const TEXT: &str = "a:\n  b:\n    - one\n    - c.d/e: 1\n      f: x\n";

    #[test]
    fn a_fields_line_is_found_by_its_path() {
        assert_eq!(line_of(TEXT, "a"), Some(1));
        assert_eq!(line_of(TEXT, "a.b"), Some(2));
        assert_eq!(line_of(TEXT, "a.b[0]"), Some(3));
        assert_eq!(line_of(TEXT, "a.b[1][c.d/e]"), Some(4));
        assert_eq!(line_of(TEXT, "a.b[1].f"), Some(5));
        assert_eq!(line_of(TEXT, "a.b[7].f"), Some(2), "the nearest field above it");
        assert_eq!(line_of(TEXT, "z"), None);
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let above = format!("*a{}, ", level - 1).repeat(9);
            text.push_str(&format!("a{level}: &a{level} [{above}]\n"));
        }
        assert!(read::<IgnoredAny>(&text).is_err());
        assert!(line_of(&text, "a8").is_none());
    }

    #[test]
    fn a_document_nested_too_deep_is_refused() {
        let text = format!("a: {}{}", "[".repeat(2000), "]".repeat(2000));
        assert!(read::<IgnoredAny>(&text).is_err());
    }

    #[test]
    fn a_key_given_twice_is_refused_wherever_it_stands() {
        let refusal = read::<BTreeMap<String, String>>("a: x\nb: x\na: y\n").unwrap_err();
        assert_eq!((refusal.line, refusal.path.as_str()), (3, "a"));
        assert!(read::<IgnoredAny>("a: {b: 1, b: 2}\n").is_err());
    }
}
