//! Sets of events: how far in the recording's XID errors each set has come.

use crate::recording::Recording;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How often a set that waits looks for news.
pub(crate) const LOOK_INTERVAL_MS: u32 = 5;

/// Sets by number: how many of the recorded events each has passed, and the GPUs it was told to watch.
#[derive(Debug)]
pub(crate) struct Sets {
    next: usize,
    open: BTreeMap<usize, EventSet>,
}

#[derive(Debug, Default)]
struct EventSet {
    passed: usize,
    gpus: Vec<String>,
}

static SETS: Mutex<Sets> = Mutex::new(Sets { next: 1, open: BTreeMap::new() });

pub(crate) fn sets() -> MutexGuard<'static, Sets> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sets {
    /// A set that has passed none of the events.
    pub(crate) fn create(&mut self) -> usize {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, EventSet::default());
        number
    }

    /// False for a set that is not open.
    pub(crate) fn register(&mut self, number: usize, gpu: &str) -> bool {
        let set = self.open.get_mut(&number);
        set.map(|set| set.gpus.push(gpu.to_owned())).is_some()
    }

    /// False for a set that is not open.
    pub(crate) fn free(&mut self, number: usize) -> bool {
        self.open.remove(&number).is_some()
    }

    /// The next event for the set: the index of its GPU and the XID. `None` for a set that is not open.
    pub(crate) fn next(
        &mut self,
        number: usize,
        recording: &Recording,
    ) -> Option<Option<(usize, u64)>> {
        let set = self.open.get_mut(&number)?;
        while let Some(event) = recording.xids.get(set.passed) {
            set.passed += 1;
            let index = recording.gpus.iter().position(|gpu| gpu.uuid == event.gpu);
            if let Some(index) = index.filter(|_| set.gpus.contains(&event.gpu)) {
                return Some(Some((index, event.xid)));
            }
        }
        Some(None)
    }
}
