//! What pods make: results, and the sinks of the hub that take them.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use super::ids::{NodeId, PodId};
use super::time::{BootClock, UnixMs};
use crate::limits::RESULT_TOPIC_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The sink that takes the results of a workload which says nothing of them.
pub const DEFAULT_SINK: &str = "default";

/// A result is held back for a day at most.
const INTERVAL_SECONDS_MAX: u32 = 24 * 60 * 60;

/// One of a million is one in a day of ten a second.
const EVERY_NTH_MAX: u32 = 1_000_000;

/// A JSON pointer: some levels deep.
const FIELD_BYTES_MAX: usize = 256;

/// A sink as it stands on the wire and in keys of the store: the first four bytes of the SHA-256 of
/// its name. A hub refuses two sinks whose numbers are the same.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SinkId(pub u32);

impl SinkId {
    /// The number of the sink called `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(name.as_bytes()));
        Self(u32::from_be_bytes([a, b, c, d]))
    }
}

/// How a result's body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResultFormat {
    /// RFC 8259.
    Json,
    /// RFC 8949.
    Cbor,
}

/// One result: a record of a results log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodResult {
    /// The pod that made it.
    pub pod: PodId,
    /// What it is about, as in `detections/gate-3`.
    pub topic: String,
    /// When it was made: as the pod says, else when the agent took it.
    pub at: UnixMs,
    /// The node's clock when the agent took it.
    pub clock: BootClock,
    /// How `body` is written.
    pub format: ResultFormat,
    /// The result itself, as the pod wrote it.
    pub body: ByteBuf,
    /// Results of this topic that the node's thinning left out since the one before.
    #[serde(default)]
    pub thinned: u64,
}

/// Why a topic was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a topic: expected 1 to {RESULT_TOPIC_BYTES_MAX} characters of A-Z, a-z, 0-9, '.', '_', '-', in levels that '/' separates and that are not empty, '.' or '..'"
)]
pub struct InvalidTopic(String);

/// Checks a result's topic. What it may hold is safe in an MQTT topic, a URL and a path.
///
/// # Errors
/// [`InvalidTopic`].
pub fn check_topic(topic: &str) -> Result<(), InvalidTopic> {
    let character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let level = |level: &str| !matches!(level, "" | "." | "..") && level.chars().all(character);
    let valid = topic.len() <= RESULT_TOPIC_BYTES_MAX && topic.split('/').all(level);
    if valid { Ok(()) } else { Err(InvalidTopic(topic.chars().take(160).collect())) }
}

/// Where results of some topics go, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRoute {
    /// A topic, or the beginning of topics followed by `*`, which stands for anything.
    pub topic: String,
    /// The name of a sink of the hub.
    pub sink: String,
    /// What is left out on the node; nothing when absent.
    pub thinning: Option<Thinning>,
}

/// What of a topic's results is left out on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Thinning {
    /// All but the newest of so many seconds, which is sent at their end.
    LatestEverySeconds(u32),
    /// All but the first of every so many.
    EveryNth(u32),
    /// Those whose value has not moved far enough since the last one that was sent.
    Deadband {
        /// Where the value stands in the body: a JSON pointer (RFC 6901), as in `/value`.
        field: String,
        /// How far it has to move, in millionths of its unit.
        by_millionths: u64,
    },
}

/// Why a route was refused. `field` is its path within the route.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct InvalidRoute {
    /// As in `thinning.everyNth`.
    pub field: &'static str,
    /// What was wrong and what was expected.
    pub problem: String,
}

impl ResultRoute {
    /// Whether results of `topic` take this route.
    #[must_use]
    pub fn takes(&self, topic: &str) -> bool {
        match self.topic.strip_suffix('*') {
            Some(beginning) => topic.starts_with(beginning),
            None => self.topic == topic,
        }
    }

    /// Checks what the types alone can't say.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), InvalidRoute> {
        let refused = |field, problem| Err(InvalidRoute { field, problem });
        // Whatever `*` stands for may complete the last level.
        let example = self.topic.strip_suffix('*').map(|beginning| format!("{beginning}x"));
        if check_topic(example.as_ref().unwrap_or(&self.topic)).is_err() {
            let topic: String = self.topic.chars().take(160).collect();
            let problem = format!(
                "`{topic}` is not a pattern: expected a topic, as in `counts/gate-3`, or the beginning of topics and `*`, as in `detections/*`"
            );
            return refused("topic", problem);
        }
        if let Err(error) = NodeId::new(&self.sink) {
            return refused("sink", error.to_string());
        }
        self.thinning.as_ref().map_or(Ok(()), Thinning::validate)
    }
}

impl Thinning {
    fn validate(&self) -> Result<(), InvalidRoute> {
        let refused = |field, problem| Err(InvalidRoute { field, problem });
        match self {
            Self::LatestEverySeconds(seconds) if !(1..=INTERVAL_SECONDS_MAX).contains(seconds) => {
                let problem = format!("expected 1 to {INTERVAL_SECONDS_MAX}, found {seconds}");
                refused("thinning.latestEverySeconds", problem)
            }
            Self::EveryNth(count) if !(2..=EVERY_NTH_MAX).contains(count) => {
                let problem = format!("expected 2 to {EVERY_NTH_MAX}, found {count}");
                refused("thinning.everyNth", problem)
            }
            Self::Deadband { field, .. } if !is_pointer(field) => {
                let problem =
                    format!("`{field}` is not a JSON pointer: expected one as in `/value`");
                refused("thinning.deadband.field", problem)
            }
            Self::Deadband { by_millionths: 0, .. } => {
                refused("thinning.deadband.by", "expected more than 0".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// RFC 6901, section 3: nothing, or levels that begin with `/`, in which `~` stands before 0 or 1.
fn is_pointer(text: &str) -> bool {
    let escapes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    text.len() <= FIELD_BYTES_MAX && (text.is_empty() || text.starts_with('/')) && escapes
}

/// The sink and the thinning of results of `topic`: of the first route that takes it. Without any
/// routes all go to [`DEFAULT_SINK`]; `None` when there are some and none takes it.
#[must_use]
pub fn route<'a>(
    routes: &'a [ResultRoute],
    topic: &str,
) -> Option<(&'a str, Option<&'a Thinning>)> {
    if routes.is_empty() {
        return Some((DEFAULT_SINK, None));
    }
    let route = routes.iter().find(|route| route.takes(topic))?;
    Some((&route.sink, route.thinning.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(topic: &str, sink: &str) -> ResultRoute {
        ResultRoute { topic: topic.to_owned(), sink: sink.to_owned(), thinning: None }
    }

    #[test]
    fn a_topic_that_would_escape_a_path_or_an_mqtt_topic_is_refused() {
        for topic in ["a", "detections/gate-3", "A.b_c/1"] {
            assert_eq!(check_topic(topic), Ok(()), "{topic}");
        }
        let long = "a".repeat(129);
        for topic in ["", "/a", "a/", "a//b", "../a", "a/./b", "a/+", "#", "a b", "é", "*", &long]
        {
            assert!(check_topic(topic).is_err(), "`{topic}` was accepted");
        }
    }

    #[test]
    fn the_first_route_that_takes_a_topic_has_it() {
        let routes = [to("counts/gate-3", "first"), to("counts/*", "second")];
        assert_eq!(route(&routes, "counts/gate-3"), Some(("first", None)));
        assert_eq!(route(&routes, "counts/gate-30"), Some(("second", None)));
        assert_eq!(route(&routes, "count"), None);
        assert_eq!(route(&[to("*", "rest")], "anything/at/all"), Some(("rest", None)));
        assert_eq!(route(&[], "count"), Some((DEFAULT_SINK, None)));
    }

    #[test]
    fn a_route_that_can_t_be_meant_is_refused_with_its_field() {
        let thin = |thinning| ResultRoute { thinning: Some(thinning), ..to("*", "s") };
        let deadband = |field: &str, by_millionths| {
            thin(Thinning::Deadband { field: field.to_owned(), by_millionths })
        };
        let refused = |route: ResultRoute| route.validate().map_err(|refusal| refusal.field);
        for topic in ["", "**", "*a", "a/*/b", "/*", "a//*", "a b*"] {
            assert_eq!(refused(to(topic, "s")), Err("topic"), "{topic}");
        }
        assert_eq!(refused(to("a", "S")), Err("sink"));
        let seconds = |seconds| thin(Thinning::LatestEverySeconds(seconds));
        assert_eq!(refused(seconds(0)), Err("thinning.latestEverySeconds"));
        assert_eq!(refused(seconds(86_401)), Err("thinning.latestEverySeconds"));
        assert_eq!(refused(thin(Thinning::EveryNth(1))), Err("thinning.everyNth"));
        for field in ["value", "/a~2", "/a~"] {
            assert_eq!(refused(deadband(field, 1)), Err("thinning.deadband.field"), "{field}");
        }
        assert_eq!(refused(deadband("/a~1b", 0)), Err("thinning.deadband.by"));
        for good in [to("a/*", "s"), to("a/b*", "s"), seconds(1), deadband("", 1)] {
            assert_eq!(good.validate(), Ok(()));
        }
    }

    #[test]
    fn a_sinks_number_is_the_beginning_of_its_names_sha256() {
        // printf default | sha256sum
        assert_eq!(SinkId::of("default"), SinkId(0x37a8_eec1));
    }
}
