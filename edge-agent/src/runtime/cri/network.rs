//! The network of a pod: the node's, or one of its own, which the container runtime makes by its CNI configuration.
//!
//! Refuses to run a pod on the node's network that asks for what only one of its own can give.

use super::Shared;
use super::api::{self, PortMapping};
use super::calls::until_answered;
use super::client::{CallError, CriClient, QUESTION_LIMIT};
use super::dns;
use super::life::{Life, START_PATIENCE, failure_of};
use super::{CriOptions, blocking};
use crate::config::PodNetwork;
use crate::ports::{RuntimeEvent, StartRequest};
use crate::runtime::StartFailure;
use crate::runtime::folder::PodFolder;
use crate::runtime::network::needs_own_network;
use crate::runtime::probe::NODE_HOST;
use shared::in_words;
use shared::model::{ContainerPort, PodId, PortProtocol};
use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::sleep;
use tracing::warn;

/// Between two looks whether the container runtime has a network for pods.
const READY_PAUSE: Duration = Duration::from_secs(5);

/// The longest name of a host. As kubelet, which cuts it off.
const HOSTNAME_BYTES_MAX: usize = 63;

/// The file in which a container looks up names first.
pub(super) const HOSTS_PATH: &str = "/etc/hosts";

/// The network of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Network {
    /// The node's.
    #[default]
    Node,
    /// One of its own, and its address there, once it is known.
    Own(Option<IpAddr>),
}

/// What the sandbox of a pod with a network of its own is told besides.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct NetworkOrder {
    pub(super) dns: Option<api::DnsConfig>,
    pub(super) ports: Vec<PortMapping>,
}

impl Network {
    /// That of a pod that is asked for, its address not known yet.
    pub(super) fn asked(options: &CriOptions, request: &StartRequest) -> Self {
        match request.network.is_host.unwrap_or(options.network == PodNetwork::Host) {
            true => Self::Node,
            false => Self::Own(None),
        }
    }

    pub(super) fn is_own(self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// The pod's address, where it has one of its own.
    pub(super) fn address(self) -> Option<IpAddr> {
        match self {
            Self::Node => None,
            Self::Own(address) => address,
        }
    }

    /// Where the agent reaches it.
    pub(super) fn host(self) -> String {
        self.address().map_or_else(|| NODE_HOST.to_owned(), |address| address.to_string())
    }

    /// The namespaces of its sandbox and its containers.
    pub(super) fn namespaces(self) -> api::NamespaceOption {
        let network = match self {
            Self::Node => api::NamespaceMode::Node,
            Self::Own(_) => api::NamespaceMode::Pod,
        };
        api::NamespaceOption {
            network: network.into(),
            pid: api::NamespaceMode::Container.into(),
            ipc: api::NamespaceMode::Pod.into(),
        }
    }

    /// The name that it has in its own network; empty for the node's.
    pub(super) fn hostname(self, pod: &PodId) -> String {
        match self {
            Self::Node => String::new(),
            Self::Own(_) => hostname_of(pod),
        }
    }
}

impl Life {
    /// What the pod asks of the network, once the container runtime can give it.
    pub(super) async fn network(
        &mut self,
        request: &StartRequest,
    ) -> Result<(Network, NetworkOrder), StartFailure> {
        let network = Network::asked(&self.shared.options, request);
        if !network.is_own() {
            refuse_what_needs_its_own(request)?;
            return Ok((network, NetworkOrder::default()));
        }
        self.until_network_is_ready().await?;
        let dns = blocking(dns::of_node).await.flatten();
        let ports = request.network.host_ports.iter().map(mapping).collect();
        Ok((network, NetworkOrder { dns, ports }))
    }

    async fn until_network_is_ready(&mut self) -> Result<(), StartFailure> {
        let client = self.shared.client.clone();
        let mut is_first = true;
        loop {
            let asked = until_answered(Some(START_PATIENCE), || client.network_problem()).await;
            let problem = asked.map_err(|error| failure_of(&error))?;
            let Some(problem) = problem else { return Ok(()) };
            if std::mem::take(&mut is_first) {
                warn!(pod = %self.pod, problem, "it waits for the network of the container runtime");
            }
            let message = format!(
                "the container runtime has no network for pods yet: {problem}; expected its CNI configuration, \
                 as in /etc/cni/net.d"
            );
            self.while_saying(("NetworkNotReady", message), sleep(READY_PAUSE)).await?;
        }
    }

    /// The network of a sandbox that was made: where it is the pod's own, its address is told and noted.
    pub(super) async fn addressed(
        &self,
        network: Network,
        sandbox: &str,
    ) -> Result<Network, StartFailure> {
        if !network.is_own() {
            return Ok(network);
        }
        let client = &self.shared.client;
        let asked = until_answered(Some(START_PATIENCE), || client.address(sandbox)).await;
        let address = asked.map_err(|error| failure_of(&error))?;
        let without = "the container runtime says no address of the pod";
        let pod_ip = address.ok_or_else(|| StartFailure::new("SandboxFailed", without))?;
        self.write_hosts(pod_ip).await?;
        let network = Network::Own(Some(pod_ip));
        self.shared.live().get_mut(&self.pod).into_iter().for_each(|live| live.network = network);
        let (pod, instance) = (self.pod.clone(), self.instance);
        self.shared.tell(RuntimeEvent::Addressed { pod, instance, pod_ip });
        Ok(network)
    }

    /// The pod finds its own name, as kubelet's pods do.
    async fn write_hosts(&self, address: IpAddr) -> Result<(), StartFailure> {
        let file = hosts_file(&self.shared.folder(&self.pod));
        let name = hostname_of(&self.pod);
        let text = format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n{address}\t{name}\n");
        let path = file.display().to_string();
        let write = move || {
            fs::write(&file, text)?;
            // Whoever the container runs as reads it.
            fs::set_permissions(&file, Permissions::from_mode(0o644))
        };
        let written = blocking(write).await;
        written.unwrap_or(Ok(())).map_err(|error| {
            StartFailure::new("FolderFailed", format!("write {path}: {}", in_words(&error)))
        })
    }
}

impl Shared {
    /// The network of a pod that runs.
    pub(super) fn network_of(&self, pod: &PodId) -> Network {
        self.live().get(pod).map(|live| live.network).unwrap_or_default()
    }
}

impl CriClient {
    /// The address of a sandbox in a network of its own; none where it has none, or is gone.
    pub(super) async fn address(&self, sandbox: &str) -> Result<Option<IpAddr>, CallError> {
        let question = api::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned() };
        let status = match self.call("PodSandboxStatus", &question, QUESTION_LIMIT).await {
            Ok(api::PodSandboxStatusResponse { status }) => status,
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let network = status.and_then(|status| status.network);
        Ok(network.and_then(|network| network.ip.parse().ok()))
    }

    /// Why no pod can have a network of its own; none where it can.
    async fn network_problem(&self) -> Result<Option<String>, CallError> {
        let api::StatusResponse { status } =
            self.call("Status", &api::StatusRequest {}, QUESTION_LIMIT).await?;
        let conditions = status.unwrap_or_default().conditions;
        let network = conditions.into_iter().find(|one| one.r#type == "NetworkReady");
        let problem = network.filter(|network| !network.status);
        Ok(problem.map(|network| format!("{}: {}", network.reason, network.message)))
    }
}

/// The file of names, on the node.
pub(super) fn hosts_file(folder: &PodFolder) -> PathBuf {
    folder.path().join("hosts")
}

/// # Errors
/// The first of what it can't have on the node's network.
fn refuse_what_needs_its_own(request: &StartRequest) -> Result<(), StartFailure> {
    needs_own_network(request).map_or(Ok(()), |field| Err(needs_its_own(field)))
}

pub(super) fn needs_its_own(field: &str) -> StartFailure {
    let message = format!(
        "{field} needs a network of the pod's own: expected `hostNetwork: false` in its template, or \
         `cri.network = \"pod\"` in this node's configuration"
    );
    StartFailure::new("NeedsPodNetwork", message)
}

fn hostname_of(pod: &PodId) -> String {
    let name: String = pod.name().chars().take(HOSTNAME_BYTES_MAX).collect();
    name.trim_end_matches('-').to_owned()
}

fn mapping(port: &ContainerPort) -> PortMapping {
    let protocol = match port.protocol {
        PortProtocol::Tcp => api::Protocol::Tcp,
        PortProtocol::Udp => api::Protocol::Udp,
    };
    PortMapping {
        protocol: protocol.into(),
        container_port: i32::from(port.container_port),
        host_port: port.host_port.map_or(0, i32::from),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_off_and_ends_as_names_do() {
        let name = |length: usize| {
            let pod = format!("default/{}-0", "a".repeat(length));
            hostname_of(&pod.parse().unwrap())
        };
        assert_eq!(name(3), "aaa-0");
        assert_eq!(name(62), "a".repeat(62));
        assert_eq!(name(63), "a".repeat(63));
    }
}
