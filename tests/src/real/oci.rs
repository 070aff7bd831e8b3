//! Images for a containerd that can ask no registry: built here of Debian's static busybox, as tars in the layout
//! of OCI, and imported.

use super::containerd::Containerd;
use super::process::wait_until;
use anyhow::{Context, ensure};
use rand_core::RngCore as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A shell with the usual commands, and `/www/ok` to serve.
pub const BOX_IMAGE: &str = "docker.io/hinterland/box:1";

/// What a sandbox runs: nothing, for long.
pub const PAUSE_IMAGE: &str = "docker.io/hinterland/pause:1";

/// An image is known to CRI a moment after it was imported.
const PATIENCE: Duration = Duration::from_secs(60);

/// Builds both images and hands them to containerd.
pub(super) fn import_images(containerd: &Containerd) -> anyhow::Result<()> {
    let layer = layer(&containerd.at("image"))?;
    let forever = ["/bin/sleep", "2147483647"];
    for (name, command) in [(BOX_IMAGE, &["/bin/sh"][..]), (PAUSE_IMAGE, &forever[..])] {
        let tar = layout(&containerd.at("layout"), name, command, &layer)?;
        containerd.ctr(&["images", "import", &tar.display().to_string()])?;
    }
    wait_until("CRI knows its images", PATIENCE, || {
        let managed = containerd.ctr(&["images", "list"])?;
        let is_known = |name: &str| {
            managed.lines().any(|line| line.starts_with(name) && line.contains("=managed"))
        };
        Ok([BOX_IMAGE, PAUSE_IMAGE].into_iter().all(is_known))
    })
}

/// Builds an image of a program of this workspace with the libraries that it is linked to, and hands it to
/// containerd as `name`.
///
/// # Errors
/// When any of it fails.
pub fn import_program(containerd: &Containerd, name: &str, program: &Path) -> anyhow::Result<()> {
    let root = containerd.at("program");
    fs::create_dir_all(root.join("bin"))?;
    let file_name = program.file_name().context("a program has a name")?;
    fs::copy(program, root.join("bin").join(file_name))?;
    let output = Command::new("ldd").arg(program).output().context("no ldd")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for library in libraries {
        let place = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().context("a library lies in a folder")?)?;
        fs::copy(library, place)?;
    }
    let command = format!("/bin/{}", file_name.to_string_lossy());
    let tar = layout(&containerd.at("program-layout"), name, &[&command], &tar(&root)?)?;
    containerd.ctr(&["images", "import", &tar.display().to_string()])?;
    wait_until("CRI knows the program's image", PATIENCE, || {
        let listed = containerd.ctr(&["images", "list"])?;
        Ok(listed.lines().any(|line| line.starts_with(name) && line.contains("=managed")))
    })
}

/// Builds an image with the commands of [`BOX_IMAGE`] and so many random bytes, and hands it to containerd as `name`.
///
/// # Errors
/// When any of it fails.
pub(super) fn import_unlike_others(
    containerd: &Containerd,
    name: &str,
    bytes: usize,
) -> anyhow::Result<()> {
    let root = containerd.at("unlike-others");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    let mut noise = vec![0; bytes];
    rand_core::OsRng.fill_bytes(&mut noise);
    fs::write(root.join("noise"), noise)?;
    let tar = layout(&containerd.at("unlike-others-layout"), name, &["/bin/sh"], &layer(&root)?)?;
    containerd.ctr(&["images", "import", &tar.display().to_string()]).map(drop)
}

/// The one layer of both.
fn layer(folder: &Path) -> anyhow::Result<Vec<u8>> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let busybox = busybox.context("no busybox: tests/install.sh installs busybox-static")?;
    let bin = folder.join("bin");
    for name in ["bin", "etc", "tmp", "www", "run"] {
        fs::create_dir_all(folder.join(name))?;
    }
    fs::write(folder.join("www/ok"), "ok")?;
    fs::copy(busybox, bin.join("busybox"))?;
    let listed = Command::new(busybox).arg("--list").output()?;
    for name in String::from_utf8_lossy(&listed.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", bin.join(name))?;
    }
    tar(folder)
}

fn tar(folder: &Path) -> anyhow::Result<Vec<u8>> {
    let mut command = Command::new("tar");
    let output =
        command.arg("--directory").arg(folder).args(["--create", "--file=-", "."]).output()?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

fn layout(folder: &Path, name: &str, command: &[&str], layer: &[u8]) -> anyhow::Result<PathBuf> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder.join("blobs/sha256"))?;
    let store = |media_type: &str, bytes: &[u8]| -> anyhow::Result<Value> {
        let digest: String =
            Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(folder.join("blobs/sha256").join(&digest), bytes)?;
        let digest = format!("sha256:{digest}");
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    };
    let layer = store("application/vnd.oci.image.layer.v1.tar", layer)?;
    let diff_ids = [layer.get("digest")];
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = store("application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config)?)?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config,
        "layers": [layer],
    });
    let mut manifest = store(media_type, &serde_json::to_vec(&manifest)?)?;
    if let Value::Object(fields) = &mut manifest {
        fields.insert("annotations".to_owned(), json!({ "io.containerd.image.name": name }));
    }
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(folder.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let archive = folder.with_extension("tar");
    fs::write(&archive, tar(folder)?)?;
    Ok(archive)
}
