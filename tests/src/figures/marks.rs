//! Pods that leave a mark when they start: an empty file, whose time of change tells when.

use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A folder of marks.
pub(super) struct Marks(PathBuf);

impl Marks {
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// The manifest of a workload whose pods mark their start and then sleep. The shell makes the
    /// mark itself, so that no other program's start is in the way.
    pub(super) fn manifest(&self, workload: &str, replicas: u32) -> String {
        let folder = self.0.display();
        format!(
            "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: \
             {workload}\nspec:\n  placement:\n    replicasPerNode: {replicas}\n  template:\n    spec:\n      \
             terminationGracePeriodSeconds: 1\n      containers:\n        - name: mark\n          command: \
             [sh, -c, ': > \"$0/$HINTERLAND_POD_NAME\"; exec sleep 100000', '{folder}']\n"
        )
    }

    /// What such a pod runs.
    pub(super) fn command(&self) -> [String; 4] {
        let folder = self.0.display().to_string();
        let script = ": > \"$0/$HINTERLAND_POD_NAME\"; exec sleep 100000";
        ["sh".to_owned(), "-c".to_owned(), script.to_owned(), folder]
    }

    /// When each pod of a workload marked its start.
    pub(super) fn starts(&self, workload: &str) -> anyhow::Result<Vec<SystemTime>> {
        let mut starts = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let pod = name.to_str().and_then(|name| name.rsplit_once('-'));
            if pod.is_some_and(|(of, _)| of == workload) {
                let marked = entry.metadata().and_then(|metadata| metadata.modified());
                starts.push(marked.context("the file system keeps no times")?);
            }
        }
        starts.sort();
        Ok(starts)
    }

    /// Takes all marks away.
    pub(super) fn clear(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}
