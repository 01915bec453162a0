//! Which proxy, if any. The answer is final at open: the endpoint is one host, and the environment is read once.

use std::fmt;
use std::net::IpAddr;

use super::endpoint::{self, Target, redact};
use super::values::Values;
use super::{ConfigError, json};

/// A proxy to use.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// `http://` or `https://`, perhaps with user and password (still percent-encoded), without a path.
    pub url: String,
    /// Entries of `NO_PROXY`, lower case. The endpoint matches none of them, or there would be no proxy.
    pub no_proxy: Vec<String>,
}

impl fmt::Debug for ProxyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyConfig")
            .field("url", &redact(&self.url))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// The key `proxy`, else the variables that everyone uses.
///
/// A proxy that cannot be used is an error wherever it came from: to connect directly instead would leak what
/// the proxy was set to hold. One that does not concern this endpoint is not looked at.
pub(super) fn resolve(
    values: &Values<'_>,
    target: Option<&Target>,
) -> Result<Option<ProxyConfig>, ConfigError> {
    let no_proxy: Vec<String> = first_set(values, &["no_proxy", "NO_PROXY"])
        .map(|(_, list)| list)
        .unwrap_or_default()
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    let direct = |target: &Target| no_proxy.iter().any(|entry| covers(entry, target));

    if let Some(given) = values.text("proxy")? {
        if given.value.is_empty() {
            return Ok(None);
        }
        let url = endpoint::parse_proxy(&given.value)
            .map_err(|why| given.refuse_as(&redact(&given.value), &why))?;
        return Ok(target.filter(|target| !direct(target)).map(|_| ProxyConfig { url, no_proxy }));
    }
    let Some(target) = target.filter(|target| !direct(target) && !loopback(&target.host)) else {
        return Ok(None);
    };
    // A CGI server puts the request header `Proxy:` into HTTP_PROXY.
    let cgi = values.variable("REQUEST_METHOD").is_some();
    let names: &[&str] = match (target.https, cgi) {
        (true, _) => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        (false, false) => &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
        (false, true) => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    let Some((name, text)) = first_set(values, names) else { return Ok(None) };
    match endpoint::parse_proxy(&text) {
        Ok(url) => Ok(Some(ProxyConfig { url, no_proxy })),
        Err(why) => Err(ConfigError::new(format!(
            "the variable {name} is {}: {why}; allowed: an http:// or https:// address; set the key proxy to \
             another proxy, or to \"\" for a direct connection",
            json::shown(&redact(&text))
        ))),
    }
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

/// Whether an entry of `NO_PROXY` means this server: `*`, a domain with all below it (a leading `.` or `*.`
/// changes nothing), an address, or a network `10.0.0.0/8`; each but the network with an optional port.
fn covers(entry: &str, target: &Target) -> bool {
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

    fn resolve_with(
        endpoint: &str,
        json: &str,
        env: &[(&str, &str)],
    ) -> Result<Option<ProxyConfig>, ConfigError> {
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        let values = Values::open(json, &lookup).unwrap();
        resolve(&values, endpoint::parse(endpoint).unwrap().target.as_ref())
    }

    fn url(endpoint: &str, env: &[(&str, &str)]) -> Option<String> {
        resolve_with(endpoint, "", env).unwrap().map(|proxy| proxy.url)
    }

    #[test]
    fn the_environment_decides_without_the_key() {
        let all = [
            ("http_proxy", "http://lower"),
            ("HTTP_PROXY", "http://UPPER"),
            ("https_proxy", "http://tls"),
            ("ALL_PROXY", "http://all"),
        ];
        assert_eq!(url("http://h", &all).as_deref(), Some("http://lower"));
        assert_eq!(url("https://h", &all).as_deref(), Some("http://tls"));
        assert_eq!(url("http://h", &[("HTTP_PROXY", "p:1")]).as_deref(), Some("http://p:1"));
        assert_eq!(url("http://h", &[("HTTP_PROXY", "p"), ("REQUEST_METHOD", "GET")]), None);
        assert_eq!(
            url("http://h", &[("http_proxy", "p"), ("REQUEST_METHOD", "GET")]).as_deref(),
            Some("http://p")
        );
        assert_eq!(
            url("https://h", &[("HTTPS_PROXY", "p"), ("REQUEST_METHOD", "GET")]).as_deref(),
            Some("http://p")
        );
        assert_eq!(url("https://h", &[("http_proxy", "p")]), None);
        assert_eq!(url("https://h", &[("https_proxy", ""), ("all_proxy", "p")]).as_deref(), Some("http://p"));
        assert_eq!(url("https://h", &[("all_proxy", "a"), ("ALL_PROXY", "b")]).as_deref(), Some("http://a"));
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
        assert_eq!(resolve_with("http://h", r#"{"proxy":"q:1"}"#, &env).unwrap().unwrap().url, "http://q:1");
        assert_eq!(url("http://h", &[env[0], ("TELEMETRY_PROXY", "")]), None);
        assert_eq!(url("http://h", &[env[0], ("TELEMETRY_PROXY", "q")]).as_deref(), Some("http://q"));
        assert!(resolve_with("http://h", r#"{"proxy":null}"#, &env).unwrap().is_some());
        let kept = resolve_with("http://h", r#"{"proxy":"q"}"#, &[("NO_PROXY", "A, b c")]).unwrap().unwrap();
        assert_eq!(kept.no_proxy, ["a", "b", "c"]);
        assert_eq!(resolve_with("http://h", r#"{"proxy":"q"}"#, &[("NO_PROXY", "h")]).unwrap(), None);
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
        let target = |text: &str| endpoint::parse(text).unwrap().target.unwrap();
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
            assert_eq!(covers(entry, &target(endpoint)), expected, "{entry} {endpoint}");
        }
    }

    #[test]
    fn debug_hides_the_password() {
        let proxy = ProxyConfig { url: "http://u:secret@p".into(), no_proxy: vec![] };
        assert_eq!(format!("{proxy:?}"), r#"ProxyConfig { url: "http://***@p", no_proxy: [] }"#);
    }
}
