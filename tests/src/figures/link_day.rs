//! What a day of telemetry costs on the link: days that were recorded or generated cross it, batch by
//! batch as an agent sends them, from the production codec, session and MQTT client through the judge
//! ([`Proxy`]) to a real hub with its embedded broker.
//!
//! The samples have the times and values of a whole day; only the pauses between batches are short. They
//! are longer than a delayed acknowledgement of TCP, so that each batch is acknowledged by itself, and
//! the hub gathers its own acknowledgements over as many batches as ten minutes have.

use super::codec::{day, trace};
use super::{Figure, work_folder};
use crate::real::hub::Hub;
use crate::real::proxy::{Count, Proxy, Shape};
use crate::real::raw_node::RawNode;
use shared::telemetry::{Batch, BatchEncoder, Sample};
use shared::wire::Stream;
use std::time::Duration;

/// A day that nobody looked at while the codec was made.
const UNSEEN_SEED: u32 = 101;

/// The recorded and generated samples are so far apart.
const SAMPLE_INTERVAL_MS: u64 = 10_000;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The pause between two batches; TCP delays an acknowledgement by up to 40 ms.
const PAUSE: Duration = Duration::from_millis(70);

/// The hub acknowledges telemetry so long after it came.
const ACKNOWLEDGED_AFTER_MS: u64 = 4 * 60 * 60 * 1000;

const PATIENCE: Duration = Duration::from_secs(60);

/// A rung of the ladder: every so many of the samples, and so many in a batch.
struct Rung {
    name: [&'static str; 2],
    every: usize,
    batch: usize,
}

const RUNGS: [Rung; 3] = [
    Rung {
        name: ["link_kb_per_node_day_default", "link_kb_per_node_day_default_real"],
        every: 1,
        batch: 6,
    },
    Rung { name: ["link_kb_per_node_day_5m", "link_kb_per_node_day_5m_real"], every: 1, batch: 30 },
    Rung {
        name: ["link_kb_per_node_day_scarce", "link_kb_per_node_day_scarce_real"],
        every: 6,
        batch: 15,
    },
];

impl Rung {
    fn batch_ms(&self) -> u64 {
        SAMPLE_INTERVAL_MS * (self.every * self.batch) as u64
    }
}

/// Telemetry of a node-day at the top of the ladder, with longer batches, and near its bottom.
pub(super) fn telemetry() -> anyhow::Result<Vec<Figure>> {
    let sources = [
        (day(UNSEEN_SEED)?, format!("the day of seed {UNSEEN_SEED} of series.py")),
        (trace()?, "400 scrapes of a real node_exporter (tests/telemetry/trace.csv.gz)".to_owned()),
    ];
    let runtime = tokio::runtime::Runtime::new()?;
    let mut figures = Vec::new();
    for rung in &RUNGS {
        for ((samples, source), name) in sources.iter().zip(rung.name) {
            let crossed = runtime.block_on(cross(samples, rung))?;
            figures.push(crossed.figure(name, source, rung));
        }
    }
    Ok(figures)
}

/// What crossed, and for how many samples.
struct Crossed {
    count: Count,
    samples: u64,
    batches: u64,
    record_bytes: usize,
}

impl Crossed {
    fn figure(&self, name: &'static str, source: &str, rung: &Rung) -> Figure {
        let bytes_a_day = self.count.wire_bytes() * DAY_MS / (self.batches * rung.batch_ms());
        let how = format!(
            "{source}, 60 series, a sample every {} s, {} in a batch: {} batches with {} bytes of \
             records cross a real link to a real hub and its embedded broker, {} of their {} samples \
             after the first batch; IP bytes both ways by the judge, {} up and {} down; no ping is due, \
             since a batch crosses within each keep-alive",
            SAMPLE_INTERVAL_MS * rung.every as u64 / 1000,
            rung.batch,
            self.batches,
            self.record_bytes,
            self.samples,
            self.samples + rung.batch as u64,
            self.count.up.wire_bytes,
            self.count.down.wire_bytes,
        );
        #[allow(clippy::cast_precision_loss, reason = "less than 2^52")]
        let kilobytes = format!("{:.1}", bytes_a_day as f64 / 1000.0);
        Figure::new(name, kilobytes, "kB", &how)
    }
}

/// Sends every whole batch of `samples`; the first, with which the connection begins, is not counted.
async fn cross(samples: &[Sample], rung: &Rung) -> anyhow::Result<Crossed> {
    let folder = work_folder()?;
    let mut hub = Hub::new(&folder.path().join("hub"))?;
    let proxy = Proxy::start(hub.mqtt, Shape::default())?;
    let batches_an_acknowledgement = (ACKNOWLEDGED_AFTER_MS / rung.batch_ms()).max(1);
    let pause_ms = u64::try_from(PAUSE.as_millis())?;
    hub.acknowledge_after(batches_an_acknowledgement * pause_ms)?;
    hub.advertise(proxy.address())?;
    hub.start()?;
    let mut node = RawNode::enrol(&hub, "mast-17", 7)?;
    let thinned: Vec<Sample> = samples.iter().step_by(rung.every).cloned().collect();
    let mut encoder = BatchEncoder::default();
    let mut crossed = Crossed { count: Count::default(), samples: 0, batches: 0, record_bytes: 0 };
    let mut begun = Count::default();
    for (sequence, samples) in (1_u64..).zip(thinned.chunks_exact(rung.batch)) {
        let staged = encoder.encode(&Batch { samples: samples.to_vec() }, sequence)?;
        node.append(Stream::Telemetry, staged.record().to_vec());
        let bytes = staged.record().len();
        encoder.commit(staged);
        if sequence == 1 {
            node.talk_until("it is in session", PATIENCE, |node| {
                node.is_delivered(Stream::Telemetry)
            })
            .await?;
            begun = proxy.count_when_quiet(PAUSE * 4)?;
            continue;
        }
        node.talk_for(PAUSE).await?;
        crossed.samples += samples.len() as u64;
        crossed.batches += 1;
        crossed.record_bytes += bytes;
    }
    node.talk_until("all is acknowledged", PATIENCE, |node| node.is_delivered(Stream::Telemetry))
        .await?;
    crossed.count = proxy.count_when_quiet(PAUSE * 4)?.since(begun);
    Ok(crossed)
}
