//! The loop: one event after the other into the core, its effects performed in order.
//!
//! Pods are started from the local store before the link is opened.

use super::admin::{self, Query};
use super::boot::{Booted, boot};
use super::link::Link;
use super::look::watch;
use super::outside::Outside;
use super::perform::perform;
use crate::audit::read_all;
use crate::config::Config;
use crate::core::{AgentCore, Event};
use crate::devices::{NodeDevices, look_for};
use crate::models::{ModelFolder, NodeModels};
use crate::ports::RuntimeEvent;
use crate::results::{Waiting, gather, serve_loopback};
use anyhow::Context;
use shared::io::anew::begin_anew;
use shared::io::keys::fresh_seed;
use shared::io::store::OpenError;
use shared::model::{GpuInventory, MonotonicMs, Now};
use shared::trust::enrollment::Enrollment;
use shared::wire::CallResponse;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info};

/// Without any timer the loop looks around this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Runs the agent until a signal comes. Pods go on afterwards.
///
/// # Errors
/// What keeps the agent from starting, in words.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let Begun { mut agent, enrollment, runtime, gpu_changes, answers, posts } = begin(config)?;
    let queries = admin::serve(config).await;
    let (model_changes, models) = mpsc::unbounded_channel();
    let folder = ModelFolder::new(config.places().models);
    let look = move || folder.list().ok();
    drop(tokio::spawn(watch(look, agent.core.models().clone(), model_changes)));
    let (device_changes, devices) = mpsc::unbounded_channel();
    let paths = config.allowed().devices;
    let look = move || Some(look_for(&paths));
    drop(tokio::spawn(watch(look, agent.core.devices().clone(), device_changes)));
    let mut sources = Sources {
        runtime,
        answers,
        queries,
        posts,
        gpu_changes,
        models,
        devices,
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    };
    info!(node = %enrollment.node, "running");
    while agent.turn(&mut sources).await {}
    agent.stop().await;
    Ok(())
}

/// An agent whose pods are on their way.
struct Begun {
    /// On the heap: it is large, and would be copied from one place of the stack to the next.
    agent: Box<Agent>,
    enrollment: Enrollment,
    runtime: mpsc::UnboundedReceiver<RuntimeEvent>,
    gpu_changes: mpsc::UnboundedReceiver<GpuInventory>,
    answers: mpsc::UnboundedReceiver<CallResponse>,
    posts: mpsc::Receiver<Vec<Waiting>>,
}

/// What needs nobody to be waited for. Not a part of [`run`], in whose future all of it would stay.
fn begin(config: &Config) -> anyhow::Result<Begun> {
    let booted = match boot(config) {
        Err(super::BootError::Open(OpenError::Restart { reason })) => {
            return Err(begin_anew(reason).into());
        }
        other => other.context("the agent can't start")?,
    };
    let Booted { core, outside, enrollment, tls, runtime_events, gpu_changes, answers, .. } =
        booted;
    let mut agent = Box::new(Agent { core, outside, wire_bytes: 0 });
    let (to_loop, posts) = mpsc::channel(POSTS_MAX);
    drop(tokio::spawn(gather(booted.posts, to_loop)));
    // Pods first: nothing below is needed for them.
    agent.perform_effects();
    agent.outside.link = open_link(&enrollment, tls);
    drop(tokio::spawn(serve_loopback(booted.doors)));
    Ok(Begun { agent, enrollment, runtime: runtime_events, gpu_changes, answers, posts })
}

fn open_link(enrollment: &Enrollment, tls: Arc<rustls::ClientConfig>) -> Option<Link> {
    match enrollment.broker_address() {
        Ok(address) => Some(Link::open(enrollment, address, tls, fresh_seed())),
        Err(error) => {
            // Checked when the enrolment was read; a node without a link is still a node.
            error!(error = shared::in_words(&error), "the broker's address is of no use");
            None
        }
    }
}

/// Posts of pods that were gathered and wait for the loop; a commit takes them in turn.
const POSTS_MAX: usize = 2;

/// Where events come from.
struct Sources {
    runtime: mpsc::UnboundedReceiver<RuntimeEvent>,
    answers: mpsc::UnboundedReceiver<CallResponse>,
    queries: mpsc::Receiver<Query>,
    posts: mpsc::Receiver<Vec<Waiting>>,
    gpu_changes: mpsc::UnboundedReceiver<GpuInventory>,
    models: mpsc::UnboundedReceiver<NodeModels>,
    devices: mpsc::UnboundedReceiver<NodeDevices>,
    interrupt: Signal,
    terminate: Signal,
}

/// What woke the loop.
enum Wake {
    Event(Event),
    Query(Query),
    Posts(Vec<Waiting>),
    Timeout,
    Stop,
}

struct Agent {
    core: AgentCore,
    outside: Outside,
    /// What the wire had carried when the core was told last.
    wire_bytes: u64,
}

impl Agent {
    fn perform_effects(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            if let Some(event) = perform(effect, &mut self.outside) {
                self.core.handle_event(event, self.outside.clock.now());
            }
        }
    }

    /// One wait and what follows from it; false when the agent is to stop.
    async fn turn(&mut self, sources: &mut Sources) -> bool {
        let wake = self.wait(sources).await;
        let now = self.outside.clock.now();
        self.count_wire(now);
        match wake {
            Wake::Event(event) => self.core.handle_event(event, now),
            Wake::Query(query) => self.answer(query),
            Wake::Posts(waiting) => {
                let posts = self.outside.desk.take(waiting);
                let clock = self.outside.boot_clock(now);
                self.core.handle_event(Event::Posted { posts, clock }, now);
            }
            Wake::Timeout => self.core.handle_timeout(now),
            Wake::Stop => return false,
        }
        self.perform_effects();
        self.permit_link();
        if self.outside.store.must_restart() {
            error!("the store is damaged: the agent begins anew, pods go on");
            let failure = begin_anew("records could not be read".to_owned());
            error!(error = shared::in_words(&failure), "could not begin anew");
            return false;
        }
        true
    }

    /// Tells the core what the wire has carried.
    fn count_wire(&mut self, now: Now) {
        let total = self.outside.link.as_ref().map_or(0, |link| link.wire_bytes().total());
        if total != self.wire_bytes {
            self.wire_bytes = total;
            self.core.handle_event(Event::WireBytes(total), now);
        }
    }

    /// Opens or closes the link as the byte budget allows.
    fn permit_link(&mut self) {
        let now = self.outside.clock.now();
        let Some(link) = &self.outside.link else { return };
        let permitted = self.core.permits_link(link.is_up(), now);
        self.perform_effects();
        if let Some(link) = &self.outside.link {
            link.set_permit(permitted);
        }
    }

    async fn wait(&mut self, sources: &mut Sources) -> Wake {
        let sleep = self.until_timeout();
        let link = next_link_event(&mut self.outside.link);
        tokio::select! {
            Some(event) = sources.runtime.recv() => Wake::Event(Event::Runtime(event)),
            Some(answer) = sources.answers.recv() => Wake::Event(Event::CallAnswered(answer)),
            Some(query) = sources.queries.recv() => Wake::Query(query),
            Some(posts) = sources.posts.recv() => Wake::Posts(posts),
            Some(event) = link => Wake::Event(event),
            Some(gpus) = sources.gpu_changes.recv() => Wake::Event(Event::Inventory(gpus)),
            Some(models) = sources.models.recv() => Wake::Event(Event::Models(models)),
            Some(devices) = sources.devices.recv() => Wake::Event(Event::Devices(devices)),
            _ = sources.interrupt.recv() => Wake::Stop,
            _ = sources.terminate.recv() => Wake::Stop,
            () = tokio::time::sleep(sleep) => Wake::Timeout,
        }
    }

    fn until_timeout(&self) -> Duration {
        let now = self.outside.clock.now().monotonic;
        let wait = |due: MonotonicMs| Duration::from_millis(due.since_ms(now));
        self.core.poll_timeout().map_or(LONGEST_SLEEP, wait).min(LONGEST_SLEEP)
    }

    fn answer(&mut self, query: Query) {
        match query {
            Query::Status(reply) => {
                let link = self.outside.link.as_ref().map(Link::status);
                // Whoever asked may be gone.
                let _ = reply.send(self.core.status(link.unwrap_or_default()));
            }
            Query::Call { method, reply } => {
                let ticket = self.outside.calls.begin_local(reply);
                let now = self.outside.clock.now();
                self.core.handle_event(Event::LocalCall { ticket, method }, now);
            }
            Query::Audit(reply) => {
                let records = read_all(&self.outside.store, self.core.newest_audit_record());
                let _ = reply.send(records.map_err(|error| shared::in_words(&error)));
            }
        }
    }

    /// Keeps what is in memory and says good-bye. Pods go on.
    async fn stop(&mut self) {
        info!("stopping; pods go on");
        self.core.handle_event(Event::Flush, self.outside.clock.now());
        self.perform_effects();
        if let Some(link) = self.outside.link.take() {
            link.close().await;
        }
    }
}

async fn next_link_event(link: &mut Option<Link>) -> Option<Event> {
    match link {
        Some(link) => link.next_event().await,
        None => std::future::pending().await,
    }
}
