//! What the operating system says of this node: its capacity, and what it measures.
//!
//! Metric names and units follow node_exporter. What can't be read is left out: a missing file never
//! stops a sample.

use shared::telemetry::Series;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Network devices that are sampled: an edge node has a few, a container host hundreds.
const NETWORK_DEVICES_MAX: usize = 4;

/// Devices that containers and virtual machines make; what they carry crosses a real one too.
const VIRTUAL_DEVICES: [&str; 10] =
    ["lo", "veth", "docker", "br-", "virbr", "cni", "flannel", "cali", "tap", "ifb"];

/// Disks that are sampled.
const DISKS_MAX: usize = 2;

/// Block devices that are no disks: loops, memory, parts of others.
const VIRTUAL_DISKS: [&str; 6] = ["loop", "ram", "zram", "dm-", "md", "sr"];

/// Bytes of a sector in `/proc/diskstats`, whatever the device's own are (kernel documentation,
/// admin-guide/iostats).
const SECTOR_BYTES: f64 = 512.0;

/// Temperatures that are sampled.
const TEMPERATURES_MAX: usize = 4;

/// Chips with sensors that are looked at.
const HWMON_CHIPS_MAX: usize = 8;

/// `USER_HZ`, the unit of `/proc/stat`: 100 on every Linux that is in use (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Readings by series.
pub(super) type Readings = BTreeMap<Series, f64>;

/// Thousandths of a core that this machine has.
pub(super) fn cpu_millicores() -> u64 {
    std::thread::available_parallelism().map_or(1000, |cores| cores.get() as u64 * 1000)
}

/// Bytes of main memory that this machine has; 0 when nobody says.
pub(super) fn memory_bytes() -> u64 {
    let text = read("/proc/meminfo");
    let total = memory_fields(&text).find(|(name, _)| *name == "MemTotal");
    total.map_or(0, |(_, bytes)| bytes)
}

/// Names the present boot: the first eight bytes of the kernel's boot id; 0 when nobody says.
pub(super) fn boot() -> u64 {
    let text = read("/proc/sys/kernel/random/boot_id");
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// What the node measures now; `state_dir` tells which file system counts.
pub(super) fn sample(state_dir: &Path) -> Readings {
    let mut values = Readings::new();
    add_cpu(&mut values, &read("/proc/stat"));
    add_load(&mut values, &read("/proc/loadavg"));
    let limits = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].map(read);
    add_processes(&mut values, &read("/proc/loadavg"), &limits);
    add_memory(&mut values, &read("/proc/meminfo"));
    add_network(&mut values, &read("/proc/net/dev"));
    add_disks(&mut values, &read("/proc/diskstats"), is_whole_disk);
    add_file_system(&mut values, state_dir);
    add_temperatures(&mut values, Path::new("/sys/class"));
    values
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[allow(clippy::cast_precision_loss)]
fn number(value: u64) -> f64 {
    // Past 2^53 (9 petabytes) the last digits are lost, which no graph shows.
    value as f64
}

fn add_cpu(values: &mut Readings, text: &str) {
    const MODES: [&str; 8] =
        ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("cpu ")) else { return };
    for (mode, ticks) in MODES.iter().zip(line.split_whitespace()) {
        if let Ok(ticks) = ticks.parse() {
            let series = Series::new("node_cpu_seconds_total").with("mode", mode);
            values.insert(series, number(ticks) / TICKS_PER_SECOND);
        }
    }
}

fn add_load(values: &mut Readings, text: &str) {
    if let Some(load) = text.split_whitespace().next().and_then(|load| load.parse().ok()) {
        values.insert(Series::new("node_load1"), load);
    }
}

/// How many process ids are taken, by processes and threads, and how many there are: the lesser of the two limits.
fn add_processes(values: &mut Readings, load: &str, limits: &[String]) {
    // As in `0.20 0.18 0.12 1/80 11206`, after which runnable ones come all.
    let taken = load.split_whitespace().nth(3).and_then(|field| field.split_once('/'));
    if let Some(taken) = taken.and_then(|(_, all)| all.parse().ok()) {
        values.insert(Series::new("node_processes_threads"), number(taken));
    }
    if let Some(all) = limits.iter().filter_map(|limit| limit.trim().parse().ok()).min() {
        values.insert(Series::new("node_processes_max_processes"), number(all));
    }
}

/// Name and bytes of each line of `/proc/meminfo`.
fn memory_fields(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let kibibytes: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
        Some((name, kibibytes.saturating_mul(1024)))
    })
}

fn add_memory(values: &mut Readings, text: &str) {
    for (name, bytes) in memory_fields(text) {
        if ["MemTotal", "MemAvailable", "Cached"].contains(&name) {
            let series = Series::new(&format!("node_memory_{name}_bytes"));
            values.insert(series, number(bytes));
        }
    }
}

fn add_network(values: &mut Readings, text: &str) {
    let devices = text.lines().filter_map(|line| line.split_once(':'));
    let devices = devices.map(|(name, rest)| (name.trim(), rest));
    let is_virtual = |name: &str| VIRTUAL_DEVICES.iter().any(|kind| name.starts_with(kind));
    let real = devices.filter(|(name, _)| !is_virtual(name));
    for (device, rest) in real.take(NETWORK_DEVICES_MAX) {
        let numbers: Vec<u64> = rest.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let fields = [
            ("receive_bytes", numbers.first()),
            ("receive_packets", numbers.get(1)),
            ("transmit_bytes", numbers.get(8)),
            ("transmit_packets", numbers.get(9)),
        ];
        for (what, count) in fields {
            if let Some(count) = count {
                let series = Series::new(&format!("node_network_{what}_total"));
                values.insert(series.with("device", device), number(*count));
            }
        }
    }
}

/// A part of a disk has no entry of its own there.
fn is_whole_disk(name: &str) -> bool {
    !name.contains('/') && Path::new("/sys/block").join(name).exists()
}

/// Source of the fields: kernel documentation, admin-guide/iostats; the third is the device's name.
fn add_disks(values: &mut Readings, text: &str, is_whole: impl Fn(&str) -> bool) {
    let disk = |line: &str| {
        let mut fields = line.split_whitespace().skip(2);
        let name = fields.next()?;
        let is_virtual = VIRTUAL_DISKS.iter().any(|kind| name.starts_with(kind));
        let numbers: Vec<u64> = fields.map_while(|n| n.parse().ok()).collect();
        let (read, written) = (*numbers.get(2)?, *numbers.get(6)?);
        (!is_virtual && is_whole(name)).then(|| (name.to_owned(), read, written))
    };
    for (device, read, written) in text.lines().filter_map(disk).take(DISKS_MAX) {
        for (what, sectors) in [("read", read), ("written", written)] {
            let series = Series::new(&format!("node_disk_{what}_bytes_total"));
            values.insert(series.with("device", &device), number(sectors) * SECTOR_BYTES);
        }
    }
}

fn add_file_system(values: &mut Readings, state_dir: &Path) {
    let Ok(stat) = rustix::fs::statvfs(state_dir) else { return };
    let bytes = |blocks: u64| number(blocks.saturating_mul(stat.f_frsize));
    values.insert(Series::new("node_filesystem_size_bytes"), bytes(stat.f_blocks));
    values.insert(Series::new("node_filesystem_avail_bytes"), bytes(stat.f_bavail));
}

/// Those of the thermal zones; where there are none, as on many x86 machines, those of the sensors.
fn add_temperatures(values: &mut Readings, class: &Path) {
    let celsius = |(file, series): (String, Series)| {
        let text = fs::read_to_string(class.join(file)).ok()?;
        let millidegrees: i32 = text.trim().parse().ok()?;
        Some((series, f64::from(millidegrees) / 1000.0))
    };
    let zones = (0..TEMPERATURES_MAX).map(|zone| {
        let series = Series::new("node_thermal_zone_temp").with("zone", &zone.to_string());
        (format!("thermal/thermal_zone{zone}/temp"), series)
    });
    let mut found: Vec<(Series, f64)> = zones.filter_map(celsius).collect();
    if found.is_empty() {
        let places = (0..HWMON_CHIPS_MAX)
            .flat_map(|chip| (1..=TEMPERATURES_MAX).map(move |sensor| (chip, sensor)));
        let sensors = places.map(|(chip, sensor)| {
            let series = Series::new("node_hwmon_temp_celsius")
                .with("chip", &format!("hwmon{chip}"))
                .with("sensor", &format!("temp{sensor}"));
            (format!("hwmon/hwmon{chip}/temp{sensor}_input"), series)
        });
        found.extend(sensors.filter_map(celsius).take(TEMPERATURES_MAX));
    }
    values.extend(found);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_becomes_series_in_base_units() {
        let mut values = Readings::new();
        add_cpu(&mut values, "cpu  100 2 50 1000 7 0\ncpu0 1 1 1 1\n");
        add_memory(&mut values, "MemTotal:  2048 kB\nMemFree: 1 kB\nHugePages_Total: 0\n");
        let network =
            "Inter-|\n face |bytes\n    lo: 9 9 9 9 9 9 9 9 9\n  eth0: 1 2 3 4 5 6 7 8 9 0\n";
        add_network(&mut values, network);
        let value = |series: Series| values.get(&series).copied();
        let cpu = |mode| value(Series::new("node_cpu_seconds_total").with("mode", mode));
        assert_eq!((cpu("user"), cpu("iowait")), (Some(1.0), Some(0.07)));
        assert_eq!(value(Series::new("node_memory_MemTotal_bytes")), Some(2_097_152.0));
        let sent = Series::new("node_network_transmit_bytes_total").with("device", "eth0");
        assert_eq!(value(sent), Some(9.0));
        let packets = Series::new("node_network_receive_packets_total").with("device", "eth0");
        assert_eq!(value(packets), Some(2.0));
        assert_eq!(values.len(), 11);
    }

    #[test]
    fn disks_are_told_in_bytes_and_their_parts_are_not_told() {
        let mut values = Readings::new();
        let text = "   7 0 loop0 1 2 3 4 5 6 7 8\n 259 0 nvme0n1 10 0 80 0 20 0 160 0 0\n \
                    259 1 nvme0n1p1 10 0 80 0 20 0 160 0 0\n 8 0 sda 1\n";
        add_disks(&mut values, text, |name| !name.ends_with("p1"));
        let of = |what| {
            let series = Series::new(&format!("node_disk_{what}_bytes_total"));
            values.get(&series.with("device", "nvme0n1")).copied()
        };
        assert_eq!((of("read"), of("written")), (Some(40_960.0), Some(81_920.0)));
        assert_eq!(values.len(), 2);
    }

    #[test]
    fn process_ids_are_those_of_processes_and_threads_and_the_lesser_limit_holds() {
        let mut values = Readings::new();
        let limits = ["4194304\n", "30720\n"].map(str::to_owned);
        add_processes(&mut values, "0.20 0.18 0.12 1/812 11206\n", &limits);
        let value = |name| values.get(&Series::new(name)).copied();
        assert_eq!(value("node_processes_threads"), Some(812.0));
        assert_eq!(value("node_processes_max_processes"), Some(30_720.0));
    }

    #[test]
    fn garbage_is_left_out() {
        let mut values = Readings::new();
        for text in ["", "cpu ", "cpu a b", "x", "a: b kB", ": :", "eth0: -1"] {
            add_cpu(&mut values, text);
            add_load(&mut values, text);
            add_memory(&mut values, text);
            add_network(&mut values, text);
            add_disks(&mut values, text, |_| true);
            add_processes(&mut values, text, &[text.to_owned()]);
        }
        assert!(values.is_empty(), "{values:?}");
    }

    #[test]
    fn this_machine_has_cores_and_memory_and_measures_something() {
        assert!(cpu_millicores() >= 1000);
        assert!(memory_bytes() > 1 << 20);
        assert!(sample(Path::new("/")).len() > 5);
    }

    #[test]
    fn temperatures_are_those_of_thermal_zones_or_else_of_sensors() {
        let class = tempfile::tempdir().unwrap();
        let temperatures = || {
            let mut values = Readings::new();
            add_temperatures(&mut values, class.path());
            values.into_iter().map(|(series, value)| (series.name, value)).collect::<Vec<_>>()
        };
        let write = |file: &str, text: &str| {
            let path = class.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(temperatures(), []);
        write("hwmon/hwmon3/temp1_input", "45000\n");
        write("hwmon/hwmon3/temp2_input", "no number");
        assert_eq!(temperatures(), [("node_hwmon_temp_celsius".into(), 45.0)]);
        write("thermal/thermal_zone1/temp", "-500\n");
        assert_eq!(temperatures(), [("node_thermal_zone_temp".into(), -0.5)]);
    }
}
