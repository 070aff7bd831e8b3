//! The Lease in the API server, and the tasks that watch and renew it.

use super::election::{Election, LEASE_SECONDS, Seen, Turn};
use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Error};
use shared::io::clock::SystemClock;
use shared::model::MonotonicMs;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

/// An API server that takes longer for a Lease has other worries; the attempt counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A Lease and who would like to hold it.
pub(crate) struct Candidate {
    api: Api<Lease>,
    name: String,
    election: Election,
    /// As it was read or written last; `None` where there is none.
    lease: Option<Lease>,
    clock: SystemClock,
}

/// The Lease, held.
pub(crate) struct Leadership {
    /// Milliseconds of the monotonic clock until which it is, unless it is renewed.
    until: Arc<AtomicU64>,
    lost: oneshot::Receiver<()>,
    release: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Leadership {
    /// Whether it is still held: to be asked before anything is done that only a leader may.
    pub(crate) fn holds(&self, now: MonotonicMs) -> bool {
        now.0 < self.until.load(Ordering::Acquire)
    }

    /// The question of [`Self::holds`], for a task.
    pub(crate) fn question(&self) -> impl Fn(MonotonicMs) -> bool + Send + Sync + use<> {
        let until = Arc::clone(&self.until);
        move |now| now.0 < until.load(Ordering::Acquire)
    }

    /// Ends when it is lost.
    pub(crate) async fn lost(&mut self) {
        // The sender is only dropped by a task that has ended, and that is as good as lost.
        let _ = (&mut self.lost).await;
    }

    /// Gives the Lease back, so that another takes over at once.
    pub(crate) async fn release(mut self) {
        self.until.store(0, Ordering::Release);
        drop(self.release.take());
        // A task that panicked has nothing to give back.
        let _ = self.task.await;
    }
}

impl Candidate {
    /// One that is called `own`, a name that no other process has.
    pub(crate) fn new(client: Client, namespace: &str, name: &str, own: String) -> Self {
        let api = Api::namespaced(client, namespace);
        let (name, election) = (name.to_owned(), Election::new(own));
        Self { api, name, election, lease: None, clock: SystemClock::new() }
    }

    /// Waits until this one leads; `tell` hears whenever another holder is seen.
    pub(crate) async fn lead(mut self, tell: impl Fn(&str)) -> Leadership {
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let events = watcher(self.api.clone(), only).default_backoff();
        self.wait_for_it(&mut pin!(events), tell).await;
        info!(lease = self.name, holder = self.election.own(), "this hub leads");
        let until = self.election.leads_until().unwrap_or_default();
        let until = Arc::new(AtomicU64::new(until.0));
        let (tell_lost, lost) = oneshot::channel();
        let (release, released) = oneshot::channel();
        let task = tokio::spawn(self.keep(Arc::clone(&until), tell_lost, released));
        Leadership { until, lost, release: Some(release), task }
    }

    fn now(&self) -> MonotonicMs {
        self.clock.now().monotonic
    }

    async fn wait_for_it<S>(&mut self, events: &mut Pin<&mut S>, tell: impl Fn(&str))
    where
        S: Stream<Item = Result<watcher::Event<Lease>, watcher::Error>>,
    {
        let mut told = String::new();
        let mut is_there = false;
        loop {
            let timer = match self.election.turn(self.now()) {
                Turn::Write => match self.write().await {
                    Ok(()) => return,
                    Err(error) => {
                        debug!(error = shared::in_words(&error), "the Lease was not taken");
                        None
                    }
                },
                Turn::Wait(until) => until,
                Turn::Lost => None,
            };
            if let Some(holder) = self.election.holder().filter(|holder| *holder != told) {
                info!(lease = self.name, holder, "another hub leads: standing by");
                tell(holder);
                told = holder.to_owned();
            }
            tokio::select! {
                () = sleep_until(timer, self.now()), if timer.is_some() => {}
                event = events.next() => self.handle(event, &mut is_there),
            }
        }
    }

    fn handle(
        &mut self,
        event: Option<Result<watcher::Event<Lease>, watcher::Error>>,
        is_there: &mut bool,
    ) {
        match event {
            Some(Ok(watcher::Event::Apply(lease) | watcher::Event::InitApply(lease))) => {
                *is_there = true;
                self.see(Some(lease));
            }
            Some(Ok(watcher::Event::Delete(_))) => self.see(None),
            Some(Ok(watcher::Event::Init)) => *is_there = false,
            Some(Ok(watcher::Event::InitDone)) if !*is_there => self.see(None),
            Some(Ok(watcher::Event::InitDone)) | None => {}
            Some(Err(error)) => {
                warn!(error = shared::in_words(&error), "the Lease of the hubs can't be watched");
            }
        }
    }

    fn see(&mut self, lease: Option<Lease>) {
        let now = self.now();
        self.election.observe(seen(lease.as_ref()), now);
        self.lease = lease;
    }

    /// Renews it until it is lost, or given back.
    async fn keep(
        mut self,
        until: Arc<AtomicU64>,
        lost: oneshot::Sender<()>,
        mut released: oneshot::Receiver<()>,
    ) {
        loop {
            let wait = match self.election.turn(self.now()) {
                Turn::Lost => break,
                Turn::Wait(moment) => moment,
                Turn::Write => {
                    self.renew().await;
                    let renewed = self.election.leads_until().unwrap_or_default();
                    until.store(renewed.0, Ordering::Release);
                    None
                }
            };
            tokio::select! {
                () = sleep_until(wait, self.now()) => {}
                _ = &mut released => return self.give_back().await,
            }
        }
        until.store(0, Ordering::Release);
        warn!(
            lease = self.name,
            holder = self.election.holder(),
            "this hub does not lead any more"
        );
        // Nobody listens: the hub is stopping anyway.
        let _ = lost.send(());
    }

    async fn renew(&mut self) {
        let Err(error) = self.write().await else { return };
        warn!(lease = self.name, error = shared::in_words(&error), "the Lease was not renewed");
        // Somebody else may have it: whoever writes to it next must know.
        let read = tokio::time::timeout(REQUEST_TIMEOUT, self.api.get_opt(&self.name)).await;
        if let Ok(Ok(lease)) = read {
            self.see(lease);
        }
    }

    /// Writes that it is ours: only over what was seen.
    async fn write(&mut self) -> Result<(), Attempt> {
        let began = self.now();
        let lease = self.ours();
        let parameters = PostParams::default();
        let request = async {
            match &self.lease {
                Some(_) => self.api.replace(&self.name, &parameters, &lease).await,
                None => self.api.create(&parameters, &lease).await,
            }
        };
        let written = match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
            Ok(written) => written.map_err(Attempt::Refused),
            Err(_) => Err(Attempt::TimedOut),
        };
        match written {
            Ok(lease) => {
                self.election.written(seen(Some(&lease)), began);
                self.lease = Some(lease);
                Ok(())
            }
            Err(error) => {
                self.election.failed(self.now());
                Err(error)
            }
        }
    }

    fn ours(&self) -> Lease {
        let before = self.lease.clone().unwrap_or_default();
        let spec = before.spec.unwrap_or_default();
        let is_ours = spec.holder_identity.as_deref() == Some(self.election.own());
        let now = Some(MicroTime(Timestamp::now()));
        let transitions = spec.lease_transitions.unwrap_or(0);
        Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..before.metadata },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.election.own().to_owned()),
                lease_duration_seconds: Some(i32::from(LEASE_SECONDS)),
                acquire_time: if is_ours { spec.acquire_time.clone() } else { now.clone() },
                renew_time: now,
                lease_transitions: Some(transitions.saturating_add(i32::from(!is_ours))),
                ..spec
            }),
        }
    }

    async fn give_back(mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let parameters = PostParams::default();
        let request = self.api.replace(&self.name, &parameters, &lease);
        match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(_)) => info!(lease = self.name, "gave the Lease back"),
            Ok(Err(error)) => {
                warn!(
                    error = shared::in_words(&error),
                    "the Lease was not given back: it runs out"
                );
            }
            Err(_) => warn!("the Lease was not given back in time: it runs out"),
        }
    }
}

/// Why a write was not taken.
#[derive(Debug, thiserror::Error)]
enum Attempt {
    #[error("the API server did not take it")]
    Refused(#[source] Error),
    #[error("the API server did not answer in time")]
    TimedOut,
}

/// What a Lease says. Its times are those of another machine: only whether they change is looked at.
fn seen(lease: Option<&Lease>) -> Seen {
    let Some(spec) = lease.and_then(|lease| lease.spec.as_ref()) else { return Seen::default() };
    let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
    let renewal = spec.renew_time.as_ref().map(|time| time.0.to_string()).unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let holds_ms = seconds.unwrap_or(u64::from(LEASE_SECONDS)).saturating_mul(1000);
    Seen { holder, renewal, holds_ms }
}

fn sleep_until(moment: Option<MonotonicMs>, now: MonotonicMs) -> impl Future<Output = ()> {
    let wait_ms = moment.map_or(0, |moment| moment.since_ms(now));
    tokio::time::sleep(Duration::from_millis(wait_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_without_a_holder_or_with_nonsense_in_it_is_free_or_holds_as_long_as_any() {
        assert_eq!(seen(None), Seen::default());
        let lease = |holder: &str, seconds| Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: seconds,
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        assert_eq!(seen(Some(&lease("", Some(1)))).holder, None);
        let odd = seen(Some(&lease("a", Some(-3))));
        assert_eq!((odd.holder.as_deref(), odd.holds_ms), (Some("a"), 15_000));
        assert_eq!(seen(Some(&lease("a", Some(7)))).holds_ms, 7_000);
    }
}
