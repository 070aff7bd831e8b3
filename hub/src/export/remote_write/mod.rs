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
use shared::io::clock::RELEASE;
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

/// Of those, what holds for every sample that is older still. None that is sent lies in the future, which
/// is out of bounds as well.
const TOO_OLD: [&str; 2] = ["too old sample", "out of bounds"];

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
        // By a clock that can't be right nothing is in the future; nothing is sent by it either.
        points::requests(deliveries, tally, plausible_now_ms().unwrap_or(i64::MAX))
    }

    async fn send(&mut self, part: &Points) -> Result<(), Failure> {
        if plausible_now_ms().is_none() {
            return Err(Failure::down("the hub's own clock is before the release of this program"));
        }
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
        let (older, newer) = part.halves();
        // The newest that is too old settles all before it: few requests find where a backlog begins to
        // be taken, instead of one for each of its moments.
        if is_too_old(reason) { (newer, older) } else { (older, newer) }
    }

    fn forgo(&self, refused: &Points, reason: &str, rest: &mut VecDeque<Points>) -> u64 {
        let Some(point) = refused.points.first().filter(|_| is_too_old(reason)) else { return 0 };
        let mut forgone = 0;
        for part in rest.iter_mut() {
            let before = part.points.len();
            part.points.retain(|other| other.at > point.at);
            forgone += before.saturating_sub(part.points.len()) as u64;
        }
        rest.retain(|part| !part.points.is_empty());
        forgone
    }
}

fn is_too_old(reason: &str) -> bool {
    TOO_OLD.iter().any(|words| reason.contains(words))
}

fn judge(answer: Answer) -> Result<(), Failure> {
    let never = NEVER.iter().any(|words| answer.words.contains(words));
    if never && !answer.status.is_success() {
        return Err(Failure::Refused(format!("HTTP {}: {}", answer.status, answer.words)));
    }
    answer.judge()
}

/// The time in milliseconds since 1970, unless the hub's clock can't be right.
fn plausible_now_ms() -> Option<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_millis()).ok()?;
    i64::try_from(now).ok().filter(|_| now >= RELEASE.0)
}
