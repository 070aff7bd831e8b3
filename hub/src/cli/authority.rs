//! The certificate authority on the command line.

use super::print;
use crate::config::Config;
use crate::shell::keys;
use anyhow::Context;
use shared::io::clock::SystemClock;
use shared::io::keys::write_secret;
use std::path::Path;

/// A broker's certificate holds as long as a node's: nobody goes there to renew it.
const SERVER_VALIDITY_DAYS: u32 = 10 * 365;

pub(super) fn init(config: &Config, name: &str) -> anyhow::Result<()> {
    let places = config.places();
    keys::create(&places, name, SystemClock::new().now().wall)?;
    let text = format!(
        "Made the certificate authority `{name}` and the hub's keys in {}.\n\
         Keep a backup of that folder: without it every node must enrol anew.\n",
        places.state_dir.display()
    );
    print(text.as_bytes())
}

pub(super) fn issue_server(config: &Config, names: &[String], output: &Path) -> anyhow::Result<()> {
    let authority = keys::open_authority(&config.places())?;
    let now = SystemClock::new().now().wall;
    let server = authority
        .issue_server(names, now, SERVER_VALIDITY_DAYS)
        .context("could not issue a certificate for the broker")?;
    std::fs::create_dir_all(output)
        .with_context(|| format!("could not make the folder {}", output.display()))?;
    write_secret(&output.join("server.key"), server.key_pem.as_bytes())?;
    keys::write_public(&output.join("server.pem"), &server.certificate_pem)?;
    keys::write_public(&output.join("ca.pem"), authority.certificate_pem())?;
    let folder = output.display();
    print(format!("Wrote server.pem, server.key and ca.pem into {folder}.\n").as_bytes())
}
