//! A first look at a server's certificate, before it is trusted.

use super::connection::Connection;
use super::{CertificateInfo, Fault, Limits, ProxyAddress, ServerAddress, ServerError, tls};

/// What `server` shows as its certificate. Nothing is sent to it but the start of a handshake.
pub fn meet(
    server: &ServerAddress,
    proxy: Option<&ProxyAddress>,
    limits: &Limits,
) -> Result<CertificateInfo, ServerError> {
    let read = |der: Vec<u8>| {
        CertificateInfo::read(&der).ok_or_else(|| Fault::Certificate("is not one that can be read".into()))
    };
    let met = shown(server, proxy, limits).and_then(read);
    met.map_err(|fault| ServerError { server: server.clone(), fault })
}

/// The certificate that `server` shows, DER.
pub(super) fn shown(
    server: &ServerAddress,
    proxy: Option<&ProxyAddress>,
    limits: &Limits,
) -> Result<Vec<u8>, Fault> {
    let (tls, meeting) = tls::meeting_config().map_err(|error| Fault::Tls(error.to_string()))?;
    let ended = Connection::open(server, proxy, tls, limits.connect());
    match (meeting.seen(), ended) {
        (Some(der), _) => Ok(der),
        (None, Err(fault)) => Err(fault),
        (None, Ok(_)) => Err(Fault::Certificate("is missing".into())),
    }
}
