//! Takes the model and its label tables out of the registry package `magika` into `OUT_DIR`.
//!
//! The package is a dependency that is never compiled (see Cargo.toml); `cargo metadata` says where
//! its sources lie, whether they come from a registry, a mirror or a vendored folder. Nothing is
//! taken whose SHA-256 is not the one written here: a new version of the package stops the build
//! until someone has looked at it and run the comparison with the reference implementation.

// A build script speaks to cargo on standard output.
#![allow(clippy::print_stdout)]

#[path = "build/label_table.rs"]
mod label_table;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use sha2::{Digest, Sha256};

type BuildResult<T> = Result<T, Box<dyn Error>>;

const PACKAGE: &str = "magika";

/// A file of the package and the SHA-256 of the version that this program was compared with.
struct PinnedFile {
    path: &'static str,
    sha256_hex: &'static str,
}

/// The network itself, `standard_v3_3` (the same bytes as in the PyPI package magika 1.0.3).
const MODEL: PinnedFile = PinnedFile {
    path: "src/model.onnx",
    sha256_hex: "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
};

/// Order of the outputs, thresholds and overwrites. Its constants of feature extraction are the ones
/// in src/features.rs: whoever changes this digest compares them.
const MODEL_TABLES: PinnedFile = PinnedFile {
    path: "src/model.rs",
    sha256_hex: "ac5a045a466645242be52241f79a985a4169303298d179907f0f11321733d747",
};

/// What each content type is called.
const CONTENT_TYPES: PinnedFile = PinnedFile {
    path: "src/content.rs",
    sha256_hex: "0f81df8964ff32f2c6a2522422d0a5f3e969c223f301795b052ca5b5da980ad4",
};

fn main() -> BuildResult<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/label_table.rs");
    let package_dir = locate_package()?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("model.onnx"), read_verified(&package_dir, &MODEL)?)?;
    let tables = String::from_utf8(read_verified(&package_dir, &MODEL_TABLES)?)?;
    let content_types = String::from_utf8(read_verified(&package_dir, &CONTENT_TYPES)?)?;
    fs::write(out_dir.join("labels.rs"), label_table::generate(&tables, &content_types)?)?;
    Ok(())
}

/// The folder of the package's sources. Looks first without the network, so that an offline build
/// works once the packages are here; `--locked` because cargo has settled Cargo.lock before it runs
/// a build script, and the model must be the one that it names.
fn locate_package() -> BuildResult<PathBuf> {
    match cargo_metadata(&["--offline"]).or_else(|_| cargo_metadata(&[])) {
        Ok(metadata) => package_dir(&metadata),
        Err(reason) => Err(format!(
            "could not locate the registry package `{PACKAGE}`, which carries the model: {reason}\n\
             Run `cargo fetch --locked` once with the registry in reach, then build again."
        )
        .into()),
    }
}

fn cargo_metadata(extra_args: &[&str]) -> BuildResult<serde_json::Value> {
    let manifest = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(manifest)
        .args(extra_args)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn package_dir(metadata: &serde_json::Value) -> BuildResult<PathBuf> {
    let manifest_path = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == PACKAGE)
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("`cargo metadata` does not list it")?;
    let package_dir = Path::new(manifest_path).parent().ok_or("its manifest has no folder")?;
    Ok(package_dir.to_owned())
}

fn read_verified(package_dir: &Path, file: &PinnedFile) -> BuildResult<Vec<u8>> {
    let path = package_dir.join(file.path);
    println!("cargo::rerun-if-changed={}", path.display());
    let bytes = fs::read(&path).map_err(|cause| format!("reading {}: {cause}", path.display()))?;
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found != file.sha256_hex {
        return Err(format!(
            "{} has SHA-256 {found}, expected {}: either the registry cache is damaged (delete that \
             folder and build again) or Cargo.lock names another version of `{PACKAGE}`, which must \
             be compared with the reference implementation before its digest is changed here",
            path.display(),
            file.sha256_hex
        )
        .into());
    }
    Ok(bytes)
}
