//! A real Kubernetes API server on a real etcd, and `kubectl` and Helm against it: `tests/kubernetes` builds
//! all of them into one program.
//!
//! Does not run controllers or nodes: what the hub writes is what the API server has.

use super::hub::Hub;
use super::kubernetes_proxy::KubernetesProxy;
use super::process::{Process, free_port, wait_until};
use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// It starts in four seconds; on a machine that is busy with others of its kind it needs longer.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// The definitions are taken and published a few seconds after the server is ready.
const DEFINITIONS_TIMEOUT: Duration = Duration::from_secs(60);

/// The kinds that the hub defines.
const KINDS: [&str; 3] = ["inferenceworkloads", "edgenodes", "edgeclusters"];

/// What the hub may do.
const RBAC: &str = include_str!("../../../deploy/rbac/hub.yaml");

/// Whoever may do everything.
pub const ADMIN: &str = "admin";

/// Users by their token, which is their name: name, uid and groups.
const USERS: &str = "admin,admin,1,system:masters\nhub,system:serviceaccount:hinterland:hub,2,\"system:serviceaccounts,system:authenticated\"\n";

/// An API server with a folder of its own.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    program: PathBuf,
    port: u16,
    store_port: u16,
    store: Process,
    server: Option<Process>,
}

impl Cluster {
    /// One that keeps everything in `folder`, ready to answer.
    ///
    /// # Errors
    /// When it is not built (`tests/install.sh` does that) or does not start.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let (program, store_port) = (program()?, free_port()?);
        let key = rcgen::KeyPair::generate()?;
        fs::write(folder.join("service-accounts.key"), key.serialize_pem())?;
        fs::write(folder.join("service-accounts.pub"), key.public_key_pem())?;
        fs::write(folder.join("tokens.csv"), USERS)?;
        let store = start_store(&program, folder, store_port)?;
        let folder = folder.to_owned();
        let port = free_port()?;
        let mut cluster = Self { folder, program, port, store_port, store, server: None };
        cluster.start_server()?;
        for user in [ADMIN, "hub"] {
            fs::write(cluster.kubeconfig(user), cluster.kubeconfig_of(user)?)?;
        }
        Ok(cluster)
    }

    /// As [`Self::start`], with the hub's definitions installed.
    ///
    /// # Errors
    /// When it does not start or does not take them.
    pub fn with_definitions(folder: &Path) -> anyhow::Result<Self> {
        let cluster = Self::start(folder)?;
        let definitions = hub::api::crds_yaml()?;
        // A server that has just become ready may not know all of its own kinds yet.
        wait_until("the definitions are taken", DEFINITIONS_TIMEOUT, || {
            cluster.apply(&definitions).map(|_| true)
        })?;
        for kind in KINDS {
            let name = format!("crd/{kind}.hinterland.dev");
            // It complains of a definition of which nothing is said yet.
            wait_until("the definitions are established", DEFINITIONS_TIMEOUT, || {
                let words = ["wait", "--for=condition=Established", "--timeout=60s", &name];
                cluster.kubectl(&words).map(|_| true)
            })?;
        }
        // What `kubectl explain` and server-side apply read is published later than that.
        for kind in KINDS {
            wait_until("the definitions are published", DEFINITIONS_TIMEOUT, || {
                cluster.kubectl(&["explain", kind]).map(|_| true)
            })?;
        }
        Ok(cluster)
    }

    /// Plain HTTP to it, as [`ADMIN`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn proxy(&self) -> anyhow::Result<KubernetesProxy> {
        self.proxy_as(ADMIN)
    }

    /// Plain HTTP to it, as this user.
    ///
    /// # Errors
    /// When it does not start.
    pub fn proxy_as(&self, user: &str) -> anyhow::Result<KubernetesProxy> {
        let log = self.folder.join("proxy.log");
        KubernetesProxy::start(&self.program, &self.kubeconfig(user), &log)
    }

    /// Gives the user `hub` the rights of the hub's role, and lets `hub` use them from its next start on.
    ///
    /// # Errors
    /// When the server refuses, or the hub's folder can't be written.
    pub fn let_in(&self, hub: &Hub) -> anyhow::Result<()> {
        self.kubectl(&["create", "namespace", "hinterland"])?;
        self.apply(RBAC)?;
        let kubeconfig = self.kubeconfig("hub");
        hub.configure(&format!("[kubernetes]\nkubeconfig = \"{}\"\n", kubeconfig.display()))
    }

    /// Starts the server, which does not run, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_server(&mut self) -> anyhow::Result<()> {
        let at = |file: &str| self.folder.join(file).display().to_string();
        let mut command = Command::new(&self.program);
        command.arg("apiserver").args([
            format!("--etcd-servers=http://127.0.0.1:{}", self.store_port),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={}", at("certificates")),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", at("service-accounts.pub")),
            format!("--service-account-signing-key-file={}", at("service-accounts.key")),
            "--enable-priority-and-fairness=false".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            // No controller makes the service account that this would ask for.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ]);
        self.server = Some(Process::start(&mut command, &self.folder.join("apiserver.log"))?);
        wait_until("the API server is ready", START_TIMEOUT, || {
            Ok(self.ended().is_some() || self.is_ready()?)
        })?;
        self.ended().map_or(Ok(()), |log| bail!("it has ended: {log}"))
    }

    /// What was said last by a part that has ended.
    fn ended(&mut self) -> Option<String> {
        let parts = [Some(&mut self.store), self.server.as_mut()];
        let mut ended =
            parts.into_iter().flatten().filter_map(|part| (!part.runs()).then(|| part.log()));
        ended.next()
    }

    fn is_ready(&self) -> anyhow::Result<bool> {
        if !self.folder.join("certificates/apiserver.crt").exists() {
            return Ok(false);
        }
        fs::write(self.kubeconfig(ADMIN), self.kubeconfig_of(ADMIN)?)?;
        Ok(self.kubectl(&["get", "--raw", "/readyz"])?.trim() == "ok")
    }

    /// Kills the server with signal 9; what it stored stays.
    pub fn kill_server(&mut self) {
        self.server = None;
    }

    /// Copies all that is stored to `backup`, with everything stopped meanwhile.
    ///
    /// # Errors
    /// When it can't be copied or started again.
    pub fn back_up(&mut self, backup: &Path) -> anyhow::Result<()> {
        self.while_stopped(|stored| copy_folder(stored, backup))
    }

    /// Puts everything back to `backup`.
    ///
    /// # Errors
    /// When it can't be copied or started again.
    pub fn put_back(&mut self, backup: &Path) -> anyhow::Result<()> {
        self.while_stopped(|stored| {
            fs::remove_dir_all(stored)?;
            copy_folder(backup, stored)
        })
    }

    fn while_stopped(
        &mut self,
        act: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.kill_server();
        self.store.kill();
        act(&self.folder.join("etcd"))?;
        self.store = start_store(&self.program, &self.folder, self.store_port)?;
        self.start_server()
    }

    /// Where the kubeconfig of a user lies: [`ADMIN`], or `hub`, who may do what RBAC gives the hub's
    /// service account.
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.kubeconfig"))
    }

    fn kubeconfig_of(&self, user: &str) -> anyhow::Result<String> {
        let authority = fs::read(self.folder.join("certificates/apiserver.crt"))?;
        let authority = BASE64_STANDARD.encode(authority);
        let namespace = if user == ADMIN { "default" } else { "hinterland" };
        Ok(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster:\n    \
             server: https://127.0.0.1:{}\n    certificate-authority-data: {authority}\nusers:\n- name: test\n  \
             user:\n    token: {user}\ncontexts:\n- name: test\n  context:\n    cluster: test\n    user: test\n    \
             namespace: {namespace}\n",
            self.port,
        ))
    }

    /// What `kubectl` prints, as [`ADMIN`].
    ///
    /// # Errors
    /// What it complains of.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl_with(arguments, "")
    }

    /// What `kubectl` prints with `input` on its standard input, as [`ADMIN`].
    ///
    /// # Errors
    /// What it complains of.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        self.run("kubectl", arguments, input)
    }

    /// What `helm` prints, as [`ADMIN`].
    ///
    /// # Errors
    /// What it complains of.
    pub fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run("helm", arguments, "")
    }

    fn run(&self, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut child = Command::new(&self.program)
            .arg(program)
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig(ADMIN))
            // Its cache of what the server has: of this server alone.
            .env("HOME", &self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {complaint}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Applies `manifest` by server-side apply.
    ///
    /// # Errors
    /// Why the server refuses it.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        self.kubectl_with(&["apply", "--server-side", "-f", "-"], manifest)
    }

    /// Objects, as JSON.
    ///
    /// # Errors
    /// When there are none of that name.
    pub fn get(&self, what: &[&str]) -> anyhow::Result<Value> {
        let arguments = [&["get", "-o", "json"], what].concat();
        Ok(serde_json::from_str(&self.kubectl(&arguments)?)?)
    }
}

fn start_store(program: &Path, folder: &Path, port: u16) -> anyhow::Result<Process> {
    let mut command = Command::new(program);
    command.arg("etcd").arg(folder.join("etcd")).arg(format!("http://127.0.0.1:{port}"));
    Process::start(&mut command, &folder.join("etcd.log"))
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// The program that `tests/kubernetes/build.sh` builds.
fn program() -> anyhow::Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes/build.sh");
    let output = Command::new(script).arg("print").output()?;
    let path = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    ensure!(path.exists(), "{} is not built: run tests/install.sh", path.display());
    Ok(path)
}
