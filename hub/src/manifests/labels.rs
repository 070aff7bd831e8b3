//! Labels, annotations, taints and tolerations, as the Kubernetes API server checks them.
//!
//! Source of the forms: the Kubernetes documentation, "Labels and Selectors", "Syntax and character
//! set", and "Taints and Tolerations".

use super::yaml::below;
use shared::limits::NAME_BYTES_MAX;
use shared::model::{Taint, Toleration, TolerationOperator};
use std::collections::BTreeMap;

/// A DNS subdomain: the part of a key before the `/`.
const PREFIX_BYTES_MAX: usize = 253;

/// Keys and values of all annotations together, as in Kubernetes.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// What is wrong: the field's path, and the words.
pub(crate) type Invalid = (String, String);

/// # Errors
/// What is wrong with the key of a label.
pub(super) fn check_label_key(key: &str) -> Result<(), String> {
    check_key(key)
}

/// # Errors
/// The first label whose key or value has not the form of one.
pub(super) fn check_labels(path: &str, labels: &BTreeMap<String, String>) -> Result<(), Invalid> {
    for (key, value) in labels {
        check_key(key).map_err(|problem| (below(path, key), problem))?;
        check_value(value).map_err(|problem| (below(path, key), problem))?;
    }
    Ok(())
}

/// # Errors
/// The first annotation whose key has not the form of one, or the size of all of them.
pub(super) fn check_annotations(
    path: &str,
    annotations: &BTreeMap<String, String>,
) -> Result<(), Invalid> {
    for key in annotations.keys() {
        check_key(key).map_err(|problem| (below(path, key), problem))?;
    }
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        let problem = format!("{bytes} bytes are over the limit of {ANNOTATIONS_BYTES_MAX}");
        return Err((path.to_owned(), problem));
    }
    Ok(())
}

/// # Errors
/// The first taint that has not the form of one, or is there twice.
pub(super) fn check_taints(path: &str, taints: &[Taint]) -> Result<(), Invalid> {
    for (index, taint) in taints.iter().enumerate() {
        let at = format!("{path}[{index}]");
        check_key(&taint.key).map_err(|problem| (below(&at, "key"), problem))?;
        check_value(&taint.value).map_err(|problem| (below(&at, "value"), problem))?;
        let same = |other: &&Taint| (&other.key, other.effect) == (&taint.key, taint.effect);
        if taints.iter().take(index).any(|other| same(&other)) {
            let problem = format!("`{}` is given twice with the same effect", taint.key);
            return Err((below(&at, "key"), problem));
        }
    }
    Ok(())
}

/// # Errors
/// The first toleration that would not mean what it seems to.
pub(super) fn check_tolerations(path: &str, tolerations: &[Toleration]) -> Result<(), Invalid> {
    for (index, toleration) in tolerations.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let exists = toleration.operator == TolerationOperator::Exists;
        match &toleration.key {
            Some(key) => check_key(key).map_err(|problem| (below(&at, "key"), problem))?,
            None if exists => {}
            None => {
                let problem = "is missing: only operator `Exists` goes without a key";
                return Err((below(&at, "key"), problem.to_owned()));
            }
        }
        if exists && !toleration.value.is_empty() {
            let problem = "expected no value with operator `Exists`";
            return Err((below(&at, "value"), problem.to_owned()));
        }
        check_value(&toleration.value).map_err(|problem| (below(&at, "value"), problem))?;
    }
    Ok(())
}

pub(super) fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_none_or(is_subdomain) && is_qualified(name) {
        return Ok(());
    }
    Err(format!(
        "`{key}` is not a key: expected at most {NAME_BYTES_MAX} characters of letters, digits, \
         '-', '_' and '.', beginning and ending with a letter or digit, after an optional DNS name \
         and '/'"
    ))
}

pub(super) fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_qualified(value) {
        return Ok(());
    }
    Err(format!(
        "`{value}` is not a value: expected nothing, or at most {NAME_BYTES_MAX} characters of \
         letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"
    ))
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_subdomain(text: &str) -> bool {
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
    };
    text.len() <= PREFIX_BYTES_MAX && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::model::TaintEffect;

    #[test]
    fn keys_and_values_have_the_forms_that_kubernetes_takes() {
        for key in ["app", "a.b_c-d", "hinterland.dev/zone", "A/x", "x/", "/x", "a/b/c", "-a", ""] {
            let valid = matches!(key, "app" | "a.b_c-d" | "hinterland.dev/zone");
            assert_eq!(check_key(key).is_ok(), valid, "`{key}`");
        }
        assert!(check_key(&"a".repeat(64)).is_err());
        for value in ["", "v1.2", "A_b"] {
            assert!(check_value(value).is_ok(), "`{value}`");
        }
        for value in [" ", "a b", "a/b", "-a", "é"] {
            assert!(check_value(value).is_err(), "`{value}`");
        }
    }

    #[test]
    fn one_taint_may_have_two_effects_but_not_one_effect_twice() {
        let taint = |effect| Taint { key: "a".to_owned(), value: String::new(), effect };
        let (new, run) = (taint(TaintEffect::NoSchedule), taint(TaintEffect::NoExecute));
        assert!(check_taints("t", &[new.clone(), run.clone()]).is_ok());
        assert_eq!(check_taints("t", &[new, run.clone(), run]).unwrap_err().0, "t[2].key");
    }
}
