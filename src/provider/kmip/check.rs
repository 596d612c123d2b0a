//! What an administrator wants to know of each server, found out by asking it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::messages::{Operation, Version};
use super::session::{Dialer, Session};
use super::{CertificateInfo, ConfigError, Fault, KmipConfig, ServerAddress, ServerError};

/// What is to be told of one server.
#[derive(Debug)]
pub struct ServerReport {
    /// The server, as the settings name it.
    pub server: ServerAddress,
    /// What was found, or why nothing was.
    pub outcome: Result<ServerStatus, ServerError>,
}

/// A server that answers as it should and supports all that blkseal needs.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// The address that the connection leads to: the proxy's, where there is one.
    pub address: SocketAddr,
    /// The version of TLS, `TLS 1.3`.
    pub tls: String,
    /// The cipher suite, as its standard names it.
    pub cipher: String,
    /// What its certificate says.
    pub certificate: Option<CertificateInfo>,
    /// The versions of KMIP that it speaks, of those that blkseal speaks.
    pub versions: Vec<Version>,
    /// Who made it, as it says.
    pub vendor: Option<String>,
    /// How long one answer took.
    pub latency: Duration,
    /// The operations that it supports, of those that blkseal uses.
    pub operations: Vec<Operation>,
}

/// Asks every server of `config`, each on its own and for a bounded time.
///
/// # Errors
/// Where the settings or the files that they name cannot be used, so that no server can be asked.
pub fn check(config: &KmipConfig) -> Result<Vec<ServerReport>, ConfigError> {
    config.check()?;
    config.servers.iter().map(|server| report(config, server)).collect()
}

fn report(config: &KmipConfig, server: &ServerAddress) -> Result<ServerReport, ConfigError> {
    let dialer = Dialer::new(config, Instant::now() + config.limits.call())?;
    let outcome = dialer.session(server).and_then(|mut session| status(&mut session));
    let outcome = outcome.map_err(|fault| ServerError { server: server.clone(), fault });
    Ok(ServerReport { server: server.clone(), outcome })
}

fn status(session: &mut Session<'_>) -> Result<ServerStatus, Fault> {
    let start = Instant::now();
    let query = session.query()?;
    let latency = start.elapsed();
    let missing: Vec<Operation> =
        Operation::NEEDED.into_iter().filter(|operation| !query.operations.contains(operation)).collect();
    if !missing.is_empty() {
        return Err(Fault::Lacks(missing));
    }
    let (tls, cipher) = session.protection();
    Ok(ServerStatus {
        address: session.peer(),
        tls,
        cipher,
        certificate: session.certificate(),
        versions: session.versions().to_vec(),
        vendor: query.vendor,
        latency,
        operations: query.operations,
    })
}
