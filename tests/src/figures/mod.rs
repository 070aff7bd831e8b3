//! The figures of `make bench`.
//!
//! | file | figures |
//! |---|---|
//! | `restart.rs` | an offline restart: to the first start, to the first answer, to all ready |
//! | `change.rs` | from a manifest to a started pod |
//! | `apply.rs` | from `kubectl apply` to a started pod, and to a ready one in its status |
//! | `failover.rs` | from the death of a leading hub to the first word of the next |
//! | `codec.rs` | what a sample of telemetry costs, beside what others make of it |
//! | `program.rs` | size of the agent's program, for x86-64 and aarch64 |
//! | `reboot.rs` | an offline reboot of ten containers: to the first start, and to all ready beside bare CRI calls |
//! | `idle.rs` | memory and CPU time of an agent whose containers do nothing |
//! | `memory.rs` | memory of an agent with process pods, of a shim and of a hub |
//! | `placement.rs` | how long placement takes, and how far it is from the best |
//! | `outbox.rs` | records appended to the outbox and drained from it |
//! | `flash.rs` | what an idle node writes to its flash |
//! | `kills.rs` | kill -9 of a real agent under load |
//! | `fleet.rs` | a hub with 2 000 nodes and 500 workloads in a Kubernetes API server |
//! | `link.rs` | what the link costs: a day, a reconnection, a change |
//! | `world.rs` | the simulated world's rate |
//! | `containers.rs` | a node whose pods are containers |
//! | `full_store.rs` | fills a node's store, as weeks without a link do |
//! | `marks.rs` | pods that leave a mark when they start |

mod apply;
mod change;
mod codec;
mod containers;
mod failover;
mod flash;
mod fleet;
mod full_store;
mod idle;
mod kills;
mod link;
mod link_day;
mod marks;
mod memory;
mod outbox;
mod placement;
mod program;
mod reboot;
mod restart;
mod world;

/// One figure.
#[derive(Debug, Clone)]
pub struct Figure {
    /// As issues and documents name it.
    pub name: &'static str,
    /// Its value, as it is printed.
    pub value: String,
    /// Its unit.
    pub unit: &'static str,
    /// How it was measured, in one line.
    pub how: String,
}

impl Figure {
    fn new(name: &'static str, value: impl ToString, unit: &'static str, how: &str) -> Self {
        Self { name, value: value.to_string(), unit, how: how.to_owned() }
    }
}

/// Measures some figures that belong together.
pub type Measure = fn() -> anyhow::Result<Vec<Figure>>;

/// Everything that is measured, by name.
#[must_use]
pub fn all() -> Vec<(&'static str, Measure)> {
    vec![
        ("program", program::here),
        ("program_aarch64", program::aarch64),
        ("restart", restart::inference),
        ("restart_ten", restart::ten_pods),
        ("change", change::change_to_start),
        ("apply", apply::apply_to_ready),
        ("failover", failover::failover),
        ("reboot", reboot::offline),
        ("idle_memory", idle::memory),
        ("idle_cpu", idle::cpu),
        ("agent_memory", memory::agent),
        ("hub_memory", memory::hub),
        ("placement", placement::placement),
        ("outbox", outbox::outbox),
        ("flash", flash::idle),
        ("kills", kills::agent),
        ("fleet", fleet::fleet),
        ("link", link_day::telemetry),
        ("reconnect", link::reconnect),
        ("image_change", link::image_change),
        ("sim", world::simulation),
        ("codec", codec::codec),
    ]
}

/// The value below which `percent` of the sorted values lie.
fn percentile(values: &mut [u128], percent: usize) -> u128 {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(rank).copied().unwrap_or_default()
}

/// A folder for one measurement, on the disk that holds the built programs: `/tmp` may be memory.
fn work_folder() -> anyhow::Result<tempfile::TempDir> {
    let beside = crate::real::binaries::binary_folder()?;
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(beside)?)
}
