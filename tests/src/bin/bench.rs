//! `make bench`: every figure as `figure: NAME VALUE UNIT`, each under a line that says how it was
//! measured. Real processes on this machine's disk; nothing here asserts a limit.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use tests::figures::{Figure, all};

fn main() -> ExitCode {
    let only = std::env::args().nth(1);
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
