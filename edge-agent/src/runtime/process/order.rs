//! What agent and shim say to each other, and how a start becomes a command line and environment.
//!
//! The order to run travels over a socket, never over the command line or a file: it holds the
//! pod's environment. Each message is one line of JSON. Both ends are the same binary, but an order
//! to stop may come from a newer one: its fields are only ever added, with a default.

use super::files::PodFolder;
use super::identity::ProcessIdentity;
use super::lock::POD_FOLDER_VARIABLE;
use super::refused::refuse_what_needs_a_container;
use crate::placement::{MainShare, Placement};
use crate::ports::{InstanceId, StartRequest};
pub(super) use crate::runtime::StartFailure;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::model::{PodId, Revision, UnixMs};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

/// The longest message. An item of desired state is at most 256 KiB; JSON escapes may double it.
pub(super) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Where programs are looked for when the agent itself was told nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A locale that is on every glibc system and does not mangle UTF-8.
const LANG: &str = "C.UTF-8";

/// Everything that the shim needs to run a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunOrder {
    pub(super) pod: PodId,
    pub(super) instance: InstanceId,
    pub(super) revision: Revision,
    pub(super) placement: Placement,
    pub(super) taken: MainShare,
    pub(super) parameters_id: u64,
    pub(super) log_max_bytes: u64,
    pub(super) log_max_files: u32,
    pub(super) limits: ResourceLimits,
    pub(super) launch: LaunchOrder,
}

/// What the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct ResourceLimits {
    pub(super) cpu_millicores: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
    /// Processes and threads.
    #[serde(default)]
    pub(super) pids: Option<u64>,
}

/// Everything that the last step before the pod's program needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LaunchOrder {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) working_dir: PathBuf,
    /// `cgroup.procs` files to enter.
    pub(super) cgroups: Vec<PathBuf>,
}

/// What the shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    Started { main: ProcessIdentity, started_at: UnixMs, remarks: Vec<String> },
    Failed(StartFailure),
}

/// An order to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StopOrder {
    pub(super) instance: InstanceId,
    pub(super) grace_ms: u64,
}

impl RunOrder {
    /// What a start asks for, as a command line and an environment.
    ///
    /// # Errors
    /// When the container names no program, a string that no program can be given, or what only a container can have.
    pub(super) fn of(
        request: &StartRequest,
        folder: &PodFolder,
        log_max_bytes: u64,
        log_max_files: u32,
    ) -> Result<Self, StartFailure> {
        refuse_what_needs_a_container(request)?;
        let container = &request.container;
        let limits = &container.resources.limits;
        let mut words = container.command.iter().chain(&container.args).cloned();
        let program = words.next().filter(|program| !program.is_empty()).ok_or_else(|| {
            let message = "the process runtime needs `command` with at least the program";
            StartFailure::new("NoCommand", message)
        })?;
        let working_dir = container.working_dir.as_ref().filter(|path| !path.is_empty());
        let launch = LaunchOrder {
            program,
            arguments: words.collect(),
            environment: environment(request, folder),
            working_dir: working_dir.map_or_else(|| folder.home(), PathBuf::from),
            cgroups: Vec::new(),
        };
        launch.refuse_what_no_program_can_be_given()?;
        Ok(Self {
            pod: request.pod.clone(),
            instance: request.instance,
            revision: request.revision,
            placement: Placement {
                gpus: request.gpus.clone(),
                gpu_memory_bytes: request.gpu_memory_bytes,
            },
            taken: request.taken,
            parameters_id: request.parameters_id,
            log_max_bytes,
            log_max_files,
            limits: ResourceLimits {
                cpu_millicores: limits.cpu.map(|cpu| cpu.millicores),
                memory_bytes: limits.memory.map(|memory| memory.bytes),
                pids: None,
            },
            launch,
        })
    }
}

impl LaunchOrder {
    fn refuse_what_no_program_can_be_given(&self) -> Result<(), StartFailure> {
        let refused = |what: String| Err(StartFailure::new("InvalidCommand", what));
        let mut words = std::iter::once(&self.program).chain(&self.arguments);
        if words.any(|word| word.contains('\0')) {
            return refused("a word of the command holds a zero byte".to_owned());
        }
        for (name, value) in &self.environment {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                let name = name.chars().take(80).collect::<String>().escape_debug().to_string();
                return refused(format!("the environment variable `{name}` can't be set"));
            }
        }
        Ok(())
    }
}

/// The whole environment of a pod: nothing of the agent's but the search path.
fn environment(request: &StartRequest, folder: &PodFolder) -> BTreeMap<String, String> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let path = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned());
    let first = [
        ("PATH".to_owned(), path),
        ("HOME".to_owned(), text(folder.home())),
        ("LANG".to_owned(), LANG.to_owned()),
    ];
    let own = request.container.env.iter().map(|var| (var.name.clone(), var.value.clone()));
    // Last, so that a template can't take GPUs that it was not given.
    let set_by_placement = [
        ("CUDA_VISIBLE_DEVICES".to_owned(), request.visible_gpus()),
        ("HINTERLAND_POD_NAME".to_owned(), request.pod.name()),
        ("HINTERLAND_POD_NAMESPACE".to_owned(), request.pod.workload.namespace().to_owned()),
        (POD_FOLDER_VARIABLE.to_owned(), text(folder.path().to_owned())),
    ];
    let share = request.gpu_memory_bytes;
    let share = share.map(|bytes| ("HINTERLAND_GPU_MEMORY_BYTES".to_owned(), bytes.to_string()));
    first.into_iter().chain(own).chain(set_by_placement).chain(share).collect()
}

/// One message as a line.
///
/// # Errors
/// When it is longer than [`MESSAGE_BYTES_MAX`].
pub(super) fn line_of(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    if line.len() > MESSAGE_BYTES_MAX {
        let what = format!("{} bytes are more than {MESSAGE_BYTES_MAX}", line.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(line)
}

/// Reads one message; `None` when the other end was closed before it was whole.
///
/// # Errors
/// When it can't be read, is too long or is not such a message.
pub(super) fn read_line<T: DeserializeOwned>(from: impl Read) -> io::Result<Option<T>> {
    let max = u64::try_from(MESSAGE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    BufReader::with_capacity(4096, from.take(max)).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{NetworkRequest, VolumeContent, VolumeSource};
    use serde_json::json;
    use shared::model::{Container, EnvVar, PodSecurityContext};
    use std::path::Path;

    fn request(container: Container) -> StartRequest {
        StartRequest {
            pod: "default/ocr-0".parse().unwrap(),
            instance: InstanceId(1),
            revision: Revision(2),
            container,
            containers: vec![],
            gpus: vec!["GPU-1".to_owned(), "GPU-2".to_owned()],
            gpu_memory_bytes: Some(1024),
            taken: MainShare::default(),
            grace_seconds: 30,
            parameters_id: 0,
            volumes: vec![],
            pull: crate::ports::PullTerms::default(),
            security: PodSecurityContext::default(),
            network: NetworkRequest::default(),
        }
    }

    fn order(container: Container) -> Result<RunOrder, StartFailure> {
        let request = request(container);
        let folder = PodFolder::of(Path::new("/pods"), &request.pod);
        RunOrder::of(&request, &folder, 1024, 3)
    }

    fn variable(name: &str, value: &str) -> EnvVar {
        EnvVar { name: name.to_owned(), value: value.to_owned(), value_from: None }
    }

    fn container(command: &[&str]) -> Container {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Container { command, ..Container::default() }
    }

    #[test]
    fn a_template_can_t_take_gpus_that_it_was_not_given() {
        let env = vec![variable("CUDA_VISIBLE_DEVICES", "0,1,2"), variable("HOME", "/data")];
        let order = order(Container { env, ..container(&["serve"]) }).unwrap();
        let environment = &order.launch.environment;
        assert_eq!(environment["CUDA_VISIBLE_DEVICES"], "GPU-1,GPU-2");
        assert_eq!(environment["HINTERLAND_GPU_MEMORY_BYTES"], "1024");
        assert_eq!(environment["HOME"], "/data");
        assert_eq!(order.launch.working_dir, Path::new("/pods/default_ocr-0/home"));
    }

    #[test]
    fn the_gpu_of_a_jetson_is_named_by_its_index() {
        let gpus = vec!["GPU-jetson-1424021037591".to_owned()];
        let request = StartRequest { gpus, ..request(container(&["serve"])) };
        let folder = PodFolder::of(Path::new("/pods"), &request.pod);
        let order = RunOrder::of(&request, &folder, 1024, 3).unwrap();
        assert_eq!(order.launch.environment["CUDA_VISIBLE_DEVICES"], "0");
    }

    #[test]
    fn arguments_follow_the_command() {
        let args = vec!["--port".to_owned(), "80".to_owned()];
        let order = order(Container { args, ..container(&["serve", "-v"]) }).unwrap();
        assert_eq!(order.launch.program, "serve");
        assert_eq!(order.launch.arguments, ["-v", "--port", "80"]);
    }

    #[test]
    fn what_no_program_can_be_given_is_refused_with_words() {
        assert_eq!(order(container(&[])).unwrap_err().reason, "NoCommand");
        assert_eq!(order(container(&["a\0b"])).unwrap_err().reason, "InvalidCommand");
        for name in ["", "A=B", "A\0"] {
            let env = vec![variable(name, "1")];
            let failure = order(Container { env, ..container(&["a"]) }).unwrap_err();
            assert_eq!(failure.reason, "InvalidCommand", "`{name}` was accepted");
        }
    }

    #[test]
    fn what_only_a_container_can_have_is_refused_and_named() {
        let refusal = |request: &StartRequest| {
            let folder = PodFolder::of(Path::new("/pods"), &request.pod);
            let refused = RunOrder::of(request, &folder, 1024, 3).unwrap_err();
            assert_eq!(refused.reason, "NeedsContainer");
            refused.message
        };
        for (field, value) in [
            ("runAsUser", json!(0)),
            ("readOnlyRootFilesystem", json!(true)),
            ("capabilities", json!({ "drop": ["ALL"] })),
            ("privileged", json!(true)),
            ("seccompProfile", json!({ "type": "RuntimeDefault" })),
        ] {
            let security_context = serde_json::from_value(json!({ field: value })).unwrap();
            let container = Container { security_context, ..container(&["a"]) };
            assert!(refusal(&request(container)).starts_with(field), "{field}");
        }
        let mut with_device = container(&["a"]);
        with_device.resources.limits.devices.insert("camera".to_owned());
        assert!(refusal(&request(with_device)).starts_with("a device"));
        let lifecycle = Some(Default::default());
        let hooked = Container { lifecycle, ..container(&["a"]) };
        assert!(refusal(&request(hooked)).starts_with("lifecycle"));
        let mut of_pod = request(container(&["a"]));
        of_pod.security.fs_group = Some(1);
        assert!(refusal(&of_pod).starts_with("fsGroup"));
        let mut of_network = request(container(&["a"]));
        of_network.network.is_host = Some(false);
        assert!(
            refusal(&of_network).starts_with("`hostNetwork: false` needs pods to be containers")
        );
        let port = json!({ "containerPort": 80, "hostPort": 8080 });
        of_network.network.host_ports = vec![serde_json::from_value(port).unwrap()];
        of_network.network.is_host = None;
        assert!(refusal(&of_network).starts_with("a `hostPort`"));
        let port = json!({ "containerPort": 80, "hostPort": 80 });
        of_network.network.host_ports = vec![serde_json::from_value(port).unwrap()];
        let folder = PodFolder::of(Path::new("/pods"), &of_network.pod);
        assert!(RunOrder::of(&of_network, &folder, 1024, 3).is_ok(), "it has that by itself");
        let with = |source: VolumeSource| {
            let mounts = vec!["a".to_owned()];
            let volume = VolumeContent { source, mounts, ..VolumeContent::default() };
            refusal(&StartRequest { volumes: vec![volume], ..request(container(&["a"])) })
        };
        let empty = |is_in_memory| VolumeSource::EmptyDir { is_in_memory, bytes_max: None };
        assert!(with(VolumeSource::HostPath(Default::default())).starts_with("a hostPath"));
        assert!(with(empty(true)).starts_with("an emptyDir in memory"));
        assert!(with(empty(false)).starts_with("a mount that is readOnly"));
        let harmless = json!({ "privileged": false, "allowPrivilegeEscalation": true,
            "seccompProfile": { "type": "Unconfined" } });
        let security_context = serde_json::from_value(harmless).unwrap();
        assert!(order(Container { security_context, ..container(&["a"]) }).is_ok());
    }

    #[test]
    fn a_message_that_was_cut_off_is_no_message() {
        let whole = line_of(&StopOrder { instance: InstanceId(u64::MAX), grace_ms: 5 }).unwrap();
        let order: StopOrder = read_line(&whole[..]).unwrap().unwrap();
        assert_eq!(order.instance, InstanceId(u64::MAX));
        for cut in 0..whole.len() {
            assert_eq!(read_line::<StopOrder>(&whole[..cut]).unwrap(), None);
        }
    }
}
