//! The numbers of KMIP 1.4, 9.1.3, that blkseal uses.

use std::fmt;

use crate::provider::Revocation;

/// Tags (9.1.3.1).
pub mod tag {
    use crate::provider::kmip::ttlv::Tag;

    macro_rules! tags {
        ($($name:ident = $number:literal),* $(,)?) => {
            $(#[allow(missing_docs, reason = "named as the standard names them")] pub const $name: Tag = Tag::new($number);)*
        };
    }

    tags! {
        ATTRIBUTE = 0x42_0008,
        ATTRIBUTE_NAME = 0x42_000a,
        ATTRIBUTE_VALUE = 0x42_000b,
        AUTHENTICATION = 0x42_000c,
        BATCH_COUNT = 0x42_000d,
        BATCH_ERROR_CONTINUATION_OPTION = 0x42_000e,
        BATCH_ITEM = 0x42_000f,
        COMPROMISE_OCCURRENCE_DATE = 0x42_0021,
        CREDENTIAL = 0x42_0023,
        CREDENTIAL_TYPE = 0x42_0024,
        CREDENTIAL_VALUE = 0x42_0025,
        CRYPTOGRAPHIC_ALGORITHM = 0x42_0028,
        CRYPTOGRAPHIC_LENGTH = 0x42_002a,
        KEY_BLOCK = 0x42_0040,
        KEY_COMPRESSION_TYPE = 0x42_0041,
        KEY_FORMAT_TYPE = 0x42_0042,
        KEY_MATERIAL = 0x42_0043,
        KEY_VALUE = 0x42_0045,
        KEY_WRAPPING_DATA = 0x42_0046,
        MAXIMUM_RESPONSE_SIZE = 0x42_0050,
        NAME_TYPE = 0x42_0054,
        NAME_VALUE = 0x42_0055,
        OBJECT_TYPE = 0x42_0057,
        OPERATION = 0x42_005c,
        PROTOCOL_VERSION = 0x42_0069,
        PROTOCOL_VERSION_MAJOR = 0x42_006a,
        PROTOCOL_VERSION_MINOR = 0x42_006b,
        QUERY_FUNCTION = 0x42_0074,
        REQUEST_HEADER = 0x42_0077,
        REQUEST_MESSAGE = 0x42_0078,
        REQUEST_PAYLOAD = 0x42_0079,
        RESPONSE_HEADER = 0x42_007a,
        RESPONSE_MESSAGE = 0x42_007b,
        RESPONSE_PAYLOAD = 0x42_007c,
        RESULT_MESSAGE = 0x42_007d,
        RESULT_REASON = 0x42_007e,
        RESULT_STATUS = 0x42_007f,
        REVOCATION_REASON = 0x42_0081,
        REVOCATION_REASON_CODE = 0x42_0082,
        SYMMETRIC_KEY = 0x42_008f,
        TEMPLATE_ATTRIBUTE = 0x42_0091,
        UNIQUE_BATCH_ITEM_ID = 0x42_0093,
        UNIQUE_IDENTIFIER = 0x42_0094,
        USERNAME = 0x42_0099,
        VENDOR_IDENTIFICATION = 0x42_009d,
        PASSWORD = 0x42_00a1,
    }
}

/// Object type (9.1.3.2.12): a symmetric key.
pub const OBJECT_SYMMETRIC_KEY: u32 = 2;
/// Cryptographic algorithm (9.1.3.2.13): AES.
pub const ALGORITHM_AES: u32 = 3;
/// Key format type (9.1.3.2.3): the bytes of the key and nothing else.
pub const FORMAT_RAW: u32 = 1;
/// Cryptographic usage mask (9.1.3.3.1): encrypt, decrypt.
pub const MASK_ENCRYPT_DECRYPT: i32 = 0x4 | 0x8;
/// Name type (9.1.3.2.11): text without a meaning.
pub const NAME_TEXT: u32 = 1;
/// Credential type (9.1.3.2.1): user name and password.
pub const CREDENTIAL_PASSWORD: u32 = 1;
/// Query function (9.1.3.2.24): which operations there are.
pub const QUERY_OPERATIONS: u32 = 1;
/// Query function: which server it is.
pub const QUERY_SERVER: u32 = 3;
/// Batch error continuation option (9.1.3.2.30): what fails does not keep the rest from being done.
pub const BATCH_CONTINUE: u32 = 1;
/// Result status (9.1.3.2.28): done.
pub const STATUS_SUCCESS: u32 = 0;

/// What a server can be asked to do (9.1.3.2.27).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "named as the standard names them")]
pub enum Operation {
    Create = 0x01,
    Locate = 0x08,
    Get = 0x0a,
    GetAttributes = 0x0b,
    Activate = 0x12,
    Revoke = 0x13,
    Destroy = 0x14,
    Query = 0x18,
    DiscoverVersions = 0x1e,
}

impl Operation {
    /// Every operation that blkseal knows.
    pub const ALL: [Self; 9] = [
        Self::Create,
        Self::Locate,
        Self::Get,
        Self::GetAttributes,
        Self::Activate,
        Self::Revoke,
        Self::Destroy,
        Self::Query,
        Self::DiscoverVersions,
    ];
    /// Those without which volumes could be neither made nor opened.
    pub const NEEDED: [Self; 5] =
        [Self::Create, Self::Locate, Self::Get, Self::GetAttributes, Self::Activate];

    /// Its number.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The operation with that number, if blkseal knows it.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.code() == code)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "Create",
            Self::Locate => "Locate",
            Self::Get => "Get",
            Self::GetAttributes => "Get Attributes",
            Self::Activate => "Activate",
            Self::Revoke => "Revoke",
            Self::Destroy => "Destroy",
            Self::Query => "Query",
            Self::DiscoverVersions => "Discover Versions",
        })
    }
}

impl Revocation {
    /// Its number (9.1.3.2.19).
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Compromise => 2,
            Self::Superseded => 5,
        }
    }
}

/// Why a server did not do what it was asked (9.1.3.2.29), as far as blkseal tells reasons apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no such object.
    NotFound,
    /// There was such an object.
    Destroyed,
    /// The client is not who it should be.
    Authentication,
    /// The client may not do this.
    Permission,
    /// The server cannot do this at all.
    NotSupported,
    /// The object or the message is not one that this can be done with.
    Illegal,
    /// Another decision about the client, the object or the message, by its number.
    Other(u32),
    /// No decision: the server is not well, as when its database is not there yet, or gives a reason that no standard has.
    /// It, or another one, may do the same later.
    Unwell(u32),
}

impl Reason {
    /// The reason with that number.
    pub fn from_code(code: u32) -> Self {
        match code {
            0x01 | 0x37 => Self::NotFound,
            0x36 => Self::Destroyed,
            0x03 => Self::Authentication,
            0x0c | 0x39 => Self::Permission,
            0x05 => Self::NotSupported,
            0x07 | 0x0b | 0x43 => Self::Illegal,
            // Not among them: Response Too Large (0x02), Operation Canceled (0x09), Cryptographic Failure (0x0a).
            0x04 | 0x06 | 0x08 | 0x0d..=0x18 => Self::Other(code),
            code => Self::Unwell(code),
        }
    }

    /// Whether the server decided, so that asked again it would say the same.
    pub fn is_decision(self) -> bool {
        !matches!(self, Self::Unwell(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such object",
            Self::Destroyed => "the object is destroyed",
            Self::Authentication => "it does not accept this client",
            Self::Permission => "it does not permit that",
            Self::NotSupported => "it cannot do that",
            Self::Illegal => "that cannot be done with this object",
            Self::Unwell(0x100) => "it has a general failure",
            Self::Other(code) | Self::Unwell(code) => return write!(f, "reason {code:#x}"),
        })
    }
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Before the dot.
    pub major: i32,
    /// After the dot.
    pub minor: i32,
}

impl Version {
    /// The versions that blkseal speaks, the best first.
    pub const SPOKEN: [Self; 4] = [Self::one(4), Self::one(3), Self::one(2), Self::one(1)];
    /// The version in which versions are asked for: the first that has Discover Versions.
    pub const FIRST: Self = Self::one(1);

    const fn one(minor: i32) -> Self {
        Self { major: 1, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
