//! How a start becomes a sandbox and a container, in the words of CRI. Pure.
//!
//! A pod's processes, mounts and IPC are its own; its network is what `network` says, and as whom it runs says
//! `security`. It finds its volumes read-only but for folders that it may write to.

use super::CriOptions;
use super::api;
use super::hooks::{last_words_file, last_words_path};
use super::log::LOG_NAME;
use super::network::{HOSTS_PATH, Network, NetworkOrder, hosts_file, needs_its_own};
use super::note::{AgentName, Pairs, StartNote};
use super::security::Security;
use crate::ports::StartRequest;
use crate::runtime::StartFailure;
use crate::runtime::folder::PodFolder;
use shared::model::{EnvVar, visible_gpu_name};
use std::path::{Path, PathBuf};

/// Where a pod finds the folder of its door.
const DOOR_FOLDER: &str = "/run/hinterland";

/// The name of its socket there.
pub(super) const DOOR_SOCKET: &str = "results";

/// What tells a pod its door on the node's loopback.
const DOOR_URL_VARIABLE: &str = "HINTERLAND_RESULTS_URL";

/// The period over which a limit of CPU time holds, in microseconds: the kernel's default.
const CPU_PERIOD_USEC: i64 = 100_000;

/// The least that the kernel takes: shares of CPU time, microseconds of a quota.
const CPU_SHARES_MIN: i64 = 2;
const CPU_QUOTA_USEC_MIN: i64 = 1_000;

/// Makes the sandbox and the container of one start.
#[derive(Clone, Copy)]
pub(super) struct OrderOf<'a> {
    pub(super) options: &'a CriOptions,
    pub(super) agent: &'a AgentName,
    pub(super) request: &'a StartRequest,
    pub(super) folder: &'a PodFolder,
    pub(super) security: &'a Security,
    pub(super) network: Network,
}

impl OrderOf<'_> {
    /// The handler of the runtime that runs it; empty for its default.
    pub(super) fn runtime_handler(&self) -> String {
        let handler = self.options.gpu_runtime_handler.clone().unwrap_or_default();
        if self.request.gpus.is_empty() { String::new() } else { handler }
    }

    /// The sandbox.
    pub(super) fn sandbox(&self, asked: NetworkOrder) -> api::PodSandboxConfig {
        let pod = &self.request.pod;
        let NetworkOrder { dns, ports } = asked;
        api::PodSandboxConfig {
            metadata: Some(api::PodSandboxMetadata {
                name: pod.name(),
                uid: self.agent.uid_of(pod),
                namespace: pod.workload.namespace().to_owned(),
                // Always the same: the runtime takes the name once at a time.
                attempt: 0,
            }),
            hostname: self.network.hostname(pod),
            dns_config: dns,
            port_mappings: ports,
            log_directory: text(&self.folder.log()),
            labels: self.agent.labels_of_start(pod, self.request.instance),
            annotations: self.note().annotations(),
            linux: Some(api::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent(),
                security_context: Some(self.security.of_sandbox(self.network)),
            }),
        }
    }

    /// The cgroup below which the container runtime puts those of the sandbox and of the containers: where processes
    /// are limited one of the start's own.
    pub(super) fn cgroup_parent(&self) -> String {
        let (options, request) = (self.options, self.request);
        if options.pids_max.is_none() {
            return options.cgroup_parent.clone();
        }
        let own = self.agent.cgroup_of_start(&request.pod, request.instance);
        format!("{}/{own}", options.cgroup_parent.trim_end_matches('/'))
    }

    /// The container, of an image by its id. `volumes` says where each of the request's volumes lies, `told` what
    /// the pod is told of its door, if it has one.
    pub(super) fn container(
        &self,
        image: String,
        volumes: &[PathBuf],
        told: Option<Pairs>,
    ) -> Result<api::ContainerConfig, StartFailure> {
        let (pod, container) = (&self.request.pod, &self.request.container);
        let has_door = told.is_some();
        let environment = self.environment(told.unwrap_or_default())?;
        refuse_zero_bytes(container.command.iter().chain(&container.args), &environment)?;
        let envs = environment.into_iter();
        Ok(api::ContainerConfig {
            metadata: Some(api::ContainerMetadata { name: container.name.clone(), attempt: 0 }),
            image: Some(api::ImageSpec { image }),
            command: container.command.clone(),
            args: container.args.clone(),
            working_dir: container.working_dir.clone().unwrap_or_default(),
            envs: envs
                .map(|(key, value)| api::KeyValue { key, value: value.into_bytes() })
                .collect(),
            mounts: self.mounts(volumes, has_door),
            labels: self.agent.labels_of_start(pod, self.request.instance),
            annotations: self.note().annotations(),
            devices: vec![],
            log_path: LOG_NAME.to_owned(),
            linux: Some(api::LinuxContainerConfig {
                resources: Some(self.resources()),
                security_context: Some(self.security.of_container(self.network)),
            }),
            cdi_devices: self.cdi_devices(),
        })
    }

    fn note(&self) -> StartNote {
        StartNote::of(self.request, self.security.access(), self.network)
    }

    fn environment(&self, told: Pairs) -> Result<Pairs, StartFailure> {
        let request = self.request;
        let own: Vec<_> =
            request.container.env.iter().map(|one| self.variable(one)).collect::<Result<_, _>>()?;
        // What NVIDIA's runtime shows a container is what it names here; with CDI it has nothing to show.
        let shown = if request.gpus.is_empty() || self.options.cdi {
            "void".to_owned()
        } else {
            request.visible_gpus()
        };
        // Last, so that a template can't take GPUs that it was not given, nor point at another's door.
        let set_by_node = [
            ("NVIDIA_VISIBLE_DEVICES".to_owned(), shown),
            ("CUDA_VISIBLE_DEVICES".to_owned(), request.visible_gpus()),
            ("HINTERLAND_POD_NAME".to_owned(), request.pod.name()),
            ("HINTERLAND_POD_NAMESPACE".to_owned(), request.pod.workload.namespace().to_owned()),
        ];
        let share = request.gpu_memory_bytes;
        let share =
            share.map(|bytes| ("HINTERLAND_GPU_MEMORY_BYTES".to_owned(), bytes.to_string()));
        // The node's loopback is not the pod's, where it has a network of its own.
        let is_reached =
            |(name, _): &(String, String)| !self.network.is_own() || name != DOOR_URL_VARIABLE;
        let told = told.into_iter().filter(is_reached).map(|(name, value)| match name.as_str() {
            // Where the pod finds it, not where it lies.
            "HINTERLAND_RESULTS_SOCKET" => (name, format!("{DOOR_FOLDER}/{DOOR_SOCKET}")),
            _ => (name, value),
        });
        Ok(own.into_iter().chain(set_by_node).chain(share).chain(told).collect())
    }

    fn variable(&self, said: &EnvVar) -> Result<(String, String), StartFailure> {
        let value = match (said.is_pod_ip(), self.network.address()) {
            (false, _) => said.value.clone(),
            (true, Some(address)) => address.to_string(),
            (true, None) => return Err(needs_its_own("`status.podIP`")),
        };
        Ok((said.name.clone(), value))
    }

    fn mounts(&self, volumes: &[PathBuf], has_door: bool) -> Vec<api::Mount> {
        let mount = |container_path: String, host_path: &Path, readonly: bool| api::Mount {
            container_path,
            host_path: text(host_path),
            readonly,
        };
        let of_volumes = self.request.volumes.iter().zip(volumes).flat_map(|(volume, path)| {
            let readonly = |at: &String| !volume.writable_mounts.contains(at);
            volume.mounts.iter().map(move |at| mount(format!("/{at}"), path, readonly(at)))
        });
        let mut mounts: Vec<_> = of_volumes.collect();
        if has_door {
            // Its folder, not the socket itself, which is another when the agent comes back.
            mounts.push(mount(DOOR_FOLDER.to_owned(), &door_folder(self.folder), true));
        }
        if self.network.is_own() && !mounts.iter().any(|mount| mount.container_path == HOSTS_PATH) {
            let readonly = self.security.has_read_only_root();
            mounts.push(mount(HOSTS_PATH.to_owned(), &hosts_file(self.folder), readonly));
        }
        let said_at = last_words_path(&self.request.container);
        mounts.push(mount(said_at, &last_words_file(self.folder), false));
        // What lies within another comes after it.
        mounts.sort_by(|a, b| a.container_path.cmp(&b.container_path));
        mounts
    }

    fn resources(&self) -> api::LinuxContainerResources {
        let limits = &self.request.container.resources.limits;
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let shares = number(self.request.taken.cpu_millicores).saturating_mul(1024) / 1000;
        let quota = |millicores: u64| {
            (number(millicores).saturating_mul(CPU_PERIOD_USEC) / 1000).max(CPU_QUOTA_USEC_MIN)
        };
        let quota = limits.cpu.map_or(0, |cpu| quota(cpu.millicores));
        api::LinuxContainerResources {
            cpu_period: CPU_PERIOD_USEC,
            cpu_quota: quota,
            cpu_shares: shares.max(CPU_SHARES_MIN),
            memory_limit_in_bytes: limits.memory.map_or(0, |memory| number(memory.bytes)),
        }
    }

    fn cdi_devices(&self) -> Vec<api::CdiDevice> {
        let named = |uuid: &String| api::CdiDevice {
            name: format!("nvidia.com/gpu={}", visible_gpu_name(uuid)),
        };
        let gpus = self.request.gpus.iter().filter(|_| self.options.cdi);
        gpus.map(named).collect()
    }
}

/// The folder of a pod's door, on the node.
pub(super) fn door_folder(folder: &PodFolder) -> PathBuf {
    folder.path().join("door")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn refuse_zero_bytes<'a>(
    mut words: impl Iterator<Item = &'a String>,
    environment: &Pairs,
) -> Result<(), StartFailure> {
    let refused = |what: &str| Err(StartFailure::new("InvalidCommand", what));
    if words.any(|word| word.contains('\0')) {
        return refused("a word of the command holds a zero byte");
    }
    let is_odd = |(name, value): (&String, &String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    if environment.iter().any(is_odd) {
        return refused("a variable of the environment can't be set");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PodNetwork;
    use crate::placement::MainShare;
    use crate::ports::{InstanceId, NetworkRequest, VolumeContent};
    use crate::runtime::Allowed;
    use shared::model::{
        Container, EnvVar, EnvVarSource, ObjectFieldSelector, PodSecurityContext, Revision,
    };

    fn request() -> StartRequest {
        let variable = |name: &str, value: &str| EnvVar {
            name: name.to_owned(),
            value: value.to_owned(),
            value_from: None,
        };
        let env = vec![variable("NVIDIA_VISIBLE_DEVICES", "all"), variable("MODE", "fast")];
        let volume = |name: &str, mount: &str| VolumeContent {
            name: name.to_owned(),
            mounts: vec![mount.to_owned()],
            writable_mounts: vec!["etc/ocr/more".to_owned()],
            ..VolumeContent::default()
        };
        StartRequest {
            pod: "default/ocr-0".parse().unwrap(),
            instance: InstanceId(7),
            revision: Revision(9),
            container: Container { name: "main".to_owned(), env, ..Container::default() },
            containers: vec![],
            gpus: vec!["GPU-1".to_owned()],
            gpu_memory_bytes: None,
            taken: MainShare { cpu_millicores: 500, memory_bytes: 1 << 20 },
            grace_seconds: 30,
            parameters_id: 0,
            volumes: vec![volume("b", "etc/ocr/more"), volume("a", "etc/ocr")],
            pull: crate::ports::PullTerms::default(),
            security: PodSecurityContext::default(),
            network: NetworkRequest::default(),
        }
    }

    fn with<T>(options: &CriOptions, act: impl FnOnce(&OrderOf<'_>) -> T) -> T {
        of(request(), options, act)
    }

    fn of<T>(
        request: StartRequest,
        options: &CriOptions,
        act: impl FnOnce(&OrderOf<'_>) -> T,
    ) -> T {
        let agent = AgentName::of(&options.folder);
        let folder = &PodFolder::of(&options.folder, &request.pod);
        let (image, allowed) = (api::Image::default(), Allowed::default());
        let security = Security::of(&request.security, &request.container, &image, &allowed);
        let security = &security.unwrap();
        let network = Network::asked(options, &request);
        act(&OrderOf { options, agent: &agent, request: &request, folder, security, network })
    }

    fn options() -> CriOptions {
        CriOptions::new("/run/cri.sock".into(), "/pods".into())
    }

    fn value(container: &api::ContainerConfig, name: &str) -> String {
        let found = container.envs.iter().find(|variable| variable.key == name).unwrap();
        String::from_utf8(found.value.clone()).unwrap()
    }

    fn container(options: &CriOptions) -> api::ContainerConfig {
        let volumes = ["/pods/b".into(), "/pods/a".into()];
        with(options, |order| order.container("sha256:1".to_owned(), &volumes, None)).unwrap()
    }

    #[test]
    fn a_template_can_t_take_gpus_that_it_was_not_given() {
        let container = container(&options());
        assert_eq!(value(&container, "NVIDIA_VISIBLE_DEVICES"), "GPU-1");
        assert_eq!(value(&container, "CUDA_VISIBLE_DEVICES"), "GPU-1");
        assert_eq!(value(&container, "MODE"), "fast");
        assert!(container.cdi_devices.is_empty());
    }

    #[test]
    fn with_cdi_the_devices_are_named_and_the_environment_shows_none() {
        let options = CriOptions { cdi: true, ..options() };
        let container = container(&options);
        assert_eq!(container.cdi_devices[0].name, "nvidia.com/gpu=GPU-1");
        assert_eq!(value(&container, "NVIDIA_VISIBLE_DEVICES"), "void");
    }

    #[test]
    fn the_gpu_of_a_jetson_is_named_by_its_index() {
        let jetson = || StartRequest { gpus: vec!["GPU-jetson-14".to_owned()], ..request() };
        let container = |options: CriOptions| {
            let volumes = ["/pods/b".into(), "/pods/a".into()];
            of(jetson(), &options, |order| order.container("sha256:1".to_owned(), &volumes, None))
        };
        let by_runtime = container(options()).unwrap();
        assert_eq!(value(&by_runtime, "NVIDIA_VISIBLE_DEVICES"), "0");
        assert_eq!(value(&by_runtime, "CUDA_VISIBLE_DEVICES"), "0");
        let by_cdi = container(CriOptions { cdi: true, ..options() }).unwrap();
        assert_eq!(by_cdi.cdi_devices[0].name, "nvidia.com/gpu=0");
        assert_eq!(value(&by_cdi, "CUDA_VISIBLE_DEVICES"), "0");
    }

    #[test]
    fn volumes_are_mounted_the_outer_one_first_and_read_only_unless_the_pod_may_write() {
        let container = container(&options());
        let mounts: Vec<_> = container
            .mounts
            .iter()
            .map(|mount| (mount.container_path.as_str(), mount.host_path.as_str(), mount.readonly))
            .collect();
        let last_words = "/pods/default_ocr-0/last-words";
        let expected = [
            ("/dev/termination-log", last_words, false),
            ("/etc/ocr", "/pods/a", true),
            ("/etc/ocr/more", "/pods/b", false),
        ];
        assert_eq!(mounts, expected);
    }

    #[test]
    fn a_request_is_a_share_and_a_container_without_limits_has_no_quota() {
        let resources = container(&options()).linux.unwrap().resources.unwrap();
        assert_eq!((resources.cpu_shares, resources.cpu_quota), (512, 0));
        assert_eq!(resources.memory_limit_in_bytes, 0);
    }

    #[test]
    fn where_processes_are_limited_each_start_has_a_cgroup_of_its_own() {
        let options = CriOptions { pids_max: Some(100), ..options() };
        let of = |instance| {
            let request = StartRequest { instance, ..request() };
            of(request, &options, |order| order.sandbox(NetworkOrder::default()))
                .linux
                .unwrap()
                .cgroup_parent
        };
        assert!(of(InstanceId(7)).starts_with("/hinterland/"));
        assert!(of(InstanceId(7)).ends_with("-0000000000000007"), "{}", of(InstanceId(7)));
        assert_ne!(of(InstanceId(7)), of(InstanceId(8)));
    }

    #[test]
    fn every_start_of_a_pod_has_the_same_name_and_a_cgroup() {
        let sandbox = with(&options(), |order| order.sandbox(NetworkOrder::default()));
        let metadata = sandbox.metadata.unwrap();
        assert_eq!((metadata.name.as_str(), metadata.attempt), ("ocr-0", 0));
        assert_eq!(sandbox.linux.unwrap().cgroup_parent, "/hinterland");
        assert_eq!(sandbox.log_directory, "/pods/default_ocr-0/log");
    }

    #[test]
    fn a_pod_with_a_network_of_its_own_has_a_name_and_an_address_there() {
        let own = CriOptions { network: PodNetwork::Pod, ..options() };
        let sandbox = with(&own, |order| order.sandbox(NetworkOrder::default()));
        assert_eq!(sandbox.hostname, "ocr-0");
        let field_path = "status.podIP".to_owned();
        let field_ref = Some(ObjectFieldSelector { field_path, api_version: None });
        let value_from = Some(EnvVarSource { field_ref, ..EnvVarSource::default() });
        let variable = EnvVar { name: "IP".to_owned(), value: String::new(), value_from };
        let told = Pairs::from([(DOOR_URL_VARIABLE.to_owned(), "http://127.0.0.1:1".to_owned())]);
        let made = |options: &CriOptions, address: &str| {
            with(options, |order| {
                let mut request = order.request.clone();
                request.container.env.push(variable.clone());
                let network = match order.network {
                    Network::Node => Network::Node,
                    Network::Own(_) => Network::Own(address.parse().ok()),
                };
                let order = OrderOf { request: &request, network, ..*order };
                let volumes = ["/pods/b".into(), "/pods/a".into()];
                order.container("sha256:1".to_owned(), &volumes, Some(told.clone()))
            })
        };
        let container = made(&own, "10.88.0.5").unwrap();
        assert_eq!(value(&container, "IP"), "10.88.0.5");
        assert!(container.envs.iter().all(|variable| variable.key != DOOR_URL_VARIABLE));
        assert!(container.mounts.iter().any(|mount| mount.container_path == HOSTS_PATH));
        assert_eq!(made(&options(), "").unwrap_err().reason, "NeedsPodNetwork");
    }
}
