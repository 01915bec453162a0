//! Whose a stem is, as far as this process can tell.
//!
//! Invariants:
//! - The rule is the adopters' ([`may_take`]): what is called [`Owner::is_takeable`] here is what an adopter would try to
//!   take, and nothing else is.
//! - The lock is asked about, never taken.

use std::fs::File;
use std::os::fd::AsRawFd;
use telemetry::platform::files;
use telemetry::platform::identity::Identity;
use telemetry::queue::spool::claim::may_take;
use telemetry::queue::spool::directory::Directory;
use telemetry::queue::spool::names::Stem;

/// What became of the process that a stem belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It lives.
    Live,
    /// It is dead.
    Orphan,
    /// It shut its client and left the rest to whoever comes.
    Released,
    /// It is, or was, in another process-id namespace or on another machine: only the lock tells.
    Foreign,
}

/// See the module's text.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// What became of it.
    pub state: State,
    /// Its process id, in its own namespace.
    pub pid: Option<u32>,
    /// Another process has the lock.
    pub locked: bool,
}

impl State {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            State::Live => "live",
            State::Orphan => "orphan",
            State::Released => "released",
            State::Foreign => "foreign",
        }
    }
}

impl Owner {
    /// Whose a stem is by its own files, of which there should be one.
    pub fn of(dir: &Directory, stem: Stem, holders: &[Option<Identity>], me: &Identity) -> Option<Owner> {
        let all =
            holders.iter().map(|holder| Self::of_file(dir, &stem.own(holder.as_ref()), holder.as_ref(), me));
        // Adopters want all of them to be takeable.
        all.reduce(|one, other| if one.is_takeable() { other } else { one })
    }

    /// Whose a file is that has its holder in its name, and whose lock is the proof of life.
    pub fn of_file(dir: &Directory, name: &str, holder: Option<&Identity>, me: &Identity) -> Owner {
        let locked = |file: &File| files::is_locked(file.as_raw_fd()).unwrap_or(false);
        let locked = dir.open_to_read(name).is_ok_and(|file| file.get().is_ok_and(locked));
        judge(holder, locked, me)
    }

    /// Whose segments without an own file are, by what their headers say.
    pub fn by_header(owner: Option<Identity>, me: &Identity) -> Owner {
        match owner {
            Some(owner) => judge(Some(&owner), false, me),
            // None of them says anything: no process leaves that behind while it lives.
            None => Owner { state: State::Orphan, pid: None, locked: false },
        }
    }

    /// Whether an adopter would take it.
    pub fn is_takeable(&self) -> bool {
        self.state != State::Live && !self.locked
    }

    /// In words, for reports about what was left alone.
    pub fn describe(&self) -> String {
        match (self.state, self.pid) {
            (State::Live, Some(pid)) => format!("live process {pid}"),
            (State::Foreign, Some(pid)) => {
                format!("process {pid} of another container or machine, which holds its lock")
            }
            _ => "a process that is taking them over".into(),
        }
    }
}

fn judge(holder: Option<&Identity>, locked: bool, me: &Identity) -> Owner {
    let Some(holder) = holder else { return Owner { state: State::Released, pid: None, locked } };
    let us = Identity { image: me.image, ..*holder } == *me;
    let state = if us {
        // What a drain of this very process could not give back.
        State::Released
    } else if !may_take(Some(holder), me) {
        State::Live
    } else if (holder.is_dead(me) && !locked) || holder.is_visible_to(me) {
        // Dead and locked: somebody is taking it over, and has not written his name there yet.
        State::Orphan
    } else {
        State::Foreign
    };
    Owner { state, pid: Some(holder.pid), locked }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_who() {
        let me = Identity::mine();
        let state = |holder: Identity, locked| {
            let owner = judge(Some(&holder), locked, &me);
            (owner.state, owner.is_takeable())
        };
        let init = Identity { pid: 1, start: 0, image: 0, ..me };
        assert_eq!(state(init, false), (State::Live, false), "a free lock alone proves nothing");
        assert_eq!(state(Identity { start: me.start - 1, ..me }, false), (State::Orphan, true));
        assert_eq!(state(Identity { start: me.start - 1, ..me }, true), (State::Orphan, false));
        assert_eq!(state(Identity { boot: me.boot ^ 1, ..me }, false), (State::Orphan, true));
        assert_eq!(state(Identity { boot: me.boot ^ 1, ..me }, true), (State::Foreign, false));
        assert_eq!(state(Identity { pid_ns: me.pid_ns + 1, ..me }, false), (State::Foreign, true));
        assert_eq!(state(Identity { pid_ns: me.pid_ns + 1, ..me }, true), (State::Foreign, false));
        assert_eq!(state(me, false), (State::Released, true));
        assert_eq!(judge(None, false, &me).state, State::Released);
        assert!(!judge(None, true, &me).is_takeable());
    }
}
