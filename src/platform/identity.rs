//! Which process somebody is: more than a process id, which the kernel gives to others.
//!
//! Invariants:
//! - Two processes never share an [`Identity`]: a process id is unique in its namespace at any time, and whoever
//!   gets it again starts later; the boot id tells apart what a restart makes equal. `exec` keeps all that, and
//!   gives the program another stack, at another address.
//! - What cannot be found out (no `/proc`) is 0 and proves nothing: [`Identity::is_dead`] says "dead" only
//!   when that is certain.

use super::files::read_small;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The first half of the kernel's boot id; 0 if unknown.
    pub boot: u64,
    /// Inode of the process-id namespace; 0 if unknown.
    pub pid_ns: u64,
    /// Process id in that namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot; 0 if unknown.
    pub start: u64,
    /// Where the program's stack begins: kept by forks, another one after `exec`; 0 if unknown.
    pub image: u64,
}

impl Identity {
    /// The calling process.
    pub fn mine() -> Identity {
        let now = stat_of("self").unwrap_or_default();
        Identity {
            boot: boot(),
            pid_ns: fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino()),
            pid: super::process::pid(),
            start: now.start,
            image: now.image,
        }
    }

    /// Whether that process certainly is no more, as far as `me` can tell. Another namespace's is not known.
    pub fn is_dead(&self, me: &Identity) -> bool {
        if self.boot != me.boot {
            return self.boot != 0 && me.boot != 0;
        }
        if self.pid_ns != me.pid_ns {
            return false;
        }
        if !super::process::exists(self.pid) {
            return true;
        }
        match stat_of(&self.pid.to_string()) {
            Some(now) => {
                let differ = |then: u64, now: u64| then != 0 && now != 0 && then != now;
                now.ended || differ(self.start, now.start) || differ(self.image, now.image)
            }
            None => false,
        }
    }

    /// Whether `me` can look that process up at all: the same boot and namespace.
    pub fn is_visible_to(&self, me: &Identity) -> bool {
        self.boot == me.boot && self.pid_ns == me.pid_ns
    }
}

fn boot() -> u64 {
    let text = read_small("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.into_iter().map(char::from).filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

#[derive(Default)]
struct Stat {
    start: u64,
    /// 0 where the kernel shows it to nobody but the process's user.
    image: u64,
    /// Dead, and only not waited for yet.
    ended: bool,
}

/// Fields 3, 20, 22 and 28 of `/proc/<pid>/stat` (proc_pid_stat(5)); the name before them may hold anything but
/// ends with the last parenthesis. A process whose first thread has ended is shown as a zombie while others run.
fn stat_of(pid: &str) -> Option<Stat> {
    let stat = read_small(&format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|b| *b == b')')? + 1;
    let fields: Vec<&str> = std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace().collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    let ended = matches!(*fields.first()?, "Z" | "X") && threads <= 1;
    let number = |i: usize| fields.get(i).and_then(|text| text.parse().ok());
    Some(Stat { start: number(19)?, image: number(25).unwrap_or(0), ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_its_number_alone_proves_nothing() {
        let me = Identity::mine();
        assert_eq!(me, Identity::mine());
        assert!(me.boot != 0 && me.pid_ns != 0 && me.start != 0);
        assert!(!me.is_dead(&me));
        assert!(Identity { start: me.start - 1, ..me }.is_dead(&me), "the number belongs to another now");
        assert!(Identity { image: me.image + 16, ..me }.is_dead(&me), "another program runs in it now");
        assert!(!Identity { image: 0, ..me }.is_dead(&me));
        assert!(Identity { boot: me.boot ^ 1, ..me }.is_dead(&me), "before the restart");
        assert!(!Identity { pid_ns: me.pid_ns + 1, ..me }.is_dead(&me), "nobody here can tell");
    }

    #[test]
    fn a_killed_child_is_dead_before_and_after_it_was_waited_for() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let me = Identity::mine();
        let it = Identity {
            pid: child.id(),
            start: stat_of(&child.id().to_string()).unwrap().start,
            image: 0,
            ..me
        };
        assert!(!it.is_dead(&me));
        child.kill().unwrap();
        let start = std::time::Instant::now();
        while !it.is_dead(&me) {
            // A zombie: nobody has waited for it yet.
            assert!(start.elapsed() < std::time::Duration::from_secs(60), "it lives for ever");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(it.is_dead(&me));
    }
}
