//! Addresses: endpoints and proxies, checked once so that no sink meets a bad one.
//!
//! Credentials in a URL never stay in it, and no error and no log shows them: what is shown goes through
//! [`redact`], which rather hides too much of a malformed address than too little.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

/// Longest path that fits into `sockaddr_un` on Linux, with its final NUL.
const MAX_SOCKET_PATH: usize = 107;

/// Where events go. A path is empty (or `/`) when none was given: see [`Endpoint::with_path`].
#[derive(Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://` or `https://`.
    Http {
        /// The URL as given, scheme in lower case, without user and password.
        url: String,
    },
    /// `http+unix:///path.sock:/path`.
    Unix {
        /// The socket.
        socket: PathBuf,
        /// The path of the request, with its query.
        path: String,
    },
    /// `file:PATH`.
    File {
        /// The file that bodies are appended to.
        path: PathBuf,
    },
}

impl Endpoint {
    /// The same endpoint with `format_path` where no path was given.
    pub fn with_path(&self, format_path: &str) -> Endpoint {
        let fill = |path: &str, query: &str| {
            let path = if matches!(path, "" | "/") { format_path } else { path };
            format!("{}{path}{query}", if path.starts_with('/') { "" } else { "/" })
        };
        match self {
            Endpoint::Http { url } => {
                let after_scheme = url.find("://").map_or(0, |at| at + 3);
                let (origin, rest) = split_at_any(url, after_scheme, "/?");
                let (path, query) = split_at_any(rest, 0, "?");
                Endpoint::Http { url: format!("{origin}{}", fill(path, query)) }
            }
            Endpoint::Unix { socket, path } => {
                let (path, query) = split_at_any(path, 0, "?");
                Endpoint::Unix { socket: socket.clone(), path: fill(path, query) }
            }
            Endpoint::File { .. } => self.clone(),
        }
    }

    /// The same endpoint with its files under `directory`, unless they are absolute.
    pub fn anchored(&self, directory: &Path) -> Endpoint {
        match self {
            Endpoint::File { path } => Endpoint::File { path: directory.join(path) },
            other => other.clone(),
        }
    }
}

/// For logs: the query, which may hold a key, is hidden.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Http { url } => f.write_str(&redact(url)),
            Endpoint::Unix { socket, path } => {
                write!(f, "http+unix://{}:{}", socket.display(), redact(path))
            }
            Endpoint::File { path } => write!(f, "file:{}", path.display()),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// An endpoint taken apart.
#[derive(Debug)]
pub(super) struct Parsed {
    pub endpoint: Endpoint,
    /// `user:password` of the URL, decoded.
    pub userinfo: Option<String>,
    /// What a proxy would be asked for.
    pub target: Option<Target>,
}

/// The server of an http(s) endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub https: bool,
    /// Lower case; IPv6 without brackets.
    pub host: String,
    pub port: u16,
}

/// Take an endpoint apart, or say why it cannot be one.
pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    no_control(text)?;
    if text.trim() != text {
        return Err("white space around it".into());
    }
    let plain = |endpoint| Parsed { endpoint, userinfo: None, target: None };
    if let Some(rest) = strip_scheme(text, "file:") {
        return file(rest).map(plain);
    }
    if let Some(rest) = strip_scheme(text, "http+unix://") {
        return unix(rest).map(plain);
    }
    let url = Url::parse(text)?;
    let userinfo = url.userinfo.as_deref().map(decode_userinfo).transpose()?;
    let endpoint = Endpoint::Http { url: format!("{}://{}{}", url.scheme(), url.host_and_port(), url.rest) };
    Ok(Parsed { endpoint, userinfo, target: Some(url.target()) })
}

/// Check the URL of a proxy and give it back with a scheme: `host:port` alone means http, as everywhere.
pub(super) fn parse_proxy(text: &str) -> Result<String, String> {
    no_control(text)?;
    let text = if text.contains("://") { text.to_string() } else { format!("http://{text}") };
    let url = Url::parse(&text)?;
    if !matches!(url.rest.as_str(), "" | "/") {
        return Err("a proxy has no path".into());
    }
    let userinfo =
        url.userinfo.as_ref().map(|userinfo| decode_userinfo(userinfo).map(|_| format!("{userinfo}@")));
    let userinfo = userinfo.transpose()?.unwrap_or_default();
    Ok(format!("{}://{userinfo}{}", url.scheme(), url.host_and_port()))
}

fn file(rest: &str) -> Result<Endpoint, String> {
    let path = match rest.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => return Err("a file is file:PATH or file:///absolute/path, without a host".into()),
        None => rest,
    };
    if path.is_empty() {
        return Err("the path is missing".into());
    }
    let directory = path.ends_with('/') || path.ends_with("/.") || Path::new(path).file_name().is_none();
    if directory {
        Err("the path names a directory".into())
    } else {
        Ok(Endpoint::File { path: path.into() })
    }
}

fn unix(rest: &str) -> Result<Endpoint, String> {
    if !rest.starts_with('/') {
        return Err(
            "the path of the socket is absolute, so three slashes: http+unix:///path.sock:/path".into()
        );
    }
    let (socket, path) = rest.split_once(':').unwrap_or((rest, ""));
    if socket.ends_with('/') {
        return Err("the path of the socket names a directory".into());
    }
    if socket.len() > MAX_SOCKET_PATH {
        return Err(format!("the path of a socket has at most {MAX_SOCKET_PATH} bytes"));
    }
    if !path.is_empty() && !path.starts_with('/') {
        return Err("what follows the socket is :/path".into());
    }
    request_path(path)?;
    Ok(Endpoint::Unix { socket: socket.into(), path: path.into() })
}

/// An http(s) URL in its pieces.
struct Url {
    https: bool,
    userinfo: Option<String>,
    /// IPv6 with its brackets.
    host: String,
    port: Option<u16>,
    /// Path and query as given.
    rest: String,
}

impl Url {
    fn parse(text: &str) -> Result<Url, String> {
        let (https, after) = match (strip_scheme(text, "http://"), strip_scheme(text, "https://")) {
            (Some(after), _) => (false, after),
            (None, Some(after)) => (true, after),
            (None, None) => return Err("not an address of a known kind".into()),
        };
        let (authority, rest) = split_at_any(after, 0, "/?#");
        let (userinfo, server) = match authority.rsplit_once('@') {
            Some((userinfo, server)) => (Some(userinfo.to_string()), server),
            None => (None, authority),
        };
        let (host, port) = host_and_port(server)?;
        request_path(rest)?;
        Ok(Url { https, userinfo, host, port, rest: rest.to_string() })
    }

    fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    fn host_and_port(&self) -> String {
        self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host))
    }

    fn target(&self) -> Target {
        let host = self.host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        Target { https: self.https, host, port: self.port.unwrap_or(if self.https { 443 } else { 80 }) }
    }
}

fn host_and_port(server: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if server.starts_with('[') {
        let end = server.find(']').ok_or("the bracket of the IPv6 address is not closed")?;
        let (host, after) = server.split_at(end + 1);
        let address = host.trim_start_matches('[').trim_end_matches(']');
        if address.parse::<Ipv6Addr>().is_err() {
            return Err("the brackets hold no IPv6 address".into());
        }
        match after.strip_prefix(':') {
            None if !after.is_empty() => return Err("only a port can follow the IPv6 address".into()),
            port => (host, port),
        }
    } else {
        let (host, port) = match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        };
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
    Ok((host.to_string(), port.transpose()?))
}

fn host_name(host: &str) -> Result<(), String> {
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    if !host.is_ascii() {
        return Err("the host is not ASCII: write its xn-- form".into());
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err("the host has a character that no host name has".into());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > 253 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err("the host is no host name: an empty or too long part".into());
    }
    Ok(())
}

/// Path and query: what may stand in a request line.
fn request_path(text: &str) -> Result<(), String> {
    if text.contains('#') {
        return Err("a fragment (#...) is never sent: leave it out".into());
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || "\"<>\\^`{|}".contains(*c)) {
        Some(bad) => Err(format!("the path has {bad:?}, which must be percent-encoded")),
        None => Ok(()),
    }
}

/// `user:password`, percent-decoded. A user alone has an empty password.
fn decode_userinfo(userinfo: &str) -> Result<String, String> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let bad =
        || "user and password in a URL are percent-encoded UTF-8 without control characters".to_string();
    let user = percent_decode(user).ok_or_else(bad)?;
    let password = percent_decode(password).ok_or_else(bad)?;
    if user.is_empty() {
        return Err("the user before the @ is missing".into());
    }
    if user.contains(':') {
        return Err("a user cannot hold a colon".into());
    }
    Ok(format!("{user}:{password}"))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok().filter(|text| !text.chars().any(char::is_control))
}

fn no_control(text: &str) -> Result<(), String> {
    if text.chars().any(char::is_control) { Err("a control character in it".into()) } else { Ok(()) }
}

/// What follows `scheme` (lower case), whatever the case in `text`.
fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// Split `text` before the first of `delimiters` at or after `from`.
fn split_at_any<'a>(text: &'a str, from: usize, delimiters: &str) -> (&'a str, &'a str) {
    let tail = text.get(from..).unwrap_or_default();
    let at = tail.find(|c| delimiters.contains(c)).map_or(text.len(), |at| from + at);
    text.split_at_checked(at).unwrap_or((text, ""))
}

/// An address without what may be secret: user, password, query.
pub(super) fn redact(text: &str) -> String {
    let scheme = |head: &str| head.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let start = text.find("://").filter(|at| scheme(text.get(..*at).unwrap_or(":"))).map_or(0, |at| at + 3);
    let (scheme, rest) = text.split_at_checked(start).unwrap_or(("", text));
    let (before, query) = split_at_any(rest, 0, "?#");
    if query.contains('@') {
        // An unencoded password, or a query with an @: nobody can tell.
        return format!("{scheme}***");
    }
    let mark = query.get(..1).map(|mark| format!("{mark}***")).unwrap_or_default();
    match before.rsplit_once('@') {
        Some((_, server)) => format!("{scheme}***@{server}{mark}"),
        None => format!("{scheme}{before}{mark}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(url: &str) -> Endpoint {
        Endpoint::Http { url: url.into() }
    }

    fn socket(socket: &str, path: &str) -> Endpoint {
        Endpoint::Unix { socket: socket.into(), path: path.into() }
    }

    fn in_file(path: &str) -> Endpoint {
        Endpoint::File { path: path.into() }
    }

    #[test]
    fn good_endpoints() {
        for (text, expected) in [
            ("http://localhost", http("http://localhost")),
            ("HTTPS://Example.com:8443/a/b?c=d&e", http("https://Example.com:8443/a/b?c=d&e")),
            ("http://127.0.0.1:1/", http("http://127.0.0.1:1/")),
            ("http://[::1]:8080/x", http("http://[::1]:8080/x")),
            ("http://[::1]", http("http://[::1]")),
            ("https://my_host.example.", http("https://my_host.example.")),
            ("http://h?k=v", http("http://h?k=v")),
            ("http+unix:///run/c.sock", socket("/run/c.sock", "")),
            ("http+unix:///run/c.sock:", socket("/run/c.sock", "")),
            ("http+unix:///run/c.sock:/v1?a:b", socket("/run/c.sock", "/v1?a:b")),
            ("file:events.ndjson", in_file("events.ndjson")),
            ("file:a b/../c", in_file("a b/../c")),
            ("file:/var/log/e", in_file("/var/log/e")),
            ("File:///var/log/e%20x", in_file("/var/log/e%20x")),
        ] {
            let parsed = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.endpoint, expected, "{text}");
            assert_eq!(parsed.userinfo, None);
        }
    }

    #[test]
    fn bad_endpoints() {
        let long_socket = format!("http+unix:///{}", "s".repeat(107));
        let long_label = format!("http://{}.com", "a".repeat(64));
        for (text, reason) in [
            ("ftp://h/", "known kind"),
            ("localhost:8080", "known kind"),
            ("events.ndjson", "known kind"),
            ("http:/h", "known kind"),
            ("http://", "host is missing"),
            ("http:///path", "host is missing"),
            ("http://:80/", "host is missing"),
            ("http://u:p@/", "host is missing"),
            ("http://h:0", "port"),
            ("http://h:65536", "port"),
            ("http://h:+80", "port"),
            ("http://h:", "port"),
            ("http://h:80a/", "port"),
            ("http://::1/", "brackets"),
            ("http://[::1/", "not closed"),
            ("http://[nope]/", "no IPv6"),
            ("http://[fe80::1%25eth0]/", "no IPv6"),
            ("http://[::1]80/", "port"),
            ("http://a..b/", "empty or too long"),
            (&long_label, "empty or too long"),
            ("http://h h/", "no host name has"),
            ("http://h*/", "no host name has"),
            ("http://bücher.example/", "xn--"),
            ("http://h/#x", "fragment"),
            ("http://h#x", "fragment"),
            ("http://h/a b", "percent-encoded"),
            ("http://h/é", "percent-encoded"),
            ("http://h/{id}", "percent-encoded"),
            ("http://h/\n", "control"),
            ("http://h/ ", "white space"),
            (" http://h/", "white space"),
            ("http+unix://run/c.sock", "three slashes"),
            ("http+unix://%2Frun%2Fc.sock/x", "three slashes"),
            ("http+unix:///run/", "directory"),
            ("http+unix:///c.sock:path", ":/path"),
            ("http+unix:///c.sock:/a#b", "fragment"),
            (&long_socket, "107"),
            ("file:", "missing"),
            ("file:///", "directory"),
            ("file:/", "directory"),
            ("file:logs/", "directory"),
            ("file:logs/.", "directory"),
            ("file:..", "directory"),
            ("file://host/x", "without a host"),
            ("file://x", "without a host"),
            ("file:a\0b", "control"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn userinfo_leaves_the_url() {
        for (text, url, userinfo) in [
            ("http://u:p@h/x", "http://h/x", "u:p"),
            ("https://u@h:1", "https://h:1", "u:"),
            ("http://u:p%40%3A%2f@h", "http://h", "u:p@:/"),
            ("http://u:a@b@h", "http://h", "u:a@b"),
            ("http://u:a:b@[::1]:2/", "http://[::1]:2/", "u:a:b"),
            ("http://%C3%A9:p@h", "http://h", "é:p"),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!((parsed.endpoint, parsed.userinfo.as_deref()), (http(url), Some(userinfo)), "{text}");
        }
        for text in [
            "http://@h",
            "http://:p@h",
            "http://u%3Ax:p@h",
            "http://u:%@h",
            "http://u:%zz@h",
            "http://u:%ff@h",
            "http://u:%0d%0a@h",
            "http://u:%00@h",
            "http://u:%+1@h",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn targets() {
        for (text, https, host, port) in [
            ("http://Example.COM/", false, "example.com", 80),
            ("https://h", true, "h", 443),
            ("https://[::1]:8/", true, "::1", 8),
        ] {
            let target = parse(text).unwrap().target;
            assert_eq!(target, Some(Target { https, host: host.into(), port }), "{text}");
        }
        assert_eq!(parse("file:x").unwrap().target, None);
        assert_eq!(parse("http+unix:///x").unwrap().target, None);
    }

    #[test]
    fn a_missing_path_is_the_formats() {
        for (given, format_path, expected) in [
            ("http://h", "/batch/", "http://h/batch/"),
            ("http://h/", "/batch/", "http://h/batch/"),
            ("http://h:8", "batch", "http://h:8/batch"),
            ("http://h?a=/b", "/batch/", "http://h/batch/?a=/b"),
            ("http://h/?a=b", "/batch/", "http://h/batch/?a=b"),
            ("http://h/own", "/batch/", "http://h/own"),
            ("http://h/own?a", "/batch/", "http://h/own?a"),
            ("http://h//", "/batch/", "http://h//"),
            ("http://h", "", "http://h/"),
            ("http://[::1]:8", "/x", "http://[::1]:8/x"),
        ] {
            assert_eq!(parse(given).unwrap().endpoint.with_path(format_path), http(expected), "{given}");
        }
        for (given, expected) in [
            ("http+unix:///s", "/batch/"),
            ("http+unix:///s:", "/batch/"),
            ("http+unix:///s:/", "/batch/"),
            ("http+unix:///s:/?q", "/batch/?q"),
            ("http+unix:///s:/own", "/own"),
        ] {
            assert_eq!(
                parse(given).unwrap().endpoint.with_path("/batch/"),
                socket("/s", expected),
                "{given}"
            );
        }
        assert_eq!(in_file("x").with_path("/batch/"), in_file("x"));
    }

    #[test]
    fn anchors_relative_files_only() {
        assert_eq!(in_file("x").anchored(Path::new("/d")), in_file("/d/x"));
        assert_eq!(in_file("/x").anchored(Path::new("/d")), in_file("/x"));
        assert_eq!(http("http://h").anchored(Path::new("/d")), http("http://h"));
    }

    #[test]
    fn proxies() {
        for (text, expected) in [
            ("http://p:3128", "http://p:3128"),
            ("http://p:3128/", "http://p:3128"),
            ("p:3128", "http://p:3128"),
            ("p", "http://p"),
            ("HTTPS://u:p%40@p", "https://u:p%40@p"),
            ("u:pw@p:1", "http://u:pw@p:1"),
        ] {
            assert_eq!(parse_proxy(text).as_deref(), Ok(expected), "{text}");
        }
        for text in
            ["socks5://p:1", "http://p/x", "http://p?x", "http://", "", "p:0", "http://u:%@p", "p q", "p\n"]
        {
            assert!(parse_proxy(text).is_err(), "{text}");
        }
    }

    #[test]
    fn redaction() {
        for (text, expected) in [
            ("http://h/p", "http://h/p"),
            ("http://u:secret@h/p", "http://***@h/p"),
            ("http://u:sec/ret@h/p", "http://***@h/p"),
            ("http://u:sec?ret@h/p", "http://***"),
            ("http://u:sec#ret@h/p", "http://***"),
            ("http://h/?token=secret", "http://h/?***"),
            ("http://h/?mail=a@b&token=secret", "http://***"),
            ("u:secret@h", "***@h"),
            ("http:/u:secret@h", "***@h"),
            ("u:sec://ret@h", "***@h"),
            ("file:x", "file:x"),
            ("/own?key=secret", "/own?***"),
            ("", ""),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
        let shown = format!("{0} {0:?}", http("http://h/?token=secret"));
        assert_eq!(shown, r#"http://h/?*** "http://h/?***""#);
        assert_eq!(socket("/s", "/x?secret").to_string(), "http+unix:///s:/x?***");
    }
}
