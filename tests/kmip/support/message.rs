//! Messages as fakes read and make them.

use blkseal::provider::kmip::ServerAddress;
use blkseal::provider::kmip::messages::{Operation, tag};
use blkseal::provider::kmip::ttlv::Encoder;

/// Reasons by their numbers (KMIP 1.4, 9.1.3.2.29).
pub const INVALID_MESSAGE: u32 = 0x04;
pub const NOT_SUPPORTED: u32 = 0x05;
pub const ILLEGAL: u32 = 0x0b;
pub const PERMISSION: u32 = 0x0c;

pub fn address(port: u16) -> ServerAddress {
    format!("127.0.0.1:{port}").parse().unwrap()
}

/// Replaces `from` by `to` wherever it is in an answer.
pub fn replace(answer: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    for at in 0..answer.len().saturating_sub(from.len() - 1) {
        if answer[at..].starts_with(from) {
            answer[at..at + to.len()].copy_from_slice(to);
        }
    }
}

pub fn contains(message: &[u8], bytes: &[u8]) -> bool {
    message.windows(bytes.len()).any(|window| window == bytes)
}

/// An item with a number: its tag's last two bytes, type and value.
pub fn number(tag: [u8; 2], kind: u8, value: u8) -> [u8; 12] {
    [0x42, tag[0], tag[1], kind, 0, 0, 0, 4, 0, 0, 0, value]
}

pub fn asks_for(request: &[u8], operation: Operation) -> bool {
    contains(request, &number([0x00, 0x5c], 5, operation.code() as u8))
}

/// Whether the request is one of KMIP 1.`minor`.
pub fn is_version(request: &[u8], minor: u8) -> bool {
    contains(request, &number([0x00, 0x6a], 2, 1)) && contains(request, &number([0x00, 0x6b], 2, minor))
}

/// Replaces the key in the answer to Get.
pub fn with_other_material(answer: &mut [u8]) {
    if let Some(at) = answer.windows(8).position(|window| window == b"\x42\x00\x43\x08\0\0\0\x20") {
        answer[at + 8..at + 40].fill(0x5a);
    }
}

fn response(fill: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.structure(tag::RESPONSE_MESSAGE, |message| {
        message.structure(tag::RESPONSE_HEADER, |header| {
            version(header, (1, 1));
            header.integer(tag::BATCH_COUNT, 1);
        });
        message.structure(tag::BATCH_ITEM, fill);
    });
    encoder.finish().to_vec()
}

fn version(encoder: &mut Encoder, (major, minor): (i32, i32)) {
    encoder.structure(tag::PROTOCOL_VERSION, |version| {
        version.integer(tag::PROTOCOL_VERSION_MAJOR, major);
        version.integer(tag::PROTOCOL_VERSION_MINOR, minor);
    });
}

/// The answer of a server that does not do `operation`.
pub fn refusal(operation: Operation, reason: u32) -> Vec<u8> {
    response(|item| {
        item.enumeration(tag::OPERATION, operation.code());
        item.enumeration(tag::RESULT_STATUS, 1);
        item.enumeration(tag::RESULT_REASON, reason);
    })
}

/// The answer to Discover Versions.
pub fn versions(versions: &[(i32, i32)]) -> Vec<u8> {
    response(|item| {
        item.enumeration(tag::OPERATION, Operation::DiscoverVersions.code());
        item.enumeration(tag::RESULT_STATUS, 0);
        item.structure(tag::RESPONSE_PAYLOAD, |payload| {
            versions.iter().for_each(|&offered| version(payload, offered));
        });
    })
}
