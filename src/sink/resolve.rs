//! From a host name to addresses, without libc's resolver: getaddrinfo holds locks that a fork tears.
//!
//! Order: an address as it is; `localhost` and everything below it; the hosts file; DNS as resolv.conf says,
//! with the search list. The environment (`RES_OPTIONS`, `LOCALDOMAIN`, `HOSTALIASES`) and nsswitch are not read;
//! mDNS, NIS and the like need `resolver: system`.
//!
//! Invariants:
//! - Everything happens on the calling thread and ends by the deadline it gave; a part of the time is always
//!   left for connecting.
//! - Files are read again when they change; the cache is bounded and forgets with them.
#![forbid(unsafe_code)]

use super::dial::alternate;
use super::dns::{Line, Verdict};
use super::transport::{Fail, left};
use crate::platform::sockets::SocketTable;
use rustls::crypto::SecureRandom;
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CACHE_MAX: usize = 64;
const TTL_MIN: Duration = Duration::from_secs(5);
const TTL_MAX: Duration = Duration::from_secs(3600);
const TTL_NEGATIVE: Duration = Duration::from_secs(5);
/// A broken or hostile file costs no more than this much reading.
const FILE_MAX: u64 = 1 << 20;

/// What the built-in resolver reads, and the port it asks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolverFiles {
    /// The hosts file.
    pub hosts: PathBuf,
    /// The resolver's configuration.
    pub resolv_conf: PathBuf,
    /// The name servers' port.
    pub port: u16,
}

impl Default for ResolverFiles {
    fn default() -> Self {
        ResolverFiles { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into(), port: 53 }
    }
}

/// A file's contents as `T`, read again when the file changes.
struct Watched<T> {
    path: PathBuf,
    seen: Option<(u64, u64, i64, i64, u64)>,
    value: T,
}

impl<T: Default> Watched<T> {
    fn new(path: PathBuf) -> Self {
        Watched { path, seen: None, value: T::default() }
    }

    /// Returns whether it changed.
    fn refresh(&mut self, parse: impl Fn(&str) -> T) -> bool {
        let stamp = |m: fs::Metadata| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.size());
        let now = fs::metadata(&self.path).ok().map(stamp);
        if now == self.seen && now.is_some() {
            return false;
        }
        let text = now.filter(|n| n.4 <= FILE_MAX).and_then(|_| fs::read(&self.path).ok());
        self.value = parse(&String::from_utf8_lossy(&text.unwrap_or_default()));
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}

type Hosts = BTreeMap<String, Vec<IpAddr>>;

fn parse_hosts(text: &str) -> Hosts {
    let mut hosts = Hosts::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        if let Some(ip) = words.next().and_then(|w| w.split('%').next()?.parse::<IpAddr>().ok()) {
            for name in words {
                let list = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
                if !list.contains(&ip) {
                    list.push(ip);
                }
            }
        }
    }
    hosts
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Conf {
    servers: Vec<(IpAddr, u32)>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: u32,
    tcp_only: bool,
}

impl Default for Conf {
    fn default() -> Self {
        Conf {
            servers: vec![(Ipv4Addr::LOCALHOST.into(), 0)],
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            tcp_only: false,
        }
    }
}

fn parse_conf(text: &str) -> Conf {
    let mut conf = Conf::default();
    let mut servers = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        match words.next() {
            // resolv.conf(5): three servers, six domains at most.
            Some("nameserver") if servers.len() < 3 => servers.extend(words.next().and_then(scoped)),
            Some("domain" | "search") => {
                let names = words.map(|w| w.trim_matches('.').to_ascii_lowercase());
                conf.search = names.filter(|w| !w.is_empty()).take(6).collect();
            }
            Some("options") => {
                for option in words {
                    let (name, value) = option.split_once(':').unwrap_or((option, ""));
                    match (name, value.parse::<u32>()) {
                        ("ndots", Ok(n)) => conf.ndots = n.min(15) as usize,
                        ("timeout", Ok(n)) => conf.timeout = Duration::from_secs(n.clamp(1, 30).into()),
                        ("attempts", Ok(n)) => conf.attempts = n.clamp(1, 5),
                        ("use-vc", _) => conf.tcp_only = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if !servers.is_empty() {
        conf.servers = servers;
    }
    conf
}

/// An address, possibly with the zone of a link-local one.
fn scoped(text: &str) -> Option<(IpAddr, u32)> {
    let (ip, zone) = text.split_once('%').unwrap_or((text, ""));
    let ip = ip.parse::<IpAddr>().ok()?;
    if zone.is_empty() || ip.is_ipv4() {
        return Some((ip, 0));
    }
    let index = || {
        // if_nametoindex, without a system call of our own.
        let safe =
            zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && !zone.contains("..");
        let text = fs::read_to_string(Path::new("/sys/class/net").join(zone).join("ifindex"));
        text.ok().filter(|_| safe)?.trim().parse().ok()
    };
    Some((ip, zone.parse().ok().or_else(index)?))
}

fn at((ip, zone): (IpAddr, u32), port: u16) -> SocketAddr {
    match ip {
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, zone).into(),
        IpAddr::V4(_) => SocketAddr::new(ip, port),
    }
}

struct Entry {
    until: Instant,
    addresses: Vec<IpAddr>,
}

/// The resolver of one sink.
pub struct Names {
    port: u16,
    hosts: Watched<Hosts>,
    conf: Watched<Conf>,
    cache: BTreeMap<String, Entry>,
    table: Arc<SocketTable>,
    random: &'static dyn SecureRandom,
}

impl Names {
    /// Reads nothing yet.
    pub fn new(files: ResolverFiles, table: Arc<SocketTable>) -> Names {
        Names {
            port: files.port,
            hosts: Watched::new(files.hosts),
            conf: Watched::new(files.resolv_conf),
            cache: BTreeMap::new(),
            table,
            random: rustls::crypto::ring::default_provider().secure_random,
        }
    }

    /// The addresses of `host`, in the order to try them. Never empty.
    pub fn lookup(&mut self, host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, Fail> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let absolute = host.ends_with('.');
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let mut addresses = self.find(&name, absolute, deadline)?;
        addresses.sort_by_key(IpAddr::is_ipv4); // IPv6 first (RFC 8305)
        Ok(alternate(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()))
    }

    fn find(&mut self, name: &str, absolute: bool, deadline: Instant) -> Result<Vec<IpAddr>, Fail> {
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        self.hosts.refresh(parse_hosts);
        if let Some(addresses) = self.hosts.value.get(name) {
            return Ok(addresses.clone());
        }
        if self.conf.refresh(parse_conf) {
            self.cache.clear();
        }
        let key = if absolute { format!("{name}.") } else { name.to_string() };
        let now = Instant::now();
        self.cache.retain(|_, e| e.until > now);
        let (addresses, ttl) = match self.cache.get(&key) {
            Some(known) => (known.addresses.clone(), None),
            None => {
                let (addresses, ttl) = self.ask_all(name, absolute, deadline)?;
                (addresses, Some(ttl))
            }
        };
        if let Some(ttl) = ttl {
            self.remember(key, &addresses, ttl);
        }
        if addresses.is_empty() {
            return Err(Fail::Protocol("the name does not exist or has no address".into()));
        }
        Ok(addresses)
    }

    fn remember(&mut self, key: String, addresses: &[IpAddr], ttl: Duration) {
        if self.cache.len() >= CACHE_MAX
            && let Some(first) = self.cache.iter().min_by_key(|(_, e)| e.until).map(|(k, _)| k.clone())
        {
            self.cache.remove(&first);
        }
        let until = Instant::now() + ttl;
        self.cache.insert(key, Entry { until, addresses: addresses.to_vec() });
    }

    /// Walk the search list. An empty list is a sure "no"; servers that cannot tell are an error.
    fn ask_all(
        &self,
        name: &str,
        absolute: bool,
        deadline: Instant,
    ) -> Result<(Vec<IpAddr>, Duration), Fail> {
        let conf = &self.conf.value;
        let searched = conf.search.iter().map(|domain| format!("{name}.{domain}"));
        let mut candidates: Vec<String> = Vec::new();
        if absolute || conf.search.is_empty() {
            candidates.push(name.to_string());
        } else if name.matches('.').count() >= conf.ndots {
            candidates.push(name.to_string());
            candidates.extend(searched);
        } else {
            candidates.extend(searched);
            candidates.push(name.to_string());
        }
        let mut trouble = None;
        for (i, candidate) in candidates.iter().enumerate() {
            match self.ask_servers(candidate, candidates.len() - i, deadline) {
                Ok((addresses, ttl)) if !addresses.is_empty() => {
                    return Ok((addresses, ttl.clamp(TTL_MIN, TTL_MAX)));
                }
                Ok(_) => {}
                Err(e @ (Fail::Cut | Fail::Gone)) => return Err(e),
                Err(e) if left(deadline).is_zero() => return Err(e),
                Err(e) => trouble = Some(e),
            }
        }
        trouble.map_or(Ok((Vec::new(), TTL_NEGATIVE)), Err)
    }

    /// Ask the servers in turn. `names` is how many candidates are left and have to share the time.
    fn ask_servers(
        &self,
        name: &str,
        names: usize,
        deadline: Instant,
    ) -> Result<(Vec<IpAddr>, Duration), Fail> {
        let conf = &self.conf.value;
        let line = Line { table: &self.table, random: self.random, tcp_only: conf.tcp_only };
        let mut last = Fail::Timeout;
        let mut tries = conf.servers.len() as u32 * conf.attempts;
        for _ in 0..conf.attempts {
            for server in &conf.servers {
                // A fair share, one more for what comes after us: the connection.
                let share = left(deadline) / (tries + names as u32);
                tries -= 1;
                let until = Instant::now() + share.min(conf.timeout);
                match line.ask(at(*server, self.port), name, until) {
                    Ok(Verdict::Addresses(addresses, ttl)) => return Ok((addresses, ttl)),
                    Ok(Verdict::NoSuchName) => return Ok((Vec::new(), TTL_NEGATIVE)),
                    Ok(Verdict::Failed) => {
                        last = Fail::Protocol(format!("name server {} failed", server.0));
                    }
                    Err(e @ (Fail::Cut | Fail::Gone)) => return Err(e),
                    Err(Fail::Timeout) => {
                        last = Fail::Protocol(format!("name server {} did not answer in time", server.0));
                    }
                    Err(e) => last = Fail::Protocol(format!("name server {}: {e}", server.0)),
                }
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn hosts_file() {
        let hosts = parse_hosts("# c\n192.0.2.1 Box box.example. # x\n::1 box\njunk box\nfe80::1%lo0 ll\n\n");
        assert_eq!(hosts["box"], ips(&["192.0.2.1", "::1"]));
        assert_eq!(hosts["box.example"], ips(&["192.0.2.1"]));
        assert_eq!(hosts.len(), 3);
    }

    #[test]
    fn resolver_configuration() {
        let conf = parse_conf(
            "; c\nnameserver 192.0.2.1\nnameserver fe80::2%7\nnameserver junk\nnameserver 192.0.2.3\n\
             nameserver 192.0.2.4\ndomain old.test\nsearch A.test b.test.\n\
             options ndots:5 timeout:1 attempts:3 rotate edns0 timeout:x\n",
        );
        assert_eq!(conf.servers.iter().map(|s| s.1).collect::<Vec<_>>(), [0, 7, 0]);
        assert_eq!(conf.search, ["a.test", "b.test"]);
        assert_eq!((conf.ndots, conf.timeout.as_secs(), conf.attempts), (5, 1, 3));
        assert_eq!(parse_conf(""), Conf::default());
    }

    #[test]
    fn literals_and_localhost_ask_nobody() {
        let files =
            ResolverFiles { hosts: "/nonexistent".into(), resolv_conf: "/nonexistent".into(), port: 1 };
        let mut names = Names::new(files, Arc::new(SocketTable::new()));
        let past = Instant::now();
        assert_eq!(names.lookup("192.0.2.9", 8, past).unwrap(), ["192.0.2.9:8".parse().unwrap()]);
        assert_eq!(names.lookup("::1", 8, past).unwrap(), ["[::1]:8".parse().unwrap()]);
        for name in ["localhost", "LOCALHOST.", "a.localhost"] {
            let want: [SocketAddr; 2] = ["[::1]:8".parse().unwrap(), "127.0.0.1:8".parse().unwrap()];
            assert_eq!(names.lookup(name, 8, past).unwrap(), want);
        }
    }
}
