//! The size of the agent's program.

use super::Figure;
use super::memory::mib;
use crate::real::binaries::{binary, binary_folder};
use anyhow::{Context, ensure};
use std::path::Path;
use std::process::{Command, Stdio};

/// Of the program beside this one.
pub(super) fn here() -> anyhow::Result<Vec<Figure>> {
    let how = "the program that stands beside this one, which `make agent` builds: profile `node`, stripped";
    figure("agent_binary_mib", &binary("edge-agent")?, how)
}

/// Of the program for aarch64, which is built here by a cross compiler. Takes as long as a release's build.
pub(super) fn aarch64() -> anyhow::Result<Vec<Figure>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("aarch64.sh");
    let folder = binary_folder()?;
    let target = folder.parent().context("the programs lie in no target folder")?;
    let mut command = Command::new(&script);
    let output = command.env("CARGO_TARGET_DIR", target).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("could not run {}", script.display()))?;
    ensure!(output.status.success(), "{}: {}, as said above", script.display(), output.status);
    let printed = String::from_utf8(output.stdout)?;
    let program = printed.lines().last().context("the script has said no path")?;
    let how = "profile `node`, stripped, cross-built by tests/aarch64.sh";
    figure("agent_binary_mib_aarch64", Path::new(program), how)
}

fn figure(name: &'static str, program: &Path, how: &str) -> anyhow::Result<Vec<Figure>> {
    let bytes = std::fs::metadata(program).with_context(|| program.display().to_string())?.len();
    Ok(vec![Figure::new(name, mib(bytes.div_ceil(1024)), "MiB", how)])
}
