//! What `/metrics` shows, in the Prometheus text format.
//!
//! Labels are bounded by the program (a route and a status code), never taken from a request.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::classifier::LoadTime;

/// Bounds in seconds, around the ten milliseconds that one run takes on a small CPU.
const LATENCY_BOUNDS_S: [f64; 11] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByStatus {
    code: u16,
}

/// The server's metrics; all methods may be called from any thread.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<ByStatus, Counter>,
    request_time: Histogram,
    inference_time: Histogram,
    model_load_time: Gauge<f64, AtomicU64>,
    model_warm_up_time: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("file_classifier"),
            requests: Family::default(),
            request_time: Histogram::new(LATENCY_BOUNDS_S),
            inference_time: Histogram::new(LATENCY_BOUNDS_S),
            model_load_time: Gauge::default(),
            model_warm_up_time: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Classification requests answered", self.requests.clone());
        let mut seconds = |name, help, metric: Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, metric);
        };
        seconds("request", "From the request's head to its answer", self.request_time.clone());
        seconds("inference", "One run of the model", self.inference_time.clone());
        let mut seconds = |name, help, metric: Gauge<f64, AtomicU64>| {
            registry.register_with_unit(name, help, Unit::Seconds, metric);
        };
        seconds("model_load", "Parsing and optimising the model", self.model_load_time.clone());
        seconds("model_warm_up", "First run of the model", self.model_warm_up_time.clone());
    }

    /// Counts a classification request, whatever became of it.
    pub(crate) fn request_answered(&self, status_code: u16, took: Duration) {
        self.requests.get_or_create(&ByStatus { code: status_code }).inc();
        self.request_time.observe(took.as_secs_f64());
    }

    pub(crate) fn model_ran(&self, took: Duration) {
        self.inference_time.observe(took.as_secs_f64());
    }

    pub(crate) fn model_loaded(&self, took: LoadTime) {
        self.model_load_time.set(took.load.as_secs_f64());
        self.model_warm_up_time.set(took.warm_up.as_secs_f64());
    }

    /// The whole page, in the OpenMetrics text format, which Prometheus reads.
    ///
    /// # Errors
    ///
    /// Only if formatting fails, which writing to a string does not.
    pub(crate) fn page(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_requests_by_status_latencies_and_the_load_time() {
        let metrics = Metrics::default();
        metrics.request_answered(200, Duration::from_millis(7));
        metrics.model_ran(Duration::from_millis(6));
        metrics.model_loaded(LoadTime {
            load: Duration::from_millis(250),
            warm_up: Duration::from_millis(20),
        });
        let page = metrics.page().unwrap();
        for line in [
            "file_classifier_requests_total{code=\"200\"} 1",
            "file_classifier_request_seconds_bucket{le=\"0.005\"} 0",
            "file_classifier_request_seconds_bucket{le=\"0.01\"} 1",
            "file_classifier_inference_seconds_count 1",
            "file_classifier_model_load_seconds 0.25",
            "file_classifier_model_warm_up_seconds 0.02",
        ] {
            assert!(page.lines().any(|found| found == line), "no `{line}` in:\n{page}");
        }
    }
}
