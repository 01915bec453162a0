//! The names of a spool's files, which carry what a sweep must know without opening anything.
//!
//! ```text
//!   <stem>@<holder>.own        one for each process and client: its lock is the proof of life
//!   <stem>-<number>.seg        a segment
//!   <segment>.bad              a segment nobody can read, kept for a while
//!   stem   = boot id - unix milliseconds - nonce
//!   holder = boot id - pid namespace - pid - start time - image, or "none" when it was released
//! ```
//!
//! Invariants:
//! - Who holds a stem is in the name, so taking it over is one rename, which only one can win; and a process
//!   never has to open a file of its own to find out (closing it would drop its lock).
//! - A name that does not parse is nobody's: it is left alone.

use crate::platform::identity::Identity;
use crate::queue::media::files::is_media;

/// A generation's files: older stems sort first (after the boot id, which is the same but for restarts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stem {
    /// When the generation began to use the spool, in milliseconds since 1970.
    pub created_ms: u64,
    /// Of the machine's run.
    pub boot: u64,
    /// The generation.
    pub nonce: u64,
}

/// A file of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// An own file and its holder, `None` if it was released.
    Own(Stem, Option<Identity>),
    /// A segment.
    Segment(Stem, u32),
    /// An upload.
    Media,
    /// A file that was set aside.
    Bad,
}

impl Stem {
    /// As it stands in names.
    pub fn text(&self) -> String {
        format!("{:016x}-{:x}-{:016x}", self.boot, self.created_ms, self.nonce)
    }

    fn parse(text: &str) -> Option<Stem> {
        let mut parts = text.split('-').map(hex);
        let stem = Stem { boot: parts.next()??, created_ms: parts.next()??, nonce: parts.next()?? };
        parts.next().is_none().then_some(stem)
    }

    /// The own file's name.
    pub fn own(&self, holder: Option<&Identity>) -> String {
        let holder = match holder {
            Some(h) => format!("{:016x}-{:x}-{}-{}-{:016x}", h.boot, h.pid_ns, h.pid, h.start, h.image),
            None => "none".into(),
        };
        format!("{}@{holder}.own", self.text())
    }

    /// A segment's name.
    pub fn segment(&self, number: u32) -> String {
        format!("{}-{number:08x}.seg", self.text())
    }
}

/// Read a file's name. Two names never mean the same file: only the one that is written is read.
pub fn parse(name: &str) -> Option<Name> {
    let parsed = parse_any(name)?;
    let written = match &parsed {
        Name::Own(stem, holder) => stem.own(holder.as_ref()),
        Name::Segment(stem, number) => stem.segment(*number),
        Name::Media | Name::Bad => return Some(parsed),
    };
    (written == name).then_some(parsed)
}

fn parse_any(name: &str) -> Option<Name> {
    if let Some(rest) = name.strip_suffix(".bad") {
        let probe = rest.strip_suffix(".probe").and_then(Stem::parse);
        let ours = probe.is_some() || matches!(parse_any(rest), Some(Name::Segment(..) | Name::Media));
        return ours.then_some(Name::Bad);
    }
    if let Some(rest) = name.strip_suffix(".own") {
        let (stem, holder) = rest.split_once('@')?;
        let holder = if holder == "none" { None } else { Some(identity(holder)?) };
        return Some(Name::Own(Stem::parse(stem)?, holder));
    }
    if is_media(name) {
        return Some(Name::Media);
    }
    let (stem, number) = name.strip_suffix(".seg")?.rsplit_once('-')?;
    Some(Name::Segment(Stem::parse(stem)?, u32::try_from(hex(number)?).ok()?))
}

fn identity(text: &str) -> Option<Identity> {
    let parts: Vec<&str> = text.split('-').collect();
    let [boot, pid_ns, pid, start, image] = parts.as_slice() else { return None };
    Some(Identity {
        boot: hex(boot)?,
        pid_ns: hex(pid_ns)?,
        pid: pid.parse().ok()?,
        start: start.parse().ok()?,
        image: hex(image)?,
    })
}

fn hex(text: &str) -> Option<u64> {
    let fine = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        let stem = Stem { created_ms: 1_795_228_198_004, boot: 7, nonce: u64::MAX };
        let holder = Identity { boot: 7, pid_ns: 4_026_531_836, pid: 32_767, start: 99, image: 3 };
        assert_eq!(parse(&stem.own(None)), Some(Name::Own(stem, None)));
        assert_eq!(parse(&stem.own(Some(&holder))), Some(Name::Own(stem, Some(holder))));
        assert_eq!(parse(&stem.segment(u32::MAX)), Some(Name::Segment(stem, u32::MAX)));
        assert_eq!(parse(&format!("{}.bad", stem.segment(1))), Some(Name::Bad));
        assert_eq!(parse(&format!("{}.probe.bad", stem.text())), Some(Name::Bad));
        assert_eq!(parse("x.bad"), None);
        for odd in [
            "",
            ".own",
            "@.own",
            "a.seg",
            "1-2-3@.own",
            "1-2-3@1-2-3-4.own",
            "1-2-3-+5.seg",
            "1-2-3-4-5.seg",
            "1-2-3-00000001.seg",
        ] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }
}
