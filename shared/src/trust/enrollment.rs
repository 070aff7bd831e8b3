//! What is carried between node and hub when a node joins, by hand, by mail or by USB.
//!
//! The way there is the node's certificate request (see [`super::certificate`]). The way back is an
//! [`Enrollment`]: everything that the node must know to reach its hub and to tell it from an enemy.
//! It holds no secret, and is believed because a person brought it; so it refuses whatever does not
//! agree with itself, and never asks what time it is.

use super::certificate::{CertificateError, certificate_from_pem};
use super::certificate::{node_of_certificate, verify_issued_by};
use super::session::SessionPublicKey;
use super::signature::VerifyingKey;
use crate::model::NodeId;
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The version of the document that is written and read.
pub const ENROLLMENT_VERSION: u32 = 1;

/// The document as text: two certificates of about a kilobyte and a few names. Refused before it is
/// parsed.
pub const ENROLLMENT_BYTES_MAX: usize = 32 * 1024;

const BROKER_SCHEME: &str = "mqtts://";

/// Why an enrolment was not read or not made.
#[derive(Debug, Error)]
pub enum EnrollmentError {
    /// Larger than any of ours.
    #[error("an enrolment of {bytes} bytes: at most {ENROLLMENT_BYTES_MAX} are taken")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not JSON, a field is missing, unknown, or holds the wrong thing; the cause names it.
    #[error("could not read the enrolment at `{path}`")]
    Json {
        /// The field, `.` for the document as a whole.
        path: String,
        /// What the reader says.
        #[source]
        source: serde_json::Error,
    },
    /// A version that this program does not know.
    #[error("`version` is {found}: this program reads {ENROLLMENT_VERSION}")]
    Version {
        /// What it says.
        found: u32,
    },
    /// A certificate can't be read, or does not hold.
    #[error("`{field}` does not hold")]
    Certificate {
        /// The field.
        field: &'static str,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// The certificate is another node's.
    #[error("`certificate_pem` is for `{certificate}`, and `node` says `{node}`")]
    OtherNode {
        /// Who the certificate is for.
        certificate: NodeId,
        /// Who the document is for.
        node: NodeId,
    },
    /// Not a broker's address.
    #[error("`broker` is `{found}`: expected `mqtts://HOST:PORT`")]
    Broker {
        /// What it says, its first 80 characters.
        found: String,
    },
    /// Not a name that TLS can check.
    #[error("`{field}` is not a DNS name or an IP address")]
    Name {
        /// The field.
        field: &'static str,
        /// Why.
        #[source]
        source: InvalidDnsNameError,
    },
}

/// The hub's answer to a node's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrollment {
    /// [`ENROLLMENT_VERSION`].
    pub version: u32,
    /// Who may use it.
    pub node: NodeId,
    /// The node's certificate, issued by the authority below.
    pub certificate_pem: String,
    /// The fleet's root.
    pub authority_pem: String,
    /// The hub's end of sealed sessions.
    pub hub_session_key: SessionPublicKey,
    /// The key under which desired state is signed.
    pub hub_signing_key: VerifyingKey,
    /// Where the broker is: `mqtts://HOST:PORT`, an IPv6 address in brackets.
    pub broker: String,
    /// The name that the broker's certificate must show.
    pub broker_name: String,
}

impl Enrollment {
    /// Reads and checks the document.
    ///
    /// # Errors
    /// [`EnrollmentError`], which names the field.
    pub fn parse(text: &str) -> Result<Self, EnrollmentError> {
        let bytes = text.len();
        if bytes > ENROLLMENT_BYTES_MAX {
            return Err(EnrollmentError::TooLarge { bytes });
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let enrollment: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            EnrollmentError::Json { path: error.path().to_string(), source: error.into_inner() }
        })?;
        let whole = |source| EnrollmentError::Json { path: ".".to_owned(), source };
        json.end().map_err(whole)?;
        enrollment.check()?;
        Ok(enrollment)
    }

    /// The document as text, one field a line; ends with a line break.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Strings and numbers alone: there is nothing in it that JSON can't say.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        text + "\n"
    }

    /// Checks that certificate, authority and node agree, and that the broker can be reached by
    /// what is said. [`Self::parse`] has done it; who makes an enrolment calls it before he sends it.
    ///
    /// # Errors
    /// [`EnrollmentError`], which names the field.
    pub fn check(&self) -> Result<(), EnrollmentError> {
        if self.version != ENROLLMENT_VERSION {
            return Err(EnrollmentError::Version { found: self.version });
        }
        self.check_certificates()?;
        self.broker_address()?;
        let field = "broker_name";
        let name = ServerName::try_from(self.broker_name.as_str());
        name.map(|_| ()).map_err(|source| EnrollmentError::Name { field, source })
    }

    /// The broker's host (an IPv6 address without its brackets) and port.
    ///
    /// # Errors
    /// [`EnrollmentError::Broker`], [`EnrollmentError::Name`].
    pub fn broker_address(&self) -> Result<(String, u16), EnrollmentError> {
        let refused = || {
            let found = self.broker.chars().take(80).collect();
            EnrollmentError::Broker { found }
        };
        let address = self.broker.strip_prefix(BROKER_SCHEME).ok_or_else(refused)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(refused)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port: &u16| digits && *port != 0);
        let port = port.ok_or_else(refused)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(refused());
        }
        let host = bracketed.unwrap_or(host);
        let name = ServerName::try_from(host);
        name.map_err(|source| EnrollmentError::Name { field: "broker", source })?;
        Ok((host.to_owned(), port))
    }

    fn check_certificates(&self) -> Result<(), EnrollmentError> {
        let at = |field| move |source| EnrollmentError::Certificate { field, source };
        let (leaf, root) = ("certificate_pem", "authority_pem");
        let authority = certificate_from_pem(&self.authority_pem, "the authority's certificate");
        let authority = authority.map_err(at(root))?;
        let certificate = certificate_from_pem(&self.certificate_pem, "the node's certificate");
        let certificate = certificate.map_err(at(leaf))?;
        let named = node_of_certificate(&certificate).map_err(at(leaf))?;
        if named != self.node {
            let node = self.node.clone();
            return Err(EnrollmentError::OtherNode { certificate: named, node });
        }
        verify_issued_by(&certificate, &authority).map_err(at(leaf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UnixMs;
    use crate::trust::certificate::{CertificateAuthority, NodeKey};
    use crate::trust::session::SessionPrivateKey;
    use crate::trust::signature::SigningKey;
    use std::error::Error;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);

    fn issued(node: &NodeId, authority: &CertificateAuthority) -> String {
        let session_key = SessionPrivateKey::generate([1; 32]).public();
        let request = NodeKey::generate().unwrap().request(node, &session_key).unwrap();
        authority.sign_request(&request, NOW, 10, 1).unwrap().certificate_pem
    }

    fn enrollment() -> Enrollment {
        let node = NodeId::new("node-1").unwrap();
        let authority = CertificateAuthority::create("hinterland test", NOW).unwrap();
        Enrollment {
            version: 1,
            certificate_pem: issued(&node, &authority),
            authority_pem: authority.certificate_pem().to_owned(),
            hub_session_key: SessionPrivateKey::generate([2; 32]).public(),
            hub_signing_key: SigningKey::generate([3; 32]).verifying(),
            broker: "mqtts://192.0.2.1:8883".to_owned(),
            broker_name: "hub.example".to_owned(),
            node,
        }
    }

    /// The whole chain of an error, as it is shown to a person.
    fn told(text: &str) -> String {
        let error = Enrollment::parse(text).unwrap_err();
        let mut told = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            told = format!("{told}: {error}");
            cause = error.source();
        }
        told
    }

    #[test]
    fn an_enrolment_survives_its_text() {
        let enrollment = enrollment();
        let text = enrollment.to_text();
        assert_eq!(Enrollment::parse(&text).unwrap(), enrollment);
        assert!(text.contains(&format!("\"{}\"", enrollment.hub_session_key)));
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn an_error_names_the_field() {
        let text = enrollment().to_text();
        let key = enrollment().hub_signing_key.to_string();
        for (from, to, expected) in [
            ("\"broker\"", "\"brokr\"", "brokr"),
            (key.as_str(), "zz", "hub_signing_key"),
            ("\"node-1\"", "\"Node 1\"", "node"),
            ("\"version\": 1", "\"version\": 2", "version"),
            ("mqtts://192", "mqtt://192", "broker"),
            ("hub.example", "hub example", "broker_name"),
            ("BEGIN CERTIFICATE", "BEGIN PRIVATE KEY", "authority_pem"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            let told = told(&changed);
            assert!(told.contains(expected), "`{told}`, expected `{expected}`");
        }
        assert!(told(&(text.clone() + "{}")).contains("trailing"));
        assert!(told(&" ".repeat(ENROLLMENT_BYTES_MAX + 1)).contains("at most"));
    }

    #[test]
    fn anothers_certificate_and_anothers_authority_are_refused() {
        let good = enrollment();
        let renamed = Enrollment { node: NodeId::new("node-2").unwrap(), ..good.clone() };
        assert!(matches!(renamed.check(), Err(EnrollmentError::OtherNode { .. })));
        let other = Enrollment { authority_pem: enrollment().authority_pem, ..good.clone() };
        let refused = other.check();
        assert!(matches!(
            refused,
            Err(EnrollmentError::Certificate { field: "certificate_pem", .. })
        ));
        let leaf_as_root =
            Enrollment { authority_pem: good.certificate_pem.clone(), ..good.clone() };
        assert!(leaf_as_root.check().is_err());
    }

    #[test]
    fn a_brokers_address_is_a_host_and_a_port() {
        let address = |broker: &str| {
            Enrollment { broker: broker.to_owned(), ..enrollment() }.broker_address()
        };
        assert_eq!(address("mqtts://hub.example:8883").unwrap(), ("hub.example".to_owned(), 8883));
        assert_eq!(address("mqtts://[2001:db8::1]:1").unwrap(), ("2001:db8::1".to_owned(), 1));
        for refused in [
            "hub.example:8883",
            "mqtts://hub.example",
            "mqtts://:8883",
            "mqtts://hub.example:0",
            "mqtts://hub.example:+1",
            "mqtts://hub.example:65536",
            "mqtts://2001:db8::1:8883",
            "mqtts://user@hub.example:8883",
            "mqtts://hub.example:8883/path",
        ] {
            assert!(address(refused).is_err(), "`{refused}` was accepted");
        }
    }
}
