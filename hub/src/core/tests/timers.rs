//! After any events, the hub wakes when a look at every node's timers says that it should.

use super::*;
use proptest::prelude::*;
use shared::wire::MapAck;

const NODES: u8 = 4;

/// What may happen to one of the nodes, or to the hub.
#[derive(Debug, Clone)]
enum Happening {
    Greeting(u8),
    Gone(u8),
    Applied(u8),
    Refused(u8, RefusalReason),
    Call(u8, u32),
    Revoked(u8),
    Enrolled(u8),
    Manifests(u8),
    StoreFull(bool),
    Passes(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let any_node = 0..NODES;
    let reasons = [RefusalReason::BaseMismatch, RefusalReason::Stale, RefusalReason::Unavailable];
    prop_oneof![
        6 => any_node.clone().prop_map(Happening::Greeting),
        1 => any_node.clone().prop_map(Happening::Gone),
        3 => any_node.clone().prop_map(Happening::Applied),
        2 => (any_node.clone(), proptest::sample::select(reasons.to_vec()))
            .prop_map(|(node, reason)| Happening::Refused(node, reason)),
        4 => (any_node.clone(), 0..5_000_u32).prop_map(|(node, ms)| Happening::Call(node, ms)),
        1 => any_node.clone().prop_map(Happening::Revoked),
        1 => any_node.prop_map(Happening::Enrolled),
        3 => (1..4_u8).prop_map(Happening::Manifests),
        1 => any::<bool>().prop_map(Happening::StoreFull),
        4 => (0..8_000_u64).prop_map(Happening::Passes),
    ]
}

/// A hub with some nodes, whose packets are lost unless they open a session.
struct Fleet {
    hub: HubCore,
    store: Memory,
    sessions: BTreeMap<NodeId, AgentSession>,
    now: Now,
    serial: u64,
}

fn name(number: u8) -> NodeId {
    NodeId::new(&format!("mast-{number}")).unwrap()
}

fn key_of(number: u8) -> SessionPrivateKey {
    SessionPrivateKey::from_bytes([100 + number; 32])
}

impl Fleet {
    fn new() -> Self {
        let (store, now) = (Memory::default(), Now::default());
        let hub = hub_on(&store, now);
        let mut fleet = Self { hub, store, sessions: BTreeMap::new(), now, serial: 0 };
        (0..NODES).for_each(|number| fleet.enrol(number));
        fleet
    }

    fn handle(&mut self, event: Event) {
        self.hub.handle_event(event, self.now);
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(effect) = self.hub.poll_effect() {
            match effect {
                Effect::Persist(batch) => {
                    let event = match self.store.commit(&batch) {
                        Ok(()) => Event::Persisted,
                        Err(error) => Event::PersistFailed { batch, error: error.to_string() },
                    };
                    self.hub.handle_event(event, self.now);
                }
                Effect::Send { node, payload } => {
                    if let Some(session) = self.sessions.get_mut(&node) {
                        drop(session.handle_payload(&payload));
                    }
                }
                Effect::Share(_)
                | Effect::Admit { .. }
                | Effect::Expel { .. }
                | Effect::EndCall(_)
                | Effect::Settled { .. }
                | Effect::Deliver { .. } => {}
            }
        }
    }

    fn enrol(&mut self, number: u8) {
        self.serial += 1;
        let (key, serial) = (key_of(number).public(), format!("{:x}", self.serial));
        let record = NodeRecord::new(key, serial, UnixMs(0));
        self.handle(Event::Enrolled { node: name(number), record });
    }

    fn greet(&mut self, number: u8) {
        let (node, hub) = (name(number), SessionPrivateKey::from_bytes(SESSION_KEY).public());
        let mut session = AgentSession::new(node.clone(), key_of(number), hub, [number; 32]);
        session.handle_link_up();
        let opening = session.poll_outgoing(self.now.monotonic).unwrap();
        self.sessions.insert(node.clone(), session);
        let Some(Outgoing::Payload(payload)) = opening else { panic!("it opens no session") };
        self.handle(Event::Payload { node: node.clone(), payload });
        // In session now, unless it is revoked.
        let session = self.sessions.get_mut(&node).unwrap();
        drop(session.poll_outgoing(self.now.monotonic));
        self.tell(number, &hello(None));
    }

    fn tell(&mut self, number: u8, message: &Message) {
        let node = name(number);
        let Some(session) = self.sessions.get_mut(&node) else { return };
        if let Ok(payload) = session.seal(message) {
            self.handle(Event::Payload { node, payload });
        }
    }

    fn position(&self, number: u8) -> MapPosition {
        self.hub.nodes[&name(number)].desired.position()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Greeting(number) => self.greet(number),
            Happening::Gone(number) => self.handle(Event::Disconnected { node: name(number) }),
            Happening::Applied(number) => {
                let version = self.position(number).version;
                let ack = MapAck::Applied { map: MapName::Desired, version };
                self.tell(number, &Message::MapAck(ack));
            }
            Happening::Refused(number, reason) => {
                let (map, version) = (MapName::Desired, self.position(number).version);
                let refusal = MapRefusal { map, version, reason, accepted: None };
                self.tell(number, &Message::MapRefusal(refusal));
            }
            Happening::Call(number, timeout_ms) => {
                let pod = "default/ocr-0".parse().unwrap();
                let method = CallMethod::TailLog { pod, lines: 3 };
                self.handle(Event::Call { ticket: 1, node: name(number), method, timeout_ms });
            }
            Happening::Revoked(number) => self.handle(Event::Revoked { node: name(number) }),
            Happening::Enrolled(number) => self.enrol(number),
            Happening::Manifests(replicas) => {
                let manifests = manifests(&format!("replicasPerNode: {replicas}"));
                self.handle(Event::Manifests(manifests));
            }
            Happening::StoreFull(full) => self.store.full = full,
            Happening::Passes(ms) => {
                self.now.monotonic = self.now.monotonic.plus_ms(ms);
                self.hub.handle_timeout(self.now);
                self.perform();
            }
        }
    }

    /// When the first timer of any node is due, by asking all of them.
    fn earliest_by_a_scan(&self) -> Option<MonotonicMs> {
        self.hub.nodes.values().filter_map(NodeState::poll_timeout).min()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_index_of_deadlines_agrees_with_a_scan_after_every_event(
        happenings in proptest::collection::vec(happening(), 1..40),
    ) {
        let mut fleet = Fleet::new();
        for happening in happenings {
            fleet.happen(happening.clone());
            let (indexed, scanned) = (fleet.hub.deadlines.earliest(), fleet.earliest_by_a_scan());
            prop_assert_eq!(indexed, scanned, "after {:?}", happening);
        }
    }
}

#[test]
fn the_fleet_of_that_test_has_timers_of_both_kinds() {
    let mut fleet = Fleet::new();
    fleet.happen(Happening::Greeting(1));
    fleet.happen(Happening::Call(1, 5_000));
    fleet.happen(Happening::Manifests(1));
    fleet.happen(Happening::Passes(20));
    let node = &fleet.hub.nodes[&name(1)];
    assert!(node.desired.poll_timeout().is_some(), "nothing is on its way");
    assert!(node.calls.poll_timeout().is_some(), "no call is open");
}
