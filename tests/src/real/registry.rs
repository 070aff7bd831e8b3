//! A registry of images on loopback, that anybody or only one user may pull from. Its images lie in a folder of the
//! test's own; stopped on drop.

use super::containerd::Containerd;
use super::oci::import_unlike_others;
use super::process::{Process, free_port, wait_until};
use anyhow::Context;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// Nothing here takes this long on a machine that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// The user that a closed registry lets in, and the password.
pub const USER: (&str, &str) = ("site", "wavelength");

/// The line of both for its file: bcrypt, as `htpasswd -nbB` makes it.
const USER_LINE: &str = "site:$2y$05$5VtKRMPuffOq8qrRGqKKnO/ubgrdliu2mi7fuZ4PqjhcswrT0iwNW\n";

/// A registry.
#[derive(Debug)]
pub struct Registry {
    folder: tempfile::TempDir,
    port: u16,
    is_closed: bool,
    process: Option<Process>,
}

impl Registry {
    /// Starts one. `is_closed` asks for [`USER`].
    ///
    /// # Errors
    /// When it is not installed (`tests/install.sh` does), or does not start.
    pub fn start(is_closed: bool) -> anyhow::Result<Self> {
        let (folder, port) = (tempfile::tempdir()?, free_port()?);
        let mut registry = Self { folder, port, is_closed, process: None };
        registry.resume()?;
        Ok(registry)
    }

    /// Starts it (again) with the images that it has.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let at = |name: &str| self.folder.path().join(name);
        let (images, users) = (at("images").display().to_string(), at("users"));
        fs::write(&users, USER_LINE)?;
        let port = self.port;
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", users.display());
        let auth = if self.is_closed { auth.as_str() } else { "" };
        let text = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {images}\n\
             http:\n  addr: 127.0.0.1:{port}\n{auth}"
        );
        fs::write(at("config.yml"), text)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(at("config.yml"));
        let process = Process::start(&mut command, &at("log"));
        self.process = Some(process.context("tests/install.sh installs docker-registry")?);
        wait_until("the registry answers", PATIENCE, || {
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
        })
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// What an image of it is called, as in `127.0.0.1:5000/site/ocr:1`.
    #[must_use]
    pub fn name_of(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Has it keep [`Containerd::image`] as `image` too; returns what it is called.
    ///
    /// # Errors
    /// When it does not take it.
    pub fn keep(&self, containerd: &Containerd, image: &str) -> anyhow::Result<String> {
        self.push(containerd, image, Containerd::image())
    }

    /// Has it keep an image with so many bytes that containerd has not, as `image`; returns what it is called.
    ///
    /// # Errors
    /// When it does not take it.
    pub fn keep_unlike_others(
        &self,
        containerd: &Containerd,
        image: &str,
        bytes: usize,
    ) -> anyhow::Result<String> {
        let names = || -> anyhow::Result<Vec<String>> {
            let listed = containerd.ctr(&["images", "list", "--quiet"])?;
            Ok(listed.lines().map(str::to_owned).collect())
        };
        let before = names()?;
        let local = format!("docker.io/hinterland/{image}");
        import_unlike_others(containerd, &local, bytes)?;
        let name = self.push(containerd, image, &local)?;
        // CRI gives it a name of its own, a moment later.
        wait_until("CRI knows it", PATIENCE, || Ok(names()?.len() >= before.len() + 2))?;
        for one in names()?.iter().filter(|one| !before.contains(one)) {
            containerd.ctr(&["images", "remove", "--sync", one])?;
        }
        Ok(name)
    }

    fn push(&self, containerd: &Containerd, image: &str, local: &str) -> anyhow::Result<String> {
        let name = self.name_of(image);
        let user = format!("{}:{}", USER.0, USER.1);
        let mut order = vec!["images", "push", "--plain-http"];
        if self.is_closed {
            order.extend(["--user", &user]);
        }
        order.extend([name.as_str(), local]);
        containerd.ctr(&order)?;
        Ok(name)
    }
}
