//! TTLV: tag, type, length, value. How KMIP puts messages into bytes (KMIP 1.4, 9.1).
//!
//! An item is a tag of 3 bytes, a type of 1, a length of 4, and as many bytes of value, padded with zeros to a multiple
//! of 8; numbers are big-endian. A structure's value is items. Reading borrows: a key in a message stays where the
//! network put it until it is copied into secret memory, and nothing here writes a value anywhere else.

#![forbid(unsafe_code)]

mod decode;
mod encode;

#[cfg(test)]
mod tests;

pub use decode::{Item, Items, Structure, Value, parse};
pub use encode::Encoder;

use std::fmt;

/// Bytes that a message has at most, its own header included.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Structures that may lie in each other, the message being the first.
pub const MAX_DEPTH: usize = 16;
/// Bytes of tag, type and length.
pub const HEADER: usize = 8;

/// What an item means: 3 bytes (KMIP 1.4, 9.1.3.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// The tag of that number, of which the lowest 24 bits count.
    pub const fn new(number: u32) -> Self {
        Self(number & 0x00ff_ffff)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({self})")
    }
}

/// How an item's value is to be read (KMIP 1.4, 9.1.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// Items.
    Structure = 1,
    /// 4 bytes, signed.
    Integer = 2,
    /// 8 bytes, signed.
    LongInteger = 3,
    /// A multiple of 8 bytes, signed.
    BigInteger = 4,
    /// 4 bytes, unsigned.
    Enumeration = 5,
    /// 8 bytes, 0 or 1.
    Boolean = 6,
    /// UTF-8.
    TextString = 7,
    /// Bytes.
    ByteString = 8,
    /// 8 bytes, signed: seconds since 1970.
    DateTime = 9,
    /// 4 bytes, unsigned: seconds.
    Interval = 10,
}

impl Type {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Structure,
            2 => Self::Integer,
            3 => Self::LongInteger,
            4 => Self::BigInteger,
            5 => Self::Enumeration,
            6 => Self::Boolean,
            7 => Self::TextString,
            8 => Self::ByteString,
            9 => Self::DateTime,
            10 => Self::Interval,
            _ => return None,
        })
    }

    /// Whether a value of this type may have `length` bytes before its padding.
    fn allows(self, length: usize) -> bool {
        match self {
            Self::Integer | Self::Enumeration | Self::Interval => length == 4,
            Self::LongInteger | Self::Boolean | Self::DateTime => length == 8,
            Self::Structure | Self::BigInteger => length.is_multiple_of(8),
            Self::TextString | Self::ByteString => true,
        }
    }
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TtlvError {
    /// More bytes than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes, of which {MAX_MESSAGE} are the most")]
    TooLong(usize),
    /// The bytes end within an item.
    #[error("the bytes end within an item")]
    Truncated,
    /// There are bytes after the item that should be the last.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// KMIP has no such type.
    #[error("item {tag} has the unknown type {code:#04x}")]
    Type {
        /// The item.
        tag: Tag,
        /// The type's code.
        code: u8,
    },
    /// A value of that type has another length.
    #[error("item {tag}, of type {kind:?}, has a value of {length} bytes")]
    Length {
        /// The item.
        tag: Tag,
        /// Its type.
        kind: Type,
        /// Its length.
        length: usize,
    },
    /// The padding is not zero.
    #[error("the padding of item {0} is not zero")]
    Padding(Tag),
    /// A boolean is neither 0 nor 1.
    #[error("item {0} is a boolean that is neither true nor false")]
    Boolean(Tag),
    /// A text is not UTF-8.
    #[error("the text of item {0} is not UTF-8")]
    Text(Tag),
    /// More structures lie in each other than [`MAX_DEPTH`].
    #[error("more than {MAX_DEPTH} structures lie in each other")]
    Depth,
    /// An item that has to be there is not.
    #[error("item {missing} is missing from item {parent}")]
    Missing {
        /// What was looked for.
        missing: Tag,
        /// Where.
        parent: Tag,
    },
    /// An item has another type than it should.
    #[error("item {tag} is of type {found:?}, not {expected:?}")]
    Unexpected {
        /// The item.
        tag: Tag,
        /// Its type.
        found: Type,
        /// What it should be.
        expected: Type,
    },
}

/// Bytes that a value of `length` takes with its padding.
fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}
