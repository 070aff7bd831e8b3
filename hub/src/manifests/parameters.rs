//! What a workload may say of parameters that are each node's or member cluster's own.

use super::ParametersFrom;
use super::labels::{Invalid, check_label_key};
use crate::api::ParametersFromSpec;
use shared::model::check_object_name;

/// Sources of one workload's parameters: a few aspects of a site.
pub(crate) const PARAMETERS_FROM_MAX: usize = 8;

/// What `parametersFrom` says.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn parameters_of(
    specs: Vec<ParametersFromSpec>,
) -> Result<Vec<ParametersFrom>, Invalid> {
    if specs.len() > PARAMETERS_FROM_MAX {
        let problem = format!("{} are over the limit of {PARAMETERS_FROM_MAX}", specs.len());
        return Err(("spec.parametersFrom".to_owned(), problem));
    }
    let source = |(index, spec): (usize, ParametersFromSpec)| {
        let at = |field: &str| format!("spec.parametersFrom[{index}].{field}");
        let ParametersFromSpec { config_map_prefix: prefix, label, optional } = spec;
        // With a value behind it, it is a whole name.
        check_object_name(&format!("{prefix}0")).map_err(|_| {
            let problem = format!(
                "`{prefix}` begins no ConfigMap's name: expected at most 62 of a-z, 0-9, `-` and `.`, \
                 beginning with a letter or digit, as in `camera-`"
            );
            (at("configMapPrefix"), problem)
        })?;
        if prefix.is_empty() {
            return Err((
                at("configMapPrefix"),
                "expected a beginning, as in `camera-`".to_owned(),
            ));
        }
        check_label_key(&label).map_err(|problem| (at("label"), problem))?;
        Ok(ParametersFrom { prefix, label, optional })
    };
    specs.into_iter().enumerate().map(source).collect()
}
