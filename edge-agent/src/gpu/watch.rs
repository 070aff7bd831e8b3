//! Looks at the GPUs on a thread of its own, since a driver may take seconds or hang, and pods
//! without GPUs must not wait for it.
//!
//! What the driver does not answer is unknown, not absent: nothing is told then, and what was told
//! last stands.

use super::node::NodeGpus;
use super::{GpuProcess, GpuSample, GpuSource, SimulatedGpus, SimulationError};
use shared::model::GpuInventory;
use shared::telemetry::Series;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::{error, warn};

/// How often the inventory is taken: a driver that arrives late, a GPU that fails.
const INVENTORY_INTERVAL: Duration = Duration::from_secs(30);

/// Readings are taken at least so often, whatever is kept of them: heat and load are judged by them.
const READING_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// What was read longer ago says nothing of now.
const READING_LIFETIME: Duration = Duration::from_secs(30);

/// The GPUs of this node, as they were seen last.
#[derive(Debug)]
pub struct Gpus {
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    latest: Mutex<Latest>,
    first: Condvar,
}

#[derive(Debug, Default)]
struct Latest {
    inventory: Option<GpuInventory>,
    samples: Vec<GpuSample>,
    /// When these were read; a driver that hangs reads none.
    read_at: Option<Instant>,
    processes: Vec<GpuProcess>,
    /// The owner is gone: the thread ends at its next turn.
    abandoned: bool,
}

impl Gpus {
    /// Begins to look: at those that `simulate` describes, as in `2x8Gi`, else at the machine's: by NVML,
    /// whose library is at `nvml_library` or where drivers install it, or a Jetson's. Readings are taken every `sample_interval`, changes of the inventory are sent to `changes`.
    ///
    /// # Errors
    /// [`SimulationError`] when `simulate` describes no GPUs.
    pub fn open(
        simulate: Option<&str>,
        nvml_library: Option<&Path>,
        sample_interval: Duration,
        changes: mpsc::UnboundedSender<GpuInventory>,
    ) -> Result<Self, SimulationError> {
        let simulated = simulate.map(SimulatedGpus::parse).transpose()?;
        if simulated.is_some() {
            warn!("the GPUs of this node are SIMULATED: they compute nothing");
        }
        let seen = Arc::new(Seen::default());
        let for_thread = Arc::clone(&seen);
        let library = nvml_library.map(Path::to_owned);
        let look = move || match simulated {
            Some(inventory) => {
                for_thread.look(&mut SimulatedGpus::new(inventory), sample_interval, &changes);
            }
            None => {
                let mut gpus = NodeGpus::open(library.as_deref());
                for_thread.look(&mut gpus, sample_interval, &changes);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("gpus".to_owned()).spawn(look) {
            error!(%error, "could not begin to look at the GPUs");
        }
        Ok(Self { seen })
    }

    /// The inventory, when it is known within `timeout`. Blocks; without a driver it is known at
    /// once.
    #[must_use]
    pub fn first_inventory(&self, timeout: Duration) -> Option<GpuInventory> {
        let unknown = |latest: &mut Latest| latest.inventory.is_none();
        let latest = self.seen.latest();
        let waited = self.seen.first.wait_timeout_while(latest, timeout, unknown);
        waited.unwrap_or_else(PoisonError::into_inner).0.inventory.clone()
    }

    /// The newest readings.
    #[must_use]
    pub fn sample(&self) -> BTreeMap<Series, f64> {
        let latest = self.seen.latest();
        let reading = |sample: &GpuSample| {
            (Series::new(sample.name).with("UUID", &sample.uuid), sample.value)
        };
        let is_fresh = latest.read_at.is_some_and(|at| at.elapsed() < READING_LIFETIME);
        latest.samples.iter().filter(|_| is_fresh).map(reading).collect()
    }

    /// Who uses how much memory, as it was seen last.
    #[must_use]
    pub fn processes(&self) -> Vec<GpuProcess> {
        self.seen.latest().processes.clone()
    }
}

impl Drop for Gpus {
    fn drop(&mut self) {
        self.seen.latest().abandoned = true;
    }
}

impl Seen {
    fn latest(&self) -> MutexGuard<'_, Latest> {
        // Values are replaced whole: a panic leaves none half done.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(
        &self,
        source: &mut dyn GpuSource,
        sample_interval: Duration,
        changes: &mpsc::UnboundedSender<GpuInventory>,
    ) {
        let mut inventory_due = Instant::now();
        loop {
            let is_due = inventory_due <= Instant::now();
            if is_due {
                inventory_due += INVENTORY_INTERVAL;
            }
            let is_wanted = source.has_news() || is_due;
            if is_wanted && !self.take_inventory(source, changes) {
                return;
            }
            let (samples, processes) = (source.samples(), source.processes());
            let mut latest = self.latest();
            (latest.samples, latest.processes) = (samples, processes);
            latest.read_at = Some(Instant::now());
            if latest.abandoned {
                return;
            }
            drop(latest);
            std::thread::sleep(sample_interval.min(READING_INTERVAL_MAX));
        }
    }

    /// False when nobody wants to know any more.
    fn take_inventory(
        &self,
        source: &mut dyn GpuSource,
        changes: &mpsc::UnboundedSender<GpuInventory>,
    ) -> bool {
        let Some(inventory) = source.inventory() else { return true };
        let mut latest = self.latest();
        if latest.inventory.as_ref() == Some(&inventory) {
            return true;
        }
        latest.inventory = Some(inventory.clone());
        drop(latest);
        self.first.notify_all();
        changes.send(inventory).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::model::GpuSource as InventorySource;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn simulated_gpus_are_known_at_once_and_told_once() {
        let (changes, mut told) = mpsc::unbounded_channel();
        let gpus = Gpus::open(Some("2x8Gi"), None, Duration::from_millis(1), changes).unwrap();
        let inventory = gpus.first_inventory(PATIENCE).unwrap();
        assert_eq!(inventory.source, InventorySource::Simulated);
        assert_eq!(told.blocking_recv(), Some(inventory));
        let begin = Instant::now();
        while gpus.sample().is_empty() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!gpus.sample().is_empty());
        assert!(told.try_recv().is_err(), "nothing has changed");
    }

    #[test]
    fn a_driver_that_does_not_answer_leaves_the_inventory_unknown() {
        struct Silent;
        impl GpuSource for Silent {
            fn inventory(&mut self) -> Option<GpuInventory> {
                None
            }
            fn samples(&mut self) -> Vec<GpuSample> {
                vec![]
            }
            fn processes(&mut self) -> Vec<GpuProcess> {
                vec![]
            }
        }
        let (changes, mut told) = mpsc::unbounded_channel();
        let seen = Arc::new(Seen::default());
        assert!(seen.take_inventory(&mut Silent, &changes));
        let gpus = Gpus { seen };
        assert_eq!(gpus.first_inventory(Duration::from_millis(1)), None);
        assert!(told.try_recv().is_err());
    }
}
