//! What the command line, the daemon and its workers say to each other.
//!
//! [Varlink](https://varlink.org) over Unix sockets: a JSON object and a NUL byte a message. The daemon serves
//! `io.blkseal.Daemon`, each worker `io.blkseal.Worker`; both describe themselves (`org.varlink.service`).
//!
//! No key byte and no passphrase is ever part of a message. They travel as descriptors of secret memory
//! (`SCM_RIGHTS`) beside it, and a message names them by their place in that list ([`SecretFd`]).
//!
//! | file | what it holds |
//! |---|---|
//! | `client` | a blocking connection that makes typed calls |
//! | `service` | the other side: a thread a connection, each call parsed and handed to a [`Service`] |
//! | `places` | how many may be connected, and who gives way |
//! | `messages` | the methods of `io.blkseal.Daemon` and what is in them |
//! | `adopt` | those of its methods by which volumes come from and go to stock cryptsetup |
//! | `ends` | those by which this host ends with a volume |
//! | `key_servers`, `keks` | those of its methods that are about key servers, and about KEKs |
//! | `events` | the one that reads the event log |
//! | `worker` | the methods of `io.blkseal.Worker` |
//! | `peer` | who calls: user, groups and process, from the kernel |
//! | `failure` | the one error that crosses a socket: kind, message, hint, exit code |
//! | `socket` | messages of bounded size, and descriptors, on a blocking Unix socket |

mod adopt;
mod client;
mod ends;
mod events;
mod failure;
mod interface;
mod keks;
mod key_servers;
mod messages;
mod peer;
mod places;
mod service;
mod socket;
pub mod worker;

pub use crate::name::{Name, NameError};
pub use adopt::*;
pub use client::Client;
pub use ends::*;
pub use events::*;
pub use failure::{Failure, FailureKind};
pub use interface::{Interface, Method, Nothing};
pub use keks::*;
pub use key_servers::*;
pub use messages::*;
pub use peer::Peer;
pub use service::{Answer, Service, bind, serve, serve_connection};
pub use socket::{MAX_CALL, MAX_DESCRIPTORS, MAX_REPLY, MAX_SECRET, Secrets, connect};

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/blkseal/daemon.sock";

#[cfg(test)]
pub(crate) use peer::tests as peer_tests;
#[cfg(test)]
mod tests;
