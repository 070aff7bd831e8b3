//! What pods say: results that they post, and pages of metrics.

#![allow(clippy::expect_used, reason = "a failure is what fuzzing looks for")]

use crate::input::{Input, Output};
use edge_agent::results::{Request, parse};
use serde_bytes::ByteBuf;
use shared::limits::RESULT_BODY_BYTES_MAX;
use shared::model::{
    BootClock, ClockQuality, DEFAULT_SINK, PodResult, ResultFormat, SinkId, UnixMs, check_topic,
};
use shared::wire::{LogBatch, LogId, Message, Stream, encode};

const CONTENT_TYPES: [Option<&str>; 4] =
    [None, Some("application/json"), Some("application/x-ndjson"), Some("application/cbor")];

/// A request to `/v1/results`: its type, its query, its body.
///
/// # Panics
/// When a result is taken that is not what it claims to be.
pub fn post(data: &[u8]) {
    let mut input = Input::new(data);
    let content_type = CONTENT_TYPES[usize::from(input.byte() % 4)];
    let query = String::from_utf8_lossy(input.chunk()).into_owned();
    let query = Some(query.as_str()).filter(|query| !query.is_empty());
    let body = input.rest();
    let Ok(results) = parse(Request { content_type, query, body }) else { return };
    assert!(!results.is_empty(), "nothing was taken");
    for result in results {
        check_topic(&result.topic).expect("a topic");
        assert!(result.body.len() <= RESULT_BODY_BYTES_MAX, "{} bytes", result.body.len());
        if result.format == ResultFormat::Json {
            serde_json::from_slice::<serde::de::IgnoredAny>(&result.body).expect("JSON");
        }
        result_body(&result.body);
    }
}

/// Names that are wanted, and a page.
#[cfg(fuzzing)]
pub fn metrics_page(data: &[u8]) {
    let mut input = Input::new(data);
    let names = (0..input.byte() % 3).map(|_| input.text()).collect::<Vec<_>>();
    let page = String::from_utf8_lossy(input.rest()).into_owned();
    let series = edge_agent::shell::series_of_page(&page, &names);
    assert!(series <= 64, "{series} series of one pod");
}

/// A body as the hub's sinks show it.
#[cfg(fuzzing)]
pub fn result_body(data: &[u8]) {
    ::hub::hostile::result_body(data);
}

/// Nothing: in ordinary builds these are private, and `fuzz.sh` builds otherwise.
#[cfg(not(fuzzing))]
pub fn metrics_page(_: &[u8]) {}

/// Nothing, for the same reason.
#[cfg(not(fuzzing))]
pub fn result_body(_: &[u8]) {}

/// What honest pods say, by target.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let post = |kind: u8, query: &str, body: &[u8]| {
        let head = Output::default().byte(kind).chunk(query.as_bytes()).bytes();
        ("post", [&head, body].concat())
    };
    let cbor = b"\xa2etopicftemp/1dbody\xa1dname\xfb\x40\x45\x00\x00\x00\x00\x00\x00";
    let json =
        br#"{"topic":"detections/gate-3","time":"2026-11-01T00:00:00Z","body":{"n":[1,2.5,null]}}"#;
    let page = b"# TYPE app_requests_total counter\napp_requests_total{code=\"200\"} 7\n\
# TYPE app_request_duration_seconds histogram\napp_request_duration_seconds_bucket{le=\"0.1\"} 3\n\
app_request_duration_seconds_bucket{le=\"+Inf\"} 7\napp_request_duration_seconds_sum 1.5\n\
app_request_duration_seconds_count 7\n# EOF\n";
    let mut seeds = vec![
        post(0, "", json),
        post(1, "", &[&b"["[..], json, b",", json, b"]"].concat()),
        post(1, "topic=temp%2F1&time=2026-11-01T00:00:00.5%2B02:00", b"21.5"),
        post(2, "", &[&json[..], b"\n", json].concat()),
        post(3, "", cbor),
        post(3, "topic=t", &cbor[14..]),
        ("metrics_page", [&[0], &page[..]].concat()),
        ("result_body", cbor.to_vec()),
        ("result_body", json.to_vec()),
        ("result_body", b"\x9f\x01\x20\xf5\xf6\xfa\x3f\x80\x00\x00\xff".to_vec()),
    ];
    let named = Output::default().byte(1).chunk(b"app_requests_total").bytes();
    seeds.push(("metrics_page", [&named, &page[..]].concat()));
    let key = [7_u8; 32].map(|byte| byte.to_string()).join(",");
    let entry = format!(
        r#"{{"session_key":[{key}],"certificate_serial":"1a","enrolled_at":5,"revoked":false}}"#
    );
    seeds.push(("registry", entry.into_bytes()));
    seeds.push(("hub_link", Output::default().byte(1).chunk(&results_batch(json)).bytes()));
    seeds
}

/// A node's batch with a result for the sink that every hub has.
fn results_batch(body: &[u8]) -> Vec<u8> {
    let quality = ClockQuality::Synchronised;
    let result = PodResult {
        pod: "default/ocr-0".parse().expect("a pod"),
        topic: "plates".to_owned(),
        at: UnixMs(1_700_000_000_000),
        clock: BootClock { boot: 1, since_boot_ms: 5, offset_ms: 7, quality },
        format: ResultFormat::Json,
        body: body.to_vec().into(),
        thinned: 0,
    };
    let record = ByteBuf::from(encode("result", &result).expect("it can be encoded"));
    let log = LogId { incarnation: 1, stream: Stream::Results(SinkId::of(DEFAULT_SINK)) };
    let batch = LogBatch { log, oldest: 1, first: 1, records: vec![record] };
    encode("message", &Message::LogBatch(batch)).expect("it can be encoded")
}
