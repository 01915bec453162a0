//! A text with some parts replaced, and every other byte as it was.
//!
//! Invariant: parts come in the order of the text and do not overlap; one that begins before the end of the last is
//! cut off there. Without any nothing is copied.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ops::Range;

/// See the module's text.
pub struct Edit<'a> {
    text: &'a [u8],
    out: Vec<u8>,
    /// All before it is done.
    done: usize,
}

impl<'a> Edit<'a> {
    /// Nothing is replaced yet.
    pub fn new(text: &'a [u8]) -> Edit<'a> {
        Edit { text, out: Vec::new(), done: 0 }
    }

    /// Where the replacement of that part may be written to.
    pub fn replace(&mut self, part: Range<usize>) -> &mut Vec<u8> {
        if self.done == 0 {
            self.out.reserve(self.text.len() + 64);
        }
        let before = self.text.get(self.done..part.start).unwrap_or_default();
        self.out.extend_from_slice(before);
        self.done = self.done.max(part.end);
        &mut self.out
    }

    /// The whole.
    pub fn finish(mut self) -> Cow<'a, [u8]> {
        if self.done == 0 && self.out.is_empty() {
            return Cow::Borrowed(self.text);
        }
        self.out.extend_from_slice(self.text.get(self.done..).unwrap_or_default());
        Cow::Owned(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        assert!(matches!(Edit::new(b"abc").finish(), Cow::Borrowed(b"abc")));
        let mut edit = Edit::new(b"0123456789");
        edit.replace(0..1).extend_from_slice(b"zero");
        edit.replace(3..5);
        edit.replace(5..5).push(b'+');
        edit.replace(9..10);
        assert_eq!(&*edit.finish(), b"zero12+5678");
        let mut edit = Edit::new(b"0123");
        edit.replace(1..3);
        edit.replace(2..9).push(b'x');
        assert_eq!(&*edit.finish(), b"0x");
    }
}
