//! Addresses in error texts, also malformed ones: rather too much is hidden than too little.

/// An address without what may be secret: user, password, query.
pub(super) fn redact(text: &str) -> String {
    let scheme = |head: &str| head.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let start = text.find("://").filter(|at| scheme(text.get(..*at).unwrap_or(":"))).map_or(0, |at| at + 3);
    let (scheme, rest) = text.split_at_checked(start).unwrap_or(("", text));
    let (before, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    if query.contains('@') {
        // An unencoded password, or a query with an @: nobody can tell.
        return format!("{scheme}***");
    }
    let mark = query.get(..1).map(|mark| format!("{mark}***")).unwrap_or_default();
    match before.rsplit_once('@') {
        Some((_, server)) => format!("{scheme}***@{server}{mark}"),
        None => format!("{scheme}{before}{mark}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redaction() {
        for (text, expected) in [
            ("http://h/p", "http://h/p"),
            ("http://u:secret@h/p", "http://***@h/p"),
            ("http://u:sec/ret@h/p", "http://***@h/p"),
            ("http://u:sec?ret@h/p", "http://***"),
            ("http://u:sec#ret@h/p", "http://***"),
            ("http://h/?token=secret", "http://h/?***"),
            ("http://h/?mail=a@b&token=secret", "http://***"),
            ("u:secret@h", "***@h"),
            ("http:/u:secret@h", "***@h"),
            ("u:sec://ret@h", "***@h"),
            ("file:x", "file:x"),
            ("/own?key=secret", "/own?***"),
            ("", ""),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
    }
}
