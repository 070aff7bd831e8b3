//! Commands that ask the running hub.

use super::client::Client;
use super::{Output, print, table};
use anyhow::{Context, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::model::{NodeId, PodId, UnixMs};
use shared::trust::certificate::REQUEST_BYTES_MAX;
use shared::trust::enrollment::Enrollment;
use std::path::Path;

pub(super) fn status(client: &Client, output: Output) -> anyhow::Result<()> {
    let now = wall_clock();
    show(client, "/v1/hub", output, |status| table::status(status, now))
}

pub(super) fn nodes(client: &Client, output: Output) -> anyhow::Result<()> {
    let now = wall_clock();
    show(client, "/v1/nodes", output, |nodes: &Vec<_>| table::nodes(nodes, now))
}

pub(super) fn workloads(client: &Client, output: Output) -> anyhow::Result<()> {
    show(client, "/v1/workloads", output, |workloads: &Vec<_>| table::workloads(workloads))
}

pub(super) fn describe(client: &Client, what: &str, output: Output) -> anyhow::Result<()> {
    if what.contains('/') {
        let workload: shared::model::WorkloadKey = what.parse()?;
        return show(client, &format!("/v1/workloads/{workload}"), output, table::workload);
    }
    let (node, now): (NodeId, _) = (what.parse()?, wall_clock());
    show(client, &format!("/v1/nodes/{node}"), output, |view| table::node(view, now))
}

pub(super) fn why(
    client: &Client,
    node: &NodeId,
    pod: &PodId,
    output: Output,
) -> anyhow::Result<()> {
    show(client, &format!("/v1/why/{node}/{pod}"), output, table::pod)
}

pub(super) fn sign(client: &Client, request: &Path, output: Option<&Path>) -> anyhow::Result<()> {
    let name = request.display();
    let size = std::fs::metadata(request).with_context(|| format!("could not read {name}"))?.len();
    if usize::try_from(size).is_ok_and(|size| size > REQUEST_BYTES_MAX) {
        bail!("{name} has {size} bytes: expected a request of at most {REQUEST_BYTES_MAX}");
    }
    let text = std::fs::read(request).with_context(|| format!("could not read {name}"))?;
    let answer = client.post("/v1/nodes/sign", text)?;
    let text = std::str::from_utf8(&answer).context("the hub answered something else")?;
    let enrollment = Enrollment::parse(text).context("the hub answered something else")?;
    let Some(output) = output else { return print(&answer) };
    std::fs::write(output, &answer)
        .with_context(|| format!("could not write {}", output.display()))?;
    let (node, output) = (enrollment.node, output.display());
    print(format!("Signed `{node}`. On the node: edge-agent enroll --accept {output}\n").as_bytes())
}

pub(super) fn revoke(client: &Client, node: &NodeId) -> anyhow::Result<()> {
    client.post(&format!("/v1/nodes/{node}/revoke"), Vec::new())?;
    print(
        format!("Revoked `{node}`: it is out. What it runs goes on there without the hub.\n")
            .as_bytes(),
    )
}

pub(super) fn confirm_regression(client: &Client) -> anyhow::Result<()> {
    client.post("/v1/hub/confirm-regression", Vec::new())?;
    print(b"Confirmed: what the API server has now is taken over.\n")
}

/// Prints what lies under `path`, as it came or as a table.
fn show<T: DeserializeOwned + Serialize>(
    client: &Client,
    path: &str,
    output: Output,
    table: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    match output {
        Output::Json => {
            let value: serde_json::Value = client.fetch_as(path)?;
            print((serde_json::to_string_pretty(&value)? + "\n").as_bytes())
        }
        Output::Table => print(table(&client.fetch_as(path)?).as_bytes()),
    }
}

pub(super) fn wall_clock() -> UnixMs {
    shared::io::clock::SystemClock::new().now().wall
}
