//! What a service manager is told over `$NOTIFY_SOCKET`: ready, stopping, a line of status, and that we live.
//!
//! Invariants:
//! - A message is one datagram that is sent at once or not at all: a manager that does not read holds nobody up. Errors
//!   are ignored, as there is nobody who could do anything about them.
//! - The watchdog is fed only while the fleet is live: if it is not, the manager is to step in.
#![forbid(unsafe_code)]

use super::Ms;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl Notify {
    /// For the value of `$NOTIFY_SOCKET`: an absolute path, or `@` and an abstract name. `None` for anything else, so
    /// also if there is no service manager.
    pub fn new(value: &str) -> Option<Notify> {
        let to = match value.strip_prefix('@') {
            Some(name) => abstract_name(name)?,
            None if value.starts_with('/') => SocketAddr::from_pathname(value).ok()?,
            None => return None,
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Notify { socket, to })
    }

    /// Everything is started, or loaded again; `status` for people.
    pub fn ready(&self, status: &str) -> bool {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)))
    }

    /// A line for people.
    pub fn status(&self, status: &str) -> bool {
        self.send(&format!("STATUS={}", one_line(status)))
    }

    /// The end has begun and may take this long, in microseconds.
    pub fn stopping(&self, within_us: u64, status: &str) -> bool {
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={within_us}\nSTATUS={}", one_line(status)))
    }

    /// A start or an end that takes time goes on for as long as this, in microseconds, or until this is said again.
    pub fn extend_timeout(&self, by_us: u64) -> bool {
        self.send(&format!("EXTEND_TIMEOUT_USEC={by_us}"))
    }

    /// The configuration is being read again; at which microsecond of the monotonic clock. [`Notify::ready`] ends it.
    pub fn reloading(&self, monotonic_us: u64) -> bool {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}"))
    }

    /// We live.
    pub fn watchdog(&self) -> bool {
        self.send("WATCHDOG=1")
    }

    /// Whether it was sent: for tests and for nobody else.
    fn send(&self, message: &str) -> bool {
        self.socket.send_to_addr(message.as_bytes(), &self.to).is_ok()
    }
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(target_os = "linux")]
fn abstract_name(name: &str) -> Option<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name).ok().filter(|_| !name.is_empty())
}

#[cfg(not(target_os = "linux"))]
fn abstract_name(_: &str) -> Option<SocketAddr> {
    None
}

/// When to say that we live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    every: Ms,
    next: Ms,
}

impl Watchdog {
    /// For the values of `$WATCHDOG_USEC` and `$WATCHDOG_PID`; `None` if nobody waits for process `own`. The first word
    /// is due at once.
    pub fn new(usec: &str, pid: Option<&str>, own: u32, now: Ms) -> Option<Watchdog> {
        let usec: u64 = usec.parse().ok().filter(|us| *us > 0)?;
        if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
            return None;
        }
        // Twice in each interval, so that one that is late does no harm.
        Some(Watchdog { every: (usec / 2000).max(1), next: now })
    }

    /// When [`Watchdog::turn`] has something to do.
    pub fn next_deadline(&self) -> Ms {
        self.next
    }

    /// Feeds it if it is due and the fleet is `live`. `true`: it was fed.
    pub fn turn(&mut self, now: Ms, live: bool, notify: &Notify) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now.saturating_add(self.every);
        live && notify.watchdog()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_waits_for_one_process() {
        let new = |usec, pid| Watchdog::new(usec, pid, 7, 100);
        assert_eq!(new("3000000", None), Some(Watchdog { every: 1500, next: 100 }));
        assert_eq!(new("1", Some("7")), Some(Watchdog { every: 1, next: 100 }));
        for (usec, pid) in
            [("3000000", Some("8")), ("3000000", Some("")), ("0", None), ("", None), ("-1", None)]
        {
            assert_eq!(new(usec, pid), None, "{usec} {pid:?}");
        }
    }

    #[test]
    fn other_values_are_no_manager() {
        for value in ["", "run/x", "vsock:2:1234", "@", &format!("/{}", "x".repeat(200))] {
            assert!(Notify::new(value).is_none(), "{value:?}");
        }
    }
}
