//! Where samples and results go: `[remote_write]` and `[[sinks]]`.
//!
//! Refuses what could never work: an address that is none, a name that is none or comes twice, a topic
//! that a broker would not take. Secrets are files of their own, read when they are used.

use super::ConfigError;
use crate::export::http::HttpUrl;
use crate::export::results::Line;
use serde::Deserialize;
use shared::model::SinkId;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Sinks of one hub. Each may hold 16 MiB of results that wait.
const SINKS_MAX: usize = 32;

/// A sink's name stands in file names and client ids.
const NAME_BYTES_MAX: usize = 63;

/// Past this size a file of results is put aside, unless it is said otherwise.
const FILE_BYTES_MAX_DEFAULT: u64 = 64 * 1024 * 1024;

/// A topic of MQTT has at most 65 535 bytes; a template leaves room for what is filled in.
const TEMPLATE_BYTES_MAX: usize = 1024;

/// The longest topic that is made of a template.
const TOPIC_BYTES_MAX: usize = 4096;

/// Prometheus, or what takes remote write 1.0.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteWriteConfig {
    /// As in `https://prometheus.example/api/v1/write`.
    pub url: String,
    /// A file whose first line is shown as a bearer token.
    pub bearer_token_file: Option<PathBuf>,
    /// The CA of the server, PEM; without it those that the system trusts.
    pub ca_file: Option<PathBuf>,
}

/// A sink of results.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum SinkConfig {
    /// Files of NDJSON.
    Files(FilesConfig),
    /// A POST.
    Webhook(WebhookConfig),
    /// A topic of MQTT.
    Mqtt(MqttConfig),
}

/// Files of NDJSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// The sink's name.
    pub name: String,
    /// The folder of `<name>.ndjson`.
    pub folder: PathBuf,
    /// Bytes past which the file is put aside.
    #[serde(default = "file_bytes_max_default")]
    pub file_bytes_max: u64,
}

/// A POST of several results.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// The sink's name.
    pub name: String,
    /// As in `https://receiver.example/results`.
    pub url: String,
    /// How the body is written.
    #[serde(default)]
    pub format: WebhookFormat,
    /// A file whose first line is shown as a bearer token.
    pub bearer_token_file: Option<PathBuf>,
    /// The CA of the server, PEM; without it those that the system trusts.
    pub ca_file: Option<PathBuf>,
}

/// How a webhook's body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookFormat {
    /// A line each.
    #[default]
    Ndjson,
    /// One array.
    Json,
}

/// A topic of MQTT.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// The sink's name.
    pub name: String,
    /// As in `mqtts://broker.example:8883`, or `mqtt://…` without TLS.
    pub broker: String,
    /// As in `site/{node}/{topic}`; also `{pod}` and `{sink}`.
    #[serde(default = "topic_default")]
    pub topic: String,
    /// A file of two lines, user and password.
    pub credentials_file: Option<PathBuf>,
    /// The CA of the broker, PEM; without it those that the system trusts.
    pub ca_file: Option<PathBuf>,
}

fn file_bytes_max_default() -> u64 {
    FILE_BYTES_MAX_DEFAULT
}

fn topic_default() -> String {
    "hinterland/{node}/{topic}".to_owned()
}

impl SinkConfig {
    /// The sink's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Files(files) => &files.name,
            Self::Webhook(webhook) => &webhook.name,
            Self::Mqtt(mqtt) => &mqtt.name,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Files(files) if files.file_bytes_max == 0 => {
                Err("`file_bytes_max` is 0: expected a size in bytes".to_owned())
            }
            Self::Files(_) => Ok(()),
            Self::Webhook(webhook) => webhook.url.parse::<HttpUrl>().map(drop),
            Self::Mqtt(mqtt) => {
                mqtt.broker.parse::<MqttUrl>()?;
                TopicTemplate::new(&mqtt.topic, &mqtt.name).map(drop)
            }
        }
    }
}

pub(super) fn check(
    remote_write: Option<&RemoteWriteConfig>,
    sinks: &[SinkConfig],
) -> Result<(), ConfigError> {
    let refused = |key, problem| ConfigError::Value { key, problem };
    if let Some(remote_write) = remote_write {
        let url = remote_write.url.parse::<HttpUrl>();
        url.map_err(|problem| refused("remote_write.url", problem))?;
    }
    if sinks.len() > SINKS_MAX {
        let problem = format!("{} sinks: expected at most {SINKS_MAX}", sinks.len());
        return Err(refused("sinks", problem));
    }
    let mut names: BTreeMap<SinkId, &str> = BTreeMap::new();
    for sink in sinks {
        let name = sink.name();
        let problem = |words: String| refused("sinks", format!("`{name}`: {words}"));
        check_name(name).map_err(&problem)?;
        sink.check().map_err(&problem)?;
        if let Some(other) = names.insert(SinkId::of(name), name) {
            let words = format!("its number on the wire is that of `{other}`: choose another name");
            return Err(problem(words));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(valid) {
        return Ok(());
    }
    Err(format!("expected a name of 1 to {NAME_BYTES_MAX} small letters, digits and `-`"))
}

/// `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MqttUrl {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl FromStr for MqttUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            let shown: String = text.chars().take(80).collect();
            format!("`{shown}`: expected a broker as in mqtts://broker.example:8883")
        };
        let (address, tls, port) =
            match (text.strip_prefix("mqtts://"), text.strip_prefix("mqtt://")) {
                (Some(address), _) => (address, true, 8883),
                (_, Some(address)) => (address, false, 1883),
                _ => return Err(expected()),
            };
        let address: super::HostPort = address.parse().map_err(|_| expected())?;
        Ok(Self { host: address.host, port: address.port.unwrap_or(port), tls })
    }
}

impl fmt::Display for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, tls } = self;
        let scheme = if *tls { "mqtts" } else { "mqtt" };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

/// A topic with places for what a result says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicTemplate {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Node,
    Pod,
    Topic,
}

impl TopicTemplate {
    pub(crate) fn new(text: &str, sink: &str) -> Result<Self, String> {
        let bad = |c: char| c == '+' || c == '#' || c.is_control();
        if text.is_empty() || text.len() > TEMPLATE_BYTES_MAX || text.contains(bad) {
            return Err(format!(
                "`topic`: expected 1 to {TEMPLATE_BYTES_MAX} bytes without wildcards, as in \
                 site/{{node}}/{{topic}}"
            ));
        }
        if text.starts_with('$') {
            return Err("`topic`: topics that begin with `$` are the broker's own".to_owned());
        }
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("`topic`: a `{` has no `}`")?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match name {
                "node" => Piece::Node,
                "pod" => Piece::Pod,
                "topic" => Piece::Topic,
                "sink" => Piece::Text(sink.to_owned()),
                other => {
                    let names = "`{node}`, `{pod}`, `{topic}` and `{sink}`";
                    return Err(format!("`topic`: there is no `{{{other}}}`: expected {names}"));
                }
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self { pieces })
    }

    /// The topic of a result. What a node or a pod says can't make it a filter, nor one of the broker's
    /// own.
    pub(crate) fn fill(&self, line: &Line) -> String {
        let mut topic = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => topic.push_str(text),
                Piece::Node => topic.push_str(line.node.as_str()),
                Piece::Pod => push_harmless(&mut topic, &line.pod),
                Piece::Topic => push_harmless(&mut topic, &line.topic),
            }
        }
        if topic.is_empty() {
            topic.push('_');
        }
        let end = topic.floor_char_boundary(TOPIC_BYTES_MAX);
        topic.truncate(end);
        topic
    }
}

fn push_harmless(topic: &mut String, text: &str) {
    for c in text.chars() {
        let first = topic.is_empty() && c == '$';
        topic.push(if first || c == '+' || c == '#' || c.is_control() { '_' } else { c });
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const FULL: &str = r#"
        [remote_write]
        url = "https://prometheus.example/api/v1/write"
        bearer_token_file = "/etc/token"
        ca_file = "/etc/ca.pem"

        [[sinks]]
        name = "archive"
        kind = "files"
        folder = "/var/lib/results"

        [[sinks]]
        name = "plates"
        kind = "webhook"
        url = "http://127.0.0.1:9000/plates"
        format = "json"

        [[sinks]]
        name = "plant"
        kind = "mqtt"
        broker = "mqtts://broker.site"
        topic = "site/{node}/{topic}"
        credentials_file = "/etc/plant"
    "#;

    fn refusal(text: &str) -> String {
        match toml::from_str::<Config>(text) {
            Ok(config) => shared::in_words(&config.check().unwrap_err()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn sinks_of_every_kind_are_accepted_with_their_defaults() {
        let config: Config = toml::from_str(FULL).unwrap();
        config.check().unwrap();
        let names: Vec<&str> = config.sinks.iter().map(SinkConfig::name).collect();
        assert_eq!(names, ["archive", "plates", "plant"]);
        let SinkConfig::Files(files) = &config.sinks[0] else { panic!("{:?}", config.sinks) };
        assert_eq!(files.file_bytes_max, FILE_BYTES_MAX_DEFAULT);
    }

    #[test]
    fn what_could_not_work_is_refused_in_words() {
        let sink = |rest: &str| format!("[[sinks]]\nname = \"a\"\n{rest}");
        for (text, words) in [
            ("[remote_write]\nurl = \"prometheus:9090\"".to_owned(), "https://"),
            ("[remote_write]\nurl = \"http://a/\"\ntimeout = 3".to_owned(), "timeout"),
            (sink("kind = \"webhook\"\nurl = \"nowhere\""), "nowhere"),
            (sink("kind = \"webhook\"\nurl = \"http://a/\"\nretry = 1"), "retry"),
            (sink("kind = \"mqtt\"\nbroker = \"a:1\""), "mqtts://"),
            (sink("kind = \"mqtt\"\nbroker = \"mqtt://a\"\ntopic = \"a/#\""), "wildcards"),
            (sink("kind = \"mqtt\"\nbroker = \"mqtt://a\"\ntopic = \"$SYS/a\""), "`$`"),
            (sink("kind = \"mqtt\"\nbroker = \"mqtt://a\"\ntopic = \"{nod}\""), "{nod}"),
            (sink("kind = \"kafka\""), "kafka"),
            (sink("kind = \"files\"\nfolder = \"/a\"\n").repeat(2), "another name"),
            ("[[sinks]]\nname = \"A b\"\nkind = \"files\"\nfolder = \"/a\"".to_owned(), "A b"),
        ] {
            let said = refusal(&text);
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    #[test]
    fn nothing_that_a_node_says_makes_a_topic_a_filter_or_the_brokers_own() {
        let line = |topic: &str| Line {
            id: String::new(),
            node: shared::model::NodeId::new("mast-17").unwrap(),
            pod: "default/ocr-0".to_owned(),
            topic: topic.to_owned(),
            text: String::new(),
        };
        let fill = |template: &str, topic: &str| {
            TopicTemplate::new(template, "plant").unwrap().fill(&line(topic))
        };
        assert_eq!(fill("site/{node}/{topic}", "a/b"), "site/mast-17/a/b");
        assert_eq!(fill("{sink}/{pod}", ""), "plant/default/ocr-0");
        assert_eq!(fill("{topic}", "$SYS/+/#\u{0}"), "_SYS/_/__");
        assert_eq!(fill("{topic}", ""), "_");
        assert_eq!(fill("x{topic}", &"ü".repeat(5_000)).len(), TOPIC_BYTES_MAX - 1);
    }
}
