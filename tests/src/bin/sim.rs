//! `make sim`: the simulated world over many seeds, one seed with its event log, or the scenarios.

#![allow(clippy::print_stdout)]

use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;
use tests::sim::{Options, run_seed_with_log, scenarios};

/// Runs the simulated world.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds, from `--first` on
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// This seed alone, with its event log
    #[arg(long)]
    seed: Option<u64>,
    /// The worlds with a plot: 400 days offline, and a week within each budget
    #[arg(long)]
    scenarios: bool,
    /// Nodes in each world
    #[arg(long, default_value_t = 2)]
    agents: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options { agents: arguments.agents };
    match arguments.seed {
        _ if arguments.scenarios => plots(),
        Some(seed) => one(seed, options),
        None => many(arguments.first, arguments.seeds, options),
    }
}

fn plots() -> ExitCode {
    let offline = scenarios::offline_for_400_days();
    println!("400 days offline: {offline:?}");
    let impostors = scenarios::impostors();
    println!("impostors: {impostors:?}");
    let misaddressed = scenarios::what_was_signed_for_another();
    println!("signed for another: {misaddressed:?}");
    let weeks = scenarios::BUDGETS_BYTES_PER_DAY.map(scenarios::week_within);
    weeks.iter().for_each(|week| println!("{week:?}"));
    let told = [&offline, &impostors, &misaddressed];
    let held = told.iter().all(|told| told.is_ok()) && weeks.iter().all(Result::is_ok);
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, options: Options) -> ExitCode {
    let (outcome, log) = run_seed_with_log(seed, options);
    log.iter().for_each(|line| println!("{line}"));
    match outcome {
        Ok(report) => {
            println!("seed {seed}: {report:?}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("seed {seed}: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn many(first: u64, seeds: u64, options: Options) -> ExitCode {
    let begin = Instant::now();
    let failures = tests::sim::run_seeds(first..first + seeds, options);
    let seconds = begin.elapsed().as_secs_f64();
    for failure in &failures {
        let log = failure.log.as_ref().map_or("not kept".into(), |path| path.to_string_lossy());
        println!("seed {}: {}\n    event log: {log}", failure.seed, failure.problem);
    }
    if let Some(failure) = failures.first() {
        println!("run it alone with its event log: make sim SEED={}", failure.seed);
    }
    // Seeds are far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    let rate = seeds as f64 / seconds;
    println!("figure: sim_seeds_per_s {rate:.1} 1/s");
    println!("figure: sim_failures {} of {seeds} seeds from {first} on", failures.len());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
