//! The file classifier: an inference server in one binary, with its model inside.
//!
//! It wires options, log, model and HTTP server, and nothing else. The port opens before the model
//! loads, so that probes are answered from the first moment; it keeps no state. Run as a pod it
//! hands each answer to the agent, over the socket that the agent gave it; it opens no other connection.

mod classifier;
mod features;
mod labels;
mod metrics;
mod model;
mod results;
mod server;
mod window;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::net::TcpListener;

use crate::results::Results;
use crate::server::Service;

/// Threads that run the model: one holds one core for some ten milliseconds, so more of them than a
/// small box has cores would only make every answer later.
const INFERENCE_THREADS_MAX: usize = 4;

/// Tells the type of a file from its bytes, over HTTP.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Address and port to listen on; port 0 takes a free one and logs it.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let options = Options::parse();
    tracing_subscriber::fmt().json().with_target(false).flatten_event(true).init();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!(reason = format!("{reason:#}"), "the file classifier stops");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(cores.min(INFERENCE_THREADS_MAX))
        .build()?;
    let served = runtime.block_on(listen_and_serve(options.listen));
    // A run of the model can't be cancelled and nobody waits for its answer any more.
    runtime.shutdown_background();
    served
}

async fn listen_and_serve(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|cause| anyhow::anyhow!(cause).context(format!("listening on {address}")))?;
    let bound = listener.local_addr()?;
    tracing::info!(address = %bound, "listening on {bound}");
    server::serve(listener, Arc::new(Service::handing_results_in(Results::to_agent()))).await
}
