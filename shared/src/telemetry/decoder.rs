//! The receiving side of one stream: records become batches again.

use super::packed::{self, Model};
use super::{Batch, CodecError, cbor};
use crate::wire::SequenceNumber;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Reads the records of one log, in their order. Its state is small (about 25 bytes a series) and is
/// stored with the log's watermark.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub struct BatchDecoder {
    model: Model,
    /// The number of the last decoded record; `None` while a keyframe is waited for.
    last: Option<SequenceNumber>,
}

impl BatchDecoder {
    /// The batch in the record of this number: whole, or an error. After an error, and where a number
    /// does not follow the last one, records are refused until the next keyframe.
    ///
    /// Work and memory are bounded by the limits of records and batches, whatever a record claims.
    ///
    /// # Errors
    /// [`CodecError`]; [`CodecError::NoKeyframe`] when what this record builds on is not known.
    pub fn decode(&mut self, sequence: SequenceNumber, record: &[u8]) -> Result<Batch, CodecError> {
        let follows = self.last.is_some_and(|last| last.checked_add(1) == Some(sequence));
        self.last = None;
        let (batch, model) = match record.split_first() {
            Some((&cbor::CODEC_NUMBER, body)) => (cbor::decode_batch(body)?, Model::default()),
            Some((&packed::CODEC_NUMBER, _)) => self.model.decode(record, follows)?,
            other => {
                return Err(CodecError::UnknownCodec { found: other.map(|(number, _)| *number) });
            }
        };
        (self.model, self.last) = (model, Some(sequence));
        Ok(batch)
    }

    #[cfg(test)]
    pub(super) fn model(&self) -> &Model {
        &self.model
    }
}

/// The stored form. Fields are only appended.
#[derive(Serialize, Deserialize)]
struct Stored {
    last: Option<SequenceNumber>,
    dictionary: ByteBuf,
    columns: ByteBuf,
}

impl From<BatchDecoder> for Stored {
    fn from(decoder: BatchDecoder) -> Self {
        let (dictionary, columns) = decoder.model.to_bytes();
        let (dictionary, columns) = (ByteBuf::from(dictionary), ByteBuf::from(columns));
        Self { last: decoder.last, dictionary, columns }
    }
}

impl TryFrom<Stored> for BatchDecoder {
    type Error = CodecError;

    fn try_from(stored: Stored) -> Result<Self, CodecError> {
        let model = Model::of_bytes(stored.dictionary.into_vec(), &stored.columns)?;
        Ok(Self { model, last: stored.last })
    }
}
