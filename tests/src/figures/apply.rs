//! From `kubectl apply` to a started pod, and to one that is ready and seen so in the workload's status: a real
//! API server, hub, broker, TLS, session, agent, runtime, and all the way back.

use super::marks::Marks;
use super::{Figure, percentile, work_folder};
use crate::real::agent::Agent;
use crate::real::hub::Hub;
use crate::real::kubernetes::Cluster;
use crate::story::in_session;
use anyhow::Context;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime};

const RBAC: &str = include_str!("../../../deploy/rbac/hub.yaml");

const PATIENCE: Duration = Duration::from_secs(60);

const WORKLOADS: &str = "/apis/hinterland.dev/v1alpha1/namespaces/default/inferenceworkloads";

/// Workloads that are measured.
const APPLIED: usize = 40;

struct Scene {
    cluster: Cluster,
    _hub: Hub,
    _agent: Agent,
}

impl Scene {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let cluster = Cluster::with_definitions(&folder.join("cluster"))?;
        cluster.kubectl(&["create", "namespace", "hinterland"])?;
        cluster.apply(RBAC)?;
        let mut hub = Hub::new(&folder.join("hub"))?;
        let kubeconfig = cluster.kubeconfig("hub");
        hub.configure(&format!("[kubernetes]\nkubeconfig = \"{}\"\n", kubeconfig.display()))?;
        hub.start()?;
        let mut agent = Agent::new(&folder.join("mast-17"), "mast-17")?;
        agent.enroll(&hub)?;
        agent.start()?;
        agent.wait_until_up()?;
        agent.wait_for("in session", PATIENCE, in_session)?;
        Ok(Self { cluster, _hub: hub, _agent: agent })
    }
}

/// A request to create a workload until the pod's own program runs, and until the status says that it is ready.
pub(super) fn apply_to_ready() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let scene = Scene::new(folder.path())?;
    let marks = Marks::new(&folder.path().join("marks"))?;
    let proxy = scene.cluster.proxy()?;
    let mut watch = proxy.watch(WORKLOADS)?;
    let (mut started, mut ready) = (Vec::new(), Vec::new());
    for number in 0..APPLIED {
        let name = format!("apply{number}");
        let begin = SystemTime::now();
        let since = |end: SystemTime| end.duration_since(begin).unwrap_or_default().as_millis();
        proxy.create(WORKLOADS, &workload(&name, &marks))?;
        watch.wait_for(|object| is_ready(object, &name))?;
        ready.push(since(SystemTime::now()));
        let starts = marks.starts(&name)?;
        started.push(since(*starts.first().context("ready, and there is no mark")?));
        scene.cluster.kubectl(&["delete", "iw", &name])?;
    }
    let how = format!(
        "{APPLIED} workloads, one after the other: from the moment before a request to create it is sent to the \
         API server (over kubectl proxy) until the pod's own program ran (its mark's time, to a tick of 4 ms), \
         so the runtime was asked to start it earlier; one machine"
    );
    let how_ready = "of the same, until a watch shows the workload Ready=True with one ready pod";
    Ok(vec![
        Figure::new("apply_to_start_ms_p50", percentile(&mut started, 50), "ms", &how),
        Figure::new("apply_to_start_ms_p99", percentile(&mut started, 99), "ms", "of the same"),
        Figure::new("apply_to_ready_ms_p50", percentile(&mut ready, 50), "ms", how_ready),
        Figure::new("apply_to_ready_ms_p99", percentile(&mut ready, 99), "ms", how_ready),
    ])
}

fn workload(name: &str, marks: &Marks) -> Value {
    json!({
        "apiVersion": "hinterland.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": { "name": name },
        "spec": { "template": { "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "mark", "command": marks.command() }],
        } } },
    })
}

fn is_ready(object: &Value, name: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let says = |condition: &Value| {
        condition.get("type").and_then(Value::as_str) == Some("Ready")
            && condition.get("status").and_then(Value::as_str) == Some("True")
    };
    let of_name = object.pointer("/metadata/name").and_then(Value::as_str) == Some(name);
    let one = object.pointer("/status/ready").and_then(Value::as_u64) == Some(1);
    of_name && one && conditions.into_iter().flatten().any(says)
}
