//! ConfigMaps and Secrets that templates name, and parameters of a member's own.

use super::*;
use crate::manifests::AttachedObject;
use shared::model::{ObjectKind, ObjectName};
use std::sync::Arc;

const TOKEN: &str = "the-token-that-nobody-reads";

fn named(kind: ObjectKind, name: &str) -> ObjectName {
    ObjectName { kind, namespace: "inspection".to_owned(), name: name.to_owned() }
}

fn config(name: &str, pairs: &[(&str, &str)]) -> (ObjectName, Arc<AttachedObject>) {
    let pairs = pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
    let binary = BTreeMap::from([("model.bin".to_owned(), vec![0xff, 0])]);
    let object = AttachedObject::config_map(pairs.collect(), binary).unwrap();
    (named(ObjectKind::ConfigMap, name), Arc::new(object))
}

fn secret(token: &str) -> (ObjectName, Arc<AttachedObject>) {
    let data = BTreeMap::from([("token".to_owned(), token.as_bytes().to_vec())]);
    let object = AttachedObject::secret("uid-1".to_owned(), data).unwrap();
    (named(ObjectKind::Secret, "keys"), Arc::new(object))
}

fn all() -> AttachedObjects {
    let settings = config("settings", &[("ocr.toml", "a"), ("nap", "7")]);
    [
        settings,
        secret(TOKEN),
        config("camera-north", &[("CAMERA", "$10.0.0.1"), ("nap", "8"), ("0", "")]),
    ]
    .into()
}

/// It has files of a ConfigMap and of a Secret, a variable of the ConfigMap, and the camera of its site.
fn naming(name: &str) -> InferenceWorkload {
    let spec = json!({
        "placement": { "clusterSelector": {}, "replicas": 2 },
        "parametersFrom": [{ "configMapPrefix": "camera-", "label": "site" }],
        "template": { "spec": {
            "volumes": [
                { "name": "settings", "configMap": { "name": "settings", "items": [{ "key": "ocr.toml", "path": "a.toml" }] } },
                { "name": "keys", "secret": { "secretName": "keys" } },
            ],
            "containers": [{
                "name": "server",
                "image": "registry.example.com/ocr:1",
                "env": [
                    { "name": "nap", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "nap" } } },
                    { "name": "BATCH", "value": "8" },
                ],
                "volumeMounts": [{ "name": "settings", "mountPath": "/etc/ocr" }, { "name": "keys", "mountPath": "/run/keys" }],
            }],
        } },
    });
    workload(name, &spec)
}

fn labels(site: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("site".to_owned(), site.to_owned())])
}

fn share_with(name: &str, objects: &AttachedObjects) -> MemberShare {
    MemberShare::new(&naming(name), &labels("north"), objects)
}

fn attached(kind: ObjectKind, name: &str) -> MemberObjectId {
    MemberObjectId::of_attached(&named(kind, name))
}

/// Does all that is due, as a server that takes everything; what that was.
fn settle(keeper: &mut Keeper) -> Vec<String> {
    let mut done = vec![];
    for action in keeper.actions() {
        match action {
            Action::Apply { object, .. } => {
                done.push(format!("{:?} {}", object.id.kind, object.id.name));
                let answer = Live::of(&object.id, answered(&object));
                keeper.applied(object, answer);
            }
            Action::Prune(id) => {
                done.push(format!("no {:?} {}", id.kind, id.name));
                keeper.gone(&id);
            }
        }
    }
    assert_eq!(keeper.actions(), []);
    done
}

/// A keeper of `one`, which is as it should be.
fn kept_one() -> Keeper {
    let mut keeper = Keeper::new(set_of_site());
    keeper.desire(&[share_with("one", &all())]);
    settle(&mut keeper);
    keeper
}

fn hash(objects: &AttachedObjects) -> Value {
    let built = build(&share_with("one", objects), &set_of_site());
    built.last().unwrap().body["spec"]["template"]["metadata"]["annotations"]
        ["hinterland.dev/environment-hash"]
        .clone()
}

#[test]
fn what_a_template_names_is_applied_before_its_deployment_with_the_members_own_parameters() {
    let built = build(&share_with("ocr", &all()), &set_of_site());
    let sent = |object: &MemberObject| serde_saphyr::to_string(&object.sent()).unwrap();
    insta::assert_snapshot!(built.iter().map(sent).collect::<Vec<_>>().join("---\n"));
}

#[test]
fn pods_are_others_when_what_their_environment_has_is_another_and_only_then() {
    let before = hash(&all());
    assert!(before.is_string(), "{before}");
    let with = |settings: &[(&str, &str)], token: &str| {
        let mut objects = all();
        objects.extend([config("settings", settings), secret(token)]);
        hash(&objects)
    };
    assert_eq!(with(&[("ocr.toml", "b"), ("nap", "7")], "another"), before, "these are files");
    assert_ne!(with(&[("ocr.toml", "a"), ("nap", "8")], TOKEN), before);
    let plain = build(&share(&plain("one")), &set_of_site());
    let metadata = &plain.last().unwrap().body["spec"]["template"]["metadata"];
    assert!(metadata.get("annotations").is_none(), "{metadata}");
}

#[test]
fn a_change_of_content_is_applied_drift_is_put_right_and_what_others_add_is_theirs() {
    let mut keeper = kept_one();
    let mut objects = all();
    objects.extend([secret("another")]);
    keeper.desire(&[share_with("one", &objects)]);
    assert_eq!(settle(&mut keeper), ["Secret keys"]);
    let id = attached(ObjectKind::Secret, "keys");
    let shown = |token: &str| {
        json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": { "name": "keys", "namespace": "inspection", "resourceVersion": "9",
                "labels": { "app.kubernetes.io/managed-by": "hinterland",
                    "applyset.kubernetes.io/part-of": set_of_site().id, "of": "others" },
                "annotations": { "kubectl.kubernetes.io/last-applied-configuration": TOKEN } },
            "data": { "token": token, "theirs": "eA==" } })
    };
    // `another`, and then something else.
    keeper.seen(id.clone(), Live::of(&id, shown("YW5vdGhlcg==")));
    assert_eq!(keeper.actions(), []);
    keeper.seen(id.clone(), Live::of(&id, shown("eA==")));
    assert_eq!(settle(&mut keeper), ["Secret keys"]);
    keeper.gone(&attached(ObjectKind::ConfigMap, "settings"));
    assert_eq!(settle(&mut keeper), ["ConfigMap settings"]);
}

#[test]
fn nothing_that_is_secret_is_held_to_be_compared_or_printed() {
    let mut keeper = Keeper::new(set_of_site());
    keeper.desire(&[share_with("one", &all())]);
    let mut printed = format!("{keeper:?} {:?}", keeper.actions());
    settle(&mut keeper);
    let id = attached(ObjectKind::Secret, "keys");
    let annotations = json!({ "kubectl.kubernetes.io/last-applied-configuration": TOKEN });
    let encoded = "dGhlLXRva2VuLXRoYXQtbm9ib2R5LXJlYWRz";
    let metadata = json!({ "name": "keys", "annotations": annotations });
    let shown = json!({ "metadata": metadata, "data": { "token": encoded }, "stringData": { "token": TOKEN } });
    keeper.seen(id.clone(), Live::of(&id, shown));
    printed += &format!("{keeper:?} {} {:?}", keeper.parent(), keeper.workloads());
    for needle in [TOKEN, encoded] {
        assert!(!printed.contains(needle), "{printed}");
    }
}

#[test]
fn what_nobody_names_any_more_goes_after_who_named_it_and_what_two_name_stays() {
    let mut keeper = Keeper::new(set_of_site());
    keeper.desire(&[share_with("one", &all()), share_with("two", &all())]);
    settle(&mut keeper);
    keeper.desire(&[share_with("two", &all())]);
    assert_eq!(settle(&mut keeper), ["no Deployment one", "no PodDisruptionBudget one"]);
    keeper.desire(&[]);
    let expected = [
        "no Deployment two",
        "no PodDisruptionBudget two",
        "no Secret keys",
        "no ConfigMap settings",
    ];
    assert_eq!(settle(&mut keeper), expected);
}

#[test]
fn a_deployment_waits_for_what_it_names_and_what_it_named_stays_until_then() {
    let mut keeper = kept_one();
    let mut changed = naming("one");
    changed.template.spec.volumes[0].config_map.as_mut().unwrap().name = "other".to_owned();
    changed.template.spec.containers[0].env.clear();
    let mut objects = all();
    objects.extend([config("other", &[("ocr.toml", "b")])]);
    keeper.desire(&[MemberShare::new(&changed, &labels("north"), &objects)]);
    let other = attached(ObjectKind::ConfigMap, "other");
    keeper.refused(other.clone(), "there is one that is not the hub's".to_owned());
    assert!(keeper.awaits(&deployment("one")));
    assert_eq!(keeper.actions(), [], "what the pods have named until now is not pruned");
    let problem = keeper.workloads()[&changed.key].problem.clone();
    assert_eq!(problem.as_deref(), Some("ConfigMap other: there is one that is not the hub's"));
    keeper.try_again();
    assert_eq!(settle(&mut keeper), ["ConfigMap other", "Deployment one", "no ConfigMap settings"]);
}

#[test]
fn secrets_that_may_not_be_looked_at_hold_up_those_only_that_name_some() {
    let mut keeper = Keeper::new(set_of_site());
    keeper.desire(&[share(&plain("plain"))]);
    let usual: Vec<Scope> = Scope::of_all().collect();
    assert_eq!(keeper.scopes().into_iter().collect::<Vec<_>>(), usual, "no Secret is looked at");
    keeper.desire(&[share_with("one", &all()), share(&plain("plain"))]);
    let scope = Scope::of(&attached(ObjectKind::Secret, "keys"));
    assert_eq!(scope.to_string(), "secrets in inspection");
    assert!(keeper.scopes().contains(&scope));
    keeper.forbidden(scope.clone(), "secrets is forbidden".to_owned());
    let done = settle(&mut keeper);
    assert!(done.contains(&"Deployment plain".to_owned()), "{done:?}");
    assert!(!done.iter().any(|what| what == "Deployment one" || what == "Secret keys"), "{done:?}");
    let problem = |keeper: &Keeper, name| keeper.workloads()[&plain(name).key].problem.clone();
    assert_eq!(problem(&keeper, "one").as_deref(), Some("Secret keys: secrets is forbidden"));
    assert_eq!(problem(&keeper, "plain"), None);
    assert_eq!(keeper.unseen(), std::slice::from_ref(&scope));
    keeper.listed(&scope, BTreeMap::new());
    assert_eq!(settle(&mut keeper), ["Secret keys", "Deployment one"]);
    assert_eq!(problem(&keeper, "one"), None);
}

#[test]
fn a_hub_that_starts_anew_looks_where_the_parent_says_that_there_may_be_secrets() {
    let parent = kept_one().parent();
    let mut next = Keeper::new(set_of_site());
    next.remember(&parent);
    let scope = Scope::of(&attached(ObjectKind::Secret, "keys"));
    assert!(next.scopes().contains(&scope), "{parent}");
    next.listed(&scope, BTreeMap::new());
    assert!(!next.scopes().contains(&scope), "there is none any more");
    next.remember(&next.parent());
    assert!(!next.parent().to_string().contains("Secret"));
    next.remember(&json!({ "metadata": { "annotations": 5 } }));
}

#[test]
fn what_is_missing_leaves_what_is_there_and_a_member_without_parameters_has_nothing_of_it() {
    let mut keeper = kept_one();
    let mut objects = all();
    objects.remove(&named(ObjectKind::Secret, "keys"));
    keeper.desire(&[share_with("one", &objects)]);
    assert_eq!(keeper.actions(), []);
    let key = naming("one").key;
    let problem = keeper.workloads()[&key].problem.clone().unwrap();
    let expected = "spec.template.spec.volumes[1].secret.secretName: there is no Secret inspection/keys; what is \
        there stays as it is";
    assert_eq!(problem, expected);
    // Nor is it pruned by one that has not applied it.
    let mut next = Keeper::new(set_of_site());
    next.desire(&[share_with("one", &objects)]);
    let id = attached(ObjectKind::Secret, "keys");
    next.seen(id.clone(), Live::of(&id, json!({})));
    let (id, object) = live("one");
    next.seen(id.clone(), Live::of(&id, object));
    assert_eq!(next.actions(), []);

    for (site, why) in
        [("", "no label `site`"), ("south", "no ConfigMap `camera-…` for its label `site`")]
    {
        let labels = if site.is_empty() { BTreeMap::new() } else { labels(site) };
        let mut keeper = kept_one();
        keeper.desire(&[MemberShare::new(&naming("one"), &labels, &all())]);
        assert_eq!(settle(&mut keeper).len(), 4);
        let one = keeper.workloads()[&key].clone();
        assert!(one.problem.as_ref().unwrap().starts_with(why), "{one:?}");
        assert_eq!((one.wanted, one.is_ready()), (0, false));
    }
}
