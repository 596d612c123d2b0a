//! The settings of a KMIP provider, as `providers.toml` keeps them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Fingerprint, ProxyAddress, ServerAddress};

/// Servers that a cluster has at most.
pub const MAX_SERVERS: usize = 16;
/// The object group of a provider that was given none.
pub const DEFAULT_GROUP: &str = "blkseal";
/// Bytes that an object group's or a user's name has at most.
const MAX_NAME: usize = 255;

/// One cluster of key servers, and who this host is to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KmipConfig {
    /// The servers, the preferred one first.
    pub servers: Vec<ServerAddress>,
    /// The file with this host's certificate, PEM, the chain after it.
    pub certificate: PathBuf,
    /// The file with its private key, PEM, readable by its owner only.
    pub key: PathBuf,
    /// How the servers are known.
    pub trust: Trust,
    /// The HTTP proxy on the way to every server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyAddress>,
    /// A user's name, for servers that want one beside the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The file with that user's password, readable by its owner only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The object group that KEKs are made in and looked for in.
    #[serde(default = "default_group")]
    pub group: String,
    /// How long the host may use a KEK without asking a server again, in seconds; none is until it is locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// Whether a KEK wraps that another server of the cluster says it has not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_unreplicated: bool,
    /// How long it waits for servers.
    #[serde(default)]
    pub limits: Limits,
}

/// How the servers of a cluster are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Trust {
    /// By certificates for their names that one of the authorities in this PEM file signed.
    Ca(PathBuf),
    /// By these certificates themselves, whatever names are in them.
    Pins(Vec<Fingerprint>),
}

/// How long a provider waits, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// For one server to be connected, proxy and TLS handshake included.
    pub connect: u64,
    /// For one answer.
    pub answer: u64,
    /// For all servers together, in one call.
    pub call: u64,
    /// For a KEK that one server has to come to the others.
    pub replication: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: 3_000, answer: 5_000, call: 20_000, replication: 5_000 }
    }
}

impl Limits {
    pub(super) fn connect(&self) -> Duration {
        Duration::from_millis(self.connect)
    }

    pub(super) fn answer(&self) -> Duration {
        Duration::from_millis(self.answer)
    }

    pub(super) fn call(&self) -> Duration {
        Duration::from_millis(self.call)
    }

    pub(super) fn replication(&self) -> Duration {
        Duration::from_millis(self.replication)
    }
}

fn default_group() -> String {
    DEFAULT_GROUP.into()
}

impl KmipConfig {
    /// Settings with the defaults for what is not given here.
    pub fn new(servers: Vec<ServerAddress>, trust: Trust, certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            servers,
            certificate,
            key,
            trust,
            proxy: None,
            user: None,
            password_file: None,
            group: default_group(),
            max_age: None,
            allow_unreplicated: false,
            limits: Limits::default(),
        }
    }

    /// Checks what can be checked without a file or a server.
    pub fn check(&self) -> Result<(), ConfigError> {
        let problem = |problem: String| Err(ConfigError::Setting(problem));
        if !(1..=MAX_SERVERS).contains(&self.servers.len()) {
            return problem(format!("{} servers, between 1 and {MAX_SERVERS} can be", self.servers.len()));
        }
        if let Some(twice) =
            self.servers.iter().enumerate().find(|(at, server)| self.servers[..*at].contains(server))
        {
            return problem(format!("the server {} is named twice", twice.1));
        }
        if matches!(&self.trust, Trust::Pins(pins) if pins.is_empty()) {
            return problem("no server certificate is trusted".into());
        }
        if self.user.is_some() != self.password_file.is_some() {
            return problem("a user needs a password file, and a password file a user".into());
        }
        for (what, name) in [("object group", Some(&self.group)), ("user's name", self.user.as_ref())] {
            if name.is_some_and(|name| {
                name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control)
            }) {
                return problem(format!("the {what} is not 1 to {MAX_NAME} bytes of text in one line"));
            }
        }
        for (what, limit) in [
            ("connect", self.limits.connect),
            ("answer", self.limits.answer),
            ("call", self.limits.call),
            ("replication", self.limits.replication),
        ] {
            if !(1..=600_000).contains(&limit) {
                return problem(format!("the limit {what} is {limit} ms, between 1 and 600000 can be"));
            }
        }
        self.files().try_for_each(|file| match file.is_absolute() {
            true => Ok(()),
            false => problem(format!("the path {} is not absolute", file.display())),
        })
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let ca = match &self.trust {
            Trust::Ca(file) => Some(file),
            Trust::Pins(_) => None,
        };
        [Some(&self.certificate), Some(&self.key), ca, self.password_file.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }
}
