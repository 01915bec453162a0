//! Unpacking of bodies.
//!
//! Invariants: what comes out is bounded before it is stored, and the bound is exact; a stream that is
//! damaged, cut short or (for `deflate`) followed by more is an error, never half a body.

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use std::io::Read;

/// How the body's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Encoding {
    /// As they are.
    Identity,
    /// gzip, one member or more.
    Gzip,
    /// zlib, as HTTP's `deflate` means it.
    Deflate,
    /// Zstandard, one frame or more.
    Zstd,
}

/// Why a body could not be unpacked.
#[derive(Debug, PartialEq)]
pub enum Unpack {
    /// It is damaged.
    Bad(String),
    /// It would be larger than the limit.
    TooLarge,
}

/// Unpacks `wire` into `plain` (which is only ever grown here, to be used again) and returns its length.
pub fn unpack(encoding: Encoding, wire: &[u8], plain: &mut Vec<u8>, limit: usize) -> Result<usize, Unpack> {
    match encoding {
        Encoding::Identity => Ok(wire.len()),
        Encoding::Gzip => fill(&mut MultiGzDecoder::new(wire), plain, limit),
        Encoding::Zstd => {
            let frames = zstd::stream::read::Decoder::with_buffer(wire);
            fill(&mut frames.map_err(|e| Unpack::Bad(e.to_string()))?, plain, limit)
        }
        Encoding::Deflate => {
            let mut z = ZlibDecoder::new(wire);
            let n = fill(&mut z, plain, limit)?;
            if z.total_in() != wire.len() as u64 {
                return Err(Unpack::Bad("bytes after the end of the deflate stream".into()));
            }
            Ok(n)
        }
    }
}

fn fill(from: &mut dyn Read, plain: &mut Vec<u8>, limit: usize) -> Result<usize, Unpack> {
    let mut n = 0;
    loop {
        if n == plain.len() {
            // One byte more than allowed, so that "exactly the limit" and "more" can be told apart.
            plain.resize((n * 2).max(512 * 1024).min(limit + 1).max(n + 1), 0);
        }
        match from.read(&mut plain[n..]) {
            Ok(0) => return if n > limit { Err(Unpack::TooLarge) } else { Ok(n) },
            Ok(m) => n += m,
            Err(e) => return Err(Unpack::Bad(format!("the body cannot be unpacked: {e}"))),
        }
        if n > limit {
            return Err(Unpack::TooLarge);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn each_encoding_to_the_byte() {
        let data = vec![b'a'; 3_000_000];
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&data).unwrap();
        let gz = gz.finish().unwrap();
        let zstd = zstd::encode_all(&data[..], 1).unwrap();
        let mut plain = Vec::new();
        for (encoding, packed) in [(Encoding::Gzip, gz), (Encoding::Zstd, zstd)] {
            assert_eq!(unpack(encoding, &packed, &mut plain, 3_000_000), Ok(3_000_000));
            assert_eq!(unpack(encoding, &packed, &mut plain, 2_999_999), Err(Unpack::TooLarge));
            let mut twice = [packed.clone(), packed].concat();
            assert_eq!(unpack(encoding, &twice, &mut plain, 1 << 26), Ok(6_000_000));
            twice.truncate(twice.len() - 5);
            assert!(matches!(unpack(encoding, &twice, &mut plain, 1 << 26), Err(Unpack::Bad(_))));
            assert!(matches!(unpack(encoding, b"{}", &mut plain, 100), Err(Unpack::Bad(_))));
        }
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        z.write_all(b"{}").unwrap();
        let mut packed = z.finish().unwrap();
        assert_eq!(unpack(Encoding::Deflate, &packed, &mut plain, 100), Ok(2));
        packed.push(0);
        assert!(matches!(unpack(Encoding::Deflate, &packed, &mut plain, 100), Err(Unpack::Bad(_))));
    }
}
