//! What a sample of telemetry costs: our codec beside what others use, on the same values in the
//! same run. A *sample* is one value of one series.
//!
//! Days of a GPU node come from `tests/telemetry/series.py`; `trace.csv.gz` beside it was recorded
//! from a real node_exporter by `record.py`. Nothing was tuned on the seeds that are used here.

mod rivals;

use super::Figure;
use anyhow::{Context, ensure};
use flate2::read::GzDecoder;
use shared::model::{ClockQuality, ClockStamp, UnixMs};
use shared::telemetry::{Batch, BatchDecoder, BatchEncoder, Sample, Series};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Seeds of days that nobody looked at while the codec was made.
const UNSEEN_SEEDS: [u32; 3] = [101, 102, 103];

/// Samples of a day at one every 10 s.
const TICKS: usize = 8640;

/// Samples of a minute and of a quarter of an hour.
const MINUTE: usize = 6;
const QUARTER: usize = 90;

/// What encoding a day came to.
#[derive(Default)]
struct Cost {
    bytes: usize,
    values: usize,
    batches: u32,
    encoding: Duration,
    decoding: Duration,
    /// The batches as they arrived: rounded to the declared resolutions.
    arrived: Vec<Batch>,
}

/// Bytes of a sample by our codec and by others, and its time.
pub(super) fn codec() -> anyhow::Result<Vec<Figure>> {
    let mut days = Vec::new();
    for seed in UNSEEN_SEEDS {
        days.push(day(seed)?);
    }
    let trace = trace()?;
    let (samples, scrapes) = (trace.first().map_or(0, |s| s.values.len()), trace.len());
    let seeds =
        format!("mean of seeds {UNSEEN_SEEDS:?} of series.py, a day of 60 series every 10 s");
    let real = format!(
        "{samples} series of a real node_exporter, {scrapes} scrapes at 10 s (tests/telemetry/trace.csv.gz)"
    );
    let minutes = cost_of(&days, MINUTE)?;
    let real_minutes = cost_of(std::slice::from_ref(&trace), MINUTE)?;
    let mut figures = vec![
        bytes("telemetry_bytes_per_sample_60s", &minutes, &seeds, "records with keyframes"),
        bytes(
            "telemetry_bytes_per_sample_60s_real",
            &real_minutes,
            &real,
            "records with keyframes",
        ),
        bytes("telemetry_bytes_per_sample_15m", &cost_of(&days, QUARTER)?, &seeds, "the same"),
        bytes(
            "telemetry_bytes_per_sample_15m_real",
            &cost_of(std::slice::from_ref(&trace), QUARTER)?,
            &real,
            "the same",
        ),
    ];
    // Batches are dropped here as they are at a hub: what is kept makes the allocator slower.
    figures.extend(time(&cost_of_batches(&days, MINUTE, |_| ())?));
    figures.extend(rivals::figures("", &minutes.arrived, &seeds)?);
    figures.extend(rivals::figures("_real", &real_minutes.arrived, &real)?);
    Ok(figures)
}

fn bytes(name: &'static str, cost: &Cost, data: &str, what: &str) -> Figure {
    let how = format!("{data}; {what}, {} records of {} bytes", cost.batches, cost.bytes);
    Figure::new(name, per_value(cost.bytes, cost.values), "bytes", &how)
}

/// Bytes per value with four digits behind the point.
fn per_value(bytes: usize, values: usize) -> String {
    let ten_thousandths = bytes * 10_000 / values.max(1);
    format!("{}.{:04}", ten_thousandths / 10_000, ten_thousandths % 10_000)
}

fn time(cost: &Cost) -> Vec<Figure> {
    let mean = |whole: Duration| (whole / cost.batches.max(1)).as_nanos();
    let (encoding, decoding) = (mean(cost.encoding), mean(cost.decoding));
    let micros = |nanos: u128| format!("{}.{}", nanos / 1000, nanos % 1000 / 100);
    let how = format!(
        "mean of {} batches of 360 samples: encoding {} µs, decoding {} µs",
        cost.batches,
        micros(encoding),
        micros(decoding)
    );
    vec![Figure::new("codec_us_per_batch", micros(encoding + decoding), "µs", &how)]
}

/// What batches of `length` samples cost, and how they arrived.
fn cost_of(streams: &[Vec<Sample>], length: usize) -> anyhow::Result<Cost> {
    let mut arrived = Vec::new();
    let cost = cost_of_batches(streams, length, |batch| arrived.push(batch))?;
    Ok(Cost { arrived, ..cost })
}

/// Encodes and decodes streams of samples in batches of `length`; every value is checked, and every batch
/// handed to `take`.
fn cost_of_batches(
    streams: &[Vec<Sample>],
    length: usize,
    mut take: impl FnMut(Batch),
) -> anyhow::Result<Cost> {
    let mut cost = Cost::default();
    for samples in streams {
        let (mut encoder, mut decoder) = (BatchEncoder::default(), BatchDecoder::default());
        for (sequence, samples) in (1..).zip(samples.chunks_exact(length)) {
            let batch = Batch { samples: samples.to_vec() };
            let begun = Instant::now();
            let staged = encoder.encode(&batch, sequence)?;
            cost.encoding += begun.elapsed();
            let begun = Instant::now();
            let arrived = decoder.decode(sequence, staged.record())?;
            cost.decoding += begun.elapsed();
            cost.bytes += staged.record().len();
            cost.batches += 1;
            encoder.commit(staged);
            cost.values += check(&batch, &arrived)?;
            take(arrived);
        }
    }
    Ok(cost)
}

/// How many values arrived: all, each with its time and within its resolution.
fn check(sent: &Batch, arrived: &Batch) -> anyhow::Result<usize> {
    let mut values = 0;
    ensure!(sent.samples.len() == arrived.samples.len(), "samples are missing");
    for (sent, arrived) in sent.samples.iter().zip(&arrived.samples) {
        ensure!((sent.at, sent.clock) == (arrived.at, arrived.clock), "a time has changed");
        ensure!(sent.values.len() == arrived.values.len(), "values are missing");
        for ((series, sent), (same, arrived)) in sent.values.iter().zip(arrived.values.iter()) {
            let metric = shared::telemetry::schema::metric_named(&series.name);
            let step = metric.map_or(0.0, |metric| metric.resolution.step());
            let off = (sent - arrived).abs();
            ensure!(series == same && off <= step * 0.500_001, "{series:?}: {sent} as {arrived}");
            values += 1;
        }
    }
    Ok(values)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("telemetry")
}

/// A day that the generator makes of a seed.
pub(super) fn day(seed: u32) -> anyhow::Result<Vec<Sample>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("day.csv");
    let mut command = Command::new("python3");
    command.arg(self::folder().join("series.py"));
    command.args(["--seed", &seed.to_string(), "--ticks", &TICKS.to_string(), "--out"]).arg(&path);
    let output = command.output().context("could not run python3")?;
    ensure!(output.status.success(), "series.py: {}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&path)?;
    let mut lines = text.lines();
    let names = lines.next().context("series.py wrote nothing")?;
    let columns: Vec<(Series, f64)> = names.split(',').map(series_of).collect::<Result<_, _>>()?;
    let mut samples = Vec::with_capacity(TICKS);
    // Four more lines of the head say what this table's own declarations replace.
    for (tick, line) in (0_u64..).zip(lines.skip(4)) {
        let numbers = line.split(',').map(str::parse::<f64>);
        let mut sample = sample_at(1_790_000_000_000 + tick * 10_000 + noise_ms(tick));
        let value = |((series, unit), number): (&(Series, f64), Result<f64, _>)| {
            anyhow::Ok((series.clone(), number? / unit))
        };
        sample.values = columns.iter().zip(numbers).map(value).collect::<Result<_, _>>()?;
        push(&mut samples, sample);
    }
    Ok(samples)
}

/// A timer of the operating system is late by up to 2 ms.
fn noise_ms(tick: u64) -> u64 {
    (tick.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) % 3
}

fn sample_at(at: u64) -> Sample {
    let clock = ClockStamp {
        quality: ClockQuality::Synchronised,
        boot: 0x0123_4567_89ab_cdef,
        offset_ms: 1_789_000_000_000,
    };
    Sample { at: UnixMs(at), clock, ..Sample::default() }
}

/// The series that a name of the generator stands for, and by what its numbers are divided to be in
/// the series' unit.
fn series_of(name: &str) -> anyhow::Result<(Series, f64)> {
    let (owner, rest) = name.split_once('_').context("a name without an owner")?;
    let found = match owner {
        "node" => node_series(rest),
        _ if owner.starts_with("gpu") => gpu_series(owner.trim_start_matches("gpu"), rest),
        _ => pod_series(owner, rest),
    };
    found.with_context(|| format!("series.py has a series `{name}` that is not known here"))
}

fn node_series(name: &str) -> Option<(Series, f64)> {
    let cpu = |mode| Series::new("node_cpu_seconds_total").with("mode", mode);
    let disk = |name: &str| Series::new(name).with("device", "nvme0n1");
    let network = |name: &str| Series::new(name).with("device", "eth0");
    Some(match name {
        "cpu_user_cs" => (cpu("user"), 100.0),
        "cpu_sys_cs" => (cpu("system"), 100.0),
        "cpu_iowait_cs" => (cpu("iowait"), 100.0),
        "load1_x100" => (Series::new("node_load1"), 100.0),
        "mem_avail_bytes" => (Series::new("node_memory_MemAvailable_bytes"), 1.0),
        "mem_cached_bytes" => (Series::new("node_memory_Cached_bytes"), 1.0),
        "disk_read_bytes" => (disk("node_disk_read_bytes_total"), 1.0),
        "disk_written_bytes" => (disk("node_disk_written_bytes_total"), 1.0),
        "fs_used_bytes" => {
            (Series::new("node_filesystem_avail_bytes").with("mountpoint", "/"), 1.0)
        }
        "net_rx_bytes" => (network("node_network_receive_bytes_total"), 1.0),
        "net_tx_bytes" => (network("node_network_transmit_bytes_total"), 1.0),
        "net_rx_pkts" => (network("node_network_receive_packets_total"), 1.0),
        "net_tx_pkts" => (network("node_network_transmit_packets_total"), 1.0),
        "cpu_temp_mc" => (Series::new("node_thermal_zone_temp").with("zone", "0"), 1000.0),
        _ => return None,
    })
}

fn gpu_series(number: &str, name: &str) -> Option<(Series, f64)> {
    let (name, unit) = match name {
        "util_pct" => ("DCGM_FI_DEV_GPU_UTIL", 1.0),
        "memutil_pct" => ("DCGM_FI_DEV_MEM_COPY_UTIL", 1.0),
        "mem_used_bytes" => ("DCGM_FI_DEV_FB_USED", 1_048_576.0),
        "temp_c" => ("DCGM_FI_DEV_GPU_TEMP", 1.0),
        "power_mw" => ("DCGM_FI_DEV_POWER_USAGE", 1000.0),
        "sm_clock_mhz" => ("DCGM_FI_DEV_SM_CLOCK", 1.0),
        "mem_clock_mhz" => ("DCGM_FI_DEV_MEM_CLOCK", 1.0),
        "ecc_sbe" => ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", 1.0),
        "ecc_dbe" => ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 1.0),
        "throttle_mask" => ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 1.0),
        "pcie_rx_kbps" => ("DCGM_FI_DEV_PCIE_RX_THROUGHPUT", 1.0),
        _ => return None,
    };
    let uuid = format!("GPU-5c1ab8f3-90de-4e1f-b1c7-1d2f5e8a77{number}0");
    Some((Series::new(name).with("UUID", &uuid), unit))
}

fn pod_series(owner: &str, name: &str) -> Option<(Series, f64)> {
    const LATENCY: &str = "inference_request_duration_seconds";
    let pod =
        |series: Series| series.with("namespace", "vision").with("pod", &format!("ocr-{owner}"));
    if let Some(bound) = name.strip_prefix("lat_le") {
        let bound = bound.parse::<f64>().ok()? / 1000.0;
        let series = Series::new(&format!("{LATENCY}_bucket")).with("le", &bound.to_string());
        return Some((pod(series), 1.0));
    }
    let (name, unit) = match name {
        "restarts" => ("kube_pod_container_status_restarts_total".to_owned(), 1.0),
        "cpu_usec" => ("container_cpu_usage_seconds_total".to_owned(), 1e6),
        "mem_ws_bytes" => ("container_memory_working_set_bytes".to_owned(), 1.0),
        "gpu_mem_bytes" => ("container_accelerator_memory_used_bytes".to_owned(), 1.0),
        "lat_count" => (format!("{LATENCY}_count"), 1.0),
        "lat_sum_us" => (format!("{LATENCY}_sum"), 1e6),
        _ => return None,
    };
    Some((pod(Series::new(&name)), unit))
}

/// What was recorded from a real node_exporter.
pub(super) fn trace() -> anyhow::Result<Vec<Sample>> {
    let file = std::fs::File::open(folder().join("trace.csv.gz")).context("trace.csv.gz")?;
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text)?;
    let mut lines = text.lines().map(|line| line.split('\t'));
    let names = lines.next().context("the trace is empty")?.skip(1);
    let series: Vec<Series> = names.map(parse_series).collect();
    let sample = |mut cells: std::str::Split<'_, char>| {
        let mut sample = sample_at(cells.next().context("a line without a time")?.parse()?);
        let cells = series.iter().zip(cells).filter(|(_, cell)| !cell.is_empty());
        let value = |(series, cell): (&Series, &str)| anyhow::Ok((series.clone(), cell.parse()?));
        sample.values = cells.map(value).collect::<Result<_, _>>()?;
        anyhow::Ok(sample)
    };
    let mut samples = Vec::new();
    for line in lines {
        push(&mut samples, sample(line)?);
    }
    Ok(samples)
}

/// Samples wait for their batch as an agent keeps them: by the names of the one before.
fn push(samples: &mut Vec<Sample>, mut sample: Sample) {
    if let Some(earlier) = samples.last() {
        sample.values.share_series(&earlier.values);
    }
    samples.push(sample);
}

/// `name{label="value",…}` of an exporter whose values have no quotes.
fn parse_series(text: &str) -> Series {
    let (name, labels) = text.split_once('{').unwrap_or((text, ""));
    let pairs = labels.trim_end_matches('}').split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs.fold(Series::new(name), |series, (label, value)| {
        series.with(label, value.trim_end_matches('"'))
    })
}
