//! What a workload becomes, what is repaired and pruned, and what a kubeconfig must not ask for.

use super::access::check;
use super::applyset::ApplySet;
use super::build::{MemberKind, MemberObject, MemberObjectId, build};
use super::content::Live;
use super::drift::projection;
use super::keeper::{Action, Keeper};
use super::scope::Scope;
use super::share::MemberShare;
use crate::manifests::{AttachedObjects, InferenceWorkload, inference_workload};
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn workload(name: &str, spec: &Value) -> InferenceWorkload {
    let spec = serde_json::from_value(spec.clone()).unwrap();
    inference_workload("inspection", name, &BTreeMap::new(), &BTreeMap::new(), spec).unwrap()
}

fn plain(name: &str) -> InferenceWorkload {
    let containers = json!([{ "name": "server", "image": "registry.example.com/a:1" }]);
    let placement = json!({ "clusterSelector": {}, "replicas": 2 });
    workload(
        name,
        &json!({ "placement": placement, "template": { "spec": { "containers": containers } } }),
    )
}

/// As a member without labels is to have it, where it names nothing.
fn share(workload: &InferenceWorkload) -> MemberShare {
    MemberShare::new(workload, &BTreeMap::new(), &AttachedObjects::new())
}

fn set_of_site() -> ApplySet {
    ApplySet::of_cluster("site-1")
}

fn yaml(objects: &[MemberObject]) -> String {
    let text = |object: &MemberObject| serde_saphyr::to_string(&object.body).unwrap();
    objects.iter().map(text).collect::<Vec<_>>().join("---\n")
}

mod attached;

#[test]
fn a_workload_with_gpus_and_everything_else() {
    let spec = json!({
        "priority": 100,
        "placement": {
            "clusterSelector": { "tier": "gpu" },
            "replicas": 3,
            "nodeSelector": { "accelerator": "orin" },
            "tolerations": [{ "key": "dedicated", "operator": "Equal", "value": "a", "effect": "NoSchedule" }],
        },
        "rollout": { "minReadySeconds": 30, "progressDeadlineSeconds": 300 },
        "template": {
            "metadata": { "labels": { "app": "weld" }, "annotations": { "a/b": "c" } },
            "spec": {
                "terminationGracePeriodSeconds": 20,
                "containers": [{
                    "name": "server",
                    "image": "registry.example.com/weld:2.3.1",
                    "command": ["weld"],
                    "args": ["--listen", "0.0.0.0:8090"],
                    "env": [{ "name": "BATCH", "value": "8" }],
                    "ports": [{ "name": "http", "containerPort": 8090 }, { "containerPort": 9000 }],
                    "resources": { "requests": { "cpu": "500m" }, "limits": { "memory": "2Gi", "nvidia.com/gpu": 1 } },
                    "readinessProbe": { "httpGet": { "path": "/readyz", "port": 8090 } },
                }],
            },
        },
    });
    insta::assert_snapshot!(yaml(&build(&share(&workload("weld", &spec)), &set_of_site())));
}

#[test]
fn the_number_of_pods_is_the_clusters_affair_where_it_is_asked_to_decide_it() {
    let spec = json!({
        "placement": {
            "clusterSelector": {},
            "affinity": {
                "required": [{ "matchExpressions": [{ "key": "gpu", "operator": "Exists" }] }],
                "preferred": [{ "weight": 5, "preference": { "matchExpressions": [{ "key": "a", "operator": "In", "values": ["b"] }] } }],
            },
        },
        "gpu": { "mig": "1g.10gb" },
        "autoscaling": { "minReplicas": 2, "maxReplicas": 8, "metric": "GPUUtilization", "target": 70 },
        "template": { "spec": { "containers": [{ "name": "server", "image": "registry.example.com/a:1" }] } },
    });
    insta::assert_snapshot!(yaml(&build(&share(&workload("weld", &spec)), &set_of_site())));
}

#[test]
fn a_workload_that_says_little_is_counted_and_bounded_all_the_same() {
    let built = build(&share(&plain("small")), &set_of_site());
    let kinds: Vec<MemberKind> = built.iter().map(|object| object.id.kind).collect();
    assert_eq!(kinds, [MemberKind::PodDisruptionBudget, MemberKind::Deployment]);
    let resources = &built[1].body["spec"]["template"]["spec"]["containers"][0]["resources"];
    let expected = json!({
        "requests": { "cpu": "100m", "memory": "128Mi" },
        "limits": { "cpu": "1", "memory": "512Mi" },
    });
    assert_eq!(*resources, expected);
    let pod = &built[1].body["spec"]["template"]["spec"];
    assert!(pod.get("tolerations").is_none(), "nodes with GPUs are not for it: {pod}");
}

#[test]
fn a_deployment_has_the_probes_that_were_written_with_numbers_for_names() {
    let spec = json!({
        "placement": { "clusterSelector": {} },
        "template": { "spec": { "containers": [{
            "name": "server",
            "image": "registry.example.com/a:1",
            "ports": [{ "name": "http", "containerPort": 8080 }],
            "startupProbe": { "tcpSocket": { "port": "http" } },
            "readinessProbe": { "grpc": { "port": 50051, "service": "ocr" } },
            "livenessProbe": { "grpc": { "port": 50051 } },
            "lifecycle": { "preStop": { "httpGet": { "port": "http" } } },
        }] } },
    });
    let built = build(&share(&workload("ocr", &spec)), &set_of_site());
    let deployment = built.iter().find(|one| one.id.kind == MemberKind::Deployment).unwrap();
    let container = &deployment.body["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["startupProbe"]["tcpSocket"], json!({ "port": 8080 }));
    let asked = json!({ "port": 50051, "service": "ocr" });
    assert_eq!(container["readinessProbe"]["grpc"], asked);
    assert_eq!(container["livenessProbe"]["grpc"], json!({ "port": 50051 }));
    assert_eq!(container["lifecycle"]["preStop"]["httpGet"]["port"], json!(8080));
    assert!(container["startupProbe"].get("grpc").is_none());
}

#[test]
fn a_deployment_has_all_containers_and_the_mig_instance_is_the_first_one_s() {
    let image = "registry.example.com/a:1";
    let spec = json!({
        "placement": { "clusterSelector": {} },
        "gpu": { "mig": "1g.10gb" },
        "template": { "spec": {
            "initContainers": [
                { "name": "fetch", "image": image },
                { "name": "proxy", "image": image, "restartPolicy": "Always", "ports": [{ "containerPort": 81 }] }],
            "containers": [
                { "name": "server", "image": image, "ports": [{ "containerPort": 80 }] },
                { "name": "worker", "image": image }] } },
    });
    let built = build(&share(&workload("ocr", &spec)), &set_of_site());
    let ports = built[0].body["spec"]["ports"].as_array().unwrap();
    assert_eq!(ports.iter().map(|port| &port["port"]).collect::<Vec<_>>(), [81, 80]);
    let pod = &built[2].body["spec"]["template"]["spec"];
    let proxy = &pod["initContainers"][1];
    assert_eq!((&proxy["name"], &proxy["restartPolicy"]), (&json!("proxy"), &json!("Always")));
    assert!(pod["initContainers"][0].get("restartPolicy").is_none());
    let mig = |list: &str, index: usize| {
        let limits = &pod[list][index]["resources"]["limits"];
        limits.get("nvidia.com/mig-1g.10gb").is_some()
    };
    assert!(mig("containers", 0) && !mig("containers", 1) && !mig("initContainers", 0));
}

#[test]
fn what_is_said_of_the_network_is_the_cluster_s_to_know() {
    let pod_of = |spec: Value| {
        let spec = json!({ "placement": { "clusterSelector": {} }, "template": { "spec": spec } });
        let built = build(&share(&workload("ocr", &spec)), &set_of_site());
        built.last().unwrap().body["spec"]["template"]["spec"].clone()
    };
    let port =
        json!({ "containerPort": 80, "protocol": "TCP", "hostPort": 8080, "hostIP": "10.0.0.7" });
    let containers = json!([{ "name": "server", "image": "a", "ports": [port] }]);
    let policy = json!("ClusterFirst");
    let pod =
        pod_of(json!({ "hostNetwork": false, "dnsPolicy": policy, "containers": containers }));
    assert_eq!((&pod["hostNetwork"], &pod["dnsPolicy"]), (&json!(false), &policy));
    assert_eq!(pod["containers"][0]["ports"][0], port);
    let pod = pod_of(json!({ "containers": [{ "name": "server", "image": "a" }] }));
    assert!(pod.get("hostNetwork").is_none() && pod.get("dnsPolicy").is_none());
}

#[test]
fn what_only_edge_nodes_do_is_refused_with_its_path() {
    let container = |rest: Value| {
        let mut container = json!({ "name": "server", "image": "a" });
        for (field, value) in rest.as_object().unwrap() {
            container[field] = value.clone();
        }
        json!({ "placement": { "clusterSelector": {} },
            "template": { "spec": { "containers": [container] } } })
    };
    let with = |field: &str, value: Value| {
        let mut spec = container(json!({}));
        spec[field] = value;
        spec
    };
    let everywhere = json!({ "clusterSelector": {}, "replicasPerNode": 2 });
    for (spec, path) in [
        (container(json!({ "image": "" })), "spec.template.spec.containers[0].image"),
        (
            container(json!({ "resources": { "limits": { "hinterland.dev/gpu-memory": "4Gi" } } })),
            "spec.template.spec.containers[0].resources.limits[hinterland.dev/gpu-memory]",
        ),
        (with("placement", everywhere), "spec.placement.replicasPerNode"),
        (with("priority", json!(1_000_000_001)), "spec.priority"),
        (with("results", json!([{ "topic": "a" }])), "spec.results"),
    ] {
        let spec = serde_json::from_value(spec).unwrap();
        let refused = inference_workload("a", "b", &BTreeMap::new(), &BTreeMap::new(), spec);
        assert_eq!(refused.unwrap_err().0, path);
    }
}

/// What the server makes of an object: with a default more.
fn answered(object: &MemberObject) -> Value {
    let mut answer = object.sent();
    answer["metadata"]["resourceVersion"] = json!("7");
    answer["spec"]["added"] = json!("by default");
    answer
}

/// A keeper with two workloads that are as they should be.
fn kept() -> Keeper {
    let mut keeper = Keeper::new(set_of_site());
    keeper.desire(&[share(&plain("one")), share(&plain("two"))]);
    for action in keeper.actions() {
        let Action::Apply { object, is_new: true } = action else { panic!("{action:?}") };
        let answer = Live::of(&object.id, answered(&object));
        keeper.applied(object, answer);
    }
    assert_eq!(keeper.actions(), []);
    keeper
}

fn deployment(name: &str) -> MemberObjectId {
    let namespace = Some("inspection".to_owned());
    MemberObjectId { kind: MemberKind::Deployment, namespace, name: name.to_owned() }
}

fn live(name: &str) -> (MemberObjectId, Value) {
    let objects = build(&share(&plain(name)), &set_of_site());
    (deployment(name), answered(objects.last().unwrap()))
}

#[test]
fn what_somebody_changes_or_deletes_is_put_right_and_what_others_add_is_theirs() {
    let mut keeper = kept();
    let (id, mut object) = live("one");
    object["status"] = json!({ "readyReplicas": 1 });
    object["metadata"]["annotations"] = json!({ "of": "others" });
    object["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({ "name": "sidecar" }));
    keeper.seen(id.clone(), Live::of(&id, object.clone()));
    assert_eq!(keeper.actions(), []);
    object["spec"]["replicas"] = json!(5);
    keeper.seen(id.clone(), Live::of(&id, object));
    assert!(
        matches!(&keeper.actions()[..], [Action::Apply { object, is_new: false }] if object.id == id)
    );
    keeper.gone(&id);
    assert!(
        matches!(&keeper.actions()[..], [Action::Apply { object, is_new: true }] if object.id == id)
    );
}

#[test]
fn what_no_workload_has_any_more_is_pruned_also_where_nobody_saw_it_come() {
    let mut keeper = kept();
    let (id, object) = live("three");
    let scope = Scope::of(&id);
    let all = [live("one"), live("two"), (id.clone(), object)];
    keeper.listed(&scope, all.map(|(id, object)| (id.clone(), Live::of(&id, object))).into());
    assert_eq!(keeper.actions(), [Action::Prune(id.clone())]);
    keeper.gone(&id);
    keeper.desire(&[share(&plain("two"))]);
    let pruned: Vec<String> = keeper
        .actions()
        .into_iter()
        .map(|action| match action {
            Action::Prune(id) => id.name,
            Action::Apply { .. } => panic!("{action:?}"),
        })
        .collect();
    assert_eq!(pruned, ["one", "one"], "its budget and its Deployment");
}

#[test]
fn what_is_refused_holds_up_no_other_and_is_tried_again_when_it_is_another() {
    let mut keeper = kept();
    let mut changed = plain("one");
    changed.priority = 5;
    keeper.desire(&[share(&changed), share(&plain("two"))]);
    let ids: Vec<_> = keeper.actions().iter().filter_map(applied_id).collect();
    assert_eq!(ids.len(), 2, "the class and the Deployment: {ids:?}");
    keeper.refused(ids[0].clone(), "no".to_owned());
    assert_eq!(keeper.actions().iter().filter_map(applied_id).collect::<Vec<_>>(), ids[1..]);
    let key = plain("one").key;
    let problem = keeper.workloads()[&key].problem.clone();
    assert_eq!(problem.as_deref(), Some("PriorityClass hinterland-5: no"));
    assert_eq!(keeper.workloads()[&plain("two").key].problem, None);
    assert!(keeper.try_again() && keeper.actions().len() == 2);
}

fn applied_id(action: &Action) -> Option<MemberObjectId> {
    match action {
        Action::Apply { object, .. } => Some(object.id.clone()),
        Action::Prune(_) => None,
    }
}

#[test]
fn a_status_counts_for_the_spec_that_it_is_about() {
    let mut keeper = kept();
    let (id, mut object) = live("one");
    let key = plain("one").key;
    object["metadata"]["generation"] = json!(3);
    object["status"] = json!({ "observedGeneration": 2, "readyReplicas": 2, "updatedReplicas": 2 });
    keeper.seen(id.clone(), Live::of(&id, object.clone()));
    assert!(!keeper.workloads()[&key].is_ready());
    object["status"]["observedGeneration"] = json!(3);
    keeper.seen(id.clone(), Live::of(&id, object.clone()));
    assert!(keeper.workloads()[&key].is_ready());
    object["status"]["conditions"] = json!([{ "type": "Progressing", "status": "False",
        "reason": "ProgressDeadlineExceeded", "message": "it has timed out" }]);
    keeper.seen(id.clone(), Live::of(&id, object));
    let problem = keeper.workloads()[&key].problem.clone();
    assert_eq!(problem.as_deref(), Some("ProgressDeadlineExceeded: it has timed out"));
}

#[test]
fn a_list_that_lost_an_entry_is_drift_whether_its_entries_have_names_or_not() {
    let applied = json!({ "args": ["a", "b"], "env": [{ "name": "A", "value": "1" }] });
    assert_eq!(projection(&applied, &applied), applied);
    let more = json!({ "args": ["a", "b"], "env": [{ "name": "Z" }, { "name": "A", "value": "1", "x": 1 }] });
    assert_eq!(projection(&applied, &more), applied);
    for shown in [
        json!({ "args": ["a"], "env": applied["env"] }),
        json!({ "args": ["a", "b", "c"], "env": applied["env"] }),
        json!({ "args": ["a", "b"], "env": [] }),
        json!({ "args": ["a", "b"] }),
        json!(null),
    ] {
        assert_ne!(projection(&applied, &shown), applied, "{shown}");
    }
}

#[test]
fn a_kubeconfig_runs_no_program_reads_no_file_and_trusts_nobody_unseen() {
    let kubeconfig = |cluster: &str, user: &str| {
        Kubeconfig::from_yaml(&format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: a, cluster: {{{cluster}}}}}]\n\
             users: [{{name: a, user: {{{user}}}}}]\n"
        ))
        .unwrap()
    };
    let server = "server: \"https://site:6443\"";
    assert_eq!(check(&kubeconfig(server, "token: abc")), Ok(()));
    for (cluster, user, word) in [
        (server, "exec: {command: sh, apiVersion: client.authentication.k8s.io/v1}", "exec"),
        (server, "auth-provider: {name: gcp, config: {}}", "auth-provider"),
        (server, "tokenFile: /etc/shadow", "tokenFile"),
        (server, "client-certificate: /a", "client-certificate"),
        (server, "client-key: /a", "client-key"),
        ("server: \"https://a\", certificate-authority: /a", "token: a", "certificate-authority"),
        ("server: \"https://a\", insecure-skip-tls-verify: true", "token: a", "insecure"),
        ("server: \"http://a\"", "token: a", "https"),
    ] {
        let refused = check(&kubeconfig(cluster, user)).unwrap_err();
        assert!(refused.contains(word), "{refused}");
    }
}
