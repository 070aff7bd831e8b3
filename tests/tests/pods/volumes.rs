//! Files that a pod has of ConfigMaps and Secrets, while it runs and when its agent comes back.

use crate::scene::{Agent, Node, is_alive, pod, request, wait_until};
use edge_agent::ports::{
    InstanceId, Runtime, RuntimeEvent, StartRequest, VolumeContent, VolumeSource,
};
use edge_agent::runtime::Secrets;
use serde_bytes::ByteBuf;
use shared::model::{ConfigItem, ObjectKind, ObjectName, SecretBytes, SecretData};
use shared::trust::seal::seal_secret;
use shared::trust::session::SessionPrivateKey;
use shared::trust::signature::SigningKey;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn key() -> SessionPrivateKey {
    SessionPrivateKey::generate([2; 32])
}

fn volumes(text: &str) -> Vec<VolumeContent> {
    let data = [("ocr.toml".to_owned(), ByteBuf::from(text.as_bytes()))];
    let config = VolumeContent {
        name: "settings".to_owned(),
        mounts: vec!["etc/ocr".to_owned()],
        source: VolumeSource::ConfigMap(Arc::new(ConfigItem { data: data.into() })),
        ..VolumeContent::default()
    };
    let (kind, namespace) = (ObjectKind::Secret, "default".to_owned());
    let name = ObjectName { kind, namespace, name: "keys".to_owned() };
    let data = [("token".to_owned(), SecretBytes::new(text.as_bytes().to_vec()))];
    let (by, to) = (SigningKey::generate([1; 32]), key().public());
    let node = "mast-17".parse().unwrap();
    let item = seal_secret(&by, (&node, &to), &name, "1", &SecretData::from(data)).unwrap();
    let secret = VolumeContent {
        name: "keys".to_owned(),
        mounts: vec!["keys".to_owned()],
        is_secret: true,
        source: VolumeSource::Secret(name, Arc::new(item)),
        ..VolumeContent::default()
    };
    vec![config, secret]
}

fn with_volumes(instance: u64, script: &str, text: &str) -> StartRequest {
    StartRequest { volumes: volumes(text), parameters_id: 7, ..request(instance, script) }
}

/// Where the Secrets of a node lie.
struct Memory(tempfile::TempDir);

impl Memory {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    fn agent(&self, node: &Node) -> Agent {
        Agent::with(node, |runtime| runtime.with_secrets(self.secrets(node, self.0.path())))
    }

    fn secrets(&self, node: &Node, place: &Path) -> Secrets {
        Secrets::new(key(), "mast-17".parse().unwrap(), vec![place.to_owned()], &node.pods())
    }

    /// Every file in it.
    fn files(&self) -> Vec<PathBuf> {
        tests::real::search::files_with(self.0.path(), b"")
    }
}

#[test]
fn a_pod_finds_its_files_and_sees_them_replaced_without_a_restart() {
    let (node, memory) = (Node::new(), Memory::new());
    let mut agent = memory.agent(&node);
    let script = "cat etc/ocr/ocr.toml keys/token; echo; \
                  until grep -q second keys/token; do sleep 0.01; done; cat etc/ocr/ocr.toml";
    let event = agent.start(with_volumes(1, script, "first"));
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    wait_until("it has read them", || node.log().contains("firstfirst"));
    let both = volumes("second");
    agent.within(|runtime| runtime.attach(&pod(), InstanceId(1), both));
    assert_eq!(agent.exit(1), 0);
    assert!(node.log().contains("second"), "{}", node.log());
    // With the pod its Secrets go, and with the next start they come again.
    agent.within(|runtime| runtime.forget(&pod(), InstanceId(1), true));
    assert!(memory.files().is_empty(), "{:?}", memory.files());
    agent.start(with_volumes(2, "cat keys/token", "third"));
    assert_eq!(agent.exit(2), 0);
    assert!(node.log().contains("third"));
}

#[test]
fn a_pod_outlives_its_agent_with_its_files_and_is_told_of_changes_by_the_next() {
    let (node, memory) = (Node::new(), Memory::new());
    let mut agent = memory.agent(&node);
    let script = "until grep -q second keys/token; do sleep 0.01; done";
    agent.start(with_volumes(1, script, "first"));
    drop(agent);
    let main = node.pid("main");
    let mut agent = memory.agent(&node);
    let found = agent.observe();
    assert_eq!(found[0].parameters_id, 7, "what is the node's own is known again");
    assert!(is_alive(main) && !memory.files().is_empty());
    let both = volumes("second");
    agent.within(|runtime| runtime.attach(&pod(), InstanceId(1), both));
    assert_eq!(agent.exit(1), 0);
    // What is of no pod any more goes when an agent comes up.
    fs::remove_dir_all(node.pod_folder()).unwrap();
    drop(agent);
    memory.agent(&node).observe();
    assert!(memory.files().is_empty(), "{:?}", memory.files());
}

#[test]
fn without_a_place_in_memory_a_pod_with_a_secret_is_not_started_and_says_why() {
    let (node, memory) = (Node::new(), Memory::new());
    let on_disk = node.path("disk");
    fs::create_dir(&on_disk).unwrap();
    let proc = Path::new("/proc");
    let mut agent = Agent::with(&node, |runtime| runtime.with_secrets(memory.secrets(&node, proc)));
    let event = agent.start(with_volumes(1, "true", "first"));
    let RuntimeEvent::StartFailed { reason, message, .. } = event else { panic!("{event:?}") };
    assert_eq!(reason, "NoTmpfs");
    assert!(message.contains("/proc: is not in memory (expected a tmpfs)"), "{message}");
    // One without Secrets is.
    let mut plain = with_volumes(2, "cat etc/ocr/ocr.toml", "first");
    plain.volumes.truncate(1);
    agent.start(plain);
    assert_eq!(agent.exit(2), 0);
}
