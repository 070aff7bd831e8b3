//! What a workload's `gpu` says, written into its template.

use super::labels::Invalid;
use crate::api::GpuSpec;
use shared::model::{MigProfile, PlacedContainer, PodTemplate};

/// Whole GPUs of one pod.
const WHOLE_GPUS_MAX: u32 = 64;

/// Writes `gpu` into the template's first container. For member clusters a MIG profile is taken out of it, from
/// wherever it was said: they are told of it with the names of their device plugin.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn take_gpu(
    gpu: Option<GpuSpec>,
    is_for_clusters: bool,
    template: &mut PodTemplate,
) -> Result<Option<String>, Invalid> {
    if let Some(gpu) = gpu {
        write_gpu(gpu, template)?;
    }
    if !is_for_clusters {
        return Ok(None);
    }
    let containers = &mut template.spec.containers;
    let elsewhere = containers.iter().skip(1).chain(&template.spec.init_containers);
    if elsewhere.map(|container| &container.resources).any(|one| one.limits.mig.is_some()) {
        let problem = "in a member cluster expected the first container to have the MIG instance";
        return Err(("spec.template.spec".to_owned(), problem.to_owned()));
    }
    let Some(first) = containers.first_mut() else { return Ok(None) };
    let resources = &mut first.resources;
    if resources.requests.mig == resources.limits.mig {
        resources.requests.mig = None;
    }
    Ok(resources.limits.mig.take().map(|profile| profile.to_string()))
}

fn write_gpu(gpu: GpuSpec, template: &mut PodTemplate) -> Result<(), Invalid> {
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
    let mig = match mig.map(|profile| profile.parse::<MigProfile>()).transpose() {
        Ok(mig) => mig,
        Err(error) => return refused(".mig", error.to_string()),
    };
    let has_any = |placed: PlacedContainer<'_>| {
        let limits = &placed.container.resources.limits;
        limits.gpu_count.is_some() || limits.gpu_memory.is_some() || limits.mig.is_some()
    };
    if template.spec.in_order().any(has_any) {
        let problem =
            "the template's container has a GPU resource already: expected one of the two";
        return refused("", problem.to_owned());
    }
    let Some(container) = template.spec.containers.first_mut() else { return Ok(()) };
    let limits = &mut container.resources.limits;
    (limits.gpu_count, limits.gpu_memory, limits.mig) = (whole, shared_memory, mig);
    Ok(())
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
        let (template, mig) = taken(r#"{"mig":"1g.10gb"}"#, false);
        let profile = MigProfile { slices: 1, memory_gb: 10 };
        assert_eq!((template.resources().gpu, mig), (GpuRequest::Mig(profile), Ok(None)));
    }

    #[test]
    fn member_clusters_are_told_of_a_mig_instance_from_wherever_it_was_said() {
        let (template, mig) = taken(r#"{"mig":"1g.10gb"}"#, true);
        assert_eq!((template.resources().gpu, mig), (GpuRequest::None, Ok(Some("1g.10gb".into()))));
        let mut said = PodTemplate::default();
        said.spec.containers.push(Container::default());
        let resources = &mut said.spec.containers[0].resources;
        resources.limits.mig = Some(MigProfile { slices: 3, memory_gb: 40 });
        resources.requests.mig = resources.limits.mig;
        let mig = take_gpu(None, true, &mut said);
        assert_eq!((said, mig), (template, Ok(Some("3g.40gb".into()))));
    }

    #[test]
    fn in_a_member_cluster_the_first_container_alone_may_have_a_mig_instance() {
        let mut said = PodTemplate::default();
        said.spec.containers = vec![Container::default(), Container::default()];
        said.spec.containers[1].resources.limits.mig = "1g.10gb".parse().ok();
        assert_eq!(take_gpu(None, false, &mut said.clone()), Ok(None));
        assert_eq!(take_gpu(None, true, &mut said).unwrap_err().0, "spec.template.spec");
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_its_path() {
        for (gpu, path) in [
            ("{}", "spec.gpu"),
            (r#"{"whole":1,"mig":"1g.10gb"}"#, "spec.gpu"),
            (r#"{"whole":0}"#, "spec.gpu.whole"),
            (r#"{"sharedMemory":"0"}"#, "spec.gpu.sharedMemory"),
            (r#"{"mig":"large"}"#, "spec.gpu.mig"),
            (r#"{"mig":"0g.10gb"}"#, "spec.gpu.mig"),
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
