//! The endpoint as a part of somebody else's loop.
//!
//! Invariants:
//! - At most [`CONNECTIONS`] are open. For one more, one that has had its answer goes, else the oldest that has not sent
//!   a whole request; if all have, the new one is told that there is no room. Until the oldest has had
//!   [`PATIENCE_MS`] the new one waits in the system's queue: so no crowd, however fast it comes, pushes out a probe
//!   between its connection and its request, nor keeps the supervisor busy with accepting.
//! - Connections that are there are served before new ones are accepted, so that a request that has arrived is answered
//!   whatever else arrives.
//! - A number that [`Server::fds`] has told is not given to another connection before it was asked again: what is closed
//!   in a turn is closed at its end, after the last one was accepted. A loop that compares numbers before and after a
//!   turn misses none.
//! - When the system has no descriptor to give, the listener is left alone for [`DEAF_MS`]: it stays ready all the
//!   time, and the loop would spin.
#![forbid(unsafe_code)]

use super::Ms;
#[cfg(doc)]
use super::connection::PATIENCE_MS;
use super::connection::{Connection, Desk};
use super::http::{Answer, Path};
use super::listen::Listener;
use crate::platform::poll::Interest;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};

/// Connections at once.
pub const CONNECTIONS: usize = 16;
/// Connections accepted in one turn.
const ACCEPTS: usize = 16;
/// For how long nothing is accepted after that failed.
const DEAF_MS: Ms = 100;

/// The endpoint: a listener and its connections. Without a listener it does nothing.
///
/// The owner's loop waits for what [`Server::fds`] names and until [`Server::next_deadline`], then calls
/// [`Server::turn`], then asks both again. Not for a forked child, which closes what it inherited.
pub struct Server {
    listener: Option<Listener>,
    /// The oldest first.
    connections: Vec<Connection>,
    deaf_until: Option<Ms>,
    /// All places are taken, and this is when one may be.
    full_until: Option<Ms>,
}

impl Server {
    /// One that listens; or one that does not yet ([`Server::listen`]).
    pub fn new(listener: Option<Listener>) -> Server {
        Server { listener, connections: Vec::with_capacity(CONNECTIONS), deaf_until: None, full_until: None }
    }

    /// Listens from now on here, where nothing or something else was listened to: for an address that could not be had
    /// at first.
    pub fn listen(&mut self, listener: Listener) {
        self.listener = Some(listener);
        self.deaf_until = None;
    }

    /// What it listens to.
    pub fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Names each descriptor and what to wait for. To be asked again after each turn.
    pub fn fds(&self, each: &mut dyn FnMut(BorrowedFd<'_>, Interest)) {
        if let Some(listener) =
            self.listener.as_ref().filter(|_| self.deaf_until.or(self.full_until).is_none())
        {
            each(listener.as_fd(), Interest::Read);
        }
        for connection in &self.connections {
            each(connection.as_fd(), connection.interest());
        }
    }

    /// When [`Server::turn`] is to be called even if nothing is ready.
    pub fn next_deadline(&self) -> Option<Ms> {
        self.connections.iter().map(Connection::deadline).chain(self.deaf_until).chain(self.full_until).min()
    }

    /// Does what can be done without waiting. `page` makes an answer: it is called at most twice for each path, verbose or
    /// not, always after the request was read; and it is not to block.
    pub fn turn(&mut self, now: Ms, page: &mut dyn FnMut(Path, bool) -> Answer) {
        let mut gone = Vec::new();
        let here = std::mem::take(&mut self.connections);
        self.connections = serve(here, now, page, &mut gone);
        let asked = self.let_in(now, &mut gone);
        for connection in serve(asked, now, page, &mut gone) {
            // It could not be finished at once.
            if self.connections.len() < CONNECTIONS {
                self.connections.push(connection);
            } else if let Some(i) = self.dispensable().filter(|i| self.protected_until(*i, now).is_none()) {
                gone.push(self.connections.remove(i));
                self.connections.push(connection);
            } else {
                gone.push(connection);
            }
        }
        drop(gone);
    }

    /// Accepts those who wait. Who has asked already is returned: in most cases it needs no place.
    fn let_in(&mut self, now: Ms, gone: &mut Vec<Connection>) -> Vec<Connection> {
        let mut asked = Vec::new();
        self.deaf_until = self.deaf_until.filter(|until| now < *until);
        self.full_until = None;
        for _ in 0..ACCEPTS {
            let full = self.connections.len() >= CONNECTIONS;
            let place = if full { self.dispensable() } else { None };
            self.full_until = place.and_then(|i| self.protected_until(i, now));
            if self.full_until.is_some() {
                break;
            }
            let Some(mut connection) = self.accept(now) else { break };
            if !connection.read(now) {
                gone.push(connection);
            } else if !connection.is_reading() {
                asked.push(connection);
            } else if full && place.is_none() {
                connection.turn_away();
                gone.push(connection);
            } else {
                gone.extend(place.map(|i| self.connections.remove(i)));
                self.connections.push(connection);
            }
        }
        asked
    }

    /// Until when connection `i` is to be left alone, if that is still to come.
    fn protected_until(&self, i: usize, now: Ms) -> Option<Ms> {
        self.connections.get(i)?.protected_until().filter(|until| now < *until)
    }

    /// Ends it: every connection is closed, and the listener with its file.
    pub fn close(&mut self) {
        self.connections.clear();
        if let Some(listener) = self.listener.take() {
            listener.remove();
        }
    }

    fn accept(&mut self, now: Ms) -> Option<Connection> {
        if self.deaf_until.is_some() {
            return None;
        }
        let listener = self.listener.as_ref()?;
        for _ in 0..ACCEPTS {
            match listener.accept() {
                Ok(socket) => return Some(Connection::new(socket, now)),
                Err(e) => match e.kind() {
                    ErrorKind::WouldBlock => return None,
                    // This client has gone; there may be another one.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.deaf_until = Some(now.saturating_add(DEAF_MS));
                        return None;
                    }
                },
            }
        }
        None
    }

    /// Which connection makes room for a new one.
    fn dispensable(&self) -> Option<usize> {
        let first = |which: fn(&Connection) -> bool| self.connections.iter().position(which);
        first(Connection::is_draining).or_else(|| first(Connection::is_reading))
    }
}

/// Reads from all of them, then answers: who stays, and who is `gone`.
fn serve(
    mut all: Vec<Connection>,
    now: Ms,
    page: &mut dyn FnMut(Path, bool) -> Answer,
    gone: &mut Vec<Connection>,
) -> Vec<Connection> {
    gone.extend(all.extract_if(.., |connection| !connection.read(now)));
    let mut desk = Desk::new(page);
    gone.extend(all.extract_if(.., |connection| !connection.serve(now, &mut desk)));
    all
}
