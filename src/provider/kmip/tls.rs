//! TLS 1.2 and 1.3 with a certificate on both sides, by rustls on ring.
//!
//! ring rather than AWS-LC: it builds with a C compiler alone, and all that it allocates comes from Rust's allocator,
//! so that the daemon's, which wipes what is freed, sees it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::geteuid;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use ublk_targets::secret::Secret;
use zeroize::Zeroizing;

use super::error::PASSWORD;
use super::{CertificateInfo, ConfigError, Fingerprint, KmipConfig, Trust};
use crate::atomic_file;

/// Bytes that a file with certificates or a key has at most.
const FILE_LIMIT: u64 = 1 << 20;
/// Bytes that a password has at most.
const PASSWORD_LIMIT: u64 = 1024;

const CERTIFICATE: &str = "client certificate";
const KEY: &str = "client key";
const AUTHORITY: &str = "certificate authority file";

/// How to talk to the servers of `config`. Its files are read at each call, so that renewed certificates are used.
pub(super) fn client_config(config: &KmipConfig) -> Result<Arc<ClientConfig>, ConfigError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(&config.trust, &provider)?;
    let chain = certificates(CERTIFICATE, &config.certificate)?;
    let key = private_key(&config.key)?;
    let unusable = |error: Error| content(CERTIFICATE, &config.certificate, error);
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                content(KEY, &config.key, "it is not that of the client certificate")
            }
            error => unusable(error),
        })?;
    // Each connection is a full handshake: no ticket, and so no key of an earlier session, is kept.
    client.resumption = Resumption::disabled();
    Ok(Arc::new(client))
}

/// How to meet a server that is not trusted yet: the handshake fails as soon as its certificate is in `seen`.
pub(super) fn meeting_config() -> Result<(Arc<ClientConfig>, Arc<Meeting>), Error> {
    let provider = Arc::new(ring::default_provider());
    let meeting = Arc::new(Meeting { seen: Mutex::default(), provider: Arc::clone(&provider) });
    let verifier = Arc::clone(&meeting);
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok((Arc::new(client), meeting))
}

fn verifier(
    trust: &Trust,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, ConfigError> {
    match trust {
        Trust::Pins(pins) => Ok(Arc::new(Pinned { pins: pins.clone(), provider: Arc::clone(provider) })),
        Trust::Ca(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(AUTHORITY, path)? {
                roots.add(certificate).map_err(|error| content(AUTHORITY, path, error))?;
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
                .map_err(|error| content(AUTHORITY, path, error))
        }
    }
}

/// Passes the certificates that it knows, at their time, whatever names are in them.
#[derive(Debug)]
struct Pinned {
    pins: Vec<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pins.contains(&Fingerprint::of(end_entity)) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let info = CertificateInfo::read(end_entity).ok_or(CertificateError::BadEncoding)?;
        let now = std::time::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match now {
            now if now < info.not_before => Err(CertificateError::NotValidYet.into()),
            now if now > info.not_after => Err(CertificateError::Expired.into()),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Passes no certificate, and remembers the one that it was shown.
#[derive(Debug)]
pub(super) struct Meeting {
    seen: Mutex<Option<Vec<u8>>>,
    provider: Arc<CryptoProvider>,
}

impl Meeting {
    /// The certificate that the server showed, DER.
    pub fn seen(&self) -> Option<Vec<u8>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Meeting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
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

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let pem = read_private(KEY, path, FILE_LIMIT)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| content(KEY, path, error))
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

fn content(what: &'static str, path: &Path, problem: impl ToString) -> ConfigError {
    ConfigError::Content { what, path: path.to_owned(), problem: super::one_line(&problem.to_string()) }
}
