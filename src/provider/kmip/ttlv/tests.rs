use proptest::prelude::*;

use super::*;

/// An item as a tree of its own, to be written and compared.
#[derive(Clone, Debug)]
enum Tree {
    Structure(u32, Vec<Tree>),
    Integer(u32, i32),
    LongInteger(u32, i64),
    Enumeration(u32, u32),
    Boolean(u32, bool),
    Text(u32, String),
    Bytes(u32, Vec<u8>),
    DateTime(u32, i64),
    Interval(u32, u32),
}

impl Tree {
    fn write(&self, encoder: &mut Encoder) {
        match self {
            Self::Structure(tag, items) => encoder.structure(Tag::new(*tag), |encoder| {
                items.iter().for_each(|item| item.write(encoder));
            }),
            Self::Integer(tag, value) => encoder.integer(Tag::new(*tag), *value),
            Self::LongInteger(tag, value) => encoder.long_integer(Tag::new(*tag), *value),
            Self::Enumeration(tag, value) => encoder.enumeration(Tag::new(*tag), *value),
            Self::Boolean(tag, value) => encoder.boolean(Tag::new(*tag), *value),
            Self::Text(tag, value) => encoder.text(Tag::new(*tag), value),
            Self::Bytes(tag, value) => encoder.bytes(Tag::new(*tag), value),
            Self::DateTime(tag, value) => encoder.date_time(Tag::new(*tag), *value),
            Self::Interval(tag, value) => encoder.interval(Tag::new(*tag), *value),
        }
    }

    fn is(&self, item: &Item<'_>) -> bool {
        let (tag, same) = match (self, item.value) {
            (Self::Structure(tag, items), Value::Structure(structure)) => (
                tag,
                structure.items().count() == items.len()
                    && items.iter().zip(structure.items()).all(|(tree, item)| tree.is(&item)),
            ),
            (Self::Integer(tag, value), Value::Integer(found)) => (tag, *value == found),
            (Self::LongInteger(tag, value), Value::LongInteger(found)) => (tag, *value == found),
            (Self::Enumeration(tag, value), Value::Enumeration(found)) => (tag, *value == found),
            (Self::Boolean(tag, value), Value::Boolean(found)) => (tag, *value == found),
            (Self::Text(tag, value), Value::TextString(found)) => (tag, value == found),
            (Self::Bytes(tag, value), Value::ByteString(found)) => (tag, value == found),
            (Self::DateTime(tag, value), Value::DateTime(found)) => (tag, *value == found),
            (Self::Interval(tag, value), Value::Interval(found)) => (tag, *value == found),
            _ => return false,
        };
        same && Tag::new(*tag) == item.tag
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let tag = 0u32..1 << 24;
    let leaf = prop_oneof![
        (tag.clone(), any::<i32>()).prop_map(|(tag, value)| Tree::Integer(tag, value)),
        (tag.clone(), any::<i64>()).prop_map(|(tag, value)| Tree::LongInteger(tag, value)),
        (tag.clone(), any::<u32>()).prop_map(|(tag, value)| Tree::Enumeration(tag, value)),
        (tag.clone(), any::<bool>()).prop_map(|(tag, value)| Tree::Boolean(tag, value)),
        (tag.clone(), ".{0,20}").prop_map(|(tag, value)| Tree::Text(tag, value)),
        (tag.clone(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(tag, value)| Tree::Bytes(tag, value)),
        (tag.clone(), any::<i64>()).prop_map(|(tag, value)| Tree::DateTime(tag, value)),
        (tag.clone(), any::<u32>()).prop_map(|(tag, value)| Tree::Interval(tag, value)),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        (tag.clone(), prop::collection::vec(inner, 0..6)).prop_map(|(tag, items)| Tree::Structure(tag, items))
    })
}

fn written(tree: &Tree) -> Vec<u8> {
    let mut encoder = Encoder::new();
    tree.write(&mut encoder);
    encoder.finish().to_vec()
}

proptest! {
    #[test]
    fn what_is_written_is_read(tree in trees()) {
        let bytes = written(&tree);
        prop_assert!(tree.is(&parse(&bytes).unwrap()));
    }

    #[test]
    fn no_part_of_a_message_is_a_message(tree in trees(), end in any::<prop::sample::Index>()) {
        let bytes = written(&tree);
        let end = end.index(bytes.len());
        prop_assert!(parse(&bytes[..end]).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    /// Closer to messages than arbitrary bytes are: a message with some bytes changed.
    #[test]
    fn changed_messages_are_answered(tree in trees(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = written(&tree);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(item) = parse(&bytes) {
            walk(&item);
        }
    }
}

/// Everything in an item can be reached once `parse` has passed it.
fn walk(item: &Item<'_>) -> usize {
    item.structure().map_or(1, |structure| structure.items().map(|item| walk(&item)).sum())
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The examples of KMIP 1.4, 9.1.2.
#[test]
fn the_examples_of_the_standard_are_read_and_written() {
    let tag = Tag::new(0x42_0020);
    type Case = (&'static str, fn(&mut Encoder, Tag), fn(Value<'_>) -> bool);
    let cases: [Case; 8] = [
        ("42002002000000040000000800000000", |e, t| e.integer(t, 8), |v| v == Value::Integer(8)),
        (
            "420020030000000801B69B4BA5749200",
            |e, t| e.long_integer(t, 123_456_789_000_000_000),
            |v| v == Value::LongInteger(123_456_789_000_000_000),
        ),
        ("4200200500000004000000FF00000000", |e, t| e.enumeration(t, 255), |v| v == Value::Enumeration(255)),
        ("42002006000000080000000000000001", |e, t| e.boolean(t, true), |v| v == Value::Boolean(true)),
        (
            "420020070000000B48656C6C6F20576F726C640000000000",
            |e, t| e.text(t, "Hello World"),
            |v| v == Value::TextString("Hello World"),
        ),
        (
            "42002008000000030102030000000000",
            |e, t| e.bytes(t, &[1, 2, 3]),
            |v| v == Value::ByteString(&[1, 2, 3]),
        ),
        (
            "42002009000000080000000047DA67F8",
            |e, t| e.date_time(t, 0x47DA_67F8),
            |v| v == Value::DateTime(0x47DA_67F8),
        ),
        (
            "4200200A00000004000D2F0000000000",
            |e, t| e.interval(t, 864_000),
            |v| v == Value::Interval(864_000),
        ),
    ];
    for (hex, write, expected) in cases {
        let expected_bytes = bytes(hex);
        let item = parse(&expected_bytes).unwrap();
        assert!(item.tag == tag && expected(item.value), "{hex}");
        let mut encoder = Encoder::new();
        write(&mut encoder, tag);
        assert_eq!(*encoder.finish(), expected_bytes, "{hex}");
    }
    let big = bytes("42002004000000100000000003FD35EB6BC2DF4618080000");
    assert!(parse(&big).unwrap().value == Value::BigInteger(&big[8..]));
    let structure = bytes("42002001000000204200040500000004000000FE000000004200050200000004000000FF00000000");
    let items: Vec<_> =
        parse(&structure).unwrap().structure().unwrap().items().map(|item| item.tag).collect();
    assert_eq!(items, [Tag::new(0x42_0004), Tag::new(0x42_0005)]);
}

#[test]
fn each_broken_rule_is_named() {
    let tag = Tag::new(0x42_0020);
    let cases = [
        ("420020020000000400000008000000", TtlvError::Truncated),
        ("42002002000000", TtlvError::Truncated),
        ("42002008FFFFFFFF0102030000000000", TtlvError::Truncated),
        ("4200200200000004000000080000000042", TtlvError::Trailing(1)),
        ("4200200B00000008000000000000000 0", TtlvError::Type { tag, code: 11 }),
        ("4200200000000008000000000000000 0", TtlvError::Type { tag, code: 0 }),
        ("42002002000000080000000800000000", TtlvError::Length { tag, kind: Type::Integer, length: 8 }),
        ("42002001000000040000000800000000", TtlvError::Length { tag, kind: Type::Structure, length: 4 }),
        ("42002002000000040000000800000001", TtlvError::Padding(tag)),
        ("42002008000000030102030000000100", TtlvError::Padding(tag)),
        ("42002006000000080000000000000002", TtlvError::Boolean(tag)),
        ("4200200700000002C3280000 00000000", TtlvError::Text(tag)),
        ("4200200100000010420020020000000400000008000000FF", TtlvError::Padding(tag)),
    ];
    for (hex, expected) in cases {
        assert_eq!(parse(&bytes(hex)).err(), Some(expected), "{hex}");
    }
    assert_eq!(parse(&vec![0; MAX_MESSAGE + 8]).err(), Some(TtlvError::TooLong(MAX_MESSAGE + 8)));
}

#[test]
fn depth_is_limited() {
    let nested = |depth: usize| -> Vec<u8> {
        let header = |inside: usize| [[0, 0, 1, 1], ((depth - 1 - inside) as u32 * 8).to_be_bytes()].concat();
        (0..depth).flat_map(header).collect()
    };
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(parse(&nested(MAX_DEPTH + 1)).err(), Some(TtlvError::Depth));
    assert_eq!(parse(&nested(MAX_MESSAGE / 8)).err(), Some(TtlvError::Depth));
}

#[test]
fn items_are_found_by_tag_and_type() {
    let tree = Tree::Structure(
        1,
        vec![Tree::Text(2, "first".into()), Tree::Integer(3, 7), Tree::Text(2, "second".into())],
    );
    let message = written(&tree);
    let structure = parse(&message).unwrap().structure().unwrap();
    assert_eq!(structure.get(Tag::new(2)).unwrap().text(), Ok("first"));
    assert_eq!(structure.all(Tag::new(2)).count(), 2);
    let missing = TtlvError::Missing { missing: Tag::new(4), parent: Tag::new(1) };
    assert_eq!(structure.get(Tag::new(4)).err(), Some(missing));
    let wrong = TtlvError::Unexpected { tag: Tag::new(3), found: Type::Integer, expected: Type::ByteString };
    assert_eq!(structure.get(Tag::new(3)).unwrap().bytes().err(), Some(wrong));
}
