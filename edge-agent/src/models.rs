//! The models on this node: files that are known by their content.
//!
//! A model comes here whole or not at all: it is hashed while it is copied, made durable, and only then has
//! its name, which is its digest. So what has a name is what it says, after a power cut as well. Nothing here
//! is in the agent's store: the folder is what there is.

use sha2::{Digest as _, Sha256};
use shared::model::ModelDigest;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The models that a node has.
pub type NodeModels = BTreeMap<ModelDigest, ModelFile>;

/// Where a model lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Models of one node; a folder with more holds something else.
const MODELS_MAX: usize = 1024;

/// What the name of a copy ends in that is under way; the process that makes it stands before.
const PARTIAL: &str = ".partial";

/// Bytes that are copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Why a model did not come, or did not go.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The disk said no.
    #[error("could not {attempted}")]
    Io {
        /// What was attempted, as in `read the file /mnt/usb/ocr.onnx`.
        attempted: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is another one.
    #[error("{file} is {found}: expected {expected}")]
    Other {
        /// The file that was read.
        file: PathBuf,
        /// What it is.
        found: ModelDigest,
        /// What it should be.
        expected: ModelDigest,
    },
    /// There is nothing in it.
    #[error("{0} is empty: expected a model")]
    Empty(PathBuf),
    /// There is no such model.
    #[error("this node has no model {0}")]
    Absent(ModelDigest),
}

fn io(attempted: String) -> impl FnOnce(io::Error) -> ModelError {
    move |source| ModelError::Io { attempted, source }
}

/// The folder of a node's models.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    path: PathBuf,
}

impl ModelFolder {
    /// The models in this folder, which need not be there yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The models that there are. One that is on its way is none.
    ///
    /// # Errors
    /// When the folder can't be read; where there is none, there are no models.
    pub fn list(&self) -> Result<NodeModels, ModelError> {
        let reading = || io(format!("read the folder of models {}", self.path.display()));
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(NodeModels::new()),
            other => other.map_err(reading())?,
        };
        let mut models = NodeModels::new();
        for entry in entries {
            let entry = entry.map_err(reading())?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| format!("sha256:{name}").parse().ok());
            let Some(digest) = digest else { continue };
            // One that goes at this moment is gone.
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            if metadata.is_file() && models.len() < MODELS_MAX {
                models.insert(digest, ModelFile { path: entry.path(), bytes: metadata.len() });
            }
        }
        Ok(models)
    }

    /// Copies a model here. Whole and durable when this returns; nothing is left of one that is not.
    ///
    /// # Errors
    /// When it is not `expected`, is empty, can't be read, or the disk has no room.
    pub fn import(
        &self,
        file: &Path,
        expected: Option<ModelDigest>,
    ) -> Result<(ModelDigest, u64), ModelError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(io(format!("make the folder of models {}", self.path.display())))?;
        self.remove_abandoned();
        let partial = self.path.join(format!(".{}{PARTIAL}", std::process::id()));
        let imported = self.import_by(file, expected, &partial);
        if imported.is_err() {
            let _ = fs::remove_file(&partial);
        }
        imported
    }

    /// Removes what a process left that was killed, or that the power was cut under.
    fn remove_abandoned(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let process =
                name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(PARTIAL));
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn import_by(
        &self,
        file: &Path,
        expected: Option<ModelDigest>,
        partial: &Path,
    ) -> Result<(ModelDigest, u64), ModelError> {
        let mut from = File::open(file).map_err(io(format!("open {}", file.display())))?;
        let mut options = OpenOptions::new();
        let mut to = options
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(partial)
            .map_err(io(format!("write {}", partial.display())))?;
        let (digest, bytes) = copy(&mut from, file, &mut to, partial)?;
        if bytes == 0 {
            return Err(ModelError::Empty(file.to_owned()));
        }
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(ModelError::Other { file: file.to_owned(), found: digest, expected });
        }
        let keeping = || io(format!("keep the model in {}", self.path.display()));
        to.set_permissions(Permissions::from_mode(0o444)).map_err(keeping())?;
        to.sync_all().map_err(keeping())?;
        fs::rename(partial, self.path.join(digest.hex())).map_err(keeping())?;
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(keeping())?;
        Ok((digest, bytes))
    }

    /// Removes a model. Pods that have it open go on; they are not started again without it.
    ///
    /// # Errors
    /// When there is none, or the disk says no.
    pub fn remove(&self, digest: ModelDigest) -> Result<(), ModelError> {
        match fs::remove_file(self.path.join(digest.hex())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ModelError::Absent(digest))
            }
            other => other.map_err(io(format!("remove the model {digest}"))),
        }
    }
}

fn copy(
    from: &mut File,
    file: &Path,
    to: &mut File,
    partial: &Path,
) -> Result<(ModelDigest, u64), ModelError> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; COPY_BYTES]);
    loop {
        let read = from.read(&mut buffer).map_err(io(format!("read {}", file.display())))?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
        hash.update(part);
        to.write_all(part).map_err(io(format!("write {}", partial.display())))?;
        bytes += read as u64;
    }
    Ok((ModelDigest(hash.finalize().into()), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_comes_whole_by_its_content_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("ocr.onnx");
        fs::write(&source, "weights").unwrap();
        let models = ModelFolder::new(folder.path().join("models"));
        assert_eq!(models.list().unwrap(), NodeModels::new());
        let (digest, bytes) = models.import(&source, None).unwrap();
        assert_eq!((digest, bytes), (ModelDigest(Sha256::digest("weights").into()), 7));
        assert_eq!(models.import(&source, Some(digest)).unwrap(), (digest, 7));
        let listed = models.list().unwrap();
        assert_eq!(fs::read_to_string(&listed[&digest].path).unwrap(), "weights");
        models.remove(digest).unwrap();
        assert!(models.list().unwrap().is_empty());
        assert!(matches!(models.remove(digest), Err(ModelError::Absent(_))));
    }

    #[test]
    fn of_one_that_is_not_what_it_should_be_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (source, empty) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&source, "weights").unwrap();
        fs::write(&empty, "").unwrap();
        let models = ModelFolder::new(folder.path().join("models"));
        let other = models.import(&source, Some(ModelDigest([1; 32]))).unwrap_err();
        assert!(other.to_string().contains("expected sha256:0101"), "{other}");
        assert!(matches!(models.import(&empty, None), Err(ModelError::Empty(_))));
        assert!(matches!(models.import(folder.path(), None), Err(ModelError::Io { .. })));
        assert_eq!(fs::read_dir(folder.path().join("models")).unwrap().count(), 0);
        let abandoned = folder.path().join(format!("models/.{}{PARTIAL}", i32::MAX));
        fs::write(&abandoned, "half").unwrap();
        fs::write(folder.path().join("models/readme"), "x").unwrap();
        assert!(models.list().unwrap().is_empty());
        models.import(&source, None).unwrap();
        assert!(!abandoned.exists());
    }
}
