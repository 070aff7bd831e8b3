//! From manifests to each node's desired state, signed, and onto the link.

use super::attached::{EncodedObjects, named_by};
use super::node::Greeting;
use super::{HubCore, NodeState};
use crate::fleet::{self, FleetNode};
use crate::manifests::Manifests;
use serde_bytes::ByteBuf;
use shared::model::{LinkBudget, NODE_POLICY_KEY, NodeId, NodePolicy, Now, Workload, WorkloadKey};
use shared::sync::{Chunking, MapContent};
use shared::trust::signature;
use shared::wire::{
    EncodeError, HelloReply, MapHeader, MapPosition, Message, RenewedHeader, Resume, Resumed,
    Version, decode, desired_header_context, encode,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;
use tracing::{error, info};

/// Of nodes and workloads that are looked at together when it is decided what runs where, for each
/// millisecond until the next such decision. A slow core takes half a microsecond for each, so that nodes
/// that come one after the other take a quarter of the hub's time at most.
const REASSIGN_PAIRS_PER_MS: u64 = 500;

/// What a node runs that is assigned nothing.
static NOTHING: BTreeMap<WorkloadKey, Arc<Workload>> = BTreeMap::new();

/// Why a header could not be made.
#[derive(Debug, Error)]
enum HeaderError {
    #[error("could not encode it")]
    Encode(#[from] EncodeError),
    #[error("could not sign it")]
    Sign(#[from] signature::SignatureError),
}

impl HubCore {
    pub(super) fn handle_manifests(&mut self, manifests: Manifests, now: Now) {
        info!(
            workloads = manifests.workloads.len(),
            nodes = manifests.nodes.len(),
            "the fleet's desired state was read"
        );
        self.manifests = Some(manifests);
        self.let_in_and_keep_out(now);
        self.handle_templates(now);
        self.reassign(now);
    }

    /// Decides anew what runs where, once for all who come within a while. Deciding takes the longer the
    /// larger the fleet is, and nothing else happens meanwhile: so it is done the less often.
    pub(super) fn reassign_soon(&mut self, delay_ms_min: u64, now: Now) {
        let workloads = self.manifests.as_ref().map_or(0, |manifests| manifests.workloads.len());
        let pairs = (self.nodes.len() as u64).saturating_mul(workloads as u64);
        let delay_ms = delay_ms_min.max(pairs / REASSIGN_PAIRS_PER_MS);
        if delay_ms == 0 {
            return self.reassign(now);
        }
        let due = now.monotonic.plus_ms(delay_ms);
        self.reassign_due = Some(self.reassign_due.map_or(due, |earlier| earlier.min(due)));
    }

    /// A node is offline: what it has of some workloads goes elsewhere if it stays so.
    pub(super) fn await_rescheduling(&mut self, was_online: bool, now: Now) {
        let Some(manifests) = self.manifests.as_ref().filter(|_| was_online) else { return };
        let waits = manifests.workloads.values().filter_map(|w| w.offline.reschedule_after_ms);
        if let Some(first_ms) = waits.min() {
            self.reassign_soon(first_ms, now);
        }
    }

    /// Decides anew what runs where, and hands each node what changed for it. Does nothing before
    /// there are manifests.
    pub(super) fn reassign(&mut self, now: Now) {
        let nodes = self.fleet_nodes(now);
        let Some(manifests) = &self.manifests else { return };
        self.assignment = fleet::assign(manifests, &nodes, &self.rollouts.older(manifests));
        self.note_kept(now);
        if let Some(delay_ms) = self.assignment.look_again_in_ms {
            self.reassign_soon(delay_ms.max(1), now);
        }
        let ids: Vec<NodeId> = self.nodes.keys().cloned().collect();
        let mut encoded = EncodedWorkloads::default();
        for id in &ids {
            self.publish(id, &mut encoded, now);
            self.reply_and_transmit(id, now);
        }
        self.look_at_rollouts(now.monotonic);
    }

    fn fleet_nodes(&self, now: Now) -> BTreeMap<NodeId, FleetNode> {
        let trusted = self.nodes.iter().filter(|(_, node)| node.is_trusted());
        let kept = self.rollouts.kept();
        let fleet_node = |(id, node): (&NodeId, &NodeState)| {
            let mut previous = self.held_by(id, node);
            for (key, replicas) in kept.get(id).into_iter().flatten().filter(|_| !node.assigned) {
                let held = previous.entry((*key).clone()).or_default();
                *held = (*held).max(*replicas);
            }
            let online = node.is_online();
            let offline_ms = now.monotonic.0.saturating_sub(node.offline_since.0);
            let offline_ms = if online { 0 } else { offline_ms };
            (id.clone(), FleetNode { online, offline_ms, previous })
        };
        trusted.map(fleet_node).collect()
    }

    /// Pods that `node` holds, by workload: what was assigned to it, and before this hub's first
    /// assignment what it reported to the hub's last start, so that a restart moves nothing. Beside it stands
    /// what was decided then: another hub that takes over has heard no reports, and what has gone elsewhere from a
    /// node that stayed offline is there in its reports for ever.
    fn held_by(&self, id: &NodeId, node: &NodeState) -> BTreeMap<WorkloadKey, u32> {
        if node.record.last_seen.is_none() {
            // It can't have been told anything yet: nothing is lost when its share goes elsewhere.
            return BTreeMap::new();
        }
        let mut held = BTreeMap::new();
        if !node.assigned {
            let decided = |key: &WorkloadKey| self.rollouts.knows_where_replicas_are(key);
            let reported = node.pods.values().map(|status| &status.pod.workload);
            for key in reported.filter(|key| !decided(key)) {
                *held.entry(key.clone()).or_default() += 1;
            }
        } else if let Some(assigned) = self.assignment.per_node.get(id) {
            held.extend(assigned.iter().map(|(key, told)| (key.clone(), told.replicas)));
        }
        held
    }

    /// Signs what `id` should run, if that has changed.
    fn publish(&mut self, id: &NodeId, encoded: &mut EncodedWorkloads, now: Now) {
        let assigned = self.assignment.per_node.get(id).unwrap_or(&NOTHING);
        let link = self.manifests.as_ref().and_then(|all| all.nodes.get(id)).map(|node| node.link);
        let link = link.unwrap_or_default();
        let named = named_by(assigned);
        let objects = self.manifests.as_ref().map(|manifests| &manifests.objects);
        let Some(node) = self.nodes.get_mut(id) else { return };
        let attached = node.attach(id, &named, objects, &self.keys.signing, &mut encoded.objects);
        let content = match encoded.content(assigned, attached, link) {
            Ok(content) => content,
            Err(error) => return error!(node = %id, error = %error, "can't be told what to run"),
        };
        node.assigned = true;
        let pays = link.bytes_per_day.is_some();
        node.desired.set_chunking(if pays { Chunking::Asked } else { Chunking::Generous });
        if content.digest() != node.desired.content().digest() {
            self.sign(id, content, now);
        }
    }

    /// Signs the present content of every node under the present term.
    pub(super) fn sign_everything(&mut self, now: Now) {
        let contents = self.nodes.iter().map(|(id, n)| (id.clone(), n.desired.content().clone()));
        for (id, content) in contents.collect::<Vec<_>>() {
            self.sign(&id, content, now);
        }
    }

    pub(super) fn sign(&mut self, id: &NodeId, content: MapContent, now: Now) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let before = node.desired.position().version;
        let generation = if before.term == self.term { before.generation + 1 } else { 1 };
        let version = Version { term: self.term, generation };
        let position = MapPosition { version, digest: content.digest() };
        let header = MapHeader { position, issued_at_ms: now.wall.0 };
        let signed = encode("desired state header", &header)
            .map_err(HeaderError::from)
            .and_then(|bytes| Ok(self.keys.signing.sign(&bytes, &desired_header_context(id))?));
        match signed {
            Ok(signed) => node.desired.publish(content, position, signed),
            Err(error) => error!(node = %id, error = %error, "a header could not be made"),
        }
    }

    /// Sends `id` what it lacks, as far as the window allows.
    pub(super) fn transmit(&mut self, id: &NodeId, now: Now) {
        if !self.commit.term_is_durable() {
            return;
        }
        let mut chunks = Vec::new();
        let ready = |node: &&mut NodeState| node.is_online() && node.assigned;
        if let Some(node) = self.nodes.get_mut(id).filter(ready) {
            while let Ok(Some(chunk)) = node.desired.poll_chunk(now.monotonic) {
                chunks.push(chunk);
            }
        }
        for chunk in chunks {
            self.send(id, &Message::MapChunk(chunk));
        }
        self.note_deadline(id);
    }

    /// Answers a greeting once the term is durable and what the node should run is known, and sends
    /// what the node lacks.
    pub(super) fn reply_and_transmit(&mut self, id: &NodeId, now: Now) {
        if !self.commit.term_is_durable() {
            return;
        }
        let Some(node) = self.nodes.get_mut(id).filter(|node| node.assigned) else { return };
        if let Some(greeting) = node.reply_due.take() {
            // The watermarks in it free records at the node: they must be durable first.
            self.commit.acknowledge(id.clone(), node.reply_to(greeting));
            self.commit.schedule(now.monotonic);
        }
        self.transmit(id, now);
    }
}

impl NodeState {
    fn reply_to(&self, greeting: Greeting) -> Message {
        let reported = self.reported.position().filter(|_| self.reported.is_whole());
        let watermarks = self.record.logs.newest_watermarks();
        let header = || ByteBuf::from(self.desired.header().to_vec());
        match greeting {
            Greeting::Full => {
                Message::HelloReply(HelloReply { desired: header(), reported, watermarks })
            }
            Greeting::Short { greeting, introduces } => {
                let Resume { desired: shown, awaits_watermarks } = greeting;
                let known = shown == Some(self.desired.position().version);
                let renews = introduces && !known && self.desired.is_in_sync();
                let renewed = if renews { self.renewed() } else { None };
                let desired = (!known && renewed.is_none()).then(header);
                let reported = reported.map(|position| position.version);
                let watermarks = if awaits_watermarks { watermarks } else { vec![] };
                Message::Resumed(Resumed { reported, desired, watermarks, renewed })
            }
        }
    }
}

impl NodeState {
    /// The present header, for a node that has the content.
    fn renewed(&self) -> Option<RenewedHeader> {
        let (payload, signature) = signature::split(self.desired.header()).ok()?;
        let header = decode::<MapHeader>("desired state header", &payload, payload.len()).ok()?;
        let (version, issued_at_ms) = (header.position.version, header.issued_at_ms);
        Some(RenewedHeader { version, issued_at_ms, signature: ByteBuf::from(signature) })
    }
}

/// What one assignment's workloads are on the wire: each is encoded once, however many nodes share
/// it. An entry keeps its workload, so that no other can come to lie at the same address.
#[derive(Default)]
struct EncodedWorkloads {
    workloads: BTreeMap<*const Workload, (Arc<Workload>, Vec<u8>)>,
    /// And what the ConfigMaps are.
    objects: EncodedObjects,
}

impl EncodedWorkloads {
    fn content(
        &mut self,
        workloads: &BTreeMap<WorkloadKey, Arc<Workload>>,
        attached: BTreeMap<String, Vec<u8>>,
        link: LinkBudget,
    ) -> Result<MapContent, EncodeError> {
        let item = |(key, workload): (&WorkloadKey, &Arc<Workload>)| {
            Ok((key.to_string(), self.bytes_of(workload)?))
        };
        let mut items: BTreeMap<_, _> = workloads.iter().map(item).collect::<Result<_, _>>()?;
        items.extend(attached);
        // A node without a policy is told none: most have none, and it costs no byte then.
        if link != LinkBudget::default() {
            items.insert(NODE_POLICY_KEY.to_owned(), encode("node policy", &NodePolicy { link })?);
        }
        Ok(MapContent::new(items))
    }

    fn bytes_of(&mut self, workload: &Arc<Workload>) -> Result<Vec<u8>, EncodeError> {
        let address = Arc::as_ptr(workload);
        if let Some((_, bytes)) = self.workloads.get(&address) {
            return Ok(bytes.clone());
        }
        let bytes = encode("workload", workload.as_ref())?;
        self.workloads.insert(address, (Arc::clone(workload), bytes.clone()));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::reports::reported_pod;
    use super::super::{Event, HubKeys, NodeRecord, StoredState};
    use super::*;
    use crate::manifests::parse_documents;
    use shared::model::UnixMs;
    use shared::trust::session::SessionPrivateKey;
    use shared::trust::signature::SigningKey;

    const OCR: &str = "\
apiVersion: hinterland.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: ocr}
spec:
  placement: {replicas: 1}
  template: {spec: {containers: [{name: ocr, command: [ocr]}]}}
";

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn record(last_seen: Option<UnixMs>) -> NodeRecord {
        let key = SessionPrivateKey::generate([1; 32]).public();
        NodeRecord { last_seen, ..NodeRecord::new(key, "01".to_owned(), UnixMs(0)) }
    }

    /// A hub that has started on what was stored, and has read one workload with one replica.
    fn started(stored: StoredState) -> HubCore {
        started_with(stored, OCR)
    }

    fn started_with(stored: StoredState, manifests: &str) -> HubCore {
        let (session, signing) =
            (SessionPrivateKey::generate([2; 32]), SigningKey::generate([3; 32]));
        let mut core = HubCore::new(HubKeys { session, signing }, [4; 32], stored, Now::default());
        let manifests = parse_documents("ocr.yaml", manifests).unwrap();
        core.handle_event(Event::Manifests(manifests), Now::default());
        core
    }

    fn holders(core: &HubCore) -> Vec<&str> {
        core.assignment.per_node.keys().map(NodeId::as_str).collect()
    }

    #[test]
    fn a_hub_that_starts_again_leaves_replicas_where_nodes_reported_them() {
        let seen = || record(Some(UnixMs(1)));
        let nodes = ["a", "b", "c"].map(|name| (node(name), seen()));
        let reported = [(node("b"), BTreeMap::from([reported_pod("default/ocr-0")]))];
        let (nodes, reported) = (nodes.into(), reported.into());
        let mut core = started(StoredState { term: 1, nodes, reported, ..StoredState::default() });
        assert_eq!(holders(&core), ["b"]);
        core.reassign(Now::default());
        assert_eq!(holders(&core), ["b"], "nor does it move later");
    }

    #[test]
    fn a_hub_that_starts_again_takes_nothing_from_a_cordoned_node_that_is_offline() {
        let nodes = ["a", "b"].map(|name| (node(name), record(Some(UnixMs(1)))));
        let reported = [(node("b"), BTreeMap::from([reported_pod("default/ocr-0")]))];
        let (nodes, reported) = (nodes.into(), reported.into());
        let stored = StoredState { term: 1, nodes, reported, ..StoredState::default() };
        let cordon = "---\napiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\n\
                      metadata: {name: b}\nspec: {unschedulable: true}\n";
        let core = started_with(stored, &format!("{OCR}{cordon}"));
        assert_eq!(holders(&core), ["b"]);
        assert_eq!(core.node_view(&node("b")).unwrap().scheduling, "Cordoned");
        let why = core.why(&node("b"), &"default/ocr-0".parse().unwrap()).unwrap();
        assert!(why.remarks.iter().any(|remark| remark.contains("cordoned")), "{:?}", why.remarks);
        let absent = core.why(&node("b"), &"default/other-0".parse().unwrap()).unwrap_err();
        assert_eq!(absent, "no manifest has a workload `default/other`");
    }

    #[test]
    fn a_large_fleet_is_assigned_once_for_all_nodes_that_come_together() {
        let names = (0..1_000).map(|number| node(&format!("n-{number}")));
        let nodes: BTreeMap<_, _> = names.map(|name| (name, record(None))).collect();
        let mut core = started(StoredState { term: 1, nodes, ..StoredState::default() });
        for name in ["x-1", "x-2"] {
            let enrolled = Event::Enrolled { node: node(name), record: record(None) };
            core.handle_event(enrolled, Now::default());
        }
        assert!(!core.nodes[&node("x-2")].assigned);
        let due = core.reassign_due.unwrap();
        assert_eq!(due.0, 1_001 / REASSIGN_PAIRS_PER_MS);
        core.handle_timeout(Now { monotonic: due, ..Now::default() });
        assert!(core.nodes[&node("x-2")].assigned);
        assert_eq!(core.reassign_due, None);
    }

    #[test]
    fn a_hub_whose_store_is_lost_leads_above_every_count_of_its_starts() {
        let (session, signing) =
            (SessionPrivateKey::generate([2; 32]), SigningKey::generate([3; 32]));
        let nodes = [(node("a"), record(None))].into();
        let stored = StoredState { nodes, ..StoredState::default() };
        let now = Now { wall: UnixMs(1_767_225_600_000), ..Now::default() };
        let core = HubCore::new(HubKeys { session, signing }, [4; 32], stored, now);
        assert_eq!(core.view().term, 1_767_225_600, "seconds since 1970");
    }

    #[test]
    fn a_workload_that_many_nodes_share_is_encoded_once_and_arrives_whole_at_each() {
        let nodes = ["a", "b", "c"].map(|name| (node(name), record(None)));
        let stored = StoredState { term: 1, nodes: nodes.into(), ..StoredState::default() };
        let mut core = started(stored);
        let everywhere = OCR.replace("replicas: 1", "replicasPerNode: 1");
        let manifests = parse_documents("ocr.yaml", &everywhere).unwrap();
        core.handle_event(Event::Manifests(manifests), Now::default());
        let mut encoded = EncodedWorkloads::default();
        for (id, workloads) in &core.assignment.per_node {
            let content =
                encoded.content(workloads, BTreeMap::new(), LinkBudget::default()).unwrap();
            let bytes = encode("workload", workloads.values().next().unwrap().as_ref()).unwrap();
            assert_eq!(content.items().values().collect::<Vec<_>>(), [&bytes]);
            assert_eq!(core.desired_digest(id), Some(content.digest()));
        }
        assert_eq!((core.assignment.per_node.len(), encoded.workloads.len()), (3, 1));
    }

    #[test]
    fn a_replica_that_waits_for_a_node_never_seen_does_not_hold_on_to_it() {
        let nodes = BTreeMap::from([(node("a"), record(None)), (node("b"), record(None))]);
        let mut core = started(StoredState { term: 1, nodes, ..StoredState::default() });
        assert_eq!(holders(&core), ["a"]);
        core.nodes.get_mut(&node("b")).unwrap().greeted = true;
        core.reassign(Now::default());
        assert_eq!(holders(&core), ["b"]);
    }
}
