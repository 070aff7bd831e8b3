//! What is read of recorded trees, whole and broken ones.

use super::*;
use proptest::prelude::*;
use tempfile::TempDir;

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/jetson").join(name)
}

fn readings(gpus: &mut JetsonGpus) -> Vec<(&'static str, f64)> {
    gpus.samples().into_iter().map(|sample| (sample.name, sample.value)).collect()
}

fn write(root: &Path, file: &str, content: &[u8]) {
    let file = root.join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}

/// A Jetson of which nothing but its device tree is known.
fn bare() -> TempDir {
    let root = TempDir::new().unwrap();
    write(
        root.path(),
        "proc/device-tree/compatible",
        b"nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0",
    );
    write(root.path(), "proc/meminfo", b"MemTotal:       1024 kB\n");
    root
}

#[test]
fn an_agx_orin_has_a_gpu_whose_memory_is_the_node_s() {
    let mut gpus = JetsonGpus::open(&recorded("agx-orin"));
    assert_eq!(gpus.chip(), Some("tegra234"));
    let inventory = gpus.inventory().unwrap();
    let expected = GpuDevice {
        uuid: "GPU-jetson-1424021037591".to_owned(),
        name: "NVIDIA Jetson AGX Orin Developer Kit".to_owned(),
        memory_bytes: 64_328_744 * 1024,
        health: GpuHealth::Healthy,
        mig: MigRole::Unsplit,
        shares_main_memory: true,
    };
    assert_eq!((inventory.source, inventory.devices), (InventorySource::Sysfs, vec![expected]));
    assert_eq!(
        readings(&mut gpus),
        [
            (metrics::UTILIZATION_PERCENT, 37.4),
            (metrics::TEMPERATURE_CELSIUS, 51.843),
            (metrics::POWER_WATTS, 19.056 * 0.208),
            (metrics::SM_CLOCK_MHZ, 612.0),
        ]
    );
    assert!(gpus.processes().is_empty());
}

#[test]
fn an_agx_xavier_has_a_rail_of_its_own_for_the_gpu() {
    let mut gpus = JetsonGpus::open(&recorded("agx-xavier"));
    assert_eq!(gpus.chip(), Some("tegra194"));
    let device = gpus.inventory().unwrap().devices.remove(0);
    assert_eq!(
        (device.name.as_str(), device.uuid.as_str()),
        ("Jetson-AGX", "GPU-jetson-0423718017302")
    );
    assert_eq!(
        readings(&mut gpus),
        [
            (metrics::UTILIZATION_PERCENT, 99.8),
            (metrics::TEMPERATURE_CELSIUS, 44.0),
            (metrics::POWER_WATTS, 19.064 * 0.48),
            (metrics::SM_CLOCK_MHZ, 1377.0),
        ]
    );
}

#[test]
fn another_machine_has_no_such_gpu() {
    let root = TempDir::new().unwrap();
    assert_eq!(JetsonGpus::open(root.path()).inventory(), Some(GpuInventory::default()));
    write(root.path(), "proc/device-tree/compatible", b"raspberrypi,4-model-b\0brcm,bcm2711\0");
    write(root.path(), "sys/class/devfreq/17000000.gpu/cur_freq", b"1");
    let mut gpus = JetsonGpus::open(root.path());
    assert_eq!(gpus.inventory(), Some(GpuInventory::default()));
    assert!(gpus.samples().is_empty() && gpus.chip().is_none());
}

#[test]
fn a_driver_that_comes_later_is_noticed_and_one_that_goes_leaves_the_gpu_unwell() {
    let root = bare();
    let mut gpus = JetsonGpus::open(root.path());
    assert_eq!(gpus.inventory(), Some(GpuInventory::default()));
    write(root.path(), "sys/devices/platform/bus@0/17000000.ga10b/load", b"500\n");
    write(root.path(), "sys/class/devfreq/17000000.ga10b/cur_freq", b"306000000\n");
    let device = gpus.inventory().unwrap().devices.remove(0);
    assert_eq!((device.name.as_str(), device.memory_bytes), ("tegra234", 1 << 20));
    assert_eq!(
        readings(&mut gpus),
        [(metrics::UTILIZATION_PERCENT, 50.0), (metrics::SM_CLOCK_MHZ, 306.0)]
    );
    fs::remove_dir_all(root.path().join("sys")).unwrap();
    let device = gpus.inventory().unwrap().devices.remove(0);
    assert_eq!(device.health, GpuHealth::Unhealthy(GONE.to_owned()));
    assert!(gpus.samples().is_empty());
}

#[test]
fn without_a_serial_number_the_uuid_is_the_installation_s_and_does_not_tell_it() {
    let root = bare();
    write(root.path(), "etc/machine-id", b"8d1a4e0bb1f84b0c9d31c1a0f2f5a7e6\n");
    let named = uuid(root.path());
    assert_eq!(named.len(), JETSON_GPU_PREFIX.len() + 16);
    assert!(!named.contains("8d1a4e0b") && named == uuid(root.path()));
    write(root.path(), "proc/device-tree/serial-number", b"1421/00-7\0");
    assert_eq!(uuid(root.path()), "GPU-jetson-1421007");
}

#[test]
fn odd_files_mean_less_and_no_error() {
    let files = [
        "sys/class/devfreq/17000000.gpu/cur_freq",
        "sys/class/devfreq/17000000.gpu/device/load",
        "sys/class/thermal/thermal_zone1/temp",
        "sys/class/hwmon/hwmon3/in1_input",
        "proc/device-tree/model",
        "proc/device-tree/serial-number",
    ];
    let odd: [&[u8]; 6] =
        [b"", b"\n", b"many\n", b"\xff\xfe\0", b"99999999999999999999\n", b"-7 mA"];
    for content in odd {
        let root = bare();
        write(root.path(), "sys/class/thermal/thermal_zone1/type", b"gpu-thermal\n");
        write(root.path(), "sys/class/hwmon/hwmon3/name", b"ina3221\n");
        write(root.path(), "sys/class/hwmon/hwmon3/in1_label", b"VDD_GPU_SOC\n");
        files.iter().for_each(|file| write(root.path(), file, content));
        let mut gpus = JetsonGpus::open(root.path());
        assert_eq!(gpus.inventory().unwrap().devices.len(), 1);
        assert_eq!(readings(&mut gpus), [], "{content:?}");
    }
    // A folder where a file should be, a sensor that is switched off, and no memory at all.
    let root = bare();
    fs::create_dir_all(root.path().join("sys/class/devfreq/17000000.gpu/cur_freq")).unwrap();
    write(root.path(), "sys/class/thermal/thermal_zone1/type", b"GPU-therm\n");
    write(root.path(), "sys/class/thermal/thermal_zone1/temp", b"-256000\n");
    let mut gpus = JetsonGpus::open(root.path());
    assert_eq!((gpus.inventory().unwrap().devices.len(), readings(&mut gpus)), (1, vec![]));
    fs::remove_file(root.path().join("proc/meminfo")).unwrap();
    assert_eq!(gpus.inventory(), Some(GpuInventory::default()));
}

proptest! {
    #[test]
    fn no_content_makes_the_readers_panic(content in proptest::collection::vec(any::<u8>(), 0..40)) {
        let root = bare();
        for file in ["proc/device-tree/compatible", "proc/device-tree/model", "proc/meminfo",
            "proc/device-tree/serial-number", "sys/class/devfreq/17000000.gpu/cur_freq",
            "sys/class/devfreq/17000000.gpu/device/load"] {
            write(root.path(), file, &content);
            let mut gpus = JetsonGpus::open(root.path());
            gpus.inventory();
            gpus.samples();
        }
    }
}
