//! The hub's configuration: one TOML file, parsed to valid values before anything is opened.
//!
//! Every option has a default. An unknown key, a wrong type or a value out of bounds is refused with
//! the file's name, the key and what was expected. Secrets are files of their own.

mod sinks;

pub use sinks::{
    FilesConfig, MqttConfig, RemoteWriteConfig, SinkConfig, WebhookConfig, WebhookFormat,
};
pub(crate) use sinks::{MqttUrl, TopicTemplate};

use crate::core::DELAY_MS_MAX;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;

/// Where the hub keeps everything, unless it is told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/hinterland-hub";

/// Where the manifests are, unless it is told otherwise.
pub const DEFAULT_MANIFESTS: &str = "/etc/hinterland/manifests";

/// Where nodes connect: MQTT over TLS.
const DEFAULT_MQTT_PORT: u16 = 8883;

/// The HTTP API, on loopback.
const DEFAULT_API_PORT: u16 = 7080;

/// The hub's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of keys and store.
    pub state_dir: PathBuf,
    /// The folder of manifests.
    pub manifests: PathBuf,
    /// The API server whose custom resources say what the fleet should run; then there is no folder.
    pub kubernetes: Option<KubernetesConfig>,
    /// Where the embedded broker listens for nodes.
    pub listen: SocketAddr,
    /// The name or address, and port, by which nodes reach the broker. Without it: the address of
    /// `listen`, or the machine's name where that is every address.
    pub advertise: Option<HostPort>,
    /// An external broker instead of the embedded one.
    pub broker: Option<BrokerUrl>,
    /// Where the HTTP API is served; beyond loopback only with `api_token_file`.
    pub api: SocketAddr,
    /// A file whose first line every request must show as a bearer token.
    pub api_token_file: Option<PathBuf>,
    /// Whether `run` makes the CA and the keys where there are none.
    pub create_keys: bool,
    /// A folder with `ca.pem`, `ca.key`, `signing.key` and `session.key`, as a mounted Secret is; without it
    /// they lie in `state_dir`. Nothing is ever written there.
    pub keys_dir: Option<PathBuf>,
    /// Milliseconds for which acknowledgements of telemetry and results are gathered: each costs about
    /// 134 bytes of a node's link. At most four hours.
    pub acknowledge_after_ms: u64,
    /// `text` or `json`.
    pub log_format: LogFormat,
    /// Where samples go; without it they end at the hub.
    pub remote_write: Option<RemoteWriteConfig>,
    /// Where results go.
    pub sinks: Vec<SinkConfig>,
}

/// An API server with the custom resources.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesConfig {
    /// How it is reached; without it by the service account of the pod that the hub runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Whether this is one of several hubs, of which one leads; with an external broker and `keys_dir`
    /// alone.
    pub replicated: bool,
    /// Where the hubs keep their Lease and what they share; without it the namespace of the service account
    /// or the kubeconfig.
    pub namespace: Option<String>,
    /// Whether an older state of the API server counts at this start; see `hub run --confirm-regression`.
    #[serde(skip)]
    pub confirm_regression: bool,
}

/// How the hub writes its own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A host and perhaps a port, as in `hub.example`, `192.0.2.1:8883` or `[2001:db8::1]:8883`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort {
    /// A DNS name or an IP address without brackets.
    pub host: String,
    /// The port, if one is said.
    pub port: Option<u16>,
}

/// `mqtts://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BrokerUrl {
    /// A DNS name or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Text that is no address of the expected form.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{found}`: expected {expected}")]
pub struct AddressError {
    found: String,
    expected: &'static str,
}

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("could not read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or not the expected keys and types.
    #[error("could not parse the configuration {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column, key and what was expected.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value out of bounds, from the file or from the command line.
    #[error("`{key}` is refused: {problem}")]
    Value {
        /// The key of the file; the option of the command line has the same name.
        key: &'static str,
        /// What was wrong and what was expected.
        problem: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from(DEFAULT_STATE_DIR),
            manifests: PathBuf::from(DEFAULT_MANIFESTS),
            kubernetes: None,
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_MQTT_PORT)),
            advertise: None,
            broker: None,
            api: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_API_PORT)),
            api_token_file: None,
            create_keys: true,
            keys_dir: None,
            acknowledge_after_ms: DELAY_MS_MAX,
            log_format: LogFormat::default(),
            remote_write: None,
            sinks: Vec::new(),
        }
    }
}

impl Config {
    /// The configuration in `path`, or the default one where `path` is `None`. Bounds are checked by
    /// [`Self::check`], after the command line was laid over it.
    ///
    /// # Errors
    /// [`ConfigError`], which names file, key and what was expected.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Refuses what would be unsafe or could not work.
    ///
    /// # Errors
    /// [`ConfigError::Value`], which names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refused =
            |key, problem: &str| Err(ConfigError::Value { key, problem: problem.to_owned() });
        if !self.api.ip().is_loopback() && self.api_token_file.is_none() {
            return refused(
                "api",
                "others could reach it: expected a loopback address, as in 127.0.0.1:7080, or a \
                 file with a bearer token as `api_token_file`",
            );
        }
        if self.acknowledge_after_ms > DELAY_MS_MAX {
            return refused(
                "acknowledge_after_ms",
                "nodes repeat after five hours: expected at most 14400000",
            );
        }
        if self.kubernetes.as_ref().is_some_and(|kubernetes| kubernetes.replicated) {
            if self.broker.is_none() {
                return refused(
                    "kubernetes.replicated",
                    "an embedded broker is of one hub alone: expected an external `broker`",
                );
            }
            if self.keys_dir.is_none() {
                return refused(
                    "kubernetes.replicated",
                    "all hubs of a fleet have the same keys: expected their folder as `keys_dir`",
                );
            }
        }
        if self.broker.is_none() && self.listen.port() == 0 {
            return refused("listen", "nodes must find it again: expected a port other than 0");
        }
        sinks::check(self.remote_write.as_ref(), &self.sinks)
    }

    /// Where nodes are told to connect. `machine` is the machine's own name.
    #[must_use]
    pub fn advertised(&self, machine: &str) -> BrokerUrl {
        let default = match &self.broker {
            Some(broker) => broker.clone(),
            None => {
                BrokerUrl { host: listen_host(self.listen.ip(), machine), port: self.listen.port() }
            }
        };
        match &self.advertise {
            Some(HostPort { host, port }) => {
                BrokerUrl { host: host.clone(), port: port.unwrap_or(default.port) }
            }
            None => default,
        }
    }

    /// The places in the state folder.
    #[must_use]
    pub fn places(&self) -> Places {
        Places::new(&self.state_dir, self.keys_dir.as_deref())
    }
}

fn listen_host(ip: IpAddr, machine: &str) -> String {
    if ip.is_unspecified() { machine.to_owned() } else { ip.to_string() }
}

/// Every file and folder of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The folder of everything.
    pub state_dir: PathBuf,
    /// Whether the keys are somebody else's to make, and to keep.
    pub keys_are_given: bool,
    /// The authority's certificate: what nodes and brokers trust.
    pub authority: PathBuf,
    /// Its private key.
    pub authority_key: PathBuf,
    /// The private key under which desired state is signed.
    pub signing_key: PathBuf,
    /// The private key of sessions.
    pub session_key: PathBuf,
    /// The wrapping key of the store.
    pub store_key: PathBuf,
    /// The sealed store.
    pub store: PathBuf,
    /// Who is enrolled, one file a node.
    pub enrolled: PathBuf,
    /// The embedded broker's certificate, made anew at each start.
    pub broker_certificate: PathBuf,
    /// Its private key.
    pub broker_key: PathBuf,
}

impl Places {
    fn new(state_dir: &Path, keys_dir: Option<&Path>) -> Self {
        let at = |name: &str| state_dir.join(name);
        let key = |name: &str| match keys_dir {
            Some(keys_dir) => keys_dir.join(name),
            None => state_dir.join("keys").join(name),
        };
        Self {
            state_dir: state_dir.to_owned(),
            keys_are_given: keys_dir.is_some(),
            authority: keys_dir.unwrap_or(state_dir).join("ca.pem"),
            authority_key: key("ca.key"),
            signing_key: key("signing.key"),
            session_key: key("session.key"),
            store_key: at("keys/store.key"),
            store: at("store"),
            enrolled: at("enrolled"),
            broker_certificate: at("broker.pem"),
            broker_key: at("keys/broker.key"),
        }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refused = || AddressError {
            found: text.chars().take(80).collect(),
            expected: "a host name or an IP address, perhaps with a port, as in \
                       hub.example:8883 or [2001:db8::1]:8883",
        };
        let (host, port) = match text.parse::<IpAddr>() {
            Ok(_) => (text, None),
            Err(_) => split_port(text).ok_or_else(refused)?,
        };
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        ServerName::try_from(host).map_err(|_| refused())?;
        Ok(Self { host: host.to_owned(), port })
    }
}

/// The host and, behind the last colon, the port.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let colon = text.rfind(':').filter(|at| text.rfind(']').is_none_or(|bracket| bracket < *at));
    let Some((host, port)) = colon.and_then(|at| text.split_at_checked(at)) else {
        return Some((text, None));
    };
    let digits = port.strip_prefix(':').filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    let unambiguous = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    let port = digits.parse().ok().filter(|port: &u16| *port != 0 && unambiguous)?;
    Some((host, Some(port)))
}

impl FromStr for BrokerUrl {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refused = || AddressError {
            found: text.chars().take(80).collect(),
            expected: "a broker, as in mqtts://broker.example:8883",
        };
        let address = text.strip_prefix("mqtts://").ok_or_else(refused)?;
        let HostPort { host, port } = address.parse().map_err(|_| refused())?;
        Ok(Self { host, port: port.ok_or_else(refused)? })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "mqtts://[{host}]:{port}")
        } else {
            write!(f, "mqtts://{host}:{port}")
        }
    }
}

impl TryFrom<String> for HostPort {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl TryFrom<String> for BrokerUrl {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hub.toml");
        std::fs::write(&path, text).unwrap();
        let refused = Config::load(Some(&path)).and_then(|config| config.check());
        shared::in_words(&refused.unwrap_err())
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file() {
        let words = refusal("stat_dir = \"/x\"");
        assert!(words.contains("hub.toml") && words.contains("stat_dir"), "{words}");
    }

    #[test]
    fn a_broker_that_is_no_url_says_what_was_expected() {
        let words = refusal("broker = \"broker.example:8883\"");
        assert!(words.contains("broker.example") && words.contains("mqtts://"), "{words}");
    }

    #[test]
    fn an_api_that_others_could_reach_is_refused_without_a_token() {
        let words = refusal("api = \"0.0.0.0:7080\"");
        assert!(words.contains("`api`") && words.contains("api_token_file"), "{words}");
        let config = "api = \"0.0.0.0:7080\"\napi_token_file = \"/run/token\"";
        assert!(toml::from_str::<Config>(config).unwrap().check().is_ok());
    }

    #[test]
    fn a_missing_file_is_named() {
        let words = shared::in_words(&Config::load(Some(Path::new("/none/hub.toml"))).unwrap_err());
        assert!(words.contains("/none/hub.toml"), "{words}");
    }

    #[test]
    fn a_full_example_is_accepted() {
        let text = "state_dir = \"/s\"\nmanifests = \"/m\"\nlisten = \"0.0.0.0:8884\"\n\
            advertise = \"hub.example\"\nbroker = \"mqtts://[2001:db8::1]:8883\"\n\
            api = \"[::1]:7081\"\napi_token_file = \"/t\"\ncreate_keys = false\nlog_format = \"json\"";
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        assert_eq!(config.places().store, PathBuf::from("/s/store"));
        assert_eq!(config.advertised("machine").to_string(), "mqtts://hub.example:8883");
    }

    #[test]
    fn nodes_are_told_the_name_the_address_or_the_machine_whichever_is_known() {
        let told = |text: &str| {
            let config: Config = toml::from_str(text).unwrap();
            config.advertised("machine-1").to_string()
        };
        assert_eq!(told(""), "mqtts://machine-1:8883");
        assert_eq!(told("listen = \"192.0.2.1:99\""), "mqtts://192.0.2.1:99");
        assert_eq!(
            told("listen = \"[::1]:99\"\nadvertise = \"2001:db8::1\""),
            "mqtts://[2001:db8::1]:99"
        );
        assert_eq!(told("advertise = \"hub.example:1\""), "mqtts://hub.example:1");
        assert_eq!(told("broker = \"mqtts://b.example:2\""), "mqtts://b.example:2");
    }

    #[test]
    fn what_is_no_host_with_a_port_is_refused() {
        for text in ["", ":1", "a b", "a:", "a:0", "a:99999", "a:+1", "[::1", "::1:x", "mqtts://a"]
        {
            assert!(text.parse::<HostPort>().is_err(), "`{text}` was accepted");
        }
        for text in
            ["mqtt://a:1", "mqtts://a", "a:1", "mqtts://:1", "mqtts://u@a:1", "mqtts://a:1/x"]
        {
            assert!(text.parse::<BrokerUrl>().is_err(), "`{text}` was accepted");
        }
    }
}
