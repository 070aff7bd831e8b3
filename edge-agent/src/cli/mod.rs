//! The commands of the agent, and nothing of what they do.

mod enroll;
mod models;
mod pods;
mod query;
mod table;

use crate::config::{Config, LogFormat};
use crate::shell;
use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::io::remote::{EndedWith, ExecBody, LogOrder, parse_time};
use shared::model::{ModelDigest, NodeId, PodId};
use std::path::PathBuf;
use std::time::Duration;
use tracing::warn;

/// Keeps inference pods running on this node, with or without a network.
#[derive(Debug, Parser)]
#[command(name = "edge-agent", version, about, max_term_width = 100)]
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
    #[arg(long, global = true, env = "HINTERLAND_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// The folder of keys, store and pods; overrides `state_dir`
    #[arg(long, global = true, env = "HINTERLAND_AGENT_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run pods until a signal comes; pods outlive the agent
    Run(RunArguments),
    #[command(flatten)]
    Other(OtherCommand),
}

/// What ends by itself.
#[derive(Debug, Subcommand)]
enum OtherCommand {
    /// Make this node's keys and a request for the hub to sign, or accept the hub's answer
    Enroll(EnrollArguments),
    /// Show what runs, what does not and why, and how far hub and node agree
    Status(StatusArguments),
    /// Show the last lines of a pod's log
    Logs(LogsArguments),
    /// Run a command in a pod: without a terminal and without input
    Exec(ExecArguments),
    /// Show who read logs and ran commands, the oldest first
    Audit(StatusArguments),
    /// Put models on this node, list them, or remove them
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Examine the store of an agent that does not run
    #[command(subcommand)]
    Store(StoreCommand),
    /// Show the version
    Version,
}

/// Either `--node`, or `--accept`.
#[derive(Debug, Args)]
struct EnrollArguments {
    /// The node's name: a-z, 0-9 and '-', at most 63 characters
    #[arg(long, required_unless_present = "accept", conflicts_with = "accept")]
    node: Option<NodeId>,
    /// Where to put the request; standard output without it
    #[arg(long)]
    output: Option<PathBuf>,
    /// The file that the hub answered with
    #[arg(long)]
    accept: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Make up GPUs, as in `2x8Gi`; status and logs say so
    #[arg(long, value_name = "COUNTxMEMORY")]
    simulate_gpus: Option<String>,
    /// Where to serve health and metrics; loopback only
    #[arg(long)]
    admin: Option<std::net::SocketAddr>,
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
struct StatusArguments {
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
struct LogsArguments {
    /// The pod, as in `default/ocr-0`
    pod: PodId,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(Debug, Args)]
struct ExecArguments {
    /// The pod, as in `default/ocr-0`
    pod: PodId,
    #[command(flatten)]
    exec: ExecOptions,
}

/// What of a log is shown.
#[derive(Debug, Args)]
struct LogOptions {
    /// How many lines; 100 unless `--since` is given
    #[arg(long, alias = "lines")]
    tail: Option<u32>,
    /// None that is older, as in `10m`
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Duration>,
    /// Go on with what is printed from now on
    #[arg(long, short)]
    follow: bool,
    /// For how long to follow
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_time)]
    timeout: Duration,
    /// The container
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
}

impl LogOptions {
    fn order(self) -> LogOrder {
        let Self { tail, since, follow, timeout, container } = self;
        LogOrder { tail, since, follow: follow.then_some(timeout), container }
    }
}

/// What is run.
#[derive(Debug, Args)]
struct ExecOptions {
    /// When it is killed, as in `90s`; at most 10m
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_time)]
    timeout: Duration,
    /// The container
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
    /// The program and its arguments, after `--`
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl ExecOptions {
    fn body(self) -> ExecBody {
        let timeout_ms = u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX);
        ExecBody { command: self.command, timeout_ms, container: self.container }
    }
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Read every record and check its seal
    Verify,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Copy a model from a file, and print its digest and its bytes
    Import {
        /// The file, as on a stick
        file: PathBuf,
        /// What it must be, as in `sha256:…`
        #[arg(long)]
        digest: Option<ModelDigest>,
    },
    /// Print the digest and the bytes of each model
    List,
    /// Remove a model; a pod that is started later does not find it
    Remove {
        /// Which, as in `sha256:…`
        digest: ModelDigest,
    },
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
        match self.command {
            Command::Run(arguments) => run(config, arguments),
            Command::Other(other) => other.carry_out(&config),
        }
    }
}

impl OtherCommand {
    /// A function of its own in the program too: not a part of what stays in memory while the agent runs.
    #[inline(never)]
    fn carry_out(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Enroll(arguments) => match (arguments.node, arguments.accept) {
                (Some(node), _) => enroll::request(config, &node, arguments.output.as_deref()),
                (None, Some(answer)) => enroll::accept(config, &answer),
                (None, None) => anyhow::bail!("expected --node or --accept"),
            },
            Self::Status(arguments) => query::status(config, arguments.output == Output::Json),
            Self::Logs(arguments) => pods::logs(config, &arguments.pod, &arguments.log.order()),
            Self::Exec(arguments) => pods::exec(config, &arguments.pod, &arguments.exec.body()),
            Self::Audit(arguments) => pods::audit(config, arguments.output == Output::Json),
            Self::Models(ModelsCommand::Import { file, digest }) => {
                models::import(config, &file, digest)
            }
            Self::Models(ModelsCommand::List) => models::list(config),
            Self::Models(ModelsCommand::Remove { digest }) => models::remove(config, digest),
            Self::Store(StoreCommand::Verify) => query::verify_store(config),
            Self::Version => query::version(),
        }
    }
}

/// Says on standard error why a command failed, with all causes; the exit status. That of a command in a pod is its
/// own, and says enough.
#[allow(clippy::print_stderr)]
#[must_use]
pub fn complain(error: &anyhow::Error) -> u8 {
    if let Some(EndedWith(status)) = error.downcast_ref() {
        return *status;
    }
    eprintln!("edge-agent: {error:#}");
    1
}

/// The agent's own log goes to standard error, where the service manager takes it.
fn begin_log(format: LogFormat) {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    // Lost only where a log was begun already.
    let _ = match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

/// Sockets that are looked at in one turn: an agent has a few dozen, and tokio's 1 024 take 12 KiB.
const IO_EVENTS_PER_TICK: usize = 64;

fn run(mut config: Config, arguments: RunArguments) -> anyhow::Result<()> {
    if arguments.simulate_gpus.is_some() {
        config.simulate_gpus = arguments.simulate_gpus;
    }
    if let Some(admin) = arguments.admin {
        anyhow::ensure!(admin.ip().is_loopback(), "--admin: expected a loopback address");
        config.admin = admin;
    }
    let settled = shared::io::anew::settle_allocator();
    begin_log(config.log_format);
    if let Err(error) = settled {
        warn!(
            error = shared::in_words(&error),
            "the allocator is not set up: more memory is taken"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_io_events_per_tick(IO_EVENTS_PER_TICK)
        .enable_all()
        .build()
        .context("could not start the runtime of tasks")?;
    runtime.block_on(shell::run(&config))?;
    Ok(())
}
