//! Keys of the store: of records, and of the positions of their logs. Part of the store's format.

use crate::model::SinkId;
use crate::wire::{LogId, SequenceNumber, Stream};

/// The store's key of a record: incarnation, stream and number, big endian, so that keys sort.
#[must_use]
pub fn outbox_key(log: LogId, sequence: SequenceNumber) -> Vec<u8> {
    [log_prefix(log).as_slice(), &sequence.to_be_bytes()].concat()
}

/// What the keys of all records of a log begin with.
pub(super) fn log_prefix(log: LogId) -> Vec<u8> {
    let (stream, sink) = stream_parts(log.stream);
    let sink = sink.map(u32::to_be_bytes);
    let sink = sink.as_ref().map_or(&[][..], |sink| sink);
    [&log.incarnation.to_be_bytes()[..], &[stream], sink].concat()
}

/// The number of a stream in keys of the store, and its sink. Part of the store's format.
fn stream_parts(stream: Stream) -> (u8, Option<u32>) {
    match stream {
        Stream::Events => (0, None),
        Stream::Telemetry => (1, None),
        Stream::Backfill => (2, None),
        Stream::Alarms => (3, None),
        Stream::Results(SinkId(sink)) => (4, Some(sink)),
    }
}

pub(super) fn meta_key(log: LogId) -> Vec<u8> {
    let (stream, sink) = stream_parts(log.stream);
    let sink = sink.map(|sink| format!("/{sink:08x}")).unwrap_or_default();
    format!("{META_PREFIX}{:016x}/{stream}{sink}", log.incarnation).into_bytes()
}

const META_PREFIX: &str = "log/";

pub(super) fn parse_meta_key(key: &[u8]) -> Option<LogId> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix(META_PREFIX)?;
    let (incarnation, stream) = text.split_once('/')?;
    let stream = match (stream.split_once('/'), stream) {
        (Some(("4", sink)), _) => Stream::Results(SinkId(u32::from_str_radix(sink, 16).ok()?)),
        (None, "0") => Stream::Events,
        (None, "1") => Stream::Telemetry,
        (None, "2") => Stream::Backfill,
        (None, "3") => Stream::Alarms,
        _ => return None,
    };
    Some(LogId { incarnation: u64::from_str_radix(incarnation, 16).ok()?, stream })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId { incarnation: 10, stream: Stream::Events };

    #[test]
    fn keys_are_as_they_were_always_written() {
        assert_eq!(meta_key(LOG), b"log/000000000000000a/0");
        assert_eq!(outbox_key(LOG, 258), [0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        let sink = LogId { stream: Stream::Results(SinkId(0xab)), ..LOG };
        assert_eq!(meta_key(sink), b"log/000000000000000a/4/000000ab");
        assert_eq!(log_prefix(sink), [0, 0, 0, 0, 0, 0, 0, 10, 4, 0, 0, 0, 0xab]);
    }

    #[test]
    fn the_key_of_a_position_tells_its_log_and_nothing_else_does() {
        let sink = Stream::Results(SinkId(u32::MAX));
        let streams = [Stream::Events, Stream::Telemetry, Stream::Backfill, Stream::Alarms, sink];
        for log in streams.map(|stream| LogId { stream, ..LOG }) {
            assert_eq!(parse_meta_key(&meta_key(log)), Some(log));
        }
        for other in ["log/0a/9", "log/0a/4", "log/0a/0/1", "log/x/0", "log/0a", "ledger/0a/0"] {
            assert_eq!(parse_meta_key(other.as_bytes()), None, "{other}");
        }
    }
}
