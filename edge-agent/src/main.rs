//! The agent's program: wires, and nothing else.

use clap::Parser;
use edge_agent::cli::Cli;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A shim stays small, and a probe of the store may break its process: before all else.
    let early = edge_agent::runtime::process::shim_if_asked(&arguments)
        .or_else(|| shared::io::store::probe_if_asked(&arguments));
    if let Some(code) = early {
        return ExitCode::from(code);
    }
    shared::io::anew::end_on_panic();
    shared::io::tls::install_crypto_provider();
    match Cli::parse().carry_out() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(edge_agent::cli::complain(&error)),
    }
}
