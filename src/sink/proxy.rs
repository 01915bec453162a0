//! The forward proxy.
//!
//! `http://` proxies only: a TLS connection inside another, and SOCKS, are refused rather than half done.
//! An https target goes through a CONNECT tunnel; an http target is asked for in absolute form, because common
//! proxies (squid as shipped) forbid CONNECT to any port but 443.
//!
//! Which hosts go past it was decided before: a client has one host, and redirects do not leave it.
#![forbid(unsafe_code)]

use super::url::{Url, strip_scheme};

/// The address of a proxy that works here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy(Url);

impl Proxy {
    /// `http://[user:password@]host[:port]`; the scheme may be missing, as everywhere.
    pub fn parse(text: &str) -> Result<Proxy, String> {
        let full = if text.contains("://") { text.to_string() } else { format!("http://{text}") };
        if strip_scheme(&full, "http://").is_none() {
            return Err("only http:// proxies work".into());
        }
        let url = Url::parse(&full)?;
        if url.target != "/" {
            return Err("a proxy has no path".into());
        }
        Ok(Proxy(url))
    }

    /// Where it listens; the user information is what it wants to see in `Proxy-Authorization`.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown, userinfo) in [
            ("http://p:3128", "http://p:3128/", None),
            ("HTTP://p:3128/", "http://p:3128/", None),
            ("p:3128", "http://p:3128/", None),
            ("p", "http://p/", None),
            ("u:p%40@p:1", "http://p:1/", Some("u:p@")),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!(
                (proxy.url().to_string().as_str(), proxy.url().userinfo.as_deref()),
                (shown, userinfo)
            );
            assert_eq!(format!("{proxy:?}"), format!("Proxy({shown})"));
        }
    }

    #[test]
    fn what_does_not_work_is_said() {
        for (text, reason) in [
            ("socks5://secret@p:1080", "only http://"),
            ("https://secret@p:3128", "only http://"),
            ("u:sec://ret@p", "only http://"),
            ("http://secret@p/x", "no path"),
            ("http://secret@p?x", "no path"),
            ("http://secret@", "host is missing"),
            ("", "host is missing"),
            ("secret@p:0", "port"),
            ("http://secret:%@p", "UTF-8"),
            ("p q", "no host name has"),
            ("p\n", "no host name has"),
            (" p", "no host name has"),
        ] {
            let error = Proxy::parse(text).expect_err(text);
            assert!(error.contains(reason) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
