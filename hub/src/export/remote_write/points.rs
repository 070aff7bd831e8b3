//! From samples to points: their times corrected, their series named as Prometheus wants it.

use super::protobuf::put_series;
use crate::core::{Columns, Content, Delivery, Moment, TimeBasis, corrected_time};
use crate::export::labels;
use crate::export::tally::Tally;
use shared::model::{ClockQuality, NodeId};
use shared::telemetry::Series;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Samples in one request: what Prometheus' own senders use.
const REQUEST_SAMPLES_MAX: usize = 2_000;

/// How far ahead of the hub's clock a sample may lie: what newer versions of Prometheus take. Older ones
/// take anything, and count the age of all other samples from it: one node with a clock that is a year
/// ahead would end the samples of the whole fleet.
const AHEAD_MS_MAX: i64 = 10 * 60_000;

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
    /// The latest moment that is brought out.
    latest: i64,
    unnamed: u64,
    future: u64,
    unsynchronised: u64,
}

/// The requests that bring out `deliveries` at `now` (milliseconds since 1970), the oldest points first: in each request and from one to
/// the next the points of a series are in order.
pub(super) fn requests(deliveries: &[Delivery], tally: &Tally, now: i64) -> VecDeque<Points> {
    let latest = now.saturating_add(AHEAD_MS_MAX);
    let mut builder = Builder { latest, ..Builder::default() };
    for delivery in deliveries {
        if let Content::Samples(batches) = &delivery.content {
            batches.iter().for_each(|batch| builder.add(delivery, batch));
        }
    }
    if builder.unnamed > 0 {
        tally.refused(
            builder.unnamed,
            "a series has a name or a label that Prometheus does not take",
        );
    }
    tally.unsynchronised(builder.unsynchronised);
    if builder.future > 0 {
        let reason = "its time lies more than ten minutes in the future, by the hub's clock";
        tally.refused(builder.future, reason);
    }
    builder.into_requests()
}

impl Builder {
    fn add(&mut self, delivery: &Delivery, batch: &Columns) {
        let time = |moment: &Moment| {
            let time = corrected_time(moment.at, moment.clock, &delivery.clocks);
            let vouched =
                moment.quality == ClockQuality::Synchronised || time.basis == TimeBasis::Corrected;
            (i64::try_from(time.at.0).ok(), vouched)
        };
        let times: Vec<(Option<i64>, bool)> = batch.moments.iter().map(time).collect();
        for (series, values) in &batch.series {
            let place = self.place(&delivery.node, series);
            for ((at, vouched), value) in times.iter().zip(values).filter(|(_, v)| !v.is_nan()) {
                self.unsynchronised += u64::from(!vouched);
                match (place, *at) {
                    (_, Some(at)) if at > self.latest => self.future += 1,
                    (Some(series), Some(at)) => {
                        self.points.push(Point { at, series, value: *value });
                    }
                    _ => self.unnamed += 1,
                }
            }
        }
    }

    fn place(&mut self, node: &NodeId, series: &Series) -> Option<usize> {
        let mut named: BTreeMap<String, String> = labels(node, series)?;
        named.insert("__name__".to_owned(), series.name.to_string());
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
    use crate::core::{BootClocks, SinkKey};
    use shared::model::ClockStamp;
    use shared::model::UnixMs;
    use shared::telemetry::{Batch, Sample};
    use shared::wire::{LogId, Stream};

    fn delivery(node: &str, samples: Vec<Sample>) -> Delivery {
        Delivery {
            node: NodeId::new(node).unwrap(),
            log: LogId { incarnation: 1, stream: Stream::Telemetry },
            sink: SinkKey::Telemetry,
            content: Content::Samples(vec![Columns::of(&Batch { samples })]),
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
        let requests = requests(&deliveries, &Tally::new("t", "t"), 5);
        assert_eq!(requests.len(), 1);
        let expected = "1 __name__=Up,node=b\n3 __name__=up,node=a\n5 __name__=Up,node=b\n";
        assert_eq!(text(&requests[0]), expected);
    }

    #[test]
    fn one_node_with_a_clock_that_is_ahead_does_not_end_the_samples_of_the_others() {
        let tally = Tally::new("t", "t");
        let sent =
            [delivery("a", vec![sample(5, "x"), sample(600_005, "x"), sample(600_006, "x")])];
        let requests = requests(&sent, &tally, 5);
        let times: Vec<i64> = requests[0].points.iter().map(|point| point.at).collect();
        assert_eq!(times, [5, 600_005]);
        assert_eq!(tally.view().refused, 1);
    }

    #[test]
    fn a_request_has_a_bounded_number_of_samples_and_what_has_no_name_is_counted() {
        let tally = Tally::new("t", "t");
        let batches =
            (0..50).map(|n| delivery("a", (0..60).map(|s| sample(n * 60 + s, "x")).collect()));
        let deliveries: Vec<Delivery> =
            batches.chain([delivery("a", vec![sample(9, "1 x")])]).collect();
        let sizes: Vec<usize> = requests(&deliveries, &tally, 10_000)
            .iter()
            .map(|request| request.points.len())
            .collect();
        assert_eq!(sizes, [2_000, 1_000]);
        assert_eq!((tally.view().refused, tally.view().unsynchronised), (1, 3_001));
    }

    #[test]
    fn samples_of_a_wrong_clock_have_their_true_times_and_their_spacing() {
        let mut sent = delivery("a", vec![sample(1_000, "x"), sample(11_000, "x")]);
        let Content::Samples(batches) = &mut sent.content else { panic!("no samples") };
        let quality = ClockQuality::Unsynchronised;
        for moment in &mut batches[0].moments {
            moment.clock = Some(ClockStamp { boot: 7, offset_ms: 0, quality });
        }
        // The wall clock was set between the two, to something else that is wrong.
        let later = &mut batches[0].moments[1];
        later.at = UnixMs(later.at.0 + 500);
        later.clock = Some(ClockStamp { boot: 7, offset_ms: 500, quality });
        sent.clocks = BootClocks::of(7, 1_800_000_000_000).into();
        let tally = Tally::new("t", "t");
        let requests = requests(&[sent], &tally, i64::MAX);
        let times: Vec<i64> = requests[0].points.iter().map(|point| point.at).collect();
        assert_eq!(times, [1_800_000_001_000, 1_800_000_011_000]);
        assert_eq!(tally.view().unsynchronised, 0);
    }
}
