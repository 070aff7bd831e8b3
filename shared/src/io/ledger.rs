//! The ledger: a small file beside the store with what must outlive the loss of the store.
//!
//! Two slots of 4 KiB, preallocated and written in turn in place: a write needs no free space, and
//! one that a power cut tears leaves the other slot. It never lowers a number, and it decides
//! nothing: what a number means is its caller's business.
//!
//! A slot is `magic (8) ‖ sequence ‖ incarnation ‖ term ‖ generation ‖ time floor ‖ length` (each 8
//! bytes, big endian) `‖ record of the link's budget ‖ SHA-256 of all before`, then zeros. It is
//! not encrypted: whoever sees the wire knows as much.

use super::keys::{create_private_folder, folder_of, sync_folder};
use crate::model::UnixMs;
use crate::wire::Version;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A slot: the unit that a disk writes, so that a torn write hurts one slot only.
const SLOT_BYTES: usize = 4096;

const SLOTS: u64 = 2;

/// What a slot begins with; another format gets another one.
const MAGIC: &[u8; 8] = b"hl-ledg2";

const NUMBERS: usize = 6;
const BODY_BYTES: usize = MAGIC.len() + NUMBERS * 8;
const DIGEST_BYTES: usize = 32;

/// Bytes of the record of the link's budget.
pub const LINK_BUDGET_BYTES_MAX: usize = SLOT_BYTES - BODY_BYTES - DIGEST_BYTES;

/// What the ledger holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerState {
    /// The incarnation that began last; 0 before the first.
    pub incarnation: u64,
    /// The greatest version of desired state that was accepted.
    pub accepted: Version,
    /// A time that is surely past.
    pub time_floor: UnixMs,
}

/// Why the ledger could not be read or written.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The file system said no.
    #[error("could not {attempted} the ledger {path}")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A record is larger than its place.
    #[error("a record of {0} bytes is over the ledger's limit of {LINK_BUDGET_BYTES_MAX}")]
    TooLarge(usize),
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Slot {
    sequence: u64,
    state: LedgerState,
    link_budget: Vec<u8>,
}

/// The ledger, open. Its one owner is the process that holds the store's lock.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// The last write that is durable; the next one goes to the other slot.
    last: Slot,
    was_damaged: bool,
}

impl Ledger {
    /// Opens the ledger, or makes it.
    ///
    /// When no slot can be read it begins anew and [`Self::was_damaged`] says so.
    ///
    /// # Errors
    /// When the file can't be read or made.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = failing(path);
        if !path.try_exists().map_err(failed("look for"))? {
            create(path).map_err(failed("create"))?;
        }
        let open = OpenOptions::new().read(true).write(true).open(path);
        let file = open.map_err(failed("open"))?;
        let slots = read_slots(&file).map_err(failed("read"))?;
        let was_damaged = slots.iter().any(Option::is_none);
        let newest = slots.into_iter().flatten().max_by_key(|slot| slot.sequence);
        Ok(Self { path: path.to_owned(), file, last: newest.unwrap_or_default(), was_damaged })
    }

    /// What it holds.
    #[must_use]
    pub fn state(&self) -> LedgerState {
        self.last.state
    }

    /// The record that [`Self::note_link_budget`] wrote last; empty before the first.
    #[must_use]
    pub fn link_budget(&self) -> &[u8] {
        &self.last.link_budget
    }

    /// Whether a slot was unreadable when it was opened: a write was torn, or the file was damaged.
    /// With one good slot at most the last note is lost, which was never acknowledged if it was torn.
    #[must_use]
    pub fn was_damaged(&self) -> bool {
        self.was_damaged
    }

    /// Begins an incarnation: the greater of the last one's successor and `at_least`. Durable when
    /// it returns.
    ///
    /// # Errors
    /// When the file can't be written; nothing began.
    pub fn begin_incarnation(&mut self, at_least: u64) -> Result<u64, LedgerError> {
        let incarnation = self.last.state.incarnation.saturating_add(1).max(at_least);
        self.write_state(LedgerState { incarnation, ..self.last.state })?;
        Ok(incarnation)
    }

    /// Notes an accepted version; a lower one than noted changes nothing.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn note_accepted(&mut self, version: Version) -> Result<(), LedgerError> {
        if version <= self.last.state.accepted {
            return Ok(());
        }
        self.write_state(LedgerState { accepted: version, ..self.last.state })
    }

    /// Notes a time that is surely past; an earlier one than noted changes nothing.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn note_time(&mut self, floor: UnixMs) -> Result<(), LedgerError> {
        if floor <= self.last.state.time_floor {
            return Ok(());
        }
        self.write_state(LedgerState { time_floor: floor, ..self.last.state })
    }

    /// Notes what the link has spent, in place of what was noted before.
    ///
    /// # Errors
    /// When it is over [`LINK_BUDGET_BYTES_MAX`], or the file can't be written.
    pub fn note_link_budget(&mut self, record: Vec<u8>) -> Result<(), LedgerError> {
        if record.len() > LINK_BUDGET_BYTES_MAX {
            return Err(LedgerError::TooLarge(record.len()));
        }
        self.write(self.last.state, record)
    }

    fn write_state(&mut self, state: LedgerState) -> Result<(), LedgerError> {
        self.write(state, self.last.link_budget.clone())
    }

    /// A failed write may have torn its slot; the sequence stays, so that the next one goes to the
    /// same slot and the good one is kept.
    fn write(&mut self, state: LedgerState, link_budget: Vec<u8>) -> Result<(), LedgerError> {
        let slot = Slot { sequence: self.last.sequence.saturating_add(1), state, link_budget };
        let offset = (slot.sequence % SLOTS) * SLOT_BYTES as u64;
        let written = self.file.write_all_at(&encode(&slot), offset);
        written.and_then(|()| self.file.sync_data()).map_err(failing(&self.path)("write"))?;
        self.last = slot;
        Ok(())
    }
}

/// The file appears with both slots whole, or not at all.
fn create(path: &Path) -> io::Result<()> {
    let folder = folder_of(path);
    create_private_folder(folder)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    for sequence in 0..SLOTS {
        let slot = encode(&Slot { sequence, ..Slot::default() });
        file.write_all_at(&slot, sequence * SLOT_BYTES as u64)?;
    }
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    sync_folder(folder)
}

fn read_slots(file: &File) -> io::Result<Vec<Option<Slot>>> {
    let mut slots = Vec::new();
    for slot in 0..SLOTS {
        let mut bytes = [0; SLOT_BYTES];
        match file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64) {
            Ok(()) => slots.push(decode(&bytes)),
            // A bad sector or a short file costs this slot only.
            Err(error) if is_damage(&error) => slots.push(None),
            Err(error) => return Err(error),
        }
    }
    Ok(slots)
}

fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

fn encode(slot: &Slot) -> Vec<u8> {
    let LedgerState { incarnation, accepted, time_floor } = slot.state;
    let Version { term, generation } = accepted;
    let length = slot.link_budget.len() as u64;
    let numbers = [slot.sequence, incarnation, term, generation, time_floor.0, length];
    let link_budget = &slot.link_budget;
    let mut slot = MAGIC.to_vec();
    slot.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    slot.extend(link_budget);
    let digest = Sha256::digest(&slot);
    slot.extend(digest);
    slot.resize(SLOT_BYTES, 0);
    slot
}

fn decode(slot: &[u8]) -> Option<Slot> {
    let (head, rest) = slot.split_at_checked(BODY_BYTES)?;
    let numbers = head.strip_prefix(MAGIC)?;
    let mut numbers =
        numbers.chunks_exact(8).filter_map(|n| n.try_into().ok()).map(u64::from_be_bytes);
    let sequence = numbers.next()?;
    let incarnation = numbers.next()?;
    let accepted = Version { term: numbers.next()?, generation: numbers.next()? };
    let time_floor = UnixMs(numbers.next()?);
    let length = usize::try_from(numbers.next()?).ok()?;
    let (link_budget, rest) = rest.split_at_checked(length)?;
    let digest = Sha256::new().chain_update(head).chain_update(link_budget).finalize();
    if rest.get(..DIGEST_BYTES)? != digest.as_slice() {
        return None;
    }
    let state = LedgerState { incarnation, accepted, time_floor };
    Some(Slot { sequence, state, link_budget: link_budget.to_vec() })
}

fn failing(path: &Path) -> impl Fn(&'static str) -> Box<dyn FnOnce(io::Error) -> LedgerError> {
    let path = path.to_owned();
    move |attempted| {
        let path = path.clone();
        Box::new(move |source| LedgerError::Io { attempted, path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: Version = Version { term: 1, generation: 7 };
    const V2: Version = Version { term: 2, generation: 1 };

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/ledger");
        (folder, path)
    }

    #[test]
    fn what_is_noted_is_there_after_a_restart() {
        let (_folder, path) = place();
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!((ledger.state(), ledger.was_damaged()), (LedgerState::default(), false));
        assert_eq!(ledger.begin_incarnation(0).unwrap(), 1);
        ledger.note_accepted(V2).unwrap();
        ledger.note_time(UnixMs(55)).unwrap();
        let ledger = Ledger::open(&path).unwrap();
        let expected = LedgerState { incarnation: 1, accepted: V2, time_floor: UnixMs(55) };
        assert_eq!((ledger.state(), ledger.was_damaged()), (expected, false));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * SLOT_BYTES as u64);
    }

    #[test]
    fn no_number_is_ever_lowered() {
        let (_folder, path) = place();
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.begin_incarnation(10).unwrap(), 10);
        assert_eq!(ledger.begin_incarnation(3).unwrap(), 11);
        ledger.note_accepted(V2).unwrap();
        ledger.note_accepted(V1).unwrap();
        ledger.note_time(UnixMs(9)).unwrap();
        ledger.note_time(UnixMs(8)).unwrap();
        let state = Ledger::open(&path).unwrap().state();
        assert_eq!((state.accepted, state.time_floor), (V2, UnixMs(9)));
    }

    #[test]
    fn what_the_link_has_spent_is_kept_with_the_numbers_and_replaced_by_itself() {
        let (_folder, path) = place();
        let mut ledger = Ledger::open(&path).unwrap();
        assert!(ledger.link_budget().is_empty());
        let (full, small) = (vec![7; LINK_BUDGET_BYTES_MAX], vec![8; 3]);
        ledger.note_link_budget(full.clone()).unwrap();
        ledger.note_accepted(V1).unwrap();
        assert_eq!(Ledger::open(&path).unwrap().link_budget(), full);
        let error = ledger.note_link_budget(vec![9; LINK_BUDGET_BYTES_MAX + 1]).unwrap_err();
        let said = format!("a record of {} bytes is over", LINK_BUDGET_BYTES_MAX + 1);
        assert!(error.to_string().contains(&said), "{error}");
        ledger.note_link_budget(small.clone()).unwrap();
        let ledger = Ledger::open(&path).unwrap();
        assert_eq!((ledger.link_budget(), ledger.state().accepted), (&small[..], V1));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * SLOT_BYTES as u64);
    }

    #[test]
    fn a_torn_slot_leaves_the_note_before_it_and_is_said() {
        let (_folder, path) = place();
        for torn_bytes in [1, 8, 40, 60, BODY_BYTES + DIGEST_BYTES - 1] {
            let _ = std::fs::remove_file(&path);
            let mut ledger = Ledger::open(&path).unwrap();
            ledger.note_accepted(V1).unwrap();
            let before = std::fs::read(&path).unwrap();
            ledger.note_accepted(V2).unwrap();
            let after = std::fs::read(&path).unwrap();
            // The new slot's first bytes reached the disk, the rest did not.
            let offset = (ledger.last.sequence % SLOTS) as usize * SLOT_BYTES;
            let mut torn = before.clone();
            torn[offset..offset + torn_bytes].copy_from_slice(&after[offset..offset + torn_bytes]);
            std::fs::write(&path, &torn).unwrap();
            let mut ledger = Ledger::open(&path).unwrap();
            let is_new = torn[offset..] == after[offset..];
            assert_eq!(ledger.state().accepted, if is_new { V2 } else { V1 });
            assert_eq!(ledger.was_damaged(), torn != before && !is_new);
            ledger.note_accepted(V2).unwrap();
            let ledger = Ledger::open(&path).unwrap();
            assert_eq!(ledger.state().accepted, V2);
        }
    }

    #[test]
    fn a_ledger_without_a_readable_slot_begins_anew_and_says_so() {
        let (_folder, path) = place();
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.begin_incarnation(5).unwrap();
        for damage in [vec![], vec![0; 2 * SLOT_BYTES], vec![0xff; 100]] {
            std::fs::write(&path, damage).unwrap();
            let mut ledger = Ledger::open(&path).unwrap();
            assert_eq!((ledger.state(), ledger.was_damaged()), (LedgerState::default(), true));
            assert_eq!(ledger.begin_incarnation(6).unwrap(), 6);
            assert_eq!(Ledger::open(&path).unwrap().state().incarnation, 6);
        }
    }

    #[test]
    fn any_flipped_bit_costs_one_slot_at_most() {
        let (_folder, path) = place();
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.begin_incarnation(4).unwrap();
        ledger.begin_incarnation(5).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..(BODY_BYTES + DIGEST_BYTES) * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, flipped).unwrap();
            let ledger = Ledger::open(&path).unwrap();
            assert!(ledger.was_damaged() && ledger.state().incarnation >= 4);
        }
    }
}
