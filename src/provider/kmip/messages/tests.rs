use super::codes::{ALGORITHM_AES, FORMAT_RAW, OBJECT_SYMMETRIC_KEY};
use super::*;
use crate::provider::kmip::ttlv::{self, Encoder, TtlvError};
use crate::provider::{KekId, KekState};

fn id(text: &str) -> KekId {
    text.parse().unwrap()
}

/// A response whose only batch item is what `item` writes.
fn response(item: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.structure(tag::RESPONSE_MESSAGE, |message| {
        message.structure(tag::RESPONSE_HEADER, |header| header.integer(tag::BATCH_COUNT, 1));
        message.structure(tag::BATCH_ITEM, item);
    });
    encoder.finish().to_vec()
}

fn answered(operation: Operation, fill: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    response(|item| {
        item.enumeration(tag::OPERATION, operation.code());
        item.enumeration(tag::RESULT_STATUS, 0);
        item.structure(tag::RESPONSE_PAYLOAD, fill);
    })
}

/// What differs between keys that are given in an answer.
#[derive(Clone, Copy)]
struct Given {
    id: &'static str,
    object: u32,
    format: u32,
    algorithm: u32,
    bits: i32,
    bytes: usize,
    wrapped: bool,
}

const GOOD: Given = Given {
    id: "7",
    object: OBJECT_SYMMETRIC_KEY,
    format: FORMAT_RAW,
    algorithm: ALGORITHM_AES,
    bits: 256,
    bytes: 32,
    wrapped: false,
};

fn key_given(given: Given) -> Vec<u8> {
    answered(Operation::Get, |payload| {
        payload.enumeration(tag::OBJECT_TYPE, given.object);
        payload.text(tag::UNIQUE_IDENTIFIER, given.id);
        payload.structure(tag::SYMMETRIC_KEY, |key| {
            key.structure(tag::KEY_BLOCK, |block| {
                block.enumeration(tag::KEY_FORMAT_TYPE, given.format);
                block.structure(tag::KEY_VALUE, |value| {
                    value.bytes(tag::KEY_MATERIAL, &vec![0x5a; given.bytes]);
                });
                block.enumeration(tag::CRYPTOGRAPHIC_ALGORITHM, given.algorithm);
                block.integer(tag::CRYPTOGRAPHIC_LENGTH, given.bits);
                if given.wrapped {
                    block.structure(tag::KEY_WRAPPING_DATA, |_| ());
                }
            });
        });
    })
}

#[test]
fn only_a_whole_aes_256_key_under_its_own_id_is_taken() {
    let read = |given| {
        let message = key_given(given);
        read_key(&payload(&message, Operation::Get).unwrap(), &id("7")).map_err(|error| error.to_string())
    };
    assert!(read(GOOD).unwrap().expose() == [0x5a; 32]);
    let bad = [
        (Given { id: "8", ..GOOD }, "the answer is about another key"),
        (Given { object: 3, ..GOOD }, "the object is not a symmetric key"),
        (Given { format: 2, ..GOOD }, "the key is in another format than was asked for"),
        (Given { algorithm: 2, ..GOOD }, "the key is not an AES key of 256 bits"),
        (Given { bits: 128, ..GOOD }, "the key is not an AES key of 256 bits"),
        (Given { bytes: 31, ..GOOD }, "the key is not an AES key of 256 bits"),
        (Given { bytes: 33, ..GOOD }, "the key is not an AES key of 256 bits"),
        (Given { bytes: 0, ..GOOD }, "the key is not an AES key of 256 bits"),
        (Given { wrapped: true, ..GOOD }, "the key is wrapped or compressed"),
    ];
    for (given, expected) in bad {
        assert_eq!(read(given).err().as_deref(), Some(expected));
    }
}

#[test]
fn refusals_say_what_failed_and_why_in_one_line() {
    let refused = |reason| {
        response(|item| {
            item.enumeration(tag::OPERATION, Operation::Get.code());
            item.enumeration(tag::RESULT_STATUS, 1);
            item.enumeration(tag::RESULT_REASON, reason);
            item.text(tag::RESULT_MESSAGE, &format!("no\nsuch\x1b[31m thing{}", "!".repeat(1000)));
        })
    };
    let reasons = [
        (0x01, Reason::NotFound),
        (0x36, Reason::Destroyed),
        (0x03, Reason::Authentication),
        (0x0c, Reason::Permission),
        (0x05, Reason::NotSupported),
        (0x10, Reason::Other(0x10)),
        (0x02, Reason::Unwell(0x02)),
        (0x09, Reason::Unwell(0x09)),
        (0x100, Reason::Unwell(0x100)),
        (0x7777, Reason::Unwell(0x7777)),
    ];
    for (code, expected) in reasons {
        let error = payload(&refused(code), Operation::Get).err().unwrap();
        assert!(
            matches!(error, AnswerError::Refused { operation: Operation::Get, reason, .. } if reason == expected)
        );
        let text = error.to_string();
        assert!(text.starts_with("Get failed: ") && text.contains("no such"), "{text}");
        assert!(text.len() < 300 && !text.contains(char::is_control), "{text}");
    }
}

#[test]
fn what_is_no_answer_is_refused() {
    let other = answered(Operation::Create, |_| ());
    let senseless = |bytes: &[u8]| match payload(bytes, Operation::Get).err() {
        Some(AnswerError::Senseless(what)) => what,
        _ => "",
    };
    assert_eq!(senseless(&other), "the response is to another operation");
    let own = request(Version::FIRST, None, Operation::Get, |_| ());
    assert_eq!(senseless(&own), "the message is not a response");
    let mut two = Encoder::new();
    two.structure(tag::RESPONSE_MESSAGE, |message| {
        message.structure(tag::RESPONSE_HEADER, |header| header.integer(tag::BATCH_COUNT, 2));
        message.structure(tag::BATCH_ITEM, |_| ());
        message.structure(tag::BATCH_ITEM, |_| ());
    });
    assert_eq!(senseless(&two.finish()), "the response has not one result, but several or none");
    let empty = response(|_| ());
    let missing = TtlvError::Missing { missing: tag::RESULT_STATUS, parent: tag::BATCH_ITEM };
    assert_eq!(payload(&empty, Operation::Get).err(), Some(missing.into()));
}

#[test]
fn identifiers_that_could_not_be_kept_are_refused() {
    for text in ["", "a b", "a\nb", &"x".repeat(256)] {
        let message = answered(Operation::Create, |payload| payload.text(tag::UNIQUE_IDENTIFIER, text));
        assert!(read_identifier(&payload(&message, Operation::Create).unwrap()).is_err(), "{text:?}");
    }
}

#[test]
fn attributes_are_read_whatever_else_comes_along() {
    let message = answered(Operation::GetAttributes, |payload| {
        payload.text(tag::UNIQUE_IDENTIFIER, "7");
        payload.structure(tag::ATTRIBUTE, |attribute| {
            attribute.text(tag::ATTRIBUTE_NAME, "x-Vendor");
            attribute.bytes(tag::ATTRIBUTE_VALUE, &[1]);
        });
        payload.structure(tag::ATTRIBUTE, |attribute| {
            attribute.text(tag::ATTRIBUTE_NAME, "State");
            attribute.enumeration(tag::ATTRIBUTE_VALUE, 4);
        });
        payload.structure(tag::ATTRIBUTE, |attribute| {
            attribute.text(tag::ATTRIBUTE_NAME, "Initial Date");
            attribute.date_time(tag::ATTRIBUTE_VALUE, 1_700_000_000);
        });
    });
    let found = read_attributes(&payload(&message, Operation::GetAttributes).unwrap(), &id("7")).unwrap();
    let expected = Attributes {
        state: KekState::Compromised,
        created: Some(1_700_000_000),
        groups: Vec::new(),
        names: Vec::new(),
        is_aes_256: true,
    };
    assert_eq!(found, expected);
}

#[test]
fn a_password_is_in_the_header_and_nowhere_else() {
    let mut password = ublk_targets::secret::Secret::zeroed(7).unwrap();
    password.expose_mut().copy_from_slice(b"hunter2");
    let credential = Credential { user: "host".into(), password };
    let message = request(Version::SPOKEN[0], Some(&credential), Operation::Query, write_query);
    let parsed = ttlv::parse(&message).unwrap().structure().unwrap();
    let header = parsed.get(tag::REQUEST_HEADER).unwrap().structure().unwrap();
    let value = [tag::AUTHENTICATION, tag::CREDENTIAL, tag::CREDENTIAL_VALUE]
        .into_iter()
        .fold(header, |structure, tag| structure.get(tag).unwrap().structure().unwrap());
    assert_eq!(value.get(tag::USERNAME).unwrap().text(), Ok("host"));
    assert_eq!(value.get(tag::PASSWORD).unwrap().text(), Ok("hunter2"));
    assert_eq!(message.windows(7).filter(|window| window == b"hunter2").count(), 1);
}
