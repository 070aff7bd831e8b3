//! Wires the agent, and nothing else.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match edge_agent::runtime::process::shim_if_asked(&arguments) {
        Some(status) => ExitCode::from(status),
        None => ExitCode::SUCCESS,
    }
}
