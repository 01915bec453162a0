//! Writing messages in either encoding.
//!
//! Why no protobuf crate: what is needed of the format is numbers, strings and nested lengths, which is less code than
//! the glue to generated types; those would also have to be built first, only to be thrown away.
//!
//! Invariants:
//! - What one [`Writer`] is told gives the same message in protobuf and in JSON.
//! - Nothing appended before the writer was made is changed; what was told as a whole is valid, and between two
//!   messages told at the top JSON has its comma.

use super::codes;
use super::schema::{Field, Kind};

/// Takes the parts of messages in the order they stand in.
pub trait Writer {
    /// `Fixed64`.
    fn fixed64(&mut self, field: &Field, value: u64);
    /// `Fixed32`.
    fn fixed32(&mut self, field: &Field, value: u32);
    /// `Uint32`, `Enum` and `Int64`.
    fn integer(&mut self, field: &Field, value: i64);
    /// `Bool`.
    fn boolean(&mut self, field: &Field, value: bool);
    /// `Double`.
    fn double(&mut self, field: &Field, value: f64);
    /// `Text`, `Key`, and one of `Texts`.
    fn text(&mut self, field: &Field, value: &str);
    /// `Id` and `Bytes`.
    fn bytes(&mut self, field: &Field, value: &[u8]);
    /// The messages of a `Many`, or the strings of a `Texts`, follow.
    fn list(&mut self, field: &Field);
    /// They are all told.
    fn end_list(&mut self);
    /// A message begins. Give the result to [`Writer::end`].
    fn begin(&mut self, field: &Field) -> usize;
    /// It ends.
    fn end(&mut self, mark: usize);
}

/// Append a number, seven bits at a time.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`put_varint`] appends.
pub const fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Read a number, and cut it off.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for place in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let seven = u64::from(byte & 0x7f);
        if place == 9 && seven > 1 {
            return None;
        }
        value |= seven << (7 * place);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Read a length and so many bytes, and cut them off.
pub fn take_piece<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(bytes)?).ok()?;
    let (piece, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(piece)
}

/// How protobuf stores a field.
pub const VARINT: u64 = 0;
/// Eight bytes.
pub const I64: u64 = 1;
/// A length and so many bytes.
pub const LEN: u64 = 2;
/// Four bytes.
pub const I32: u64 = 5;

/// Protobuf's binary encoding.
pub struct Protobuf<'a> {
    out: &'a mut Vec<u8>,
}

impl Protobuf<'_> {
    /// Append to `out`.
    pub fn new(out: &mut Vec<u8>) -> Protobuf<'_> {
        Protobuf { out }
    }

    fn tag(&mut self, field: &Field, wire: u64) {
        put_varint(self.out, u64::from(field.number) << 3 | wire);
    }
}

impl Writer for Protobuf<'_> {
    fn fixed64(&mut self, field: &Field, value: u64) {
        self.tag(field, I64);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn fixed32(&mut self, field: &Field, value: u32) {
        self.tag(field, I32);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn integer(&mut self, field: &Field, value: i64) {
        self.tag(field, VARINT);
        put_varint(self.out, value as u64);
    }

    fn boolean(&mut self, field: &Field, value: bool) {
        self.integer(field, i64::from(value));
    }

    fn double(&mut self, field: &Field, value: f64) {
        self.fixed64(field, value.to_bits());
    }

    fn text(&mut self, field: &Field, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    fn bytes(&mut self, field: &Field, value: &[u8]) {
        self.tag(field, LEN);
        put_varint(self.out, value.len() as u64);
        self.out.extend_from_slice(value);
    }

    fn list(&mut self, _field: &Field) {}

    fn end_list(&mut self) {}

    fn begin(&mut self, field: &Field) -> usize {
        self.tag(field, LEN);
        // Room for the length of a short message; a longer one is moved when its length is known.
        self.out.push(0);
        self.out.len()
    }

    fn end(&mut self, mark: usize) {
        let len = self.out.len() - mark;
        let more = varint_len(len as u64) - 1;
        if more > 0 {
            let end = self.out.len();
            self.out.resize(end + more, 0);
            self.out.copy_within(mark..end, mark + more);
        }
        let mut rest = len;
        for (i, byte) in self.out[mark - 1..mark + more].iter_mut().enumerate() {
            *byte = rest as u8 & 0x7f | if i < more { 0x80 } else { 0 };
            rest >>= 7;
        }
    }
}

/// OTLP's JSON encoding.
pub struct Json<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl Json<'_> {
    /// Append to `out`.
    pub fn new(out: &mut Vec<u8>) -> Json<'_> {
        let start = out.len();
        Json { out, start }
    }

    /// A comma where one is due: after a value, which never ends in an opening bracket.
    fn comma(&mut self) {
        let first = self.out.len() == self.start || matches!(self.out.last(), Some(b'{' | b'['));
        if !first {
            self.out.push(b',');
        }
    }

    /// What comes before a value: its name, unless it is one of a list.
    fn name(&mut self, field: &Field) {
        self.comma();
        if !matches!(field.kind, Kind::Many(_) | Kind::Texts) {
            self.member(field);
        }
    }

    fn member(&mut self, field: &Field) {
        self.out.push(b'"');
        self.out.extend_from_slice(field.name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn digits(&mut self, value: impl std::fmt::Display) {
        use std::io::Write;
        let _ = write!(self.out, "{value}");
    }

    fn quoted(&mut self, value: impl std::fmt::Display) {
        self.out.push(b'"');
        self.digits(value);
        self.out.push(b'"');
    }
}

impl Writer for Json<'_> {
    fn fixed64(&mut self, field: &Field, value: u64) {
        self.name(field);
        self.quoted(value);
    }

    fn fixed32(&mut self, field: &Field, value: u32) {
        self.name(field);
        self.digits(value);
    }

    fn integer(&mut self, field: &Field, value: i64) {
        self.name(field);
        match field.kind {
            Kind::Int64 => self.quoted(value),
            _ => self.digits(value),
        }
    }

    fn boolean(&mut self, field: &Field, value: bool) {
        self.name(field);
        self.digits(value);
    }

    fn double(&mut self, field: &Field, value: f64) {
        self.name(field);
        if value.is_nan() {
            self.quoted("NaN");
        } else if value.is_infinite() {
            self.quoted(if value > 0.0 { "Infinity" } else { "-Infinity" });
        } else {
            // Into memory, so it cannot fail.
            let _ = serde_json::to_writer(&mut *self.out, &value);
        }
    }

    fn text(&mut self, field: &Field, value: &str) {
        self.name(field);
        let _ = serde_json::to_writer(&mut *self.out, value);
    }

    fn bytes(&mut self, field: &Field, value: &[u8]) {
        self.name(field);
        self.out.push(b'"');
        match field.kind {
            Kind::Id(_) => codes::put_hex(self.out, value),
            _ => codes::put_base64(self.out, value),
        }
        self.out.push(b'"');
    }

    fn list(&mut self, field: &Field) {
        self.comma();
        self.member(field);
        self.out.push(b'[');
    }

    fn end_list(&mut self) {
        self.out.push(b']');
    }

    fn begin(&mut self, field: &Field) -> usize {
        self.name(field);
        self.out.push(b'{');
        0
    }

    fn end(&mut self, _mark: usize) {
        self.out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::*;
    use super::*;

    #[test]
    fn varints() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (1 << 35, &[0x80, 0x80, 0x80, 0x80, 0x80, 1]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(varint_len(value), bytes.len());
            let mut rest = &out[..];
            assert_eq!(take_varint(&mut rest), Some(value));
            assert!(rest.is_empty());
        }
        for bad in [&[][..], &[0x80], &[0xff; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert_eq!(take_varint(&mut &*bad), None, "{bad:?}");
        }
    }

    fn nested(w: &mut impl Writer, text: &str) {
        let outer = w.begin(&LOG_RECORDS);
        w.list(&LOG_ATTRIBUTES);
        for key in ["a", "b"] {
            let mark = w.begin(&LOG_ATTRIBUTES);
            w.text(&KEY, key);
            let value = w.begin(&VALUE);
            w.text(&STRING_VALUE, text);
            w.end(value);
            w.end(mark);
        }
        w.end_list();
        w.end(outer);
    }

    #[test]
    fn lengths_of_every_size_are_right() {
        for len in [0, 1, 100, 117, 118, 119, 120, 127, 128, 16_370, 16_384, 70_000, 2_100_000] {
            let mut out = b"before".to_vec();
            nested(&mut Protobuf::new(&mut out), &"x".repeat(len));
            let mut rest = out.strip_prefix(b"before\x12").unwrap();
            let mut record = take_piece(&mut rest).unwrap();
            assert!(rest.is_empty());
            for key in [b'a', b'b'] {
                record = record.strip_prefix(b"\x32").unwrap();
                let pair = take_piece(&mut record).unwrap();
                let mut value = pair.strip_prefix(&[0x0a, 1, key, 0x12]).unwrap();
                let value = take_piece(&mut value).unwrap();
                let mut text = value.strip_prefix(b"\x0a").unwrap();
                assert_eq!(take_piece(&mut text).unwrap().len(), len);
            }
            assert!(record.is_empty());
        }
    }

    #[test]
    fn json_has_commas_and_names_where_they_belong() {
        let mut out = b"{".to_vec();
        let mut w = Json::new(&mut out);
        nested(&mut w, "[");
        nested(&mut w, "\"\n");
        let one = |text: &str| {
            let pair = |key| format!(r#"{{"key":"{key}","value":{{"stringValue":"{text}"}}}}"#);
            format!(r#"{{"attributes":[{},{}]}}"#, pair("a"), pair("b"))
        };
        assert_eq!(String::from_utf8(out).unwrap(), format!("{{{},{}", one("["), one(r#"\"\n"#)));
    }

    #[test]
    fn scalars_in_json() {
        let mut out = Vec::new();
        let mut w = Json::new(&mut out);
        let mark = w.begin(&SPANS);
        w.fixed64(&LOG_TIME, u64::MAX);
        w.integer(&LOG_SEVERITY, -1);
        w.integer(&INT_VALUE, i64::MIN);
        w.boolean(&BOOL_VALUE, true);
        w.double(&DOUBLE_VALUE, 1.0);
        w.double(&DOUBLE_VALUE, f64::NEG_INFINITY);
        w.bytes(&LOG_SPAN_ID, &[0xab; 8]);
        w.bytes(&BYTES_VALUE, &[0xab]);
        w.end(mark);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"timeUnixNano":"18446744073709551615","severityNumber":-1,"intValue":"-9223372036854775808","boolValue":true,"doubleValue":1.0,"doubleValue":"-Infinity","spanId":"abababababababab","bytesValue":"qw=="}"#
        );
    }
}
