//! From the body of a request to results. Each body is kept as the pod wrote it.
//!
//! Either a request says everything of each result (`{topic, time, body}`), or the query says topic
//! and time and what is sent is the result itself, so that `curl --data` is enough. Refuses the whole
//! of a request for one result that is wrong, and says which.

use super::cbor::{self, Fault};
use super::time::parse_rfc3339;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::limits::RESULT_BODY_BYTES_MAX;
use shared::model::{ResultFormat, UnixMs, check_topic};
use std::borrow::Cow;

/// Results in one request: as many as one batch of the log.
pub(super) const RESULTS_MAX: usize = 256;

/// Bytes of one request, all its results together.
pub(super) const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// A result as a pod handed it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewResult {
    /// What it is about.
    pub topic: String,
    /// When it was made, if the pod says so.
    pub at: Option<UnixMs>,
    /// How `body` is written.
    pub format: ResultFormat,
    /// The result itself.
    pub body: Vec<u8>,
}

/// What a pod sent.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The header of that name.
    pub content_type: Option<&'a str>,
    /// What follows the `?`.
    pub query: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// Why a request was refused; a sentence for whoever wrote the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is not what it should be.
    Malformed(String),
    /// It, or one of its results, is over a limit.
    TooLarge(String),
    /// Its content type is none of those that are read.
    UnsupportedType(String),
}

/// How a body is written.
enum Form {
    Json,
    JsonLines,
    Cbor,
}

/// Topic and time of all results of a request.
type Common = Option<(String, Option<UnixMs>)>;

/// The results in a request, at least one.
///
/// # Errors
/// [`Refusal`]; nothing of the request counts then.
pub fn parse(request: Request<'_>) -> Result<Vec<NewResult>, Refusal> {
    let common = common_of(request.query.unwrap_or_default())?;
    let results = match form_of(request.content_type)? {
        Form::Cbor => from_cbor(request.body, common),
        Form::Json => from_json(text_of(request.body)?, common),
        Form::JsonLines => {
            let lines = text_of(request.body)?.lines().filter(|line| !line.trim().is_empty());
            let lines = lines.enumerate().take(RESULTS_MAX + 1);
            lines.map(|(index, line)| one_of_json(index, line.trim(), &common)).collect()
        }
    }?;
    match results.len() {
        0 => Err(malformed("there is no result in it")),
        count if count > RESULTS_MAX => {
            let problem = format!("more than {RESULTS_MAX} results in one request");
            Err(Refusal::TooLarge(problem))
        }
        _ => Ok(results),
    }
}

fn malformed(problem: impl Into<String>) -> Refusal {
    Refusal::Malformed(problem.into())
}

fn form_of(content_type: Option<&str>) -> Result<Form, Refusal> {
    let kind = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    match kind.trim().to_ascii_lowercase().as_str() {
        // The third is what `curl --data` says of whatever it sends.
        "application/json" | "" | "application/x-www-form-urlencoded" => Ok(Form::Json),
        "application/x-ndjson" => Ok(Form::JsonLines),
        "application/cbor" => Ok(Form::Cbor),
        other => Err(Refusal::UnsupportedType(format!(
            "`{}` is not read: expected application/json, application/x-ndjson or application/cbor",
            other.chars().take(80).collect::<String>()
        ))),
    }
}

fn text_of(body: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(body).map_err(|error| malformed(format!("the body is not UTF-8: {error}")))
}

fn common_of(query: &str) -> Result<Common, Refusal> {
    let (mut topic, mut time) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decoded(value)
            .ok_or_else(|| malformed("the query is not percent-encoded UTF-8"))?;
        match name {
            "topic" => topic = Some(checked(value)?),
            "time" => time = Some(time_of(&value)?),
            _ => return Err(malformed("the query may say `topic` and `time` only")),
        }
    }
    match (topic, time) {
        (None, Some(_)) => Err(malformed("the query says `time` without `topic`")),
        (topic, time) => Ok(topic.map(|topic| (topic, time))),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            // In times it stands for itself: nobody writes a space there.
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn checked(topic: String) -> Result<String, Refusal> {
    check_topic(&topic).map_err(|error| malformed(error.to_string()))?;
    Ok(topic)
}

/// Milliseconds since 1970, or RFC 3339.
fn time_of(text: &str) -> Result<UnixMs, Refusal> {
    let time = text.parse().ok().map(UnixMs).or_else(|| parse_rfc3339(text));
    time.ok_or_else(|| {
        malformed("`time` is neither milliseconds since 1970 nor as in 2026-11-24T18:40:10.250Z")
    })
}

fn result(
    index: usize,
    common: (String, Option<UnixMs>),
    format: ResultFormat,
    body: &[u8],
) -> Result<NewResult, Refusal> {
    if body.len() > RESULT_BODY_BYTES_MAX {
        return Err(Refusal::TooLarge(format!(
            "result {index} has {} bytes: expected at most {RESULT_BODY_BYTES_MAX}",
            body.len()
        )));
    }
    Ok(NewResult { topic: common.0, at: common.1, format, body: body.to_vec() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(default)]
    time: Option<JsonTime>,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonTime {
    Ms(u64),
    Text(String),
}

fn from_json(text: &str, common: Common) -> Result<Vec<NewResult>, Refusal> {
    if common.is_some() || !text.trim_start().starts_with('[') {
        return Ok(vec![one_of_json(0, text.trim(), &common)?]);
    }
    let envelopes: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| not_json(0, &e))?;
    let envelopes = envelopes.iter().enumerate().take(RESULTS_MAX + 1);
    envelopes.map(|(index, envelope)| one_of_json(index, envelope.get(), &None)).collect()
}

fn not_json(index: usize, error: &serde_json::Error) -> Refusal {
    malformed(format!("result {index} is not as expected: {error}"))
}

fn one_of_json(index: usize, text: &str, common: &Common) -> Result<NewResult, Refusal> {
    // The whole of it is looked at, so that nobody stumbles over it later.
    let check = |text: &str| {
        let checked: Result<serde_json::Value, _> = serde_json::from_str(text);
        checked.map(drop).map_err(|error| not_json(index, &error))
    };
    if let Some(common) = common {
        let result = result(index, common.clone(), ResultFormat::Json, text.as_bytes())?;
        check(text)?;
        return Ok(result);
    }
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|e| not_json(index, &e))?;
    let at = match envelope.time {
        Some(JsonTime::Ms(ms)) => Some(UnixMs(ms)),
        Some(JsonTime::Text(text)) => Some(time_of(&text)?),
        None => None,
    };
    let common = (checked(envelope.topic.into_owned())?, at);
    let result = result(index, common, ResultFormat::Json, envelope.body.get().as_bytes())?;
    check(envelope.body.get())?;
    Ok(result)
}

fn from_cbor(bytes: &[u8], common: Common) -> Result<Vec<NewResult>, Refusal> {
    cbor::check_whole(bytes).map_err(not_cbor)?;
    if let Some(common) = common {
        return Ok(vec![result(0, common, ResultFormat::Cbor, bytes)?]);
    }
    let Some(items) = cbor::array(bytes).map_err(not_cbor)? else {
        return Ok(vec![one_of_cbor(0, bytes)?]);
    };
    let items = items.into_iter().enumerate().take(RESULTS_MAX + 1);
    items.map(|(index, item)| one_of_cbor(index, bytes.get(item).unwrap_or_default())).collect()
}

fn not_cbor(fault: Fault) -> Refusal {
    malformed(match fault {
        Fault::Truncated => "the body is not CBOR: it ends in the middle of a value".to_owned(),
        Fault::TooDeep => "the body is nested too deep".to_owned(),
        Fault::Malformed(at) => format!("the body is not one CBOR value: see byte {at}"),
    })
}

fn one_of_cbor(index: usize, bytes: &[u8]) -> Result<NewResult, Refusal> {
    let expected = || malformed(format!("result {index} is no map of `topic`, `time`, `body`"));
    let fields = cbor::map(bytes).map_err(not_cbor)?.ok_or_else(expected)?;
    let (mut topic, mut at, mut body) = (None, None, None);
    for pair in fields.chunks_exact(2) {
        let [key, value] = pair else { return Err(expected()) };
        let value = bytes.get(value.clone()).unwrap_or_default();
        match text_in(bytes.get(key.clone()).unwrap_or_default()).as_deref() {
            Some("topic") => topic = Some(checked(text_in(value).ok_or_else(expected)?)?),
            Some("time") => at = Some(cbor_time(value)?),
            Some("body") => body = Some(value),
            _ => return Err(expected()),
        }
    }
    let (topic, body) = topic.zip(body).ok_or_else(expected)?;
    result(index, (topic, at), ResultFormat::Cbor, body)
}

fn text_in(cbor: &[u8]) -> Option<String> {
    serde_cbor::from_slice(cbor).ok()
}

fn cbor_time(value: &[u8]) -> Result<UnixMs, Refusal> {
    match serde_cbor::from_slice::<u64>(value) {
        Ok(ms) => Ok(UnixMs(ms)),
        Err(_) => time_of(&text_in(value).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sent(kind: &str, query: &str, body: &[u8]) -> Result<Vec<NewResult>, Refusal> {
        parse(Request { content_type: Some(kind), query: Some(query), body })
    }

    fn json(topic: &str, at: Option<u64>, body: &str) -> NewResult {
        let (topic, body) = (topic.to_owned(), body.as_bytes().to_vec());
        NewResult { topic, at: at.map(UnixMs), format: ResultFormat::Json, body }
    }

    #[test]
    fn a_result_is_kept_as_it_was_written() {
        let one =
            br#" {"topic":"a/b","time":5,"body":{"n": 1.50, "big": 12345678901234567890123}} "#;
        let body = r#"{"n": 1.50, "big": 12345678901234567890123}"#;
        assert_eq!(sent("application/json", "", one), Ok(vec![json("a/b", Some(5), body)]));
        let batch =
            br#"[{"topic":"a","body":1},{"body":[2],"topic":"b","time":"1970-01-01T00:00:01Z"}]"#;
        let expected = vec![json("a", None, "1"), json("b", Some(1000), "[2]")];
        assert_eq!(sent("application/json; charset=utf-8", "", batch), Ok(expected.clone()));
        let lines =
            b"{\"topic\":\"a\",\"body\":1}\n\n{\"topic\":\"b\",\"time\":1000,\"body\":[2]}\r\n";
        assert_eq!(sent("application/x-ndjson", "", lines), Ok(expected));
    }

    #[test]
    fn with_a_topic_in_the_query_the_body_is_the_result_itself() {
        let expected = vec![json("a/b", Some(1000), "[1, 2]")];
        let form = "application/x-www-form-urlencoded";
        assert_eq!(sent(form, "topic=a%2Fb&time=1970-01-01T00:00:01Z", b"[1, 2]\n"), Ok(expected));
        let body = parse(Request { content_type: None, query: Some("topic=a"), body: b"{}" });
        assert_eq!(body, Ok(vec![json("a", None, "{}")]));
        let lines = sent("application/x-ndjson", "topic=a", b"1\n2");
        assert_eq!(lines, Ok(vec![json("a", None, "1"), json("a", None, "2")]));
    }

    #[test]
    fn cbor_is_kept_as_it_was_written_as_well() {
        // {"topic": "a", "time": 5, "body": 1.5 as a half}
        let one = b"\xa3\x65topic\x61a\x64time\x05\x64body\xf9\x3e\x00";
        let expected = NewResult {
            topic: "a".to_owned(),
            at: Some(UnixMs(5)),
            format: ResultFormat::Cbor,
            body: vec![0xf9, 0x3e, 0],
        };
        assert_eq!(sent("application/cbor", "", one), Ok(vec![expected.clone()]));
        let batch = [&[0x82][..], one, one].concat();
        let both = Ok(vec![expected.clone(), expected.clone()]);
        assert_eq!(sent("application/cbor", "", &batch), both);
        let raw = sent("application/cbor", "topic=a&time=5", &[0xf9, 0x3e, 0]);
        assert_eq!(raw, Ok(vec![expected]));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let malformed = |kind, query, body: &[u8]| {
            matches!(sent(kind, query, body), Err(Refusal::Malformed(_)))
        };
        for body in [
            "",
            "[]",
            "{}",
            "hello",
            "{\"topic\":\"a\"}",
            "{\"topic\":\"a b\",\"body\":1}",
            "{\"topic\":\"a\",\"body\":1,\"pod\":\"x\"}",
            "{\"topic\":\"a\",\"body\":1}{}",
            "{\"topic\":\"a\",\"time\":\"noon\",\"body\":1}",
            "[{\"topic\":\"a\",\"body\":1},2]",
            "{\"topic\":\"a\",\"time\":-1,\"body\":1}",
            "{\"topic\":\"a\",\"body\":\"\\ud800\"}",
        ] {
            assert!(malformed("application/json", "", body.as_bytes()), "`{body}` was taken");
        }
        for query in ["topic=", "topic=a%", "topic=a%zz", "time=1", "topic=a&time=x", "tpoic=a"] {
            assert!(malformed("application/json", query, b"1"), "`{query}` was taken");
        }
        for body in [&b"\x82\x01"[..], b"\x01", b"\xa1\x65topic\x61a", b"\x80", b""] {
            assert!(malformed("application/cbor", "", body), "{body:x?} was taken");
        }
        assert!(malformed("application/json", "topic=a", b"\xff"));
        assert!(malformed("application/json", "topic=a", &b"[".repeat(200)));
        let other = sent("text/plain", "topic=a", b"1");
        assert!(matches!(other, Err(Refusal::UnsupportedType(_))), "{other:?}");
    }

    #[test]
    fn the_limits_are_the_numbers_that_are_written_down() {
        let body = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
        let largest = sent("application/json", "topic=a", body(8192).as_bytes()).unwrap();
        assert_eq!(largest[0].body.len(), 8192);
        let over = sent("application/json", "topic=a", body(8193).as_bytes());
        assert!(matches!(over, Err(Refusal::TooLarge(_))));
        let count = |kind, lines| sent(kind, "topic=a", "1\n".repeat(lines).as_bytes());
        assert_eq!(count("application/x-ndjson", 256).unwrap().len(), 256);
        assert!(matches!(count("application/x-ndjson", 257), Err(Refusal::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(
            body in proptest::collection::vec(any::<u8>(), 0..80),
            query in "(topic=)?[a-z%/&=0-9]{0,12}",
            kind in 0_usize..3,
        ) {
            let kind = ["application/json", "application/x-ndjson", "application/cbor"][kind];
            let _ = sent(kind, &query, &body);
        }
    }
}
