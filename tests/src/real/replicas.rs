//! Hubs that take turns: two processes with the same keys, a mosquitto, and a Kubernetes API server with their
//! Lease.

use super::hub::Hub;
use super::kubernetes::Cluster;
use super::mosquitto::{ListenerFiles, Mosquitto};
use super::process::wait_until;
use anyhow::{Context, ensure};
use shared::trust::certificate::CertificateAuthority;
use std::fs;
use std::path::Path;
use std::time::Duration;

const RBAC: [&str; 2] = [
    include_str!("../../../deploy/rbac/hub.yaml"),
    include_str!("../../../deploy/rbac/hub-replicated.yaml"),
];

const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Replicas {
    /// With the definitions and the rights of the hubs' service account, and no others.
    pub cluster: Cluster,
    /// All nodes and hubs are at it.
    pub broker: Mosquitto,
    /// None of them runs at first.
    pub hubs: [Hub; 2],
}

impl Replicas {
    /// Everything in `folder`; `cluster` has the definitions.
    ///
    /// # Errors
    /// When any of it does not start.
    pub fn start(folder: &Path, cluster: Cluster) -> anyhow::Result<Self> {
        cluster.kubectl(&["create", "namespace", "hinterland"])?;
        RBAC.iter().try_for_each(|rules| cluster.apply(rules).map(drop))?;
        let keys = folder.join("keys");
        let authority = make_keys(folder, &keys)?;
        let place = folder.join("broker");
        let broker = Mosquitto::start(&place, &ListenerFiles::signed_by(&authority, &place)?)?;
        let kubeconfig = cluster.kubeconfig("hub");
        let tables = format!(
            "keys_dir = \"{}\"\n[kubernetes]\nkubeconfig = \"{}\"\nreplicated = true\n",
            keys.display(),
            kubeconfig.display()
        );
        let hub = |name: &str| -> anyhow::Result<Hub> {
            let mut hub = Hub::new(&folder.join(name))?;
            hub.use_broker(broker.address())?;
            hub.configure(&tables)?;
            Ok(hub)
        };
        let hubs = [hub("hub-a")?, hub("hub-b")?];
        Ok(Self { cluster, broker, hubs })
    }

    /// Waits until this hub leads: only then does it answer questions.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_until_leading(&mut self, which: usize) -> anyhow::Result<()> {
        let hub = self.hubs.get_mut(which).context("there are two hubs")?;
        hub.wait_for_status("/v1/hub", 200)
    }

    /// When the Lease was renewed last, as it says itself.
    ///
    /// # Errors
    /// When there is none.
    pub fn renewed(&self) -> anyhow::Result<String> {
        let lease = self.cluster.get(&["lease", "hinterland-hub", "-n", "hinterland"])?;
        let renewed = lease.pointer("/spec/renewTime").and_then(serde_json::Value::as_str);
        Ok(renewed.context("it was never renewed")?.to_owned())
    }

    /// Waits for the next renewal.
    ///
    /// # Errors
    /// When there is none.
    pub fn wait_for_renewal(&self) -> anyhow::Result<()> {
        let before = self.renewed()?;
        wait_until("the Lease is renewed", PATIENCE, || Ok(self.renewed()? != before))
    }
}

/// The keys of a fleet, as a mounted Secret has them.
fn make_keys(folder: &Path, keys: &Path) -> anyhow::Result<CertificateAuthority> {
    let maker = Hub::new(&folder.join("maker"))?;
    let made = maker.command(&["ca", "init"])?.output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::create_dir_all(keys)?;
    for name in ["ca.pem", "keys/ca.key", "keys/signing.key", "keys/session.key"] {
        let from = maker.state().join(name);
        let file = from.file_name().context("a file has a name")?;
        fs::copy(&from, keys.join(file)).with_context(|| name.to_owned())?;
    }
    let read = |name: &str| fs::read_to_string(keys.join(name));
    Ok(CertificateAuthority::from_pem(&read("ca.pem")?, &read("ca.key")?)?)
}
