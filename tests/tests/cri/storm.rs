//! A hundred pods and five hundred kills of agent, shims, containers and containerd, on a whole node whose hub is
//! gone: at no moment does a pod run twice, all are there in the end, and nothing is left of them afterwards.
//!
//! The seed is printed; `STORM_SEED` repeats its choices, not its timing.

use crate::site::{PATIENCE, Site, ready};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tests::real::containerd::Containerd;
use tests::real::process::{signal, wait_until};

const WORKLOADS: usize = 4;
const PODS_EACH: usize = 25;
const PODS: usize = WORKLOADS * PODS_EACH;

const KILLS: u32 = 500;

/// After so many, all is given the time to come back.
const KILLS_UNTIL_REST: u32 = 125;

/// The longest time between two kills.
const PAUSE_MS: u32 = 250;

/// A pod whose containers were killed again and again waits longer each time.
const REST: Duration = Duration::from_secs(420);

fn manifest(number: usize) -> String {
    let image = Containerd::image();
    format!(
        "apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: storm-{number}}}
spec:
  placement: {{replicasPerNode: {PODS_EACH}}}
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: main, image: {image}, command: [sleep, '100000']}}]
"
    )
}

/// How many times each pod runs: the first processes of its containers, by what they are told of their pod.
fn copies(containerd: &Containerd) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for id in containerd.processes() {
        let read = |name: &str| std::fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
        // A child has its parent's memory until it is its own program.
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let is_first = status.lines().any(|l| l.starts_with("NSpid:") && l.ends_with("\t1"));
        let environment = String::from_utf8_lossy(&read("environ")).into_owned();
        let told = environment.split('\0').find_map(|v| v.strip_prefix("HINTERLAND_POD_NAME="));
        if let Some(pod) = told.filter(|_| is_first && read("cmdline").starts_with(b"sleep")) {
            *copies.entry(pod.to_owned()).or_default() += 1;
        }
    }
    copies
}

#[track_caller]
fn assert_none_runs_twice(containerd: &Containerd) {
    let twice: Vec<_> = copies(containerd).into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// Waits until every pod is ready, and runs.
#[track_caller]
fn rest(site: &Site) {
    let begin = Instant::now();
    loop {
        assert_none_runs_twice(&site.containerd);
        let status = site.agent.status();
        let count = status.as_ref().map_or(0, ready);
        if count == PODS && copies(&site.containerd).len() == PODS {
            return;
        }
        if begin.elapsed() > REST {
            let pods = status.map(|status| status["pods"].clone()).unwrap_or_default();
            let waiting = pods.as_array().into_iter().flatten().filter(|pod| pod["ready"] != true);
            let waiting: Vec<_> = waiting.collect();
            panic!("{count} are ready: {waiting:?}, the agent: {}", site.agent.log());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_hundred_pods_outlive_five_hundred_kills_of_agent_shims_and_containerd() {
    let seed = std::env::var("STORM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("STORM_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut site = Site::new();
    for number in 0..WORKLOADS {
        site.hub.apply(&format!("storm-{number}.yaml"), &manifest(number)).unwrap();
    }
    rest(&site);
    // Nobody tells the agent anything from now on.
    site.hub.kill();
    let mut kills = BTreeMap::new();
    for number in 1..=KILLS {
        let victim = match random.next_u32() % 16 {
            0..10 => {
                site.agent.kill();
                site.agent.start().unwrap();
                "agent"
            }
            10..14 => {
                let processes = site.containerd.processes();
                let at = random.next_u32() as usize % processes.len().max(1);
                processes.get(at).into_iter().for_each(|id| signal(*id, Signal::KILL));
                "process"
            }
            _ => {
                site.containerd.kill();
                site.containerd.resume().unwrap();
                "containerd"
            }
        };
        *kills.entry(victim).or_insert(0) += 1;
        if number % KILLS_UNTIL_REST == 0 {
            rest(&site);
        } else {
            std::thread::sleep(Duration::from_millis(u64::from(random.next_u32() % PAUSE_MS)));
        }
        if number % 5 == 0 {
            assert_none_runs_twice(&site.containerd);
        }
    }
    println!("killed: {kills:?}");
    let all = copies(&site.containerd);
    assert!(all.len() == PODS && all.values().all(|count| *count == 1), "{all:?}");
    site.hub.start().unwrap();
    for number in 0..WORKLOADS {
        site.hub.withdraw(&format!("storm-{number}.yaml")).unwrap();
    }
    wait_until("nothing of them is left", PATIENCE * 3, || {
        let leaks = site.containerd.leaks()?;
        std::thread::sleep(Duration::from_millis(500));
        anyhow::ensure!(leaks.is_empty(), "{} are left, as {:?}", leaks.len(), leaks.first());
        Ok(true)
    })
    .unwrap();
}
