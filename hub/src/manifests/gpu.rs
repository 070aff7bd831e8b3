//! What a workload's `gpu` says, written into its template.

use super::labels::Invalid;
use crate::api::GpuSpec;
use shared::model::PodTemplate;

/// Whole GPUs of one pod.
const WHOLE_GPUS_MAX: u32 = 64;

/// Writes `gpu` into the template's container; the MIG profile, which no template has a place for.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn take_gpu(
    gpu: Option<GpuSpec>,
    is_for_clusters: bool,
    template: &mut PodTemplate,
) -> Result<Option<String>, Invalid> {
    let Some(gpu) = gpu else { return Ok(None) };
    let refused = |path: &str, problem: String| Err((format!("spec.gpu{path}"), problem));
    let GpuSpec { whole, shared_memory, mig } = gpu;
    let given = [whole.is_some(), shared_memory.is_some(), mig.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return refused("", "expected exactly one of whole, sharedMemory and mig".to_owned());
    }
    if let Some(count) = whole.filter(|count| !(1..=WHOLE_GPUS_MAX).contains(count)) {
        return refused(".whole", format!("{count}: expected 1 to {WHOLE_GPUS_MAX}"));
    }
    if shared_memory.is_some_and(|memory| memory.bytes == 0) {
        return refused(".sharedMemory", "expected more than 0".to_owned());
    }
    if let Some(profile) = mig.as_ref().filter(|profile| !is_mig_profile(profile)) {
        return refused(".mig", format!("`{profile}` is no profile: expected one as in `1g.10gb`"));
    }
    if mig.is_some() && !is_for_clusters {
        let problem = "MIG instances are given out in member clusters only: expected whole or \
                       sharedMemory on edge nodes";
        return refused(".mig", problem.to_owned());
    }
    // One that has another number of containers is refused for that.
    let Some(container) = template.spec.containers.first_mut() else { return Ok(mig) };
    let limits = &mut container.resources.limits;
    if limits.gpu_count.is_some() || limits.gpu_memory.is_some() {
        let problem =
            "the template's container has a GPU resource already: expected one of the two";
        return refused("", problem.to_owned());
    }
    (limits.gpu_count, limits.gpu_memory) = (whole, shared_memory);
    Ok(mig)
}

/// As in `3g.40gb`.
fn is_mig_profile(text: &str) -> bool {
    let is_number = |text: &str| text.parse::<u32>().is_ok_and(|number| number.to_string() == text);
    let parts = text.strip_suffix("gb").and_then(|text| text.split_once("g."));
    parts.is_some_and(|(slices, memory)| is_number(slices) && is_number(memory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::model::{Container, GpuRequest, MemoryQuantity};

    fn taken(gpu: &str, is_for_clusters: bool) -> (PodTemplate, Result<Option<String>, Invalid>) {
        let mut template = PodTemplate::default();
        template.spec.containers.push(Container::default());
        let result =
            take_gpu(Some(serde_json::from_str(gpu).unwrap()), is_for_clusters, &mut template);
        (template, result)
    }

    #[test]
    fn it_is_the_resource_of_the_template() {
        let (template, _) = taken(r#"{"whole":2}"#, false);
        assert_eq!(template.resources().gpu, GpuRequest::Whole(2));
        let (template, _) = taken(r#"{"sharedMemory":"8Gi"}"#, false);
        let bytes = 8 << 30;
        assert_eq!(template.resources().gpu, GpuRequest::SharedMemory(MemoryQuantity { bytes }));
        let (template, mig) = taken(r#"{"mig":"1g.10gb"}"#, true);
        assert_eq!((template.resources().gpu, mig), (GpuRequest::None, Ok(Some("1g.10gb".into()))));
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_its_path() {
        for (gpu, path) in [
            ("{}", "spec.gpu"),
            (r#"{"whole":1,"mig":"1g.10gb"}"#, "spec.gpu"),
            (r#"{"whole":0}"#, "spec.gpu.whole"),
            (r#"{"sharedMemory":"0"}"#, "spec.gpu.sharedMemory"),
            (r#"{"mig":"large"}"#, "spec.gpu.mig"),
            (r#"{"mig":"1g.10gb"}"#, "spec.gpu.mig"),
        ] {
            assert_eq!(taken(gpu, false).1.unwrap_err().0, path, "{gpu}");
        }
        let (mut template, _) = taken(r#"{"whole":1}"#, false);
        let again = take_gpu(
            Some(GpuSpec { whole: Some(1), shared_memory: None, mig: None }),
            false,
            &mut template,
        );
        assert_eq!(again.unwrap_err().0, "spec.gpu");
    }
}
