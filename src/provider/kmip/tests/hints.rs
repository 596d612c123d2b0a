use std::io;
use std::time::Duration;

use ublk_targets::secret::SecretError;

use crate::provider::KekState;
use crate::provider::kmip::messages::{AnswerError, Operation, Reason};
use crate::provider::kmip::{ConfigError, Fault};
use crate::provider::wrap::WrapError;

fn memory() -> SecretError {
    SecretError::Length { found: 1, expected: 2 }
}

fn refused(reason: Reason) -> Fault {
    AnswerError::Refused { operation: Operation::Create, reason, message: String::new() }.into()
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

#[test]
fn every_failure_of_a_server_says_what_to_do() {
    let proxy = Fault::Proxy { proxy: "proxy:3128".parse().unwrap(), problem: "answers".into() };
    let timeout = Fault::Timeout { waiting_for: "answer", limit: Duration::from_secs(1) };
    let left = Fault::Left { id: "1".parse().unwrap(), cause: Box::new(Fault::Broken(broken())) };
    let cases = [
        (Fault::Resolve("none".into()), "check the address"),
        (Fault::Connect(broken()), "check the address"),
        (proxy, "allow CONNECT to the key server's address and port"),
        (timeout, "check the address"),
        (Fault::Certificate("has expired".into()), "certificate's dates"),
        (Fault::Unaccepted("UnknownCA".into()), "accept this host's certificate"),
        (Fault::Tls("bad".into()), "TLS 1.2 or 1.3"),
        (Fault::NothingInCommon, "P-521"),
        (Fault::Broken(broken()), "check the address"),
        (Fault::Version, "enable KMIP 1.4"),
        (Fault::Lacks(vec![Operation::Get]), "Create, Locate, Get, Get Attributes, Activate"),
        (AnswerError::Senseless("no").into(), "that of a KMIP server"),
        (refused(Reason::Permission), "the permission"),
        (refused(Reason::NotSupported), "enable these"),
        (refused(Reason::Illegal), "log tells more"),
        (refused(Reason::Other(0x10)), "log tells more"),
        (refused(Reason::Unwell(0x100)), "behind it"),
        (Fault::State(KekState::PreActive), "blkseal kek activate"),
        (Fault::State(KekState::Destroyed), "recovery passphrase"),
        (WrapError::OtherKek.into(), "the same keys"),
        (Fault::MadeOther("another"), "Object Group"),
        (Fault::Foreign("others".into()), "where it was made"),
        (left, "destroy it at the key server"),
        (ConfigError::Setting("bad".into()).into(), "--help"),
        (memory().into(), "LimitMEMLOCK"),
    ];
    for (fault, words) in cases {
        let hint = fault.hint().unwrap_or_else(|| panic!("{fault}: no hint"));
        assert!(hint.contains(words), "{fault}: {hint}");
    }
}

#[test]
fn everything_that_is_wrong_with_settings_says_what_to_do() {
    let path = || "/etc/blkseal/kmip/host.key".into();
    let content = |what| ConfigError::Content { what, path: path(), problem: "it is empty".into() };
    let cases = [
        (ConfigError::Setting("bad".into()), "blkseal provider add kmip --help"),
        (ConfigError::File { what: "client key", path: path(), source: broken() }, "put it there"),
        (content("client key"), "in PEM"),
        (content("password file"), "first line"),
        (ConfigError::Exposed { what: "client key", path: path(), mode: 0o644 }, "chmod 600"),
        (ConfigError::KeyType { path: path(), what: "client key of type P-521".into() }, "P-384"),
        (ConfigError::Dates { path: path(), problem: "ended".into() }, "renewed"),
        (ConfigError::Owner { what: "client key", path: path(), owner: 1000 }, "chown root"),
        (ConfigError::Memory(memory()), "LimitMEMLOCK"),
    ];
    for (error, words) in cases {
        let hint = error.hint().unwrap_or_else(|| panic!("{error}: no hint"));
        assert!(hint.contains(words), "{error}: {hint}");
    }
}
