//! The forward proxy, and which hosts go past it.
//!
//! `http://` proxies only: a TLS connection inside another, and SOCKS, are refused at open rather than half done.
//! An https target goes through a CONNECT tunnel; an http target is asked for in absolute form, because common
//! proxies (squid as shipped) forbid CONNECT to any port but 443.
//!
//! `NO_PROXY`, as curl and Go read it: `*`, `host`, `.suffix` (both match the name and everything below it),
//! `host:port`, an address, a CIDR block. Nothing is exempt by itself, not even localhost.
#![forbid(unsafe_code)]

use super::ProxyConfig;
use super::url::{Url, host_and_port};
use std::net::IpAddr;

/// A checked [`ProxyConfig`].
pub struct Proxy {
    /// Where the proxy listens; `basic` is what it wants to see in `Proxy-Authorization`.
    pub url: Url,
    rules: Vec<Rule>,
}

enum Rule {
    All,
    Name { name: String, port: Option<u16> },
    Net { net: IpAddr, bits: u32, port: Option<u16> },
}

impl Proxy {
    /// Check the configuration.
    pub fn new(config: &ProxyConfig) -> Result<Proxy, String> {
        let text = config.url.trim();
        // curl's convention: `proxy:3128` means http.
        let full = if text.contains("://") { text.to_string() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|e| {
            if e.contains("scheme") { "only http:// proxies are supported".into() } else { e }
        })?;
        if url.tls {
            return Err("only http:// proxies are supported, not https://".into());
        }
        // What cannot be read is left out, as everywhere else: the variable is shared with other programs.
        let rules =
            config.no_proxy.iter().flat_map(|s| s.split(',')).filter_map(|s| rule(s.trim())).collect();
        Ok(Proxy { url, rules })
    }

    /// Whether a connection to this host uses the proxy.
    pub fn applies(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.');
        let ip = host.parse::<IpAddr>().ok();
        !self.rules.iter().any(|r| match r {
            Rule::All => true,
            Rule::Name { name, port: p } => {
                p.is_none_or(|p| p == port)
                    && (host == name
                        || host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.')))
            }
            Rule::Net { net, bits, port: p } => {
                p.is_none_or(|p| p == port) && ip.is_some_and(|ip| within(ip, *net, *bits))
            }
        })
    }
}

fn rule(text: &str) -> Option<Rule> {
    if text == "*" {
        return Some(Rule::All);
    }
    if let Some((net, bits)) = text.split_once('/') {
        let net: IpAddr = net.parse().ok()?;
        let bits = bits.parse().ok().filter(|b| *b <= if net.is_ipv4() { 32 } else { 128 })?;
        return Some(Rule::Net { net, bits, port: None });
    }
    let all_bits = |ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 };
    if let Ok(net) = text.parse::<IpAddr>() {
        return Some(Rule::Net { net, bits: all_bits(net), port: None });
    }
    let text = text.strip_prefix("*.").unwrap_or(text).trim_start_matches('.').trim_end_matches('.');
    let (name, port) = host_and_port(text).ok()?;
    if let Ok(net) = name.parse::<IpAddr>() {
        return Some(Rule::Net { net, bits: all_bits(net), port });
    }
    Some(Rule::Name { name, port })
}

fn within(ip: IpAddr, net: IpAddr, bits: u32) -> bool {
    match (ip, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(no_proxy: &[&str]) -> Proxy {
        let no_proxy = no_proxy.iter().map(|s| s.to_string()).collect();
        Proxy::new(&ProxyConfig { url: "http://p:3128".into(), no_proxy }).unwrap()
    }

    #[test]
    fn no_proxy_rules() {
        let p =
            proxy(&["a.test, .b.test", "c.test:81", "10.1.0.0/16,192.0.2.7,fd00::/8", "[::1]:9", "*.d.test"]);
        for (host, port, past) in [
            ("a.test", 1, true),
            ("x.a.test", 1, true),
            ("xa.test", 1, false),
            ("b.test", 1, true),
            ("x.b.test", 1, true),
            ("c.test", 81, true),
            ("c.test", 82, false),
            ("10.1.9.9", 1, true),
            ("10.2.0.1", 1, false),
            ("192.0.2.7", 1, true),
            ("192.0.2.8", 1, false),
            ("fd12::1", 1, true),
            ("fe80::1", 1, false),
            ("::1", 9, true),
            ("::1", 8, false),
            ("x.d.test", 1, true),
            ("other", 1, false),
        ] {
            assert_eq!(!p.applies(host, port), past, "{host}:{port}");
        }
        assert!(!proxy(&["*"]).applies("anything", 1));
        assert!(proxy(&["0.0.0.0/99", "a/b/c", ""]).applies("1.2.3.4", 1));
        assert!(!proxy(&["0.0.0.0/0"]).applies("1.2.3.4", 1));
    }

    #[test]
    fn what_is_not_supported_is_said() {
        let open = |url: &str| Proxy::new(&ProxyConfig { url: url.into(), no_proxy: vec![] }).map(|p| p.url);
        assert_eq!(open("proxy:3128").unwrap().port, 3128);
        assert_eq!(open("http://u:p@proxy").unwrap().basic.as_deref(), Some("Basic dTpw"));
        for bad in ["socks5://p:1080", "https://p:3128", "http://"] {
            assert!(open(bad).is_err(), "{bad}");
        }
        assert!(open("socks5://p:1080").unwrap_err().contains("http://"));
    }
}
