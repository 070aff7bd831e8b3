//! The sending side of one stream: batches become records of its log.

use super::packed::Model;
use super::{Batch, CodecError};
use crate::wire::SequenceNumber;

/// Records in a run that begins with a keyframe. What a receiver lacks costs it at most so many; the
/// price of a keyframe is spread over as many.
pub const RUN_RECORDS_MAX: u64 = 240;

/// Whether a record of this number always begins a run: 1, 241, 481, … So whole runs can be dropped
/// from the front of a log, and what is left can be decoded.
#[must_use]
pub fn begins_run(sequence: SequenceNumber) -> bool {
    sequence.saturating_sub(1).is_multiple_of(RUN_RECORDS_MAX)
}

/// Writes the batches of one stream. It goes on only when a record was really appended.
///
/// ```text
/// let staged = encoder.encode(&batch, outbox.next_sequence(stream))?;
/// outbox.append(stream, staged.record().to_vec(), writes)?;
/// encoder.commit(staged);
/// ```
#[derive(Debug, Clone, Default)]
pub struct BatchEncoder {
    model: Model,
    /// The number of the last committed record; `None` when the next one must be a keyframe.
    last: Option<SequenceNumber>,
}

/// A record that was not appended yet, and what the encoder knows once it was. Dropped, it was never
/// made.
#[derive(Debug)]
pub struct StagedRecord {
    record: Vec<u8>,
    after: BatchEncoder,
}

impl StagedRecord {
    /// The record's bytes.
    #[must_use]
    pub fn record(&self) -> &[u8] {
        &self.record
    }
}

impl BatchEncoder {
    /// The record of `batch`, which the log will give the number `sequence`. A keyframe where a run
    /// begins, where the number does not follow the last one, and where the batch has a series that
    /// the run does not know.
    ///
    /// Values that are not numbers and series whose names are over a limit are left out.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] when the batch must be parted ([`Batch::halves`]),
    /// [`CodecError::Malformed`] when it has no sample. Nothing has changed then.
    pub fn encode(
        &self,
        batch: &Batch,
        sequence: SequenceNumber,
    ) -> Result<StagedRecord, CodecError> {
        let follows = self.last.is_some_and(|last| last.checked_add(1) == Some(sequence));
        let must_begin = begins_run(sequence) || !follows;
        let (record, model) = self.model.encode(batch, must_begin)?;
        Ok(StagedRecord { record, after: Self { model, last: Some(sequence) } })
    }

    /// The record was appended under its number.
    pub fn commit(&mut self, staged: StagedRecord) {
        *self = staged.after;
    }

    /// The next record will be a keyframe: what was appended may not be there any more, or the receiver may
    /// not know it.
    pub fn reset(&mut self) {
        self.last = None;
    }

    #[cfg(test)]
    pub(super) fn model(&self) -> &Model {
        &self.model
    }
}
