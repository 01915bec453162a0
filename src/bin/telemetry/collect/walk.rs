//! A walk over the outermost levels of a JSON text by hand, to know where each event starts and ends.
//!
//! Invariants: every byte is checked to be JSON, but nothing is built of what is not asked for; an error
//! says where. White space may stand wherever JSON allows it.

use serde::de::Deserialize;

/// Where the walk is.
pub struct Cursor<'a> {
    /// All of the text.
    pub text: &'a str,
    /// The next byte.
    pub at: usize,
}

impl<'a> Cursor<'a> {
    /// At the start of a body, which has to be UTF-8 and something else than blanks.
    pub fn new(body: &'a [u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(body).map_err(|e| format!("not UTF-8: {e}"))?;
        let mut cursor = Cursor { text, at: 0 };
        cursor.peek().map_or(Err("the body is empty".into()), |_| Ok(cursor))
    }

    /// The next byte that is not blank.
    pub fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|b| matches!(b, b' ' | b'\n' | b'\t' | b'\r')).count();
        self.text.as_bytes().get(self.at).copied()
    }

    fn wrong(&self, expected: &str) -> String {
        format!("expected {expected} at byte {}", self.at)
    }

    /// Reads a value.
    pub fn value<T: Deserialize<'a>>(&mut self) -> Result<T, String> {
        let from = self.at;
        let mut one = serde_json::Deserializer::from_str(&self.text[from..]).into_iter::<T>();
        let value = match one.next() {
            Some(v) => v.map_err(|e| format!("{e} of what starts at byte {from}"))?,
            None => return Err(self.wrong("a value")),
        };
        self.at += one.byte_offset();
        Ok(value)
    }

    /// Reads an object. (What serde derives would take an array as well.)
    pub fn object_as<T: Deserialize<'a>>(&mut self) -> Result<T, String> {
        match self.peek() {
            Some(b'{') => self.value(),
            _ => Err(self.wrong("an object")),
        }
    }

    /// Reads an object, and says what its text is.
    pub fn object_text(&mut self) -> Result<&'a str, String> {
        if self.peek() != Some(b'{') {
            return Err(self.wrong("an object"));
        }
        let from = self.at;
        self.value::<serde::de::IgnoredAny>()?;
        Ok(&self.text[from..self.at])
    }

    /// The text is expected to end here.
    pub fn end(&mut self) -> Result<(), String> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("the end of the body")),
        }
    }

    /// Goes over an array; `each` is called at every element and has to read it.
    pub fn array(&mut self, each: &mut dyn FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        if self.peek() != Some(b'[') {
            return Err(self.wrong("an array"));
        }
        self.at += 1;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.peek();
            each(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("',' or ']'")),
            }
        }
    }

    /// Goes over an object; `each` is called with every key, at its value, and has to read it.
    pub fn object(
        &mut self,
        each: &mut dyn FnMut(&mut Self, &str) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.peek() != Some(b'{') {
            return Err(self.wrong("an object"));
        }
        self.at += 1;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a key"));
            }
            let key = self.value::<String>()?;
            if self.peek() != Some(b':') {
                return Err(self.wrong("':'"));
            }
            self.at += 1;
            self.peek();
            each(self, &key)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("',' or '}'")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_elements_and_ends() {
        let mut c = Cursor::new(b" { \"a\" : [1, {\"x\":[]} ] , \"\\u0062\":null}\n").unwrap();
        let mut seen = Vec::new();
        let walked = c.object(&mut |c, key| {
            if key == "a" {
                let mut n = 0;
                c.array(&mut |c| {
                    n += 1;
                    c.value::<serde::de::IgnoredAny>().map(drop)
                })?;
                seen.push(format!("{n}"));
                return Ok(());
            }
            seen.push(key.to_string());
            c.value::<serde::de::IgnoredAny>().map(drop)
        });
        assert_eq!((walked, c.end()), (Ok(()), Ok(())));
        assert_eq!(seen, ["2", "b"]);
        for bad in ["[1", "[1 2]", "[1,]", "{\"a\" 1}", "{\"a\":1,}", "{a:1}", "{\"a\":1", "7"] {
            let mut c = Cursor::new(bad.as_bytes()).unwrap();
            let skip = &mut |c: &mut Cursor<'_>| c.value::<serde::de::IgnoredAny>().map(drop);
            let done = match bad.as_bytes()[0] {
                b'[' => c.array(skip),
                _ => c.object(&mut |c, _| skip(c)),
            };
            assert!(done.is_err(), "{bad}");
        }
        assert!(Cursor::new(b" \n").is_err() && Cursor::new(b"\xff").is_err());
        assert_eq!(Cursor::new(b"{\"a\": 1} x").unwrap().object_text(), Ok("{\"a\": 1}"));
        assert!(Cursor::new(b"[]").unwrap().object_text().is_err());
    }
}
