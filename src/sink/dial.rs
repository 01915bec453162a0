//! One connection to one of many addresses, as "Happy Eyeballs" has it (RFC 8305).
//!
//! Invariants:
//! - Families alternate, so that one that leads nowhere costs one [`STAGGER`]. Addresses that answered before come
//!   first, addresses that took a connection and gave no answer come last.
//! - An attempt that has not succeeded goes on while the next one begins; one that fails makes room at once. The
//!   first that connects wins, the others are closed before it is used.
//! - At most [`LANES`] attempts at once. If there are more addresses, an attempt ends after its [`share`] of the
//!   time, so that each address gets its turn; otherwise it may last until the deadline.
#![forbid(unsafe_code)]

use super::transport::{Fail, Socket, left, wait_any};
use crate::platform::sockets::SocketTable;
use socket2::{Domain, Type};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time before the next attempt begins (RFC 8305, 8: "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);
/// Together with kept connections they must fit into the table.
const LANES: usize = 4;
/// No attempt need have longer while other addresses wait: a lost SYN is sent again after a second.
const SHARE: Duration = Duration::from_secs(2);
/// Addresses remembered of each kind.
const REMEMBERED: usize = 4;

/// What is known of addresses from earlier connections.
#[derive(Default)]
pub struct Memory {
    /// The last stands last.
    good: Vec<SocketAddr>,
    bad: Vec<SocketAddr>,
}

impl Memory {
    /// An answer came from there.
    pub fn answered(&mut self, address: SocketAddr) {
        self.forget(address);
        push(&mut self.good, address);
    }

    /// It let us in and gave no answer.
    pub fn disappointed(&mut self, address: SocketAddr) {
        self.forget(address);
        push(&mut self.bad, address);
    }

    fn forget(&mut self, address: SocketAddr) {
        self.good.retain(|a| *a != address);
        self.bad.retain(|a| *a != address);
    }

    /// The order in which to try them.
    pub fn order(&self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut list = alternate(addresses);
        // Stable: among equals the families still alternate.
        list.sort_by_key(|address| {
            let good = self.good.iter().rev().position(|a| a == address);
            (self.bad.contains(address), good.unwrap_or(usize::MAX))
        });
        list
    }
}

fn push(list: &mut Vec<SocketAddr>, address: SocketAddr) {
    if list.len() >= REMEMBERED {
        list.remove(0);
    }
    list.push(address);
}

/// The families in turn, beginning with that of the first address.
pub fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut out = Vec::new();
    loop {
        match (one.next(), other.next()) {
            (None, None) => return out,
            (a, b) => out.extend([a, b].into_iter().flatten()),
        }
    }
}

/// Nobody let us in.
pub struct Failed {
    /// What ended the race, or how the first attempt ended.
    pub fail: Fail,
    first: Option<SocketAddr>,
    others: usize,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.first {
            write!(f, "{address}: ")?;
        }
        write!(f, "{}", self.fail)?;
        if self.others > 0 {
            write!(f, " (and {} other addresses)", self.others)?;
        }
        Ok(())
    }
}

struct Attempt {
    socket: Socket,
    address: SocketAddr,
    since: Instant,
}

/// How long an attempt may hold a lane that another address waits for.
fn share(time: Duration, addresses: usize) -> Duration {
    SHARE.min(time * LANES as u32 / addresses.max(1) as u32)
}

/// Connect to the first of `addresses` that lets us in.
pub fn race(
    table: &Arc<SocketTable>,
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<(Socket, SocketAddr), Failed> {
    let share = share(left(deadline), addresses.len());
    let mut waiting = addresses.iter().copied();
    let mut running: Vec<Attempt> = Vec::with_capacity(LANES);
    let mut next_start = Instant::now();
    let mut failed: Option<Failed> = None;
    let mut note = |address, fail| match &mut failed {
        Some(failed) => failed.others += 1,
        None => failed = Some(Failed { fail, first: Some(address), others: 0 }),
    };
    loop {
        let now = Instant::now();
        if now >= deadline {
            running.drain(..).for_each(|a| note(a.address, Fail::Timeout));
            break;
        }
        let full = running.len() >= LANES;
        // When the next address may begin, if there is one.
        let turn = match running.first() {
            None => now,
            Some(oldest) if full => next_start.max(oldest.since + share),
            Some(_) => next_start,
        };
        if waiting.len() > 0 && turn <= now {
            if full {
                note(running.remove(0).address, Fail::Timeout);
            }
            let Some(address) = waiting.next() else { break };
            next_start = now + STAGGER;
            match begin(table, address) {
                Ok((socket, true)) => return Ok((socket, address)),
                Ok((socket, false)) => running.push(Attempt { socket, address, since: now }),
                Err(Fail::Cut) => return Err(cut()),
                Err(fail) => {
                    note(address, fail);
                    next_start = now;
                }
            }
            continue;
        }
        if running.is_empty() {
            break;
        }
        let until = if waiting.len() > 0 { turn.min(deadline) } else { deadline };
        let sockets: Vec<&Socket> = running.iter().map(|a| &a.socket).collect();
        let ready = match wait_any(&sockets, until) {
            Ok(ready) => ready,
            Err(Fail::Cut) => return Err(cut()),
            Err(fail) => return Err(Failed { fail, first: None, others: 0 }),
        };
        let mut ready = ready.into_iter();
        let (done, rest) = running.into_iter().partition(|_| ready.next() == Some(true));
        running = rest;
        for Attempt { socket, address, .. } in done {
            match socket.finish_connect(&address.into()) {
                Ok(()) => return Ok((socket, address)),
                Err(Fail::Cut) => return Err(cut()),
                Err(fail) => {
                    note(address, fail);
                    next_start = now;
                }
            }
        }
    }
    waiting.for_each(|address| note(address, Fail::Timeout));
    Err(failed.unwrap_or(Failed { fail: Fail::Timeout, first: None, others: 0 }))
}

fn cut() -> Failed {
    Failed { fail: Fail::Cut, first: None, others: 0 }
}

fn begin(table: &Arc<SocketTable>, address: SocketAddr) -> Result<(Socket, bool), Fail> {
    let socket = Socket::open(table, Domain::for_address(address), Type::STREAM)?;
    socket.set_nodelay()?;
    let done = socket.begin_connect(&address.into())?;
    Ok((socket, done))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_beginning_with_the_first() {
        let v4_first = list(&["192.0.2.1:1", "192.0.2.2:1", "[::1]:1", "192.0.2.3:1", "[::2]:1"]);
        let want = list(&["192.0.2.1:1", "[::1]:1", "192.0.2.2:1", "[::2]:1", "192.0.2.3:1"]);
        assert_eq!(Memory::default().order(v4_first), want);
        assert_eq!(Memory::default().order(want.clone()), want);
        assert_eq!(Memory::default().order(Vec::new()), []);
    }

    #[test]
    fn experience_counts() {
        let all = list(&["[::1]:1", "192.0.2.1:1", "[::2]:1", "192.0.2.2:1"]);
        let mut memory = Memory::default();
        memory.answered(all[2]);
        memory.answered(all[3]);
        memory.disappointed(all[0]);
        assert_eq!(memory.order(all.clone()), [all[3], all[2], all[1], all[0]]);
        memory.disappointed(all[3]);
        assert_eq!(memory.order(all.clone()), [all[2], all[1], all[0], all[3]]);
        memory.answered(all[0]);
        assert_eq!(memory.order(all.clone()), [all[0], all[2], all[1], all[3]]);
        for port in 2..100 {
            memory.answered(SocketAddr::new(all[0].ip(), port));
            memory.disappointed(SocketAddr::new(all[1].ip(), port));
        }
        assert_eq!((memory.good.len(), memory.bad.len()), (REMEMBERED, REMEMBERED));
    }

    #[test]
    fn a_share_leaves_a_turn_for_each() {
        assert_eq!(share(Duration::from_secs(10), 1), SHARE);
        assert_eq!(share(Duration::from_secs(1), 8), Duration::from_millis(500));
        assert_eq!(share(Duration::ZERO, 0), Duration::ZERO);
    }
}
