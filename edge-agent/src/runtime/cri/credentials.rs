//! What a registry asks for: the entries of a Secret of the type `kubernetes.io/dockerconfigjson` that are for
//! an image. Pure.
//!
//! As the kubelet: an entry is for all images whose names begin with its own, the longest first. Refuses the
//! globs that a kubelet takes beside that.

use super::api::AuthConfig;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The registry of names that name none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Another name of it, which `docker login` writes.
const DEFAULT_REGISTRY_OLD: &str = "index.docker.io";

#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
}

/// What of an entry is used.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// Those for `image` in the JSON of a Secret, the one that says most of it first.
///
/// # Errors
/// What is wrong with the JSON; nothing of what it holds is said.
pub(super) fn credentials_for(image: &str, json: &[u8]) -> Result<Vec<AuthConfig>, String> {
    let config: DockerConfig = serde_json::from_slice(json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("expected a JSON object with `auths` (line {line}, column {column})")
    })?;
    let repository = repository_of(image);
    let entries = config.auths.into_iter().map(|(place, entry)| (place_of(&place), entry));
    let mut fitting: Vec<_> = entries.filter(|(place, _)| is_within(&repository, place)).collect();
    fitting.sort_by_key(|(place, _)| std::cmp::Reverse(place.len()));
    Ok(fitting.into_iter().map(|(_, entry)| auth_config(entry)).collect())
}

fn auth_config(entry: Entry) -> AuthConfig {
    let Entry { auth, username, password, identitytoken, registrytoken } = entry;
    AuthConfig {
        username,
        password,
        auth,
        server_address: String::new(),
        identity_token: identitytoken,
        registry_token: registrytoken,
    }
}

/// Registry and path of an image, without tag and digest.
fn repository_of(image: &str) -> String {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    // A colon before the last slash is that of a port.
    let name = match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    };
    let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => format!("{}/{rest}", known(first)),
        Some(_) => format!("{DEFAULT_REGISTRY}/{name}"),
        None => format!("{DEFAULT_REGISTRY}/library/{name}"),
    }
}

/// An entry's name in the same form: some have a scheme, and the version of the API at the end.
fn place_of(entry: &str) -> String {
    let place = entry.split_once("://").map_or(entry, |(_, place)| place);
    let place = place.trim_end_matches('/');
    let place = ["/v1", "/v2"].iter().find_map(|end| place.strip_suffix(end)).unwrap_or(place);
    match place.split_once('/') {
        Some((host, path)) => format!("{}/{path}", known(host)),
        None => known(place).to_owned(),
    }
}

fn known(host: &str) -> &str {
    if host == DEFAULT_REGISTRY_OLD { DEFAULT_REGISTRY } else { host }
}

fn is_within(repository: &str, place: &str) -> bool {
    let rest = repository.strip_prefix(place);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(image: &str, places: &[&str]) -> Vec<String> {
        let auths: BTreeMap<&str, _> = places
            .iter()
            .map(|place| (*place, serde_json::json!({ "username": place, "password": "p" })))
            .collect();
        let json = serde_json::to_vec(&serde_json::json!({ "auths": auths })).unwrap();
        let found = credentials_for(image, &json).unwrap();
        found.into_iter().map(|auth| auth.username).collect()
    }

    #[test]
    fn an_entry_is_for_its_registry_and_for_what_lies_below_its_path() {
        let places = ["registry.example:5000", "registry.example:5000/site", "other.example"];
        let image = "registry.example:5000/site/ocr:3";
        assert_eq!(users(image, &places), [places[1], places[0]]);
        assert_eq!(users("registry.example:5000/sites/ocr", &places), [places[0]]);
        assert_eq!(users("registry.example/ocr", &places), [""; 0]);
    }

    #[test]
    fn what_docker_login_writes_is_for_images_that_name_no_registry() {
        let places = ["https://index.docker.io/v1/"];
        for image in ["busybox", "busybox:1", "site/ocr@sha256:00", "docker.io/site/ocr"] {
            assert_eq!(users(image, &places), places, "{image}");
        }
        assert_eq!(users("localhost/ocr", &places), [""; 0]);
    }

    #[test]
    fn a_secret_that_can_t_be_read_is_told_without_its_content() {
        let problem = credentials_for("ocr", br#"{"auths": "hunter2"}"#).unwrap_err();
        assert!(problem.contains("auths") && !problem.contains("hunter2"), "{problem}");
    }
}
