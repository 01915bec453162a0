//! OTLP/JSON, read in one pass and told to a [`Writer`] as it is read.
//!
//! Invariants:
//! - What is told is what a strict receiver takes, in either encoding: one wrong value in a request makes a receiver
//!   refuse all of it. So ids have their length, numbers their range, no field is there twice, and nothing is nested
//!   deeper than [`MOST_DEPTH`].
//! - Unknown fields, also the snake_case ones, are not there.
//! - The recursion is bounded by that depth and by `serde_json`'s own limit.

use super::any::Any;
use super::codes;
use super::members::Members;
use super::schema::{self, Field, KEY, Kind, Message, VALUE};
use super::write::Writer;
use crate::format::Invalid;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Most messages within each other, the request counted as one. Decoders stop at 100, those of JSON at 128 brackets,
/// of which a message has up to three in two levels.
pub const MOST_DEPTH: usize = 64;
/// The depth of a log record or span in its request.
const RECORD_DEPTH: usize = 4;

const TOO_DEEP: Invalid = Invalid("nested too deeply for OTLP");

/// An attribute that a record gets unless it has one of that name.
pub struct Extra<'a> {
    /// Its name.
    pub key: &'a str,
    /// Its value.
    pub value: ExtraValue<'a>,
}

/// Its value.
pub enum ExtraValue<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A number.
    Integer(i64),
}

/// See the module's text.
pub struct Reader<'a, W> {
    out: W,
    depth: usize,
    /// Log records and spans that were told.
    records: usize,
    /// What the record did not have so far.
    extras: Vec<Extra<'a>>,
    /// Why the last value was refused.
    why: Invalid,
}

impl<'a, W: Writer> Reader<'a, W> {
    /// For the messages of a request.
    pub fn new(out: W) -> Reader<'a, W> {
        Reader { out, depth: 1, records: 0, extras: Vec::new(), why: TOO_DEEP }
    }

    /// For one record, which gets `extras`.
    pub fn of_record(out: W, extras: Vec<Extra<'a>>) -> Reader<'a, W> {
        Reader { out, depth: RECORD_DEPTH - 1, records: 0, extras, why: TOO_DEEP }
    }

    /// Log records and spans that were told.
    pub fn records(&self) -> usize {
        self.records
    }

    /// The writer, for fields of the record that is told.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// A message begins.
    pub fn begin(&mut self, field: &Field) -> Result<usize, Invalid> {
        if self.depth == MOST_DEPTH {
            return Err(TOO_DEEP);
        }
        self.depth += 1;
        if let Kind::Many(Message { record: true, .. }) = field.kind {
            self.records += 1;
        }
        Ok(self.out.begin(field))
    }

    /// It ends.
    pub fn end(&mut self, mark: usize) {
        self.out.end(mark);
        self.depth -= 1;
    }

    /// A whole record: what is known of `members`, the extra attributes, and the time it was given to us where it names
    /// none.
    pub fn record(
        &mut self,
        field: &'static Field,
        members: &Members<'_>,
        attributes: &'static Field,
        observed: Option<(&'static Field, u64)>,
    ) -> Result<(), Invalid> {
        let Kind::Many(message) = field.kind else { return Err(self.why) };
        let mark = self.begin(field)?;
        let mut seen = Seen::default();
        for (name, raw) in members {
            let Some((at, field)) = message.find(name) else { continue };
            if self.value(field, raw, false)? {
                seen.note(at, message).map_err(|()| TWICE)?;
            }
        }
        if !self.extras.is_empty() {
            self.out.list(attributes);
            self.extras(attributes)?;
            self.out.end_list();
        }
        if let Some((field, now)) = observed
            && !message.fields.iter().enumerate().any(|(at, f)| std::ptr::eq(*f, field) && seen.has(at))
        {
            self.out.fixed64(field, now);
        }
        self.end(mark);
        Ok(())
    }

    /// The elements of a list, without the list's own name and brackets.
    pub fn elements(&mut self, field: &'static Field, raw: &RawValue) -> Result<(), Invalid> {
        self.value(field, raw, true).map(|_| ())
    }

    /// One field's value; `false` for null, which is as if absent.
    fn value(&mut self, field: &'static Field, raw: &RawValue, bare: bool) -> Result<bool, Invalid> {
        self.why = UNREADABLE;
        let mut parser = serde_json::Deserializer::from_str(raw.get());
        let told = OfField { reader: self, field, element: false, bare }.deserialize(&mut parser);
        told.map_err(|_| self.why)
    }

    /// An attribute with any JSON for its value.
    pub fn attribute<'de, D: Deserializer<'de>>(
        &mut self,
        field: &'static Field,
        key: &str,
        value: D,
    ) -> Result<(), Invalid> {
        let mark = self.begin(field)?;
        self.key(key);
        self.any(&VALUE, value)?;
        self.end(mark);
        Ok(())
    }

    /// An `AnyValue` of any JSON.
    pub fn any<'de, D: Deserializer<'de>>(&mut self, field: &'static Field, value: D) -> Result<(), Invalid> {
        let mark = self.begin(field)?;
        self.why = UNREADABLE;
        let told = value.deserialize_any(Any { reader: self });
        told.map_err(|_| self.why)?;
        self.end(mark);
        Ok(())
    }

    /// Tell the extra attributes that are not there yet, within the list of `field`.
    pub fn extras(&mut self, field: &'static Field) -> Result<(), Invalid> {
        for extra in std::mem::take(&mut self.extras) {
            let mark = self.begin(field)?;
            self.out.text(&KEY, extra.key);
            let value = self.begin(&VALUE)?;
            match extra.value {
                ExtraValue::Text(text) => self.out.text(&schema::STRING_VALUE, &text),
                ExtraValue::Integer(number) => self.out.integer(&schema::INT_VALUE, number),
            }
            self.end(value);
            self.end(mark);
        }
        Ok(())
    }

    /// The name of an attribute, here of the record's own ones or deeper.
    pub fn key(&mut self, key: &str) {
        if self.depth == RECORD_DEPTH + 1 {
            self.extras.retain(|extra| extra.key != key);
        }
        self.out.text(&KEY, key);
    }

    /// Remember why, for whoever catches the parser's error.
    pub fn refuse<E: Error>(&mut self, why: Invalid) -> E {
        self.why = why;
        E::custom(why.0)
    }
}

const TWICE: Invalid = Invalid("an OTLP field is there twice");
const UNREADABLE: Invalid = Invalid("a value in it cannot be read");
const NOT_A_LIST: Invalid = Invalid("an OTLP field that is a list is something else");
const NOT_A_MESSAGE: Invalid = Invalid("an OTLP field that is an object is something else");

/// What a scalar had to be.
fn expected(kind: Kind) -> Invalid {
    match kind {
        Kind::Fixed64 | Kind::Int64 => Invalid("a 64-bit field of OTLP is no such integer or text of one"),
        Kind::Fixed32 | Kind::Uint32 => Invalid("a 32-bit field of OTLP is no such integer"),
        Kind::Enum => Invalid("an enum of OTLP (kind, code, severityNumber) is no integer"),
        Kind::Bool => Invalid("a boolean of OTLP is something else"),
        Kind::Double => Invalid("a double of OTLP is no number"),
        Kind::Text | Kind::Key | Kind::Texts => Invalid("a text of OTLP is no string"),
        Kind::Id(_) => Invalid("an id of OTLP is not 32 (trace) or 16 (span) hexadecimal digits"),
        Kind::Bytes => Invalid("bytesValue is not base64"),
        Kind::One(_) => NOT_A_MESSAGE,
        Kind::Many(_) => NOT_A_LIST,
    }
}

/// Which fields of a message were there.
#[derive(Default)]
struct Seen(u32);

impl Seen {
    fn note(&mut self, at: usize, message: &Message) -> Result<(), ()> {
        let bit = 1 << at;
        let clash = if message.oneof { self.0 != 0 } else { self.0 & bit != 0 };
        self.0 |= bit;
        if clash { Err(()) } else { Ok(()) }
    }

    fn any(&self) -> bool {
        self.0 != 0
    }

    fn has(&self, at: usize) -> bool {
        self.0 & 1 << at != 0
    }
}

/// The value of a field, by the field's kind.
struct OfField<'r, 'a, W> {
    reader: &'r mut Reader<'a, W>,
    field: &'static Field,
    /// It is one of the list that the field is.
    element: bool,
    /// The list's name and brackets are not told.
    bare: bool,
}

impl<W: Writer> OfField<'_, '_, W> {
    fn wrong<T, E: Error>(self) -> Result<T, E> {
        let why = match self.field.kind {
            Kind::Many(_) if self.element => NOT_A_MESSAGE,
            Kind::Texts if !self.element => NOT_A_LIST,
            kind => expected(kind),
        };
        Err(self.reader.refuse(why))
    }

    fn integer<E: Error>(self, value: i128) -> Result<bool, E> {
        let (out, field) = (&mut self.reader.out, self.field);
        let told = match field.kind {
            Kind::Fixed64 => u64::try_from(value).map(|v| out.fixed64(field, v)),
            Kind::Fixed32 => u32::try_from(value).map(|v| out.fixed32(field, v)),
            Kind::Uint32 => u32::try_from(value).map(|v| out.integer(field, i64::from(v))),
            Kind::Enum => i32::try_from(value).map(|v| out.integer(field, i64::from(v))),
            Kind::Int64 => i64::try_from(value).map(|v| out.integer(field, v)),
            Kind::Double => {
                out.double(field, value as f64);
                Ok(())
            }
            _ => return self.wrong(),
        };
        if told.is_err() { self.wrong() } else { Ok(true) }
    }
}

impl<'de, W: Writer> DeserializeSeed<'de> for OfField<'_, '_, W> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<bool, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de, W: Writer> Visitor<'de> for OfField<'_, '_, W> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field of OTLP")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        // Elsewhere null is as if absent.
        if self.element { self.wrong() } else { Ok(false) }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        match self.field.kind {
            Kind::Bool => {
                self.reader.out.boolean(self.field, value);
                Ok(true)
            }
            _ => self.wrong(),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        self.integer(i128::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        self.integer(i128::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        match self.field.kind {
            Kind::Double => {
                self.reader.out.double(self.field, value);
                Ok(true)
            }
            // 1e3 is an integer too.
            _ if value.fract() == 0.0 && value.abs() < 1e20 => self.integer(value as i128),
            _ => self.wrong(),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<bool, E> {
        let field = self.field;
        match field.kind {
            Kind::Text => self.reader.out.text(field, value),
            Kind::Texts if self.element => self.reader.out.text(field, value),
            Kind::Key => self.reader.key(value),
            Kind::Id(_) if value.is_empty() => {}
            Kind::Id(len) => {
                let mut id = [0; 16];
                let Some(id) = id.get_mut(..len).filter(|_| value.len() == 2 * len) else {
                    return self.wrong();
                };
                if !codes::take_hex(value, id) {
                    return self.wrong();
                }
                self.reader.out.bytes(field, id);
            }
            Kind::Bytes => match codes::take_base64(value) {
                Some(bytes) => self.reader.out.bytes(field, &bytes),
                None => return self.wrong(),
            },
            Kind::Double => {
                let number = match value {
                    "NaN" => f64::NAN,
                    "Infinity" => f64::INFINITY,
                    "-Infinity" => f64::NEG_INFINITY,
                    digits => match digits.parse::<f64>() {
                        Ok(number) if number.is_finite() => number,
                        _ => return self.wrong(),
                    },
                };
                self.reader.out.double(field, number);
            }
            Kind::Fixed64 | Kind::Fixed32 | Kind::Uint32 | Kind::Int64 => match value.parse() {
                Ok(number) => return self.integer(number),
                Err(_) => return self.wrong(),
            },
            _ => return self.wrong(),
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let (reader, field) = match self.field.kind {
            Kind::Many(_) | Kind::Texts if !self.element => (self.reader, self.field),
            _ => return self.wrong(),
        };
        if !self.bare {
            reader.out.list(field);
        }
        while list
            .next_element_seed(OfField { reader: &mut *reader, field, element: true, bare: false })?
            .is_some()
        {}
        if !self.bare {
            // The record's own attributes: no other list that is called so is at this depth.
            if reader.depth == RECORD_DEPTH && field.name == schema::LOG_ATTRIBUTES.name {
                reader.extras(field).map_err(|why| reader.refuse(why))?;
            }
            reader.out.end_list();
        }
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let message = match self.field.kind {
            Kind::One(message) => message,
            Kind::Many(message) if self.element => message,
            _ => return self.wrong(),
        };
        let mark = match self.reader.begin(self.field) {
            Ok(mark) => mark,
            Err(why) => return Err(self.reader.refuse(why)),
        };
        let mut seen = Seen::default();
        while let Some(found) = map.next_key_seed(Known(message))? {
            let Some((at, field)) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let told = map.next_value_seed(OfField {
                reader: &mut *self.reader,
                field,
                element: false,
                bare: false,
            })?;
            if told && seen.note(at, message).is_err() {
                return Err(self.reader.refuse(TWICE));
            }
        }
        // `{"arrayValue":{}}` is an empty array, but there are readers of JSON that miss the list.
        if let ([values], false) = (message.fields, seen.any()) {
            self.reader.out.list(values);
            self.reader.out.end_list();
        }
        self.reader.end(mark);
        Ok(true)
    }
}

/// A key, as the field it names.
struct Known(&'static Message);

impl<'de> DeserializeSeed<'de> for Known {
    type Value = Option<(usize, &'static Field)>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Known {
    type Value = Option<(usize, &'static Field)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.find(name))
    }
}
