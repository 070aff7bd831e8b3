//! What a workload may say of the nodes that it must have and would rather have.

use super::labels::{Invalid, check_key, check_value};
use super::yaml::below;
use crate::api::{LabelExpression, LabelOperator, NodeAffinity, NodeSelectorTerm};

/// Terms of one list: they are looked at for every node.
pub(crate) const TERMS_MAX: usize = 16;

/// Expressions of one term.
pub(crate) const TERM_EXPRESSIONS_MAX: usize = 16;

/// Values of one expression.
pub(crate) const EXPRESSION_VALUES_MAX: usize = 64;

const AT: &str = "spec.placement.affinity";

/// # Errors
/// The first thing that would not mean what it seems to.
pub(super) fn check_affinity(affinity: &NodeAffinity) -> Result<(), Invalid> {
    let (required, preferred) = (below(AT, "required"), below(AT, "preferred"));
    check_length(&required, affinity.required.len(), TERMS_MAX, "terms")?;
    check_length(&preferred, affinity.preferred.len(), TERMS_MAX, "terms")?;
    for (index, term) in affinity.required.iter().enumerate() {
        check_term(&format!("{required}[{index}]"), term)?;
    }
    for (index, term) in affinity.preferred.iter().enumerate() {
        let at = format!("{preferred}[{index}]");
        if !(1..=100).contains(&term.weight) {
            return Err((below(&at, "weight"), format!("{}: expected 1 to 100", term.weight)));
        }
        check_term(&below(&at, "preference"), &term.preference)?;
    }
    Ok(())
}

fn check_length(at: &str, length: usize, most: usize, of_what: &str) -> Result<(), Invalid> {
    match length > most {
        true => Err((at.to_owned(), format!("{length} {of_what} are over the limit of {most}"))),
        false => Ok(()),
    }
}

fn check_term(at: &str, term: &NodeSelectorTerm) -> Result<(), Invalid> {
    let at = below(at, "matchExpressions");
    if term.match_expressions.is_empty() {
        // In Kubernetes such a term matches no node: nobody means that.
        return Err((at, "expected at least one".to_owned()));
    }
    check_length(&at, term.match_expressions.len(), TERM_EXPRESSIONS_MAX, "expressions")?;
    let mut expressions = term.match_expressions.iter().enumerate();
    expressions.try_for_each(|(index, said)| check_expression(&format!("{at}[{index}]"), said))
}

fn check_expression(at: &str, expression: &LabelExpression) -> Result<(), Invalid> {
    let LabelExpression { key, operator, values } = expression;
    check_key(key).map_err(|problem| (below(at, "key"), problem))?;
    let at = below(at, "values");
    check_length(&at, values.len(), EXPRESSION_VALUES_MAX, "values")?;
    let is_number = |value: &String| value.parse::<i64>().is_ok();
    let expected = match operator {
        LabelOperator::In | LabelOperator::NotIn => (!values.is_empty(), "expected at least one"),
        LabelOperator::Exists | LabelOperator::DoesNotExist => {
            (values.is_empty(), "expected none with this operator")
        }
        LabelOperator::Gt | LabelOperator::Lt => {
            (values.len() == 1 && values.iter().all(is_number), "expected one whole number")
        }
    };
    if let (false, problem) = expected {
        return Err((at, problem.to_owned()));
    }
    // A number may be negative, which no label's value is.
    let mut compared = values.iter().enumerate().filter(|(_, value)| !is_number(value));
    compared.try_for_each(|(index, value)| {
        check_value(value).map_err(|problem| (format!("{at}[{index}]"), problem))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(affinity: &str) -> Result<(), Invalid> {
        check_affinity(&serde_json::from_str(affinity).unwrap())
    }

    #[test]
    fn what_would_not_mean_what_it_seems_to_is_named_with_its_path() {
        let required = |rest: &str| {
            format!(r#"{{"required":[{{"matchExpressions":[{{"key":"a",{rest}}}]}}]}}"#)
        };
        let expressions = "spec.placement.affinity.required[0].matchExpressions";
        for (rest, path, problem) in [
            (r#""operator":"In""#, "[0].values", "expected at least one"),
            (r#""operator":"Exists","values":["b"]"#, "[0].values", "expected none"),
            (r#""operator":"Gt","values":["b"]"#, "[0].values", "expected one whole number"),
            (r#""operator":"Lt","values":["1","2"]"#, "[0].values", "expected one whole number"),
            (r#""operator":"In","values":["b","?"]"#, "[0].values[1]", "is not a value"),
        ] {
            let (at, words) = checked(&required(rest)).unwrap_err();
            assert_eq!(at, format!("{expressions}{path}"), "{rest}");
            assert!(words.contains(problem), "{rest}: {words}");
        }
        assert_eq!(checked(&required(r#""operator":"Gt","values":["-7"]"#)), Ok(()));
        let (at, _) = checked(r#"{"required":[{"matchExpressions":[]}]}"#).unwrap_err();
        assert_eq!(at, expressions);
        let heavy = r#"{"preferred":[{"weight":101,"preference":{"matchExpressions":[]}}]}"#;
        let (at, words) = checked(heavy).unwrap_err();
        assert_eq!(at, "spec.placement.affinity.preferred[0].weight");
        assert_eq!(words, "101: expected 1 to 100");
    }
}
