//! Whether a process is one of a pod: its shim, or the pod's main process, is among its ancestors.
//!
//! Believes the kernel's table of processes and what the shim noted, and nothing that the process
//! says of itself. A daemon that outlived a killed shim has lost its ancestors and is nobody's.

use super::files::PodFolder;
use super::identity::ProcessStat;
use crate::ports::InstanceId;

/// Ancestors that are looked at: shells in shells in an init of the pod's own.
const ANCESTORS_MAX: usize = 64;

/// Whether the process with this number is of this start of the pod.
pub(super) fn is_member(folder: &PodFolder, instance: InstanceId, pid: i32) -> bool {
    // The shim notes itself and the main process before that runs what it should.
    let Some(state) = folder.state().filter(|state| state.instance == instance) else {
        return false;
    };
    let keepers = [Some(state.shim), state.main];
    let mut at = pid;
    for _ in 0..ANCESTORS_MAX {
        let Some(stat) = ProcessStat::of(at) else { return false };
        if keepers.contains(&Some(stat.identity)) {
            return true;
        }
        at = stat.parent;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::files::StateFile;
    use super::super::identity::ProcessIdentity;
    use super::*;
    use crate::placement::Placement;
    use shared::model::{Revision, UnixMs};

    #[test]
    fn a_child_of_the_main_process_is_of_the_pod_and_another_process_is_not() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = PodFolder::of(temporary.path(), &"default/ocr-0".parse().unwrap());
        folder.create().unwrap();
        let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = i32::try_from(stranger.id()).unwrap();
        let main = ProcessIdentity::of(id).unwrap();
        let own = ProcessIdentity::own().unwrap();
        let mut state = StateFile {
            instance: InstanceId(7),
            revision: Revision(1),
            boot_id: String::new(),
            shim: ProcessIdentity { pid: i32::MAX, start_ticks: 1 },
            main: Some(own),
            started_at: UnixMs(0),
            working_dir: temporary.path().to_owned(),
            placement: Placement::default(),
            taken: None,
            parameters_id: 0,
        };
        folder.write_state(&state).unwrap();
        // Its parent is this process.
        assert!(is_member(&folder, InstanceId(7), id));
        assert!(!is_member(&folder, InstanceId(8), id), "another start");
        state.main = Some(main);
        folder.write_state(&state).unwrap();
        assert!(is_member(&folder, InstanceId(7), id));
        assert!(!is_member(&folder, InstanceId(7), own.pid), "its parent");
        state.main = Some(ProcessIdentity { start_ticks: main.start_ticks + 1, ..main });
        folder.write_state(&state).unwrap();
        assert!(!is_member(&folder, InstanceId(7), id), "an earlier process of that number");
        for pid in [0, -1, 1, i32::MAX] {
            assert!(!is_member(&folder, InstanceId(7), pid), "{pid}");
        }
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
