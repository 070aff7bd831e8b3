//! Logs of pods and commands in them, asked of their nodes now: requests as calls, and who asks.

use super::guard::ByToken;
use super::query::{Query, Reply};
use super::routes::{Failure, Queries, ask, name};
use super::serve::Peer;
use axum::Extension;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query as UrlQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use shared::io::remote::{CURSOR_HEADER, ExecAnswer, ExecBody, LogQuery, MARKS_HEADER, PageMarks};
use shared::limits::{CALLER_BYTES_MAX, LOG_PAGE_BYTES_MAX};
use shared::model::{NodeId, PodId};
use shared::sync::CallEnded;
use shared::wire::{CallMethod, CallOutcome, ExecResult, LogPage, decode};
use std::net::{IpAddr, SocketAddr};

/// Who asks, as the command that asks says; nobody vouches for it.
pub(crate) const CALLER_HEADER: &str = "x-hinterland-caller";

/// A node has this long besides what it is asked to wait; on 64 kbit/s an answer takes two seconds.
const CALL_TIMEOUT_MS: u32 = 15_000;

/// A command with its arguments as JSON.
const BODY_BYTES_MAX: usize = 64 * 1024;

type PodPath = Path<(String, String, String)>;

pub(super) async fn read_log(
    State(queries): State<Queries>,
    Extension(peer): Extension<Peer>,
    by_token: Option<Extension<ByToken>>,
    headers: HeaderMap,
    Path((node, namespace, pod)): PodPath,
    UrlQuery(query): UrlQuery<LogQuery>,
) -> Result<Response, Failure> {
    let (node, pod): (NodeId, PodId) = (name(&node)?, name(&format!("{namespace}/{pod}"))?);
    let wait_ms = query.wait_ms.unwrap_or(0);
    let caller = caller(&headers, peer, by_token.is_some());
    let method = query.call(pod.clone(), caller, LOG_PAGE_BYTES_MAX).map_err(bad)?;
    let reach = ask(&queries, |reply| Query::Reach(node.clone(), pod.clone(), reply)).await?;
    let method = reach.in_its_words(method).map_err(too_old)?;
    let is_tail = matches!(method, CallMethod::TailLog { .. });
    let text = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let body = call(&queries, &node, method, wait_ms).await?;
    if is_tail {
        return Ok((text, body).into_response());
    }
    let page: LogPage = understood(&body)?;
    // As it is now, not as it was before the wait.
    let reach = ask(&queries, |reply| Query::Reach(node, pod, reply)).await?;
    let marks = PageMarks { is_over: reach.is_over, ..PageMarks::from(&page) };
    let headers = [(CURSOR_HEADER, page.next.to_string()), (MARKS_HEADER, marks.to_text())];
    Ok((text, headers, page.text.into_vec()).into_response())
}

pub(super) async fn exec(
    State(queries): State<Queries>,
    Extension(peer): Extension<Peer>,
    by_token: Option<Extension<ByToken>>,
    headers: HeaderMap,
    Path((node, namespace, pod)): PodPath,
    body: Body,
) -> Result<Response, Failure> {
    let (node, pod): (NodeId, PodId) = (name(&node)?, name(&format!("{namespace}/{pod}"))?);
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await;
    let body = body.map_err(|_| bad(format!("expected at most {BODY_BYTES_MAX} bytes")))?;
    let body: ExecBody = serde_json::from_slice(&body)
        .map_err(|error| bad(format!("expected a command as JSON: {error}")))?;
    let timeout_ms = body.timeout_ms;
    let caller = caller(&headers, peer, by_token.is_some());
    let method = body.call(pod.clone(), caller).map_err(bad)?;
    let reach = ask(&queries, |reply| Query::Reach(node.clone(), pod, reply)).await?;
    let method = reach.in_its_words(method).map_err(too_old)?;
    let result: ExecResult = understood(&call(&queries, &node, method, timeout_ms).await?)?;
    Ok(Json(ExecAnswer::from(result)).into_response())
}

async fn call(
    queries: &Queries,
    node: &NodeId,
    method: CallMethod,
    within_ms: u32,
) -> Result<Vec<u8>, Failure> {
    let timeout_ms = within_ms.saturating_add(CALL_TIMEOUT_MS);
    let query = |reply: Reply<CallEnded>| Query::Call {
        node: node.clone(),
        method: Box::new(method),
        timeout_ms,
        reply,
    };
    let CallEnded { outcome, is_unanswered, .. } = ask(queries, query).await?;
    match outcome {
        CallOutcome::Done { body } => Ok(body.into_vec()),
        CallOutcome::Failed { message } if is_unanswered => {
            Err(Failure(StatusCode::GATEWAY_TIMEOUT, message))
        }
        CallOutcome::Failed { message } => Err(Failure(StatusCode::BAD_GATEWAY, message)),
    }
}

fn understood<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let failed = |error: shared::wire::DecodeError| {
        Failure(StatusCode::BAD_GATEWAY, format!("the node's answer can't be read: {error}"))
    };
    decode("answer", body, body.len()).map_err(failed)
}

fn bad(sentence: String) -> Failure {
    Failure(StatusCode::BAD_REQUEST, sentence)
}

fn too_old(sentence: String) -> Failure {
    Failure(StatusCode::NOT_IMPLEMENTED, sentence)
}

/// Who asks: as they say, where from, and how they showed that they may. There are no names that somebody vouches
/// for: the API has one token.
fn caller(headers: &HeaderMap, peer: Peer, by_token: bool) -> String {
    let claimed = headers.get(CALLER_HEADER).and_then(|value| value.to_str().ok());
    let claimed = claimed.unwrap_or("somebody").chars().filter(|c| !c.is_control()).take(64);
    let from = match user_at(peer.0) {
        Some(user) => format!("user {user} on the hub's machine"),
        None => format!("from {}", peer.0.ip()),
    };
    let token = if by_token { ", by the token" } else { "" };
    let words = format!("{} ({from}{token})", claimed.collect::<String>());
    words.chars().scan(0, within(CALLER_BYTES_MAX)).collect()
}

fn within(bytes_max: usize) -> impl FnMut(&mut usize, char) -> Option<char> {
    move |bytes, c| {
        *bytes += c.len_utf8();
        (*bytes <= bytes_max).then_some(c)
    }
}

/// Whose process on this machine has the other end of a connection, as the kernel says.
fn user_at(peer: SocketAddr) -> Option<u32> {
    peer.ip().is_loopback().then_some(())?;
    user_in(&std::fs::read_to_string("/proc/net/tcp").ok()?, peer)
}

/// From the table of `/proc/net/tcp`. Source: proc_net_tcp of the kernel's documentation.
fn user_in(table: &str, peer: SocketAddr) -> Option<u32> {
    let IpAddr::V4(address) = peer.ip() else { return None };
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes(address.octets()), peer.port());
    let lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let mut users = lines.filter_map(|fields| match fields.as_slice() {
        [_, at, _, _, _, _, _, user, ..] if *at == local => user.parse().ok(),
        _ => None,
    });
    users.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_at_the_other_end_is_found_in_the_kernel_s_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
            0: 0100007F:1BA8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0 0 1\n\
            1: 0100007F:9C40 0100007F:1BA8 01 00000000:00000000 00:00000000 00000000  1000 0 2\n";
        let at = |port: u16| user_in(table, SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!((at(40_000), at(40_001)), (Some(1000), None));
        assert_eq!(user_in("", SocketAddr::from(([127, 0, 0, 1], 1))), None);
    }

    #[test]
    fn a_caller_is_what_it_says_and_what_is_known_and_never_too_long() {
        let peer = Peer(SocketAddr::from(([10, 1, 2, 3], 9)));
        let mut headers = HeaderMap::new();
        assert_eq!(caller(&headers, peer, false), "somebody (from 10.1.2.3)");
        headers.insert(CALLER_HEADER, "alice@box".parse().unwrap());
        assert_eq!(caller(&headers, peer, true), "alice@box (from 10.1.2.3, by the token)");
        headers.insert(CALLER_HEADER, "x".repeat(500).parse().unwrap());
        assert!(caller(&headers, peer, true).len() <= CALLER_BYTES_MAX);
    }
}
