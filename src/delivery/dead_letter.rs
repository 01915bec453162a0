//! The file of events that will never be delivered: what the collector refused, and what is not JSON.
//!
//! One JSON object a line: `refused_at`, `endpoint`, `status` (null where nobody was asked), `reason`, and the
//! `event` as it was sent, or as a string in `raw` where it is not JSON. `raw` is null where `redact` is set and the event
//! could not be redacted.
//!
//! Invariants:
//! - It never stops delivery: what cannot be written is said once a minute, and the counters tell the number.
//! - Nothing is held between two writes: the file is opened for each group and closed again, so that no child
//!   inherits it and it may be renamed away at any time. Lines stay whole as the file sink's do, which owns that
//!   part: a line that a dead writer or a full disk tore is passed over by readers and costs no other line.
//! - A line is valid JSON whatever the event is.
//! - The path may be in a directory that is open to all: a new file is its owner's alone, a symbolic link is not
//!   followed, and a file that somebody else put there is not written to.
//!
//! A process that dies behind the write and before the queue notes it leaves its events to be refused again:
//! then they are there twice, under the same id. As with the file sink, a hung network file system holds the
//! sender, and nobody else.
#![forbid(unsafe_code)]

use crate::format::time::rfc3339_ms;
use crate::platform::log::{Level, Reason, say};
use crate::platform::{clock, process};
use crate::sink::Response;
use crate::sink::file::append_whole;
use serde::de::IgnoredAny;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What is kept of an event that is not JSON.
const MOST_RAW: usize = 64 << 10;
/// What is kept of the collector's answer.
const MOST_REASON: usize = 512;
/// A group is written in pieces of about this size, which bounds the memory for it.
const PIECE: usize = 4 << 20;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    path: PathBuf,
}

/// What the collector said, as the reason of a refusal: the beginning of its answer.
pub fn reason_of(response: &Response) -> String {
    let text = lossy(&response.body, MOST_REASON);
    match text.trim() {
        "" => format!("answered {} without a text", response.status),
        text => text.to_string(),
    }
}

impl DeadLetter {
    /// Opens nothing yet.
    pub fn new(path: PathBuf) -> DeadLetter {
        DeadLetter { path }
    }

    /// Append events that the collector refused, each as the text that was sent. Without any it does nothing.
    pub fn refused<'a>(
        &self,
        endpoint: &str,
        status: u16,
        reason: &str,
        events: impl Iterator<Item = &'a [u8]>,
    ) {
        let head = head(endpoint, Some(status), reason);
        let (mut lines, mut count) = (Vec::new(), 0);
        for event in events {
            put(&mut lines, &head, event);
            count += 1;
            if lines.len() >= PIECE {
                self.keep(&lines, count);
                lines.clear();
                count = 0;
            }
        }
        if count > 0 {
            self.keep(&lines, count);
        }
    }

    /// Append a line for refused events that the collector does not name: its `raw` is null.
    pub fn nameless(&self, endpoint: &str, status: u16, reason: &str) {
        let head = head(endpoint, Some(status), reason);
        self.keep(format!("{head}\"raw\":null}}\n").as_bytes(), 1);
    }

    /// Append an event that is no event for the format, and was not sent; without its text if that may not be shown.
    pub fn invalid(&self, endpoint: &str, reason: &str, raw: Option<&[u8]>) {
        let mut line = Vec::new();
        let head = head(endpoint, None, reason);
        match raw {
            Some(raw) => put(&mut line, &head, raw),
            None => line.extend_from_slice(format!("{head}\"raw\":null}}\n").as_bytes()),
        }
        self.keep(&line, 1);
    }

    fn keep(&self, lines: &[u8], count: usize) {
        if let Err(why) = self.append(lines) {
            let path = self.path.display();
            let text = format!("dead_letter: {count} refused event(s) are not kept: {path}: {why}");
            say(Level::Error, Reason::DeadLetter, &text);
        }
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        append_whole(&self.open()?, lines, b"", true)
    }

    fn open(&self) -> io::Result<File> {
        let mut how = OpenOptions::new();
        // O_NONBLOCK: opening somebody's pipe must not wait for its reader.
        how.append(true).create(true).mode(0o600);
        how.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = match how.clone().read(true).open(&self.path) {
            // Not allowed to read it: then nobody can see whether the last line is torn.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => how.open(&self.path),
            r => r,
        };
        let file = file.map_err(|e| match e.raw_os_error() {
            Some(libc::ELOOP) => io::Error::other("a symbolic link is not followed"),
            Some(libc::ENOENT) => io::Error::other("its directory is missing, and not created"),
            _ => e,
        })?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        if is_planted(&self.path, &about)? {
            return Err(io::Error::other("somebody else put it there, in a directory that is open to all"));
        }
        Ok(file)
    }
}

/// In a directory where everybody may make files: neither ours nor root's, or another name of some other file.
fn is_planted(path: &Path, file: &Metadata) -> io::Result<bool> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let open_to_all = std::fs::metadata(parent)?.mode() & 0o002 != 0;
    let trusted = file.uid() == 0 || file.uid() == process::effective_uid();
    Ok(open_to_all && !(trusted && file.nlink() <= 1))
}

/// The members that a group shares.
fn head(endpoint: &str, status: Option<u16>, reason: &str) -> String {
    let now = rfc3339_ms(clock::wall_precise_ns());
    let status = status.map_or("null".to_string(), |s| s.to_string());
    format!(
        r#"{{"refused_at":"{}","endpoint":{},"status":{status},"reason":{},"#,
        String::from_utf8_lossy(&now),
        string(endpoint),
        string(reason)
    )
}

fn put(out: &mut Vec<u8>, head: &str, event: &[u8]) {
    out.extend_from_slice(head.as_bytes());
    // `from_slice` lets bytes that are not UTF-8 pass where it skips a string.
    let json = std::str::from_utf8(event).is_ok_and(|t| serde_json::from_str::<IgnoredAny>(t).is_ok());
    if json {
        out.extend_from_slice(br#""event":"#);
        // A raw line break can only stand between tokens: a space does too.
        out.extend(event.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }));
    } else {
        out.extend_from_slice(br#""raw":"#);
        out.extend_from_slice(string(&lossy(event, MOST_RAW)).as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// At most `most` bytes as text, not cut within a character.
fn lossy(bytes: &[u8], most: usize) -> String {
    let continues = |at: usize| bytes.get(at).is_some_and(|b| b & 0xC0 == 0x80);
    let mut end = most.min(bytes.len());
    // Three steps back at most: what is not UTF-8 anyway need not be searched.
    for _ in 0..3 {
        end -= usize::from(end > 0 && continues(end));
    }
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    /// A directory of its own for each test, removed at its end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let path = PathBuf::from(format!("/tmp/lt-dead-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Place(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("dead.ndjson")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }

        /// Each line, which must be JSON.
        fn lines(&self) -> Vec<Value> {
            self.text()
                .lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
                .collect()
        }

        /// Why nothing can be written.
        fn error(&self) -> String {
            DeadLetter::new(self.file()).append(b"{}\n").unwrap_err().to_string()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn events<'a>(list: &'a [&'a str]) -> impl Iterator<Item = &'a [u8]> {
        list.iter().map(|e| e.as_bytes())
    }

    #[test]
    fn a_line_for_each_refused_event() {
        let place = Place::new("refused");
        let dead = DeadLetter::new(place.file());
        dead.refused("http://h/x", 400, "say \"no\"\n", events(&[]));
        assert!(!place.file().exists(), "nothing to write makes no file");
        dead.refused(
            "http://h/x",
            400,
            "say \"no\"\n",
            events(&[r#"{"id":"1","n":1.50}"#, "{\r\n\"a\" : 2 }"]),
        );
        let text = place.text();
        let lines = place.lines();
        assert_eq!(lines.len(), 2);
        for (line, event) in lines.iter().zip([json!({"id":"1","n":1.5}), json!({"a":2})]) {
            let at = line["refused_at"].as_str().unwrap();
            let expected = json!({"refused_at":at,"endpoint":"http://h/x","status":400,"reason":"say \"no\"\n","event":event});
            assert_eq!(*line, expected);
            assert!(at.len() == 24 && at.ends_with('Z') && at.starts_with("20"), "{at}");
        }
        assert!(text.contains(r#""event":{"id":"1","n":1.50}}"#), "the text is the one sent: {text}");
        assert_eq!(fs::metadata(place.file()).unwrap().mode() & 0o7177, 0);
    }

    #[test]
    fn what_is_not_json_is_a_string() {
        let place = Place::new("invalid");
        let dead = DeadLetter::new(place.file());
        let long = "é".repeat(MOST_RAW);
        let off = format!("x{long}");
        let zeros = vec![0x80; MOST_RAW + 9];
        let raws: [&[u8]; 8] = [
            b"nonsense \"x\"\n",
            b"\xff\0",
            b"",
            b"{\"a\":1} {}",
            long.as_bytes(),
            off.as_bytes(),
            &zeros,
            b"\"\xff\"",
        ];
        for raw in raws {
            dead.invalid("n", "not one JSON object", Some(raw));
        }
        let lines = place.lines();
        let kept: Vec<&str> = lines.iter().map(|line| line["raw"].as_str().unwrap()).collect();
        assert_eq!(kept[..4], ["nonsense \"x\"\n", "\u{FFFD}\0", "", "{\"a\":1} {}"]);
        assert_eq!((kept[4].len(), kept[5].len()), (MOST_RAW, MOST_RAW - 1), "cut between characters");
        assert!(kept[6].starts_with('\u{FFFD}') && kept[6].chars().count() <= MOST_RAW);
        assert_eq!(kept[7], "\"\u{FFFD}\"");
        assert!(lines.iter().all(|line| line["status"].is_null() && line.get("event").is_none()));
        // JSON that the format does not take stays JSON; a refused event that is none becomes a string.
        dead.invalid("n", "no object", Some(b"[1]"));
        dead.refused("n", 400, "", [&b"\x0a\x03abc"[..]].into_iter());
        assert_eq!(place.lines()[8]["event"], json!([1]));
        assert_eq!(place.lines()[9]["raw"], "\n\u{3}abc");
        dead.invalid("n", "hidden", None);
        let hidden = &place.lines()[10];
        assert_eq!((&hidden["reason"], hidden.get("raw")), (&json!("hidden"), Some(&Value::Null)));
    }

    #[test]
    fn a_large_group_is_written_in_pieces() {
        let place = Place::new("large");
        let event = format!("{{\"x\":\"{}\"}}", "y".repeat(100_000));
        DeadLetter::new(place.file()).refused("n", 400, "", (0..100).map(|_| event.as_bytes()));
        let lines = place.lines();
        assert_eq!(lines.len(), 100);
        assert!(lines.iter().all(|line| line["event"]["x"].as_str().unwrap().len() == 100_000));
    }

    #[test]
    fn several_writers_keep_their_lines_whole() {
        let place = Place::new("writers");
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let dead = DeadLetter::new(place.file());
                    (0..50).for_each(|_| dead.refused("n", 400, "", events(&["{\"a\":1}"; 20])));
                });
            }
        });
        assert_eq!(place.lines().len(), 4 * 50 * 20);
    }

    #[test]
    fn a_torn_line_costs_no_other() {
        let place = Place::new("torn");
        fs::write(place.file(), "{\"refused_at\":\"20").unwrap();
        let dead = DeadLetter::new(place.file());
        dead.refused("n", 400, "", events(&["1", "2"]));
        dead.refused("n", 400, "", events(&["3"]));
        let text = place.text();
        let good =
            text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["event"].as_i64());
        let mut seen: Vec<i64> = good.collect();
        seen.sort();
        assert_eq!(seen, [1, 2, 3], "{text}");
    }

    #[test]
    fn a_renamed_file_is_made_anew() {
        let place = Place::new("rotated");
        let dead = DeadLetter::new(place.file());
        dead.refused("n", 400, "", events(&["1"]));
        fs::rename(place.file(), place.0.join("old")).unwrap();
        dead.refused("n", 400, "", events(&["2"]));
        assert_eq!(place.lines().len(), 1);
        assert_eq!(place.lines()[0]["event"], 2);
    }

    #[test]
    fn only_a_regular_file_of_that_name_is_written_to() {
        let place = Place::new("odd");
        let target = place.0.join("target");
        fs::write(&target, "").unwrap();
        symlink(&target, place.file()).unwrap();
        assert!(place.error().contains("symbolic link"), "{}", place.error());
        fs::remove_file(place.file()).unwrap();
        symlink("nowhere", place.file()).unwrap();
        assert!(place.error().contains("symbolic link"), "{}", place.error());
        assert_eq!(fs::read(&target).unwrap(), b"");
        fs::remove_file(place.file()).unwrap();
        fs::create_dir(place.file()).unwrap();
        assert!(place.error().contains("directory"), "{}", place.error());
        fs::remove_dir(place.file()).unwrap();
        if std::process::Command::new("mkfifo").arg(place.file()).status().is_ok_and(|s| s.success()) {
            assert_eq!(place.error(), "not a regular file", "and nobody waited for a reader");
        }
        let full = DeadLetter::new("/dev/full".into()).append(b"{}\n").unwrap_err();
        assert_eq!(full.to_string(), "not a regular file");
        let missing = DeadLetter::new(place.0.join("none/file"));
        assert!(missing.append(b"{}\n").unwrap_err().to_string().contains("directory is missing"));
        missing.refused("n", 400, "", events(&["1"]));
    }

    #[test]
    fn what_somebody_else_planted_is_left_alone() {
        let place = Place::new("planted");
        let open_to_all = |yes| {
            let mode = if yes { 0o1777 } else { 0o755 };
            fs::set_permissions(&place.0, fs::Permissions::from_mode(mode)).unwrap();
        };
        let other = place.0.join("other");
        fs::write(&other, "").unwrap();
        fs::hard_link(&other, place.file()).unwrap();
        open_to_all(true);
        assert!(place.error().contains("somebody else"), "{}", place.error());
        open_to_all(false);
        DeadLetter::new(place.file()).append(b"{}\n").unwrap();
        fs::remove_file(&other).unwrap();
        open_to_all(true);
        DeadLetter::new(place.file()).append(b"{}\n").unwrap();
        // Only root can give a file away.
        if chown(place.file(), Some(12_345), None).is_ok() {
            assert!(!place.error().is_empty());
            open_to_all(false);
            DeadLetter::new(place.file()).append(b"{}\n").unwrap();
        }
    }

    #[test]
    fn the_reason_is_what_the_collector_said() {
        let response = |body: &[u8]| Response { status: 422, body: body.to_vec(), ..Response::default() };
        assert_eq!(reason_of(&response(b" bad\xff event\n")), "bad\u{FFFD} event");
        assert_eq!(reason_of(&response(b"\r\n")), "answered 422 without a text");
        assert_eq!(reason_of(&response("é".repeat(1000).as_bytes())).len(), MOST_REASON);
    }
}
