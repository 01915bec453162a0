//! Bytes as text: hexadecimal and base64, which OTLP/JSON uses for ids and for everything else.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

/// Append lower-case hexadecimal.
pub fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.push(digit(byte >> 4));
        out.push(digit(byte & 15));
    }
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

/// Fill `out` from exactly twice as many digits of either case.
pub fn take_hex(text: &str, out: &mut [u8]) -> bool {
    let value = |c: u8| (c as char).to_digit(16).map(|v| v as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != out.len() || !rest.is_empty() {
        return false;
    }
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        match (value(*high), value(*low)) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return false,
        }
    }
    true
}

/// Append standard base64 with padding.
pub fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
}

/// Bytes of base64, standard or for URLs, with or without padding, as protobuf's JSON takes it.
pub fn take_base64(text: &str) -> Option<Vec<u8>> {
    const LOOSE: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const PLAIN: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LOOSE);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LOOSE);
    PLAIN.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal() {
        let mut out = Vec::new();
        put_hex(&mut out, &[0x00, 0x5b, 0xff]);
        assert_eq!(out, b"005bff");
        let mut back = [7; 3];
        assert!(take_hex("005BfF", &mut back));
        assert_eq!(back, [0x00, 0x5b, 0xff]);
        for bad in ["", "005bf", "005bff0", "005bff00", "005bfg", "+05bff", "00 bff", "ßßß"] {
            assert!(!take_hex(bad, &mut back), "{bad}");
        }
    }

    #[test]
    fn base64() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"\xfb\xff\xfe", "+//+"),
        ] {
            let mut out = Vec::new();
            put_base64(&mut out, bytes);
            assert_eq!(out, text.as_bytes());
            assert_eq!(take_base64(text).unwrap(), bytes);
            assert_eq!(take_base64(text.trim_end_matches('=')).unwrap(), bytes);
            assert_eq!(take_base64(&text.replace('+', "-").replace('/', "_")).unwrap(), bytes);
        }
        for bad in [
            "Z", "Zm 9", "Zm9vY", "Zm9v
", "+_", "é",
        ] {
            assert_eq!(take_base64(bad), None, "{bad}");
        }
    }
}
