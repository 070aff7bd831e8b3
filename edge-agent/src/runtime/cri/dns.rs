//! Where a pod with a network of its own looks up names: where its node does.
//!
//! A node whose own resolver listens on loopback (systemd-resolved) has another file that says where that one asks:
//! loopback is another in the pod's network. As kubelet is set up there.

use super::api::DnsConfig;
use std::fs;
use std::net::IpAddr;

/// Domains in which a name is looked for: containerd 1.6 takes no more.
const SEARCHES_MAX: usize = 6;

const OF_NODE: &str = "/etc/resolv.conf";
const OF_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What the node says; none where it says nothing, and the container runtime is to know better.
pub(super) fn of_node() -> Option<DnsConfig> {
    let read = |path| fs::read_to_string(path).ok();
    choose(read(OF_NODE).as_deref(), read(OF_RESOLVED).as_deref())
}

fn choose(of_node: Option<&str>, of_resolved: Option<&str>) -> Option<DnsConfig> {
    let parsed = of_node.map(parse);
    let is_reached = |config: &DnsConfig| !config.servers.iter().all(|server| is_loopback(server));
    let beyond = || of_resolved.map(parse).filter(is_reached);
    let found = parsed.clone().filter(is_reached).or_else(beyond).or(parsed)?;
    (found != DnsConfig::default()).then_some(found)
}

fn is_loopback(server: &str) -> bool {
    server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Reads the format of resolv.conf(5). The last `search` or `domain` holds.
fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next().unwrap_or_default();
        let words = words.map(str::to_owned);
        match keyword {
            "nameserver" => config.servers.extend({ words }.take(1)),
            "search" | "domain" => config.searches = words.take(SEARCHES_MAX).collect(),
            "options" => config.options.extend(words),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str =
        "# made by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";
    const SITE: &str = "nameserver 10.0.0.53\nnameserver fd00::53\ndomain old\nsearch site.example a\noptions ndots:2\n";

    #[test]
    fn servers_searches_and_options_are_read_and_the_rest_is_passed_over() {
        let config = choose(Some(SITE), None).unwrap();
        assert_eq!(config.servers, ["10.0.0.53", "fd00::53"]);
        assert_eq!(config.searches, ["site.example", "a"]);
        assert_eq!(config.options, ["ndots:2"]);
        let many = choose(Some("search a b c d e f g\n"), None).unwrap();
        assert_eq!(many.searches.len(), SEARCHES_MAX);
    }

    #[test]
    fn a_resolver_on_loopback_is_passed_by_where_it_says_whom_it_asks() {
        assert_eq!(choose(Some(STUB), Some(SITE)), choose(Some(SITE), None));
        assert_eq!(choose(Some(SITE), Some(STUB)), choose(Some(SITE), None));
        assert_eq!(choose(Some(STUB), None).unwrap().servers, ["127.0.0.53"]);
        assert_eq!((choose(None, None), choose(Some("# none\n"), None)), (None, None));
    }
}
