//! UUIDs as people write them.
//!
//! Invariant: two spellings of one UUID become the same text.

/// The 32 hexadecimal digits, in lower case, of a UUID in any of its usual spellings: with hyphens or without, in
/// braces, as a URN.
pub fn digits(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    let text = text.strip_prefix("urn:uuid:").unwrap_or(text);
    let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text).as_bytes();
    let mut out = [0; 32];
    match text.len() {
        32 => out.copy_from_slice(text),
        36 => {
            let mut to = 0;
            for (at, &b) in text.iter().enumerate() {
                if is_hyphen(at) {
                    if b != b'-' {
                        return None;
                    }
                } else {
                    out[to] = b;
                    to += 1;
                }
            }
        }
        _ => return None,
    }
    out.make_ascii_lowercase();
    out.iter().all(u8::is_ascii_hexdigit).then_some(out)
}

/// The usual spelling, of 36 characters.
pub fn hyphened(digits: &[u8; 32]) -> [u8; 36] {
    let mut out = [b'-'; 36];
    let mut from = digits.iter();
    for (at, b) in out.iter_mut().enumerate() {
        if !is_hyphen(at) {
            *b = from.next().copied().unwrap_or(b'0');
        }
    }
    out
}

fn is_hyphen(at: usize) -> bool {
    matches!(at, 8 | 13 | 18 | 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8; 32] = b"0198a0c26d0e7c118a775d1c2e9b4f10";
    const USUAL: &[u8; 36] = b"0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10";

    #[test]
    fn all_spellings_are_one() {
        for text in [
            "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10",
            "0198A0C26D0E7C118A775D1C2E9B4F10",
            " {0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10} ",
            "urn:uuid:0198a0c2-6d0e-7C11-8a77-5d1c2e9b4f10",
        ] {
            assert_eq!(digits(text).as_ref(), Some(PLAIN), "{text}");
        }
        assert_eq!(&hyphened(PLAIN), USUAL);
    }

    #[test]
    fn nothing_else_is_one() {
        for text in [
            "",
            "mine",
            "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f1",
            "0198a0c2-6d0e-7c11-8a775-d1c2e9b4f10",
            "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f1g",
            "0198a0c2-6d0e-7c11-8a77-5d1c2e9bé10",
            "{0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10",
        ] {
            assert_eq!(digits(text), None, "{text}");
        }
    }
}
