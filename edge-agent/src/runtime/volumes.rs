//! The files that a pod has of ConfigMaps, Secrets and models.
//!
//! A volume is a folder laid out as kubelet lays it out: the files are links into `..data`, which is a link to
//! the folder of one version, so that a change is one rename for all files together. Where a process finds it is a
//! link below its home; a container has it mounted. ConfigMaps lie in the pod's folder; Secrets where [`super::secrets`] says, and are
//! opened here, for as long as their files are being written. A model is one file, and lies where the node keeps
//! it.
//!
//! ```text
//! <pod>/home/etc/ocr    -> <pod>/volumes/settings
//! <pod>/volumes/settings/ocr.toml -> ..data/ocr.toml
//! <pod>/volumes/settings/..data   -> ..4f2a…
//! <pod>/volumes/settings/..4f2a…/ocr.toml
//! ```

use super::StartFailure;
use super::access::Access;
use super::folder::{PodFolder, private_folder};
use super::layers::{Attempt, attempt};
use super::secrets::Secrets;
use crate::ports::{VolumeContent, VolumeSource};
use shared::in_words;
use shared::model::{KeyToPath, SecretData, check_object_key};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// The link to the version that is in force.
const DATA: &str = "..data";

/// Hexadecimal digits of a version's name.
const VERSION_DIGITS: usize = 16;

/// Who opens the Secrets of a pod's volumes, and who reads the files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer<'a> {
    pub(super) secrets: Option<&'a Secrets>,
    pub(super) access: Access,
}

/// Lays the volumes of a pod that does not run down anew. `find` says where one lies that is not made of files.
///
/// # Errors
/// Why the pod can't be started.
pub(super) fn lay_down(
    folder: &PodFolder,
    volumes: &[VolumeContent],
    writer: Writer<'_>,
    find: impl Fn(&VolumeContent) -> Result<Option<PathBuf>, StartFailure>,
) -> Result<(), StartFailure> {
    // What an earlier start had is not this one's.
    remove(folder, writer.secrets);
    volumes.iter().try_for_each(|volume| {
        let found = find(volume)?;
        place(folder, volume, writer, found)
    })?;
    let mounts: Vec<&str> = mounts_of(volumes).collect();
    if mounts.is_empty() {
        return Ok(());
    }
    let path = mounts_file(folder);
    let noting = attempt(format!("write {}", path.display()));
    fs::write(&path, mounts.join("\n")).map_err(noting).map_err(|error| failure(&error))
}

/// Replaces the files of a pod that runs where they are others now.
///
/// # Errors
/// Why they are as they were.
pub(super) fn renew(
    folder: &PodFolder,
    volumes: &[VolumeContent],
    writer: Writer<'_>,
) -> Result<(), StartFailure> {
    let mut of_files = volumes.iter().filter(|volume| volume.source.is_of_files());
    of_files.try_for_each(|volume| place(folder, volume, writer, None))
}

/// Removes all volumes of a pod.
pub(super) fn remove(folder: &PodFolder, secrets: Option<&Secrets>) {
    for mount in fs::read_to_string(mounts_file(folder)).unwrap_or_default().lines() {
        let link = folder.home().join(mount);
        if is_link(&link) {
            let _ = fs::remove_file(link);
        }
    }
    let _ = fs::remove_dir_all(folder.volumes());
    secrets.into_iter().for_each(|secrets| secrets.forget(folder));
}

fn mounts_of(volumes: &[VolumeContent]) -> impl Iterator<Item = &str> {
    volumes.iter().flat_map(|volume| &volume.mounts).map(String::as_str)
}

/// Where the pod's mounts are listed, so that they are found when the template is another.
fn mounts_file(folder: &PodFolder) -> PathBuf {
    folder.volumes().join("..mounts")
}

fn place(
    folder: &PodFolder,
    volume: &VolumeContent,
    writer: Writer<'_>,
    found: Option<PathBuf>,
) -> Result<(), StartFailure> {
    // Where the mounts are listed.
    make_volumes_folder(folder)?;
    let path = found.map_or_else(|| write(folder, volume, writer), Ok)?;
    volume.mounts.iter().try_for_each(|mount| link(folder, mount, &path))
}

/// Writes what is in a volume of files, where it is other than what lies there: the folder of its files, or the file
/// of a model. Nothing shows it to the pod yet.
///
/// # Errors
/// Why the pod can't have it.
pub(super) fn write(
    folder: &PodFolder,
    volume: &VolumeContent,
    writer: Writer<'_>,
) -> Result<PathBuf, StartFailure> {
    let path = place_of(folder, volume, writer.secrets)?;
    if matches!(volume.source, VolumeSource::Model(_)) {
        return Ok(path);
    }
    make_volumes_folder(folder)?;
    let version = format!("..{}", hex(&volume.version().0));
    if !is_in_force(&path, &version) {
        write_content(&path, &version, volume, writer)?;
    }
    Ok(path)
}

/// Where a volume lies, or is to lie: the folder of its files, or the file of a model.
///
/// # Errors
/// Why the pod can't have it.
pub(super) fn place_of(
    folder: &PodFolder,
    volume: &VolumeContent,
    secrets: Option<&Secrets>,
) -> Result<PathBuf, StartFailure> {
    match (&volume.source, volume.is_secret, secrets) {
        (VolumeSource::Model(file), ..) => present(file),
        (_, false, _) => Ok(folder.volumes().join(&volume.name)),
        (_, true, Some(secrets)) => Ok(secrets.of_pod(folder)?.join(&volume.name)),
        (_, true, None) => {
            let message = "this runtime has no key to open Secrets with";
            Err(StartFailure::new("SecretsUnavailable", message))
        }
    }
}

fn make_volumes_folder(folder: &PodFolder) -> Result<(), StartFailure> {
    private_folder(&folder.volumes())
        .map_err(attempt(format!("make the folder {}", folder.volumes().display())))
        .map_err(|error| failure(&error))
}

fn present(model: &Path) -> Result<PathBuf, StartFailure> {
    if model.is_file() {
        return Ok(model.to_owned());
    }
    let message = format!("{} was there, and is gone", model.display());
    Err(StartFailure::new("ModelMissing", message))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(VERSION_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

fn is_in_force(path: &Path, version: &str) -> bool {
    fs::read_link(path.join(DATA)).is_ok_and(|link| link == Path::new(version))
        && path.join(version).is_dir()
}

fn write_content(
    path: &Path,
    version: &str,
    volume: &VolumeContent,
    writer: Writer<'_>,
) -> Result<(), StartFailure> {
    let opened: SecretData;
    let files = match &volume.source {
        VolumeSource::ConfigMap(item) => {
            let data = item.data.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            files_of(data.collect(), &volume.items, true)?
        }
        VolumeSource::Secret(name, item) => {
            let Some(secrets) = writer.secrets else { return Ok(()) };
            opened = secrets.open(name, item)?;
            let data = opened.iter().map(|(key, value)| (key.as_str(), value.reveal()));
            files_of(data.collect(), &volume.items, volume.optional)?
        }
        _ => vec![],
    };
    let writing = attempt(format!("write the volume {}", path.display()));
    let given = (writer.access, volume.is_secret);
    replace(path, version, &files, given).map_err(writing).map_err(|error| failure(&error))
}

type Files<'a> = Vec<(&'a str, &'a [u8])>;

/// Which files there are, by their paths.
fn files_of<'a>(
    data: Files<'a>,
    items: &'a [KeyToPath],
    optional: bool,
) -> Result<Files<'a>, StartFailure> {
    if items.is_empty() {
        // What names no file is none: a hub sends no such key.
        return Ok(data.into_iter().filter(|(key, _)| check_object_key(key).is_ok()).collect());
    }
    let mut files = Files::new();
    for item in items {
        match data.iter().find(|(key, _)| *key == item.key) {
            Some((_, bytes)) => files.push((&item.path, bytes)),
            None if optional => {}
            None => {
                let message = format!("there is no key `{}` in it", item.key);
                return Err(StartFailure::new("MissingObjects", message));
            }
        }
    }
    Ok(files)
}

/// Makes `version` with these files the one that is in force. Whoever looks meanwhile sees all of the old ones
/// or all of the new.
fn replace(path: &Path, version: &str, files: &Files<'_>, given: Given) -> io::Result<()> {
    private_folder(path)?;
    given.0.give_folder(path, given.1)?;
    let folder = path.join(version);
    let _ = fs::remove_dir_all(&folder);
    let written = write_files(&folder, files, given);
    if written.is_err() {
        let _ = fs::remove_dir_all(&folder);
        return written;
    }
    relink(Path::new(version), &path.join(DATA))?;
    let shown: BTreeSet<&str> =
        files.iter().filter_map(|(path, _)| path.split('/').next()).collect();
    for name in &shown {
        let (target, link) = (Path::new(DATA).join(name), path.join(name));
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            relink(&target, &link)?;
        }
    }
    for entry in fs::read_dir(path)? {
        let (name, path) = entry.map(|entry| (entry.file_name(), entry.path()))?;
        let is_kept = name == DATA
            || name == version
            || name.to_str().is_some_and(|name| shown.contains(name));
        if !is_kept && fs::remove_file(&path).is_err() {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Who reads the files, and whether they are those of a Secret.
type Given = (Access, bool);

fn write_files(folder: &Path, files: &Files<'_>, (access, is_secret): Given) -> io::Result<()> {
    private_folder(folder)?;
    access.give_folder(folder, is_secret)?;
    for (path, bytes) in files {
        // Those between it and the file, the outer ones first.
        let between: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        for below in between.into_iter().rev().filter(|below| *below != Path::new("")) {
            private_folder(&folder.join(below))?;
            access.give_folder(&folder.join(below), is_secret)?;
        }
        let path = folder.join(path);
        let mut options = OpenOptions::new();
        options.create_new(true).write(true).mode(0o600).open(&path)?.write_all(bytes)?;
        access.give_file(&path, is_secret)?;
    }
    Ok(())
}

/// Makes `link` lead to `target`, whatever it led to before.
fn relink(target: &Path, link: &Path) -> io::Result<()> {
    let mut new = link.as_os_str().to_owned();
    new.push("..new");
    let new = PathBuf::from(new);
    let _ = fs::remove_file(&new);
    symlink(target, &new)?;
    fs::rename(&new, link)
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// Shows a volume to the pod. What the pod itself put there is left alone.
fn link(folder: &PodFolder, mount: &str, volume: &Path) -> Result<(), StartFailure> {
    let link = folder.home().join(mount);
    if fs::read_link(&link).is_ok_and(|target| target == volume) {
        return Ok(());
    }
    // An empty folder holds nothing of anybody's.
    let _ = fs::remove_dir(&link);
    if fs::symlink_metadata(&link).is_ok_and(|found| !found.is_symlink()) {
        let message = format!("{} is there already, and is not empty", link.display());
        return Err(StartFailure::new("MountPathTaken", message));
    }
    let show = || -> Attempt<()> {
        let showing = || attempt(format!("show a volume at {}", link.display()));
        link.parent().map_or(Ok(()), fs::create_dir_all).map_err(showing())?;
        relink(volume, &link).map_err(showing())
    };
    show().map_err(|error| failure(&error))
}

fn failure(error: &crate::ports::RuntimeError) -> StartFailure {
    let reason = if super::folder::is_disk_full(error) { "DiskFull" } else { "VolumeFailed" };
    StartFailure::new(reason, in_words(error))
}

#[cfg(test)]
mod tests {
    use super::super::folder::tests::folder;
    use super::*;
    use serde_bytes::ByteBuf;
    use shared::model::{ConfigItem, ObjectKind, ObjectName, SecretBytes};
    use shared::trust::seal::seal_secret;
    use shared::trust::session::SessionPrivateKey;
    use shared::trust::signature::SigningKey;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    fn writer(secrets: Option<&Secrets>) -> Writer<'_> {
        Writer { secrets, access: Access::default() }
    }

    fn lay_down(
        folder: &PodFolder,
        volumes: &[VolumeContent],
        secrets: Option<&Secrets>,
    ) -> Result<(), StartFailure> {
        super::lay_down(folder, volumes, writer(secrets), |_| Ok(None))
    }

    fn renew(
        folder: &PodFolder,
        volumes: &[VolumeContent],
        secrets: Option<&Secrets>,
    ) -> Result<(), StartFailure> {
        super::renew(folder, volumes, writer(secrets))
    }

    fn config(mounts: &[&str], data: &[(&str, &str)]) -> VolumeContent {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), ByteBuf::from(v.as_bytes())));
        VolumeContent {
            name: "settings".to_owned(),
            mounts: mounts.iter().map(|mount| (*mount).to_owned()).collect(),
            source: VolumeSource::ConfigMap(Arc::new(ConfigItem { data: data.collect() })),
            ..VolumeContent::default()
        }
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_together_and_those_that_are_gone_go() {
        let (_temporary, folder) = folder();
        let first = config(&["etc/ocr"], &[("a", "1"), ("b", "1")]);
        lay_down(&folder, std::slice::from_ref(&first), None).unwrap();
        let seen = folder.home().join("etc/ocr");
        assert_eq!(fs::read_to_string(seen.join("a")).unwrap(), "1");
        // Who opened the folder of a version goes on seeing it whole.
        let held = fs::canonicalize(seen.join("b")).unwrap();
        renew(&folder, &[first], None).unwrap();
        assert_eq!(fs::canonicalize(seen.join("b")).unwrap(), held, "nothing has changed");
        let items = vec![KeyToPath { key: "a".to_owned(), path: "conf/x".to_owned() }];
        let second = VolumeContent { items, ..config(&["etc/ocr"], &[("a", "2")]) };
        renew(&folder, &[second], None).unwrap();
        assert_eq!(fs::read_to_string(seen.join("conf/x")).unwrap(), "2");
        let left = names(&folder.volumes().join("settings"));
        assert_eq!(left.len(), 3, "{left:?}");
        assert_eq!(left[1..], ["..data", "conf"].map(str::to_owned)[..], "{left:?}");
    }

    #[test]
    fn a_start_has_its_own_volumes_and_none_of_an_earlier_one_s() {
        let (_temporary, folder) = folder();
        lay_down(&folder, &[config(&["etc/ocr", "old"], &[("a", "1")])], None).unwrap();
        lay_down(&folder, &[config(&["etc/ocr"], &[("b", "1")])], None).unwrap();
        assert_eq!(names(&folder.home()), ["etc"]);
        assert!(!folder.home().join("etc/ocr/a").exists());
        lay_down(&folder, &[], None).unwrap();
        assert!(names(&folder.home().join("etc")).is_empty());
        assert!(!folder.volumes().exists());
    }

    #[test]
    fn what_the_pod_has_where_a_volume_belongs_is_left_alone() {
        let (_temporary, folder) = folder();
        fs::create_dir_all(folder.home().join("etc/ocr")).unwrap();
        lay_down(&folder, &[config(&["etc/ocr"], &[("a", "1")])], None).unwrap();
        fs::create_dir_all(folder.home().join("own/file")).unwrap();
        let refused = lay_down(&folder, &[config(&["own"], &[("a", "1")])], None).unwrap_err();
        assert_eq!(refused.reason, "MountPathTaken");
        assert!(folder.home().join("own/file").exists());
    }

    #[test]
    fn a_model_is_the_file_that_the_node_keeps_and_goes_with_the_pod() {
        let (temporary, folder) = folder();
        let file = temporary.path().join("model");
        fs::write(&file, "weights").unwrap();
        let model = VolumeContent {
            name: "model.ocr".to_owned(),
            mounts: vec!["models/ocr.onnx".to_owned()],
            source: VolumeSource::Model(file.clone()),
            ..VolumeContent::default()
        };
        lay_down(&folder, std::slice::from_ref(&model), None).unwrap();
        let seen = folder.home().join("models/ocr.onnx");
        assert_eq!(fs::read_to_string(&seen).unwrap(), "weights");
        lay_down(&folder, &[], None).unwrap();
        assert!(fs::symlink_metadata(&seen).is_err() && file.exists());
        fs::remove_file(&file).unwrap();
        assert_eq!(lay_down(&folder, &[model], None).unwrap_err().reason, "ModelMissing");
    }

    fn sealed(key: &SessionPrivateKey, text: &str) -> VolumeContent {
        let (kind, namespace) = (ObjectKind::Secret, "default".to_owned());
        let name = ObjectName { kind, namespace, name: "keys".to_owned() };
        let data =
            SecretData::from([("token".to_owned(), SecretBytes::new(text.as_bytes().to_vec()))]);
        let (node, to) = ("mast-17".parse().unwrap(), key.public());
        let by = SigningKey::generate([1; 32]);
        let item = seal_secret(&by, (&node, &to), &name, "1", &data).unwrap();
        VolumeContent {
            name: "keys".to_owned(),
            mounts: vec!["keys".to_owned()],
            is_secret: true,
            source: VolumeSource::Secret(name, Arc::new(item)),
            ..VolumeContent::default()
        }
    }

    #[test]
    fn a_secret_lies_in_memory_alone_for_its_owner_alone_and_goes_with_the_pod() {
        let (temporary, folder) = folder();
        let key = SessionPrivateKey::generate([2; 32]);
        let node = "mast-17".parse().unwrap();
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let secrets =
            Secrets::new(key.clone(), node, vec![memory.path().to_owned()], temporary.path());
        let volume = sealed(&key, "hunter2");
        lay_down(&folder, std::slice::from_ref(&volume), Some(&secrets)).unwrap();
        let file = fs::canonicalize(folder.home().join("keys/token")).unwrap();
        assert!(file.starts_with(memory.path()), "{}", file.display());
        assert_eq!(fs::read_to_string(&file).unwrap(), "hunter2");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o400, 0o700));
        renew(&folder, &[sealed(&key, "hunter3")], Some(&secrets)).unwrap();
        assert_eq!(fs::read_to_string(folder.home().join("keys/token")).unwrap(), "hunter3");
        assert!(!file.exists());
        remove(&folder, Some(&secrets));
        assert!(!folder.home().join("keys").exists());
        let pods = fs::read_dir(memory.path()).unwrap().flatten().next().unwrap().path();
        assert!(names(&pods).is_empty(), "{:?}", names(&pods));

        let disk =
            Secrets::new(key, "mast-17".parse().unwrap(), vec!["/proc".into()], temporary.path());
        let refused = lay_down(&folder, &[volume], Some(&disk)).unwrap_err();
        assert_eq!(refused.reason, "NoTmpfs");
        assert!(refused.message.contains("/proc"), "{}", refused.message);
    }

    #[test]
    fn a_secret_of_another_node_is_not_opened_and_is_not_quoted() {
        let (temporary, folder) = folder();
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let key = SessionPrivateKey::generate([2; 32]);
        let other = "mast-18".parse().unwrap();
        let secrets =
            Secrets::new(key.clone(), other, vec![memory.path().to_owned()], temporary.path());
        let refused = lay_down(&folder, &[sealed(&key, "hunter2")], Some(&secrets)).unwrap_err();
        assert_eq!(refused.reason, "SecretUnreadable");
        assert!(!refused.message.contains("hunter2"));
    }
}
