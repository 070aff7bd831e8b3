//! The declared resolutions: which metrics the agent and the hub know, and how finely each is told.
//!
//! One table, numbered by position: entries are only appended, for their numbers are on the wire. A
//! resolution can't be changed either; a metric that needs another one gets another name. A metric
//! that is not here travels with its name and loses nothing. `docs/telemetry.md` shows the table; a
//! test compares the two.

/// What a metric's values do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It rises and falls.
    Gauge,
    /// It rises, or begins anew.
    Counter,
    /// One of a histogram's cumulative counters.
    Histogram,
}

/// The step in which values are told: `step / per` of the metric's unit. Both are whole numbers, so
/// that 1/100 is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resolution {
    pub(super) step: u32,
    pub(super) per: u32,
}

impl Resolution {
    /// The step, in the metric's unit.
    #[must_use]
    pub fn step(self) -> f64 {
        f64::from(self.step) / f64::from(self.per)
    }
}

/// One entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// As node_exporter, dcgm-exporter, cAdvisor or kube-state-metrics name it. One that begins with
    /// `*` is the end of names.
    pub name: &'static str,
    /// What its values do.
    pub kind: Kind,
    /// The step in which it is told.
    pub resolution: Resolution,
    /// The unit of its values.
    pub unit: &'static str,
}

const fn metric(name: &'static str, kind: Kind, step: (u32, u32), unit: &'static str) -> Metric {
    Metric { name, kind, resolution: Resolution { step: step.0, per: step.1 }, unit }
}

use Kind::{Counter, Gauge, Histogram};

const ONE: (u32, u32) = (1, 1);
const CENTI: (u32, u32) = (1, 100);
const MILLI: (u32, u32) = (1, 1000);
const HALF: (u32, u32) = (1, 2);
const KIB: (u32, u32) = (1024, 1);
const KIB_64: (u32, u32) = (65_536, 1);
const MIB: (u32, u32) = (1_048_576, 1);

/// The table. Only appended.
#[rustfmt::skip]
const METRICS: &[Metric] = &[
    metric("*_bucket", Histogram, ONE, "observations"),
    metric("*_seconds_sum", Histogram, MILLI, "seconds"),
    metric("*_count", Histogram, ONE, "observations"),
    metric("DCGM_FI_DEV_GPU_UTIL", Gauge, ONE, "percent"),
    metric("DCGM_FI_DEV_MEM_COPY_UTIL", Gauge, ONE, "percent"),
    metric("DCGM_FI_DEV_FB_USED", Gauge, ONE, "MiB"),
    metric("DCGM_FI_DEV_FB_FREE", Gauge, ONE, "MiB"),
    metric("DCGM_FI_DEV_GPU_TEMP", Gauge, ONE, "degrees Celsius"),
    metric("DCGM_FI_DEV_POWER_USAGE", Gauge, ONE, "watts"),
    metric("DCGM_FI_DEV_SM_CLOCK", Gauge, (15, 1), "MHz"),
    metric("DCGM_FI_DEV_MEM_CLOCK", Gauge, ONE, "MHz"),
    metric("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", Counter, ONE, "errors"),
    metric("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", Counter, ONE, "errors"),
    metric("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", Gauge, ONE, "bit mask"),
    metric("DCGM_FI_DEV_PCIE_RX_THROUGHPUT", Gauge, (1000, 1), "kilobytes a second"),
    metric("DCGM_FI_DEV_PCIE_TX_THROUGHPUT", Gauge, (1000, 1), "kilobytes a second"),
    metric("kube_pod_container_status_restarts_total", Counter, ONE, "restarts"),
    metric("container_cpu_usage_seconds_total", Counter, CENTI, "seconds"),
    metric("container_memory_working_set_bytes", Gauge, MIB, "bytes"),
    metric("container_accelerator_memory_used_bytes", Gauge, MIB, "bytes"),
    metric("node_cpu_seconds_total", Counter, CENTI, "seconds"),
    metric("node_load1", Gauge, (1, 20), "runnable threads"),
    metric("node_load5", Gauge, (1, 20), "runnable threads"),
    metric("node_load15", Gauge, (1, 20), "runnable threads"),
    metric("node_memory_MemTotal_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_MemAvailable_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_MemFree_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_Cached_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_Buffers_bytes", Gauge, MIB, "bytes"),
    metric("node_disk_read_bytes_total", Counter, KIB_64, "bytes"),
    metric("node_disk_written_bytes_total", Counter, KIB_64, "bytes"),
    metric("node_filesystem_size_bytes", Gauge, MIB, "bytes"),
    metric("node_filesystem_avail_bytes", Gauge, MIB, "bytes"),
    metric("node_filesystem_free_bytes", Gauge, MIB, "bytes"),
    metric("node_network_receive_bytes_total", Counter, KIB, "bytes"),
    metric("node_network_transmit_bytes_total", Counter, KIB, "bytes"),
    metric("node_network_receive_packets_total", Counter, ONE, "packets"),
    metric("node_network_transmit_packets_total", Counter, ONE, "packets"),
    metric("node_network_receive_errs_total", Counter, ONE, "errors"),
    metric("node_network_transmit_errs_total", Counter, ONE, "errors"),
    metric("node_network_receive_drop_total", Counter, ONE, "packets"),
    metric("node_network_transmit_drop_total", Counter, ONE, "packets"),
    metric("node_thermal_zone_temp", Gauge, HALF, "degrees Celsius"),
    metric("node_hwmon_temp_celsius", Gauge, HALF, "degrees Celsius"),
    metric("node_memory_SwapTotal_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_SwapFree_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_Active_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_Inactive_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_AnonPages_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_Mapped_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_Slab_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_Dirty_bytes", Gauge, MIB, "bytes"),
    metric("node_memory_Committed_AS_bytes", Gauge, MIB, "bytes"),
    metric("node_disk_reads_completed_total", Counter, ONE, "reads"),
    metric("node_disk_writes_completed_total", Counter, ONE, "writes"),
    metric("node_disk_io_time_seconds_total", Counter, CENTI, "seconds"),
    metric("node_filesystem_files_free", Gauge, ONE, "inodes"),
    metric("node_context_switches_total", Counter, (100, 1), "switches"),
    metric("node_intr_total", Counter, (100, 1), "interrupts"),
    metric("node_forks_total", Counter, ONE, "processes"),
    metric("node_procs_running", Gauge, ONE, "processes"),
    metric("node_procs_blocked", Gauge, ONE, "processes"),
    metric("node_vmstat_pgfault", Counter, (256, 1), "pages"),
    metric("node_vmstat_pgmajfault", Counter, ONE, "pages"),
    metric("node_vmstat_oom_kill", Counter, ONE, "processes"),
    metric("node_pressure_cpu_waiting_seconds_total", Counter, CENTI, "seconds"),
    metric("node_pressure_io_waiting_seconds_total", Counter, CENTI, "seconds"),
    metric("node_pressure_memory_waiting_seconds_total", Counter, CENTI, "seconds"),
    metric("node_netstat_Tcp_CurrEstab", Gauge, ONE, "connections"),
    metric("node_netstat_Tcp_InSegs", Counter, ONE, "segments"),
    metric("node_netstat_Tcp_OutSegs", Counter, ONE, "segments"),
    metric("node_netstat_Tcp_RetransSegs", Counter, ONE, "segments"),
    metric("node_filefd_allocated", Gauge, ONE, "files"),
    metric("container_fs_usage_bytes", Gauge, MIB, "bytes"),
    metric("DCGM_FI_DEV_RETIRED_SBE", Counter, ONE, "pages"),
    metric("DCGM_FI_DEV_RETIRED_DBE", Counter, ONE, "pages"),
    metric("DCGM_FI_DEV_RETIRED_PENDING", Gauge, ONE, "0 or 1"),
    metric("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", Counter, ONE, "rows"),
    metric("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", Counter, ONE, "rows"),
    metric("DCGM_FI_DEV_ROW_REMAP_PENDING", Gauge, ONE, "0 or 1"),
    metric("DCGM_FI_DEV_ROW_REMAP_FAILURE", Gauge, ONE, "0 or 1"),
    metric("node_processes_threads", Gauge, ONE, "processes and threads"),
    metric("node_processes_max_processes", Gauge, ONE, "processes and threads"),
    metric("container_threads", Gauge, ONE, "processes and threads"),
];

/// Words of labels that have a number as well. Only appended.
const WORDS: &[&str] = &[
    "UUID",
    "gpu",
    "namespace",
    "pod",
    "container",
    "device",
    "cpu",
    "mode",
    "le",
    "zone",
    "mountpoint",
    "fstype",
    "user",
    "system",
    "idle",
    "nice",
    "iowait",
    "irq",
    "softirq",
    "steal",
    "default",
    "0",
    "1",
    "eth0",
    "/",
    "+Inf",
];

/// Every declared metric, in the order of their numbers.
#[must_use]
pub fn metrics() -> &'static [Metric] {
    METRICS
}

/// What is declared of a metric of this name: its own entry, or that of its ending.
#[must_use]
pub fn metric_named(name: &str) -> Option<&'static Metric> {
    let is_it = |metric: &&Metric| match metric.name.strip_prefix('*') {
        Some(end) => name.ends_with(end),
        None => metric.name == name,
    };
    METRICS.iter().find(is_it)
}

/// The resolution in which a metric of this name is told.
pub(super) fn resolution(name: &str) -> Option<Resolution> {
    metric_named(name).map(|metric| metric.resolution)
}

/// The number of a metric that has its own entry.
pub(super) fn number_of_name(name: &str) -> Option<usize> {
    METRICS.iter().position(|metric| metric.name == name)
}

/// The metric's name of that number.
pub(super) fn name_of_number(number: usize) -> Option<&'static str> {
    METRICS.get(number).map(|metric| metric.name)
}

/// The number of a word of labels.
pub(super) fn number_of_word(word: &str) -> Option<usize> {
    WORDS.iter().position(|known| *known == word)
}

/// The word of that number.
pub(super) fn word_of_number(number: usize) -> Option<&'static str> {
    WORDS.get(number).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_shows_the_table() {
        let document = include_str!("../../../docs/telemetry.md");
        let rows: Vec<&str> = document
            .lines()
            .filter(|line| line.starts_with("| `") && line.contains("` |"))
            .collect();
        let written: Vec<String> = METRICS.iter().map(row).collect();
        assert_eq!(rows, written, "the table should be:\n{}", written.join("\n"));
    }

    fn row(metric: &Metric) -> String {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let step = metric.resolution.step();
        format!("| `{}` | {kind} | {step} | {} |", metric.name, metric.unit)
    }

    #[test]
    fn the_first_entries_keep_their_numbers() {
        assert_eq!(number_of_name("DCGM_FI_DEV_GPU_UTIL"), Some(3));
        assert_eq!(number_of_name("node_filefd_allocated"), Some(72));
        assert_eq!((number_of_word("UUID"), number_of_word("+Inf")), (Some(0), Some(25)));
    }

    #[test]
    fn a_histogram_is_known_by_its_ending() {
        let bucket = metric_named("inference_request_duration_seconds_bucket").unwrap();
        assert_eq!((bucket.kind, bucket.resolution.step()), (Histogram, 1.0));
        let sum = metric_named("inference_request_duration_seconds_sum").unwrap();
        assert_eq!(sum.resolution.step(), 0.001);
        assert_eq!(metric_named("something_else"), None);
    }
}
