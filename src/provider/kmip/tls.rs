//! TLS 1.2 and 1.3 with a certificate on both sides, by rustls on ring.
//!
//! ring rather than AWS-LC: it builds with a C compiler alone, and all that it allocates comes from Rust's allocator,
//! so that the daemon's, which wipes what is freed, sees it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::own::{self, AUTHORITY, CERTIFICATE, KEY, content};
use super::{CertificateInfo, ConfigError, Fingerprint, KmipConfig, Trust};

/// How to talk to the servers of `config`. Its files are read at each call, so that renewed certificates are used.
pub(super) fn client_config(config: &KmipConfig) -> Result<Arc<ClientConfig>, ConfigError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(&config.trust, &provider)?;
    let (chain, key) = (own::chain(config)?, own::private_key(&config.key)?);
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
            Error::General(problem) => content(KEY, &config.key, problem),
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
            for certificate in own::authorities(path)? {
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

    /// More than are supported, so that a server shows its certificate whatever key it has.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.provider.signature_verification_algorithms.supported_schemes();
        schemes.extend([SignatureScheme::ECDSA_NISTP521_SHA512, SignatureScheme::ED448]);
        schemes
    }
}
