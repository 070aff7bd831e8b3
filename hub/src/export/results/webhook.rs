//! Results by HTTP: a POST of NDJSON or of a JSON array; any 2xx means that all of them are taken.
//!
//! The ids of the first and the last result and their number stand in headers, so that a receiver can
//! know a repeat before it reads. What the receiver's answers mean is in `http.rs`.

use super::super::http::HttpClient;
use super::super::outlet::{Failure, Gather, Outlet};
use super::super::tally::Tally;
use super::{Line, halves, ndjson, parts};
use crate::config::WebhookFormat;
use crate::core::Delivery;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use std::collections::VecDeque;
use std::time::Duration;

/// Results that share a request.
const GATHER: Gather = Gather { bytes: 256 * 1024, wait: Duration::from_millis(200) };

const FIRST_ID: HeaderName = HeaderName::from_static("hinterland-first-id");
const LAST_ID: HeaderName = HeaderName::from_static("hinterland-last-id");
const COUNT: HeaderName = HeaderName::from_static("hinterland-count");

/// A receiver of results.
pub(crate) struct WebhookSink {
    client: HttpClient,
    format: WebhookFormat,
}

impl WebhookSink {
    pub(crate) fn new(client: HttpClient, format: WebhookFormat) -> Self {
        Self { client, format }
    }

    fn body(&self, part: &[Line]) -> (String, &'static str) {
        match self.format {
            WebhookFormat::Ndjson => (ndjson(part), "application/x-ndjson"),
            WebhookFormat::Json => {
                let lines: Vec<&str> = part.iter().map(|line| line.text.as_str()).collect();
                (format!("[{}]", lines.join(",")), "application/json")
            }
        }
    }
}

impl Outlet for WebhookSink {
    type Part = Vec<Line>;

    fn gather(&self) -> Gather {
        GATHER
    }

    fn prepare(&self, deliveries: &[Delivery], tally: &Tally) -> VecDeque<Vec<Line>> {
        parts(deliveries, tally)
    }

    async fn send(&mut self, part: &Vec<Line>) -> Result<(), Failure> {
        let (body, kind) = self.body(part);
        // Ids are names, digits and slashes.
        let id = |line: Option<&Line>| {
            let id = line.map_or("", |line| line.id.as_str());
            HeaderValue::from_str(id).map_err(|error| Failure::Refused(error.to_string()))
        };
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static(kind)),
            (FIRST_ID, id(part.first())?),
            (LAST_ID, id(part.last())?),
            (COUNT, HeaderValue::from(part.len())),
        ];
        self.client.post(body.into(), &headers).await?.judge()
    }

    fn size(part: &Vec<Line>) -> u64 {
        part.len() as u64
    }

    fn halves(part: Vec<Line>, _reason: &str) -> (Vec<Line>, Vec<Line>) {
        halves(part)
    }
}
