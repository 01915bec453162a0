//! The built-in resolver against a DNS server of our own (whose messages another crate writes).
use crate::server::*;
use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use telemetry::platform::sockets::SocketTable;
use telemetry::sink::resolve::{Names, ResolverFiles};
use telemetry::sink::transport::Fail;
use telemetry::sink::{Resolver, TransportErrorKind};

type Asked = Arc<Mutex<Vec<String>>>;

struct Dns {
    files: ResolverFiles,
    dir: PathBuf,
    asked: Asked,
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What to do with a question: messages to send back, in order.
type Script = fn(&str, TYPE, bool, &Packet<'_>) -> Vec<Vec<u8>>;

fn start(script: Script, conf: &str, hosts: &str) -> Dns {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::SeqCst);
    let dir = std::env::temp_dir().join(format!("lt-dns-{}-{n}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    let port = udp.local_addr().unwrap().port();
    let asked = Asked::default();
    let log = Arc::clone(&asked);
    let answer = move |msg: &[u8], over_tcp: bool| {
        let q = Packet::parse(msg).unwrap();
        let name = q.questions[0].qname.to_string();
        let QTYPE::TYPE(kind) = q.questions[0].qtype else { panic!() };
        let via = if over_tcp { "tcp" } else { "udp" };
        log.lock().unwrap().push(format!("{name} {kind:?} {via}"));
        script(&name, kind, over_tcp, &q)
    };
    let udp_answer = answer.clone();
    thread::spawn(move || {
        let mut buf = [0; 1500];
        while let Ok((n, from)) = udp.recv_from(&mut buf) {
            for msg in udp_answer(&buf[..n], false) {
                udp.send_to(&msg, from).unwrap();
            }
        }
    });
    thread::spawn(move || {
        for mut s in tcp.incoming().flatten() {
            let mut length = [0; 2];
            s.read_exact(&mut length).unwrap();
            let mut msg = vec![0; u16::from_be_bytes(length).into()];
            s.read_exact(&mut msg).unwrap();
            for msg in answer(&msg, true) {
                s.write_all(&(msg.len() as u16).to_be_bytes()).unwrap();
                s.write_all(&msg).unwrap();
            }
        }
    });
    fs::write(dir.join("resolv.conf"), format!("nameserver 127.0.0.1\n{conf}")).unwrap();
    fs::write(dir.join("hosts"), hosts).unwrap();
    let files = ResolverFiles { hosts: dir.join("hosts"), resolv_conf: dir.join("resolv.conf"), port };
    Dns { files, dir, asked }
}

impl Dns {
    fn names(&self) -> Names {
        Names::new(self.files.clone(), Arc::new(SocketTable::new()))
    }
    fn asked(&self) -> Vec<String> {
        let mut list = self.asked.lock().unwrap().split_off(0);
        list.sort();
        list
    }
}

fn look(names: &mut Names, host: &str) -> Result<Vec<String>, Fail> {
    look_within(names, host, LONG)
}

fn look_within(names: &mut Names, host: &str, time: Duration) -> Result<Vec<String>, Fail> {
    let found = names.lookup(host, 80, Instant::now() + time)?;
    Ok(found.iter().map(|a| a.ip().to_string()).collect())
}

fn reply<'a>(q: &Packet<'a>) -> Packet<'a> {
    let mut p = Packet::new_reply(q.id());
    p.questions = q.questions.clone();
    p
}

fn v4(last: u8) -> RData<'static> {
    RData::A(A { address: Ipv4Addr::new(192, 0, 2, last).to_bits() })
}

fn v6(last: u8) -> RData<'static> {
    RData::AAAA(AAAA { address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).to_bits() })
}

fn with(q: &Packet<'_>, name: &str, ttl: u32, data: Vec<RData<'static>>) -> Vec<u8> {
    let mut p = reply(q);
    for d in data {
        p.answers.push(ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, ttl, d).into_owned());
    }
    p.build_bytes_vec_compressed().unwrap()
}

fn code(q: &Packet<'_>, rcode: RCODE) -> Vec<u8> {
    let mut p = reply(q);
    *p.rcode_mut() = rcode;
    p.build_bytes_vec().unwrap()
}

fn both(q: &Packet<'_>, name: &str, kind: TYPE, ttl: u32) -> Vec<u8> {
    let data = match kind {
        TYPE::A => vec![v4(1), v4(2)],
        _ => vec![v6(1)],
    };
    with(q, name, ttl, data)
}

#[test]
fn both_families_are_found_and_remembered() {
    let dns = start(|name, kind, _, q| vec![both(q, name, kind, 60)], "", "");
    let mut names = dns.names();
    for _ in 0..3 {
        assert_eq!(look(&mut names, "Collector.Example").unwrap(), ["2001:db8::1", "192.0.2.1", "192.0.2.2"]);
        assert_eq!(look(&mut names, "192.0.2.77").unwrap(), ["192.0.2.77"]);
    }
    assert_eq!(dns.asked(), ["collector.example A udp", "collector.example AAAA udp"]);
    // A new resolv.conf empties the cache.
    fs::write(&dns.files.resolv_conf, "nameserver 127.0.0.1\noptions attempts:1\n").unwrap();
    look(&mut names, "collector.example").unwrap();
    assert_eq!(dns.asked().len(), 2);
}

#[test]
fn the_hosts_file_comes_first_and_is_read_again() {
    let dns = start(|_, _, _, q| vec![code(q, RCODE::NameError)], "", "192.0.2.5 Box\n");
    let mut names = dns.names();
    assert_eq!(look(&mut names, "box").unwrap(), ["192.0.2.5"]);
    fs::write(&dns.files.hosts, "192.0.2.66 box crate\n").unwrap();
    assert_eq!(look(&mut names, "box.").unwrap(), ["192.0.2.66"]);
    assert_eq!(look(&mut names, "crate").unwrap(), ["192.0.2.66"]);
    assert!(dns.asked().is_empty());
}

#[test]
fn a_name_that_does_not_exist() {
    let dns = start(|_, _, _, q| vec![code(q, RCODE::NameError)], "search a.test b.test\n", "");
    let mut names = dns.names();
    for _ in 0..2 {
        let error = look(&mut names, "box").unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
    }
    let asked = dns.asked();
    assert!(asked.contains(&"box.a.test A udp".into()) && asked.contains(&"box A udp".into()));
    assert!(asked.len() <= 6, "the second time it was remembered: {asked:?}");
}

#[test]
fn the_search_list_in_its_order() {
    fn script(name: &str, kind: TYPE, _: bool, q: &Packet<'_>) -> Vec<Vec<u8>> {
        match name {
            "box.b.test" | "x.y" => vec![both(q, name, kind, 60)],
            _ => vec![code(q, RCODE::NameError)],
        }
    }
    let dns = start(script, "search a.test b.test\noptions ndots:1\n", "");
    let mut names = dns.names();
    assert!(look(&mut names, "box").is_ok());
    assert!(!dns.asked().iter().any(|q| q.starts_with("box A")), "asked as it is before the search list");
    assert!(look(&mut names, "x.y").is_ok());
    assert_eq!(dns.asked(), ["x.y A udp", "x.y AAAA udp"]);
    assert!(look(&mut names, "box.").is_err());
    assert!(dns.asked().iter().all(|q| q.starts_with("box ")), "an absolute name is not searched for");
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    fn script(name: &str, kind: TYPE, tcp: bool, q: &Packet<'_>) -> Vec<Vec<u8>> {
        if tcp {
            let data = (1..=100).map(if kind == TYPE::A { v4 } else { v6 }).collect();
            return vec![with(q, name, 60, data)];
        }
        let mut p = reply(q);
        p.set_flags(PacketFlag::TRUNCATION);
        vec![p.build_bytes_vec().unwrap()]
    }
    let dns = start(script, "", "");
    assert_eq!(look(&mut dns.names(), "big.example").unwrap().len(), 200);
    assert_eq!(
        dns.asked(),
        ["big.example A tcp", "big.example A udp", "big.example AAAA tcp", "big.example AAAA udp"]
    );
    // And TCP alone, where the configuration wants that.
    let dns = start(script, "options use-vc\n", "");
    assert_eq!(look(&mut dns.names(), "big.example").unwrap().len(), 200);
    assert_eq!(dns.asked(), ["big.example A tcp", "big.example AAAA tcp"]);
}

#[test]
fn aliases_are_followed() {
    fn script(name: &str, kind: TYPE, _: bool, q: &Packet<'_>) -> Vec<Vec<u8>> {
        let mut p = reply(q);
        let alias = RData::CNAME(CNAME(Name::new("real.example").unwrap()));
        p.answers.push(ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, 60, alias).into_owned());
        if kind == TYPE::A {
            p.answers.push(ResourceRecord::new(Name::new("real.example").unwrap(), CLASS::IN, 60, v4(9)));
        }
        vec![p.build_bytes_vec_compressed().unwrap()]
    }
    let dns = start(script, "", "");
    assert_eq!(look(&mut dns.names(), "alias.example").unwrap(), ["192.0.2.9"]);
}

#[test]
fn forged_answers_are_passed_over() {
    fn script(name: &str, kind: TYPE, _: bool, q: &Packet<'_>) -> Vec<Vec<u8>> {
        let evil = if kind == TYPE::A { v4(66) } else { v6(66) };
        let wrong_id = {
            let mut m = with(q, name, 60, vec![evil.clone()]);
            m[0] ^= 1;
            m
        };
        let wrong_name = {
            let mut p = reply(q);
            p.questions[0].qname = Name::new("other.example").unwrap();
            let owner = Name::new(name).unwrap();
            p.answers.push(ResourceRecord::new(owner, CLASS::IN, 60, evil).into_owned());
            p.build_bytes_vec().unwrap()
        };
        vec![wrong_id, wrong_name, vec![0xff; 3], both(q, name, kind, 60)]
    }
    let dns = start(script, "", "");
    let found = look(&mut dns.names(), "bank.example").unwrap();
    assert!(found.iter().all(|ip| !ip.ends_with("66") && !ip.ends_with(":42")), "{found:?}");
    assert_eq!(found.len(), 3);
}

#[test]
fn a_silent_server_meets_the_deadline() {
    let dns = start(|_, _, _, _| vec![], "options timeout:30\n", "");
    let mut names = dns.names();
    // A third of the time is left. Where a machine takes that away for itself, there must be more of it.
    let mut time = Duration::from_millis(600);
    loop {
        let start = Instant::now();
        let error = look_within(&mut names, "slow.example", time).unwrap_err();
        let took = start.elapsed();
        assert!(error.to_string().contains("did not answer in time"), "{error}");
        assert!(took > time / 3, "gave up early: {took:?} of {time:?}");
        if took < time {
            break;
        }
        time *= 3;
        assert!(time < LONG, "nothing was left for a connection: {took:?}");
    }
    // Not a "no": it is asked again.
    dns.asked();
    assert!(look_within(&mut names, "slow.example", Duration::from_millis(200)).is_err());
    assert!(!dns.asked().is_empty());
}

#[test]
fn a_family_that_stays_silent_costs_little() {
    // Whoever waits for it waits for as long as for a server that says nothing at all.
    let dns = start(
        |name, kind, _, q| if kind == TYPE::A { vec![both(q, name, kind, 60)] } else { vec![] },
        "options timeout:30\n",
        "",
    );
    let start = Instant::now();
    assert_eq!(look_within(&mut dns.names(), "half.example", HOUR).unwrap(), ["192.0.2.1", "192.0.2.2"]);
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

#[test]
fn a_failing_server_is_followed_by_the_next() {
    fn script(name: &str, kind: TYPE, _: bool, q: &Packet<'_>) -> Vec<Vec<u8>> {
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        match SEEN.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => vec![code(q, RCODE::ServerFailure)],
            _ => vec![both(q, name, kind, 60)],
        }
    }
    // 127.0.0.2 has no server on that port: refused at once.
    let dns = start(script, "", "");
    fs::write(&dns.files.resolv_conf, "nameserver 127.0.0.2\nnameserver 127.0.0.1\n").unwrap();
    assert_eq!(look(&mut dns.names(), "flaky.example").unwrap().len(), 3);
    assert_eq!(dns.asked().len(), 4);
}

#[test]
fn a_cut_ends_a_lookup() {
    let dns = start(|_, _, _, _| vec![], "", "");
    let table = Arc::new(SocketTable::new());
    let mut names = Names::new(dns.files.clone(), Arc::clone(&table));
    let cutter = {
        let table = Arc::clone(&table);
        thread::spawn(move || {
            while table.noted() == 0 {
                thread::yield_now();
            }
            table.cut();
            Instant::now()
        })
    };
    assert!(matches!(look_within(&mut names, "slow.example", HOUR), Err(Fail::Cut)));
    assert!(cutter.join().unwrap().elapsed() < LONG);
    assert_eq!(table.noted(), 0);
}

#[test]
fn a_sink_finds_its_server_by_name() {
    let dns = start(
        |name, kind, _, q| match (name, kind) {
            ("collector.test", TYPE::A) => {
                vec![with(q, name, 60, vec![RData::A(A { address: Ipv4Addr::LOCALHOST.to_bits() })])]
            }
            ("collector.test", _) => vec![with(q, name, 60, vec![])],
            _ => vec![code(q, RCODE::NameError)],
        },
        "",
        "",
    );
    let server = Server::answering(OK);
    let client = |host: &str| {
        let url = format!("http://{host}:{}/", server.addr.port());
        let mut config = sink_config(url);
        config.resolver = Resolver::BuiltinFrom(dns.files.clone());
        Client::from(&config)
    };
    assert_eq!(client("collector.test").post(b"x").unwrap().status, 200);
    let error = client("nowhere.test").post(b"x").unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Resolve);
    assert!(
        error.message.contains("nowhere.test") && error.message.contains("does not exist"),
        "{}",
        error.message
    );
    // The other resolver, and what it says.
    fn system(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        match host {
            "known.test" => Ok(vec![([127, 0, 0, 1], port).into()]),
            _ => Err(std::io::Error::other("the gate is shut")),
        }
    }
    for (host, kind) in [("known.test", None), ("unknown.test", Some(TransportErrorKind::Resolve))] {
        let mut config = sink_config(format!("http://{host}:{}/", server.addr.port()));
        config.resolver = Resolver::System(system);
        assert_eq!(Client::from(&config).post(b"x").err().map(|e| e.kind), kind);
    }
}

/// Some servers say so of a family they know nothing of, whichever answer comes first.
#[test]
fn a_family_that_does_not_exist_takes_nothing_from_the_other() {
    fn script(name: &str, kind: TYPE, _: bool, q: &Packet<'_>) -> Vec<Vec<u8>> {
        let lacks = if name.starts_with("six") { TYPE::A } else { TYPE::AAAA };
        vec![if kind == lacks { code(q, RCODE::NameError) } else { both(q, name, kind, 60) }]
    }
    for conf in ["", "options use-vc\n"] {
        let dns = start(script, conf, "");
        assert_eq!(look(&mut dns.names(), "four.example").unwrap(), ["192.0.2.1", "192.0.2.2"], "{conf}");
        assert_eq!(look(&mut dns.names(), "six.example").unwrap(), ["2001:db8::1"], "{conf}");
    }
}
