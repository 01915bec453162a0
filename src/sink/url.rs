//! URLs, as far as a destination needs them: `http` and `https` only.
//!
//! User and password are taken out while parsing, so no text made from a [`Url`] shows them; neither does an
//! error text, which never quotes what it was given.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
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
    /// `user:password`, decoded; see [`basic`].
    pub userinfo: Option<String>,
}

/// A part of a path that is longer than this may be a key, as those of webhooks are.
const LONG_PART: usize = 19;

/// Without the credentials and without the query, which may hold a key; of a long part of the path its beginning.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())?;
        for part in self.path().split('/').skip(1) {
            match part.char_indices().nth(LONG_PART).and_then(|_| part.char_indices().nth(4)) {
                Some((end, _)) => write!(f, "/{}...", &part[..end])?,
                None => write!(f, "/{part}")?,
            }
        }
        Ok(())
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
        let (tls, rest) = match (strip_scheme(text, "http://"), strip_scheme(text, "https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err("not an address of a known kind".into()),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (userinfo, server) = match authority.rsplit_once('@') {
            Some((userinfo, server)) => (Some(decode_userinfo(userinfo)?), server),
            None => (None, authority),
        };
        let (host, port) = host_and_port(server)?;
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        Ok(Url { tls, host, port, target: request_target(target)?, userinfo })
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

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("/")
    }

    /// The same with `path` in place of an empty one.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Url {
        let query = self.target.strip_prefix('/').filter(|_| self.path() == "/");
        let target = query.map_or_else(|| self.target.clone(), |query| format!("{path}{query}"));
        Url { target, ..self.clone() }
    }

    /// Same scheme, host and port.
    pub fn same_origin(&self, other: &Url) -> bool {
        self.tls == other.tls && self.host == other.host && self.port == other.port
    }

    /// Where a `Location` points. The credentials of this URL go along only to its own host.
    pub fn join(&self, location: &str) -> Result<Url, String> {
        let location = location.split('#').next().unwrap_or(location); // a fragment is never sent
        let mut next = if let Some(rest) = location.strip_prefix("//") {
            Url::parse(&format!("{}://{rest}", self.scheme()))?
        } else if location.contains("://") && !location.starts_with(['/', '?', '.']) {
            Url::parse(location)?
        } else {
            let path = self.path();
            let target = match location.chars().next() {
                None => return Err("not a URL".into()),
                Some('/') => location.to_string(),
                Some('?') => format!("{path}{location}"),
                Some(_) => format!("{}{location}", path.rfind('/').map_or("/", |i| &path[..=i])),
            };
            Url { target: request_target(&without_dots(&target))?, ..self.clone() }
        };
        // What a server writes into Location is not the user's word on credentials.
        next.userinfo = self.userinfo.clone().filter(|_| next.host == self.host);
        Ok(next)
    }
}

/// A path with what `.` and `..` in it mean, and its query as it is (RFC 3986, 5.2.4).
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    // One that ends in dots names a directory.
    let end = if path.ends_with("/.") || path.ends_with("/..") { "/" } else { "" };
    let end = if kept.is_empty() { "" } else { end };
    format!("/{}{end}{query}", kept.join("/"))
}

/// What follows `scheme` (lower case), whatever the case in `text`.
pub fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// Split `host`, `host:port`, `[v6]` and `[v6]:port`.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("the bracket of the IPv6 address is not closed")?;
        host.parse::<Ipv6Addr>().map_err(|_| "the brackets hold no IPv6 address")?;
        match port.strip_prefix(':') {
            None if !port.is_empty() => return Err("only a port can follow the IPv6 address".into()),
            port => (host, port),
        }
    } else {
        let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        if port.is_some_and(|port| port.contains(':')) {
            return Err("an IPv6 address stands in brackets".into());
        }
        host_name(host)?;
        (host, port)
    };
    let port = port.map(|text| match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err("the port is a number from 1 to 65535"),
    });
    Ok((host.to_ascii_lowercase(), port.transpose()?))
}

fn host_name(host: &str) -> Result<(), &'static str> {
    if host.is_empty() {
        return Err("the host is missing");
    }
    if !host.is_ascii() {
        return Err("the host is not ASCII: write its xn-- form");
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err("the host has a character that no host name has");
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > 253 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err("the host is no host name: an empty or too long part");
    }
    Ok(())
}

/// Path and query, checked for what may stand in a request line. An empty path becomes `/`.
pub fn request_target(text: &str) -> Result<String, String> {
    if text.contains('#') {
        return Err("a fragment (#...) is never sent: leave it out".into());
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)) {
        let bad = "a space, one of \"<>\\^`{|}, or one that is not ASCII";
        return Err(format!("the path has a character that must be percent-encoded: {bad}"));
    }
    Ok(format!("{}{text}", if text.starts_with('/') { "" } else { "/" }))
}

/// `user:password`, percent-decoded. A user alone has an empty password.
fn decode_userinfo(userinfo: &str) -> Result<String, &'static str> {
    const BAD: &str = "user and password in a URL are percent-encoded UTF-8 without control characters";
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let user = percent_decode(user).ok_or(BAD)?;
    let password = percent_decode(password).ok_or(BAD)?;
    if user.is_empty() {
        return Err("the user before the @ is missing");
    }
    if user.contains(':') {
        return Err("a user cannot hold a colon");
    }
    Ok(format!("{user}:{password}"))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push((high * 16 + low) as u8);
            }
            _ if byte.is_ascii_graphic() => out.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(out).ok().filter(|text| !text.chars().any(char::is_control))
}

/// The value of `Authorization` for `user:password`.
pub fn basic(userinfo: &str) -> String {
    format!("Basic {}", STANDARD.encode(userinfo))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let u = Url::parse("HTTPS://us%40er:p%3Aw@Example.COM:8443/a/b?k=v").unwrap();
        assert!(u.tls);
        assert_eq!((u.host.as_str(), u.port, u.target.as_str()), ("example.com", 8443, "/a/b?k=v"));
        assert_eq!(u.userinfo.as_deref(), Some("us@er:p:w"));
        assert_eq!(u.authority(), "example.com:8443");
        assert_eq!(u.to_string(), "https://example.com:8443/a/b");
        assert_eq!(format!("{u:?}"), u.to_string());
        let v6 = Url::parse("http://[::1]?x=1").unwrap();
        assert_eq!((v6.host.as_str(), v6.port, v6.target.as_str()), ("::1", 80, "/?x=1"));
        assert_eq!(v6.authority(), "[::1]");
        assert_eq!(Url::parse("https://my_host.example.").unwrap().port, 443);
    }

    #[test]
    fn refusals_name_the_fault_and_no_credential() {
        let long_label = format!("http://secret@{}.com", "a".repeat(64));
        for (bad, reason) in [
            ("collector:4318/secret", "known kind"),
            ("ftp://secret@h/", "known kind"),
            ("http:/secret@h", "known kind"),
            ("http://", "host is missing"),
            ("http:///path", "host is missing"),
            ("http://:80/", "host is missing"),
            ("http://secret:secret@", "host is missing"),
            ("http://secret@h:0", "port"),
            ("http://secret@h:65536/", "port"),
            ("http://secret@h:+80/", "port"),
            ("http://secret@h:", "port"),
            ("http://secret@h:80a/", "port"),
            ("http://u:secret/secret@h", "port"),
            ("http://::1/", "brackets"),
            ("http://secret@[::1/", "not closed"),
            ("http://secret@[nonsense]/", "no IPv6"),
            ("http://[fe80::1%25eth0]/", "no IPv6"),
            ("http://[::1]80/", "port"),
            ("http://a..b/", "empty or too long"),
            (&long_label, "empty or too long"),
            ("http://secret@a b/", "no host name has"),
            ("http://h*/", "no host name has"),
            ("http://secret@bücher.example/", "xn--"),
            ("http://h/#secret", "fragment"),
            ("http://h#secret", "fragment"),
            ("http://h/a b?secret", "percent-encoded"),
            ("http://h/é", "percent-encoded"),
            ("http://h/{id}", "percent-encoded"),
            ("http://secret@h/\r\nX: y", "percent-encoded"),
            ("http://@h", "the user"),
            ("http://:secret@h", "the user"),
            ("http://u%3Ax:secret@h", "a colon"),
            ("http://u:secret%@h", "UTF-8"),
            ("http://secret%zz@h/", "UTF-8"),
            ("http://u:%ff@h", "UTF-8"),
            ("http://u:%0d%0a@h", "control"),
            ("http://u:%00@h", "control"),
            ("http://u:%+1@h", "percent-encoded"),
            ("http://u:secr\u{e9}t@h", "percent-encoded"),
        ] {
            let error = Url::parse(bad).expect_err(bad);
            assert!(error.contains(reason) && !error.contains("secr"), "{bad}: {error}");
        }
    }

    #[test]
    fn userinfo() {
        for (text, expected) in [
            ("http://u:p@h/x", "u:p"),
            ("https://u@h:1", "u:"),
            ("http://u:p%40%3A%2f@h", "u:p@:/"),
            ("http://u:a@b@h", "u:a@b"),
            ("http://u:a:b@[::1]:2/", "u:a:b"),
            ("http://%C3%A9:p@h", "é:p"),
        ] {
            assert_eq!(Url::parse(text).unwrap().userinfo.as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_missing_path_is_filled_in() {
        for (given, expected) in [
            ("http://h", "/batch/"),
            ("http://h/", "/batch/"),
            ("http://h?a=/b", "/batch/?a=/b"),
            ("http://h/?a=b", "/batch/?a=b"),
            ("http://h/own", "/own"),
            ("http://h/own?a", "/own?a"),
            ("http://h//", "//"),
        ] {
            assert_eq!(Url::parse(given).unwrap().with_path("/batch/").target, expected, "{given}");
        }
    }

    #[test]
    fn what_is_shown_holds_no_key() {
        for (url, shown) in [
            ("http://u:p@h/?key=1", "http://h/"),
            ("https://h:8443/api/public/ingestion", "https://h:8443/api/public/ingestion"),
            ("http://h/i/v1/analytics/events/", "http://h/i/v1/analytics/events/"),
            ("http://h/services/T0/B0/XXXXabcdefghijklmnopqrst", "http://h/services/T0/B0/XXXX..."),
        ] {
            assert_eq!(Url::parse(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn locations() {
        let base = Url::parse("http://u:p@h:81/a/b?q=1").unwrap();
        let to = |l: &str| base.join(l).unwrap();
        assert_eq!(to("/x#f").target, "/x");
        assert_eq!(to("x?y").target, "/a/x?y");
        assert_eq!(to("?y=http://e").target, "/a/b?y=http://e");
        for (location, target) in [
            ("../c?../d", "/c?../d"),
            ("./c", "/a/c"),
            ("../../../c", "/c"),
            ("..", "/"),
            (".", "/a/"),
            ("/x/./y/../z/", "/x/z/"),
            ("/x/y/..", "/x/"),
            ("/x//y", "/x//y"),
            ("/...", "/..."),
        ] {
            assert_eq!(to(location).target, target, "{location}");
        }
        assert!(to("/x").same_origin(&base) && to("http://h:81/#f").same_origin(&base));
        assert!(!to("//other/x").same_origin(&base) && !to("https://h:81/").same_origin(&base));
        assert!(to("https://h/").userinfo.is_some());
        assert_eq!(to("http://evil:evil@other/").userinfo, None);
        assert!(base.join("").is_err() && base.join("/a b").is_err());
    }
}
