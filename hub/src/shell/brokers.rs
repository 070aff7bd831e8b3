//! Starts the way to nodes: the embedded broker with a certificate of our CA, or a connection to an
//! external one with the hub's own.

use super::keys::{KeysError, write_public};
use crate::broker::{
    BrokerEvent, BrokerLink, EXTERNAL_CLIENT_ID, EmbeddedBroker, EmbeddedOptions, ExternalBroker,
    ExternalOptions, IsAllowed, StartError,
};
use crate::config::{BrokerUrl, Config};
use rustls::time_provider::DefaultTimeProvider;
use shared::io::keys::{KeyError, fresh_seed, write_secret};
use shared::io::mqtt::{MqttOptions, permitted};
use shared::io::tls::{TlsError, client_config};
use shared::model::UnixMs;
use shared::trust::certificate::{CertificateAuthority, CertificateError};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;

/// The hub's own certificates are made anew at each start. A hub that runs for longer than this
/// without one is no longer a case.
const CERTIFICATE_VALIDITY_DAYS: u32 = 10 * 365;

/// Events of the broker that wait for the loop: about two for each of 1000 nodes at once. A broker
/// refuses messages past it, and nodes repeat them.
pub(super) const EVENTS_MAX: usize = 2048;

/// Publishes that wait for an external broker's socket: one for each of a few thousand nodes.
const QUEUE_MESSAGES_MAX: usize = 4096;

/// The hub notices within about this time that an external broker is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why there is no way to nodes.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// No certificate for it.
    #[error("could not issue a certificate for {what}")]
    Certificate {
        /// For whom.
        what: String,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// The certificate could not be kept.
    #[error("could not keep the broker's certificate")]
    Keep(#[from] KeysError),
    /// Its key could not be kept.
    #[error("could not keep the broker's key")]
    KeepKey(#[from] KeyError),
    /// The embedded broker did not start.
    #[error("could not start the embedded broker")]
    Start(#[from] StartError),
    /// The external broker can't be connected to with these certificates.
    #[error("could not prepare TLS for the external broker")]
    Tls(#[from] TlsError),
}

/// What both kinds need.
pub(super) struct Way<'a> {
    pub(super) config: &'a Config,
    pub(super) authority: CertificateAuthority,
    /// Where nodes are told to connect: the embedded broker's certificate names it.
    pub(super) advertised: BrokerUrl,
    pub(super) now: UnixMs,
}

impl Way<'_> {
    /// Starts it.
    ///
    /// # Errors
    /// [`BrokerError`]. An external broker that can't be reached is none: it is tried for ever.
    pub(super) async fn start(
        self,
        is_allowed: IsAllowed,
        events: mpsc::Sender<BrokerEvent>,
    ) -> Result<BrokerLink, BrokerError> {
        match &self.config.broker {
            Some(url) => Ok(BrokerLink::External(self.connect(url, is_allowed, events)?)),
            None => Ok(BrokerLink::Embedded(self.embed(is_allowed, events).await?)),
        }
    }

    async fn embed(
        &self,
        is_allowed: IsAllowed,
        events: mpsc::Sender<BrokerEvent>,
    ) -> Result<EmbeddedBroker, BrokerError> {
        let places = self.config.places();
        let names = [self.advertised.host.clone()];
        let server = self.authority.issue_server(&names, self.now, CERTIFICATE_VALIDITY_DAYS);
        let server = server.map_err(refused(&self.advertised.host))?;
        write_secret(&places.broker_key, server.key_pem.as_bytes())?;
        write_public(&places.broker_certificate, &server.certificate_pem)?;
        let options = EmbeddedOptions {
            listen: self.config.listen,
            certificate_chain: places.broker_certificate,
            key: places.broker_key,
            client_ca: places.authority,
            is_allowed,
        };
        Ok(EmbeddedBroker::start(options, events).await?)
    }

    fn connect(
        &self,
        url: &BrokerUrl,
        is_allowed: IsAllowed,
        events: mpsc::Sender<BrokerEvent>,
    ) -> Result<ExternalBroker, BrokerError> {
        let client = self.authority.issue_hub_client(
            EXTERNAL_CLIENT_ID,
            self.now,
            CERTIFICATE_VALIDITY_DAYS,
        );
        let client = client.map_err(refused(EXTERNAL_CLIENT_ID))?;
        let tls = client_config(
            self.authority.certificate_pem(),
            &client.certificate_pem,
            &client.key_pem,
            Arc::new(DefaultTimeProvider),
        )?;
        let link = MqttOptions {
            client_id: EXTERNAL_CLIENT_ID.to_owned(),
            host: url.host.clone(),
            port: url.port,
            server_name: url.host.clone(),
            tls,
            keep_alive: KEEP_ALIVE,
            subscriptions: vec![],
            speaks_first: false,
            will: None,
            queue_messages_max: QUEUE_MESSAGES_MAX,
            permit: permitted(),
            seed: fresh_seed(),
        };
        let options = ExternalOptions { link, is_allowed };
        Ok(ExternalBroker::start(options, events))
    }
}

fn refused(what: &str) -> impl Fn(CertificateError) -> BrokerError + '_ {
    move |source| BrokerError::Certificate { what: what.to_owned(), source }
}
