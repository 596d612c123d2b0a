//! Items to bytes.

use zeroize::Zeroizing;

use super::{HEADER, MAX_MESSAGE, Tag, Type, padded};

/// Writes items one after the other. What it has written is wiped when it is dropped, and so is each buffer that it
/// grew out of: a message may hold a password.
#[derive(Default)]
pub struct Encoder {
    bytes: Zeroizing<Vec<u8>>,
}

impl Encoder {
    /// One without items.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    pub fn finish(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }

    /// A structure of the items that `fill` writes.
    pub fn structure(&mut self, tag: Tag, fill: impl FnOnce(&mut Self)) {
        self.header(tag, Type::Structure, 0);
        let body = self.bytes.len();
        fill(self);
        let length = length_field(self.bytes.len() - body);
        self.bytes[body - 4..body].copy_from_slice(&length);
    }

    /// A number.
    pub fn integer(&mut self, tag: Tag, number: i32) {
        self.item(tag, Type::Integer, &number.to_be_bytes());
    }

    /// A number.
    pub fn long_integer(&mut self, tag: Tag, number: i64) {
        self.item(tag, Type::LongInteger, &number.to_be_bytes());
    }

    /// One of several meanings.
    pub fn enumeration(&mut self, tag: Tag, code: u32) {
        self.item(tag, Type::Enumeration, &code.to_be_bytes());
    }

    /// True or false.
    pub fn boolean(&mut self, tag: Tag, value: bool) {
        self.item(tag, Type::Boolean, &u64::from(value).to_be_bytes());
    }

    /// Text.
    pub fn text(&mut self, tag: Tag, text: &str) {
        self.item(tag, Type::TextString, text.as_bytes());
    }

    /// Bytes.
    pub fn bytes(&mut self, tag: Tag, bytes: &[u8]) {
        self.item(tag, Type::ByteString, bytes);
    }

    /// Seconds since 1970.
    pub fn date_time(&mut self, tag: Tag, seconds: i64) {
        self.item(tag, Type::DateTime, &seconds.to_be_bytes());
    }

    /// Seconds.
    pub fn interval(&mut self, tag: Tag, seconds: u32) {
        self.item(tag, Type::Interval, &seconds.to_be_bytes());
    }

    fn item(&mut self, tag: Tag, kind: Type, value: &[u8]) {
        self.header(tag, kind, value.len());
        self.append(value);
        self.append(&[0; 8][..padded(value.len()) - value.len()]);
    }

    fn header(&mut self, tag: Tag, kind: Type, length: usize) {
        self.append(&tag.0.to_be_bytes()[1..]);
        self.append(&[kind as u8]);
        self.append(&length_field(length));
    }

    fn append(&mut self, more: &[u8]) {
        let length = self.bytes.len() + more.len();
        assert!(length <= MAX_MESSAGE, "a request of {length} bytes");
        if length > self.bytes.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity((2 * length).max(32 * HEADER)));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(more);
    }
}

fn length_field(length: usize) -> [u8; 4] {
    assert!(length <= MAX_MESSAGE, "an item of {length} bytes");
    (length as u32).to_be_bytes()
}
