//! What is the same for every operation (KMIP 1.4, 6 and 7): header, one batch item, result.

use ublk_targets::secret::Secret;
use zeroize::Zeroizing;

use super::codes::{CREDENTIAL_PASSWORD, STATUS_SUCCESS, tag};
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
        message.structure(tag::REQUEST_HEADER, |header| {
            write_version(header, version);
            header.integer(tag::MAXIMUM_RESPONSE_SIZE, MAX_MESSAGE as i32);
            if let Some(credential) = credential {
                header.structure(tag::AUTHENTICATION, |authentication| credential.write(authentication));
            }
            header.integer(tag::BATCH_COUNT, 1);
        });
        message.structure(tag::BATCH_ITEM, |item| {
            item.enumeration(tag::OPERATION, operation.code());
            item.structure(tag::REQUEST_PAYLOAD, fill);
        });
    });
    encoder.finish()
}

/// The payload of the answer to `operation`.
///
/// # Errors
/// [`AnswerError::Refused`] where the server did not do it; the others where this is no answer to it.
pub fn payload(message: &[u8], operation: Operation) -> Result<Structure<'_>, AnswerError> {
    let message = ttlv::parse(message)?;
    if message.tag != tag::RESPONSE_MESSAGE {
        return Err(AnswerError::Senseless("the message is not a response"));
    }
    let message = message.structure()?;
    let count = message.get(tag::RESPONSE_HEADER)?.structure()?.get(tag::BATCH_COUNT)?.integer()?;
    if count != 1 || message.all(tag::BATCH_ITEM).count() != 1 {
        return Err(AnswerError::Senseless("the response has not one result, but several or none"));
    }
    let item = message.get(tag::BATCH_ITEM)?.structure()?;
    if item.get(tag::RESULT_STATUS)?.enumeration()? != STATUS_SUCCESS {
        return Err(refusal(&item, operation)?);
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
