//! Messages of KMIP 1.1 to 1.4: one operation a message, once or several times, its request written and its answer read.
//!
//! | file | what it holds |
//! |---|---|
//! | `codes` | the numbers of the standard |
//! | `envelope` | what is the same for every operation: header, batch item, result |
//! | `operations` | each operation's payloads |

#![forbid(unsafe_code)]

mod codes;
mod envelope;
mod operations;

#[cfg(test)]
mod tests;

pub use codes::{Operation, Reason, Version, tag};
pub use envelope::{AnswerError, Credential, batch, payload, payloads, request};
pub use operations::{
    Attributes, KeyError, NAME_PREFIX, Query, check_identifier, read_attributes, read_identifier, read_key,
    read_located, read_query, read_versions, write_attributes_wanted, write_create, write_discover,
    write_get, write_identifier, write_locate, write_query, write_revoke,
};
