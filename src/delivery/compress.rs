//! Compression of request bodies.
//!
//! Invariant: what is given back is a whole body of the encoding, or the body as it was.
#![forbid(unsafe_code)]

use flate2::{Compression, write::GzEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::io::Write;

/// Bodies up to this size are sent plain.
const ABOVE: usize = 1024;

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// The body as it goes over the wire, with the value of `Content-Encoding`.
    pub fn encode(self, body: Vec<u8>) -> (Vec<u8>, Option<&'static str>) {
        match self {
            _ if body.len() <= ABOVE => (body, None),
            Encoding::Plain => (body, None),
            Encoding::Gzip => match gzip(&body) {
                Ok(encoded) => (encoded, Some("gzip")),
                // Writing to a vector does not fail.
                Err(_) => (body, None),
            },
            Encoding::Zstd => (compress_to_vec(body.as_slice(), CompressionLevel::Fastest), Some("zstd")),
        }
    }
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_encoded_can_be_decoded() {
        let mut noise = 7u64;
        let mut byte = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56) as u8
        };
        let random: Vec<u8> = (0..300_000).map(|_| byte()).collect();
        let text = br#"{"event":"e","distinct_id":"d"},"#.repeat(50_000);
        for body in [random, text, vec![0; 1025], b"short".to_vec()] {
            for encoding in [Encoding::Plain, Encoding::Gzip, Encoding::Zstd] {
                let (sent, said) = encoding.encode(body.clone());
                let decoded = match said {
                    None => sent,
                    Some("gzip") => {
                        let mut out = Vec::new();
                        flate2::read::GzDecoder::new(sent.as_slice()).read_to_end(&mut out).unwrap();
                        out
                    }
                    // The reference implementation, in C.
                    Some("zstd") => zstd::decode_all(sent.as_slice()).unwrap(),
                    Some(other) => panic!("{other}"),
                };
                assert_eq!(decoded.len(), body.len(), "{encoding:?}");
                assert!(decoded == body, "{encoding:?}");
                assert_eq!(said.is_some(), encoding != Encoding::Plain && body.len() > ABOVE);
            }
        }
    }
}
