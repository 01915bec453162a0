//! Where events go: one address, checked here so that no sink meets a bad one.
#![forbid(unsafe_code)]

use super::url::{Url, request_target, strip_scheme};
use std::fmt;
use std::path::{Path, PathBuf};

/// A destination's address.
#[derive(Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://` or `https://`.
    Http {
        /// The whole of it; user and password in it become a Basic `Authorization`.
        url: Url,
    },
    /// `http+unix:///path.sock:/path`: no name is looked up, no proxy applies.
    Unix {
        /// The socket: absolute, because a server's directory changes when it becomes a daemon.
        socket: PathBuf,
        /// The request's, with the host `localhost`.
        url: Url,
    },
    /// `file:PATH`.
    File {
        /// Bodies are appended to it. It is created if it is missing, its directory is not.
        path: PathBuf,
    },
}

impl Endpoint {
    /// Take an address apart, or say why it cannot be one.
    pub fn parse(text: &str) -> Result<Endpoint, String> {
        if text.chars().any(char::is_control) {
            return Err("a control character in it".into());
        }
        if text.trim() != text {
            return Err("white space around it".into());
        }
        if let Some(rest) = strip_scheme(text, "file:") {
            return file(rest);
        }
        if let Some(rest) = strip_scheme(text, "http+unix://") {
            return unix(rest);
        }
        Ok(Endpoint::Http { url: Url::parse(text)? })
    }

    /// The same endpoint with `format_path` where no path was given.
    #[must_use]
    pub fn with_path(mut self, format_path: &str) -> Endpoint {
        if let Endpoint::Http { url } | Endpoint::Unix { url, .. } = &mut self {
            *url = url.with_path(format_path);
        }
        self
    }

    /// The path of its requests; "" for a file.
    pub fn path(&self) -> &str {
        match self {
            Endpoint::Http { url } | Endpoint::Unix { url, .. } => url.path(),
            Endpoint::File { .. } => "",
        }
    }
}

/// For logs: without credentials and without the query, which may hold a key.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Http { url } => write!(f, "{url}"),
            Endpoint::Unix { socket, url } => write!(f, "http+unix://{}:{}", socket.display(), url.path()),
            Endpoint::File { path } => write!(f, "file:{}", path.display()),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
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
    socket2::SockAddr::unix(socket).map_err(|_| "the path of the socket is too long")?;
    if !path.is_empty() && !path.starts_with('/') {
        return Err("what follows the socket is :/path".into());
    }
    let url =
        Url { tls: false, host: "localhost".into(), port: 80, target: request_target(path)?, userinfo: None };
    Ok(Endpoint::Unix { socket: socket.into(), url })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Endpoint {
        Endpoint::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn good_endpoints() {
        for (text, shown) in [
            ("HTTPS://u:p@Example.com:8443/a/b?c=d&e", "https://example.com:8443/a/b"),
            ("http://[::1]", "http://[::1]/"),
            ("http+unix:///run/c.sock", "http+unix:///run/c.sock:/"),
            ("http+unix:///run/c.sock:", "http+unix:///run/c.sock:/"),
            ("http+unix:///run/c.sock:/v1?a:b", "http+unix:///run/c.sock:/v1"),
            ("file:events.ndjson", "file:events.ndjson"),
            ("file:a b/../c", "file:a b/../c"),
            ("file:/var/log/e", "file:/var/log/e"),
            ("File:///var/log/e%20x", "file:/var/log/e%20x"),
        ] {
            let endpoint = parse(text);
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(format!("{endpoint:?}"), format!("{shown:?}"));
        }
    }

    #[test]
    fn bad_endpoints() {
        let long_socket = format!("http+unix:///{}", "s".repeat(200));
        for (text, reason) in [
            ("localhost:8080", "known kind"),
            ("events.ndjson", "known kind"),
            ("http://h:0", "port"),
            ("http://h/\n", "control"),
            ("http://h/ ", "white space"),
            (" http://h/", "white space"),
            ("http+unix://run/c.sock", "three slashes"),
            ("http+unix://%2Frun%2Fc.sock/x", "three slashes"),
            ("http+unix:///run/", "directory"),
            ("http+unix:///c.sock:path", ":/path"),
            ("http+unix:///c.sock:/a#b", "fragment"),
            ("http+unix:///c.sock:/a b", "percent-encoded"),
            (&long_socket, "too long"),
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
            let error = Endpoint::parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_missing_path_is_the_formats() {
        for (given, expected) in [
            ("https://h:8", "https://h:8/batch/"),
            ("http://h/own", "http://h/own"),
            ("http+unix:///s", "http+unix:///s:/batch/"),
            ("http+unix:///s:/?q", "http+unix:///s:/batch/?q"),
            ("http+unix:///s:/own", "http+unix:///s:/own"),
            ("file:x", "file:x"),
        ] {
            assert_eq!(parse(given).with_path("/batch/"), parse(expected), "{given}");
        }
    }
}
