//! The files that a pod has of ConfigMaps, Secrets and models: read-only, replaced without a restart, and those of
//! Secrets on no disk.

use crate::scene::{Agent, Node, key, pod, request, wait_until};
use edge_agent::ports::{
    InstanceId, Runtime, RuntimeEvent, StartRequest, VolumeContent, VolumeSource,
};
use serde_bytes::ByteBuf;
use shared::model::{ConfigItem, ObjectKind, ObjectName, SecretBytes, SecretData};
use shared::trust::seal::seal_secret;
use shared::trust::signature::SigningKey;
use std::path::Path;
use std::sync::Arc;
use tests::real::search::files_with;

pub(crate) fn config(text: &str) -> VolumeContent {
    let data = [("ocr.toml".to_owned(), ByteBuf::from(text.as_bytes()))];
    VolumeContent {
        name: "settings".to_owned(),
        mounts: vec!["etc/ocr".to_owned()],
        source: VolumeSource::ConfigMap(Arc::new(ConfigItem { data: data.into() })),
        ..VolumeContent::default()
    }
}

pub(crate) fn secret(text: &str) -> VolumeContent {
    let (kind, namespace) = (ObjectKind::Secret, "default".to_owned());
    let name = ObjectName { kind, namespace, name: "keys".to_owned() };
    let data = [("token".to_owned(), SecretBytes::new(text.as_bytes().to_vec()))];
    let (by, to) = (SigningKey::generate([1; 32]), key().public());
    let node = "mast-17".parse().unwrap();
    let item = seal_secret(&by, (&node, &to), &name, "1", &SecretData::from(data)).unwrap();
    VolumeContent {
        name: "keys".to_owned(),
        mounts: vec!["keys".to_owned()],
        is_secret: true,
        source: VolumeSource::Secret(name, Arc::new(item)),
        ..VolumeContent::default()
    }
}

pub(crate) fn model(file: &Path) -> VolumeContent {
    VolumeContent {
        name: "model.ocr".to_owned(),
        mounts: vec!["models/ocr.onnx".to_owned()],
        source: VolumeSource::Model(file.to_owned()),
        ..VolumeContent::default()
    }
}

#[test]
fn a_pod_finds_its_files_read_only_and_sees_them_replaced_and_no_disk_has_its_secret() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let file = node.folder.path().join("model");
    std::fs::write(&file, "weights").unwrap();
    let script = "cat /etc/ocr/ocr.toml /models/ocr.onnx; \
                  test \"$(cat /keys/token | tail -c 2)\" = r2 && echo; echo secret read; \
                  for f in /etc/ocr/ocr.toml /etc/ocr/new /keys/token /models/ocr.onnx; do \
                  echo x 2>/dev/null > $f && echo wrote $f; done; \
                  until grep -q second /etc/ocr/ocr.toml; do sleep 0.1; done; echo replaced; \
                  until grep -q hunter3 /keys/token; do sleep 0.1; done; echo both; sleep 1000";
    let volumes = vec![config("first"), secret("hunter2"), model(&file)];
    let event = agent.start(StartRequest { volumes, ..request(1, script) });
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    wait_until("it has read them", || node.log().contains("firstweights\nsecret read"));
    let volumes = vec![config("second"), secret("hunter3"), model(&file)];
    agent.within(|runtime| runtime.attach(&pod(), InstanceId(1), volumes));
    wait_until("it sees both replaced", || node.log().contains("replaced\nboth"));
    assert!(!node.log().contains("wrote"), "{}", node.log());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "weights");
    for needle in [&b"hunter2"[..], b"hunter3"] {
        // The script that looks for it is on the disk; the files that hold it are not.
        let found = [
            files_with(&node.containerd.root(), b"hunter2"),
            files_with(node.folder.path(), needle),
        ];
        assert!(found.iter().all(Vec::is_empty), "{found:?}");
    }
    assert_eq!(files_with(node.memory.path(), b"hunter3").len(), 1);
    agent.clear(&node, 1);
    assert!(files_with(node.memory.path(), b"").is_empty());
}

#[test]
fn a_model_that_is_gone_keeps_the_pod_from_starting() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let volumes = vec![model(&node.folder.path().join("model"))];
    let (reason, _) = agent.refusal(StartRequest { volumes, ..request(1, "true") });
    assert_eq!(reason, "ModelMissing");
    node.assert_clean();
}
