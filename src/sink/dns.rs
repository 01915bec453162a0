//! One question to one DNS server: the messages, and their exchange over UDP and TCP.
//!
//! Invariants:
//! - The kernel sees to the sender of an answer (the socket is connected) and picks a fresh port for every
//!   exchange; the id is fresh from the operating system; an answer with another id or another question is
//!   passed over as if it had not come.
//! - Reading a message never trusts a length or a pointer in it: `get`, forward only, jumps bounded.
//! - Only the answer section is read: junk behind it, and record types we do not know, cost nothing. (A parser
//!   of whole messages refuses them, and every message cut short for UDP.)
#![forbid(unsafe_code)]

use super::transport::{Fail, Socket, Wire};
use crate::platform::poll::Interest;
use crate::platform::sockets::SocketTable;
use rustls::crypto::SecureRandom;
use socket2::{Domain, Type};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const IN: u16 = 1;
/// After the first good answer the other family gets only this long.
const GRACE: Duration = Duration::from_millis(300);

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
        let questions = [(first, A), (!first, AAAA)];
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
        name: &str,
        questions: &[(u16, u16); 2],
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
                    if matches!(&answer.verdict, Verdict::Addresses(a, _) if !a.is_empty()) {
                        deadline = deadline.min(Instant::now() + GRACE);
                    }
                    *slot = Some(answer);
                }
            }
            if answers.iter().flatten().any(|a| a.verdict == Verdict::NoSuchName) {
                break; // the name, not the family
            }
        }
        Ok(())
    }

    fn over_tcp(
        &self,
        server: SocketAddr,
        name: &str,
        id: u16,
        kind: u16,
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
            match wire.pull_into(&mut message)? {
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
    let mut known = 0;
    for answer in answers.into_iter().flatten() {
        match answer.verdict {
            Verdict::NoSuchName => return Verdict::NoSuchName,
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
    // "No address" needs the word of both families.
    if all.is_empty() && known < 2 { Verdict::Failed } else { Verdict::Addresses(all, ttl) }
}

/// A question with recursion desired.
fn question(id: u16, name: &str, kind: u16) -> Result<Vec<u8>, Fail> {
    let mut q = Vec::with_capacity(name.len() + 18);
    for word in [id, 0x0100, 1, 0, 0, 0] {
        q.extend_from_slice(&word.to_be_bytes());
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err(Fail::Protocol("not a valid host name".into()));
        }
        q.push(label.len() as u8);
        q.extend_from_slice(label.as_bytes());
    }
    q.push(0);
    if q.len() > 12 + 255 {
        return Err(Fail::Protocol("not a valid host name".into()));
    }
    for word in [kind, IN] {
        q.extend_from_slice(&word.to_be_bytes());
    }
    Ok(q)
}

/// A name in lower case, and where the bytes after it begin.
fn read_name(msg: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let mut after = None;
    // Each jump goes strictly back, so this ends.
    let mut lowest = at;
    loop {
        let length = usize::from(*msg.get(at)?);
        match length >> 6 {
            0 if length == 0 => return Some((name, after.unwrap_or(at + 1))),
            0 => {
                if !name.is_empty() {
                    name.push(b'.');
                }
                name.extend(msg.get(at + 1..at + 1 + length)?.iter().map(u8::to_ascii_lowercase));
                if name.len() > 255 {
                    return None;
                }
                at += 1 + length;
            }
            3 => {
                let to = (length & 0x3f) << 8 | usize::from(*msg.get(at + 1)?);
                after.get_or_insert(at + 2);
                if to >= lowest {
                    return None;
                }
                lowest = to;
                at = to;
            }
            _ => return None,
        }
    }
}

fn word(msg: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(msg.get(at..at + 2)?.try_into().ok()?))
}

/// Read the answer to our question; `None` if the message is something else.
fn parse(msg: &[u8], id: u16, name: &str, kind: u16) -> Option<Answer> {
    let flags = word(msg, 2)?;
    if word(msg, 0)? != id || flags & 0x8000 == 0 || word(msg, 4)? != 1 {
        return None;
    }
    let (asked, at) = read_name(msg, 12)?;
    if asked != name.to_ascii_lowercase().as_bytes() || word(msg, at)? != kind || word(msg, at + 2)? != IN {
        return None;
    }
    let truncated = flags & 0x0200 != 0;
    let verdict = match flags & 0xf {
        0 => records(msg, at + 4, asked, kind),
        3 => Verdict::NoSuchName,
        _ => Verdict::Failed,
    };
    Some(Answer { truncated, verdict })
}

/// The addresses at the end of the CNAME chain. Records that cannot be read end the reading.
fn records(msg: &[u8], mut at: usize, asked: Vec<u8>, kind: u16) -> Verdict {
    let mut found: Vec<(Vec<u8>, IpAddr, u32)> = Vec::new();
    let mut aliases: Vec<(Vec<u8>, Vec<u8>, u32)> = Vec::new();
    for _ in 0..word(msg, 6).unwrap_or(0) {
        let Some((owner, next)) = record(msg, at) else { break };
        at = next.end;
        match (next.kind, msg.get(next.data..next.end)) {
            (t, Some(data)) if t == kind => {
                let ip = match (<[u8; 4]>::try_from(data), <[u8; 16]>::try_from(data)) {
                    (Ok(v4), _) if kind == A => IpAddr::from(v4),
                    (_, Ok(v6)) if kind == AAAA => IpAddr::from(v6),
                    _ => continue,
                };
                found.push((owner, ip, next.ttl));
            }
            (CNAME, Some(_)) => {
                if let Some((to, _)) = read_name(msg, next.data) {
                    aliases.push((owner, to, next.ttl));
                }
            }
            _ => {}
        }
    }
    let (mut name, mut ttl) = (asked, u32::MAX);
    for _ in 0..aliases.len() {
        let Some((_, to, t)) = aliases.iter().find(|(from, _, _)| *from == name) else { break };
        (name, ttl) = (to.clone(), ttl.min(*t));
    }
    let mine: Vec<_> = found.into_iter().filter(|(owner, _, _)| *owner == name).collect();
    let ttl = mine.iter().map(|(_, _, t)| *t).fold(ttl, u32::min);
    Verdict::Addresses(mine.into_iter().map(|(_, ip, _)| ip).collect(), Duration::from_secs(u64::from(ttl)))
}

struct Record {
    kind: u16,
    ttl: u32,
    data: usize,
    end: usize,
}

fn record(msg: &[u8], at: usize) -> Option<(Vec<u8>, Record)> {
    let (owner, at) = read_name(msg, at)?;
    let ttl = u32::from_be_bytes(msg.get(at + 4..at + 8)?.try_into().ok()?);
    let data = at + 10;
    let end = data + usize::from(word(msg, at + 8)?);
    msg.get(data..end)?;
    // A class that is not the Internet's gives a type that is none of ours.
    let kind = if word(msg, at + 2)? == IN { word(msg, at)? } else { 0 };
    Some((owner, Record { kind, ttl, data, end }))
}

#[cfg(test)]
mod tests {
    use super::*;
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
        parse(msg, 7, "www.example", A).map(|a| a.verdict)
    }

    #[test]
    fn our_questions_are_understood_by_others() {
        let q = question(0xabcd, "collector.example", AAAA).unwrap();
        let p = Packet::parse(&q).unwrap();
        assert_eq!((p.id(), p.questions.len()), (0xabcd, 1));
        assert_eq!(p.questions[0].qname.to_string(), "collector.example");
        assert!(p.has_flags(PacketFlag::RECURSION_DESIRED));
        for bad in ["", "a..b", &"x".repeat(64), &"ab.".repeat(90)] {
            assert!(question(1, bad, A).is_err(), "{bad}");
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
        assert!(parse(&msg, 8, "www.example", A).is_none(), "id");
        assert!(parse(&msg, 7, "www2.example", A).is_none(), "name");
        assert!(parse(&msg, 7, "www.example", AAAA).is_none(), "type");
        let mut query = msg.clone();
        query[2] &= 0x7f;
        assert!(read(&query).is_none(), "a query is no answer");
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
        // A name that points at itself.
        assert!(read_name(&[0xc0, 0], 0).is_none());
        assert!(read_name(&[1, b'a', 0xc0, 0], 0).is_none());
    }
}
