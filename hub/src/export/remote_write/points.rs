//! From records to points: decoded, their times corrected, their series named as Prometheus wants it.

use super::protobuf::put_series;
use crate::core::{ClockStamp, Delivery, TimeBasis, corrected_time};
use crate::export::labels;
use crate::export::tally::Tally;
use shared::model::NodeId;
use shared::telemetry::{Sample, Series, decode_any};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Samples in one request: what Prometheus' own senders use.
const REQUEST_SAMPLES_MAX: usize = 2_000;

/// Labels with the name, sorted by name.
type Labels = Vec<(String, String)>;

/// One value of one series at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// Milliseconds since 1970.
    pub(super) at: i64,
    /// Which of the table.
    series: usize,
    value: f64,
}

/// What is sent in one request: points by time, and within a moment by series.
#[derive(Debug, Clone)]
pub(crate) struct Points {
    table: Arc<Vec<Labels>>,
    pub(super) points: Vec<Point>,
}

#[derive(Default)]
struct Builder {
    table: Vec<Labels>,
    places: HashMap<Labels, usize>,
    points: Vec<Point>,
    unnamed: u64,
    unsynchronised: u64,
}

/// The requests that bring out `deliveries`, the oldest points first: in each request and from one to
/// the next the points of a series are in order.
pub(super) fn requests(deliveries: &[Delivery], tally: &Tally) -> VecDeque<Points> {
    let mut builder = Builder::default();
    for delivery in deliveries {
        for (_, record) in &delivery.records {
            // The core could decode it.
            let Ok(batch) = decode_any(record) else { continue };
            batch.samples.iter().for_each(|sample| builder.add(delivery, sample));
        }
    }
    if builder.unnamed > 0 {
        tally.refused(
            builder.unnamed,
            "a series has a name or a label that Prometheus does not take",
        );
    }
    tally.unsynchronised(builder.unsynchronised);
    builder.into_requests()
}

/// The clock by which a sample was taken, as far as its codec carries it.
fn stamp_of(_sample: &Sample) -> Option<ClockStamp> {
    None
}

impl Builder {
    fn add(&mut self, delivery: &Delivery, sample: &Sample) {
        let time = corrected_time(sample.at, stamp_of(sample), &delivery.clocks);
        let count = sample.values.len() as u64;
        let vouched = sample.quality == shared::model::ClockQuality::Synchronised
            || time.basis == TimeBasis::Corrected;
        self.unsynchronised += if vouched { 0 } else { count };
        let Ok(at) = i64::try_from(time.at.0) else {
            self.unnamed += count;
            return;
        };
        for (series, value) in &sample.values {
            match self.place(&delivery.node, series) {
                Some(series) => self.points.push(Point { at, series, value: *value }),
                None => self.unnamed += 1,
            }
        }
    }

    fn place(&mut self, node: &NodeId, series: &Series) -> Option<usize> {
        let mut named: BTreeMap<String, String> = labels(node, series)?;
        named.insert("__name__".to_owned(), series.name.clone());
        // An empty value is no label.
        let named: Labels = named.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let next = self.table.len();
        let place = *self.places.entry(named.clone()).or_insert(next);
        if place == next {
            self.table.push(named);
        }
        Some(place)
    }

    fn into_requests(mut self) -> VecDeque<Points> {
        self.points.sort_by_key(|point| (point.at, point.series));
        self.points.dedup_by_key(|point| (point.at, point.series));
        let table = Arc::new(self.table);
        let request =
            |points: &[Point]| Points { table: Arc::clone(&table), points: points.to_vec() };
        self.points.chunks(REQUEST_SAMPLES_MAX).map(request).collect()
    }
}

impl Points {
    /// The bytes of the request, before compression.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut series: BTreeMap<usize, Vec<&Point>> = BTreeMap::new();
        for point in &self.points {
            series.entry(point.series).or_default().push(point);
        }
        let mut request = Vec::new();
        for (place, points) in series {
            let labels = self.table.get(place).into_iter().flatten();
            let labels = labels.map(|(name, value)| (name.as_str(), value.as_str()));
            let samples = points.iter().map(|point| (point.at, point.value));
            put_series(&mut request, labels, samples);
        }
        request
    }

    pub(super) fn halves(mut self) -> (Self, Self) {
        let second = self.points.split_off(self.points.len() / 2);
        let table = Arc::clone(&self.table);
        (self, Self { table, points: second })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::SinkKey;
    use shared::model::UnixMs;
    use shared::telemetry::{Batch, CborCodec, TelemetryCodec};
    use shared::wire::{LogId, Stream};

    fn delivery(node: &str, samples: Vec<Sample>) -> Delivery {
        let record = CborCodec.encode(&Batch { samples }).unwrap();
        Delivery {
            node: NodeId::new(node).unwrap(),
            log: LogId { incarnation: 1, stream: Stream::Telemetry },
            sink: SinkKey::Telemetry,
            records: vec![(1, record)],
            clocks: Arc::default(),
        }
    }

    fn sample(at: u64, name: &str) -> Sample {
        let values = [(Series::new(name), 1.0)].into();
        Sample { at: UnixMs(at), values, ..Sample::default() }
    }

    fn text(request: &Points) -> String {
        let line = |point: &Point| {
            let labels = request.table[point.series].iter();
            let labels: Vec<String> =
                labels.map(|(name, value)| format!("{name}={value}")).collect();
            format!("{} {}\n", point.at, labels.join(","))
        };
        request.points.iter().map(line).collect()
    }

    #[test]
    fn points_of_all_nodes_go_together_the_oldest_first_and_each_under_its_nodes_name() {
        let deliveries = [
            delivery("b", vec![sample(5, "Up"), sample(1, "Up")]),
            delivery("a", vec![sample(3, "up"), sample(3, "up")]),
        ];
        let requests = requests(&deliveries, &Tally::new("t", "t"));
        assert_eq!(requests.len(), 1);
        let expected = "1 __name__=Up,node=b\n3 __name__=up,node=a\n5 __name__=Up,node=b\n";
        assert_eq!(text(&requests[0]), expected);
    }

    #[test]
    fn a_request_has_a_bounded_number_of_samples_and_what_has_no_name_is_counted() {
        let tally = Tally::new("t", "t");
        let batches =
            (0..50).map(|n| delivery("a", (0..60).map(|s| sample(n * 60 + s, "x")).collect()));
        let deliveries: Vec<Delivery> =
            batches.chain([delivery("a", vec![sample(9, "1 x")])]).collect();
        let sizes: Vec<usize> =
            requests(&deliveries, &tally).iter().map(|request| request.points.len()).collect();
        assert_eq!(sizes, [2_000, 1_000]);
        assert_eq!((tally.view().refused, tally.view().unsynchronised), (1, 3_001));
    }
}
