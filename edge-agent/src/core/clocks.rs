//! The node's clocks, as a greeting shows them: the present boot's, and those of earlier boots that
//! were synchronised, so that a hub can put right what was recorded before a clock was.

use super::AgentCore;
use super::storage::After;
use shared::model::{BootClock, ClockQuality, ClockStamp, Now};
use shared::ports::{Tree, WriteBatch};
use shared::wire::{BOOT_CLOCKS_MAX, decode, encode};
use tracing::warn;

/// Under this key of [`Tree::Meta`] lie the clocks of boots that were synchronised, newest last.
const CLOCKS_KEY: &[u8] = b"clock/boots";

/// Sixteen clocks of four numbers.
const CLOCKS_BYTES_MAX: usize = 2048;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    boot: u64,
    /// Of boots that were synchronised, newest last; of this one too, once it is.
    synchronised: Vec<BootClock>,
}

impl Clocks {
    /// What an earlier start of the agent noted; `boot` is this one.
    pub(super) fn restore(boot: u64, meta: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let noted = meta.iter().find(|(key, _)| key == CLOCKS_KEY);
        let read = noted.map(|(_, value)| decode("boot clocks", value, CLOCKS_BYTES_MAX));
        let synchronised = match read {
            Some(Ok(clocks)) => clocks,
            Some(Err(error)) => {
                warn!(error = %error, "the clocks of earlier boots are not known any more");
                vec![]
            }
            None => vec![],
        };
        Self { boot, synchronised }
    }

    /// The stamp of what happens now.
    pub(super) fn stamp(&self, now: Now) -> ClockStamp {
        ClockStamp::of(now, self.boot)
    }

    /// The present boot's clock.
    pub(super) fn present(&self, now: Now) -> BootClock {
        let ClockStamp { quality, boot, offset_ms } = self.stamp(now);
        BootClock { boot, since_boot_ms: now.monotonic.0, offset_ms, quality }
    }

    /// The clocks of earlier boots.
    pub(super) fn earlier(&self) -> Vec<BootClock> {
        let earlier = self.synchronised.iter().filter(|clock| clock.boot != self.boot);
        earlier.copied().collect()
    }

    /// Whether the present boot has become synchronised and that is not noted yet; then it is here.
    fn note(&mut self, now: Now) -> bool {
        let known = self.synchronised.iter().any(|clock| clock.boot == self.boot);
        if known || self.boot == 0 || now.quality != ClockQuality::Synchronised {
            return false;
        }
        self.synchronised.push(self.present(now));
        let excess = self.synchronised.len().saturating_sub(BOOT_CLOCKS_MAX);
        self.synchronised.drain(..excess);
        true
    }
}

impl AgentCore {
    /// Notes once a boot that its clock is synchronised, and where the boot lies by it.
    pub(super) fn note_clock(&mut self, now: Now) {
        if self.is_read_only() || !self.clocks.note(now) {
            return;
        }
        if let Ok(value) = encode("boot clocks", &self.clocks.synchronised) {
            let mut writes = WriteBatch::new();
            writes.put(Tree::Meta, CLOCKS_KEY, value);
            self.persist(writes, After::Nothing);
        }
    }
}
