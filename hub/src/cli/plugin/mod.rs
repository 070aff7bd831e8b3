//! `kubectl hinterland …`: what a person at kubectl needs of the fleet. The program is the hub's, called by the
//! name `kubectl-hinterland`, as kubectl looks for it in `PATH`.
//!
//! Works with the person's own rights, by their kubeconfig. Nodes, workloads and what is done to nodes are
//! custom resources alone; why a pod is as it is, its log and what the hub knows of a node are asked of the
//! hub, through the API server unless `--api` says where.
//!
//! | file | what it holds |
//! |---|---|
//! | `cluster` | the API server, as a person |
//! | `drain` | cordon, uncordon, drain |
//! | `show` | custom resources as tables |

mod cluster;
mod drain;
mod show;

use super::client::{Client, Way, authority_of, runtime};
use super::pods::{self, ExecOptions, LogOptions};
use super::{Output, print, query};
use crate::admin::Token;
use clap::{Args, Parser, Subcommand};
use cluster::Cluster;
use shared::io::remote::parse_time;
use shared::model::{NodeId, PodId, WorkloadKey};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file's name by which kubectl finds it.
const PROGRAM: &str = "kubectl-hinterland";

/// Whether the program was called as kubectl's plugin.
#[must_use]
pub fn is_plugin(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == PROGRAM)
}

/// Shows and tends a fleet of edge nodes.
#[derive(Debug, Parser)]
#[command(
    name = PROGRAM,
    bin_name = "kubectl hinterland",
    version,
    about,
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub struct Plugin {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    command: Command,
}

/// Which API server, and as whom.
#[derive(Debug, Args)]
struct Access {
    /// The kubeconfig; $KUBECONFIG or ~/.kube/config without it
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; its current one without it
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the nodes
    Nodes {
        /// How to print it
        #[arg(long, short, value_enum, default_value = "table")]
        output: Output,
    },
    /// List the workloads
    Workloads {
        /// Their namespace; the context's without it
        #[arg(long, short, value_name = "NAME", conflicts_with = "all_namespaces")]
        namespace: Option<String>,
        /// Those of all namespaces
        #[arg(long, short = 'A')]
        all_namespaces: bool,
        /// How to print it
        #[arg(long, short, value_enum, default_value = "table")]
        output: Output,
    },
    /// Show one node, or one workload (as in `default/ocr`): its object, and what the hub knows of it
    Describe {
        /// A node, or a workload with its namespace
        what: String,
        #[command(flatten)]
        hub: HubArguments,
    },
    /// Show why a pod is as it is
    Why {
        /// The node
        node: NodeId,
        /// The pod, as in `default/ocr-0`
        pod: PodId,
        /// How to print it
        #[arg(long, short, value_enum, default_value = "table")]
        output: Output,
        #[command(flatten)]
        hub: HubArguments,
    },
    /// Show the last lines of a pod's log
    Logs {
        /// The node
        node: NodeId,
        /// The pod, as in `default/ocr-0`
        pod: PodId,
        #[command(flatten)]
        log: LogOptions,
        #[command(flatten)]
        hub: HubArguments,
    },
    /// Run a command in a pod, without a terminal and without input, where the node allows it
    Exec {
        /// The node
        node: NodeId,
        /// The pod, as in `default/ocr-0`
        pod: PodId,
        #[command(flatten)]
        exec: ExecOptions,
        #[command(flatten)]
        hub: HubArguments,
    },
    /// Cordon a node and have its pods stop; replicas over the fleet go to other nodes
    ///
    /// Waits until the node has told that its pods have ended. A node that is offline goes on with them and
    /// drains when it returns. Pods of workloads that tolerate the taint `hinterland.dev/drain` stay.
    Drain {
        /// The node
        node: NodeId,
        /// How long to wait, as in `90s`, `5m`, `1h`; with `0s` nothing is waited for
        #[arg(long, default_value = "5m", value_parser = parse_time)]
        timeout: Duration,
    },
    /// Keep new pods away from a node; what it has stays
    Cordon {
        /// The node
        node: NodeId,
    },
    /// Let new pods come to a node again, after `cordon` or `drain`
    Uncordon {
        /// The node
        node: NodeId,
    },
    /// Show the version
    Version,
}

/// Where the hub's HTTP API is, and its token.
#[derive(Debug, Args)]
struct HubArguments {
    /// The hub's HTTP API; without it the API server passes on to the hub's service
    #[arg(long, env = "HINTERLAND_HUB_API", value_name = "http://HOST:PORT")]
    api: Option<String>,
    /// A file with the API's token; without it a Secret has it, and with `--api` none is shown
    #[arg(long, env = "HINTERLAND_HUB_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The hub's namespace
    #[arg(long, default_value = "hinterland", value_name = "NAME")]
    hub_namespace: String,
    /// The hub's service, which has a port of the name `api`
    #[arg(long, default_value = "hub", value_name = "NAME")]
    hub_service: String,
    /// The Secret with the API's token in its key `token`; the service's name and `-api` without it
    #[arg(long, value_name = "NAME")]
    token_secret: Option<String>,
}

impl Plugin {
    /// Carries the command out.
    ///
    /// # Errors
    /// What went wrong, in words; `main` prints it.
    pub fn carry_out(self) -> anyhow::Result<()> {
        let access = &self.access;
        match self.command {
            Command::Nodes { output } => show::nodes(&access.connect()?, output),
            Command::Workloads { namespace, all_namespaces, output } => {
                let cluster = access.connect()?;
                let namespace = namespace.or_else(|| Some(cluster.namespace()));
                let namespace = namespace.filter(|_| !all_namespaces);
                show::workloads(&cluster, namespace.as_deref(), output)
            }
            Command::Describe { what, hub } => describe(access, &hub, &what),
            Command::Why { node, pod, output, hub } => {
                query::why(&hub.client(access)?, &node, &pod, output)
            }
            Command::Logs { node, pod, log, hub } => {
                pods::logs(&hub.client(access)?, &node, &pod, log)
            }
            Command::Exec { node, pod, exec, hub } => {
                pods::exec(&hub.client(access)?, &node, &pod, exec)
            }
            Command::Drain { node, timeout } => drain::drain(&access.connect()?, &node, timeout),
            Command::Cordon { node } => drain::cordon(&access.connect()?, &node),
            Command::Uncordon { node } => drain::uncordon(&access.connect()?, &node),
            Command::Version => {
                print(concat!("kubectl-hinterland ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())
            }
        }
    }
}

/// The object first: it is there also when the hub can't be asked.
fn describe(access: &Access, hub: &HubArguments, what: &str) -> anyhow::Result<()> {
    let cluster = access.connect()?;
    if what.contains('/') {
        let key: WorkloadKey = what.parse()?;
        show::workload(&cluster, &key)?;
    } else {
        show::node(&cluster, &what.parse()?)?;
    }
    print(b"\n")?;
    query::describe(&hub.client_beside(&cluster)?, what, Output::Table)
}

impl Access {
    fn connect(&self) -> anyhow::Result<Cluster> {
        Cluster::connect(self.kubeconfig.as_deref(), self.context.as_deref())
    }
}

impl HubArguments {
    /// Needs an API server only where the hub is asked through one.
    fn client(&self, access: &Access) -> anyhow::Result<Client> {
        match &self.api {
            Some(api) => self.direct(api),
            None => self.client_beside(&access.connect()?),
        }
    }

    fn client_beside(&self, cluster: &Cluster) -> anyhow::Result<Client> {
        if let Some(api) = &self.api {
            return self.direct(api);
        }
        let base = proxy_path(&self.hub_namespace, &self.hub_service)?;
        let token = match &self.token_file {
            Some(path) => Token::read(path)?,
            None => {
                let secret = format!("{}-api", self.hub_service);
                let secret = self.token_secret.as_deref().unwrap_or(&secret);
                cluster.token(&self.hub_namespace, secret)?
            }
        };
        Ok(cluster.hub(base, token))
    }

    fn direct(&self, api: &str) -> anyhow::Result<Client> {
        let token = self.token_file.as_deref().map(Token::read).transpose()?;
        Ok(Client::by(runtime()?, Way::Direct(authority_of(api)?), token))
    }
}

/// Where the API server passes on to the port `api` of a service.
fn proxy_path(namespace: &str, service: &str) -> anyhow::Result<String> {
    // Both are names that need no escape in a path.
    let is_name = |name: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !name.is_empty() && name.bytes().all(plain)
    };
    for name in [namespace, service] {
        anyhow::ensure!(is_name(name), "`{name}` is no name of a namespace or a service");
    }
    Ok(format!("/api/v1/namespaces/{namespace}/services/http:{service}:api/proxy"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_program_is_the_plugin_by_its_name_alone() {
        let called = |name: &str| is_plugin(&[OsString::from(name), OsString::from("nodes")]);
        assert!(called("kubectl-hinterland") && called("/usr/local/bin/kubectl-hinterland"));
        assert!(!called("hub") && !called("/opt/kubectl-hinterland/hub"));
        assert!(!is_plugin(&[]));
    }

    #[test]
    fn it_offers_what_a_person_at_kubectl_needs_and_calls_itself_as_kubectl_does() {
        let mut command = Plugin::command();
        command.clone().debug_assert();
        let names: Vec<_> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        let expected = [
            "nodes",
            "workloads",
            "describe",
            "why",
            "logs",
            "exec",
            "drain",
            "cordon",
            "uncordon",
            "version",
        ];
        assert_eq!(names, expected);
        assert!(command.render_help().to_string().contains("Usage: kubectl hinterland "));
        let error = Plugin::try_parse_from(["/bin/kubectl-hinterland", "why"]).unwrap_err();
        assert!(error.to_string().contains("Usage: kubectl hinterland why"), "{error}");
    }

    #[test]
    fn the_hub_is_reached_by_the_name_of_its_service_and_of_its_port() {
        let path = proxy_path("hinterland", "hub").unwrap();
        assert_eq!(path, "/api/v1/namespaces/hinterland/services/http:hub:api/proxy");
        for name in ["", "a/b", "a?b", "http:hub"] {
            assert!(proxy_path("hinterland", name).is_err(), "`{name}` was accepted");
        }
    }
}
