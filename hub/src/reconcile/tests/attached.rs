//! ConfigMaps and Secrets that workloads name: what is watched, and what follows when something is missing.

use super::*;
use crate::manifests::AttachedObject;
use shared::model::{ObjectKind, PodTemplate};
use std::sync::Arc;

/// `ocr` names a ConfigMap and a Secret; `command` tells its versions apart.
fn naming(generation: i64, command: &str, config: &str) -> Object {
    let mut naming = workload("ocr", generation, command);
    let spec = naming.spec.pointer_mut("/template/spec").unwrap();
    spec["volumes"] = json!([{ "name": "settings", "configMap": { "name": config } },
        { "name": "keys", "secret": { "secretName": "keys" } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "settings", "mountPath": "/etc/ocr" },
        { "name": "keys", "mountPath": "/keys" }]);
    naming
}

/// A reconciler that knows every workload; only `ocr` is there.
fn listed_with(object: Object) -> Reconciler {
    let mut reconciler = Reconciler::default();
    put(&mut reconciler, object);
    for kind in Kind::ALL {
        let all = (kind == Kind::Workload).then(|| key(kind, "ocr")).into_iter();
        reconciler.handle(Change::Listed(kind, all.collect()));
    }
    reconciler
}

fn interest(reconciler: &mut Reconciler) -> Option<Interest> {
    reconciler.take_interest(std::iter::empty::<(&str, &PodTemplate)>())
}

fn config(text: &str) -> Result<Arc<AttachedObject>, String> {
    let data = BTreeMap::from([("a".to_owned(), text.to_owned())]);
    AttachedObject::config_map(data, BTreeMap::new()).map(Arc::new)
}

fn secret() -> Result<Arc<AttachedObject>, String> {
    let data = BTreeMap::from([("token".to_owned(), b"hunter2".to_vec())]);
    AttachedObject::secret("uid-1".to_owned(), data).map(Arc::new)
}

/// Everything of the kind that is watched is these.
fn seen(
    reconciler: &mut Reconciler,
    interest: &Interest,
    kind: ObjectKind,
    all: &[(&str, Result<Arc<AttachedObject>, String>)],
) {
    let (source, filter) = interest.iter().find(|(source, _)| source.kind == kind).unwrap();
    let contents = all.iter().map(|(name, object)| ((*name).to_owned(), object.clone()));
    let sight = Sight::All(filter.clone(), contents.collect());
    reconciler.handle(Change::Attached(source.clone(), sight));
}

fn accepted(reconciler: &mut Reconciler) -> (String, String, String) {
    let status = status_of(reconciler, Kind::Workload, "ocr");
    let accepted = condition(&status, "Accepted");
    let word = |field: &str| accepted[field].as_str().unwrap().to_owned();
    (word("status"), word("reason"), word("message"))
}

#[test]
fn nothing_is_desired_before_what_is_named_was_read_and_only_that_is_watched() {
    let mut reconciler = listed_with(naming(1, "first", "settings"));
    assert_eq!(reconciler.take_manifests(), None);
    let watched = interest(&mut reconciler).unwrap();
    let names: Vec<_> = watched.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["ConfigMaps in default", "Secret default/keys"]);
    let of_configs = watched.values().next().unwrap();
    assert!(of_configs.takes("settings") && !of_configs.takes("other"));
    assert_eq!(interest(&mut reconciler), None, "it is watched already");
    seen(&mut reconciler, &watched, ObjectKind::ConfigMap, &[("settings", config("1"))]);
    assert_eq!(reconciler.take_manifests(), None);
    seen(&mut reconciler, &watched, ObjectKind::Secret, &[("keys", secret())]);
    interest(&mut reconciler);
    let (manifests, _) = reconciler.take_manifests().unwrap();
    assert_eq!((manifests.workloads.len(), manifests.objects.len()), (1, 2));
    assert_eq!(accepted(&mut reconciler).0, "True");
}

#[test]
fn a_workload_that_lacks_something_is_not_run_and_goes_on_once_it_is_there() {
    let mut reconciler = listed_with(naming(1, "first", "settings"));
    let watched = interest(&mut reconciler).unwrap();
    seen(&mut reconciler, &watched, ObjectKind::ConfigMap, &[]);
    let (source, filter) = watched.iter().next_back().unwrap();
    let words = "secrets \"keys\" is forbidden: User \"hub\" cannot list".to_owned();
    let sight = Sight::Forbidden(filter.clone(), words.clone());
    reconciler.handle(Change::Attached(source.clone(), sight));
    assert_eq!(commands(&mut reconciler), Some(vec![]));
    let (status, reason, message) = accepted(&mut reconciler);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "MissingObjects"));
    let expected =
        "spec.template.spec.volumes[0].configMap.name: there is no ConfigMap default/settings";
    assert_eq!(message, expected);
    seen(&mut reconciler, &watched, ObjectKind::ConfigMap, &[("settings", config("1"))]);
    let message = accepted(&mut reconciler).2;
    assert!(message.ends_with(&format!("Secret default/keys can't be used: {words}")), "{message}");
    assert!(reconciler.problems().iter().any(|problem| problem.contains(&words)));
    seen(&mut reconciler, &watched, ObjectKind::Secret, &[("keys", secret())]);
    interest(&mut reconciler);
    assert_eq!(commands(&mut reconciler), Some(vec!["first".to_owned()]));
    assert_eq!(accepted(&mut reconciler).0, "True");
    assert!(reconciler.problems().is_empty(), "{:?}", reconciler.problems());
}

#[test]
fn what_was_accepted_stays_in_force_while_a_new_template_lacks_something() {
    let mut reconciler = listed_with(naming(1, "first", "settings"));
    let watched = interest(&mut reconciler).unwrap();
    seen(&mut reconciler, &watched, ObjectKind::ConfigMap, &[("settings", config("1"))]);
    seen(&mut reconciler, &watched, ObjectKind::Secret, &[("keys", secret())]);
    interest(&mut reconciler);
    assert_eq!(commands(&mut reconciler), Some(vec!["first".to_owned()]));

    put(&mut reconciler, naming(2, "second", "other"));
    let watched = interest(&mut reconciler).unwrap();
    let of_configs = watched.values().next().unwrap();
    assert!(of_configs.takes("settings") && of_configs.takes("other"), "both are needed");
    assert_eq!(commands(&mut reconciler), Some(vec!["first".to_owned()]));
    assert!(reconciler.take_statuses(&core(), NOW).is_empty(), "nobody knows yet what is missing");
    seen(&mut reconciler, &watched, ObjectKind::ConfigMap, &[("settings", config("1"))]);
    assert_eq!(commands(&mut reconciler), Some(vec!["first".to_owned()]));
    assert_eq!(accepted(&mut reconciler).1, "MissingObjects");
    let both = [("settings", config("1")), ("other", config("2"))];
    seen(&mut reconciler, &watched, ObjectKind::ConfigMap, &both);
    assert_eq!(commands(&mut reconciler), Some(vec!["second".to_owned()]));
    let watched = interest(&mut reconciler).unwrap();
    assert!(!watched.values().next().unwrap().takes("settings"), "nobody names it any more");
}

#[test]
fn what_is_deleted_is_said_and_what_runs_stays_in_force() {
    let mut reconciler = listed_with(naming(1, "first", "settings"));
    let watched = interest(&mut reconciler).unwrap();
    seen(&mut reconciler, &watched, ObjectKind::ConfigMap, &[("settings", config("1"))]);
    seen(&mut reconciler, &watched, ObjectKind::Secret, &[("keys", secret())]);
    interest(&mut reconciler);
    reconciler.take_manifests();
    seen(&mut reconciler, &watched, ObjectKind::Secret, &[]);
    let (manifests, _) = reconciler.take_manifests().unwrap();
    assert_eq!((manifests.workloads.len(), manifests.objects.len()), (1, 1));
    let (_, reason, message) = accepted(&mut reconciler);
    assert_eq!(reason, "MissingObjects");
    assert!(message.ends_with("there is no Secret default/keys"), "{message}");
    // A watch that fails changes nothing.
    let (source, filter) = watched.iter().next_back().unwrap();
    seen(&mut reconciler, &watched, ObjectKind::Secret, &[("keys", secret())]);
    let sight = Sight::Forbidden(filter.clone(), "forbidden".to_owned());
    reconciler.handle(Change::Attached(source.clone(), sight));
    assert_eq!(reconciler.take_manifests().unwrap().0.objects.len(), 2);
    assert_eq!(accepted(&mut reconciler).0, "True");
}

#[test]
fn no_more_is_watched_than_an_api_server_bears_and_what_is_left_out_is_said() {
    let max = crate::reconcile::attached::WATCHES_MAX;
    let mut reconciler = Reconciler::default();
    for number in 0..=max {
        let mut object = naming(1, "first", "settings");
        object.key.name = format!("w{number:04}");
        object.spec["template"]["spec"]["volumes"][1]["secret"]["secretName"] =
            json!(format!("s{number:04}"));
        put(&mut reconciler, object);
    }
    let all = |kind| reconciler_keys(kind, max);
    for kind in Kind::ALL {
        reconciler.handle(Change::Listed(kind, all(kind)));
    }
    let watched = interest(&mut reconciler).unwrap();
    assert_eq!(watched.len(), max);
    let names: Vec<_> = watched.keys().map(ToString::to_string).collect();
    assert_eq!((&*names[0], &*names[1]), ("ConfigMaps in default", "Secret default/s0000"));
    seen(&mut reconciler, &watched, ObjectKind::ConfigMap, &[("settings", config("1"))]);
    let statuses = status_of(&mut reconciler, Kind::Workload, &format!("w{max:04}"));
    let message = condition(&statuses, "Accepted")["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("more than 512 Secrets and namespaces are named"), "{message}");
}

fn reconciler_keys(kind: Kind, max: usize) -> BTreeSet<ObjectKey> {
    let names = (0..=max).filter(|_| kind == Kind::Workload);
    names.map(|number| key(kind, &format!("w{number:04}"))).collect()
}

#[test]
fn parameters_are_looked_for_by_their_beginning_and_waited_for_at_the_start() {
    let mut object = workload("ocr", 1, "first");
    object.spec["parametersFrom"] =
        json!([{ "configMapPrefix": "camera-", "label": "hinterland.dev/site" }]);
    let mut reconciler = listed_with(object);
    let watched = interest(&mut reconciler).unwrap();
    let (source, filter) = watched.iter().next().unwrap();
    assert!(filter.takes("camera-north") && !filter.takes("settings"));
    let sight = Sight::Forbidden(filter.clone(), "forbidden".to_owned());
    reconciler.handle(Change::Attached(source.clone(), sight));
    assert_eq!(reconciler.take_manifests(), None, "else every node would lose its pods");
    seen(&mut reconciler, &watched, ObjectKind::ConfigMap, &[("camera-north", config("1"))]);
    interest(&mut reconciler);
    assert_eq!(reconciler.take_manifests().unwrap().0.objects.len(), 1);
}
