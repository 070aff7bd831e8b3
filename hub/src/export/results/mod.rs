//! Results as their sinks get them: one JSON object each, with an id by which a repeat is known.
//!
//! ```json
//! {"id":"mast-17/00000000000000a1/37a8eec1/42","node":"mast-17","pod":"default/ocr-0",
//!  "topic":"plates/gate-3","at_unix_ms":1767225600000,"clock":"synchronised","thinned":0,
//!  "body":{"plate":"X 123"}}
//! ```
//!
//! The id is node, start of the agent, sink and number: what is delivered twice has it twice. A body of
//! JSON stands there as it is; one of CBOR as JSON, where JSON can say it; else as `body_base64` with
//! `body_format`. A time of a clock that was wrong is corrected where that is possible (`clock`:
//! `corrected`, with the node's own in `node_at_unix_ms`).

pub(crate) mod files;
mod json;
pub(crate) mod mqtt;
pub(crate) mod webhook;

use super::outlet::{Failure, Gather, Outlet};
use super::tally::Tally;
use crate::core::{Content, Delivery, TimeBasis, corrected_time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use json::quoted;
use shared::limits::LOG_RECORD_BYTES_MAX;
use shared::model::{NodeId, PodResult, ResultFormat};
use shared::wire::{SequenceNumber, Stream, decode};
use std::collections::VecDeque;
use std::fmt::Write as _;

/// Results that are sent in one go; a webhook's receiver can still answer for them in time.
const PART_RESULTS_MAX: usize = 256;

/// Bytes of lines that are sent in one go.
const PART_BYTES_MAX: usize = 1024 * 1024;

/// One result on its way to a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// By which a repeat is known.
    pub(crate) id: String,
    /// Whose.
    pub(crate) node: NodeId,
    /// `namespace/pod`.
    pub(crate) pod: String,
    /// What it is about.
    pub(crate) topic: String,
    /// The JSON object, without the end of the line.
    pub(crate) text: String,
}

/// A sink of results.
pub(crate) trait ResultSink: Send + 'static {
    /// How much is brought out together.
    fn gather(&self) -> Gather;

    /// Sends results; they are taken, durably as far as the sink says so, or they are not.
    fn send_lines(&mut self, lines: &[Line]) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl<S: ResultSink + Sync> Outlet for S {
    type Part = Vec<Line>;

    fn gather(&self) -> Gather {
        ResultSink::gather(self)
    }

    fn prepare(&self, deliveries: &[Delivery], tally: &Tally) -> VecDeque<Vec<Line>> {
        parts(deliveries, tally)
    }

    async fn send(&mut self, part: &Vec<Line>) -> Result<(), Failure> {
        self.send_lines(part).await
    }

    fn size(part: &Vec<Line>) -> u64 {
        part.len() as u64
    }

    fn halves(part: Vec<Line>, _reason: &str) -> (Vec<Line>, Vec<Line>) {
        halves(part)
    }
}

/// The results of `deliveries`, in order, in parts that are sent in one go.
fn parts(deliveries: &[Delivery], tally: &Tally) -> VecDeque<Vec<Line>> {
    let mut parts: VecDeque<Vec<Line>> = VecDeque::new();
    let mut bytes = 0;
    for line in lines(deliveries, tally) {
        bytes += line.text.len();
        match parts.back_mut() {
            Some(part) if part.len() < PART_RESULTS_MAX && bytes <= PART_BYTES_MAX => {
                part.push(line)
            }
            _ => {
                bytes = line.text.len();
                parts.push_back(vec![line]);
            }
        }
    }
    parts
}

fn lines(deliveries: &[Delivery], tally: &Tally) -> impl Iterator<Item = Line> {
    deliveries.iter().flat_map(move |delivery| {
        let records = match &delivery.content {
            Content::Results(records) => records.as_slice(),
            Content::Samples(_) => &[],
        };
        records
            .iter()
            .filter_map(move |(sequence, record)| line(delivery, *sequence, record, tally))
    })
}

/// The core could decode it.
fn line(
    delivery: &Delivery,
    sequence: SequenceNumber,
    record: &[u8],
    tally: &Tally,
) -> Option<Line> {
    let result: PodResult = decode("result", record, LOG_RECORD_BYTES_MAX).ok()?;
    let Stream::Results(sink) = delivery.log.stream else { return None };
    let (node, incarnation) = (&delivery.node, delivery.log.incarnation);
    let id = format!("{node}/{incarnation:016x}/{:08x}/{sequence}", sink.0);
    let pod = result.pod.to_string();
    let time = corrected_time(result.at, Some(result.clock.into()), &delivery.clocks);
    let clock = match time.basis {
        TimeBasis::Synchronised => "synchronised",
        TimeBasis::Corrected => "corrected",
        TimeBasis::Unsynchronised => "unsynchronised",
    };
    if time.basis == TimeBasis::Unsynchronised {
        tally.unsynchronised(1);
    }
    let mut text = format!(
        "{{\"id\":{},\"node\":{},\"pod\":{},\"topic\":{},\"at_unix_ms\":{},\"clock\":\"{clock}\"",
        quoted(&id),
        quoted(node.as_str()),
        quoted(&pod),
        quoted(&result.topic),
        time.at.0,
    );
    // Writing to a String does not fail.
    if time.basis == TimeBasis::Corrected {
        let _ = write!(text, ",\"node_at_unix_ms\":{}", result.at.0);
    }
    let _ = write!(text, ",\"thinned\":{},{}}}", result.thinned, body(&result));
    Some(Line { id, node: node.clone(), pod, topic: result.topic, text })
}

fn body(result: &PodResult) -> String {
    let (as_json, format) = match result.format {
        ResultFormat::Json => (json::embedded(&result.body), "json"),
        ResultFormat::Cbor => (json::from_cbor(&result.body), "cbor"),
    };
    match as_json {
        Some(json) => format!("\"body\":{json}"),
        None => {
            let encoded = STANDARD.encode(&result.body);
            format!("\"body_base64\":\"{encoded}\",\"body_format\":\"{format}\"")
        }
    }
}

/// Two halves of a part.
fn halves(mut part: Vec<Line>) -> (Vec<Line>, Vec<Line>) {
    let second = part.split_off(part.len() / 2);
    (part, second)
}

/// Lines as text, each with its end.
fn ndjson(part: &[Line]) -> String {
    let length = part.iter().map(|line| line.text.len() + 1).sum();
    part.iter().fold(String::with_capacity(length), |mut text, line| {
        text.push_str(&line.text);
        text.push('\n');
        text
    })
}

/// What sinks that write JSON make of a body.
///
/// # Panics
/// When that is not JSON on one line.
#[cfg(fuzzing)]
#[allow(clippy::panic, reason = "a failure is what fuzzing looks for")]
pub(crate) fn show_as_json(body: &[u8]) {
    for shown in [json::embedded(body), json::from_cbor(body)].into_iter().flatten() {
        let value: Result<serde_json::Value, _> = serde_json::from_str(&shown);
        if value.is_err() || shown.contains('\n') {
            panic!("not JSON on one line: {shown}");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::core::SinkKey;
    use shared::model::{BootClock, ClockQuality, SinkId, UnixMs};
    use shared::wire::{LogId, encode};

    const CLOCK: BootClock =
        BootClock { boot: 1, since_boot_ms: 0, offset_ms: 0, quality: ClockQuality::Synchronised };

    /// A delivery of results with these bodies, numbered from 1.
    pub(crate) fn delivery(bodies: &[(ResultFormat, &[u8])]) -> Delivery {
        let record = |(format, body): &(ResultFormat, &[u8])| {
            let result = PodResult {
                pod: "default/ocr-0".parse().unwrap(),
                topic: "plates/gate-3".to_owned(),
                at: UnixMs(1_767_225_600_000),
                clock: CLOCK,
                format: *format,
                body: body.to_vec().into(),
                thinned: 2,
            };
            encode("result", &result).unwrap()
        };
        Delivery {
            node: NodeId::new("mast-17").unwrap(),
            log: LogId { incarnation: 0xa1, stream: Stream::Results(SinkId(0x37a8_eec1)) },
            sink: SinkKey::Results(SinkId(0x37a8_eec1)),
            content: Content::Results((1..).zip(bodies.iter().map(record)).collect()),
            clocks: Default::default(),
        }
    }

    fn texts(bodies: &[(ResultFormat, &[u8])]) -> Vec<String> {
        let tally = Tally::new("t", "t");
        lines(&[delivery(bodies)], &tally).map(|line| line.text).collect()
    }

    #[test]
    fn a_result_is_one_line_of_json_with_its_id() {
        let body = b"{\n \"plate\": \"X 123\",\r\n \"p\": 0.10000000000000000001 }";
        let expected = "{\"id\":\"mast-17/00000000000000a1/37a8eec1/1\",\"node\":\"mast-17\",\
            \"pod\":\"default/ocr-0\",\"topic\":\"plates/gate-3\",\"at_unix_ms\":1767225600000,\
            \"clock\":\"synchronised\",\"thinned\":2,\"body\":{  \"plate\": \"X 123\",   \
            \"p\": 0.10000000000000000001 }}";
        assert_eq!(texts(&[(ResultFormat::Json, body)]), [expected]);
    }

    #[test]
    fn cbor_is_json_where_json_can_say_it_and_else_base64() {
        let cbor = |value: &serde_json::Value| serde_cbor::to_vec(value).unwrap();
        let said = cbor(&serde_json::json!({"a": [1, -2, 0.5, null, true], "b": "c"}));
        // {1: h'ff'}: a key that is no text.
        let unsaid = [0xa1, 0x01, 0x41, 0xff];
        let lines = texts(&[(ResultFormat::Cbor, &said), (ResultFormat::Cbor, &unsaid)]);
        assert!(
            lines[0].ends_with(r#""body":{"a":[1,-2,0.5,null,true],"b":"c"}}"#),
            "{}",
            lines[0]
        );
        let base64 = r#""body_base64":"oQFB/w==","body_format":"cbor"}"#;
        assert!(lines[1].ends_with(base64), "{}", lines[1]);
    }

    #[test]
    fn a_body_that_would_break_the_line_or_the_object_is_base64() {
        for body in ["{", "1} , {", "{\"a\":\"\u{1}\"}", "", "[1] [2]"] {
            let lines = texts(&[(ResultFormat::Json, body.as_bytes())]);
            assert!(lines[0].contains("\"body_format\":\"json\""), "{}", lines[0]);
        }
        let deep = [vec![b'['; 200], vec![b']'; 200]].concat();
        for line in texts(&[(ResultFormat::Json, &deep), (ResultFormat::Json, &[0xff])]) {
            assert!(line.contains("\"body_format\":\"json\""), "{line}");
            serde_json::from_str::<serde_json::Value>(&line).unwrap();
        }
    }

    #[test]
    fn a_wrong_clock_is_corrected_and_both_times_are_told() {
        let mut sent = delivery(&[(ResultFormat::Json, b"1")]);
        let clock = BootClock { quality: ClockQuality::Unsynchronised, ..CLOCK };
        let Content::Results(records) = &mut sent.content else { panic!("no results") };
        let mut result: PodResult = decode("result", &records[0].1, 10_000).unwrap();
        (result.at, result.clock) = (UnixMs(5_000), clock);
        records[0].1 = encode("result", &result).unwrap();
        let tally = Tally::new("t", "t");
        let text = |sent: Delivery| lines(&[sent], &tally).next().unwrap().text;
        assert!(text(sent.clone()).contains("\"at_unix_ms\":5000,\"clock\":\"unsynchronised\""));
        assert_eq!(tally.view().unsynchronised, 1);
        sent.clocks = crate::core::BootClocks::of(1, 1_000_000).into();
        let told = "\"at_unix_ms\":1005000,\"clock\":\"corrected\",\"node_at_unix_ms\":5000";
        assert!(text(sent).contains(told));
    }

    #[test]
    fn parts_are_bounded() {
        let body: (ResultFormat, &[u8]) = (ResultFormat::Json, b"1");
        let many = parts(&[delivery(&vec![body; 600])], &Tally::new("t", "t"));
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [256, 256, 88]);
    }
}
