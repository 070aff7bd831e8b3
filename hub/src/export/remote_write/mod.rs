//! Samples to Prometheus, or to anything else that takes remote write 1.0, with the nodes' own times.
//!
//! Samples of many nodes share a request; requests go one after another, so that a series' samples
//! arrive in order. A sample that arrives twice has the same time and value both times, which Prometheus
//! takes for one. It needs an out-of-order window there for nodes that were offline (`docs/sinks.md`).

mod points;
mod protobuf;

use super::http::{Answer, HttpClient};
use super::outlet::{Failure, Gather, Outlet};
use super::tally::Tally;
use crate::core::Delivery;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use points::Points;
use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Samples that are brought out together: about 50 000 values of a fleet.
const GATHER_BYTES: u64 = 2 * 1024 * 1024;

/// How long a sample waits for company.
const GATHER_WAIT: Duration = Duration::from_secs(1);

const VERSION: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// What receivers say of samples that they will never take. Some of them, Prometheus before 2.53 among
/// them, say it of a sample that is too old with the status of a failure of their own.
const NEVER: [&str; 4] =
    ["too old sample", "out of bounds", "out of order sample", "duplicate sample"];

/// Of those, what holds for every sample that is older still, or lies further in the future.
const BY_TIME: [&str; 2] = ["too old sample", "out of bounds"];

/// Prometheus as a sink.
pub(crate) struct RemoteWrite {
    client: HttpClient,
}

impl RemoteWrite {
    pub(crate) fn new(client: HttpClient) -> Self {
        Self { client }
    }
}

impl Outlet for RemoteWrite {
    type Part = Points;

    fn gather(&self) -> Gather {
        Gather { bytes: GATHER_BYTES, wait: GATHER_WAIT }
    }

    fn prepare(&self, deliveries: &[Delivery], tally: &Tally) -> VecDeque<Points> {
        points::requests(deliveries, tally, now_ms())
    }

    async fn send(&mut self, part: &Points) -> Result<(), Failure> {
        let compressed = snap::raw::Encoder::new().compress_vec(&part.encode());
        let body = compressed.map_err(|error| Failure::Refused(error.to_string()))?;
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf")),
            (CONTENT_ENCODING, HeaderValue::from_static("snappy")),
            (VERSION, HeaderValue::from_static("0.1.0")),
        ];
        judge(self.client.post(body.into(), &headers).await?)
    }

    fn size(part: &Points) -> u64 {
        part.points.len() as u64
    }

    fn halves(part: Points, reason: &str) -> (Points, Points) {
        let by_time = BY_TIME.iter().any(|words| reason.contains(words));
        let is_past = part.points.last().is_some_and(|newest| newest.at <= now_ms());
        let (older, newer) = part.halves();
        // Too old: the newest that is refused settles all before it. Too far in the future: the oldest
        // that is refused settles all behind it. So few requests find where a backlog begins to be
        // taken, instead of one for each of its moments.
        if by_time && is_past { (newer, older) } else { (older, newer) }
    }

    fn forgo(&self, refused: &Points, reason: &str, rest: &mut VecDeque<Points>) -> u64 {
        let Some(point) = refused.points.first() else { return 0 };
        if !BY_TIME.iter().any(|words| reason.contains(words)) {
            return 0;
        }
        let is_past = point.at < now_ms();
        let mut forgone = 0;
        for part in rest.iter_mut() {
            let before = part.points.len();
            part.points
                .retain(|other| if is_past { other.at > point.at } else { other.at < point.at });
            forgone += before.saturating_sub(part.points.len()) as u64;
        }
        rest.retain(|part| !part.points.is_empty());
        forgone
    }
}

fn judge(answer: Answer) -> Result<(), Failure> {
    let never = NEVER.iter().any(|words| answer.words.contains(words));
    if never && !answer.status.is_success() {
        return Err(Failure::Refused(format!("HTTP {}: {}", answer.status, answer.words)));
    }
    answer.judge()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
