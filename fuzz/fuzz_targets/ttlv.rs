//! What a key server may answer: any bytes are read as a message, and as the answer to each operation.
#![no_main]

use blkseal::provider::KekId;
use blkseal::provider::kmip::messages::{self, Operation};
use blkseal::provider::kmip::ttlv::{self, Encoder, Item, Value};
use libfuzzer_sys::fuzz_target;

/// Writes what was read.
fn write(item: &Item<'_>, encoder: &mut Encoder) -> bool {
    match item.value {
        Value::Structure(structure) => {
            let mut whole = true;
            encoder.structure(item.tag, |inner| {
                whole = structure.items().all(|item| write(&item, inner));
            });
            return whole;
        }
        Value::Integer(value) => encoder.integer(item.tag, value),
        Value::LongInteger(value) => encoder.long_integer(item.tag, value),
        // The encoder writes none, for no request has one.
        Value::BigInteger(_) => return false,
        Value::Enumeration(value) => encoder.enumeration(item.tag, value),
        Value::Boolean(value) => encoder.boolean(item.tag, value),
        Value::TextString(value) => encoder.text(item.tag, value),
        Value::ByteString(value) => encoder.bytes(item.tag, value),
        Value::DateTime(value) => encoder.date_time(item.tag, value),
        Value::Interval(value) => encoder.interval(item.tag, value),
    }
    true
}

fn read_answer(bytes: &[u8], operation: Operation, id: &KekId) -> Option<()> {
    let payload = messages::payload(bytes, operation).ok()?;
    match operation {
        Operation::DiscoverVersions => drop(messages::read_versions(&payload)),
        Operation::Query => drop(messages::read_query(&payload)),
        Operation::Create => drop(messages::read_identifier(&payload)),
        Operation::Locate => drop(messages::read_located(&payload)),
        Operation::Get => drop(messages::read_key(&payload, id)),
        Operation::GetAttributes => drop(messages::read_attributes(&payload, id)),
        Operation::Activate | Operation::Revoke | Operation::Destroy => {
            drop(messages::check_identifier(&payload, id));
        }
    }
    Some(())
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(item) = ttlv::parse(bytes) {
        let mut encoder = Encoder::new();
        if write(&item, &mut encoder) {
            // There is one way to write a message, so what was read is what is written.
            assert_eq!(*encoder.finish(), bytes);
        }
    }
    let Ok(id) = "1".parse() else { return };
    for operation in Operation::ALL {
        read_answer(bytes, operation, &id);
    }
});
