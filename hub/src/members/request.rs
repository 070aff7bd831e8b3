//! One request to a member's API server: its time, and what is said where it comes to nothing.
//!
//! What an API server says of a Secret is not repeated.

use super::build::MemberKind;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, Error};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// For one request.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Whose fields are the hub's.
const FIELD_MANAGER: &str = "hinterland-hub";

/// Why a connection has ended: a word and a sentence.
pub(super) type Ended = (String, String);

/// Why a request came to nothing.
pub(super) enum Failure {
    /// The server says why.
    Api(Box<kube::core::Status>),
    /// It did not get there, or no answer came.
    Transport(String),
}

pub(super) async fn request<T>(
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    match timeout(REQUEST_TIMEOUT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Error::Api(status))) if !is_passing(status.code) => Err(Failure::Api(status)),
        Ok(Err(error)) => Err(Failure::Transport(shared::in_words(&error))),
        Err(_) => Err(Failure::Transport(format!("no answer within {REQUEST_TIMEOUT:?}"))),
    }
}

/// Of the server, not of the object: throttled, not authenticated, or in trouble.
fn is_passing(code: u16) -> bool {
    code == 401 || code == 429 || code >= 500
}

pub(super) fn ended(failure: &Failure) -> Ended {
    match failure {
        Failure::Api(status) => ("Refused".to_owned(), status.message.clone()),
        Failure::Transport(why) => ("Unreachable".to_owned(), why.clone()),
    }
}

pub(super) fn unreachable(error: &watcher::Error) -> Ended {
    ("Unreachable".to_owned(), shared::in_words(error))
}

/// What an API server says of an object that it does not take. Of a Secret without its own words, which may
/// repeat what is in it.
pub(super) fn words_about(kind: MemberKind, status: &kube::core::Status) -> String {
    match kind {
        MemberKind::Secret => format!("refused: {} ({})", status.reason, status.code),
        _ => status.message.clone(),
    }
}

pub(super) fn api_in(
    client: &Client,
    kind: MemberKind,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let resource = resource(kind);
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

fn resource(kind: MemberKind) -> ApiResource {
    let (version, name, plural) = kind.names();
    resource_of(version, name, plural)
}

pub(super) fn resource_of(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Applies `body` on the server's side; what it made of it.
pub(super) async fn apply_to(api: &Api<DynamicObject>, body: &Value) -> Result<Value, Failure> {
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let answer = request(api.patch(name, &parameters, &Patch::Apply(body))).await?;
    Ok(json!(answer))
}
