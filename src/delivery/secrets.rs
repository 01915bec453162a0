//! What never stands in a line or a file that we write, also where the collector says it back to us.
#![forbid(unsafe_code)]

use std::borrow::Cow;

/// Shorter ones are left alone: they would be found everywhere.
const SHORTEST: usize = 6;
const SHOWN: &str = "***";

/// See the module's text.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// These.
    pub fn new(all: impl IntoIterator<Item = String>) -> Secrets {
        let mut list: Vec<String> = all.into_iter().filter(|secret| secret.len() >= SHORTEST).collect();
        // A part of another must not be hidden first.
        list.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Secrets(list)
    }

    /// The text without them.
    pub fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.0 {
            if text.contains(secret) {
                text = Cow::Owned(text.replace(secret, SHOWN));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_nothing_else() {
        let secrets = Secrets::new(["secret", "user:secret-word", "key", ""].map(String::from));
        for (text, shown) in [
            ("no such key", "no such key"),
            ("secret secret", "*** ***"),
            ("as user:secret-word.", "as ***."),
            ("secret-word", "***-word"),
            ("", ""),
        ] {
            assert_eq!(secrets.hide(text), shown);
        }
    }
}
