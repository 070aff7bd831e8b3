//! A node's request in, its enrolment out.
//!
//! Serial numbers never repeat: the counter is durable before a certificate leaves, and it is never
//! below the present time in milliseconds, so that it also rises over a store that was lost.
//!
//! It refuses a name that another key holds: who has lost a node revokes it first.

use crate::config::BrokerUrl;
use crate::core::{HubKeys, NodeRecord};
use shared::io::keys::KeyError;
use shared::model::{NodeId, UnixMs};
use shared::ports::{Store, StoreError, Tree, WriteBatch};
use shared::trust::certificate::{
    CertificateAuthority, CertificateError, IssuedCertificate, NODE_VALIDITY_DAYS,
};
use shared::trust::enrollment::{ENROLLMENT_VERSION, Enrollment, EnrollmentError};
use shared::trust::session::SessionPublicKey;
use shared::trust::signature::VerifyingKey;
use shared::wire::{EncodeError, decode, encode};
use thiserror::Error;
use tracing::warn;

/// Under this key of [`Tree::Meta`] lies the greatest serial number that was given.
const SERIAL_KEY: &[u8] = b"certificate_serial";

/// A number in CBOR.
const SERIAL_BYTES_MAX: usize = 16;

/// Why a request was not signed.
#[derive(Debug, Error)]
pub enum SignError {
    /// Not a request, or not one that a node may make.
    #[error("the request was not signed")]
    Request(#[source] CertificateError),
    /// Another key holds the name.
    #[error(
        "`{node}` is enrolled with another key: if that node is lost or replaced, revoke it first \
         (hub node revoke {node})"
    )]
    Held {
        /// The name.
        node: NodeId,
    },
    /// What is said of the node does not allow it.
    #[error("`{node}` was not enrolled: {why}")]
    KeptOut {
        /// The name.
        node: NodeId,
        /// In words.
        why: &'static str,
    },
    /// The answer would not be accepted by the node.
    #[error("could not make an enrolment that the node would accept")]
    Enrollment(#[source] EnrollmentError),
    /// The serial number could not be written.
    #[error("could not encode a serial number")]
    Encode(#[source] EncodeError),
    /// The serial number or the node's record is not durable.
    #[error("the request was not signed, since the store can't be written")]
    Store(#[source] StoreError),
    /// The enrolment could not be noted beside the store.
    #[error("the request was not signed, since the enrolment can't be written")]
    Registry(#[source] KeyError),
    /// The other hubs would not know the node.
    #[error(
        "the request was not signed, since the enrolment can't be shared with the other hubs: {0}"
    )]
    Shared(String),
    /// As [`Self::Store`], for what the core wrote; in its words.
    #[error("the request was not signed, since the store can't be written: {0}")]
    NotDurable(String),
}

/// Signs requests.
pub(super) struct Signer {
    authority: CertificateAuthority,
    session_key: SessionPublicKey,
    signing_key: VerifyingKey,
    broker: BrokerUrl,
    last_serial: u64,
}

impl Signer {
    /// A signer that goes on with the serial numbers of `store`.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(super) fn new(
        authority: CertificateAuthority,
        keys: &HubKeys,
        broker: BrokerUrl,
        store: &dyn Store,
    ) -> Result<Self, StoreError> {
        let stored = store.read(Tree::Meta, SERIAL_KEY)?;
        let last_serial = stored.map(|bytes| decode("serial number", &bytes, SERIAL_BYTES_MAX));
        let last_serial = last_serial.transpose().unwrap_or_else(|error| {
            warn!(error = %error, "the last serial number is unreadable: going on by the time");
            None
        });
        let (session_key, signing_key) = (keys.session.public(), keys.signing.verifying());
        let last_serial = last_serial.unwrap_or(0);
        Ok(Self { authority, session_key, signing_key, broker, last_serial })
    }

    /// Other hubs have given numbers up to this one.
    pub(super) fn begin_above(&mut self, serial: u64) {
        self.last_serial = self.last_serial.max(serial);
    }

    /// Signs `request`. `known` is what the hub knows of a node, `kept_out` why one with a key may not be
    /// enrolled. The caller hands the record to the
    /// core, and the enrolment out only when that is durable.
    ///
    /// # Errors
    /// [`SignError`]; no certificate exists then.
    pub(super) fn sign(
        &mut self,
        request: &str,
        known: impl Fn(&NodeId) -> Option<NodeRecord>,
        kept_out: impl Fn(&NodeId, &SessionPublicKey) -> Option<&'static str>,
        store: &mut dyn Store,
        now: UnixMs,
    ) -> Result<(Enrollment, NodeRecord), SignError> {
        let serial = now.0.max(self.last_serial.saturating_add(1));
        let issued = self.authority.sign_request(request, now, NODE_VALIDITY_DAYS, serial);
        let issued = issued.map_err(SignError::Request)?;
        let held = known(&issued.node)
            .is_some_and(|record| !record.revoked && record.session_key != issued.session_key);
        if held {
            return Err(SignError::Held { node: issued.node });
        }
        if let Some(why) = kept_out(&issued.node, &issued.session_key) {
            return Err(SignError::KeptOut { node: issued.node, why });
        }
        let record = NodeRecord::new(issued.session_key, issued.serial.clone(), now);
        let enrollment = self.enrollment(issued);
        enrollment.check().map_err(SignError::Enrollment)?;
        self.keep_serial(serial, store)?;
        Ok((enrollment, record))
    }

    fn keep_serial(&mut self, serial: u64, store: &mut dyn Store) -> Result<(), SignError> {
        let mut batch = WriteBatch::new();
        let value = encode("serial number", &serial).map_err(SignError::Encode)?;
        batch.put(Tree::Meta, SERIAL_KEY, value);
        store.commit(&batch).map_err(SignError::Store)?;
        self.last_serial = serial;
        Ok(())
    }

    fn enrollment(&self, issued: IssuedCertificate) -> Enrollment {
        Enrollment {
            version: ENROLLMENT_VERSION,
            node: issued.node,
            certificate_pem: issued.certificate_pem,
            authority_pem: self.authority.certificate_pem().to_owned(),
            hub_session_key: self.session_key,
            hub_signing_key: self.signing_key,
            broker: self.broker.to_string(),
            broker_name: self.broker.host.clone(),
        }
    }
}
