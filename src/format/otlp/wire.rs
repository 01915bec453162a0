//! Requests that come serialized: looked through, not decoded.
//!
//! Invariant: what passes is taken by every decoder: lengths meet, known fields have their wire type, texts are UTF-8,
//! ids have their length, and nothing is nested deeper than decoders go. A merged request is refused as a whole, so
//! one event that is damaged would cost all others in it.

use super::Signal;
use super::schema::{Field, Kind, Message};
use super::write::{I32, I64, LEN, VARINT, take_piece, take_varint};
use crate::format::Invalid;

/// Messages within each other that decoders go down, the request counted as one.
const DECODERS_DEPTH: usize = 100;

/// Whether it can be nothing else: fields 1 with a length, one behind the other, up to its end. Their tag is a line
/// break, with which JSON may begin as well; but no JSON has the tag of `scopeLogs` and `scopeSpans` in it, which is a
/// control character, and no request is without one that has records.
pub fn is_request(mut raw: &[u8]) -> bool {
    let some = raw.contains(&(2 << 3 | LEN as u8));
    while !raw.is_empty() {
        if take_varint(&mut raw) != Some(1 << 3 | LEN) || take_piece(&mut raw).is_none() {
            return false;
        }
    }
    some
}

/// Look through a request.
pub fn check(mut raw: &[u8], signal: Signal) -> Result<(), Invalid> {
    let Kind::Many(resources) = signal.resources().kind else { return Err(DAMAGED) };
    let mut records = 0;
    while !raw.is_empty() {
        let piece = take_varint(&mut raw).and_then(|_| take_piece(&mut raw)).ok_or(DAMAGED)?;
        look(piece, resources, DECODERS_DEPTH - 1, &mut records)?;
    }
    if records > 0 { Ok(()) } else { Err(Invalid("a request without records")) }
}

const DAMAGED: Invalid = Invalid("a request in protobuf that is damaged");

/// One message, which may have so many more within each other, itself among them.
fn look(mut bytes: &[u8], message: &Message, depth: usize, records: &mut usize) -> Result<(), Invalid> {
    if depth == 0 {
        return Err(Invalid("nested too deeply for OTLP"));
    }
    *records += usize::from(message.record);
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes).ok_or(DAMAGED)?;
        let wire = tag & 7;
        let piece = match wire {
            VARINT => take_varint(&mut bytes).map(|_| &[][..]),
            LEN => take_piece(&mut bytes),
            I64 => bytes.split_off(..8),
            I32 => bytes.split_off(..4),
            _ => None,
        };
        let numbered = (8..1 << 32).contains(&tag);
        let piece = piece.filter(|_| numbered).ok_or(DAMAGED)?;
        let Some(field) = message.fields.iter().find(|f| u64::from(f.number) == tag >> 3) else { continue };
        if wire != wire_of(field) {
            return Err(DAMAGED);
        }
        match field.kind {
            Kind::One(inner) | Kind::Many(inner) => look(piece, inner, depth - 1, records)?,
            Kind::Text | Kind::Key | Kind::Texts if std::str::from_utf8(piece).is_err() => {
                return Err(Invalid("a text in the request is not valid UTF-8"));
            }
            Kind::Id(len) if !piece.is_empty() && piece.len() != len => {
                return Err(Invalid("an id in the request has not 16 (trace) or 8 (span) bytes"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn wire_of(field: &Field) -> u64 {
    match field.kind {
        Kind::Fixed64 | Kind::Double => I64,
        Kind::Fixed32 => I32,
        Kind::Uint32 | Kind::Enum | Kind::Int64 | Kind::Bool => VARINT,
        Kind::Text | Kind::Key | Kind::Id(_) | Kind::Bytes | Kind::Texts | Kind::One(_) | Kind::Many(_) => {
            LEN
        }
    }
}
