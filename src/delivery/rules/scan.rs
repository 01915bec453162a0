//! Reading JSON text piece by piece, where it stands.
//!
//! Invariants:
//! - It accepts what serde_json accepts, and nothing else: the same grammar, and the same depth as its values. Only
//!   UTF-8 is not looked at.
//! - It never panics, recurses or allocates, whatever the bytes are: `enqueue` may call it in a child of a raw
//!   clone, on a stack of any size.
//! - A number is text: none is too long, too large or too exact.
#![forbid(unsafe_code)]

use std::ops::Range;

/// How deep containers may be in each other, as in a `serde_json::Value`. At most 128: see [`Scan::skip`].
const DEPTH: usize = 127;

/// Not JSON, or too deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A string, as it stands in the text.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// What is between the quotes.
    inner: &'a [u8],
    /// Where the opening quote is.
    pub start: usize,
}

impl Text<'_> {
    /// Give what it says, without escapes and in pieces. Half a surrogate pair, which is no character, is U+FFFD.
    pub fn decode(&self, mut put: impl FnMut(&[u8])) {
        let mut rest = self.inner;
        while let Some(at) = rest.iter().position(|b| *b == b'\\') {
            let (before, escape) = rest.split_at(at);
            put(before);
            let (character, length) = unescape(escape);
            put(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = escape.get(length..).unwrap_or_default();
        }
        put(rest);
    }

    /// Whether that is what it says.
    pub fn is(&self, name: &str) -> bool {
        let mut rest = Some(name.as_bytes());
        self.decode(|piece| rest = rest.and_then(|rest| rest.strip_prefix(piece)));
        rest.is_some_and(<[u8]>::is_empty)
    }
}

/// The character of the escape that `text` begins with, and how long the escape is.
fn unescape(text: &[u8]) -> (char, usize) {
    let simple = |c| (c, 2);
    match text.get(1) {
        Some(b'b') => simple('\u{8}'),
        Some(b'f') => simple('\u{C}'),
        Some(b'n') => simple('\n'),
        Some(b'r') => simple('\r'),
        Some(b't') => simple('\t'),
        Some(b'u') => {
            let first = hex(text, 2).unwrap_or(0xFFFD);
            let second = text.get(6..8).filter(|begin| *begin == b"\\u").and_then(|_| hex(text, 8));
            match (first, second) {
                (0xD800..0xDC00, Some(second @ 0xDC00..0xE000)) => {
                    let point = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                    (char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
                }
                _ => (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
            }
        }
        Some(&plain) => simple(char::from(plain)),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}

/// The four hexadecimal digits at `at`.
fn hex(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 4)?;
    digits.iter().try_fold(0, |sum, digit| Some(sum << 4 | char::from(*digit).to_digit(16)?))
}

/// A place in a JSON text.
#[derive(Debug, Clone, Copy)]
pub struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Scan<'a> {
    /// Before a value that begins at `at`, with white space or without.
    pub fn new(text: &'a [u8], at: usize) -> Scan<'a> {
        Scan { text, at, depth: 0 }
    }

    /// Where it is.
    pub fn at(&self) -> usize {
        self.at
    }

    /// That part of the text.
    pub fn part(&self, range: Range<usize>) -> &'a [u8] {
        self.text.get(range).unwrap_or_default()
    }

    /// Go over white space to the first byte of what follows; 0, which no JSON has, at the end.
    pub fn peek(&mut self) -> u8 {
        while let b' ' | b'\n' | b'\r' | b'\t' = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    fn byte(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() != byte {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// Go into the object or array that begins here.
    pub fn enter(&mut self) -> Result<(), Malformed> {
        if !matches!(self.peek(), b'{' | b'[') || self.depth >= DEPTH {
            return Err(Malformed);
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// In an object, before or behind a member: the next one's key, with its value coming next; `None` behind the object,
    /// when there is none.
    pub fn key(&mut self, first: bool) -> Result<Option<Text<'a>>, Malformed> {
        if !self.another(first, b'}')? {
            return Ok(None);
        }
        let key = self.string()?;
        self.expect(b':')?;
        self.peek();
        Ok(Some(key))
    }

    /// In an array, before or behind an element: whether another one comes next; if not, it is behind the array.
    pub fn item(&mut self, first: bool) -> Result<bool, Malformed> {
        self.another(first, b']')
    }

    fn another(&mut self, first: bool, close: u8) -> Result<bool, Malformed> {
        if self.peek() == close {
            self.at += 1;
            self.depth = self.depth.saturating_sub(1);
            return Ok(false);
        }
        if !first {
            self.expect(b',')?;
            self.peek();
        }
        Ok(true)
    }

    /// The string that begins here.
    pub fn string(&mut self) -> Result<Text<'a>, Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.byte() {
                b'"' => break,
                b'\\' => self.at += self.escape()?,
                0..0x20 => return Err(Malformed),
                _ => self.at += 1,
            }
        }
        let inner = self.part(start..self.at);
        self.at += 1;
        Ok(Text { inner, start: start - 1 })
    }

    /// How long the escape here is.
    fn escape(&self) -> Result<usize, Malformed> {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
            Some(b'u') if hex(self.text, self.at + 2).is_some() => Ok(6),
            _ => Err(Malformed),
        }
    }

    fn number(&mut self) -> Result<(), Malformed> {
        self.at += usize::from(self.byte() == b'-');
        if self.byte() == b'0' {
            self.at += 1
        } else {
            self.digits()?
        }
        if self.byte() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if let b'e' | b'E' = self.byte() {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), b'+' | b'-'));
            self.digits()?;
        }
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), Malformed> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(Malformed) } else { Ok(()) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Malformed> {
        let here = self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word));
        self.at += word.len();
        if here { Ok(()) } else { Err(Malformed) }
    }

    /// Go behind the value that comes next; where it stands.
    pub fn skip(&mut self) -> Result<Range<usize>, Malformed> {
        self.each_string(|_| {})
    }

    /// The same, showing each string in it that is no key.
    pub fn each_string(&mut self, mut seen: impl FnMut(Text<'a>)) -> Result<Range<usize>, Malformed> {
        self.peek();
        let (start, above) = (self.at, self.depth);
        // What is open: a bit each, the innermost one last, set for an object.
        let mut objects = 0u128;
        loop {
            let mut first = false;
            match self.peek() {
                kind @ (b'{' | b'[') => {
                    self.enter()?;
                    objects = objects << 1 | u128::from(kind == b'{');
                    first = true;
                }
                b'"' => seen(self.string()?),
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number()?,
            }
            loop {
                if self.depth == above {
                    return Ok(start..self.at);
                }
                let more = if objects & 1 == 1 { self.key(first)?.is_some() } else { self.item(first)? };
                if more {
                    break;
                }
                objects >>= 1;
                first = false;
            }
        }
    }

    /// Nothing follows.
    pub fn end(&mut self) -> Result<(), Malformed> {
        self.peek();
        if self.at == self.text.len() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    fn scans(text: &[u8]) -> bool {
        let mut scan = Scan::new(text, 0);
        scan.skip().and_then(|_| scan.end()).is_ok()
    }

    #[test]
    fn as_deep_as_serde_json() {
        for depth in [1, 2, 126, 127, 128, 129, 200, 100_000] {
            for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a":"#, "}]")] {
                let text = open.repeat(depth) + "0" + &close.repeat(depth);
                assert_eq!(
                    scans(text.as_bytes()),
                    serde_json::from_str::<Value>(&text).is_ok(),
                    "{depth} {open}"
                );
            }
        }
    }

    #[test]
    fn strings() {
        for (json, text) in [
            (r#""plain""#, "plain"),
            (r#""""#, ""),
            (r#""a\"\\\/\b\f\n\r\tz""#, "a\"\\/\u{8}\u{C}\n\r\tz"),
            (r#""\u0061\u00e9\uD83D\uDE00\u0000""#, "aé😀\0"),
            ("\"é😀\"", "é😀"),
            (r#""\ud83d""#, "\u{FFFD}"),
            (r#""\ud83dx""#, "\u{FFFD}x"),
            (r#""\ude00\ud83d""#, "\u{FFFD}\u{FFFD}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{FFFD}😀"),
            (r#""\ud83d\n""#, "\u{FFFD}\n"),
        ] {
            let string = Scan::new(json.as_bytes(), 0).string().unwrap();
            let mut said = Vec::new();
            string.decode(|piece| said.extend_from_slice(piece));
            assert_eq!(String::from_utf8(said).unwrap(), text, "{json}");
            assert!(string.is(text), "{json}");
            assert!(!string.is(&format!("{text}x")) && !string.is("no"), "{json}");
            assert!(text.is_empty() || !string.is(""), "{json}");
        }
    }

    #[test]
    fn numbers_are_text() {
        for number in
            ["0", "-0", "1.50", "1e400", "-1E-9999", "18446744073709551616", "0.1e+1", &"9".repeat(5000)]
        {
            let mut scan = Scan::new(number.as_bytes(), 0);
            assert_eq!(scan.skip(), Ok(0..number.len()), "{number}");
        }
        for bad in ["01", "-", "+1", ".5", "1.", "1e", "1e+", "0x1", "--1", "1 2", "Infinity", "NaN"] {
            assert!(!scans(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn strings_that_are_no_keys_are_shown() {
        let text = br#"{"key":"a","b":["c",{"d":"e"}],"f":1}"#;
        let mut seen = Vec::new();
        Scan::new(text, 0).each_string(|s| seen.push((s.start, s.inner.to_vec()))).unwrap();
        assert_eq!(seen, [(7, b"a".to_vec()), (16, b"c".to_vec()), (25, b"e".to_vec())]);
    }

    proptest! {
        #[test]
        fn it_takes_what_serde_json_takes(
            parts in proptest::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"a\"", "\"\\u00e9\"", "\"\\x\"", "\"\\ud800\"", "\"\n\"", "\"",
                    "1", "-", "0", ".", "e5", "1.50", "true", "false", "null", "nul", " ", "\n", "\t", "\u{B}", "é",
                    "{\"a\":1}", "[1]", "\"k\":", "\0", "\\",
                ]),
                0..12,
            ),
        ) {
            let text = parts.concat();
            prop_assert_eq!(scans(text.as_bytes()), serde_json::from_str::<IgnoredAny>(&text).is_ok(), "{}", text);
        }

        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..40), at in 0usize..50) {
            let mut scan = Scan::new(&text, at);
            let _ = scan.skip();
            let _ = scan.string();
            let _ = scan.key(false);
        }
    }
}
