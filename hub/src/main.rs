//! Wires the hub, and nothing else.

use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(status) = shared::io::store::probe_if_asked(&arguments) {
        return ExitCode::from(status);
    }
    shared::io::tls::install_crypto_provider();
    let carried_out = if hub::cli::is_plugin(&arguments) {
        hub::cli::Plugin::parse().carry_out()
    } else {
        hub::cli::Cli::parse().carry_out()
    };
    match carried_out {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(hub::cli::complain(&arguments, &error)),
    }
}
