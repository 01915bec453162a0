//! What is kept of one event of whatever kind: its id and its pid, found in one pass that skips all else.
//!
//! Invariants:
//! - Every byte is checked to be JSON, and nothing is allocated where the id is a string and the pid a number.
//! - The id is a 128-bit number: a UUID as itself (hyphens and case do not matter), any other id by two
//!   independent keyed hashes, random in each run.
//! - Of several ids or pids the one of the lowest rank wins, wherever it stands; a value of another type
//!   than string or number is no id and no pid.

use super::loose::{Loose, Maybe};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;

/// A worker, as named by its events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pid {
    /// A number, or a string that is one.
    Number(u64),
    /// Any other string.
    Text(Box<str>),
}

/// The keys that mean something; the numbers are their ranks, lower wins.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Key {
    /// An event's id.
    Id(u8),
    /// A worker.
    Pid,
    /// What may hold a `pid`.
    Nested(u8),
    /// Any other.
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E>(self, s: &str) -> Result<Key, E> {
                Ok(match s {
                    "id" => Key::Id(0),
                    "uuid" => Key::Id(1),
                    "messageId" => Key::Id(2),
                    "event_id" => Key::Id(3),
                    "pid" => Key::Pid,
                    "properties" => Key::Nested(1),
                    "context" => Key::Nested(2),
                    "props" => Key::Nested(3),
                    "metadata" => Key::Nested(4),
                    "tags" => Key::Nested(5),
                    _ => Key::Other,
                })
            }
        }
        d.deserialize_str(V)
    }
}

/// What one pass over an event finds.
#[derive(Debug, Default)]
pub struct Scan {
    /// Its id.
    pub id: Option<u128>,
    /// Its worker.
    pub pid: Option<Pid>,
}

impl<'de> Deserialize<'de> for Scan {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Scan;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event, which is a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut m: A) -> Result<Scan, A::Error> {
                let (mut out, mut id_rank, mut pid_rank) = (Scan::default(), u8::MAX, u8::MAX);
                while let Some(key) = m.next_key::<Key>()? {
                    match key {
                        Key::Id(rank) if rank <= id_rank => {
                            if let Some(id) = m.next_value::<Loose<'_>>()?.id() {
                                (out.id, id_rank) = (Some(id), rank);
                            }
                        }
                        Key::Pid => {
                            if let Some(pid) = m.next_value::<Loose<'_>>()?.pid() {
                                (out.pid, pid_rank) = (Some(pid), 0);
                            }
                        }
                        Key::Nested(rank) if rank <= pid_rank => {
                            if let Some(pid) = m.next_value::<Nested>()?.pid() {
                                (out.pid, pid_rank) = (Some(pid), rank);
                            }
                        }
                        _ => {
                            m.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(out)
            }
        }
        d.deserialize_map(V)
    }
}

/// An object that may hold a `pid`; of several the last one counts.
#[derive(Debug, Default, PartialEq)]
pub struct Holder(pub Option<Pid>);

impl<'de> Deserialize<'de> for Holder {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Holder;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut m: A) -> Result<Holder, A::Error> {
                let mut found = None;
                while let Some(key) = m.next_key::<Key>()? {
                    if key == Key::Pid {
                        found = m.next_value::<Loose<'_>>()?.pid().or(found);
                    } else {
                        m.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Holder(found))
            }
        }
        d.deserialize_map(V)
    }
}

/// Anything that, if it is an object, may hold a `pid`.
pub type Nested = Maybe<Holder>;

impl Nested {
    /// The worker that it names.
    pub fn pid(self) -> Option<Pid> {
        match self {
            Maybe::Is(Holder(pid)) => pid,
            _ => None,
        }
    }
}

/// The worker that a text names.
pub fn pid_of(s: &str) -> Option<Pid> {
    match s.parse::<u64>() {
        _ if s.is_empty() => None,
        // Only what would be written the same way again: "007" and "+7" are names.
        Ok(n) if !s.starts_with('+') && (s.len() == 1 || !s.starts_with('0')) => Some(Pid::Number(n)),
        _ => Some(Pid::Text(s.into())),
    }
}

static SEEDS: LazyLock<(RandomState, RandomState)> =
    LazyLock::new(|| (RandomState::new(), RandomState::new()));

/// The id that a text is.
pub fn id_of(s: &str) -> Option<u128> {
    if s.is_empty() {
        return None;
    }
    Some(uuid(s.as_bytes()).unwrap_or_else(|| hashed(s)))
}

/// A number for whatever names an event.
pub fn hashed(name: impl Hash + Copy) -> u128 {
    let (a, b) = &*SEEDS;
    (u128::from(a.hash_one(name)) << 64) | u128::from(b.hash_one(name))
}

/// Value of each hexadecimal digit, 0xff for other bytes.
const HEX: [u8; 256] = {
    let mut t = [0xff; 256];
    let mut i = 0;
    while i < 16 {
        t[b"0123456789abcdef"[i] as usize] = i as u8;
        t[b"0123456789ABCDEF"[i] as usize] = i as u8;
        i += 1;
    }
    t
};

/// The number that a UUID is, written with hyphens or without.
pub fn uuid(s: &[u8]) -> Option<u128> {
    let hyphens = match s.len() {
        36 if s[8] == b'-' && s[13] == b'-' && s[18] == b'-' && s[23] == b'-' => 1,
        32 => 0,
        _ => return None,
    };
    let (mut value, mut bad, mut at) = (0u128, 0u8, 0);
    for (group, len) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        let from = at + group * hyphens;
        let mut part = 0u64;
        for &b in &s[from..from + len] {
            let d = HEX[b as usize];
            bad |= d;
            part = (part << 4) | u64::from(d & 15);
        }
        value = (value << (4 * len)) | u128::from(part);
        at += len;
    }
    (bad < 16).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::super::batch::{Batch, NO_PID};
    use super::super::dialect::plain::parse;
    use super::*;

    fn read(body: &str) -> Batch {
        let mut b = Batch::default();
        parse(body.as_bytes(), false, &mut b).unwrap();
        b
    }

    #[test]
    fn ids() {
        let u = "0198A0C2-6d0e-7c11-8a77-5d1c2e9b4f10";
        assert_eq!(id_of(u), Some(0x0198_a0c2_6d0e_7c11_8a77_5d1c_2e9b_4f10));
        assert_eq!(id_of(&u.replace('-', "")), id_of(&u.to_lowercase()));
        assert_ne!(
            id_of("0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f1x"),
            id_of("0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f1f")
        );
        assert_eq!(uuid(b"0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f1x"), None);
        assert_eq!(uuid(b"0198a0c2-6d0e-7c11-8a77+5d1c2e9b4f10"), None);
        let key = |body: &str| read(body).events[0].key;
        assert_eq!(key("{\"event_id\":\"e\",\"uuid\":\"u\",\"id\":\"i\",\"messageId\":\"m\"}"), id_of("i"));
        assert_eq!(key("{\"event_id\":\"e\",\"messageId\":\"m\",\"uuid\":\"u\"}"), id_of("u"));
        assert_eq!(key("{\"id\":null,\"event_id\":\"e\"}"), id_of("e"));
        assert_eq!(key("{\"id\":7}"), key("{\"id\":\"7\"}"));
        assert_eq!(key("{\"\\u0069d\":\"i\"}"), id_of("i"));
        assert_eq!(key("{\"body\":{\"id\":\"x\"},\"id\":{}}"), None);
    }

    #[test]
    fn pids() {
        let pid = |body: &str| read(body).pids;
        assert_eq!(pid("{\"props\":{\"pid\":4},\"context\":{\"pid\":3},\"pid\":\"1\"}"), [Pid::Number(1)]);
        assert_eq!(
            pid("{\"props\":{\"pid\":4},\"properties\":{\"a\":{\"pid\":9},\"pid\":2}}"),
            [Pid::Number(2)]
        );
        assert_eq!(pid("{\"context\":{\"pid\":3},\"props\":[{\"pid\":1}]}"), [Pid::Number(3)]);
        assert_eq!(pid("{\"pid\":\"w-1\"}"), [Pid::Text("w-1".into())]);
        assert_eq!(pid("{\"pid\":\"007\"}"), [Pid::Text("007".into())]);
        assert_eq!(pid("{\"properties\":null,\"pid\":true}"), []);
        let b = read("[{\"pid\":1},{\"pid\":2},{\"pid\":1},{}]");
        assert_eq!(b.events.iter().map(|e| e.pid).collect::<Vec<_>>(), [0, 1, 0, NO_PID]);
    }
}
