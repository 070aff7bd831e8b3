//! Starts a real mosquitto with the configuration that `deploy/broker` ships, on a free port of
//! loopback, in a temporary folder. Stopped on drop; its log stands in the folder and is printed by
//! a failing start.

use super::process::free_port;
use anyhow::{Context, Result, bail};
use shared::trust::certificate::CertificateAuthority;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is shipped.
const CONFIGURATION: &str = include_str!("../../../deploy/broker/mosquitto.conf");
const ACL: &str = include_str!("../../../deploy/broker/acl");

/// mosquitto needs some 20 ms; a busy machine more.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A certificate of a broker in a test.
const VALIDITY_DAYS: u32 = 3650;

/// The files of the listener's TLS, PEM.
#[derive(Debug, Clone)]
pub struct ListenerFiles {
    /// The CA of the clients.
    pub ca: PathBuf,
    /// The listener's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl ListenerFiles {
    /// A certificate for loopback, in `place`, by the authority of the clients.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn signed_by(authority: &CertificateAuthority, place: &Path) -> Result<Self> {
        fs::create_dir_all(place)?;
        let now = shared::io::clock::SystemClock::new().now().wall;
        let server = authority.issue_server(&["127.0.0.1".to_owned()], now, VALIDITY_DAYS)?;
        let at = |name: &str| place.join(name);
        let files = Self { ca: at("ca.pem"), certificate: at("server.pem"), key: at("server.key") };
        fs::write(&files.ca, authority.certificate_pem())?;
        fs::write(&files.certificate, server.certificate_pem)?;
        fs::write(&files.key, server.key_pem)?;
        Ok(files)
    }
}

/// A running mosquitto.
#[derive(Debug)]
pub struct Mosquitto {
    process: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Mosquitto {
    /// Starts one in `folder` and waits until it listens.
    ///
    /// # Errors
    /// When mosquitto is not installed (`tests/install.sh` does that) or does not start.
    pub fn start(folder: &Path, files: &ListenerFiles) -> Result<Self> {
        Self::start_with_acl(folder, files, ACL)
    }

    /// Starts one with other rules than those that are shipped.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with_acl(folder: &Path, files: &ListenerFiles, acl: &str) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        fs::write(folder.join("acl"), acl)?;
        // mosquitto warns about an ACL that others may read.
        let configuration = configuration(folder, files, address.port())?;
        fs::write(folder.join("mosquitto.conf"), configuration)?;
        let process = spawn(folder)?;
        let mut mosquitto = Self { process, address, folder: folder.to_owned() };
        mosquitto.wait_until_it_listens()?;
        Ok(mosquitto)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it and starts it anew on the same port.
    ///
    /// # Errors
    /// When it does not start again.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.process = spawn(&self.folder)?;
        self.wait_until_it_listens()
    }

    fn kill(&mut self) {
        let _already_dead = self.process.kill();
        let _reaped = self.process.wait();
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended = self.process.try_wait()?;
            if ended.is_some() || started.elapsed() > START_TIMEOUT {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!("mosquitto did not start ({ended:?}); its log:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path) -> Result<Child> {
    let log = File::create(folder.join("log"))?;
    // Debian has it in /usr/sbin, which is not in everybody's PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new("mosquitto")
        .env("PATH", path)
        .arg("-c")
        .arg(folder.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("could not start mosquitto; tests/install.sh installs it")
}

/// The shipped file with the port and the paths of this run.
fn configuration(folder: &Path, files: &ListenerFiles, port: u16) -> Result<String> {
    let path = |path: &Path| path.display().to_string();
    let replaced = [
        ("listener", format!("{port} 127.0.0.1")),
        ("cafile", path(&files.ca)),
        ("certfile", path(&files.certificate)),
        ("keyfile", path(&files.key)),
        ("acl_file", path(&folder.join("acl"))),
    ];
    let mut lines: Vec<String> = CONFIGURATION.lines().map(str::to_owned).collect();
    for (setting, value) in replaced {
        let line = lines.iter_mut().find(|line| line.split(' ').next() == Some(setting));
        let line = line.with_context(|| format!("mosquitto.conf does not set `{setting}`"))?;
        *line = format!("{setting} {value}");
    }
    if rustix::process::geteuid().is_root() {
        // It would become a user that can't read the temporary folder.
        lines.push("user root".to_owned());
    }
    Ok(lines.join("\n"))
}
