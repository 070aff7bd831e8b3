//! The agent's real NVML adapter on the replayed library: what it says of GPUs that work, fail, come
//! late and come back.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use edge_agent::gpu::{GpuConditions, GpuSource, Gpus, NvmlGpus, metrics};
use nvml_replay::{Recording, RemappedRows, RetiredPages, XidEvent};
use shared::model::{
    GpuDevice, GpuHealth, GpuInventory, GpuSource as InventorySource, MigRole, MonotonicMs,
};
use shared::telemetry::Series;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// `DRIVER_NOT_LOADED`, `FUNCTION_NOT_FOUND`, `GPU_IS_LOST` and `UNKNOWN` of NVML's return codes.
const DRIVER_NOT_LOADED: u32 = 9;
const FUNCTION_NOT_FOUND: u32 = 13;
const GPU_IS_LOST: u32 = 15;
const UNKNOWN: u32 = 999;

const TWO_L4: &str = "two-l4.json";
const H100_MIG: &str = "h100-mig-7x1g.10gb.json";

const PATIENCE: Duration = Duration::from_secs(20);

/// A driver in a folder of its own.
struct Driver {
    folder: TempDir,
    recording: Recording,
}

impl Driver {
    fn of(recording: &str) -> Self {
        let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
        let recording = Recording::read(&recordings.join(recording)).unwrap();
        let driver = Self { folder: TempDir::new().unwrap(), recording };
        // Beside this test, where cargo puts the libraries that it depends on.
        let built = std::env::current_exe().unwrap().with_file_name("libnvml_replay.so");
        std::fs::copy(&built, driver.library()).unwrap();
        driver.says_so();
        driver
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    fn says_so(&self) {
        self.recording.write(&self.folder.path().join("recording.json")).unwrap();
    }

    fn now(&mut self, change: impl FnOnce(&mut Recording)) {
        change(&mut self.recording);
        self.says_so();
    }

    fn gpus(&self) -> NvmlGpus {
        NvmlGpus::open(Some(&self.library()))
    }
}

fn unhealthy(inventory: &GpuInventory) -> Vec<String> {
    let words = |device: &GpuDevice| match &device.health {
        GpuHealth::Healthy => None,
        GpuHealth::Unhealthy(why) => Some(format!("{}: {why}", device.uuid)),
    };
    inventory.devices.iter().filter_map(words).collect()
}

#[test]
fn every_recording_says_where_it_is_from() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let recordings = files.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
    let notes: Vec<String> = recordings.map(|path| Recording::read(&path).unwrap().note).collect();
    assert_eq!(notes.len(), 2);
    assert!(notes.iter().all(|note| !note.is_empty()), "{notes:?}");
}

#[test]
fn two_gpus_are_listed_with_what_they_are() {
    let driver = Driver::of(TWO_L4);
    let inventory = driver.gpus().inventory().unwrap();
    assert_eq!(inventory.source, InventorySource::Nvml);
    assert_eq!(inventory.to_string(), "2 GPUs");
    assert_eq!(
        inventory.devices[1],
        GpuDevice {
            uuid: "GPU-8f0c1f5e-2a31-4c55-9d5e-000000000001".to_owned(),
            name: "NVIDIA L4".to_owned(),
            memory_bytes: 24_152_899_584,
            health: GpuHealth::Healthy,
            mig: MigRole::Unsplit,
            shares_main_memory: false,
        }
    );
}

#[test]
fn a_gpu_in_mig_mode_is_listed_with_its_instances() {
    let mut driver = Driver::of(H100_MIG);
    let mut gpus = driver.gpus();
    let inventory = gpus.inventory().unwrap();
    assert_eq!(inventory.to_string(), "1 GPUs (MIG: 7 x 1g.10gb)");
    assert_eq!(inventory.devices[0].mig, MigRole::Parent);
    let third = &inventory.devices[3];
    assert_eq!(third.uuid, "MIG-3d1f7a60-7e0b-5d7c-8c11-000000000002");
    assert_eq!(third.mig.instance().unwrap().parent, inventory.devices[0].uuid);
    assert_eq!(third.memory_bytes, 10_468_982_784);

    // An index may be free, and a name may lack the profile.
    driver.now(|recording| {
        let instances = &mut recording.gpus[0].mig.as_mut().unwrap().instances;
        instances[0] = None;
        instances[1].as_mut().unwrap().name = "NVIDIA H100 80GB HBM3".to_owned();
    });
    let inventory = gpus.inventory().unwrap();
    assert_eq!(inventory.to_string(), "1 GPUs (MIG: 6 x 1g.10gb)");
}

#[test]
fn the_instances_of_a_gpu_that_is_lost_are_unhealthy_with_it() {
    let mut driver = Driver::of(H100_MIG);
    let mut gpus = driver.gpus();
    gpus.inventory().unwrap();
    driver.now(|recording| {
        recording.gpus[0].fails.insert("*".to_owned(), GPU_IS_LOST);
    });
    let words = unhealthy(&gpus.inventory().unwrap());
    assert_eq!(words.len(), 8, "{words:?}");
    assert!(words[1].contains("its GPU GPU-5b7d2c1e"), "{words:?}");
}

#[test]
fn a_gpu_that_falls_off_the_bus_is_unhealthy_at_once_and_well_when_it_is_back() {
    let mut driver = Driver::of(TWO_L4);
    let mut gpus = driver.gpus();
    assert_eq!(unhealthy(&gpus.inventory().unwrap()), [""; 0]);
    driver.now(|recording| {
        recording.gpus[1].fails.insert("*".to_owned(), GPU_IS_LOST);
    });
    let inventory = gpus.inventory().unwrap();
    assert_eq!(inventory.devices.len(), 2, "it is not forgotten");
    assert_eq!(
        unhealthy(&inventory),
        [
            "GPU-8f0c1f5e-2a31-4c55-9d5e-000000000001: the driver has lost it: it fell off the bus or can't be reached; restart the machine"
        ]
    );
    assert!(gpus.samples().iter().all(|sample| sample.uuid.ends_with('0')), "it says nothing");
    driver.now(|recording| recording.gpus[1].fails.clear());
    assert_eq!(unhealthy(&gpus.inventory().unwrap()), [""; 0]);
}

#[test]
fn one_answer_that_fails_does_not_make_a_gpu_ill_and_three_in_a_row_do() {
    let mut driver = Driver::of(TWO_L4);
    let mut gpus = driver.gpus();
    gpus.inventory().unwrap();
    driver.now(|recording| {
        recording.gpus[0].fails.insert("nvmlDeviceGetMemoryInfo_v2".to_owned(), UNKNOWN);
    });
    let looks: Vec<usize> = (0..3).map(|_| unhealthy(&gpus.inventory().unwrap()).len()).collect();
    assert_eq!(looks, [0, 0, 1]);
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Some(found) => return found,
            None if begin.elapsed() > PATIENCE => panic!("waited for {PATIENCE:?}"),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[test]
fn an_xid_error_of_the_device_takes_the_gpu_away_and_says_what_helps() {
    let mut driver = Driver::of(H100_MIG);
    let mut gpus = driver.gpus();
    assert_eq!(unhealthy(&gpus.inventory().unwrap()), [""; 0]);
    let gpu = driver.recording.gpus[0].uuid.clone();
    driver.now(|recording| recording.xids.push(XidEvent { gpu: gpu.clone(), xid: 48 }));
    until(|| gpus.has_news().then_some(()));
    let words = unhealthy(&gpus.inventory().unwrap());
    assert_eq!(words.len(), 8, "{words:?}");
    assert!(words[0].starts_with(&format!("{gpu}: XID 48: double bit ECC error; ")), "{words:?}");
    assert!(words[7].contains(&format!("its GPU {gpu}: XID 48")), "{words:?}");

    // A reset loads the driver anew.
    driver.now(|recording| {
        recording.fails.insert("*".to_owned(), DRIVER_NOT_LOADED);
    });
    assert_eq!(gpus.inventory(), None);
    driver.now(|recording| {
        recording.fails.clear();
        recording.xids.clear();
    });
    assert_eq!(unhealthy(&gpus.inventory().unwrap()), [""; 0]);
}

#[test]
fn an_xid_error_of_an_application_takes_no_gpu_away() {
    let mut driver = Driver::of(TWO_L4);
    let mut gpus = driver.gpus();
    let [first, second] = [0, 1].map(|index: usize| driver.recording.gpus[index].uuid.clone());
    driver.now(|recording| recording.xids.push(XidEvent { gpu: first.clone(), xid: 31 }));
    driver.now(|recording| recording.xids.push(XidEvent { gpu: second.clone(), xid: 94 }));
    until(|| gpus.has_news().then_some(()));
    let words = unhealthy(&gpus.inventory().unwrap());
    assert_eq!(words.len(), 1, "{words:?}");
    assert!(
        words[0].starts_with(&format!("{second}: XID 94: contained memory error")),
        "{words:?}"
    );
}

#[test]
fn the_node_is_told_of_an_xid_error_before_the_next_look_at_its_gpus() {
    let mut driver = Driver::of(TWO_L4);
    let (changes, mut told) = tokio::sync::mpsc::unbounded_channel();
    let library = driver.library();
    let gpus = Gpus::open(None, Some(&library), Duration::from_millis(20), changes).unwrap();
    gpus.first_inventory(PATIENCE).unwrap();
    let gpu = driver.recording.gpus[1].uuid.clone();
    driver.now(|recording| recording.xids.push(XidEvent { gpu, xid: 79 }));
    assert_eq!(told.blocking_recv().map(|inventory| unhealthy(&inventory).len()), Some(0));
    let begin = Instant::now();
    assert_eq!(told.blocking_recv().map(|inventory| unhealthy(&inventory).len()), Some(1));
    assert!(begin.elapsed() < Duration::from_secs(20), "looks are 30 s apart");
}

#[test]
fn a_gpu_whose_mig_mode_is_not_told_is_not_taken_for_a_whole_one() {
    let mut driver = Driver::of(H100_MIG);
    let mut gpus = driver.gpus();
    let before = gpus.inventory();
    driver.now(|recording| {
        recording.gpus[0].fails.insert("nvmlDeviceGetMigMode".to_owned(), UNKNOWN);
    });
    assert_eq!(gpus.inventory(), before);
}

#[test]
fn a_driver_that_comes_later_than_the_agent_is_noticed() {
    let mut driver = Driver::of(TWO_L4);
    driver.now(|recording| {
        recording.fails.insert("nvmlInit_v2".to_owned(), DRIVER_NOT_LOADED);
    });
    let mut gpus = driver.gpus();
    assert!(!gpus.is_present());
    assert_eq!(gpus.inventory(), None, "unknown, and not known to be none");
    driver.now(|recording| recording.fails.clear());
    assert_eq!(gpus.inventory().unwrap().devices.len(), 2);
    assert!(gpus.is_present());
}

#[test]
fn a_driver_that_is_unloaded_and_loaded_again_leaves_the_gpus_unknown_between() {
    let mut driver = Driver::of(TWO_L4);
    let mut gpus = driver.gpus();
    assert!(gpus.inventory().is_some());
    driver.now(|recording| {
        recording.fails.insert("*".to_owned(), DRIVER_NOT_LOADED);
    });
    assert_eq!((gpus.inventory(), gpus.inventory()), (None, None));
    assert!(gpus.samples().is_empty() && gpus.processes().is_empty());
    driver.now(|recording| recording.fails.clear());
    assert_eq!(unhealthy(&gpus.inventory().unwrap()), [""; 0]);
}

#[test]
fn a_gpu_that_tells_of_no_memory_of_its_own_has_the_node_s() {
    let mut driver = Driver::of(TWO_L4);
    driver.now(|recording| recording.gpus[1].memory = None);
    let devices = driver.gpus().inventory().unwrap().devices;
    let shares: Vec<bool> = devices.iter().map(|gpu| gpu.shares_main_memory).collect();
    assert_eq!(shares, [false, true]);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    assert!(meminfo.contains(&format!(" {} kB", devices[1].memory_bytes / 1024)), "{meminfo}");
}

#[test]
fn readings_are_in_the_units_of_dcgm() {
    let mut driver = Driver::of(TWO_L4);
    driver.now(|recording| {
        recording.gpus.truncate(1);
        recording.gpus[0].ecc = Some(nvml_replay::Ecc { corrected: 3, uncorrected: 2 });
    });
    let samples = driver.gpus().samples();
    let values: Vec<(&str, f64)> =
        samples.iter().map(|sample| (sample.name, sample.value)).collect();
    assert_eq!(
        values,
        [
            (metrics::UTILIZATION_PERCENT, 37.0),
            (metrics::MEMORY_UTILIZATION_PERCENT, 12.0),
            (metrics::MEMORY_USED_MIB, 1024.0),
            (metrics::MEMORY_FREE_MIB, 21557.0),
            (metrics::TEMPERATURE_CELSIUS, 54.0),
            (metrics::POWER_WATTS, 41.25),
            (metrics::SM_CLOCK_MHZ, 2040.0),
            (metrics::MEMORY_CLOCK_MHZ, 6251.0),
            (metrics::ECC_SINGLE_BIT, 3.0),
            (metrics::ECC_DOUBLE_BIT, 2.0),
            (metrics::CLOCK_REASONS, 0.0),
            (metrics::PCIE_SENT_KB_S, 1200.0),
            (metrics::PCIE_RECEIVED_KB_S, 3400.0),
        ]
    );
}

/// What is told of a GPU's memory that is out of use.
fn repairs(gpus: &mut NvmlGpus) -> Vec<(&'static str, f64)> {
    let is_repair = |name: &str| ["RETIRED", "REMAP"].iter().any(|one| name.contains(one));
    let samples = gpus.samples().into_iter().filter(|sample| is_repair(sample.name));
    samples.map(|sample| (sample.name, sample.value)).collect()
}

#[test]
fn pages_that_wait_for_retirement_are_told_and_take_no_pod_away() {
    let mut driver = Driver::of(TWO_L4);
    driver.now(|recording| {
        recording.gpus.truncate(1);
        recording.gpus[0].retired_pages =
            Some(RetiredPages { single_bit: 2, double_bit: 1, is_pending: true });
    });
    let mut gpus = driver.gpus();
    assert_eq!(unhealthy(&gpus.inventory().unwrap()), [""; 0]);
    let told = [
        (metrics::RETIRED_SINGLE_BIT, 2.0),
        (metrics::RETIRED_DOUBLE_BIT, 1.0),
        (metrics::RETIRED_PENDING, 1.0),
    ];
    assert_eq!(repairs(&mut gpus), told);
    // A call that fails once changes nothing.
    driver.now(|recording| {
        recording.gpus[0].fails.insert("nvmlDeviceGetFieldValues".to_owned(), UNKNOWN);
    });
    gpus.inventory().unwrap();
    assert_eq!(repairs(&mut gpus), told);
}

#[test]
fn a_row_that_could_not_be_remapped_takes_the_gpu_away_and_one_that_waits_does_not() {
    let mut driver = Driver::of(H100_MIG);
    let mut gpus = driver.gpus();
    let rows = |is_pending, has_failed| {
        Some(RemappedRows { correctable: 0, uncorrectable: 9, is_pending, has_failed })
    };
    driver.now(|recording| recording.gpus[0].remapped_rows = rows(true, false));
    assert_eq!(unhealthy(&gpus.inventory().unwrap()), [""; 0]);
    let waits = [
        (metrics::REMAPPED_CORRECTABLE, 0.0),
        (metrics::REMAPPED_UNCORRECTABLE, 9.0),
        (metrics::REMAP_PENDING, 1.0),
        (metrics::REMAP_FAILURE, 0.0),
    ];
    assert_eq!(repairs(&mut gpus), waits);
    driver.now(|recording| recording.gpus[0].remapped_rows = rows(false, true));
    let words = unhealthy(&gpus.inventory().unwrap());
    assert_eq!(words.len(), 8, "its instances are unwell with it: {words:?}");
    assert!(words[0].ends_with("have the GPU replaced"), "{words:?}");
}

#[test]
fn a_driver_from_before_these_counts_says_nothing_of_them() {
    let mut driver = Driver::of(TWO_L4);
    driver.now(|recording| {
        recording.fails.insert("nvmlDeviceGetFieldValues".to_owned(), FUNCTION_NOT_FOUND);
        recording.gpus[0].retired_pages = Some(RetiredPages::default());
    });
    let mut gpus = driver.gpus();
    assert_eq!(unhealthy(&gpus.inventory().unwrap()), [""; 0]);
    assert!(repairs(&mut gpus).is_empty() && !gpus.samples().is_empty());
}

#[test]
fn a_gpu_whose_clocks_the_hardware_holds_down_is_a_condition_after_a_minute() {
    let mut driver = Driver::of(TWO_L4);
    // `HwSlowdown` and `HwThermalSlowdown`.
    driver.now(|recording| recording.gpus[1].clock_reasons = Some(0x48));
    let mut gpus = driver.gpus();
    let devices = gpus.inventory().unwrap().devices;
    let mut conditions = GpuConditions::default();
    let mut told = vec![];
    for second in (0..=60).step_by(10) {
        let values = gpus
            .samples()
            .into_iter()
            .map(|sample| (Series::new(sample.name).with("UUID", &sample.uuid), sample.value));
        let now = MonotonicMs(second * 1000);
        told.extend(conditions.look(&values.collect(), &devices, now));
    }
    assert_eq!(told.len(), 1, "{told:?}");
    let holds: Vec<_> = conditions.conditions().collect();
    assert_eq!((holds.len(), holds[0].kind.as_str()), (1, "GpuThrottled"));
    assert_eq!(
        holds[0].message,
        "GPU-8f0c1f5e-2a31-4c55-9d5e-000000000001: the hardware holds its clocks down since it is too hot"
    );
}

#[test]
fn what_the_driver_does_not_tell_is_left_out() {
    let driver = Driver::of(H100_MIG);
    let samples = driver.gpus().samples();
    assert!(samples.iter().all(|sample| sample.name != metrics::UTILIZATION_PERCENT));
    let of_instance: Vec<(&str, f64)> = samples
        .iter()
        .filter(|sample| sample.uuid == "MIG-3d1f7a60-7e0b-5d7c-8c11-000000000002")
        .map(|sample| (sample.name, sample.value))
        .collect();
    let told = [(metrics::MEMORY_USED_MIB, 2048.0), (metrics::MEMORY_FREE_MIB, 7936.0)];
    assert_eq!(of_instance, told);
}

#[test]
fn memory_is_its_process_s_on_the_instance_and_counted_once() {
    let mut driver = Driver::of(H100_MIG);
    let of = |gpus: &mut NvmlGpus| -> Vec<(String, i32, f64)> {
        gpus.processes().into_iter().map(|used| (used.uuid, used.pid, used.bytes)).collect()
    };
    let instance = "MIG-3d1f7a60-7e0b-5d7c-8c11-000000000002".to_owned();
    assert_eq!(of(&mut driver.gpus()), [(instance, 5200, 2_134_376_448.0)]);

    driver = Driver::of(TWO_L4);
    driver.now(|recording| {
        // It computes and draws: listed twice.
        recording.gpus[0].processes.graphics = recording.gpus[0].processes.compute.clone();
        recording.gpus[1].processes.compute[0].bytes = None;
    });
    let gpu = "GPU-8f0c1f5e-2a31-4c55-9d5e-000000000000".to_owned();
    assert_eq!(of(&mut driver.gpus()), [(gpu, 4100, 1_073_741_824.0)]);
}
