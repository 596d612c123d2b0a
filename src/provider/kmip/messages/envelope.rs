//! What is the same for every operation (KMIP 1.4, 6 and 7): header, one batch item, result.

use ublk_targets::secret::Secret;
use zeroize::Zeroizing;

use super::codes::{BATCH_CONTINUE, CREDENTIAL_PASSWORD, STATUS_SUCCESS, tag};
use super::{Operation, Reason, Version};
use crate::provider::kmip::one_line;
use crate::provider::kmip::ttlv::{self, Encoder, MAX_MESSAGE, Structure, TtlvError};

/// Who the client says it is, beside its certificate.
pub struct Credential {
    /// The user's name.
    pub user: String,
    /// The password, UTF-8.
    pub password: Secret,
}

/// Why an answer is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is not TTLV, or lacks something.
    #[error(transparent)]
    Ttlv(#[from] TtlvError),
    /// It is well-formed, and still no answer to what was asked.
    #[error("{0}")]
    Senseless(&'static str),
    /// The server refused.
    #[error("{operation} failed: {reason}{}", said(message))]
    Refused {
        /// What it was asked to do.
        operation: Operation,
        /// Why it did not.
        reason: Reason,
        /// What it said about that, in one line of bounded length.
        message: String,
    },
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

/// A message that asks for `operation`, with the payload that `fill` writes.
pub fn request(
    version: Version,
    credential: Option<&Credential>,
    operation: Operation,
    fill: impl FnOnce(&mut Encoder),
) -> Zeroizing<Vec<u8>> {
    let mut encoder = Encoder::new();
    encoder.structure(tag::REQUEST_MESSAGE, |message| {
        write_header(message, version, credential, 1);
        message.structure(tag::BATCH_ITEM, |item| {
            item.enumeration(tag::OPERATION, operation.code());
            item.structure(tag::REQUEST_PAYLOAD, fill);
        });
    });
    encoder.finish()
}

/// A message that asks for `operation` with each of these payloads, whatever becomes of the others.
pub fn batch<T>(
    version: Version,
    credential: Option<&Credential>,
    operation: Operation,
    each: &[T],
    fill: impl Fn(&mut Encoder, &T),
) -> Zeroizing<Vec<u8>> {
    let mut encoder = Encoder::new();
    encoder.structure(tag::REQUEST_MESSAGE, |message| {
        write_header(message, version, credential, each.len());
        for (at, given) in each.iter().enumerate() {
            message.structure(tag::BATCH_ITEM, |item| {
                item.enumeration(tag::OPERATION, operation.code());
                item.bytes(tag::UNIQUE_BATCH_ITEM_ID, &item_id(at));
                item.structure(tag::REQUEST_PAYLOAD, |payload| fill(payload, given));
            });
        }
    });
    encoder.finish()
}

fn write_header(encoder: &mut Encoder, version: Version, credential: Option<&Credential>, items: usize) {
    encoder.structure(tag::REQUEST_HEADER, |header| {
        write_version(header, version);
        header.integer(tag::MAXIMUM_RESPONSE_SIZE, MAX_MESSAGE as i32);
        if let Some(credential) = credential {
            header.structure(tag::AUTHENTICATION, |authentication| credential.write(authentication));
        }
        if items > 1 {
            header.enumeration(tag::BATCH_ERROR_CONTINUATION_OPTION, BATCH_CONTINUE);
        }
        header.integer(tag::BATCH_COUNT, items as i32);
    });
}

/// What the item at this place of a batch is called.
fn item_id(at: usize) -> [u8; 4] {
    (at as u32).to_be_bytes()
}

/// The payload of the answer to `operation`.
///
/// # Errors
/// [`AnswerError::Refused`] where the server did not do it; the others where this is no answer to it.
pub fn payload(message: &[u8], operation: Operation) -> Result<Structure<'_>, AnswerError> {
    match &results(message)?[..] {
        [item] => item_payload(item, operation),
        _ => Err(AnswerError::Senseless("the response has not one result, but several or none")),
    }
}

/// The payloads of the answers to a [`batch`] of `count`, two or more, each or why there is none, in the order of the
/// questions.
///
/// # Errors
/// Where these are not the answers to it, as from a server that knows no batches.
pub fn payloads(
    message: &[u8],
    operation: Operation,
    count: usize,
) -> Result<Vec<Result<Structure<'_>, AnswerError>>, AnswerError> {
    let items = results(message)?;
    if let [item] = &items[..] {
        item_payload(item, operation)?;
    }
    if items.len() != count {
        return Err(AnswerError::Senseless("the response has not a result for each question"));
    }
    let mut payloads: Vec<Option<_>> = (0..count).map(|_| None).collect();
    for item in &items {
        let id = item.get(tag::UNIQUE_BATCH_ITEM_ID)?.bytes()?;
        let place = payloads.iter_mut().enumerate().find(|(at, _)| item_id(*at) == id);
        match place {
            Some((_, place @ None)) => *place = Some(item_payload(item, operation)),
            _ => return Err(AnswerError::Senseless("two results are to one question, or one to none")),
        }
    }
    Ok(payloads.into_iter().flatten().collect())
}

/// The batch items of a response.
fn results(message: &[u8]) -> Result<Vec<Structure<'_>>, AnswerError> {
    let message = ttlv::parse(message)?;
    if message.tag != tag::RESPONSE_MESSAGE {
        return Err(AnswerError::Senseless("the message is not a response"));
    }
    let message = message.structure()?;
    let count = message.get(tag::RESPONSE_HEADER)?.structure()?.get(tag::BATCH_COUNT)?.integer()?;
    let items = message.all(tag::BATCH_ITEM).map(|item| item.structure()).collect::<Result<Vec<_>, _>>()?;
    match usize::try_from(count) == Ok(items.len()) {
        true => Ok(items),
        false => Err(AnswerError::Senseless("the response has more results than it says, or fewer")),
    }
}

fn item_payload<'a>(item: &Structure<'a>, operation: Operation) -> Result<Structure<'a>, AnswerError> {
    if item.get(tag::RESULT_STATUS)?.enumeration()? != STATUS_SUCCESS {
        return Err(refusal(item, operation)?);
    }
    if item.get(tag::OPERATION)?.enumeration()? != operation.code() {
        return Err(AnswerError::Senseless("the response is to another operation"));
    }
    Ok(item.get(tag::RESPONSE_PAYLOAD)?.structure()?)
}

fn refusal(item: &Structure<'_>, operation: Operation) -> Result<AnswerError, AnswerError> {
    let reason = match item.find(tag::RESULT_REASON) {
        Some(reason) => Reason::from_code(reason.enumeration()?),
        // Pending and undone (9.1.3.2.28) have none, and blkseal asks for nothing that could end so.
        None => Reason::Unwell(0),
    };
    let message = match item.find(tag::RESULT_MESSAGE) {
        Some(message) => one_line(message.text()?),
        None => String::new(),
    };
    Ok(AnswerError::Refused { operation, reason, message })
}

pub(super) fn write_version(encoder: &mut Encoder, version: Version) {
    encoder.structure(tag::PROTOCOL_VERSION, |encoder| {
        encoder.integer(tag::PROTOCOL_VERSION_MAJOR, version.major);
        encoder.integer(tag::PROTOCOL_VERSION_MINOR, version.minor);
    });
}

impl Credential {
    fn write(&self, encoder: &mut Encoder) {
        encoder.structure(tag::CREDENTIAL, |credential| {
            credential.enumeration(tag::CREDENTIAL_TYPE, CREDENTIAL_PASSWORD);
            credential.structure(tag::CREDENTIAL_VALUE, |value| {
                value.text(tag::USERNAME, &self.user);
                // Checked to be UTF-8 where it was read; the encoder writes both types of string alike.
                value.text(tag::PASSWORD, str::from_utf8(self.password.expose()).unwrap_or_default());
            });
        });
    }
}
