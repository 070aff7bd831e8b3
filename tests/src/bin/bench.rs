//! `make bench`: every figure as `figure: NAME VALUE UNIT`, each under a line that says how it was
//! measured. Real processes on this machine's disk; nothing here asserts a limit.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use tests::figures::{Figure, all};

fn main() -> ExitCode {
    let only = std::env::args().nth(1);
    let names: Vec<&str> = all().iter().map(|(name, _)| *name).collect();
    if let Some(only) = only.as_deref().filter(|only| !names.contains(only)) {
        eprintln!("no figures are called {only:?}: expected one of {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let mut failed = false;
    for (name, measure) in all() {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        match measure() {
            Ok(figures) => figures.iter().for_each(show),
            Err(error) => {
                failed = true;
                eprintln!("{name} could not be measured: {error:#}");
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn show(figure: &Figure) {
    println!("# {}", figure.how);
    println!("figure: {} {} {}", figure.name, figure.value, figure.unit);
}
