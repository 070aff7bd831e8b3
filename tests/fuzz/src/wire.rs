//! What crosses the link in the open or inside a session: it decodes or is refused, and what decodes
//! means the same after it was encoded again.

#![allow(clippy::expect_used, reason = "a failure is what fuzzing looks for")]

use crate::input::Input;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::limits::{CALL_BODY_BYTES_MAX, MAP_UPDATE_BYTES_MAX, MQTT_PAYLOAD_BYTES_MAX};
use shared::model::{CpuQuantity, MemoryQuantity, NodeId, PodId, WorkloadKey};
use shared::telemetry::{Batch, BatchDecoder, BatchEncoder};
use shared::trust::session::SessionPublicKey;
use shared::trust::signature::VerifyingKey;
use shared::wire::{
    DownTopic, Envelope, ExecResult, LogCursor, LogPage, MapBody, MapHeader, Message, UpTopic,
    decode, encode,
};
use std::fmt::{Debug, Display};
use std::str::FromStr;

/// Decodes; what decodes must survive encoding.
///
/// # Panics
/// When it does not.
pub fn survives<T>(what: &'static str, bytes: &[u8], limit_bytes: usize)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    if let Ok(value) = decode::<T>(what, bytes, limit_bytes) {
        let again = encode(what, &value).expect("what was decoded can be encoded");
        let back = decode::<T>(what, &again, usize::MAX).expect("and decoded again");
        assert_eq!(back, value);
    }
}

/// MQTT payloads.
///
/// # Panics
/// When one does not survive encoding.
pub fn envelope(data: &[u8]) {
    if let Ok(envelope) = Envelope::decode(data) {
        let again = envelope.encode();
        assert_eq!(Envelope::decode(&again).expect("and decoded again"), envelope);
    }
}

/// Messages, as they are inside a sealed envelope, and what answers to calls hold.
pub fn message(data: &[u8]) {
    survives::<Message>("message", data, MQTT_PAYLOAD_BYTES_MAX);
    survives::<LogPage>("page of a log", data, CALL_BODY_BYTES_MAX);
    survives::<ExecResult>("result of a command", data, CALL_BODY_BYTES_MAX);
}

/// Updates of maps and their headers.
pub fn map(data: &[u8]) {
    survives::<MapBody>("map update", data, MAP_UPDATE_BYTES_MAX);
    survives::<MapHeader>("map header", data, 1024);
}

/// Records of a log of telemetry, whichever codec wrote them.
///
/// # Panics
/// When a batch does not survive encoding, once its values are at their resolutions.
pub fn telemetry(data: &[u8]) {
    let mut input = Input::new(data);
    let mut decoder = BatchDecoder::default();
    let mut sequence = 1;
    while !input.is_empty() {
        // A gap now and then.
        sequence += u64::from(input.byte().is_multiple_of(8)) + 1;
        let Ok(batch) = decoder.decode(sequence, input.chunk()) else { continue };
        if let Some(rounded) = over_the_wire(&batch) {
            assert_eq!(over_the_wire(&rounded).as_ref(), Some(&rounded));
        }
    }
}

/// The batch as a hub has it; `None` where it must be parted first.
fn over_the_wire(batch: &Batch) -> Option<Batch> {
    let staged = BatchEncoder::default().encode(batch, 1).ok()?;
    Some(BatchDecoder::default().decode(1, staged.record()).expect("what was encoded is decoded"))
}

/// Names, quantities, topics and keys as text.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    parses_back::<NodeId>(text);
    parses_back::<WorkloadKey>(text);
    parses_back::<PodId>(text);
    parses_back::<CpuQuantity>(text);
    parses_back::<MemoryQuantity>(text);
    parses_back::<SessionPublicKey>(text);
    parses_back::<VerifyingKey>(text);
    // Digits have two cases and leading zeros.
    if let Ok(cursor) = text.parse::<LogCursor>() {
        parses_back::<LogCursor>(&cursor.to_string());
    }
    if let Some(topic) = UpTopic::parse(text) {
        assert_eq!(topic.name(), text);
    }
    if let Some(topic) = DownTopic::parse(text) {
        assert_eq!(topic.name(), text);
    }
}

fn parses_back<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    let written = value.to_string();
    assert_eq!(written.parse::<T>().ok(), Some(value), "`{text}` was written `{written}`");
}
