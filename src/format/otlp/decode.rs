//! A request in protobuf, told to a [`Writer`]: for those that are to be sent as JSON.
//!
//! Invariants:
//! - What comes here has passed [`super::wire::check`]; what would not have is refused here, too, and never guessed.
//! - What is told is what a strict receiver takes, as in [`super::read`]: no field that is no list is there twice, and
//!   nothing is nested deeper than [`MOST_DEPTH`], which bounds the recursion.
//! - Fields are told in the order of the schema, the elements of a list in theirs. Unknown fields are not there.

use super::read::MOST_DEPTH;
use super::schema::{Field, Kind, Message};
use super::write::{I32, I64, LEN, VARINT, Writer, take_piece, take_varint};
use crate::format::Invalid;

const DAMAGED: Invalid = Invalid("a request in protobuf that is damaged");

/// The elements of a request's list `resources`.
pub fn request(mut out: impl Writer, resources: &'static Field, mut raw: &[u8]) -> Result<(), Invalid> {
    while !raw.is_empty() {
        let piece = take_varint(&mut raw).and_then(|_| take_piece(&mut raw)).ok_or(DAMAGED)?;
        message(&mut out, resources, piece, 1)?;
    }
    Ok(())
}

/// A field's value, as it stands in the bytes.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Varint(u64),
    Eight(u64),
    Four(u32),
    Piece(&'a [u8]),
}

/// One field, and cut it off.
fn take_field<'a>(raw: &mut &'a [u8]) -> Option<(u64, Raw<'a>)> {
    let tag = take_varint(raw)?;
    let value = match tag & 7 {
        VARINT => Raw::Varint(take_varint(raw)?),
        I64 => {
            let (bytes, rest) = raw.split_first_chunk()?;
            *raw = rest;
            Raw::Eight(u64::from_le_bytes(*bytes))
        }
        I32 => {
            let (bytes, rest) = raw.split_first_chunk()?;
            *raw = rest;
            Raw::Four(u32::from_le_bytes(*bytes))
        }
        LEN => Raw::Piece(take_piece(raw)?),
        _ => return None,
    };
    Some((tag >> 3, value))
}

/// The message that `field` holds.
fn message(
    out: &mut impl Writer,
    field: &'static Field,
    mut raw: &[u8],
    depth: usize,
) -> Result<(), Invalid> {
    let (Kind::One(message) | Kind::Many(message)) = field.kind else { return Err(DAMAGED) };
    if depth == MOST_DEPTH {
        return Err(Invalid("nested too deeply for OTLP"));
    }
    let mut values = Vec::new();
    while !raw.is_empty() {
        values.push(take_field(&mut raw).ok_or(DAMAGED)?);
    }
    let mark = out.begin(field);
    fields(out, message, &values, depth)?;
    out.end(mark);
    Ok(())
}

/// The fields of a message, out of its values.
fn fields(
    out: &mut impl Writer,
    message: &'static Message,
    values: &[(u64, Raw<'_>)],
    depth: usize,
) -> Result<(), Invalid> {
    let mut told = 0;
    for field in message.fields {
        let mut found =
            values.iter().filter(|(number, _)| *number == u64::from(field.number)).map(|(_, v)| *v);
        let Some(first) = found.next() else {
            missing(out, message, field);
            continue;
        };
        told += 1;
        if let Kind::Many(_) | Kind::Texts = field.kind {
            out.list(field);
            for value in std::iter::once(first).chain(found) {
                one(out, field, value, depth)?;
            }
            out.end_list();
        } else if found.next().is_some() {
            return Err(Invalid("an OTLP field is there twice"));
        } else {
            one(out, field, first, depth)?;
        }
    }
    if message.oneof && told > 1 { Err(Invalid("a value of two kinds")) } else { Ok(()) }
}

/// What protobuf leaves out because it is empty, but some readers of JSON miss.
fn missing(out: &mut impl Writer, message: &Message, field: &'static Field) {
    match field.kind {
        Kind::Key => out.text(field, ""),
        Kind::Text if message.fields.iter().any(|f| matches!(f.kind, Kind::Texts)) => out.text(field, ""),
        Kind::Many(_) if message.fields.len() > 1 => {}
        Kind::Many(_) | Kind::Texts => {
            out.list(field);
            out.end_list();
        }
        _ => {}
    }
}

/// One value.
fn one(out: &mut impl Writer, field: &'static Field, value: Raw<'_>, depth: usize) -> Result<(), Invalid> {
    match (field.kind, value) {
        (Kind::Fixed64, Raw::Eight(value)) => out.fixed64(field, value),
        (Kind::Fixed32, Raw::Four(value)) => out.fixed32(field, value),
        (Kind::Double, Raw::Eight(bits)) => out.double(field, f64::from_bits(bits)),
        (Kind::Bool, Raw::Varint(value)) => out.boolean(field, value != 0),
        // As in protobuf: the low bits count.
        (Kind::Uint32, Raw::Varint(value)) => out.integer(field, i64::from(value as u32)),
        (Kind::Enum, Raw::Varint(value)) => out.integer(field, i64::from(value as i32)),
        (Kind::Int64, Raw::Varint(value)) => out.integer(field, value as i64),
        (Kind::Text | Kind::Key | Kind::Texts, Raw::Piece(bytes)) => {
            out.text(field, std::str::from_utf8(bytes).map_err(|_| DAMAGED)?);
        }
        (Kind::Id(_), Raw::Piece([])) => {}
        (Kind::Id(len), Raw::Piece(bytes)) if bytes.len() == len => out.bytes(field, bytes),
        (Kind::Bytes, Raw::Piece(bytes)) => out.bytes(field, bytes),
        (Kind::One(_) | Kind::Many(_), Raw::Piece(bytes)) => message(out, field, bytes, depth + 1)?,
        _ => return Err(DAMAGED),
    }
    Ok(())
}
