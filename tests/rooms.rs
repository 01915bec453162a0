//! The rooms of `src/` and the arrows between them (DESIGN: one way only), and the house rules that no
//! compiler checks. Each failure says the file, the line, and what to do.
//!
//! The scanner is a small lexer: it blanks comments and the insides of strings, so that a word in a text
//! is not taken for code. It is tested on planted faults below.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

/// Room, and the rooms it may name. A room may always name itself.
const ARROWS: &[(&str, &[&str])] = &[
    // `queue`: types in signatures; `fork`: the exit hook.
    ("ffi", &["client", "fleet", "board", "platform", "queue", "fork"]),
    ("client", &["queue", "delivery", "fork", "format", "sink", "board", "platform"]),
    ("fleet", &["board", "platform"]),
    ("board", &["platform"]),
    ("delivery", &["queue", "format", "sink", "platform"]),
    ("queue", &["fork", "platform"]),
    ("fork", &["platform"]),
    ("sink", &["platform"]),
    ("format", &[]),
    ("platform", &[]),
];
/// Rooms where `unsafe` may stand.
const UNSAFE_ROOMS: &[&str] = &["ffi", "queue", "platform"];
/// Who may look at the environment, or at what else the process was given.
const ENVIRONMENT: &[&str] =
    &["build.rs", "client/config.rs", "client/config/", "client/open.rs", "fleet/environment.rs", "bin/"];
const MOST_LINES: usize = 600;
/// How far above an `unsafe` its reason may begin.
const NEAR: usize = 8;

struct Source {
    /// Below `src/`.
    name: String,
    text: String,
    /// The same with comments and the insides of strings blanked; lines stay where they are.
    code: String,
}

impl Source {
    fn new(name: &str, text: &str) -> Source {
        Source { name: name.into(), text: text.into(), code: code_of(text) }
    }

    /// `None` for the files that wire the house: `lib.rs`, `build.rs` and the command.
    fn room(&self) -> Option<&str> {
        self.name.split_once('/').map(|(room, _)| room).filter(|room| *room != "bin")
    }
}

/// Blanks everything that is not code.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    let blank = |out: &mut Vec<u8>, part: &[u8]| {
        out.extend(part.iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }))
    };
    while i < bytes.len() {
        let rest = &bytes[i..];
        let after_name = i > 0 && (bytes[i - 1].is_ascii_alphanumeric() || bytes[i - 1] == b'_');
        let length = match rest[0] {
            b'/' if rest.starts_with(b"//") => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with(b"/*") => block_comment(rest),
            b'"' => string(rest, 1),
            b'r' if !after_name || bytes[i - 1] == b'b' => raw_string(rest).unwrap_or(0),
            b'\'' => character(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(rest[0]);
            i += 1;
        } else {
            blank(&mut out, &rest[..length.min(rest.len())]);
            i += length;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        if rest[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if rest[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    rest.len()
}

fn string(rest: &[u8], mut i: usize) -> usize {
    while i < rest.len() && rest[i] != b'"' {
        i += if rest[i] == b'\\' { 2 } else { 1 };
    }
    i + 1
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let start = 2 + hashes;
    let at = rest[start..].windows(end.len()).position(|w| w == end).unwrap_or(rest.len() - start);
    Some(start + at + end.len())
}

/// A character literal, or 0 where the quote begins a lifetime.
fn character(rest: &[u8]) -> usize {
    match rest {
        [_, b'\\', _, more @ ..] => 3 + more.iter().position(|b| *b == b'\'').unwrap_or(0) + 1,
        _ => {
            let text = String::from_utf8_lossy(&rest[1..rest.len().min(6)]).into_owned();
            let first = text.chars().next().map_or(0, char::len_utf8);
            if rest.get(1 + first) == Some(&b'\'') { 2 + first } else { 0 }
        }
    }
}

/// Each name that follows `crate::` (also the first of each branch of `crate::{a, b}`), with its line.
fn arrows(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = code[at + "crate::".len()..].trim_start();
        if let Some(list) = rest.strip_prefix('{') {
            found.extend(branches(list).iter().map(|b| (line, first_name(b))));
            continue;
        }
        let this = first_name(rest);
        // A macro of the house stands at the root whatever room it is in.
        if !rest[this.len()..].starts_with('!') {
            found.push((line, this));
        }
    }
    // `super::super::queue` gets there as well; no room has a module with the name of another.
    for (at, _) in code.match_indices("super::") {
        let to = first_name(&code[at + "super::".len()..]);
        if ARROWS.iter().any(|(room, _)| *room == to) {
            found.push((code[..at].matches('\n').count() + 1, to));
        }
    }
    found
}

fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The parts of `a::b, c::{d, e}}` that are separated at its own level.
fn branches(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&list[start..i]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.retain(|p| !p.trim().is_empty());
    parts
}

/// Lines on which `word` stands as a word of its own.
fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .filter(|(at, _)| {
            let after = code[at + word.len()..].chars().next();
            !code[..*at].chars().next_back().is_some_and(part) && !after.is_some_and(part)
        })
        .map(|(at, _)| code[..at].matches('\n').count() + 1)
        .collect()
}

fn bad_arrows(source: &Source) -> Vec<String> {
    let Some(room) = source.room() else { return Vec::new() };
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("src/{}: there is no room `{room}`: give it a line in ARROWS", source.name)];
    };
    arrows(&source.code)
        .into_iter()
        .filter(|(_, to)| to != room && !allowed.contains(&to.as_str()))
        .map(|(line, to)| {
            format!(
                "src/{}:{line}: `{room}` names `{to}`; it may name only {allowed:?}. Let `client` wire the two, or \
                 move what both need down to `platform`",
                source.name
            )
        })
        .collect()
}

fn bad_unsafe(source: &Source) -> Vec<String> {
    let room = source.room().unwrap_or(&source.name);
    let lines: Vec<&str> = source.text.lines().collect();
    let code: Vec<&str> = source.code.lines().collect();
    let mut bad = Vec::new();
    for line in lines_with(&source.code, "unsafe") {
        let here = code[line - 1];
        // `unsafe fn`, `unsafe extern` and `unsafe trait` ask for something, which their doc says under "# Safety";
        // an attribute `#[unsafe(...)]` and a type are no promise at all.
        let attribute = here.trim_start().starts_with("#[") || here.contains("unsafe(");
        let asks = ["unsafe fn", "unsafe extern", "unsafe trait"].iter().any(|what| here.contains(what));
        if !UNSAFE_ROOMS.contains(&room) {
            bad.push(format!(
                "src/{}:{line}: `unsafe` outside of {UNSAFE_ROOMS:?}. Put it behind a safe function in `platform`",
                source.name
            ));
        } else if !attribute && !asks {
            let from = line.saturating_sub(NEAR + 1);
            if !lines[from..line].iter().any(|l| l.contains("SAFETY:")) {
                bad.push(format!(
                    "src/{}:{line}: this `unsafe` has no `// SAFETY:` comment above it that says why it is sound",
                    source.name
                ));
            }
        }
    }
    bad
}

fn bad_environment(source: &Source) -> Vec<String> {
    if ENVIRONMENT.iter().any(|allowed| source.name.starts_with(allowed)) {
        return Vec::new();
    }
    let words = ["getenv", "setenv", "putenv", "secure_getenv", "environ", "std::env"];
    words
        .iter()
        .flat_map(|word| lines_with(&source.code, word).into_iter().map(move |line| (line, word)))
        .map(|(line, word)| {
            format!(
                "src/{}:{line}: `{word}`: the environment is read once, at open, in {ENVIRONMENT:?}",
                source.name
            )
        })
        .collect()
}

fn bad_shape(source: &Source) -> Vec<String> {
    let mut bad = Vec::new();
    if !source.text.starts_with("//! ") {
        bad.push(format!("src/{}:1: the file does not open with a `//!` that says what it is", source.name));
    }
    let count = source.text.lines().count();
    if count > MOST_LINES {
        bad.push(format!("src/{}: {count} lines; split it, {MOST_LINES} are the most", source.name));
    }
    bad
}

fn house() -> Vec<Source> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    assert!(paths.len() > 40, "the house was not found");
    paths
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            Source::new(&name, &std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn all_good(rule: fn(&Source) -> Vec<String>) {
    let bad: Vec<String> = house().iter().flat_map(rule).collect();
    assert!(bad.is_empty(), "\n{}\n", bad.join("\n"));
}

#[test]
fn arrows_run_one_way() {
    all_good(bad_arrows);
}

#[test]
fn unsafe_stands_where_it_may_and_says_why() {
    all_good(bad_unsafe);
}

#[test]
fn the_environment_is_read_once() {
    all_good(bad_environment);
}

#[test]
fn files_say_what_they_are_and_stay_short() {
    all_good(bad_shape);
}

#[test]
fn the_table_has_no_circle() {
    // Rooms stand in it from the top down: whoever is named stands below.
    for (i, (room, allowed)) in ARROWS.iter().enumerate() {
        for to in *allowed {
            let at = ARROWS.iter().position(|(name, _)| name == to);
            assert!(at.is_some_and(|at| at > i), "{room} -> {to} runs back");
        }
    }
}

// ---- the checker itself ----

#[test]
fn planted_arrows_are_noticed() {
    for (name, text) in [
        ("queue/log.rs", "use crate::delivery::words::Words;"),
        ("platform/clock.rs", "fn f() { crate::queue::log::x(); }"),
        ("format/json.rs", "use crate::platform::clock;"),
        ("sink/http.rs", "use crate::format::Format;"),
        ("fork/gate.rs", "use crate::{\n    platform::once::SetOnce,\n    queue::{self, log},\n};"),
        ("delivery/engine.rs", "pub use crate::client::handle;"),
        ("delivery/engine.rs", "type T = Vec<crate::fork::gate::Gate>;"),
        ("client/open.rs", "use crate :: ffi;\nuse crate::ffi::telemetry;"),
        ("queue/mod.rs", "use super::sink;"),
        ("queue/log.rs", "use super::super::sink::http;"),
        ("attic/mod.rs", ""),
    ] {
        let found = bad_arrows(&Source::new(name, text));
        assert_eq!(found.len(), 1, "{name}: {text}: {found:?}");
    }
    let at = bad_arrows(&Source::new("queue/log.rs", "\n\nuse crate::sink;"));
    assert!(at[0].starts_with("src/queue/log.rs:3: `queue` names `sink`"), "{at:?}");
}

#[test]
fn good_arrows_and_texts_are_left_alone() {
    for (name, text) in [
        ("client/open.rs", "use crate::{delivery::engine::{self, Engine}, queue::log};\nuse super::handle;"),
        ("queue/log.rs", "use crate::queue::record; crate::blank_struct! { struct X { a: A } }"),
        (
            "format/json.rs",
            "/// See crate::sink.\nconst T: &str = \"crate::sink\"; /* crate::sink /* crate::x */ */",
        ),
        ("format/json.rs", "const R: &str = r#\"\"crate::sink\"#; const B: &[u8] = br\"crate::sink\";"),
        ("format/json.rs", "fn f<'a>(x: &'a str) -> char { '\"' } // crate::sink \"\nconst C: char = '\\'';"),
        ("bin/telemetry/main.rs", "use crate::collect;"),
        ("lib.rs", "pub use crate::client::open;"),
    ] {
        let found = bad_arrows(&Source::new(name, text));
        assert!(found.is_empty(), "{name}: {text}: {found:?}");
    }
}

#[test]
fn planted_unsafe_is_noticed() {
    let bad = |name: &str, text: &str| bad_unsafe(&Source::new(name, text)).len();
    assert_eq!(bad("client/handle.rs", "// SAFETY: no.\nunsafe { x() }"), 1, "the wrong room");
    assert_eq!(bad("lib.rs", "unsafe { x() }"), 1);
    assert_eq!(bad("platform/mmap.rs", "unsafe { x() }"), 1, "no reason");
    assert_eq!(bad("platform/page.rs", "unsafe impl Send for X {}"), 1);
    let far = format!("// SAFETY: far away.\n{}unsafe {{ x() }}", "\n".repeat(NEAR + 1));
    assert_eq!(bad("queue/segment.rs", &far), 1);
    assert_eq!(bad("platform/mmap.rs", "// SAFETY: ours.\nlet p = unsafe { x() };"), 0);
    assert_eq!(bad("ffi/mod.rs", "#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn f() {}"), 0);
    assert_eq!(bad("sink/mod.rs", "#![forbid(unsafe_code)]\n// unsafe\nconst T: &str = \"unsafe\";"), 0);
}

#[test]
fn other_planted_faults_are_noticed() {
    let source = |name: &str, text: &str| Source::new(name, text);
    assert_eq!(bad_environment(&source("sink/proxy.rs", "std::env::var(\"X\")")).len(), 1);
    assert_eq!(bad_environment(&source("platform/x.rs", "libc::getenv(p)")).len(), 1);
    assert_eq!(bad_environment(&source("client/handle.rs", "use std::env;")).len(), 1);
    for fine in
        ["client/open.rs", "client/config.rs", "client/config/proxy.rs", "build.rs", "bin/telemetry/main.rs"]
    {
        assert!(bad_environment(&source(fine, "std::env::var_os(n)")).is_empty());
    }
    assert!(bad_environment(&source("sink/mod.rs", "env!(\"CARGO_PKG_VERSION\") // std::env")).is_empty());
    assert_eq!(bad_shape(&source("a/b.rs", "use x;\n")).len(), 1);
    assert_eq!(bad_shape(&source("a/b.rs", &("//! x\n".to_string() + &"\n".repeat(MOST_LINES)))).len(), 1);
    assert!(bad_shape(&source("a/b.rs", &("//! x\n".to_string() + &"\n".repeat(MOST_LINES - 1)))).is_empty());
}
