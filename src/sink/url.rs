//! URLs, as far as a destination needs them: `http` and `https` only.
//!
//! User and password in a URL become a Basic `Authorization` (a header of the request wins over it). They are
//! taken out while parsing, so no text made from a [`Url`] can show them; error texts never quote the URL.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::Ipv6Addr;

/// A parsed URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// `https`.
    pub tls: bool,
    /// Lower case; an IPv6 address without its brackets.
    pub host: String,
    /// Always known.
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub target: String,
    /// Value of an authorization header made from the user information.
    pub basic: Option<String>,
}

/// Without the credentials and without the query, which may hold a key.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or("/");
        write!(f, "{}://{}{path}", self.scheme(), self.authority())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Url {
    /// Parse an absolute URL.
    pub fn parse(text: &str) -> Result<Url, String> {
        if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(format!("the URL has a character that must be percent-encoded: {c:?}"));
        }
        let (scheme, rest) = text.split_once("://").ok_or("the URL has no scheme (http:// or https://)")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("the URL's scheme is neither http nor https".into()),
        };
        let rest = rest.split('#').next().unwrap_or(rest); // a fragment is never sent
        let cut = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(cut);
        let (basic, hostport) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(basic(user)?), host),
            None => (None, authority),
        };
        let (host, port) = host_and_port(hostport)?;
        let target = if target.starts_with('/') { target.to_string() } else { format!("/{target}") };
        Ok(Url { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }), target, basic })
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// The host as it is written in a URL or a `Host` header, without the port.
    pub fn host_text(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// Host and, where it is not the scheme's own, port: the value of `Host`.
    pub fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host_text(),
            (_, port) => format!("{}:{port}", self.host_text()),
        }
    }

    /// Same scheme, host and port.
    pub fn same_origin(&self, other: &Url) -> bool {
        self.tls == other.tls && self.host == other.host && self.port == other.port
    }

    /// Where a `Location` points. The credentials of this URL go along only to its own host.
    pub fn join(&self, location: &str) -> Result<Url, String> {
        let mut next = if location.contains("://") && !location.starts_with(['/', '?', '.']) {
            Url::parse(location)?
        } else if let Some(rest) = location.strip_prefix("//") {
            Url::parse(&format!("{}://{rest}", self.scheme()))?
        } else {
            if location.is_empty() || location.chars().any(|c| !c.is_ascii_graphic()) {
                return Err("not a URL".into());
            }
            let path = self.target.split('?').next().unwrap_or("/");
            let location = location.split('#').next().unwrap_or(location);
            let target = if location.starts_with('/') {
                location.to_string()
            } else if location.starts_with('?') {
                format!("{path}{location}")
            } else {
                let dir = path.rfind('/').map_or("/", |i| &path[..=i]);
                format!("{dir}{location}")
            };
            Url { target, ..self.clone() }
        };
        // What a server writes into Location is not the user's word on credentials.
        next.basic = (next.host == self.host).then(|| self.basic.clone()).flatten();
        Ok(next)
    }
}

/// Split `host`, `host:port`, `[v6]` and `[v6]:port`.
pub fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("the URL has an unclosed [")?;
        let plain = host.split('%').next().unwrap_or(host);
        plain.parse::<Ipv6Addr>().map_err(|_| "the URL has no IPv6 address between [ and ]")?;
        (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or("junk after ]")?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err("the URL has no host".into());
    }
    let is_v6 = host.contains(':');
    if !is_v6 && !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err("the URL's host has a character that no host name has (write it in punycode)".into());
    }
    let port = match port {
        None | Some("") => None,
        Some(p) => match p.parse::<u16>() {
            Ok(n) if n > 0 && p.bytes().all(|b| b.is_ascii_digit()) => Some(n),
            _ => return Err("the URL's port is not a number from 1 to 65535".into()),
        },
    };
    Ok((host.to_ascii_lowercase(), port))
}

/// `Basic …` from `user:password` as it stands in a URL.
fn basic(userinfo: &str) -> Result<String, String> {
    let mut plain = Vec::with_capacity(userinfo.len());
    let mut bytes = userinfo.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let hex = [bytes.next(), bytes.next()].map(|d| d.and_then(|d| (d as char).to_digit(16)));
            match hex {
                [Some(high), Some(low)] => plain.push((high * 16 + low) as u8),
                _ => return Err("the URL's user information has a % that is no percent-encoding".into()),
            }
        } else {
            plain.push(b);
        }
    }
    if !plain.contains(&b':') {
        plain.push(b':');
    }
    Ok(format!("Basic {}", base64(&plain)))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let six = (word >> (18 - 6 * i)) & 63;
            out.push(if i <= chunk.len() { ALPHABET[six as usize] as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let u = Url::parse("HTTPS://us%40er:p%3Aw@Example.COM:8443/a/b?k=v#frag").unwrap();
        assert!(u.tls);
        assert_eq!((u.host.as_str(), u.port, u.target.as_str()), ("example.com", 8443, "/a/b?k=v"));
        assert_eq!(u.basic.as_deref(), Some("Basic dXNAZXI6cDp3"));
        assert_eq!(u.authority(), "example.com:8443");
        assert_eq!(u.to_string(), "https://example.com:8443/a/b");
        assert_eq!(format!("{u:?}"), u.to_string());
        let v6 = Url::parse("http://[::1]?x=1").unwrap();
        assert_eq!((v6.host.as_str(), v6.port, v6.target.as_str()), ("::1", 80, "/?x=1"));
        assert_eq!(v6.authority(), "[::1]");
    }

    #[test]
    fn refusals_name_the_fault_and_no_credential() {
        for bad in [
            "collector:4318/secret",
            "ftp://secret@h/",
            "http://secret:secret@",
            "http://secret@h:99999/",
            "http://secret@h:0/",
            "http://secret@h:+80/",
            "http://secret@[::1/",
            "http://secret@[nonsense]/",
            "http://secret@bücher.example/",
            "http://secret@a b/",
            "http://secret%zz@h/",
            "http://secret@h/\r\nX: y",
        ] {
            let error = Url::parse(bad).unwrap_err();
            assert!(!error.contains("secret"), "{bad}: {error}");
        }
    }

    #[test]
    fn base64_padding() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn locations() {
        let base = Url::parse("http://u:p@h:81/a/b?q=1").unwrap();
        let to = |l: &str| base.join(l).unwrap();
        assert_eq!(to("/x").target, "/x");
        assert_eq!(to("x?y").target, "/a/x?y");
        assert_eq!(to("?y=http://e").target, "/a/b?y=http://e");
        assert!(to("/x").same_origin(&base) && to("http://h:81/").same_origin(&base));
        assert!(!to("//other/x").same_origin(&base) && !to("https://h:81/").same_origin(&base));
        assert!(to("https://h/").basic.is_some());
        assert_eq!(to("http://evil:evil@other/").basic, None);
        assert!(base.join("").is_err() && base.join("/a b").is_err());
    }
}
