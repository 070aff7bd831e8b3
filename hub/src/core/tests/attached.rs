//! ConfigMaps and Secrets in the desired state of the nodes that run what names them.

use super::super::{Event, HubCore, HubKeys, NodeRecord, StoredState};
use crate::manifests::{AttachedObjects, Manifests, parse_documents};
use shared::model::{NodeId, Now, ObjectKind, ObjectName, SecretItem, UnixMs};
use shared::trust::seal::open_secret;
use shared::trust::session::SessionPrivateKey;
use shared::trust::signature::SigningKey;
use shared::wire::decode;
use std::collections::BTreeMap;

const MANIFESTS: &str = "\
apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: ocr}
spec:
  placement: {nodeSelector: {site: north}}
  template:
    spec:
      volumes: [{name: keys, secret: {secretName: keys}}, {name: conf, configMap: {name: conf}}]
      containers:
      - name: ocr
        command: [ocr]
        volumeMounts: [{name: keys, mountPath: /keys}, {name: conf, mountPath: /conf}]
---
apiVersion: hinterland.dev/v1alpha1
kind: EdgeNode
metadata: {name: a, labels: {site: north}}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {token: hunter2}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {a: b}
";

fn key(of: &NodeId) -> SessionPrivateKey {
    SessionPrivateKey::generate([of.as_str().as_bytes()[0]; 32])
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A hub with the nodes `a` and `b`; `start` is another at each start.
fn hub(start: u8, manifests: Manifests) -> HubCore {
    let (session, signing) = (SessionPrivateKey::generate([2; 32]), SigningKey::generate([3; 32]));
    let record = |name| {
        let node = id(name);
        let record = NodeRecord::new(key(&node).public(), "01".to_owned(), UnixMs(0));
        (node, record)
    };
    let nodes = ["a", "b"].map(record).into();
    let stored = StoredState { term: u64::from(start), nodes, ..StoredState::default() };
    let keys = HubKeys { session, signing };
    let mut core = HubCore::new(keys, [start; 32], stored, Now::default());
    core.handle_event(Event::Manifests(manifests), Now::default());
    core
}

fn read(text: &str) -> Manifests {
    parse_documents("a.yaml", text).unwrap()
}

fn items(core: &HubCore, node: &str) -> BTreeMap<String, Vec<u8>> {
    core.nodes[&id(node)].desired.content().items().clone()
}

#[test]
fn a_node_that_runs_what_names_them_has_them_and_alone_can_open_the_secret() {
    let core = hub(1, read(MANIFESTS));
    let told = items(&core, "a");
    let keys: Vec<_> = told.keys().map(String::as_str).collect();
    assert_eq!(keys, ["c/default/conf", "default/ocr", "s/default/keys"]);
    assert!(items(&core, "b").is_empty());
    let name = ObjectName::of_map_key("s/default/keys").unwrap();
    assert_eq!(name.kind, ObjectKind::Secret);
    let item: SecretItem = decode("Secret", &told["s/default/keys"], 1024).unwrap();
    let data = open_secret(&key(&id("a")), &id("a"), &name, &item).unwrap();
    assert_eq!(data["token"].reveal(), b"hunter2");
    assert!(open_secret(&key(&id("b")), &id("a"), &name, &item).is_err());
    let plain = told.values().any(|item| item.windows(7).any(|bytes| bytes == b"hunter2"));
    assert!(!plain, "it is nowhere in the open");
    assert_eq!(core.node_view(&id("a")).unwrap().workloads, ["default/ocr"]);
}

#[test]
fn another_start_or_another_hub_tells_the_same_and_another_secret_something_else() {
    let digest = |core: &HubCore| core.desired_digest(&id("a")).unwrap();
    let mut first = hub(1, read(MANIFESTS));
    let before = digest(&first);
    assert_eq!(digest(&hub(2, read(MANIFESTS))), before);
    // What says the same in other words is the same.
    let other_words =
        MANIFESTS.replace("stringData: {token: hunter2}", "data: {token: aHVudGVyMg==}");
    first.handle_event(Event::Manifests(read(&other_words)), Now::default());
    assert_eq!(digest(&first), before);
    first.handle_event(
        Event::Manifests(read(&MANIFESTS.replace("hunter2", "hunter3"))),
        Now::default(),
    );
    assert_ne!(digest(&first), before);
    assert_eq!(digest(&first), digest(&hub(3, read(&MANIFESTS.replace("hunter2", "hunter3")))));
}

#[test]
fn what_is_gone_stays_as_it_was_told_for_as_long_as_something_names_it() {
    let mut core = hub(1, read(MANIFESTS));
    let told = items(&core, "a");
    let without = Manifests { objects: AttachedObjects::new(), ..read(MANIFESTS) };
    core.handle_event(Event::Manifests(without), Now::default());
    assert_eq!(items(&core, "a"), told);
    let unnamed = "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata: {name: a}\n";
    core.handle_event(Event::Manifests(read(unnamed)), Now::default());
    assert!(items(&core, "a").is_empty());
}
