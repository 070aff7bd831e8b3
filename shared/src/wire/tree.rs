//! CBOR as a tree of items, and every type read from that tree.
//!
//! `serde_cbor` compiles its whole parser once for each type that it reads: of our types that was a sixth of the
//! agent. Here it reads one type, [`Item`], and the others are read from the items, whose code for each type is a
//! tenth of that. Strings and bytes stay where they are.
//!
//! Read are the forms that [`super::encode`] writes: a field or a variant is its position or its name, a variant with
//! content is a map of one pair. Bounds are the caller's: an item is of at least one byte, and takes 32 here.

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Error as _, Expected, IntoDeserializer,
    Unexpected, Visitor,
};
use serde_cbor::Error;
use std::fmt;
use std::vec::IntoIter;

/// Room that is made for a container before its items are seen.
const ROOM_MAX: usize = 1024;

/// One value.
#[derive(Debug)]
pub(super) enum Item<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Bytes(&'a [u8]),
    Text(&'a str),
    Array(Vec<Self>),
    Map(Vec<(Self, Self)>),
}

impl Item<'_> {
    /// Says that it is not what was expected.
    fn unexpected(&self, expected: &dyn Expected) -> Error {
        let found = match self {
            Self::Null => Unexpected::Unit,
            Self::Bool(value) => Unexpected::Bool(*value),
            Self::Unsigned(value) => Unexpected::Unsigned(*value),
            Self::Negative(value) => Unexpected::Signed(*value),
            Self::Float(value) => Unexpected::Float(*value),
            Self::Bytes(value) => Unexpected::Bytes(value),
            Self::Text(value) => Unexpected::Str(value),
            Self::Array(_) => Unexpected::Seq,
            Self::Map(_) => Unexpected::Map,
        };
        Error::invalid_type(found, expected)
    }
}

impl<'de> Deserialize<'de> for Item<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value of CBOR with numbers of 64 bits")
    }

    fn visit_unit<E>(self) -> Result<Item<'de>, E> {
        Ok(Item::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Item<'de>, E> {
        Ok(Item::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Item<'de>, E> {
        Ok(Item::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Item<'de>, E> {
        Ok(u64::try_from(value).map_or(Item::Negative(value), Item::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Item<'de>, E> {
        Ok(Item::Float(value))
    }

    fn visit_borrowed_bytes<E>(self, value: &'de [u8]) -> Result<Item<'de>, E> {
        Ok(Item::Bytes(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Item<'de>, E> {
        Ok(Item::Text(value))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<Item<'de>, A::Error> {
        let mut items = Vec::with_capacity(access.size_hint().unwrap_or(0).min(ROOM_MAX));
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Item::Array(items))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<Item<'de>, A::Error> {
        let mut pairs = Vec::with_capacity(access.size_hint().unwrap_or(0).min(ROOM_MAX));
        while let Some(pair) = access.next_entry()? {
            pairs.push(pair);
        }
        Ok(Item::Map(pairs))
    }
}

impl<'de> IntoDeserializer<'de, Error> for Item<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Methods that do as another does.
macro_rules! same_as {
    ($($method:ident: $($same:ident)+;)+) => {
        $($(
            fn $same<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                self.$method(visitor)
            }
        )+)+
    };
}

/// Each kind of type looks only for the kinds of items that it may be read from.
impl<'de> Deserializer<'de> for Item<'de> {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Null => visitor.visit_unit(),
            Item::Bool(value) => visitor.visit_bool(value),
            Item::Unsigned(_) | Item::Negative(_) | Item::Float(_) => self.deserialize_f64(visitor),
            Item::Bytes(_) | Item::Text(_) => self.deserialize_bytes(visitor),
            Item::Array(_) => self.deserialize_seq(visitor),
            Item::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Bool(value) => visitor.visit_bool(value),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Unsigned(value) => visitor.visit_u64(value),
            Item::Negative(value) => visitor.visit_i64(value),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Float(value) => visitor.visit_f64(value),
            other => other.deserialize_u64(visitor),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Bytes(value) => visitor.visit_borrowed_bytes(value),
            Item::Text(value) => visitor.visit_borrowed_str(value),
            other => other.deserialize_seq(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Text(value) => visitor.visit_borrowed_str(value),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Unsigned(value) => visitor.visit_u64(value),
            other => other.deserialize_str(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Null => visitor.visit_none(),
            some => visitor.visit_some(some),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Null => visitor.visit_unit(),
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Array(items) => {
                let mut items = Items(items.into_iter());
                let value = visitor.visit_seq(&mut items)?;
                exhausted(items.0.len()).map(|()| value)
            }
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Item::Map(pairs) => {
                let mut pairs = Pairs { left: pairs.into_iter(), value: None };
                let value = visitor.visit_map(&mut pairs)?;
                exhausted(pairs.left.len()).map(|()| value)
            }
            other => Err(other.unexpected(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let (name, content) = match self {
            Item::Map(mut pairs) if pairs.len() == 1 => match pairs.pop() {
                Some((name, content)) => (name, Some(content)),
                None => return Err(Error::custom("a map that is empty is no variant")),
            },
            name => (name, None),
        };
        visitor.visit_enum(Variant { name, content })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    same_as! {
        deserialize_u64: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u128
            deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128;
        deserialize_f64: deserialize_f32;
        deserialize_str: deserialize_string deserialize_char;
        deserialize_bytes: deserialize_byte_buf;
    }
}

/// The items of an array.
struct Items<'de>(IntoIter<Item<'de>>);

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0.next().map(|item| seed.deserialize(item)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

/// The pairs of a map, and the value whose key was taken.
struct Pairs<'de> {
    left: IntoIter<(Item<'de>, Item<'de>)>,
    value: Option<Item<'de>>,
}

impl<'de> de::MapAccess<'de> for Pairs<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.left.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = self.value.take().ok_or_else(|| Error::custom("a value before its key"))?;
        seed.deserialize(value)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.len())
    }
}

/// A variant of an enum: its name or position, and what it holds.
struct Variant<'de> {
    name: Item<'de>,
    content: Option<Item<'de>>,
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = Error;
    type Variant = Content<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'de>), Error> {
        seed.deserialize(self.name).map(|name| (name, Content(self.content)))
    }
}

struct Content<'de>(Option<Item<'de>>);

impl<'de> Content<'de> {
    fn some(self) -> Result<Item<'de>, Error> {
        self.0.ok_or_else(|| Error::custom("a variant has no content, which it needs"))
    }
}

impl<'de> de::VariantAccess<'de> for Content<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.0 {
            None | Some(Item::Null) => Ok(()),
            Some(content) => Err(content.unexpected(&"a variant without content")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.some()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Error> {
        self.some()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.some()?.deserialize_map(visitor)
    }
}

fn exhausted(left: usize) -> Result<(), Error> {
    if left == 0 { Ok(()) } else { Err(Error::invalid_length(left, &"no further items")) }
}

#[cfg(test)]
mod tests {
    use crate::wire::golden::one_of_each;
    use crate::wire::{Message, decode, encode};
    use proptest::prelude::*;
    use proptest::sample::Index;
    use serde::Serialize;
    use serde_bytes::ByteBuf;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    enum Kind {
        Unit,
        Newtype(u8),
        Tuple(i8, String),
        Struct { a: Option<u16>, b: () },
    }

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Pair(u8, char);

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Id(u64);

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Everything {
        flag: bool,
        small: i64,
        large: u64,
        floats: (f32, f64),
        bytes: ByteBuf,
        map: BTreeMap<u16, Vec<Id>>,
        kinds: Vec<Kind>,
        pair: Option<Pair>,
        none: Option<String>,
    }

    fn everything() -> Everything {
        let kind = Kind::Struct { a: Some(7), b: () };
        Everything {
            flag: true,
            small: i64::MIN,
            large: u64::MAX,
            floats: (0.5, -1e300),
            bytes: ByteBuf::from([0, 255]),
            map: [(300, vec![Id(1), Id(1 << 40)]), (0, vec![])].into(),
            kinds: vec![Kind::Unit, Kind::Newtype(9), Kind::Tuple(-9, "ocr".into()), kind],
            pair: Some(Pair(1, 'é')),
            none: None,
        }
    }

    #[test]
    fn every_form_that_is_written_is_read_by_position_and_by_name() {
        let packed = encode("everything", &everything()).unwrap();
        let named = serde_cbor::to_vec(&everything()).unwrap();
        for bytes in [packed, named] {
            assert_eq!(decode::<Everything>("everything", &bytes, 1 << 16).unwrap(), everything());
        }
    }

    #[test]
    fn what_is_not_as_expected_is_said() {
        let refusal = |bytes: &[u8]| {
            let error = decode::<Vec<Kind>>("kinds", bytes, 64).unwrap_err();
            crate::in_words(&error)
        };
        let cases: [(&[u8], &str); 4] = [
            (&[0xa0], "invalid type: map, expected a sequence"),
            (&[0x81, 0x18, 0x63], "invalid value: integer `99`, expected variant index 0 <= i < 4"),
            (&[0x81, 0x01], "a variant has no content"),
            (&[0x81, 0xa1, 0x02, 0x83, 0x00, 0x60, 0x00], "invalid length 1, expected no further"),
        ];
        for (bytes, expected) in cases {
            assert!(refusal(bytes).contains(expected), "{}", refusal(bytes));
        }
    }

    proptest! {
        #[test]
        fn what_is_read_of_a_damaged_message_serde_cbor_reads_as_the_same(
            which in any::<Index>(), damage in prop::collection::vec((any::<Index>(), any::<u8>()), 0..3)
        ) {
            let messages = one_of_each();
            let mut bytes = encode("message", &which.get(&messages).1).unwrap();
            damage.iter().for_each(|(at, byte)| *at.get_mut(&mut bytes) = *byte);
            if let Ok(read) = decode::<Message>("message", &bytes, 1 << 16) {
                prop_assert_eq!(read, serde_cbor::from_slice::<Message>(&bytes).unwrap());
            }
        }
    }
}
