//! The GPU in a Jetson's system-on-chip, read from the kernel's files: device tree, devfreq, thermal zones, hwmon.
//!
//! Its memory is the node's main memory. Everything is read below a root folder. A file that is missing or says
//! something odd is left out; nothing is an error, nothing is written.
//!
//! Where the files are: NVIDIA's Jetson Linux Developer Guide ("Platform Power and Performance"), and the tool
//! jetson-stats for what has moved between releases.

#[cfg(test)]
mod tests;

use super::{GpuProcess, GpuSample, GpuSource, metrics};
use shared::model::{
    GpuDevice, GpuHealth, GpuInventory, GpuSource as InventorySource, JETSON_GPU_PREFIX, MigRole,
};
use shared::wire::Digest;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What the names of its devfreq end with: by the names of the chips up to JetPack 5, `gpu` before and since.
const DEVFREQ_SUFFIXES: [&str; 6] = [".gpu", ".ga10b", ".gv11b", ".gp10b", ".gm20b", ".gb10b"];

/// Where its load is, where devfreq does not lead to it.
const LOAD_FILES: [&str; 2] = ["sys/devices/platform/gpu.0/load", "sys/devices/gpu.0/load"];

/// More entries than any of these folders has.
const ENTRIES_MAX: usize = 256;

/// No file that is read here is longer.
const FILE_BYTES_MAX: u64 = 4096;

/// Characters of a serial number or a product's name.
const TEXT_CHARACTERS_MAX: usize = 64;

/// Channels of an INA3221.
const CHANNELS: u32 = 3;

/// A thermal zone that is switched off says something far below.
const CELSIUS_MIN: f64 = -50.0;

/// Of one that was seen and is gone.
const GONE: &str =
    "the kernel no longer shows it: its driver (nvgpu) was removed; restart the machine";

/// The GPU of a Jetson; none on another machine.
#[derive(Debug)]
pub struct JetsonGpus {
    root: PathBuf,
    /// As in `tegra234`.
    chip: Option<String>,
    was_present: bool,
}

/// Where the GPU's readings are.
#[derive(Debug, Default)]
struct Found {
    devfreq: Option<PathBuf>,
    load: Option<PathBuf>,
}

impl JetsonGpus {
    /// Looks whether the machine whose files lie below `root` is a Jetson.
    #[must_use]
    pub fn open(root: &Path) -> Self {
        Self { root: root.to_owned(), chip: chip(root), was_present: false }
    }

    /// The chip's name, as in `tegra234`, where the machine is a Jetson.
    #[must_use]
    pub fn chip(&self) -> Option<&str> {
        self.chip.as_deref()
    }

    fn device(&self, chip: &str) -> Option<GpuDevice> {
        let is_present = self.found().is_some();
        if !is_present && !self.was_present {
            return None;
        }
        let model = text(&self.root.join("proc/device-tree/model"));
        Some(GpuDevice {
            uuid: uuid(&self.root),
            name: model.unwrap_or_else(|| chip.to_owned()),
            memory_bytes: main_memory_bytes(&self.root)?,
            health: match is_present {
                true => GpuHealth::Healthy,
                false => GpuHealth::Unhealthy(GONE.to_owned()),
            },
            mig: MigRole::Unsplit,
            shares_main_memory: true,
        })
    }

    /// Nothing where its driver has not come.
    fn found(&self) -> Option<Found> {
        let folder = self.root.join("sys/class/devfreq");
        let name = names(&folder)
            .into_iter()
            .find(|name| DEVFREQ_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)));
        let of_devfreq = name.iter().flat_map(|name| {
            let sys = self.root.join("sys/devices");
            [
                folder.join(name).join("device/load"),
                sys.join("platform/bus@0").join(name).join("load"),
                sys.join("platform").join(name).join("load"),
                sys.join(name).join("load"),
            ]
        });
        let elsewhere = LOAD_FILES.iter().map(|file| self.root.join(file));
        let load = of_devfreq.chain(elsewhere).find(|file| file.is_file());
        let found = Found { devfreq: name.map(|name| folder.join(name)), load };
        (found.devfreq.is_some() || found.load.is_some()).then_some(found)
    }

    fn celsius(&self) -> Option<f64> {
        let folder = self.root.join("sys/class/thermal");
        let is_of_gpu = |zone: &PathBuf| {
            let kind = text(&zone.join("type")).unwrap_or_default().to_ascii_lowercase();
            ["gpu-therm", "gpu-thermal", "gpu_therm"].contains(&kind.as_str())
        };
        let zones = names(&folder).into_iter().map(|name| folder.join(name));
        let zone = zones.filter(|zone| is_of_gpu(zone)).find_map(|zone| number(&zone.join("temp")));
        zone.map(|millidegrees| millidegrees / 1000.0).filter(|celsius| *celsius > CELSIUS_MIN)
    }

    /// Of the rail that the GPU hangs on alone, or else of the one that it shares.
    fn watts(&self) -> Option<f64> {
        let folder = self.root.join("sys/class/hwmon");
        let monitors = names(&folder).into_iter().map(|name| folder.join(name)).filter(|monitor| {
            text(&monitor.join("name")).is_some_and(|name| name.starts_with("ina3221"))
        });
        let channels = monitors
            .flat_map(|monitor| (1..=CHANNELS).map(move |channel| (monitor.clone(), channel)));
        let labelled = channels.filter_map(|(monitor, channel)| {
            let label = text(&monitor.join(format!("in{channel}_label")))?;
            Some((rail_rank(&label)?, monitor, channel))
        });
        let (_, monitor, channel) = labelled.min()?;
        let millivolts = number(&monitor.join(format!("in{channel}_input")))?;
        let milliamperes = number(&monitor.join(format!("curr{channel}_input")))?;
        Some(millivolts * milliamperes / 1e6)
    }
}

impl GpuSource for JetsonGpus {
    fn inventory(&mut self) -> Option<GpuInventory> {
        let device = self.chip.as_deref().and_then(|chip| self.device(chip));
        let Some(device) = device else { return Some(GpuInventory::default()) };
        self.was_present = true;
        Some(GpuInventory { source: InventorySource::Sysfs, devices: vec![device] })
    }

    fn samples(&mut self) -> Vec<GpuSample> {
        let found = self.chip.as_ref().and_then(|_| self.found());
        let Some(Found { devfreq, load }) = found else { return Vec::new() };
        // Per mille, and hertz.
        let load = load.and_then(|file| number(&file)).map(|load| (load / 10.0).min(100.0));
        let clock = devfreq.and_then(|folder| number(&folder.join("cur_freq")));
        let values = [
            (metrics::UTILIZATION_PERCENT, load.filter(|load| *load >= 0.0)),
            (metrics::TEMPERATURE_CELSIUS, self.celsius()),
            (metrics::POWER_WATTS, self.watts().filter(|watts| *watts >= 0.0)),
            (metrics::SM_CLOCK_MHZ, clock.map(|hertz| hertz / 1e6)),
        ];
        let uuid = uuid(&self.root);
        let offered = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
        offered.map(|(name, value)| GpuSample { uuid: uuid.clone(), name, value }).collect()
    }

    /// The kernel does not tell it by process where a program may rely on it.
    fn processes(&mut self) -> Vec<GpuProcess> {
        Vec::new()
    }
}

/// The chip of a Jetson, by its device tree, as in `tegra234`.
pub(super) fn chip(root: &Path) -> Option<String> {
    let compatible = bytes(&root.join("proc/device-tree/compatible"))?;
    let compatible = String::from_utf8_lossy(&compatible).into_owned();
    let chips = compatible.split('\0').filter_map(|one| one.strip_prefix("nvidia,"));
    chips.filter(|one| one.starts_with("tegra")).map(shortened).next()
}

/// The same at every start: by the machine's serial number, or else by what names its installation, of which a
/// digest is told.
pub(super) fn uuid(root: &Path) -> String {
    let serial = text(&root.join("proc/device-tree/serial-number"))
        .map(|serial| serial.chars().filter(char::is_ascii_alphanumeric).collect::<String>());
    let name = serial.filter(|serial| !serial.is_empty()).or_else(|| {
        let id = text(&root.join("etc/machine-id"))?;
        Some(Digest::of(format!("gpu of {id}").as_bytes()).to_string().chars().take(16).collect())
    });
    format!("{JETSON_GPU_PREFIX}{}", name.as_deref().unwrap_or("0"))
}

/// All of the main memory.
pub(super) fn main_memory_bytes(root: &Path) -> Option<u64> {
    let text = bytes(&root.join("proc/meminfo"))?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Rails that the GPU has alone come before those that it shares; of others nothing is known of it.
fn rail_rank(label: &str) -> Option<u8> {
    let label = label.to_ascii_uppercase();
    match label.as_str() {
        "GPU" | "VDD_GPU" | "VDD_SYS_GPU" | "POM_5V_GPU" => Some(0),
        _ if label.contains("GPU") => Some(1),
        _ => None,
    }
}

/// What lies in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES_MAX);
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn bytes(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    // A folder or a pipe of this name is none.
    let file = fs::metadata(file)
        .ok()
        .filter(fs::Metadata::is_file)
        .and_then(|_| fs::File::open(file).ok())?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// One line; the device tree ends its words with a zero byte.
fn text(file: &Path) -> Option<String> {
    let text = String::from_utf8(bytes(file)?).ok()?;
    let text = shortened(text.trim_matches(|c: char| c == '\0' || c.is_whitespace()));
    (!text.is_empty() && !text.contains(char::is_control)).then_some(text)
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_CHARACTERS_MAX).collect()
}

fn number(file: &Path) -> Option<f64> {
    text(file)?.parse::<i64>().ok().map(|value| {
        #[expect(clippy::cast_precision_loss, reason = "past 2^53 the last digits are lost")]
        let value = value as f64;
        value
    })
}
