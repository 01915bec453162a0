//! The names of a spool's files, which carry what a sweep must know without opening anything.
//!
//! ```text
//!   <stem>@<holder>.own        one for each process and client: its lock is the proof of life
//!   <stem>-<number>.seg        a segment
//!   <upload>@<holder>.media    an upload: unix milliseconds - generation - random number
//!   <name>.bad                 a segment or an upload nobody can read, kept for a while
//!   stem   = boot id - unix milliseconds - nonce
//!   holder = boot id - pid namespace - pid - start time - image, or "none" when it was released
//! ```
//!
//! Invariants:
//! - Who holds a stem is in the name, so taking it over is one rename, which only one can win; and a process
//!   never has to open a file of its own to find out (closing it would drop its lock).
//! - A name that does not parse is nobody's: it is left alone.

use crate::platform::identity::Identity;

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
    Media(MediaName),
    /// A file that was set aside.
    Bad,
}

/// What an upload's name says. Older ones sort first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaName {
    /// When it was taken, in milliseconds since 1970.
    pub created_ms: u64,
    /// Who took it: a client in a process.
    pub generation: u64,
    /// Tells it from others of that millisecond.
    pub random: u64,
    /// The process that is to deliver it, while that lives; `None` if it left it to whoever comes.
    pub holder: Option<Identity>,
}

impl MediaName {
    /// As it stands in the directory.
    pub fn text(&self) -> String {
        let holder = holder_text(self.holder.as_ref());
        format!("{:016x}-{:016x}-{:016x}@{holder}.media", self.created_ms, self.generation, self.random)
    }
}

fn holder_text(holder: Option<&Identity>) -> String {
    match holder {
        Some(h) => format!("{:016x}-{:x}-{}-{}-{:016x}", h.boot, h.pid_ns, h.pid, h.start, h.image),
        None => "none".into(),
    }
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
        format!("{}@{}.own", self.text(), holder_text(holder))
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
        Name::Media(media) => media.text(),
        Name::Bad => return Some(parsed),
    };
    (written == name).then_some(parsed)
}

fn parse_any(name: &str) -> Option<Name> {
    if let Some(rest) = name.strip_suffix(".bad") {
        let probe = rest.strip_suffix(".probe").and_then(Stem::parse);
        let ours = probe.is_some() || matches!(parse_any(rest), Some(Name::Segment(..) | Name::Media(_)));
        return ours.then_some(Name::Bad);
    }
    if let Some(rest) = name.strip_suffix(".own") {
        let (stem, holder) = rest.split_once('@')?;
        return Some(Name::Own(Stem::parse(stem)?, holder_of(holder)?));
    }
    if let Some(rest) = name.strip_suffix(".media") {
        let (upload, holder) = rest.split_once('@')?;
        let mut parts = upload.split('-').map(hex);
        let (created_ms, generation, random) = (parts.next()??, parts.next()??, parts.next()??);
        let media = MediaName { created_ms, generation, random, holder: holder_of(holder)? };
        return parts.next().is_none().then_some(Name::Media(media));
    }
    let (stem, number) = name.strip_suffix(".seg")?.rsplit_once('-')?;
    Some(Name::Segment(Stem::parse(stem)?, u32::try_from(hex(number)?).ok()?))
}

fn holder_of(text: &str) -> Option<Option<Identity>> {
    if text == "none" {
        return Some(None);
    }
    let parts: Vec<&str> = text.split('-').collect();
    let [boot, pid_ns, pid, start, image] = parts.as_slice() else { return None };
    Some(Some(Identity {
        boot: hex(boot)?,
        pid_ns: hex(pid_ns)?,
        pid: pid.parse().ok()?,
        start: start.parse().ok()?,
        image: hex(image)?,
    }))
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
        for holder in [None, Some(holder)] {
            let media = MediaName { created_ms: 5, generation: u64::MAX, random: 1, holder };
            assert_eq!(parse(&media.text()), Some(Name::Media(media)));
            assert_eq!(parse(&format!("{}.bad", media.text())), Some(Name::Bad));
            let later = MediaName { created_ms: 16, generation: 0, ..media };
            assert!(media.text() < later.text());
        }
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
            ".media",
            "1-2-3@none.media",
            "0000000000000001-0000000000000002-0000000000000003.media",
            "0000000000000001-0000000000000002-0000000000000003-0000000000000004@none.media",
            "0000000000000001-0000000000000002-000000000000000G@none.media",
            "0000000000000001-0000000000000002-000000000000000A@none.media",
        ] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }
}
