//! The only place that encodes or decodes what crosses the link or enters the store.
//!
//! All but the envelope is CBOR (RFC 8949) in the packed form of `serde_cbor`: a struct is a map from
//! the field's position to its value, an enum variant is its position. So fields and variants are only
//! ever appended. `docs/protocol.md` describes every message; `golden/` holds encodings of each
//! released version that are decoded for ever.
//!
//! | layer | type | protected by |
//! |---|---|---|
//! | MQTT payload | [`Envelope`] | nothing: the broker reads and writes it |
//! | inside a sealed envelope | [`Message`] | the session's keys |
//! | a map's header | [`MapHeader`] | for desired state, the hub's signature as well |

mod call;
mod codec;
mod depth;
mod digest;
mod envelope;
mod message;
mod topic;
mod tree;

pub use call::{
    CallMethod, CallOutcome, CallRequest, CallResponse, ExecResult, LogCursor, LogFrom, LogPage,
};
pub use codec::{DecodeError, EncodeError, decode, encode};
pub use digest::{Digest, ShortDigest};
pub use envelope::{ENVELOPE_VERSION, Envelope};
pub use message::{
    BOOT_CLOCKS_MAX, GREETED_INCARNATION, Hello, HelloReply, Hunk, Incarnation, Introduction,
    ItemEdit, LogAck, LogBatch, LogHold, LogId, MapAck, MapBody, MapChunk, MapHeader, MapItem,
    MapName, MapPosition, MapRefusal, Message, RefusalReason, RenewedHeader, Resume, Resumed,
    SequenceNumber, ShownContent, Stream, Version, desired_header_context,
};
pub use topic::{DownTopic, UpTopic, UpTopicKind};

#[cfg(test)]
mod golden;
