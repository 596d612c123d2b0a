//! Where a server is: `HOST`, `HOST:PORT`, `[IPV6]:PORT`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// The port that KMIP has at IANA.
pub const KMIP_PORT: u16 = 5696;

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The port is not one.
    #[error("the port {port:?} of {address:?} is not a number between 1 and 65535")]
    Port {
        /// All of it.
        address: String,
        /// What follows the colon.
        port: String,
    },
    /// There has to be a port.
    #[error("{0:?} has no port")]
    NoPort(String),
    /// The host is neither a name nor an address.
    #[error("{0:?} is not HOST, HOST:PORT or [IPV6]:PORT")]
    Host(String),
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerAddress {
    host: String,
    port: u16,
}

impl ServerAddress {
    /// The host: a name, an IPv4 address, or an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server's certificate has to be for.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).ok()
    }

    fn parse(text: &str, default_port: Option<u16>) -> Result<Self, AddressError> {
        let bad_host = || AddressError::Host(shown(text));
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(bad_host)?;
                host.parse::<Ipv6Addr>().map_err(|_| bad_host())?;
                (
                    host,
                    if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(bad_host)?) },
                )
            }
            None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        if ServerName::try_from(host).is_err() {
            return Err(bad_host());
        }
        let port = match port {
            Some(port) => port_number(port)
                .ok_or_else(|| AddressError::Port { address: shown(text), port: shown(port) })?,
            None => default_port.ok_or_else(|| AddressError::NoPort(shown(text)))?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

fn port_number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port != 0)
}

/// Keeps what an error quotes to a bounded length.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text, Some(KMIP_PORT))
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> String {
        address.to_string()
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where an HTTP proxy is: as a server's address, but no port is a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyAddress(pub(super) ServerAddress);

impl FromStr for ProxyAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bare = text.strip_prefix("http://").unwrap_or(text);
        ServerAddress::parse(bare.strip_suffix('/').unwrap_or(bare), None).map(Self)
    }
}

impl TryFrom<String> for ProxyAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ProxyAddress> for String {
    fn from(address: ProxyAddress) -> String {
        address.to_string()
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
