//! From the death of a leading hub to the first word of the next.

use super::{Figure, work_folder};
use crate::real::agent::Agent;
use crate::real::http::request;
use crate::real::hub::Hub;
use crate::real::kubernetes::Cluster;
use crate::real::process::wait_until;
use crate::real::replicas::Replicas;
use crate::story::in_session;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Deaths that are measured; each takes as long as a Lease.
const DEATHS: usize = 3;

/// The leader is killed right after it renewed the Lease, which is the worst moment.
pub(super) fn failover() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let cluster = Cluster::with_definitions(&folder.path().join("cluster"))?;
    let mut replicas = Replicas::start(folder.path(), cluster)?;
    let mut agent: Option<Agent> = None;
    let mut worst = Duration::ZERO;
    let mut leader = 0;
    for _ in 0..DEATHS {
        let other = 1 - leader;
        for which in [leader, other] {
            if let Some(hub) = replicas.hubs.get_mut(which).filter(|hub| hub.id().is_none()) {
                hub.start()?;
                if which == leader {
                    replicas.wait_until_leading(leader)?;
                }
            }
        }
        if agent.is_none() {
            let Some(hub) = replicas.hubs.get(leader) else { break };
            let mut node = Agent::new(&folder.path().join("mast-1"), "mast-1")?;
            node.enroll(hub)?;
            node.start()?;
            node.wait_until_up()?;
            node.wait_for("in session", PATIENCE, in_session)?;
            agent = Some(node);
        }
        replicas.wait_for_renewal()?;
        if let Some(hub) = replicas.hubs.get_mut(leader) {
            hub.kill();
        }
        let died = Instant::now();
        let Some(next) = replicas.hubs.get(other) else { break };
        wait_until("the next hub speaks", PATIENCE, || Ok(messages_sent(next)? > 0))?;
        worst = worst.max(died.elapsed());
        leader = other;
    }
    let how = format!(
        "the worst of {DEATHS}: a leader killed with -9 right after it renewed its Lease of 15 s, until the \
         next has sent a message to a node over mosquitto (asked every 10 ms); real API server"
    );
    let seconds = format!("{}.{:02}", worst.as_secs(), worst.subsec_millis() / 10);
    Ok(vec![Figure::new("failover_s", seconds, "s", &how)])
}

/// As its metrics say; none while it stands by.
fn messages_sent(hub: &Hub) -> anyhow::Result<u64> {
    const NAME: &str = "hinterland_hub_broker_messages_sent_total ";
    let answer = request(hub.api, "GET", "/metrics", &[], PATIENCE)?;
    let page = String::from_utf8_lossy(&answer.body).into_owned();
    let value = page.lines().find_map(|line| line.strip_prefix(NAME));
    Ok(value.and_then(|value| value.trim().parse().ok()).unwrap_or(0))
}
