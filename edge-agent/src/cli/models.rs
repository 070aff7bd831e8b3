//! Commands about the models on this node. They work on the folder alone: a running agent sees what changes.

use super::query::print;
use crate::config::Config;
use crate::models::ModelFolder;
use shared::model::ModelDigest;
use std::path::Path;

fn folder(config: &Config) -> ModelFolder {
    ModelFolder::new(config.places().models)
}

pub(super) fn import(
    config: &Config,
    file: &Path,
    expected: Option<ModelDigest>,
) -> anyhow::Result<()> {
    let (digest, bytes) = folder(config).import(file, expected)?;
    print(format!("{digest} {bytes}\n").as_bytes())
}

pub(super) fn list(config: &Config) -> anyhow::Result<()> {
    let models = folder(config).list()?;
    let lines = models.iter().map(|(digest, file)| format!("{digest} {}\n", file.bytes));
    print(lines.collect::<String>().as_bytes())
}

pub(super) fn remove(config: &Config, digest: ModelDigest) -> anyhow::Result<()> {
    Ok(folder(config).remove(digest)?)
}
