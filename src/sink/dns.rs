//! One question to one DNS server: the messages, and their exchange over UDP and TCP.
//!
//! The bytes are read and written by the crate `domain`, record by record as we ask for them: no message makes
//! it allocate, and neither junk behind the answer section nor a message cut short for UDP spoils what is before.
//!
//! Invariants:
//! - The kernel sees to the sender of an answer (the socket is connected) and picks a fresh port for every
//!   exchange; the id is fresh from the operating system; an answer with another id or another question is
//!   passed over as if it had not come.
//! - What one message can cost is bounded: by its length, by [`ALIASES`] and by [`CHAIN`].
//! - Only the answer section is read, and records that cannot be read end the reading.
#![forbid(unsafe_code)]

use super::transport::{Fail, Socket, Wire};
use crate::platform::poll::Interest;
use crate::platform::sockets::SocketTable;
use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::name::{Name, ParsedName};
use domain::base::{Message, MessageBuilder, ParsedRecord, Question};
use domain::rdata::{A, Aaaa, Cname};
use rustls::crypto::SecureRandom;
use socket2::{Domain, Type};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After the first answer that would do alone the other family gets only this long.
const GRACE: Duration = Duration::from_millis(300);
/// So many CNAME records of an answer are looked at.
const ALIASES: usize = 64;
/// So many of them are followed, one after the other.
const CHAIN: usize = 16;

type Host = Name<Vec<u8>>;
/// A name where it stands in a message.
type Place<'a> = ParsedName<&'a [u8]>;

/// What a server says about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It exists; there may be no address.
    Addresses(Vec<IpAddr>, Duration),
    /// It does not exist.
    NoSuchName,
    /// The server cannot tell; another may.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    truncated: bool,
    verdict: Verdict,
}

/// Where questions go out.
pub struct Line<'a> {
    /// Notes the sockets.
    pub table: &'a Arc<SocketTable>,
    /// Ids come from here.
    pub random: &'static dyn SecureRandom,
    /// Leave UDP out.
    pub tcp_only: bool,
}

impl Line<'_> {
    /// Ask `server` for both families of addresses of `name` (absolute, without the last dot).
    pub fn ask(&self, server: SocketAddr, name: &str, deadline: Instant) -> Result<Verdict, Fail> {
        let mut id = [0u8; 2];
        self.random.fill(&mut id).map_err(|_| Fail::Protocol("no random numbers".into()))?;
        // The second id differs from the first whatever it is.
        let first = u16::from_be_bytes(id);
        let questions = [(first, Rtype::A), (!first, Rtype::AAAA)];
        let name = &host(name)?;
        let mut answers: [Option<Answer>; 2] = [None, None];
        if !self.tcp_only {
            self.over_udp(server, name, &questions, &mut answers, deadline)?;
        }
        for (slot, (id, kind)) in answers.iter_mut().zip(questions) {
            if slot.as_ref().map_or(self.tcp_only, |a| a.truncated) {
                *slot = self.over_tcp(server, name, id, kind, deadline)?;
            }
        }
        Ok(merge(answers))
    }

    fn over_udp(
        &self,
        server: SocketAddr,
        name: &Host,
        questions: &[(u16, Rtype); 2],
        answers: &mut [Option<Answer>; 2],
        mut deadline: Instant,
    ) -> Result<(), Fail> {
        let socket = Socket::open(self.table, Domain::for_address(server), Type::DGRAM)?;
        socket.connect(&server.into(), deadline)?;
        for (id, kind) in questions {
            socket.send(&question(*id, name, *kind)?)?;
        }
        let mut buf = [0u8; 4096];
        while answers.iter().any(|a| a.is_none()) {
            match socket.wait(Interest::Read, deadline) {
                // One family is enough; none is a time-out.
                Err(Fail::Timeout) if answers.iter().any(|a| a.is_some()) => break,
                r => r?,
            }
            let n = match socket.recv(&mut buf) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                r => r?,
            };
            for (slot, (id, kind)) in answers.iter_mut().zip(questions) {
                if slot.is_none()
                    && let Some(answer) = parse(&buf[..n], *id, name, *kind)
                {
                    let settled = match &answer.verdict {
                        Verdict::Addresses(addresses, _) => !addresses.is_empty(),
                        // Meant of the name, but some servers say it of a family they know nothing of (RFC 4074, 4.2).
                        Verdict::NoSuchName => true,
                        Verdict::Failed => false,
                    };
                    if settled {
                        deadline = deadline.min(Instant::now() + GRACE);
                    }
                    *slot = Some(answer);
                }
            }
        }
        Ok(())
    }

    fn over_tcp(
        &self,
        server: SocketAddr,
        name: &Host,
        id: u16,
        kind: Rtype,
        deadline: Instant,
    ) -> Result<Option<Answer>, Fail> {
        let socket = Socket::open(self.table, Domain::for_address(server), Type::STREAM)?;
        socket.connect(&server.into(), deadline)?;
        let mut wire = Wire::plain(socket);
        let question = question(id, name, kind)?;
        let mut out = (question.len() as u16).to_be_bytes().to_vec();
        out.extend_from_slice(&question);
        wire.push_all(&out, deadline)?;
        let mut message = Vec::new();
        loop {
            if let [high, low, rest @ ..] = message.as_slice()
                && let Some(answer) = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))
            {
                return Ok(parse(answer, id, name, kind));
            }
            match wire.pull_into(&mut message, deadline)? {
                Some(0) => return Err(Fail::Closed),
                Some(_) => {}
                None => wire.wait(false, deadline)?,
            }
        }
    }
}

fn merge(answers: [Option<Answer>; 2]) -> Verdict {
    let mut all = Vec::new();
    let mut ttl = Duration::MAX;
    let (mut known, mut exists) = (0, true);
    for answer in answers.into_iter().flatten() {
        match answer.verdict {
            Verdict::NoSuchName => exists = false,
            Verdict::Failed => {}
            Verdict::Addresses(addresses, t) => {
                known += 1;
                if !addresses.is_empty() {
                    ttl = ttl.min(t);
                }
                all.extend(addresses);
            }
        }
    }
    match all.is_empty() {
        false => Verdict::Addresses(all, ttl),
        true if !exists => Verdict::NoSuchName,
        // "No address" needs the word of both families.
        true if known < 2 => Verdict::Failed,
        true => Verdict::Addresses(all, ttl),
    }
}

fn host(name: &str) -> Result<Host, Fail> {
    Host::from_chars(name.chars()).map_err(|_| Fail::Protocol("not a valid host name".into()))
}

/// A question with recursion desired.
fn question(id: u16, name: &Host, kind: Rtype) -> Result<Vec<u8>, Fail> {
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(id);
    message.header_mut().set_rd(true);
    let mut message = message.question();
    // A name that is one fits.
    message.push(Question::new_in(name, kind)).map_err(|e| Fail::Protocol(e.to_string()))?;
    Ok(message.finish())
}

/// Read the answer to our question; `None` if the message is something else.
fn parse(msg: &[u8], id: u16, name: &Host, kind: Rtype) -> Option<Answer> {
    let msg = Message::from_octets(msg).ok()?;
    let header = msg.header();
    if header.id() != id || !header.qr() {
        return None;
    }
    let asked = msg.sole_question().ok()?;
    if *asked.qname() != *name || asked.qtype() != kind || asked.qclass() != Class::IN {
        return None;
    }
    let verdict = match header.rcode() {
        Rcode::NOERROR => records(msg, *asked.qname(), kind),
        Rcode::NXDOMAIN => Verdict::NoSuchName,
        _ => Verdict::Failed,
    };
    Some(Answer { truncated: header.tc(), verdict })
}

/// The addresses at the end of the CNAME chain that begins at `name`.
fn records<'a>(msg: Message<&'a [u8]>, mut name: Place<'a>, kind: Rtype) -> Verdict {
    let mut found: Vec<(Place<'_>, IpAddr, Duration)> = Vec::new();
    let mut aliases: Vec<(Place<'_>, Place<'_>, Duration)> = Vec::new();
    for record in msg.answer().into_iter().flatten().map_while(Result::ok) {
        if record.class() != Class::IN {
            continue;
        }
        let owner = record.owner().deref_octets();
        let ttl = record.ttl().into_duration();
        match record.rtype() {
            Rtype::A | Rtype::AAAA if record.rtype() == kind => {
                if let Some(ip) = address(&record) {
                    found.push((owner, ip, ttl));
                }
            }
            Rtype::CNAME if aliases.len() < ALIASES => {
                if let Ok(Some(alias)) = record.to_record::<Cname<_>>() {
                    aliases.push((owner, *alias.data().cname(), ttl));
                }
            }
            _ => {}
        }
    }
    let mut ttl = Duration::MAX;
    for _ in 0..CHAIN {
        let Some((_, to, t)) = aliases.iter().find(|(from, _, _)| *from == name) else { break };
        (name, ttl) = (*to, ttl.min(*t));
    }
    let mine = || found.iter().filter(|(owner, _, _)| *owner == name);
    let ttl = mine().map(|(_, _, t)| *t).fold(ttl, Duration::min);
    Verdict::Addresses(mine().map(|(_, ip, _)| *ip).collect(), ttl)
}

fn address(record: &ParsedRecord<'_, &[u8]>) -> Option<IpAddr> {
    let v4 = || record.to_record::<A>().ok()?.map(|r| IpAddr::from(r.data().addr()));
    let v6 = || record.to_record::<Aaaa>().ok()?.map(|r| IpAddr::from(r.data().addr()));
    v4().or_else(v6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use simple_dns::rdata::{self, RData};
    use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord, TYPE};

    fn reply(records: Vec<(&str, u32, RData<'static>)>) -> Vec<u8> {
        let mut p = Packet::new_reply(7);
        p.set_flags(PacketFlag::RECURSION_AVAILABLE);
        let q = Name::new_unchecked("Www.Example");
        p.questions.push(Question::new(q, QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
        for (name, ttl, data) in &records {
            let name = Name::new_unchecked(name);
            p.answers.push(ResourceRecord::new(name, CLASS::IN, *ttl, data.clone()));
        }
        p.build_bytes_vec_compressed().unwrap()
    }

    fn a(last: u8) -> RData<'static> {
        RData::A(rdata::A { address: u32::from_be_bytes([192, 0, 2, last]) })
    }

    fn alias(to: &'static str) -> RData<'static> {
        RData::CNAME(rdata::CNAME(Name::new_unchecked(to)))
    }

    fn read(msg: &[u8]) -> Option<Verdict> {
        parse(msg, 7, &host("www.example").unwrap(), Rtype::A).map(|a| a.verdict)
    }

    #[test]
    fn our_questions_are_understood_by_others() {
        let q = question(0xabcd, &host("collector.example").unwrap(), Rtype::AAAA).unwrap();
        let p = Packet::parse(&q).unwrap();
        assert_eq!((p.id(), p.questions.len()), (0xabcd, 1));
        assert_eq!(p.questions[0].qname.to_string(), "collector.example");
        assert!(p.has_flags(PacketFlag::RECURSION_DESIRED));
        for bad in ["", "a..b", &"x".repeat(64), &"ab.".repeat(90)] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn chains_are_followed_and_strangers_left_out() {
        let msg = reply(vec![
            ("b.example", 50, alias("c.example")),
            ("www.example", 40, alias("b.example")),
            ("c.example", 60, a(1)),
            ("other.example", 1, a(9)),
            ("c.example", 30, a(2)),
        ]);
        let want = ["192.0.2.1", "192.0.2.2"].map(|s| s.parse().unwrap()).to_vec();
        assert_eq!(read(&msg), Some(Verdict::Addresses(want, Duration::from_secs(30))));
        // A loop of aliases ends.
        let msg = reply(vec![("www.example", 1, alias("b.example")), ("b.example", 1, alias("www.example"))]);
        assert!(matches!(read(&msg), Some(Verdict::Addresses(v, _)) if v.is_empty()));
    }

    #[test]
    fn what_is_not_our_answer_is_passed_over() {
        let msg = reply(vec![("www.example", 40, a(1))]);
        assert!(read(&msg).is_some());
        let heard = |id, name, kind| parse(&msg, id, &host(name).unwrap(), kind).is_some();
        assert!(heard(7, "WWW.example.", Rtype::A), "the case of a name means nothing");
        assert!(!heard(8, "www.example", Rtype::A), "id");
        assert!(!heard(7, "www2.example", Rtype::A), "name");
        assert!(!heard(7, "www.example", Rtype::AAAA), "type");
        let mut query = msg.clone();
        query[2] &= 0x7f;
        assert!(read(&query).is_none(), "a query is no answer");
    }

    /// A whole answer by hand: what follows the question, and how many records it says there are.
    fn answer(count: u16, rest: &[u8]) -> Vec<u8> {
        let mut msg = vec![0, 7, 0x81, 0x80, 0, 1, (count >> 8) as u8, count as u8, 0, 0, 0, 0];
        msg.extend_from_slice(b"\x03www\x07example\0\0\x01\0\x01");
        msg.extend_from_slice(rest);
        msg
    }

    /// One record of the Internet's class, for 60 seconds.
    fn record(owner: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
        let fixed = [0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8];
        [owner, &fixed, data].concat()
    }

    const ASKED: &[u8] = &[0xc0, 12];

    #[test]
    fn what_follows_the_last_readable_record_is_left_alone() {
        let good = record(ASKED, 1, &[192, 0, 2, 1]);
        let want = Verdict::Addresses(vec!["192.0.2.1".parse().unwrap()], Duration::from_secs(60));
        let unknown = record(ASKED, 250, b"new");
        for (count, rest) in [
            (1, [&good[..], b"junk"].concat()),
            (2, [&unknown[..], &good].concat()),
            (9, good.clone()),
            (2, [&good[..], &good[..11]].concat()),
            (3, [&good[..], &record(ASKED, 28, &[1; 16]), &record(ASKED, 1, &[1; 5])].concat()),
            (3, [&record(ASKED, 5, &[0xc0, 0xff]), &good[..], &[0xc0, 0xff]].concat()),
        ] {
            assert_eq!(read(&answer(count, &rest)), Some(want.clone()), "{rest:x?}");
        }
        assert!(read(&answer(u16::MAX, &[])).is_some(), "cut short at once");
        assert!(read(&answer(0, &[])[..11]).is_none(), "not even a head");
    }

    #[test]
    fn chains_and_aliases_are_bounded() {
        // n1 -> n2 -> ...; the address is at the end. Names are one label.
        let name = |n: usize| [&[4][..], format!("n{n:03}").as_bytes(), &[0]].concat();
        for (length, found) in [(CHAIN, 1), (CHAIN + 1, 0)] {
            let mut rest = record(ASKED, 5, &name(1));
            (1..length).for_each(|n| rest.extend(record(&name(n), 5, &name(n + 1))));
            rest.extend(record(&name(length), 1, &[192, 0, 2, 1]));
            let Some(Verdict::Addresses(ips, _)) = read(&answer(length as u16 + 1, &rest)) else { panic!() };
            assert_eq!(ips.len(), found, "{length} aliases");
        }
        // As many aliases as a message can hold, each name as long as can be and different at its end only.
        let mut rest = Vec::new();
        while rest.len() < 65_000 {
            rest.extend(record(ASKED, 5, &[1, b'a', 0xc0, 12]));
        }
        let count = (rest.len() / 16) as u16;
        let Some(Verdict::Addresses(ips, _)) = read(&answer(count, &rest)) else { panic!() };
        assert!(ips.is_empty());
    }

    #[test]
    fn names_that_point_in_circles() {
        // At itself, at each other, forward, and back and back for ever.
        for owner in [&[0xc0, 29][..], &[1, b'a', 0xc0, 29], &[0xc0, 31, 0xc0, 29], &[0xc1, 0]] {
            let rest = record(owner, 1, &[192, 0, 2, 1]);
            assert!(
                matches!(read(&answer(1, &rest)), Some(Verdict::Addresses(ips, _)) if ips.is_empty()),
                "{owner:x?}"
            );
        }
        let mut rest = Vec::new();
        (0..8000u16).for_each(|n| rest.extend((0xc000 | (n * 2 + 10).max(12)).to_be_bytes()));
        let _ = read(&answer(u16::MAX, &rest));
    }

    #[test]
    fn no_message_can_hurt() {
        let msg = reply(vec![("www.example", 40, alias("c.example")), ("c.example", 60, a(1))]);
        for cut in 0..msg.len() {
            let _ = read(&msg[..cut]);
        }
        for at in 0..msg.len() {
            for bit in 0..8 {
                let mut bad = msg.clone();
                bad[at] ^= 1 << bit;
                let _ = read(&bad);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn no_bytes_can_hurt(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_records_can_hurt(count in any::<u16>(), bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(read(&answer(count, &bytes)).is_some());
        }

        #[test]
        fn no_change_of_a_good_answer_can_hurt(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        ) {
            let mut msg = reply(vec![
                ("www.example", 40, alias("b.example")),
                ("b.example", 40, alias("c.example")),
                ("c.example", 60, a(1)),
            ]);
            for (at, byte) in changes {
                let at = at.index(msg.len());
                msg[at] = byte;
            }
            let _ = read(&msg);
        }
    }
}
