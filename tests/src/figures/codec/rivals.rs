//! The same values as others carry them: Prometheus remote write 2.0 with snappy, OTLP with gzip,
//! CBOR with zstd. One message a batch, as the protocols have it; no connection, no HTTP headers.
//! The protocol buffers are written by hand; histograms go as the counters that they are made of.

use super::super::Figure;
use super::per_value;
use flate2::Compression;
use flate2::write::GzEncoder;
use shared::telemetry::{Batch, Sample, Series, schema};
use std::collections::BTreeMap;
use std::io::Write;

/// How one of them writes a batch.
type Write1 = fn(&Batch) -> anyhow::Result<Vec<u8>>;

/// A figure's name on generated and on real series, its way of writing, and what it is.
const RIVALS: [([&str; 2], Write1, &str); 3] = [
    (
        ["remote_write_bytes_per_sample_60s", "remote_write_bytes_per_sample_60s_real"],
        remote_write,
        "Prometheus remote write 2.0 (without metadata) + snappy",
    ),
    (
        ["otlp_bytes_per_sample_60s", "otlp_bytes_per_sample_60s_real"],
        otlp,
        "OTLP metrics + gzip -6",
    ),
    (
        ["cbor_zstd_bytes_per_sample_60s", "cbor_zstd_bytes_per_sample_60s_real"],
        cbor_zstd,
        "CBOR, a column a series, + zstd -3",
    ),
];

/// What `batches` cost as the others write them. `suffix` is that of the figures' names.
pub(super) fn figures(suffix: &str, batches: &[Batch], data: &str) -> anyhow::Result<Vec<Figure>> {
    let count = |sample: &Sample| sample.values.len();
    let values = batches.iter().flat_map(|batch| &batch.samples).map(count).sum();
    let mut figures = Vec::new();
    for ([generated, real], write, what) in RIVALS {
        let mut bytes = 0;
        for batch in batches {
            bytes += write(batch)?.len();
        }
        let name = if suffix.is_empty() { generated } else { real };
        let how = format!("{data}; {what}, the values as our codec rounds them");
        figures.push(Figure::new(name, per_value(bytes, values), "bytes", &how));
    }
    Ok(figures)
}

/// Points by series, in the order of time.
fn columns(batch: &Batch) -> BTreeMap<&Series, Vec<(u64, f64)>> {
    let mut columns: BTreeMap<&Series, Vec<(u64, f64)>> = BTreeMap::new();
    for sample in &batch.samples {
        for (series, value) in sample.values.iter() {
            columns.entry(series).or_default().push((sample.at.0, value));
        }
    }
    columns
}

/// A message of protocol buffers.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        let low = |value: u64| {
            let [.., byte] = (value & 0x7f).to_be_bytes();
            byte
        };
        while value >= 0x80 {
            self.0.push(low(value) | 0x80);
            value >>= 7;
        }
        self.0.push(low(value));
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn fixed(mut self, field: u64, value: [u8; 8]) -> Self {
        self.varint(field << 3 | 1);
        self.0.extend(value);
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }
}

/// `io.prometheus.write.v2.Request`, field numbers as in its specification (version 2.0).
fn remote_write(batch: &Batch) -> anyhow::Result<Vec<u8>> {
    let mut symbols: Vec<String> = vec![String::new()];
    let mut known: BTreeMap<String, u64> = BTreeMap::new();
    let mut reference = |text: &str| {
        *known.entry(text.to_owned()).or_insert_with(|| {
            symbols.push(text.to_owned());
            symbols.len() as u64 - 1
        })
    };
    let mut all_series = Vec::new();
    for (series, points) in columns(batch) {
        let mut references = Message::default();
        references.varint(reference("__name__"));
        references.varint(reference(&series.name));
        for (label, value) in series.labels.iter() {
            references.varint(reference(label));
            references.varint(reference(value));
        }
        let mut time_series = Message::default().bytes(1, &references.0);
        for (at, value) in points {
            let sample = Message::default().fixed(1, value.to_le_bytes()).number(2, at);
            time_series = time_series.bytes(2, &sample.0);
        }
        all_series.push(time_series);
    }
    let request =
        symbols.iter().fold(Message::default(), |m, symbol| m.bytes(4, symbol.as_bytes()));
    let request = all_series.iter().fold(request, |m, series| m.bytes(5, &series.0));
    Ok(snap::raw::Encoder::new().compress_vec(&request.0)?)
}

/// `opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest`, field numbers as in
/// opentelemetry-proto 1.
fn otlp(batch: &Batch) -> anyhow::Result<Vec<u8>> {
    let mut by_name: BTreeMap<&str, Message> = BTreeMap::new();
    for (series, points) in columns(batch) {
        let metric = by_name.entry(&series.name).or_default();
        for (at, value) in points {
            let mut point = Message::default()
                .fixed(3, (at * 1_000_000).to_le_bytes())
                .fixed(4, value.to_le_bytes());
            for (label, value) in series.labels.iter() {
                let any = Message::default().bytes(1, value.as_bytes());
                let pair = Message::default().bytes(1, label.as_bytes()).bytes(2, &any.0);
                point = point.bytes(7, &pair.0);
            }
            *metric = std::mem::take(metric).bytes(1, &point.0);
        }
    }
    let mut scope = Message::default();
    for (name, points) in by_name {
        let is_gauge =
            schema::metric_named(name).is_none_or(|metric| metric.kind == schema::Kind::Gauge);
        let metric = Message::default().bytes(1, name.as_bytes());
        let metric = if is_gauge {
            metric.bytes(5, &points.0)
        } else {
            // Cumulative and monotonic.
            metric.bytes(7, &points.number(2, 2).number(3, 1).0)
        };
        scope = scope.bytes(2, &metric.0);
    }
    let resource = Message::default().bytes(2, &scope.0);
    let request = Message::default().bytes(1, &resource.0);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(6));
    gzip.write_all(&request.0)?;
    Ok(gzip.finish()?)
}

fn cbor_zstd(batch: &Batch) -> anyhow::Result<Vec<u8>> {
    let times: Vec<u64> = batch.samples.iter().map(|sample| sample.at.0).collect();
    let columns = columns(batch);
    let columns: Vec<_> = columns
        .iter()
        .map(|(series, points)| {
            let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
            (&*series.name, &*series.labels, values)
        })
        .collect();
    let plain = serde_cbor::ser::to_vec_packed(&(times, columns))?;
    Ok(zstd::bulk::compress(&plain, 3)?)
}
