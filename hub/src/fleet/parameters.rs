//! What each node and each member cluster has of its own: environment variables, from ConfigMaps that are found
//! by its labels.

use super::Site;
use super::affinity::label;
use super::eligibility::Reason;
use crate::manifests::{AttachedObjects, InferenceWorkload};
use std::collections::BTreeMap;

/// What frames a variable beside its name and value.
const VARIABLE_FRAME_BYTES: usize = 8;

/// A node's or a cluster's own variables of one workload.
pub(crate) type Parameters = BTreeMap<String, String>;

/// The parameters of `workload` on one node.
///
/// # Errors
/// Why the node can't run it: it has no such label, or there is no ConfigMap for it.
pub(super) fn parameters_of<'a>(
    workload: &'a InferenceWorkload,
    site: &Site<'a>,
    objects: &AttachedObjects,
) -> Result<Parameters, Reason<'a>> {
    found_by(workload, |key| label(site, key), objects)
}

/// The parameters of `workload` in a member cluster with these labels.
///
/// # Errors
/// Why it can't run there, in words.
pub(crate) fn parameters_in_cluster(
    workload: &InferenceWorkload,
    labels: &BTreeMap<String, String>,
    objects: &AttachedObjects,
) -> Result<Parameters, String> {
    let label = |key: &str| labels.get(key).map(String::as_str);
    found_by(workload, label, objects).map_err(|reason| reason.to_string())
}

fn found_by<'a, 'l>(
    workload: &'a InferenceWorkload,
    label: impl Fn(&str) -> Option<&'l str>,
    objects: &AttachedObjects,
) -> Result<Parameters, Reason<'a>> {
    let mut parameters = Parameters::new();
    for source in &workload.parameters_from {
        let found = match label(&source.label) {
            None => Err(Reason::NoParameterLabel(&source.label)),
            Some(value) => {
                let name = source.object(workload.key.namespace(), value);
                objects.get(&name).ok_or(Reason::NoParameters(&source.prefix, &source.label))
            }
        };
        match found {
            Ok(object) => parameters.extend(object.variables()),
            Err(_) if source.optional => {}
            Err(reason) => return Err(reason),
        }
    }
    Ok(parameters)
}

/// The bytes that they add to what a node is sent, at most.
pub(super) fn bytes_of(parameters: &Parameters) -> usize {
    let bytes = |(name, value): (&String, &String)| name.len() + value.len() + VARIABLE_FRAME_BYTES;
    parameters.iter().map(bytes).sum()
}
