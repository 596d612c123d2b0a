//! Bytes to items. All of a message is checked before any of it is used.

use super::{HEADER, MAX_DEPTH, MAX_MESSAGE, Tag, TtlvError, Type, padded};

/// The one item that `message` consists of.
///
/// # Errors
/// Where anything in it, at any depth, breaks a rule of KMIP 1.4, 9.1, or a limit of this module.
pub fn parse(message: &[u8]) -> Result<Item<'_>, TtlvError> {
    if message.len() > MAX_MESSAGE {
        return Err(TtlvError::TooLong(message.len()));
    }
    let (item, rest) = first_item(message)?;
    if !rest.is_empty() {
        return Err(TtlvError::Trailing(rest.len()));
    }
    check_below(&item, 1)?;
    Ok(item)
}

/// A tag and its value. Neither can be printed, for the value may be a key.
#[derive(Clone, Copy, PartialEq)]
pub struct Item<'a> {
    /// What it means.
    pub tag: Tag,
    /// What it says.
    pub value: Value<'a>,
}

/// A value, still in the bytes of its message where it has no fixed size.
#[derive(Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Items.
    Structure(Structure<'a>),
    /// A number.
    Integer(i32),
    /// A number.
    LongInteger(i64),
    /// A number in two's complement, as many bytes as it takes.
    BigInteger(&'a [u8]),
    /// One of several meanings.
    Enumeration(u32),
    /// True or false.
    Boolean(bool),
    /// Text.
    TextString(&'a str),
    /// Bytes.
    ByteString(&'a [u8]),
    /// Seconds since 1970.
    DateTime(i64),
    /// Seconds.
    Interval(u32),
}

/// The items of a structure.
#[derive(Clone, Copy, PartialEq)]
pub struct Structure<'a> {
    tag: Tag,
    body: &'a [u8],
}

/// Goes over the items of a structure.
pub struct Items<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        // An error ends it; there is none in a structure that `parse` has checked.
        let (item, rest) = first_item(self.rest).ok()?;
        self.rest = rest;
        Some(item)
    }
}

impl<'a> Value<'a> {
    fn kind(&self) -> Type {
        match self {
            Self::Structure(_) => Type::Structure,
            Self::Integer(_) => Type::Integer,
            Self::LongInteger(_) => Type::LongInteger,
            Self::BigInteger(_) => Type::BigInteger,
            Self::Enumeration(_) => Type::Enumeration,
            Self::Boolean(_) => Type::Boolean,
            Self::TextString(_) => Type::TextString,
            Self::ByteString(_) => Type::ByteString,
            Self::DateTime(_) => Type::DateTime,
            Self::Interval(_) => Type::Interval,
        }
    }
}

impl<'a> Item<'a> {
    fn unexpected(&self, expected: Type) -> TtlvError {
        TtlvError::Unexpected { tag: self.tag, found: self.value.kind(), expected }
    }

    /// Its items, if it is a structure.
    pub fn structure(&self) -> Result<Structure<'a>, TtlvError> {
        match self.value {
            Value::Structure(structure) => Ok(structure),
            _ => Err(self.unexpected(Type::Structure)),
        }
    }

    /// Its number, if it is an integer.
    pub fn integer(&self) -> Result<i32, TtlvError> {
        match self.value {
            Value::Integer(number) => Ok(number),
            _ => Err(self.unexpected(Type::Integer)),
        }
    }

    /// Its code, if it is an enumeration.
    pub fn enumeration(&self) -> Result<u32, TtlvError> {
        match self.value {
            Value::Enumeration(code) => Ok(code),
            _ => Err(self.unexpected(Type::Enumeration)),
        }
    }

    /// Its text, if it is one.
    pub fn text(&self) -> Result<&'a str, TtlvError> {
        match self.value {
            Value::TextString(text) => Ok(text),
            _ => Err(self.unexpected(Type::TextString)),
        }
    }

    /// Its bytes, if it is a byte string.
    pub fn bytes(&self) -> Result<&'a [u8], TtlvError> {
        match self.value {
            Value::ByteString(bytes) => Ok(bytes),
            _ => Err(self.unexpected(Type::ByteString)),
        }
    }

    /// Its seconds since 1970, if it is a date.
    pub fn date_time(&self) -> Result<i64, TtlvError> {
        match self.value {
            Value::DateTime(seconds) => Ok(seconds),
            _ => Err(self.unexpected(Type::DateTime)),
        }
    }
}

impl<'a> Structure<'a> {
    /// Its items, in order.
    pub fn items(&self) -> Items<'a> {
        Items { rest: self.body }
    }

    /// Every item with this tag, in order.
    pub fn all(&self, tag: Tag) -> impl Iterator<Item = Item<'a>> {
        self.items().filter(move |item| item.tag == tag)
    }

    /// The first item with this tag, where there is one.
    pub fn find(&self, tag: Tag) -> Option<Item<'a>> {
        self.all(tag).next()
    }

    /// The first item with this tag. Fails where there is none.
    pub fn get(&self, tag: Tag) -> Result<Item<'a>, TtlvError> {
        self.find(tag).ok_or(TtlvError::Missing { missing: tag, parent: self.tag })
    }
}

/// Checks what lies in `item`, the `depth`-th of the structures that lie in each other.
fn check_below(item: &Item<'_>, depth: usize) -> Result<(), TtlvError> {
    let Value::Structure(structure) = item.value else { return Ok(()) };
    if depth > MAX_DEPTH {
        return Err(TtlvError::Depth);
    }
    let mut rest = structure.body;
    while !rest.is_empty() {
        let (item, after) = first_item(rest)?;
        check_below(&item, depth + 1)?;
        rest = after;
    }
    Ok(())
}

/// The item at the start of `bytes`, itself checked, and what follows it.
fn first_item(bytes: &[u8]) -> Result<(Item<'_>, &[u8]), TtlvError> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(TtlvError::Truncated)?;
    let [tag @ .., code, l3, l2, l1, l0] = *header;
    let [high, middle, low]: [u8; 3] = tag;
    let tag = Tag::new(u32::from_be_bytes([0, high, middle, low]));
    let kind = Type::from_code(code).ok_or(TtlvError::Type { tag, code })?;
    let length = u32::from_be_bytes([l3, l2, l1, l0]) as usize;
    if !kind.allows(length) {
        return Err(TtlvError::Length { tag, kind, length });
    }
    let (value, rest) = rest.split_at_checked(padded(length)).ok_or(TtlvError::Truncated)?;
    let (value, padding) = value.split_at(length);
    if padding.iter().any(|&byte| byte != 0) {
        return Err(TtlvError::Padding(tag));
    }
    Ok((Item { tag, value: read_value(tag, kind, value)? }, rest))
}

fn read_value(tag: Tag, kind: Type, bytes: &[u8]) -> Result<Value<'_>, TtlvError> {
    Ok(match kind {
        Type::Structure => Value::Structure(Structure { tag, body: bytes }),
        Type::Integer => Value::Integer(i32::from_be_bytes(array(bytes)?)),
        Type::LongInteger => Value::LongInteger(i64::from_be_bytes(array(bytes)?)),
        Type::BigInteger => Value::BigInteger(bytes),
        Type::Enumeration => Value::Enumeration(u32::from_be_bytes(array(bytes)?)),
        Type::Boolean => match u64::from_be_bytes(array(bytes)?) {
            0 => Value::Boolean(false),
            1 => Value::Boolean(true),
            _ => return Err(TtlvError::Boolean(tag)),
        },
        Type::TextString => Value::TextString(str::from_utf8(bytes).map_err(|_| TtlvError::Text(tag))?),
        Type::ByteString => Value::ByteString(bytes),
        Type::DateTime => Value::DateTime(i64::from_be_bytes(array(bytes)?)),
        Type::Interval => Value::Interval(u32::from_be_bytes(array(bytes)?)),
    })
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], TtlvError> {
    bytes.try_into().map_err(|_| TtlvError::Truncated)
}
