//! What ends and what is forgotten when a node is thrown out, replaced, or begins anew.

use super::*;
use shared::sync::MapPublisher;

fn call(ticket: u64) -> Event {
    let method = CallMethod::TailLog { pod: "default/ocr-0".parse().unwrap(), lines: 3 };
    Event::Call { ticket, node: node(), method, timeout_ms: 60_000 }
}

/// Tickets of the calls that came to an end.
fn ended(steps: &[Step]) -> Vec<u64> {
    let ticket = |step: &Step| match step {
        Step::CallEnded(CallEnded { ticket, is_unanswered: true, .. }) => Some(*ticket),
        _ => None,
    };
    steps.iter().filter_map(ticket).collect()
}

fn greeting(incarnation: u64) -> Message {
    let Message::Hello(hello) = hello(None) else { panic!("not a greeting") };
    Message::Hello(Hello { incarnation, oldest_incarnation: incarnation, ..hello })
}

/// The node reports these items, and nothing else, as its first report.
fn report(world: &mut World, items: &[&str]) -> Vec<Step> {
    let items = items.iter().map(|key| ((*key).to_owned(), key.as_bytes().to_vec())).collect();
    let content = MapContent::new(items);
    let version = Version { term: 1, generation: 1 };
    let position = MapPosition { version, digest: content.digest() };
    let header = encode("header", &MapHeader { position, issued_at_ms: 0 }).unwrap();
    let mut publisher = MapPublisher::new(MapName::Reported, content, position, header);
    publisher.begin(None);
    let chunk = publisher.poll_chunk(world.now.monotonic).unwrap().unwrap();
    world.tell(&Message::MapChunk(chunk))
}

fn stored_items(world: &World) -> Vec<String> {
    let pairs = world.store.scan(Tree::Reported, &[], usize::MAX).unwrap();
    pairs.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

#[test]
fn a_revocation_ends_the_calls_to_its_node() {
    let mut world = World::new();
    world.greet(None);
    world.hub.handle_event(call(7), world.now);
    assert_eq!(ended(&world.handle(Event::Revoked { node: node() })), [7]);
}

#[test]
fn a_new_holder_of_a_name_ends_the_calls_to_the_earlier_one() {
    let mut world = World::new();
    world.greet(None);
    world.hub.handle_event(call(8), world.now);
    let session_key = SessionPrivateKey::from_bytes([77; 32]).public();
    let record = NodeRecord { session_key, ..record("2") };
    assert_eq!(ended(&world.handle(Event::Enrolled { node: node(), record })), [8]);
}

#[test]
fn a_node_that_begins_anew_leaves_nothing_of_its_earlier_reports() {
    let mut world = World::new();
    world.greet(None);
    world.tell(&greeting(5));
    report(&mut world, &["old", "node"]);
    assert_eq!(stored_items(&world), ["mast-17/node", "mast-17/old"]);
    let steps = world.tell(&greeting(1));
    assert_eq!(reply_in(&steps).unwrap().reported, None);
    assert!(stored_items(&world).is_empty(), "{:?}", stored_items(&world));
    assert_eq!(world.hub.record(&node()).unwrap().reported_header, None);
    // What it reports now is whole after a restart.
    report(&mut world, &["new"]);
    assert_eq!(stored_items(&world), ["mast-17/new"]);
    world.restart();
    assert!(world.hub.nodes[&node()].reported.is_whole());
}

/// The node's `EdgeNode` says this, and there is a workload for every node.
fn said(spec: &str) -> Event {
    let node = format!(
        "---\napiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata: {{name: mast-17}}\nspec: {{{spec}}}\n"
    );
    let workload = "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata: {name: ocr}\n\
                    spec: {template: {spec: {containers: [{name: c, command: [c]}]}}}\n";
    let text = format!("{workload}{node}");
    Event::Manifests(crate::manifests::parse_documents("a.yaml", &text).unwrap())
}

#[test]
fn a_node_that_is_denied_is_thrown_out_and_let_in_again_as_it_was() {
    let mut world = World::new();
    world.handle(said(""));
    world.greet(None);
    let steps = world.handle(said("approval: Denied"));
    assert!(steps.contains(&Step::Expelled), "{steps:?}");
    assert_eq!(world.hub.node_view(&node()).unwrap().state, "Denied");
    assert_eq!(world.tell(&greeting(2)), [], "it is not heard");
    // A hub that starts anew lets it in only until it knows.
    world.restart();
    assert!(world.handle(said("approval: Denied")).contains(&Step::Expelled));
    let steps = world.handle(said(""));
    assert!(steps.contains(&Step::Admitted("1".to_owned())), "{steps:?}");
    assert!(reply_in(&world.greet(None)).is_some());
}

#[test]
fn a_node_with_another_key_than_its_manifest_names_is_neither_let_in_nor_enrolled() {
    let mut world = World::new();
    let (own, other) = (node_key().public(), SessionPrivateKey::from_bytes([77; 32]).public());
    world.handle(said(&format!("identity: {{sessionKey: {own}}}")));
    assert_eq!(world.hub.node_view(&node()).unwrap().state, "NeverSeen");
    assert!(world.hub.why_kept_out(&node(), &other).unwrap().contains("another key"));
    assert_eq!(world.hub.why_kept_out(&node(), &own), None);
    let steps = world.handle(said(&format!("identity: {{sessionKey: {other}}}")));
    assert!(steps.contains(&Step::Expelled), "{steps:?}");
    let problems = crate::manifests::parse_documents(
        "a.yaml",
        "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata: {name: a}\nspec: {identity: {sessionKey: abc}}\n",
    );
    let problems = problems.unwrap_err().to_string();
    assert!(problems.contains("spec.identity.sessionKey"), "{problems}");
}
