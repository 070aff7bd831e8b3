//! Results by HTTP: a POST of NDJSON or of a JSON array; any 2xx means that all of them are taken.
//!
//! The ids of the first and the last result and their number stand in headers, so that a receiver can
//! know a repeat before it reads. What the receiver's answers mean is in `http.rs`.

use super::super::http::HttpClient;
use super::super::outlet::{Failure, Gather};
use super::{Line, ResultSink, ndjson};
use crate::config::WebhookFormat;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
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

impl ResultSink for WebhookSink {
    fn gather(&self) -> Gather {
        GATHER
    }

    async fn send_lines(&mut self, part: &[Line]) -> Result<(), Failure> {
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
}
