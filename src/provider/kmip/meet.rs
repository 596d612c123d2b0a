//! A first look at a server's certificate, before it is trusted.

use super::connection::Connection;
use super::{CertificateInfo, Fault, Limits, ProxyAddress, ServerAddress, ServerError, tls};

/// What `server` shows as its certificate. Nothing is sent to it but the start of a handshake.
pub fn meet(
    server: &ServerAddress,
    proxy: Option<&ProxyAddress>,
    limits: &Limits,
) -> Result<CertificateInfo, ServerError> {
    let seen = || {
        let (tls, meeting) = tls::meeting_config().map_err(|error| Fault::Tls(error.to_string()))?;
        let ended = Connection::open(server, proxy, tls, limits.connect());
        match (meeting.seen(), ended) {
            (Some(der), _) => CertificateInfo::read(&der)
                .ok_or_else(|| Fault::Certificate("is not one that can be read".into())),
            (None, Err(fault)) => Err(fault),
            (None, Ok(_)) => Err(Fault::Certificate("is missing".into())),
        }
    };
    seen().map_err(|fault| ServerError { server: server.clone(), fault })
}
