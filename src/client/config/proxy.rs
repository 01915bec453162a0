//! Which proxy, if any. The answer is final at open: the endpoint is one host, and the environment is read once.

use std::net::IpAddr;

use super::redact::redact;
use super::values::Values;
use super::{ConfigError, json};
use crate::sink::url::Url;
use crate::sink::{Endpoint, Proxy};

/// The key `proxy`, else the variables that everyone uses.
///
/// A proxy that cannot be used is an error wherever it came from: to connect directly instead would leak what
/// the proxy was set to hold. One that does not concern this endpoint is not looked at.
pub(super) fn resolve(values: &Values<'_>, endpoint: &Endpoint) -> Result<Option<Proxy>, ConfigError> {
    let no_proxy = first_set(values, &["no_proxy", "NO_PROXY"]).map(|(_, list)| list).unwrap_or_default();
    let target = match endpoint {
        Endpoint::Http { url } if !excepted(&no_proxy, url) => Some(url),
        _ => None,
    };
    if let Some(given) = values.text("proxy")? {
        if given.value.is_empty() {
            return Ok(None);
        }
        let proxy = Proxy::parse(&given.value).map_err(|why| given.refuse_as(&redact(&given.value), &why))?;
        return Ok(target.map(|_| proxy));
    }
    let Some(target) = target.filter(|target| !loopback(&target.host)) else {
        return Ok(None);
    };
    // A CGI server puts the request header `Proxy:` into HTTP_PROXY.
    let cgi = values.variable("REQUEST_METHOD").is_some();
    let names: &[&str] = match (target.tls, cgi) {
        (true, _) => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        (false, false) => &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
        (false, true) => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    let Some((name, text)) = first_set(values, names) else { return Ok(None) };
    Proxy::parse(&text).map(Some).map_err(|why| {
        ConfigError::new(format!(
            "the variable {name} is {}: {why}; allowed: an http:// address without a path; set the key proxy to \
             another proxy, or to \"\" for a direct connection",
            json::shown(&redact(&text))
        ))
    })
}

fn first_set(values: &Values<'_>, names: &[&'static str]) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| Some((*name, values.variable(name)?)))
}

/// Nobody's proxy reaches the loopback of this machine.
fn loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether a list as in `NO_PROXY` names this server.
fn excepted(list: &str, target: &Url) -> bool {
    list.to_ascii_lowercase()
        .split(|c: char| c == ',' || c.is_whitespace())
        .any(|entry| covers(entry, target))
}

/// Whether an entry of `NO_PROXY` means this server: `*`, a domain with all below it (a leading `.` or `*.`
/// changes nothing), an address, or a network `10.0.0.0/8`; each but the network with an optional port.
fn covers(entry: &str, target: &Url) -> bool {
    if entry == "*" {
        return true;
    }
    let host = target.host.strip_suffix('.').unwrap_or(&target.host);
    if let Some((network, bits)) = entry.split_once('/') {
        let (Ok(network), Ok(bits), Ok(address)) = (network.parse(), bits.parse(), host.parse()) else {
            return false;
        };
        return in_network(address, network, bits);
    }
    let bare = |entry: &str| entry.trim_start_matches('[').trim_end_matches(']').to_string();
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) if entry.parse::<IpAddr>().is_err() && !entry.ends_with(']') => {
            (bare(name), Some(port))
        }
        _ => (bare(entry), None),
    };
    if port.is_some_and(|port| port.parse() != Ok(target.port)) {
        return false;
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return name.parse() == Ok(address);
    }
    let name = name.trim_start_matches('*').trim_start_matches('.');
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.is_empty() && host.strip_suffix(name).is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

fn in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (address ^ network).checked_shr(width - bits).unwrap_or_default() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_with(endpoint: &str, json: &str, env: &[(&str, &str)]) -> Result<Option<Proxy>, ConfigError> {
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        let values = Values::open(json, &lookup).unwrap();
        resolve(&values, &Endpoint::parse(endpoint).unwrap())
    }

    fn url(endpoint: &str, env: &[(&str, &str)]) -> Option<String> {
        resolve_with(endpoint, "", env).unwrap().map(|proxy| proxy.url().to_string())
    }

    #[test]
    fn the_environment_decides_without_the_key() {
        let all = [
            ("http_proxy", "http://lower"),
            ("HTTP_PROXY", "http://UPPER"),
            ("https_proxy", "http://tls"),
            ("ALL_PROXY", "http://all"),
        ];
        assert_eq!(url("http://h", &all).as_deref(), Some("http://lower/"));
        assert_eq!(url("https://h", &all).as_deref(), Some("http://tls/"));
        assert_eq!(url("http://h", &[("HTTP_PROXY", "p:1")]).as_deref(), Some("http://p:1/"));
        assert_eq!(url("http://h", &[("HTTP_PROXY", "p"), ("REQUEST_METHOD", "GET")]), None);
        assert_eq!(
            url("http://h", &[("http_proxy", "p"), ("REQUEST_METHOD", "GET")]).as_deref(),
            Some("http://p/")
        );
        assert_eq!(
            url("https://h", &[("HTTPS_PROXY", "p"), ("REQUEST_METHOD", "GET")]).as_deref(),
            Some("http://p/")
        );
        assert_eq!(url("https://h", &[("http_proxy", "p")]), None);
        assert_eq!(
            url("https://h", &[("https_proxy", ""), ("all_proxy", "p")]).as_deref(),
            Some("http://p/")
        );
        assert_eq!(url("https://h", &[("all_proxy", "a"), ("ALL_PROXY", "b")]).as_deref(), Some("http://a/"));
        assert_eq!(url("http+unix:///s", &all), None);
        assert_eq!(url("file:x", &all), None);
        assert_eq!(url("http://h", &[]), None);
    }

    #[test]
    fn loopback_ignores_the_environment_but_not_the_key() {
        let env = [("http_proxy", "http://p")];
        for endpoint in [
            "http://localhost",
            "http://a.localhost.",
            "http://127.9.9.9",
            "http://[::1]",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert_eq!(url(endpoint, &env), None, "{endpoint}");
            assert!(resolve_with(endpoint, r#"{"proxy":"http://p"}"#, &[]).unwrap().is_some(), "{endpoint}");
        }
        assert!(url("http://notlocalhost", &env).is_some());
    }

    #[test]
    fn the_key_wins_and_empty_is_none() {
        let env = [("http_proxy", "http://p")];
        assert_eq!(resolve_with("http://h", r#"{"proxy":""}"#, &env).unwrap(), None);
        let proxy = resolve_with("http://h", r#"{"proxy":"q:1"}"#, &env).unwrap().unwrap();
        assert_eq!(proxy.url().authority(), "q:1");
        assert_eq!(url("http://h", &[env[0], ("TELEMETRY_PROXY", "")]), None);
        assert_eq!(url("http://h", &[env[0], ("TELEMETRY_PROXY", "q")]).as_deref(), Some("http://q/"));
        assert!(resolve_with("http://h", r#"{"proxy":null}"#, &env).unwrap().is_some());
        for (list, used) in [("A, b c", true), ("A,H", false), ("a  h", false), ("a, h", false), (",", true)]
        {
            let proxy = resolve_with("http://h", r#"{"proxy":"q"}"#, &[("NO_PROXY", list)]).unwrap();
            assert_eq!(proxy.is_some(), used, "{list}");
        }
    }

    #[test]
    fn an_unusable_proxy_is_an_error_that_names_its_source() {
        let error =
            |json: &str, env: &[(&str, &str)]| resolve_with("https://h", json, env).unwrap_err().to_string();
        let text = error("", &[("ALL_PROXY", "socks5://u:secret@p:1")]);
        assert!(
            text.contains("ALL_PROXY") && text.contains("socks5://***@p:1") && text.contains("key proxy"),
            "{text}"
        );
        let text = error("", &[("HTTPS_PROXY", "https://u:secret@p:1")]);
        assert!(
            text.starts_with("the variable HTTPS_PROXY is \"https://***@p:1\": only http:// proxies work; allowed: an http:// address"),
            "{text}"
        );
        let text = error(r#"{"proxy":"https://secret@p"}"#, &[]);
        assert!(
            text.starts_with(
                "proxy is \"https://***@p\": only http:// proxies work; allowed: an http:// address"
            ),
            "{text}"
        );
        let text = error("", &[("TELEMETRY_PROXY", "ftp://secret@p")]);
        assert!(text.contains("TELEMETRY_PROXY"), "{text}");
        let text = error(r#"{"proxy":"http://u:secret@p:0"}"#, &[]);
        assert!(text.starts_with("proxy is \"http://***@p:0\": the port"), "{text}");
        for text in [error("", &[("ALL_PROXY", "u:secret@")]), error(r#"{"proxy":"a:secret@/x"}"#, &[])] {
            assert!(!text.contains("secret"), "{text}");
        }
        // One that is not for this endpoint cannot break it.
        assert_eq!(url("http://h", &[("http_proxy", "socks5://p"), ("no_proxy", "h")]), None);
        assert_eq!(url("http://localhost", &[("http_proxy", "socks5://p")]), None);
    }

    #[test]
    fn no_proxy() {
        for (entry, endpoint, expected) in [
            ("*", "http://h", true),
            ("h", "http://h", true),
            ("h", "http://H.", true),
            ("example.com", "http://example.com", true),
            ("example.com", "http://a.example.com", true),
            (".example.com", "http://a.example.com", true),
            (".example.com", "http://example.com", true),
            ("*.example.com", "http://a.example.com", true),
            ("example.com.", "http://example.com", true),
            ("example.com", "http://badexample.com", false),
            ("example.com", "http://example.com.evil", false),
            ("h:80", "http://h", true),
            ("h:443", "https://h", true),
            ("h:81", "http://h", false),
            ("h:x", "http://h", false),
            ("b.h:81", "http://a.b.h:81", true),
            ("a/b/c", "http://1.2.3.4", false),
            ("192.0.2.7", "http://192.0.2.8", false),
            ("10.1.0.0/16", "http://10.1.9.9", true),
            ("10.1.0.0/16", "http://10.2.0.1", false),
            ("10.0.0.1", "http://10.0.0.1", true),
            ("10.0.0.1:80", "http://10.0.0.1", true),
            ("0.0.1", "http://10.0.0.1", false),
            ("10.0.0.0/8", "http://10.9.9.9", true),
            ("10.0.0.0/8", "http://11.0.0.0", false),
            ("10.0.0.0/33", "http://10.0.0.0", false),
            ("0.0.0.0/0", "http://8.8.8.8", true),
            ("::/0", "http://[1::]", true),
            ("::1", "http://[::1]", true),
            ("[::1]", "http://[0:0::1]", true),
            ("[::1]:80", "http://[::1]", true),
            ("[::1]:81", "http://[::1]", false),
            ("fd00::/8", "http://[fd12::1]", true),
            ("fd00::/8", "http://[fe80::1]", false),
            ("10.0.0.0/8", "http://h", false),
            (".", "http://h", false),
            ("", "http://h", false),
        ] {
            assert_eq!(covers(entry, &Url::parse(endpoint).unwrap()), expected, "{entry} {endpoint}");
        }
    }
}
