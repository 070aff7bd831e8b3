//! Pods, an agent and a containerd that are killed at random, again and again: all come back, none twice, nothing
//! is left. The seed is printed; `CHURN_SEED` repeats it.

use crate::scene::{Agent, Node, PATIENCE, request};
use edge_agent::ports::{InstanceId, ObservedState, Runtime, RuntimeEvent, StartRequest};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rustix::process::Signal;
use shared::model::PodId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tests::real::process::signal;

const PODS: u32 = 8;
const KILLS: u32 = 24;

/// How the test's own small controller knows a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Starting(InstanceId),
    Running(InstanceId),
}

struct Site {
    node: Node,
    agent: Agent,
    pods: BTreeMap<PodId, Known>,
    starts: u64,
}

impl Site {
    fn new() -> Self {
        let node = Node::new();
        let agent = Agent::new(&node);
        let mut site = Self { node, agent, pods: BTreeMap::new(), starts: 0 };
        pods().for_each(|pod| site.start(pod));
        site
    }

    fn start(&mut self, pod: PodId) {
        self.starts += 1;
        let instance = InstanceId(self.starts);
        let script = format!("{}; while :; do sleep 1; done", mark(&pod));
        let request = StartRequest { pod: pod.clone(), ..request(self.starts, &script) };
        self.agent.within(|runtime| runtime.start(request));
        self.pods.insert(pod, Known::Starting(instance));
    }

    fn begin_anew(&mut self, pod: PodId, instance: InstanceId) {
        self.agent.within(|runtime| runtime.forget(&pod, instance, true));
        self.start(pod);
    }

    /// The agent dies and comes back.
    fn replace_agent(&mut self) {
        self.agent = Agent::new(&self.node);
        self.pods.clear();
        for observation in self.agent.observe() {
            let instance = observation.instance;
            match observation.state {
                ObservedState::Running { .. } => {
                    self.pods.insert(observation.pod, Known::Running(instance));
                }
                _ => self.begin_anew(observation.pod, instance),
            }
        }
        for pod in pods().filter(|pod| !self.pods.contains_key(pod)).collect::<Vec<_>>() {
            self.start(pod);
        }
    }

    fn take(&mut self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Started { pod, instance, .. } => {
                self.pods.insert(pod, Known::Running(instance));
            }
            RuntimeEvent::StartFailed { pod, instance, .. }
            | RuntimeEvent::Exited { pod, instance, .. } => self.begin_anew(pod, instance),
            event => panic!("nobody asked for {event:?}"),
        }
    }

    /// Waits until all pods run, and have for a moment.
    fn settle(&mut self) {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < PATIENCE, "they do not settle: {:?}", self.pods);
            let event = self.agent.event_within(Duration::from_millis(1500));
            self.assert_none_runs_twice();
            match event {
                Some(event) => self.take(event),
                None if self.pods.values().all(|known| matches!(known, Known::Running(_))) => {
                    return;
                }
                None => {}
            }
        }
    }

    fn copies(&self) -> BTreeMap<PodId, usize> {
        let read = |id: u32, name: &str| {
            let text = std::fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        let processes = self.node.containerd.processes().into_iter();
        // A child has its parent's command line until it is its own program.
        let first = processes.filter(|id| {
            read(*id, "status").lines().any(|l| l.starts_with("NSpid:") && l.ends_with("\t1"))
        });
        let lines = first.map(|id| read(id, "cmdline"));
        let lines: Vec<String> = lines.collect();
        pods()
            .map(|pod| {
                let mark = mark(&pod);
                let copies = lines.iter().filter(|line| line.contains(&mark)).count();
                (pod, copies)
            })
            .collect()
    }

    #[track_caller]
    fn assert_none_runs_twice(&self) {
        let copies = self.copies();
        assert!(copies.values().all(|count| *count <= 1), "{copies:?}");
    }
}

fn pods() -> impl Iterator<Item = PodId> {
    (0..PODS).map(|number| format!("default/churn-{number}").parse().unwrap())
}

/// What the command line of a pod's first process has, and no other's.
fn mark(pod: &PodId) -> String {
    format!("echo pod-{}-here", pod.name())
}

#[test]
fn after_kills_of_agent_shims_containerd_and_power_every_pod_runs_once_and_nothing_is_left() {
    let seed = std::env::var("CHURN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("CHURN_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut site = Site::new();
    for _ in 0..KILLS {
        // Some kills hit what has just been killed.
        if random.next_u32().is_multiple_of(3) {
            site.settle();
        }
        match random.next_u32() % 8 {
            0..3 => site.replace_agent(),
            3..6 => {
                let processes = site.node.containerd.processes();
                let at = random.next_u32() as usize % processes.len().max(1);
                processes.get(at).into_iter().for_each(|id| signal(*id, Signal::KILL));
            }
            6 => {
                site.node.containerd.kill();
                site.node.containerd.resume().unwrap();
            }
            _ => {
                site.node.containerd.cut_power().unwrap();
                site.node.containerd.resume().unwrap();
                site.replace_agent();
            }
        }
    }
    site.settle();
    assert!(site.copies().values().all(|count| *count == 1), "{:?}", site.copies());
    for (pod, known) in std::mem::take(&mut site.pods) {
        let Known::Running(instance) = known else { panic!("{pod} is {known:?}") };
        site.agent.within(|runtime| runtime.stop(&pod, instance, 0));
        site.agent.event();
        site.agent.within(|runtime| runtime.forget(&pod, instance, false));
    }
    site.node.assert_clean();
}
