//! This host's certificate and key, and the authorities that it trusts: read from their files, and looked at before a server is
//! asked.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::unistd::geteuid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ublk_targets::secret::Secret;
use zeroize::Zeroizing;

use super::certificate::{date, unusable_key};
use super::error::PASSWORD;
use super::{CertificateInfo, ConfigError, KmipConfig};
use crate::atomic_file;

/// Bytes that a file with certificates or a key has at most.
const FILE_LIMIT: u64 = 1 << 20;
/// Bytes that a password has at most.
const PASSWORD_LIMIT: u64 = 1024;
/// From how long before its end on a certificate is warned of.
const NEAR: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) const CERTIFICATE: &str = "client certificate";
pub(super) const KEY: &str = "client key";
pub(super) const AUTHORITY: &str = "certificate authority file";

/// What servers are shown of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCertificate {
    /// The certificate.
    pub info: CertificateInfo,
    /// When the first certificate of its chain ends.
    pub good_until: SystemTime,
    /// That this is near, in one line, with the file.
    pub warning: Option<String>,
}

/// What the provider with these settings shows its servers of this host; none where the file holds something that only
/// servers may understand.
///
/// # Errors
/// Where the file cannot be read, or a certificate in it is not good yet or no longer.
pub fn host_certificate(config: &KmipConfig) -> Result<Option<HostCertificate>, ConfigError> {
    let infos: Vec<CertificateInfo> =
        chain(config)?.iter().filter_map(|der| CertificateInfo::read(der)).collect();
    let Some(first) = infos.first().cloned() else { return Ok(None) };
    let good_until = infos.iter().map(|info| info.not_after).min().unwrap_or(first.not_after);
    let warning = (good_until < SystemTime::now() + NEAR).then(|| {
        let path = config.certificate.display();
        format!("the client certificate {path} of {} ends at {}: renew it", first.subject, date(good_until))
    });
    Ok(Some(HostCertificate { info: first, good_until, warning }))
}

/// This host's certificate with its chain, each good now.
pub(super) fn chain(config: &KmipConfig) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let chain = certificates(CERTIFICATE, &config.certificate)?;
    let (path, now) = (&config.certificate, SystemTime::now());
    for info in chain.iter().filter_map(|der| CertificateInfo::read(der)) {
        let problem = match now {
            now if now > info.not_after => format!("of {} ended at {}", info.subject, date(info.not_after)),
            now if now < info.not_before => {
                format!("of {} is not good before {}", info.subject, date(info.not_before))
            }
            _ => continue,
        };
        return Err(ConfigError::Dates { path: path.clone(), problem });
    }
    Ok(chain)
}

/// The authorities in a file, at least one of which can have signed something that this host can check.
pub(super) fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found = certificates(AUTHORITY, path)?;
    let unusable: Vec<&str> = found.iter().filter_map(|der| unusable_key(der)).collect();
    match unusable.first() {
        Some(kind) if unusable.len() == found.len() => Err(ConfigError::KeyType {
            path: path.to_owned(),
            what: format!("certificate authority with a key of type {kind}"),
        }),
        _ => Ok(found),
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = atomic_file::read_limited(path, FILE_LIMIT).map_err(|source| ConfigError::File {
        what,
        path: path.to_owned(),
        source,
    })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(content(what, path, "it holds no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(content(what, path, error)),
    }
}

/// This host's private key, of a type that it can sign with.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let pem = read_private(KEY, path, FILE_LIMIT)?;
    let unusable = |what: String| ConfigError::KeyType { path: path.to_owned(), what };
    // PKCS#8, and what OpenSSL wrote before.
    let is_encrypted = [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| pem.windows(mark.len()).any(|window| window == *mark));
    if is_encrypted {
        return Err(unusable(format!("{KEY} that is encrypted with a passphrase")));
    }
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| content(KEY, path, error))?;
    match unusable_key(key.secret_der()) {
        Some(kind) => Err(unusable(format!("{KEY} of type {kind}"))),
        None => Ok(key),
    }
}

/// The first line of a password file.
pub(super) fn password(path: &Path) -> Result<Secret, ConfigError> {
    let bytes = read_private(PASSWORD, path, PASSWORD_LIMIT)?;
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if line.is_empty() || str::from_utf8(line).is_err() {
        return Err(content(PASSWORD, path, "its first line is empty or not UTF-8"));
    }
    let mut secret = Secret::zeroed(line.len())?;
    secret.expose_mut().copy_from_slice(line);
    Ok(secret)
}

/// Reads a file that nobody but its owner, root or the user of this process, may read, into memory that is wiped.
fn read_private(what: &'static str, path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let failed = |source| ConfigError::File { what, path: path.to_owned(), source };
    // Nothing waits for a writer where the path is that of a pipe.
    let mut options = File::options();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
    // Who owns it can change it, and let himself read what is written to it later.
    if ![0, geteuid().as_raw()].contains(&owner) {
        return Err(ConfigError::Owner { what, path: path.to_owned(), owner });
    }
    if mode & 0o077 != 0 {
        return Err(ConfigError::Exposed { what, path: path.to_owned(), mode });
    }
    if !metadata.is_file() || metadata.len() > limit {
        return Err(content(what, path, format!("it is not a file of at most {limit} bytes")));
    }
    // All of the room at once: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(vec![0; metadata.len() as usize]);
    (&file).read_exact(&mut bytes).map_err(|error: io::Error| failed(error))?;
    Ok(bytes)
}

pub(super) fn content(what: &'static str, path: &Path, problem: impl ToString) -> ConfigError {
    ConfigError::Content { what, path: path.to_owned(), problem: super::one_line(&problem.to_string()) }
}
