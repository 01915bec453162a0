//! Any JSON as an `AnyValue`, the way the specification maps foreign data.

use super::members::Name;
use super::read::Reader;
use super::schema::{self, ARRAY_VALUE, ARRAY_VALUES, Field, KVLIST_VALUE, KVLIST_VALUES, VALUE};
use super::write::Writer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Any JSON, as the `AnyValue` that has begun.
pub struct Any<'r, 'a, W> {
    pub reader: &'r mut Reader<'a, W>,
}

/// Any JSON, as one more element of a list of `AnyValue`.
struct Element<'r, 'a, W> {
    pub reader: &'r mut Reader<'a, W>,
    field: &'static Field,
}

impl<'de, W: Writer> DeserializeSeed<'de> for Element<'_, '_, W> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        let mark = match self.reader.begin(self.field) {
            Ok(mark) => mark,
            Err(why) => return Err(self.reader.refuse(why)),
        };
        d.deserialize_any(Any { reader: &mut *self.reader })?;
        self.reader.end(mark);
        Ok(())
    }
}

impl<'de, W: Writer> Visitor<'de> for Any<'_, '_, W> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.reader.out().boolean(&schema::BOOL_VALUE, value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.reader.out().integer(&schema::INT_VALUE, value);
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            // As the specification has it for integers that are too large.
            Err(_) => {
                self.reader.out().text(&schema::STRING_VALUE, &value.to_string());
                Ok(())
            }
        }
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.reader.out().double(&schema::DOUBLE_VALUE, value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.reader.out().text(&schema::STRING_VALUE, value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let reader = self.reader;
        let mark = reader.begin(&ARRAY_VALUE).map_err(|why| reader.refuse(why))?;
        reader.out().list(&ARRAY_VALUES);
        while list.next_element_seed(Element { reader: &mut *reader, field: &ARRAY_VALUES })?.is_some() {}
        reader.out().end_list();
        reader.end(mark);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reader = self.reader;
        let mark = reader.begin(&KVLIST_VALUE).map_err(|why| reader.refuse(why))?;
        reader.out().list(&KVLIST_VALUES);
        while let Some(key) = map.next_key_seed(Name)? {
            let pair = reader.begin(&KVLIST_VALUES).map_err(|why| reader.refuse(why))?;
            reader.key(&key);
            map.next_value_seed(Element { reader: &mut *reader, field: &VALUE })?;
            reader.end(pair);
        }
        reader.out().end_list();
        reader.end(mark);
        Ok(())
    }
}
