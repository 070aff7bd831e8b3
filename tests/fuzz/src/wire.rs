//! What crosses the link in the open or inside a session: it decodes or is refused, and what decodes
//! means the same after it was encoded again.

#![allow(clippy::expect_used, reason = "a failure is what fuzzing looks for")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::limits::{MAP_UPDATE_BYTES_MAX, MQTT_PAYLOAD_BYTES_MAX};
use shared::model::{CpuQuantity, MemoryQuantity, NodeId, PodId, WorkloadKey};
use shared::telemetry::{CborCodec, TelemetryCodec, decode_any};
use shared::trust::session::SessionPublicKey;
use shared::trust::signature::VerifyingKey;
use shared::wire::{DownTopic, Envelope, MapBody, MapHeader, Message, UpTopic, decode, encode};
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
        let again = envelope.encode().expect("what was decoded can be encoded");
        assert_eq!(Envelope::decode(&again).expect("and decoded again"), envelope);
    }
}

/// Messages, as they are inside a sealed envelope.
pub fn message(data: &[u8]) {
    survives::<Message>("message", data, MQTT_PAYLOAD_BYTES_MAX);
}

/// Updates of maps and their headers.
pub fn map(data: &[u8]) {
    survives::<MapBody>("map update", data, MAP_UPDATE_BYTES_MAX);
    survives::<MapHeader>("map header", data, 1024);
}

/// Records of telemetry, whichever codec wrote them.
///
/// # Panics
/// When a batch does not survive encoding.
pub fn telemetry(data: &[u8]) {
    let Ok(batch) = decode_any(data) else { return };
    if let Ok(record) = CborCodec.encode(&batch)
        && let Ok(back) = decode_any(&record)
    {
        assert_eq!(back, batch);
    }
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
