//! A port as probes and hooks say it: a number, or the name of one of the container's ports.
//!
//! People write either, as `IntOrString` in `core/v1`. The hub puts the number for a name, so that the wire has
//! numbers alone: packed CBOR with a name is refused.

use super::workload::{InvalidWorkload, invalid};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// Its number; that it is 1 to 65535 is checked apart.
    Number(u16),
    /// The name of one of the `ports` of the same container.
    Name(String),
}

impl Port {
    /// Its number, where it is one.
    #[must_use]
    pub fn number(&self) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(_) => None,
        }
    }

    /// Checks that it is a number that a port can have; `at` is its path.
    ///
    /// # Errors
    /// When it is 0, or still a name.
    pub(super) fn validate(&self, at: &str) -> Result<(), InvalidWorkload> {
        match self {
            Self::Number(0) => Err(invalid(at, "expected a port of 1 to 65535")),
            Self::Number(_) => Ok(()),
            Self::Name(name) => {
                let problem =
                    format!("`{name}` is a name: expected its number, which the hub knows");
                Err(invalid(at, problem))
            }
        }
    }
}

impl Default for Port {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl From<u16> for Port {
    fn from(number: u16) -> Self {
        Self::Number(number)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u16(*number),
            Self::Name(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(AsWritten)
        } else {
            u16::deserialize(deserializer).map(Self::Number)
        }
    }
}

struct AsWritten;

impl Visitor<'_> for AsWritten {
    type Value = Port;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port of 1 to 65535, or the name of one of the container's ports")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Port, E> {
        let refused = || E::invalid_value(Unexpected::Unsigned(number), &self);
        u16::try_from(number).map(Port::Number).map_err(|_| refused())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Port, E> {
        let refused = || E::invalid_value(Unexpected::Signed(number), &self);
        u16::try_from(number).map(Port::Number).map_err(|_| refused())
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Port, E> {
        Ok(Port::Name(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GrpcAction, HttpGetAction, HttpHeader, Probe, UriScheme};
    use crate::wire::{decode, encode};
    use serde_json::json;

    /// A probe as it was before there were names and gRPC.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct EarlierProbe {
        exec: Option<()>,
        http_get: Option<EarlierGet>,
        tcp_socket: Option<()>,
        initial_delay_seconds: u32,
        period_seconds: u32,
        timeout_seconds: u32,
        success_threshold: u32,
        failure_threshold: u32,
    }

    #[derive(Serialize, Deserialize)]
    struct EarlierGet {
        path: String,
        port: u16,
        host: Option<String>,
        scheme: UriScheme,
        headers: Vec<HttpHeader>,
    }

    fn probe(said: serde_json::Value) -> Probe {
        serde_json::from_value(said).unwrap()
    }

    #[test]
    fn a_probe_without_grpc_is_written_as_before_and_one_with_it_comes_back() {
        let get = EarlierGet {
            path: "/ok".to_owned(),
            port: 8080,
            host: None,
            scheme: UriScheme::Http,
            headers: vec![],
        };
        let earlier = EarlierProbe {
            exec: None,
            http_get: Some(get),
            tcp_socket: None,
            initial_delay_seconds: 0,
            period_seconds: 10,
            timeout_seconds: 1,
            success_threshold: 1,
            failure_threshold: 3,
        };
        let bytes = encode("probe", &earlier).unwrap();
        let now = probe(json!({ "httpGet": { "path": "/ok", "port": 8080 } }));
        assert_eq!(encode("probe", &now).unwrap(), bytes);
        assert_eq!(decode::<Probe>("probe", &bytes, 256).unwrap(), now);
        let asking = probe(json!({ "grpc": { "port": 50051, "service": "ocr" } }));
        let action = GrpcAction { port: 50051, service: "ocr".to_owned() };
        assert_eq!(asking.grpc, Some(action));
        let bytes = encode("probe", &asking).unwrap();
        assert_eq!(decode::<Probe>("probe", &bytes, 256).unwrap(), asking);
    }

    #[test]
    fn a_name_is_read_where_people_write_it_and_never_crosses_the_wire() {
        let get: HttpGetAction = serde_json::from_value(json!({ "port": "http" })).unwrap();
        assert_eq!(get.port, Port::Name("http".to_owned()));
        assert_eq!(serde_json::to_value(&get.port).unwrap(), json!("http"));
        let bytes = encode("action", &get).unwrap();
        assert!(decode::<HttpGetAction>("action", &bytes, 256).is_err());
        let refused = get.port.validate("a.port").unwrap_err().to_string();
        assert!(refused.starts_with("a.port: `http` is a name"), "{refused}");
        for wrong in [json!(70_000), json!(-1), json!(1.5), json!(null), json!(["http"])] {
            let error = serde_json::from_value::<Port>(wrong.clone()).unwrap_err().to_string();
            assert!(error.contains("expected a port of 1 to 65535"), "{wrong}: {error}");
        }
    }
}
