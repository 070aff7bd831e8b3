//! XID errors, as the driver tells of them while they happen: on a thread that waits for them.
//!
//! A GPU that offers no events is watched by its readings alone. An error that came before the agent is
//! not told: a GPU that it left unusable can't be read.

use super::super::xid::XidMarks;
use super::devices::{answering, uuid};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{EventSet, Nvml};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// How often the driver is asked for errors: pods leave a GPU within a sample's interval of one.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Errors that are taken of one GPU in one turn, so that one that tells without end holds up no other.
const EVENTS_PER_TURN_MAX: u32 = 64;

/// The number that NVIDIA gives to an error that its driver does not know.
const UNKNOWN_XID: u64 = 999;

/// The errors of a driver's GPUs since it was loaded. The thread ends after its owner.
#[derive(Debug)]
pub(super) struct XidWatch {
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    marks: Mutex<XidMarks>,
    has_news: AtomicBool,
    is_abandoned: AtomicBool,
}

impl XidWatch {
    /// Begins to wait for errors.
    pub(super) fn begin(nvml: &Arc<Nvml>) -> Self {
        let seen = Arc::new(Seen::default());
        let (nvml, for_thread) = (Arc::clone(nvml), Arc::clone(&seen));
        let watch = move || for_thread.watch(&nvml);
        if let Err(error) = std::thread::Builder::new().name("xids".to_owned()).spawn(watch) {
            error!(%error, "could not begin to wait for errors of the GPUs");
        }
        Self { seen }
    }

    /// Why pods are kept away from a GPU.
    pub(super) fn reason(&self, gpu: &str) -> Option<String> {
        self.seen.marks().reason(gpu, Instant::now())
    }

    /// Whether a GPU's health has changed since this was asked last.
    pub(super) fn take_news(&self) -> bool {
        self.seen.has_news.swap(false, Relaxed)
    }
}

impl Drop for XidWatch {
    fn drop(&mut self) {
        self.seen.is_abandoned.store(true, Relaxed);
    }
}

impl Seen {
    fn marks(&self) -> MutexGuard<'_, XidMarks> {
        // Marks are inserted whole: a panic leaves none half done.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, nvml: &Nvml) {
        let sets: Vec<(String, EventSet<'_>)> = sets(nvml);
        if sets.is_empty() {
            info!("no GPU here tells of its errors as they happen");
        }
        while !sets.is_empty() && !self.is_abandoned.load(Relaxed) {
            for (gpu, set) in &sets {
                self.take_events(gpu, set);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn take_events(&self, gpu: &str, set: &EventSet<'_>) {
        for _ in 0..EVENTS_PER_TURN_MAX {
            // No event, or no driver: that is noticed where the GPUs are read.
            let Ok(event) = set.wait(0) else { return };
            let xid = match event.event_data {
                Some(XidError::Value(xid)) => xid,
                Some(XidError::Unknown) => UNKNOWN_XID,
                None => continue,
            };
            let now = Instant::now();
            let mut marks = self.marks();
            if marks.note(gpu, xid, now) {
                let reason = marks.reason(gpu, now).unwrap_or_default();
                warn!(gpu, xid, reason, "an error of a GPU: its pods leave");
                self.has_news.store(true, Relaxed);
            } else {
                info!(gpu, xid, "an error on a GPU that concerns no other pod, or adds nothing");
            }
        }
    }
}

/// A set of its own for each GPU that offers events: one that can't be watched spoils no other's.
fn sets(nvml: &Nvml) -> Vec<(String, EventSet<'_>)> {
    let mut sets = Vec::new();
    for device in answering(nvml) {
        let Ok(uuid) = uuid(&device) else { continue };
        let watched = nvml.create_event_set().and_then(|set| {
            let registered = device.register_events(EventTypes::CRITICAL_XID_ERROR, set);
            registered.map_err(|refused| refused.error)
        });
        match watched {
            Ok(set) => sets.push((uuid, set)),
            Err(NvmlError::NotSupported) => {}
            Err(error) => warn!(%error, gpu = uuid, "errors of this GPU are not told"),
        }
    }
    sets
}
