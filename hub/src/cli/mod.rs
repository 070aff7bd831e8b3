//! The commands of the hub, and nothing of what they do.
//!
//! | file | what it holds |
//! |---|---|
//! | `authority` | the certificate authority |
//! | `client`, `query` | questions to the running hub |
//! | `pods` | logs, and commands in pods |
//! | `table` | answers for people |
//! | `plugin` | what the same program offers as `kubectl hinterland` |

mod authority;
mod client;
mod plugin;
mod pods;
mod query;
mod table;

use crate::api;
use crate::config::{BrokerUrl, Config, HostPort, LogFormat};
use crate::shell;
use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use client::Client;
pub use plugin::{Plugin, is_plugin};
use pods::{ExecOptions, LogOptions};
use shared::io::remote::EndedWith;
use shared::model::{NodeId, PodId};
use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Holds what the fleet should run, and learns how it is doing.
#[derive(Debug, Parser)]
#[command(name = "hub", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
struct Global {
    /// The configuration file; without it every option has its default
    #[arg(long, global = true, env = "HINTERLAND_HUB_CONFIG")]
    config: Option<PathBuf>,
    /// The folder of keys and store; overrides `state_dir`
    #[arg(long, global = true, env = "HINTERLAND_HUB_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub until a signal comes; nodes go on without it
    Run(RunArguments),
    /// Make the certificate authority and keys, or have it sign a broker's certificate
    #[command(subcommand)]
    Ca(CaCommand),
    /// Show the hub's own state: term, broker, manifests and what is wrong with them
    Status(QueryArguments),
    /// List the nodes
    Nodes(QueryArguments),
    /// List the workloads
    Workloads(QueryArguments),
    /// Show one node, or one workload (as in `default/ocr`), in full
    Describe {
        /// A node, or a workload with its namespace
        what: String,
        #[command(flatten)]
        query: QueryArguments,
    },
    /// Show why a pod is as it is
    Why {
        /// The node
        node: NodeId,
        /// The pod, as in `default/ocr-0`
        pod: PodId,
        #[command(flatten)]
        query: QueryArguments,
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
        api: ApiArguments,
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
        api: ApiArguments,
    },
    /// Take over what the API server has after it was put back to an older state; `status` says what
    /// that would change
    ConfirmRegression(ApiArguments),
    /// Let a node in, or out
    #[command(subcommand)]
    Node(NodeCommand),
    /// Print the definitions of the custom resources, for `kubectl apply --server-side -f -`
    Crds {
        /// Write a file for each of them into this folder instead
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Show the version
    Version,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// The folder of manifests; overrides `manifests`
    #[arg(long)]
    manifests: Option<PathBuf>,
    /// Read the custom resources of an API server instead; `kubernetes` in the configuration
    #[arg(long, conflicts_with = "manifests")]
    kubernetes: bool,
    /// How to reach that API server; the pod's own service account without it
    #[arg(long, requires = "kubernetes", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Take over what that API server has, also where it was put back to an older state since the last start
    #[arg(long, requires = "kubernetes")]
    confirm_regression: bool,
    /// Where the embedded broker listens for nodes
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The name or address by which nodes reach the broker
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<HostPort>,
    /// An external broker instead of the embedded one
    #[arg(long, value_name = "mqtts://HOST:PORT")]
    broker: Option<BrokerUrl>,
    /// Where to serve the HTTP API; beyond loopback only with `api_token_file`
    #[arg(long, value_name = "ADDRESS:PORT")]
    api: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Make the authority and the hub's keys, where there are none
    Init {
        /// The authority's name, for people
        #[arg(long, default_value = shell::keys::DEFAULT_AUTHORITY_NAME)]
        name: String,
    },
    /// Sign a certificate for an external broker
    Server {
        /// Its DNS names and addresses
        #[arg(required = true)]
        names: Vec<String>,
        /// Where to put `server.pem`, `server.key` and `ca.pem`
        #[arg(long)]
        output: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Sign the request that `edge-agent enroll --node NAME` made
    Sign {
        /// The file of the request
        request: PathBuf,
        /// Where to put the answer; standard output without it
        #[arg(long)]
        output: Option<PathBuf>,
        #[command(flatten)]
        api: ApiArguments,
    },
    /// Throw a node out and keep it out; its name can then be signed for another
    Revoke {
        /// The node
        node: NodeId,
        #[command(flatten)]
        api: ApiArguments,
    },
}

/// Where the running hub is.
#[derive(Debug, Args)]
struct ApiArguments {
    /// The hub's HTTP API; the configuration's `api` without it
    #[arg(long, env = "HINTERLAND_HUB_API", value_name = "http://HOST:PORT")]
    api: Option<String>,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
struct QueryArguments {
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    api: ApiArguments,
}

impl Cli {
    /// Carries the command out.
    ///
    /// # Errors
    /// What went wrong, in words; `main` prints it.
    pub fn carry_out(self) -> anyhow::Result<()> {
        let mut config = Config::load(self.global.config.as_deref())?;
        if let Some(state_dir) = self.global.state_dir {
            config.state_dir = state_dir;
        }
        let client = |api: ApiArguments| Client::new(api.api.as_deref(), &config);
        match self.command {
            Command::Run(arguments) => run(config, arguments),
            Command::Ca(CaCommand::Init { name }) => authority::init(&config, &name),
            Command::Ca(CaCommand::Server { names, output }) => {
                authority::issue_server(&config, &names, &output)
            }
            Command::Status(query) => query::status(&client(query.api)?, query.output),
            Command::Nodes(query) => query::nodes(&client(query.api)?, query.output),
            Command::Workloads(query) => query::workloads(&client(query.api)?, query.output),
            Command::Describe { what, query } => {
                query::describe(&client(query.api)?, &what, query.output)
            }
            Command::Why { node, pod, query } => {
                query::why(&client(query.api)?, &node, &pod, query.output)
            }
            Command::Logs { node, pod, log, api } => pods::logs(&client(api)?, &node, &pod, log),
            Command::Exec { node, pod, exec, api } => pods::exec(&client(api)?, &node, &pod, exec),
            Command::ConfirmRegression(api) => query::confirm_regression(&client(api)?),
            Command::Node(NodeCommand::Sign { request, output, api }) => {
                query::sign(&client(api)?, &request, output.as_deref())
            }
            Command::Node(NodeCommand::Revoke { node, api }) => query::revoke(&client(api)?, &node),
            Command::Crds { output } => crds(output.as_deref()),
            Command::Version => print(concat!("hub ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()),
        }
    }
}

fn run(mut config: Config, arguments: RunArguments) -> anyhow::Result<()> {
    let RunArguments {
        manifests,
        kubernetes,
        kubeconfig,
        confirm_regression,
        listen,
        advertise,
        broker,
        api,
    } = arguments;
    if manifests.is_some() {
        config.kubernetes = None;
    }
    if kubernetes {
        let kubernetes = config.kubernetes.get_or_insert_default();
        kubernetes.kubeconfig = kubeconfig.or(kubernetes.kubeconfig.take());
        kubernetes.confirm_regression |= confirm_regression;
    }
    config.manifests = manifests.unwrap_or(config.manifests);
    config.listen = listen.unwrap_or(config.listen);
    config.advertise = advertise.or(config.advertise);
    config.broker = broker.or(config.broker);
    config.api = api.unwrap_or(config.api);
    config.check()?;
    let settled = shared::io::anew::settle_allocator();
    begin_log(config.log_format);
    if let Err(error) = settled {
        warn!(
            error = shared::in_words(&error),
            "the allocator is not set up: more memory is taken"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime of tasks")?;
    runtime.block_on(shell::run(&config))?;
    Ok(())
}

fn crds(output: Option<&Path>) -> anyhow::Result<()> {
    let Some(folder) = output else { return print(api::crds_yaml()?.as_bytes()) };
    for (name, text) in api::crd_files()? {
        let file = folder.join(name);
        std::fs::write(&file, text)
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    Ok(())
}

/// The hub's own log goes to standard error; answers of commands to standard output.
fn begin_log(format: LogFormat) {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Standard output; a reader that has gone away is no failure.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    match std::io::stdout().write_all(bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// An error with its causes, on standard error, by the program that was called with these arguments; the exit
/// status. That of a command in a pod is its own, and says enough.
#[must_use]
pub fn complain(arguments: &[OsString], error: &anyhow::Error) -> u8 {
    if let Some(EndedWith(status)) = error.downcast_ref() {
        return *status;
    }
    let program = if is_plugin(arguments) { "kubectl hinterland" } else { "hub" };
    // Nobody reads it: there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{program}: {error:#}");
    1
}
