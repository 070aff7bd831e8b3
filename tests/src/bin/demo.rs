//! `make demo`: the main job on this machine, told as it goes, with figures.
//!
//! Ends by itself with a summary and status 0 only if every step held. Leaves no process and no file
//! outside its own folder, which it removes. `KEEP=1` leaves everything running and says what to try;
//! `RUNTIME=cri` has the pod as a container of a containerd that the demo starts (needs root).

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tests::story::{Answers, Recovered, Reunited, Story};

/// Telemetry batches that pile up before the hub comes back.
const OFFLINE_BATCHES: u64 = 3;

fn main() -> ExitCode {
    let folder = PathBuf::from(std::env::var("DEMO_DIR").unwrap_or_else(|_| ".demo".to_owned()));
    let keep = std::env::var("KEEP").is_ok_and(|keep| keep == "1");
    let runtime = std::env::var("RUNTIME").unwrap_or_default();
    match demo(&folder, keep, &runtime) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            eprintln!("The logs are in {}.", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn demo(folder: &Path, keep: bool, runtime: &str) -> anyhow::Result<()> {
    let in_containers = match runtime {
        "" | "process" => false,
        "cri" => true,
        other => anyhow::bail!("RUNTIME is `{other}`: expected process or cri"),
    };
    anyhow::ensure!(!(keep && in_containers), "KEEP=1 goes with RUNTIME=process alone");
    let begin = Instant::now();
    if folder.exists() {
        tests::real::process::kill_all_of(&folder.canonicalize()?);
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    println!(
        "Hinterland: inference that outlives the network. Everything is in {}.",
        folder.display()
    );
    let mut story = if in_containers {
        Story::in_containers(&folder, "mast-17")?
    } else {
        Story::new(&folder, "mast-17")?
    };
    let figures = tell(&mut story)?;
    summarise(&figures, begin.elapsed());
    if keep {
        return leave_running(story, &folder);
    }
    story.end()?;
    let left = tests::real::process::processes_of(&folder);
    anyhow::ensure!(left.is_empty(), "processes are left: {left:?}");
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

struct Figures {
    ready: Duration,
    recovered: Recovered,
    reunited: Reunited,
}

fn tell(story: &mut Story) -> anyhow::Result<Figures> {
    chapter(1, "A hub, a node, and a certificate for keys that never leave the node");
    let joined = story.join()?;
    say(&format!(
        "MQTT 5 over mutual TLS, session sealed end to end: {} after the agent's start",
        ms(joined.in_session)
    ));

    chapter(2, "A workload is declared: a real server with a real model (Magika, file types)");
    let deployed = story.deploy()?;
    say(&format!("manifest written to pod ready: {}", ms(deployed.ready)));
    show(&deployed.answers);

    chapter(3, "The hub is killed, then the power fails; the agent starts with no network");
    let recovered = story.lose_everything()?;
    say(&format!(
        "{} processes killed with signal 9; agent started to first correct answer: {} \
        (of which the model's own load: {})",
        recovered.killed,
        ms(recovered.first_answer),
        ms(recovered.model_load)
    ));
    show(&recovered.answers);

    chapter(4, "Still offline: desired state changes at the hub, telemetry piles up on the node");
    let batches = story.wait_offline(OFFLINE_BATCHES)?;
    say(&format!("{batches} telemetry batches wait in the encrypted store; the pod goes on"));

    chapter(5, "The link returns");
    let reunited = story.reunite()?;
    say(&format!(
        "change in force and backlog delivered {} after the hub's start",
        ms(reunited.settled)
    ));
    say(&format!(
        "samples recorded by the node {}, taken by the hub {} ({} of them backfilled): none lost, none doubled",
        reunited.samples_recorded, reunited.samples_received, reunited.backfilled_samples
    ));
    say(&format!(
        "payloads since the agent's start: {} bytes in {} messages, both ways",
        reunited.link_bytes, reunited.link_messages
    ));
    Ok(Figures { ready: deployed.ready, recovered, reunited })
}

fn chapter(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

fn say(line: &str) {
    println!("   {line}");
}

fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

fn show(answers: &Answers) {
    for (name, label, score, took) in &answers.rows {
        say(&format!("{name:<22} is {label:<12} ({:.0} % sure, {})", score * 100.0, ms(*took)));
    }
}

fn summarise(figures: &Figures, took: Duration) {
    println!("\nSummary: every step held, in {:.0} s", took.as_secs_f64());
    say(&format!("manifest to ready pod               {}", ms(figures.ready)));
    say(&format!(
        "power back to first answer, offline {} (model load {})",
        ms(figures.recovered.first_answer),
        ms(figures.recovered.model_load)
    ));
    say(&format!("hub back to everything settled      {}", ms(figures.reunited.settled)));
    say(&format!(
        "samples lost or doubled             {} of {}",
        figures.reunited.samples_recorded.abs_diff(figures.reunited.samples_received),
        figures.reunited.samples_recorded
    ));
}

/// Leaves hub, agent and pod running, and says what to try.
fn leave_running(story: Story, folder: &Path) -> anyhow::Result<()> {
    let (hub, agent, server) = (story.hub.command(&[])?, story.agent.command(&[])?, story.server);
    let line = |command: &std::process::Command| {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    };
    println!("\nLeft running. Try:");
    say(&format!("{} nodes", line(&hub)));
    say(&format!("{} why mast-17 default/file-classifier-0", line(&hub)));
    say(&format!("{} status", line(&agent)));
    say(&format!("{} logs default/file-classifier-0", line(&agent)));
    say(&format!("curl --data-binary @README.md http://{server}/v1/classify"));
    say(&format!("{}/hub/manifests is the desired state: edit it", folder.display()));
    say("`make demo` ends it and begins anew");
    std::mem::forget(story);
    Ok(())
}
