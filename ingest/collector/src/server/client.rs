//! Whose request it is: the peer's address, or the one that a trusted proxy names.
//!
//! `X-Forwarded-For` is what the sender likes it to be, up to the entries that
//! our own proxies added at its end. So it is read from the right, as long as
//! the address that vouches for an entry is a trusted proxy's; by default
//! none is. `Forwarded` (RFC 7239) and `X-Real-IP` are not read.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// Entries of `X-Forwarded-For` that are looked at, from the right: more
/// proxies than anybody has in a row.
pub const MAX_FORWARDED_HOPS: usize = 16;

const FORWARDED_FOR: &str = "x-forwarded-for";
/// What proxies say of themselves, ours or anybody's.
const PROXY_HEADERS: &[&str] = &[FORWARDED_FOR, "forwarded", "x-real-ip", "via"];

/// The networks of one's own proxies and load balancers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Those of `networks`, each as `10.0.0.0/8` or a single address.
    ///
    /// # Errors
    /// The text that is neither.
    pub fn parse<S: AsRef<str>>(networks: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let parse = |text: &str| {
            let network = text.parse::<IpNet>().ok();
            network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        };
        networks
            .into_iter()
            .map(|text| parse(text.as_ref()).ok_or_else(|| text.as_ref().to_owned()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a connection from `peer`.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines = headers.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>();
        let entries = lines
            .iter()
            .rev()
            .flat_map(|line| line.to_str().unwrap_or_default().rsplit(','))
            .take(MAX_FORWARDED_HOPS);
        for entry in entries {
            if !self.contains(client) {
                break;
            }
            // Whatever stands left of something unreadable is anybody's.
            let Some(address) = parse_entry(entry.trim()) else { break };
            client = address;
        }
        client
    }
}

/// True where a process on this machine asks, and no proxy says that it asks
/// for somebody else.
pub(super) fn is_local(peer: IpAddr, headers: &HeaderMap) -> bool {
    peer.to_canonical().is_loopback()
        && !PROXY_HEADERS.iter().any(|name| headers.contains_key(*name))
}

/// An address, with a port or in brackets as some proxies write it.
fn parse_entry(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let address =
        address.or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()));
    let address = address.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok());
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_FOR, line.parse().expect("header"));
        }
        let trusted = TrustedProxies::parse(trusted).expect("networks");
        trusted.client(peer.parse().expect("peer"), &headers).to_string()
    }

    #[test]
    fn without_trusted_proxies_the_peer_is_the_client() {
        assert_eq!(client(&[], "10.0.0.1", &["198.51.100.7"]), "10.0.0.1");
        assert_eq!(client(&[], "::ffff:10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn a_trusted_proxys_word_counts_and_a_forged_one_left_of_it_does_not() {
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48"];
        assert_eq!(client(&trusted, "10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(
            client(&trusted, "10.0.0.1", &["1.1.1.1", "198.51.100.7, 10.2.3.4"]),
            "198.51.100.7"
        );
        assert_eq!(client(&trusted, "2001:db8:1::5", &["2001:db8:7::1"]), "2001:db8:7::1");
        assert_eq!(client(&trusted, "203.0.113.9", &["198.51.100.7"]), "203.0.113.9");
        assert_eq!(client(&trusted, "10.0.0.1", &["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(client(&trusted, "10.0.0.1", &["[2001:db8:7::1]:443"]), "2001:db8:7::1");
        assert_eq!(client(&trusted, "10.0.0.1", &["198.51.100.7, unknown"]), "10.0.0.1");
        assert_eq!(client(&trusted, "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn only_so_many_hops_are_followed() {
        let mut hops = vec!["198.51.100.7"];
        hops.resize(MAX_FORWARDED_HOPS, "10.9.9.9");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &[&hops.join(",")]), "198.51.100.7");
        hops.push("10.9.9.9");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &[&hops.join(",")]), "10.9.9.9");
    }

    #[test]
    fn what_is_no_network_is_named() {
        assert_eq!(TrustedProxies::parse(["10.0.0.0/8", "lan"]), Err("lan".to_owned()));
        assert!(TrustedProxies::parse(["192.0.2.1", "::1"]).is_ok());
    }

    #[test]
    fn a_local_request_through_a_proxy_is_not_local() {
        let mut headers = HeaderMap::new();
        assert!(is_local("127.0.0.1".parse().expect("ip"), &headers));
        assert!(is_local("::1".parse().expect("ip"), &headers));
        assert!(!is_local("192.0.2.1".parse().expect("ip"), &headers));
        headers.insert("via", "1.1 proxy".parse().expect("header"));
        assert!(!is_local("127.0.0.1".parse().expect("ip"), &headers));
    }
}
