//! Images that are not on the node: pulled from a real registry where that is allowed, never asked for again, and
//! removed to make room.

use crate::scene::{Agent, Node, key, request, wait_until};
use edge_agent::config::PullPolicy;
use edge_agent::ports::{InstanceId, PullTerms, Runtime, RuntimeEvent, StartRequest};
use shared::model::{
    Container, DOCKER_CONFIG_KEY, ImagePullPolicy, ObjectKind, ObjectName, SecretBytes, SecretData,
};
use shared::trust::seal::seal_secret;
use shared::trust::signature::SigningKey;
use std::collections::BTreeSet;
use std::sync::Arc;
use tests::real::containerd::Containerd;
use tests::real::fault_proxy::{Fault, FaultAnswer, FaultProxy};
use tests::real::registry::{Registry, USER};

const POLITE: &str = "sleep 1000 & trap 'exit 0' TERM; wait";

fn of_image(instance: u64, image: &str) -> StartRequest {
    let request = request(instance, POLITE);
    let container = Container { image: Some(image.to_owned()), ..request.container.clone() };
    StartRequest { container, ..request }
}

/// Credentials of a registry, sealed to the node.
fn terms(registry: &str, password: &str) -> PullTerms {
    let (kind, namespace) = (ObjectKind::Secret, "default".to_owned());
    let name = ObjectName { kind, namespace, name: "registry".to_owned() };
    let entry = serde_json::json!({ "username": USER.0, "password": password });
    let json = serde_json::json!({ "auths": { registry: entry } });
    let json = SecretBytes::new(serde_json::to_vec(&json).unwrap());
    let data = SecretData::from([(DOCKER_CONFIG_KEY.to_owned(), json)]);
    let (by, to) = (SigningKey::generate([1; 32]), key().public());
    let node = "mast-17".parse().unwrap();
    let item = seal_secret(&by, (&node, &to), &name, "1", &data).unwrap();
    PullTerms { is_metered: false, secrets: vec![(name, Arc::new(item))] }
}

impl Agent {
    /// Begins a start; what is said of it, until it says something of `reason` or ends.
    fn start_until(&mut self, request: StartRequest, reason: &str) -> String {
        self.within(|runtime| runtime.start(request));
        self.said(reason)
    }

    fn said(&mut self, expected: &str) -> String {
        loop {
            match self.event() {
                RuntimeEvent::Preparing { reason, message, .. } if reason == expected => {
                    return message;
                }
                RuntimeEvent::Preparing { .. } => {}
                RuntimeEvent::Started { .. } if expected == "Started" => return String::new(),
                event => panic!("expected {expected}, not {event:?}"),
            }
        }
    }
}

#[test]
fn an_image_is_pulled_once_and_its_pod_starts_without_the_registry() {
    let node = Node::new();
    let mut registry = Registry::start(false).unwrap();
    let image = registry.keep(&node.containerd, "site/ocr:1").unwrap();
    let mut agent = Agent::new(&node);
    registry.kill();
    let message = agent.start_until(of_image(1, &image), "ImagePullBackOff");
    assert!(message.contains(&image) && message.contains("refused"), "{message}");
    registry.resume().unwrap();
    agent.said("Started");
    agent.stop(1, 0);
    agent.forget(1, true);
    registry.kill();
    let event = agent.start(of_image(2, &image));
    assert!(matches!(event, RuntimeEvent::Started { .. }), "{event:?}");
    agent.clear(&node, 2);
}

#[test]
fn a_closed_registry_is_shown_the_credentials_and_a_start_that_waits_can_be_stopped() {
    let node = Node::new();
    let registry = Registry::start(true).unwrap();
    let image = registry.keep(&node.containerd, "site/ocr:1").unwrap();
    let host = registry.name_of("");
    let mut agent = Agent::new(&node);
    for (instance, pull) in [(1, PullTerms::default()), (2, terms(&host, "guessed"))] {
        let request = StartRequest { pull, ..of_image(instance, &image) };
        let message = agent.start_until(request, "ImagePullBackOff");
        assert!(message.contains(&image) && !message.contains("guessed"), "{message}");
        agent.within(|runtime| runtime.stop(&crate::scene::pod(), InstanceId(instance), 0));
        let event = agent.event();
        let is_stopped =
            matches!(&event, RuntimeEvent::StartFailed { reason, .. } if reason == "Stopped");
        assert!(is_stopped, "{event:?}");
        agent.forget(instance, true);
    }
    let pull = terms(&host, USER.1);
    agent.start_until(StartRequest { pull, ..of_image(3, &image) }, "Started");
    agent.clear(&node, 3);
}

#[test]
fn what_may_not_be_pulled_says_what_would_allow_it() {
    let node = Node::new();
    let registry = Registry::start(false).unwrap();
    let image = registry.keep(&node.containerd, "site/ocr:1").unwrap();
    let metered = PullTerms { is_metered: true, ..PullTerms::default() };
    let mut agent = Agent::new(&node);
    let (reason, message) =
        agent.refusal(StartRequest { pull: metered.clone(), ..of_image(1, &image) });
    assert_eq!(reason, "ImageMissing");
    assert!(message.contains(&image) && message.contains("set it to \"always\""), "{message}");
    let mut never = of_image(2, &image);
    never.container.image_pull_policy = Some(ImagePullPolicy::Never);
    let (reason, message) = agent.refusal(never);
    assert!(reason == "ImageMissing" && message.contains("imagePullPolicy"), "{message}");
    drop(agent);
    let mut agent = Agent::pulling(&node, PullPolicy::Never);
    let (reason, message) = agent.refusal(of_image(3, &image));
    assert!(reason == "ImageMissing" && message.contains("\"never\""), "{message}");
    drop(agent);
    let mut agent = Agent::pulling(&node, PullPolicy::Always);
    agent.start_until(StartRequest { pull: metered, ..of_image(4, &image) }, "Started");
    agent.clear(&node, 4);
    wait_until("nothing is left", || node.containerd.leaks().unwrap().is_empty());
}

#[test]
fn how_far_a_slow_pull_is_is_said_and_not_too_often() {
    let node = Node::new();
    let registry = Registry::start(false).unwrap();
    let name = registry.keep_unlike_others(&node.containerd, "site/ocr:1", 6 << 20).unwrap();
    let proxy = FaultProxy::start(registry.address()).unwrap();
    let (method, answer) = ("GET", FaultAnswer::Slow(300_000));
    proxy.add(Fault { method, path: "/blobs/", answer, times: usize::MAX });
    let image = name.replace(&registry.address().to_string(), &proxy.address().to_string());
    let mut agent = Agent::new(&node);
    agent.within(|runtime| runtime.start(of_image(1, &image)));
    let mut said = BTreeSet::new();
    loop {
        match agent.event() {
            RuntimeEvent::Preparing { reason, message, .. } if reason == "ImagePulling" => {
                said.insert(message);
            }
            RuntimeEvent::Started { .. } => break,
            event => panic!("expected the image to come, not {event:?}"),
        }
    }
    let begins = format!("the image {image} is being pulled");
    let figures = said.iter().filter_map(|message| message.strip_prefix(&format!("{begins}: ")));
    let figures: Vec<&str> = figures.collect();
    let [figure] = figures.as_slice() else { panic!("{said:?}") };
    let (came, whole) = figure.strip_suffix(" MiB").unwrap().split_once(" of ").unwrap();
    let (came, whole): (f64, f64) = (came.parse().unwrap(), whole.parse().unwrap());
    // Ten seconds of it: three MB, of which containerd notes whole MiB.
    let is_as_expected = (1.0..5.0).contains(&came) && (7.0..10.0).contains(&whole);
    assert!(is_as_expected, "{figure}");
    agent.clear(&node, 1);
}

/// What the agent removes to make room, once containerd has no more of what was before in mind.
#[track_caller]
fn removed(agent: &mut Agent) -> String {
    let mut removed = None;
    wait_until("an image is removed", || {
        removed = try_to_remove(agent).unwrap();
        removed.is_some()
    });
    removed.unwrap()
}

fn try_to_remove(agent: &mut Agent) -> Result<Option<String>, String> {
    assert!(agent.within(|runtime| runtime.remove_image()));
    match agent.event() {
        RuntimeEvent::ImageRemoved { image } => image,
        event => panic!("expected what was removed, not {event:?}"),
    }
}

#[test]
fn the_oldest_image_that_was_pulled_and_nothing_needs_makes_room_and_no_other() {
    let mut node = Node::new();
    let registry = Registry::start(false).unwrap();
    let remote = |name: &str| {
        registry.keep_unlike_others(&node.containerd, &format!("site/{name}:1"), 1024).unwrap()
    };
    let by_hand = Containerd::image().to_owned();
    let [first, second, previous, present, used] =
        ["first", "second", "previous", "present", "used"].map(remote);

    let mut agent = Agent::new(&node);
    let name = |agent: &mut Agent, images: &[&String]| {
        let images = images.iter().map(|image| (*image).clone()).collect();
        let named = [("default/ocr".parse().unwrap(), images)].into();
        agent.within(|runtime| runtime.keep_images(named));
    };
    name(&mut agent, &[&previous]);
    name(&mut agent, &[&present]);
    for (instance, image) in (1..).zip([&first, &second, &previous, &present]) {
        agent.start_until(of_image(instance, image), "Started");
        agent.stop(instance, 0);
        agent.forget(instance, false);
    }
    agent.start_until(of_image(5, &used), "Started");

    assert_eq!(removed(&mut agent), first);
    drop(agent);
    let mut agent = Agent::new(&node);
    agent.observe();
    assert_eq!(removed(&mut agent), second, "it is remembered");
    assert_eq!(try_to_remove(&mut agent), Ok(None));
    let there = |image: &String| node.containerd.ctr(&["images", "list"]).unwrap().contains(image);
    assert!([&by_hand, &previous, &present, &used].into_iter().all(there));
    assert!(!there(&first) && !there(&second));

    // Nothing is assigned any more: what was needed goes, in its order, but for what still runs.
    agent.within(|runtime| runtime.keep_images([].into()));
    assert_eq!([removed(&mut agent), removed(&mut agent)], [previous, present]);
    assert_eq!(try_to_remove(&mut agent), Ok(None));
    agent.stop(5, 0);
    agent.forget(5, false);
    node.containerd.kill();
    let unknown = try_to_remove(&mut agent).unwrap_err();
    assert!(unknown.contains("not answered"), "{unknown}");
    node.containerd.resume().unwrap();
    assert_eq!(removed(&mut agent), used);
    assert!(node.containerd.ctr(&["images", "list"]).unwrap().contains(&by_hand));
    node.assert_clean();
}
