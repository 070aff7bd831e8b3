//! One encoding of every message, as version 1 writes it. These bytes are decoded for ever: a change
//! here is a change of the protocol.

use super::*;
use crate::model::{BootClock, ClockQuality, PodId, SinkId};
use serde_bytes::ByteBuf;

fn position() -> MapPosition {
    MapPosition { version: Version { term: 3, generation: 7 }, digest: Digest::of(b"content") }
}

pub(super) fn one_of_each() -> Vec<(&'static str, Message)> {
    [greetings_and_maps(), logs_and_calls(), appended(), remote_access()].concat()
}

fn log() -> LogId {
    LogId { incarnation: 5, stream: Stream::Backfill }
}

fn results_log() -> LogId {
    LogId { incarnation: 5, stream: Stream::Results(SinkId(7)) }
}

fn clock(boot: u64, quality: ClockQuality) -> BootClock {
    BootClock { boot, since_boot_ms: 60_000, offset_ms: 1_700_000_000_000, quality }
}

/// Fields that were appended since the first agent, in the messages that carry them.
fn appended() -> Vec<(&'static str, Message)> {
    let header = MapHeader { position: position(), issued_at_ms: 1_700_000_000_000 };
    let header = ByteBuf::from(encode("header", &header).unwrap());
    vec![
        (
            "hello-with-clocks",
            Message::Hello(Hello {
                desired: Some(header),
                reported: position(),
                incarnation: 5,
                oldest_incarnation: 4,
                agent_version: "0.1.0".into(),
                clock: Some(clock(2, ClockQuality::Unsynchronised)),
                earlier_clocks: vec![clock(1, ClockQuality::Synchronised)],
            }),
        ),
        (
            "resume",
            Message::Resume(Resume { desired: Some(position().version), awaits_watermarks: true }),
        ),
        (
            "resumed",
            Message::Resumed(Resumed {
                desired: None,
                reported: Some(position().version),
                watermarks: vec![LogAck { log: log(), watermark: 41 }],
                renewed: None,
            }),
        ),
        (
            "map-ack-window",
            Message::MapAck(MapAck::Partial {
                map: MapName::Desired,
                version: position().version,
                next: 1,
                window: Some(0),
            }),
        ),
        (
            "introduction",
            Message::Introduction(Introduction {
                desired: Some(ShownContent {
                    version: position().version,
                    digest: position().digest.into(),
                }),
                incarnation: 5,
                oldest_incarnation: 4,
                agent_version: "0.1.0".into(),
                clock: Some(clock(2, ClockQuality::Unsynchronised)),
                earlier_clocks: vec![clock(1, ClockQuality::Synchronised)],
            }),
        ),
        (
            "resumed-renewed",
            Message::Resumed(Resumed {
                desired: None,
                reported: Some(position().version),
                watermarks: vec![],
                renewed: Some(RenewedHeader {
                    version: position().version,
                    issued_at_ms: 1_700_000_000_000,
                    signature: ByteBuf::from(vec![7; 64]),
                }),
            }),
        ),
    ]
}

/// Calls that were appended since the first agent.
fn remote_access() -> Vec<(&'static str, Message)> {
    let pod: PodId = "default/ocr-1".parse().unwrap();
    let cursor = LogCursor { file: 9, offset: 300, skip: 1, check: 70_000 };
    let read = |from| {
        let (container, caller) = (None, "alice".to_owned());
        let (bytes_max, wait_ms) = (8192, 30_000);
        CallMethod::ReadLog { pod: pod.clone(), container, caller, from, bytes_max, wait_ms }
    };
    let exec = CallMethod::Exec {
        pod: pod.clone(),
        container: Some("main".into()),
        caller: "alice".into(),
        command: vec!["ls".into(), "/".into()],
        timeout_ms: 30_000,
    };
    let request = |method| Message::CallRequest(CallRequest { id: 1, timeout_ms: 45_000, method });
    let answer = |outcome| Message::CallResponse(CallResponse { id: 1, outcome });
    let text = ByteBuf::from(b"line\n".to_vec());
    let page = LogPage { text: text.clone(), next: cursor, gap: true, is_end: false };
    let result =
        ExecResult { exit_code: Some(3), stdout: text, stderr: ByteBuf::new(), omitted_bytes: 500 };
    vec![
        ("read-log-end", request(read(LogFrom::End { lines: 10, age_ms: Some(600_000) }))),
        ("read-log-after", request(read(LogFrom::After { cursor }))),
        ("exec", request(exec)),
        ("log-page", answer(CallOutcome::of(Ok(page)))),
        ("exec-result", answer(CallOutcome::of(Ok(result)))),
    ]
}

fn greetings_and_maps() -> Vec<(&'static str, Message)> {
    let header = MapHeader { position: position(), issued_at_ms: 1_700_000_000_000 };
    let header = ByteBuf::from(encode("header", &header).unwrap());
    let ack = LogAck { log: log(), watermark: 41 };
    vec![
        (
            "hello",
            Message::Hello(Hello {
                desired: Some(header.clone()),
                reported: position(),
                incarnation: 5,
                oldest_incarnation: 4,
                agent_version: "0.1.0".into(),
                clock: None,
                earlier_clocks: vec![],
            }),
        ),
        (
            "hello-reply",
            Message::HelloReply(HelloReply {
                desired: header.clone(),
                reported: None,
                watermarks: vec![ack],
            }),
        ),
        (
            "map-chunk",
            Message::MapChunk(MapChunk {
                map: MapName::Desired,
                header: header.clone(),
                index: 0,
                count: 2,
                body: ByteBuf::from(vec![1, 2, 3]),
            }),
        ),
        (
            "map-ack-partial",
            Message::MapAck(MapAck::Partial {
                map: MapName::Desired,
                version: position().version,
                next: 1,
                window: None,
            }),
        ),
        (
            "map-ack-applied",
            Message::MapAck(MapAck::Applied {
                map: MapName::Reported,
                version: position().version,
            }),
        ),
        (
            "map-refusal",
            Message::MapRefusal(MapRefusal {
                map: MapName::Desired,
                version: position().version,
                reason: RefusalReason::Stale,
                accepted: Some(header),
            }),
        ),
    ]
}

fn logs_and_calls() -> Vec<(&'static str, Message)> {
    let pod: PodId = "default/ocr-1".parse().unwrap();
    let ack = LogAck { log: log(), watermark: 41 };
    vec![
        (
            "log-batch",
            Message::LogBatch(LogBatch {
                log: log(),
                oldest: 40,
                first: 42,
                records: vec![ByteBuf::from(vec![9; 4])],
            }),
        ),
        ("log-ack", Message::LogAck(ack)),
        ("log-ack-results", Message::LogAck(LogAck { log: results_log(), watermark: 41 })),
        ("log-hold", Message::LogHold(LogHold { log: log(), received: 45 })),
        (
            "call-request",
            Message::CallRequest(CallRequest {
                id: 1,
                timeout_ms: 5000,
                method: CallMethod::TailLog { pod, lines: 10 },
            }),
        ),
        (
            "call-response-done",
            Message::CallResponse(CallResponse {
                id: 1,
                outcome: CallOutcome::done(b"line\n".to_vec()),
            }),
        ),
        (
            "call-response-failed",
            Message::CallResponse(CallResponse {
                id: 1,
                outcome: CallOutcome::Failed { message: "no such pod".into() },
            }),
        ),
    ]
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn version_1_is_decoded_for_ever() {
    let golden = include_str!("../../golden/messages-v1.txt");
    let lines: Vec<_> = golden.lines().filter_map(|line| line.split_once(' ')).collect();
    let messages = one_of_each();
    let written: String = messages
        .iter()
        .map(|(name, message)| {
            format!("{name} {}\n", hexadecimal(&encode("message", message).unwrap()))
        })
        .collect();
    assert_eq!(lines.len(), messages.len(), "the golden file should be:\n{written}");
    for ((name, message), (golden_name, bytes)) in messages.iter().zip(lines) {
        assert_eq!(*name, golden_name);
        let bytes: Vec<u8> = (0..bytes.len() / 2)
            .map(|at| u8::from_str_radix(&bytes[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let decoded: Message = decode("message", &bytes, 4096).unwrap();
        assert_eq!(decoded, *message, "{name}");
        assert_eq!(encode("message", message).unwrap(), bytes, "{name} is written otherwise");
    }
}
