//! The methods of `io.blkseal.Daemon` that are about key servers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Name;

/// Adds a cluster of KMIP servers as a key provider, after at least one of them has answered as it should; where this
/// host has no KEK there yet, one is made. The first provider becomes the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderAddKmip {
    /// What it is to be called.
    pub name: Name,
    /// The servers, `HOST` or `HOST:PORT`, the preferred one first.
    pub servers: Vec<String>,
    /// The file with this host's certificate, PEM.
    pub certificate: PathBuf,
    /// The file with its private key, PEM.
    pub key: PathBuf,
    /// The file with the authorities that sign the servers' certificates, PEM; this or `pins` it takes.
    pub ca: Option<PathBuf>,
    /// The SHA-256 fingerprints of the servers' certificates.
    pub pins: Option<Vec<String>>,
    /// The HTTP proxy on the way, `HOST:PORT`.
    pub proxy: Option<String>,
    /// A user's name, for servers that want one.
    pub user: Option<String>,
    /// The file with that user's password.
    pub password_file: Option<PathBuf>,
    /// The object group of this host's KEKs; none takes `blkseal`.
    pub group: Option<String>,
    /// Seconds for which a KEK may stay in memory; none or 0 is until it is locked.
    pub max_age: Option<u64>,
    /// Whether volumes' keys may be wrapped by a KEK that another server of the cluster says it has not.
    #[serde(default)]
    pub allow_unreplicated: bool,
    /// Whether it becomes the default.
    #[serde(default)]
    pub make_default: bool,
}

/// Asks servers that are not trusted yet for their certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderMeet {
    /// The provider that they are or are to be of. Where there is one of that name, its servers and its proxy count where none
    /// are given here.
    pub name: Option<Name>,
    /// The servers, `HOST` or `HOST:PORT`.
    pub servers: Vec<String>,
    /// The HTTP proxy on the way, `HOST:PORT`; an empty text is none.
    pub proxy: Option<String>,
}

/// Gives a KMIP provider other settings, after at least one server has answered as it should and has a KEK that known
/// volumes need. What is not given stays. KEKs in memory are wiped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSet {
    /// Which provider.
    pub name: Name,
    /// All its servers, `HOST` or `HOST:PORT`, the preferred one first.
    pub servers: Option<Vec<String>>,
    /// The file with this host's certificate, PEM.
    pub certificate: Option<PathBuf>,
    /// The file with its private key, PEM.
    pub key: Option<PathBuf>,
    /// The file with the authorities that sign the servers' certificates, PEM; in place of `pins`.
    pub ca: Option<PathBuf>,
    /// The SHA-256 fingerprints of the servers' certificates, of all of them; in place of `ca`.
    pub pins: Option<Vec<String>>,
    /// The HTTP proxy on the way, `HOST:PORT`; an empty text is none.
    pub proxy: Option<String>,
    /// A user's name; an empty text is none, and no password file.
    pub user: Option<String>,
    /// The file with that user's password.
    pub password_file: Option<PathBuf>,
    /// The object group of this host's KEKs.
    pub group: Option<String>,
    /// Seconds for which a KEK may stay in memory; 0 is until it is locked.
    pub max_age: Option<u64>,
    /// Whether volumes' keys may be wrapped by a KEK that another server of the cluster says it has not.
    pub allow_unreplicated: Option<bool>,
}

/// The certificates that servers show, in the order in which they were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// A certificate a server.
    pub certificates: Vec<MetCertificate>,
}

/// What a server shows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetCertificate {
    /// The server, `HOST:PORT`.
    pub server: String,
    /// Its certificate.
    pub certificate: Certificate,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Whom it is for.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// When it starts to be good, `2026-01-31T12:00:00Z`.
    pub not_before: String,
    /// When it ends to be good.
    pub not_after: String,
    /// The SHA-256 of it.
    pub fingerprint: String,
}

/// Asks each server of a KMIP provider what it is and can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderCheck {
    /// Which provider.
    pub name: Name,
}

/// Every server of a provider, the preferred one first, and what they are shown of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The servers.
    pub servers: Vec<KeyServer>,
    /// This host's certificate.
    pub host: Option<Certificate>,
    /// When the first certificate of its chain ends, `2026-01-31T12:00:00Z`.
    pub host_good_until: Option<String>,
    /// That this is near.
    pub warning: Option<String>,
}

/// A key server as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyServer {
    /// The server, `HOST:PORT`.
    pub server: String,
    /// What keeps it from serving; none where it serves.
    pub problem: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// What was found, where it serves.
    pub status: Option<KeyServerStatus>,
}

/// What a key server that serves says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyServerStatus {
    /// The address that the connection led to: the proxy's, where there is one.
    pub address: String,
    /// The version of TLS.
    pub tls: String,
    /// The cipher suite.
    pub cipher: String,
    /// Its certificate.
    pub certificate: Option<Certificate>,
    /// The versions of KMIP that it speaks, of those that blkseal speaks, the one it likes best first.
    pub versions: Vec<String>,
    /// Who made it.
    pub vendor: Option<String>,
    /// How long an answer took, in microseconds.
    pub latency_us: u64,
    /// The operations that it supports, of those that blkseal uses.
    pub operations: Vec<String>,
}
