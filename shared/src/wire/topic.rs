//! MQTT topics. Short, since every publish carries one: `e/<node>/u` up, `e/<node>/d` down,
//! `e/<node>/w` for the will.

use crate::model::NodeId;

/// What a topic that a node publishes to is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpTopicKind {
    /// Envelopes.
    Up,
    /// The will: the broker says that the node is gone. Its payload means nothing.
    Will,
}

/// A topic that a node publishes to and the hub reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpTopic {
    /// Whose topic.
    pub node: NodeId,
    /// What for.
    pub kind: UpTopicKind,
}

impl UpTopic {
    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> String {
        let level = match self.kind {
            UpTopicKind::Up => 'u',
            UpTopicKind::Will => 'w',
        };
        format!("e/{}/{level}", self.node)
    }

    /// The topic of this name, if it is one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (node, level) = name.strip_prefix("e/")?.rsplit_once('/')?;
        let kind = match level {
            "u" => UpTopicKind::Up,
            "w" => UpTopicKind::Will,
            _ => return None,
        };
        Some(Self { node: NodeId::new(node).ok()?, kind })
    }
}

/// The topic that the hub publishes to and one node reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownTopic {
    /// Whose topic.
    pub node: NodeId,
}

impl DownTopic {
    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("e/{}/d", self.node)
    }

    /// The topic of this name, if it is one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let node = name.strip_prefix("e/")?.strip_suffix("/d")?;
        Some(Self { node: NodeId::new(node).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_survive_printing_and_parsing() {
        let node = NodeId::new("mast-17").unwrap();
        for kind in [UpTopicKind::Up, UpTopicKind::Will] {
            let topic = UpTopic { node: node.clone(), kind };
            assert_eq!(UpTopic::parse(&topic.name()), Some(topic));
        }
        let down = DownTopic { node };
        assert_eq!(down.name(), "e/mast-17/d");
        assert_eq!(DownTopic::parse(&down.name()), Some(down));
    }

    #[test]
    fn other_names_are_not_topics_of_ours() {
        for name in ["", "e//u", "e/a/b/u", "e/+/u", "e/#", "e/a/d", "x/a/u", "$SYS/a/u", "e/a/uu"]
        {
            assert_eq!(UpTopic::parse(name), None, "`{name}`");
        }
    }
}
