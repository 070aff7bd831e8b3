//! Enrolment: the node makes its own keys, asks the hub to sign, and takes the answer.
//!
//! Private keys never leave the node. Both documents are text files that may travel by any road.

use super::query::print;
use crate::config::{Config, Places};
use anyhow::{Context, bail};
use shared::io::keys::{create_store_key, fresh_seed, read_secret, write_secret};
use shared::model::NodeId;
use shared::trust::certificate::NodeKey;
use shared::trust::enrollment::Enrollment;
use shared::trust::session::SessionPrivateKey;
use std::path::Path;

/// An answer of the hub: certificates and keys as text.
const ENROLLMENT_BYTES_MAX: u64 = 64 * 1024;

/// Makes keys where there are none, and writes the request.
pub(super) fn request(config: &Config, node: &NodeId, output: Option<&Path>) -> anyhow::Result<()> {
    let places = config.places();
    if places.enrollment.exists() {
        bail!(
            "this node is enrolled already: to enrol anew, move {} away first",
            places.enrollment.display()
        );
    }
    let key = node_key(&places)?;
    let session_key = session_key(&places)?;
    if !places.store_key.exists() {
        create_store_key(&places.store_key).context("could not make the key of the store")?;
    }
    let request = key.request(node, &session_key.public()).context("could not make a request")?;
    std::fs::write(&places.request, &request)
        .with_context(|| format!("could not write {}", places.request.display()))?;
    match output {
        None => print(request.as_bytes()),
        Some(path) => {
            std::fs::write(path, &request)
                .with_context(|| format!("could not write {}", path.display()))?;
            print(b"Have the hub sign it: hub node sign REQUEST > ANSWER. Then: edge-agent enroll --accept ANSWER\n")
        }
    }
}

fn node_key(places: &Places) -> anyhow::Result<NodeKey> {
    if places.tls_key.exists() {
        let pem = read_secret(&places.tls_key).context("could not read the node's key")?;
        let pem = String::from_utf8(pem.to_vec()).context("the node's key is not text")?;
        return NodeKey::from_pem(&pem).context("the node's key is damaged");
    }
    let key = NodeKey::generate().context("could not make the node's key")?;
    write_secret(&places.tls_key, key.to_pem().as_bytes())
        .context("could not write the node's key")?;
    Ok(key)
}

fn session_key(places: &Places) -> anyhow::Result<SessionPrivateKey> {
    if places.session_key.exists() {
        return Ok(crate::shell::read_session_key(places)?);
    }
    let key = SessionPrivateKey::generate(fresh_seed());
    write_secret(&places.session_key, key.to_bytes()).context("could not write the session key")?;
    Ok(key)
}

/// Takes the hub's answer, if it is for this node and its keys.
pub(super) fn accept(config: &Config, answer: &Path) -> anyhow::Result<()> {
    let places = config.places();
    let size = std::fs::metadata(answer)
        .with_context(|| format!("could not read {}", answer.display()))?
        .len();
    if size > ENROLLMENT_BYTES_MAX {
        bail!("{} has {size} bytes: expected at most {ENROLLMENT_BYTES_MAX}", answer.display());
    }
    let text = std::fs::read_to_string(answer)
        .with_context(|| format!("could not read {}", answer.display()))?;
    let enrollment = Enrollment::parse(&text)
        .with_context(|| format!("{} is not an answer of a hub", answer.display()))?;
    let key = node_key(&places)?;
    if !key.belongs_to(&enrollment.certificate_pem)? {
        bail!("the answer is for another node's key: sign the request that was made here");
    }
    write_secret(&places.enrollment, enrollment.to_text().as_bytes())
        .context("could not keep the answer")?;
    print(format!("Enrolled as {}. Start it: edge-agent run\n", enrollment.node).as_bytes())
}
