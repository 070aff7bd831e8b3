//! Reading the records of the next batch, from packs and single ones.

use super::LogRead;
use super::keys::outbox_key;
use super::pack::{next_pack, number_in};
use crate::ports::{Store, StoreError, Tree};
use crate::wire::{LogId, SequenceNumber};

/// Single records read from the store at once: at most 192 KiB.
const READ_STEP_RECORDS: usize = 16;

/// What `store` holds for `read`, as much as its limits allow.
///
/// # Errors
/// When the medium can't be read.
pub fn read_log(
    store: &dyn Store,
    read: &LogRead,
) -> Result<Vec<(SequenceNumber, Vec<u8>)>, StoreError> {
    let end = read.first.saturating_add(read.count_max as u64);
    let mut records = Vec::new();
    let mut from = read.first;
    let has_room = |records: &[(SequenceNumber, Vec<u8>)]| {
        records.iter().map(|(_, record)| record.len()).sum::<usize>() <= read.bytes_max
    };
    while from < end && has_room(&records) {
        let pack = next_pack(store, read.log, from)?;
        let until = pack.as_ref().map_or(end, |pack| pack.first.min(end));
        // A few at a time: the largest records of a whole batch would be megabytes of memory.
        while from < until && has_room(&records) {
            from = read_singles(store, read.log, from..until, &mut records)?;
        }
        let Some(pack) = pack.filter(|pack| from >= until && pack.first < end) else { continue };
        let numbered = (pack.first..).zip(pack.records);
        records.extend(numbered.filter(|(number, _)| (from..end).contains(number)));
        from = from.max(pack.end);
    }
    Ok(records)
}

/// Adds the first of the single records in `range`; where the next ones begin.
fn read_singles(
    store: &dyn Store,
    log: LogId,
    range: std::ops::Range<SequenceNumber>,
    records: &mut Vec<(SequenceNumber, Vec<u8>)>,
) -> Result<SequenceNumber, StoreError> {
    let some = store.scan(Tree::Outbox, &outbox_key(log, range.start), READ_STEP_RECORDS)?;
    let is_last = some.len() < READ_STEP_RECORDS;
    let mut from = range.start;
    for (key, record) in some {
        match number_in(&key, log).filter(|number| range.contains(number)) {
            Some(number) => records.push((number, record)),
            None => return Ok(range.end),
        }
        from = number_in(&key, log).map_or(range.end, |number| number.saturating_add(1));
    }
    Ok(if is_last { range.end } else { from })
}
