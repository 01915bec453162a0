//! Faults before there is a connection: names, addresses, and listeners that do not listen.
use super::End::{Delivered, Unreached};
use super::villain::{self, Book};
use super::{Case, Stage, play_all};
use crate::full::{Full, Refusing};
use crate::host::{Dir, Host, LONG, alone};
use simple_dns::rdata::{CNAME, RData};
use simple_dns::{CLASS, Name, Packet, RCODE, ResourceRecord};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use telemetry::client::handle::Status;
use telemetry::sink::ResolverFiles;

/// A hosts file and a resolv.conf.
fn files(dir: &Dir, hosts: &str, port: u16) -> ResolverFiles {
    let (hosts_file, resolv_conf) = (dir.0.join("hosts"), dir.0.join("resolv.conf"));
    std::fs::write(&hosts_file, hosts).unwrap();
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\noptions attempts:1\n").unwrap();
    ResolverFiles { hosts: hosts_file, resolv_conf, port }
}

/// The name server says this to each question; the end of the fault is an entry in the hosts file.
fn names(name: &'static str, say: fn(&Packet<'_>, &[u8]) -> Option<Vec<u8>>) -> Case {
    Case::on(name, Unreached, move |book| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dir = Dir::new();
        let files = files(&dir, "", socket.local_addr().unwrap().port());
        thread::spawn(move || {
            let mut buf = [0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut buf) {
                if let Some(answer) = say(&Packet::parse(&buf[..n]).unwrap(), &buf[..n]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        let good = villain::start(book, None, |_| panic!("it was found"));
        let hosts: PathBuf = files.hosts.clone();
        let mend = Box::new(move || std::fs::write(hosts, "127.0.0.1 collector.test\n").unwrap());
        let after = Box::new(move || drop(dir));
        let origin = format!("http://collector.test:{}", good.port());
        Stage { names: Some(files), mend, after, ..Stage::at(origin) }
    })
}

fn reply(question: &Packet<'_>, fill: impl FnOnce(&mut Packet<'_>)) -> Option<Vec<u8>> {
    let mut reply = Packet::new_reply(question.id());
    reply.questions = question.questions.clone();
    fill(&mut reply);
    Some(reply.build_bytes_vec().unwrap())
}

#[test]
fn names_that_are_not_found() {
    play_all(vec![
        names("no answer", |_, _| None).slow(),
        names("no such name", |q, _| reply(q, |r| *r.rcode_mut() = RCODE::NameError)),
        names("no address", |q, _| reply(q, |_| {})),
        names("the name server fails", |q, _| reply(q, |r| *r.rcode_mut() = RCODE::ServerFailure)),
        names("the name server refuses", |q, _| reply(q, |r| *r.rcode_mut() = RCODE::Refused)),
        names("aliases in a circle", |q, _| {
            reply(q, |r| {
                for (from, to) in [("collector.test", "b.test"), ("b.test", "collector.test")] {
                    let to = RData::CNAME(CNAME(Name::new(to).unwrap()));
                    r.answers.push(ResourceRecord::new(Name::new(from).unwrap(), CLASS::IN, 60, to));
                }
            })
        }),
        names("garbage", |_, _| Some(vec![0xff; 512])).slow(),
        names("the question again", |_, bytes| Some(bytes.to_vec())).slow(),
        names("somebody else's answer", |q, _| {
            let mut bytes = reply(q, |_| {})?;
            bytes[0] ^= 0xff;
            Some(bytes)
        })
        .slow(),
        // Nobody listens for the long form.
        names("cut short", |q, _| {
            let mut bytes = reply(q, |_| {})?;
            bytes[2] |= 2;
            Some(bytes)
        }),
    ]);
}

/// A host with these dead addresses before the good one.
fn beside(name: &'static str, dead: &'static [&'static str]) -> Case {
    Case::on(name, Delivered, move |book: &Arc<Book>| {
        let dead: Vec<IpAddr> = dead.iter().map(|ip| ip.parse().unwrap()).collect();
        let mut ips = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        ips.extend(&dead);
        let (listener, full) = Full::beside(ips[0], &dead);
        let port = listener.local_addr().unwrap().port();
        villain::on(listener, book, None, |v| v.be_good());
        let dir = Dir::new();
        ips.rotate_left(1);
        let hosts: String = ips.iter().map(|ip| format!("{ip} collector.test\n")).collect();
        let files = files(&dir, &hosts, 1);
        let after = Box::new(move || drop((dir, full)));
        Stage { names: Some(files), after, ..Stage::at(format!("http://collector.test:{port}")) }
    })
}

#[test]
fn nobody_listens() {
    play_all(vec![
        Case::on("refused", Unreached, |book| {
            let refusing = Refusing::at("127.0.0.1:0");
            let (origin, book) = (format!("http://{}", refusing.addr), Arc::clone(book));
            let mend = Box::new(move || {
                villain::on(refusing.wake(), &book, None, |_| {});
            });
            Stage { mend, ..Stage::at(origin) }
        }),
        Case::on("a full backlog", Unreached, |book| {
            let full = Full::at("127.0.0.1:0");
            let (origin, book) = (format!("http://{}", full.addr), Arc::clone(book));
            let mend = Box::new(move || {
                villain::on(full.wake(), &book, None, |_| {});
            });
            Stage { mend, ..Stage::at(origin) }
        })
        .slow(),
        beside("a dead address beside a good one", &["127.0.77.2"]),
        beside("IPv6 dead and IPv4 alive", &["::1"]),
        beside("many dead addresses", &["::1", "127.0.77.3", "127.0.77.4", "127.0.77.5"]),
    ]);
}

/// Runs `f` in a forked child, which is killed if it takes too long; whether it came to its end and was true.
fn in_child(f: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs what a child of a threaded process may run with glibc, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: one that hangs is killed by the alarm.
        unsafe { libc::alarm(600) };
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
        // SAFETY: leaves without running the parent's exit handlers.
        unsafe { libc::_exit(if good { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place; `pid` is our child.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status == 0
}

/// Whether libc's resolver can be used: it keeps locks that a fork tears.
fn libc_resolves() -> bool {
    let mut found = std::ptr::null_mut();
    let (host, port) = (c"localhost".as_ptr(), c"80".as_ptr());
    // SAFETY: two C strings, no hints, and a place for the result, which is given back.
    unsafe {
        let code = libc::getaddrinfo(host, port, std::ptr::null(), &mut found);
        if code == 0 {
            libc::freeaddrinfo(found);
        }
        code == 0
    }
}

#[test]
fn a_fork_in_the_middle_of_a_lookup() {
    if !alone("hostile::network::a_fork_in_the_middle_of_a_lookup") {
        return;
    }
    assert!(libc_resolves());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dir = Dir::new();
    let files = files(&dir, "", socket.local_addr().unwrap().port());
    let hosts = files.hosts.clone();
    let book = Arc::new(Book::default());
    book.mend();
    let good = villain::start(&book, None, |_| {});
    let url = format!("http://collector.test:{}/", good.port());
    let host = Host::open_looking_into(files, &url, serde_json::json!({"timeout_ms": 30_000}));
    host.number(0);
    assert_eq!(host.flush(std::time::Duration::ZERO), Status::Timeout);
    // The question is here, and no answer will come: the sender is in the middle of it.
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.recv_from(&mut [0; 1500]).unwrap();
    std::fs::write(&hosts, "127.0.0.1 collector.test\n").unwrap();
    for n in 1..=20 {
        let child = || {
            let well = libc_resolves();
            host.number(n);
            well && host.flush(LONG) == Status::Ok && host.stats().delivered == 1
        };
        assert!(in_child(child), "child {n}");
    }
    host.flush_all();
    assert_eq!((host.stats().delivered, host.stats().forks), (1, 20));
    let mut taken = book.taken();
    taken.sort_unstable();
    assert_eq!(taken, (0..=20).collect::<Vec<_>>());
}
