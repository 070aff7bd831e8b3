//! Bodies of results inside a line of JSON, as they are or not at all: no number is rounded, nothing
//! is left out.

use serde_cbor::Value as Cbor;
use serde_json::Value as Json;
use shared::limits::LOG_RECORD_BYTES_MAX;
use shared::wire::decode;

/// `text` as a string of JSON.
pub(super) fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

/// A body that is one value of JSON (RFC 8259), on one line; `None` when it is not. Readers differ in
/// how deep they go, so that a body deeper than this library's limit (128) is none either.
pub(super) fn embedded(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    serde_json::from_str::<Json>(text).ok()?;
    // Valid JSON has line ends between its tokens alone.
    Some(text.trim().replace(['\n', '\r'], " "))
}

/// A body of CBOR as JSON; `None` when JSON can't say it exactly.
pub(super) fn from_cbor(body: &[u8]) -> Option<String> {
    let value: Cbor = decode("a result's body", body, LOG_RECORD_BYTES_MAX).ok()?;
    Some(json(value)?.to_string())
}

fn json(value: Cbor) -> Option<Json> {
    Some(match value {
        Cbor::Null => Json::Null,
        Cbor::Bool(truth) => Json::Bool(truth),
        Cbor::Integer(number) => match (u64::try_from(number), i64::try_from(number)) {
            (Ok(number), _) => Json::from(number),
            (_, Ok(number)) => Json::from(number),
            _ => return None,
        },
        Cbor::Float(number) => Json::Number(serde_json::Number::from_f64(number)?),
        Cbor::Text(text) => Json::String(text),
        Cbor::Array(values) => Json::Array(values.into_iter().map(json).collect::<Option<_>>()?),
        Cbor::Map(pairs) => {
            let pair = |(key, value)| match key {
                Cbor::Text(key) => Some((key, json(value)?)),
                _ => None,
            };
            Json::Object(pairs.into_iter().map(pair).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}
