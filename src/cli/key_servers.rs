//! `blkseal provider add kmip` and `blkseal provider check`: key servers.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::output::{BAD, Cell, GOOD, WAITING, fields};
use super::session::Daemon;
use super::terminal::Terminal;
use super::{help, values};
use crate::control::{
    self, Certificate, Checked, Failure, FailureKind, KeyServer, Met, Name, ProviderAddKmip, ProviderCheck,
    ProviderMeet,
};

/// Use the keys of a cluster of KMIP servers
///
/// All servers of one cluster have the same keys; the first that answers is used. This host shows them a certificate,
/// and knows them by the authority that signed theirs (--ca), or by their certificates themselves (--pin,
/// --trust-on-first-use). The daemon reads the files whenever it connects, so renewed ones are used at once.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::PROVIDER_ADD_KMIP))]
#[command(group = ArgGroup::new("trust").required(true).args(["ca", "pins", "trust_on_first_use"]))]
pub struct Kmip {
    /// What to call it
    name: Name,
    /// A server, its port 5696 unless given; once for each, the preferred one first
    #[arg(long = "server", value_name = "HOST[:PORT]", required = true)]
    servers: Vec<String>,
    /// The authorities that sign the servers' certificates, PEM
    #[arg(long, value_name = "FILE", value_parser = values::path)]
    ca: Option<PathBuf>,
    /// The SHA-256 fingerprint of a server's certificate, once for each
    #[arg(long = "pin", value_name = "FINGERPRINT")]
    pins: Option<Vec<String>>,
    /// Show the servers' certificates and ask whether to trust them from now on
    #[arg(long)]
    trust_on_first_use: bool,
    /// This host's certificate, PEM
    #[arg(long = "cert", value_name = "FILE", value_parser = values::path)]
    certificate: PathBuf,
    /// Its private key, PEM; only its owner may read the file
    #[arg(long, value_name = "FILE", value_parser = values::path)]
    key: PathBuf,
    /// The HTTP proxy on the way to the servers
    #[arg(long, value_name = "HOST:PORT")]
    proxy: Option<String>,
    /// A user's name, for servers that want one beside the certificate
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// That user's password; only its owner may read the file
    #[arg(long, value_name = "FILE", requires = "user", value_parser = values::path)]
    password_file: Option<PathBuf>,
    /// The object group of this host's keys at the servers [default: blkseal]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// How long a key may stay in the daemon's memory, as 90s, 30m, 12h, 7d [default: until it is locked]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_age: Option<u64>,
    /// Use keys, too, that another server of the cluster says it has not: they are lost with the one that has them
    #[arg(long)]
    allow_unreplicated: bool,
    /// Make it the default, which 'create' uses
    #[arg(long = "default")]
    make_default: bool,
}

/// Ask each server of a KMIP provider what it is and can do
///
/// Exits with 75 where one of them does not serve this host.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::PROVIDER_CHECK))]
pub struct Check {
    /// Its name
    pub name: Name,
}

impl Kmip {
    /// Adds the provider.
    pub fn add(mut self, daemon: &mut Daemon) -> Result<control::Provider, Failure> {
        if self.trust_on_first_use {
            let meet = ProviderMeet {
                name: Some(self.name.clone()),
                servers: self.servers.clone(),
                proxy: self.proxy.clone(),
            };
            self.pins = Some(trusted_pins(daemon, &meet)?);
        }
        let call = ProviderAddKmip {
            name: self.name,
            servers: self.servers,
            certificate: self.certificate,
            key: self.key,
            ca: self.ca,
            pins: self.pins,
            proxy: self.proxy,
            user: self.user,
            password_file: self.password_file,
            group: self.group,
            max_age: self.max_age,
            allow_unreplicated: self.allow_unreplicated,
            make_default: self.make_default,
        };
        daemon.call_slow("asking the key servers", &call, &[])
    }
}

/// The fingerprints of the certificates that the servers show, if the user trusts them all.
pub fn trusted_pins(daemon: &mut Daemon, meet: &ProviderMeet) -> Result<Vec<String>, Failure> {
    let terminal = Terminal::open().map_err(|_| {
        let message = "there is no terminal to show the servers' certificates on";
        Failure::new(FailureKind::InvalidArgument, message)
            .hint("give --ca FILE, or --pin FINGERPRINT for each server")
    })?;
    let Met { certificates } = daemon.call_slow("asking the key servers", meet, &[])?;
    let shown: String =
        certificates.iter().map(|met| certificate_text(&met.server, &met.certificate)).collect();
    let trusted = terminal.confirm(&format!("{shown}Trust them from now on? [yes/no] "));
    match trusted {
        Ok(true) => Ok(certificates.into_iter().map(|met| met.certificate.fingerprint).collect()),
        Ok(false) => {
            let message = "the servers' certificates are not trusted; nothing was done";
            Err(Failure::new(FailureKind::NotPermitted, message))
        }
        Err(error) => {
            let message = format!("cannot read from the terminal: {error}");
            Err(Failure::new(FailureKind::Io, message))
        }
    }
}

fn certificate_text(server: &str, certificate: &Certificate) -> String {
    let text = fields(&[
        ("key server", server.into()),
        ("subject", (&certificate.subject).into()),
        ("issuer", (&certificate.issuer).into()),
        ("good from", (&certificate.not_before).into()),
        ("good until", (&certificate.not_after).into()),
        ("SHA-256", (&certificate.fingerprint).into()),
    ]);
    text + "\n"
}

impl Check {
    /// Asks.
    pub fn check(&self, daemon: &mut Daemon) -> Result<Checked, Failure> {
        daemon.call_slow("asking the key servers", &ProviderCheck { name: self.name.clone() }, &[])
    }
}

/// A failure where a server does not serve.
pub fn verdict(name: &Name, Checked { servers, .. }: &Checked) -> Result<(), Failure> {
    let failing = servers.iter().filter(|server| server.problem.is_some());
    let Some(first) = failing.clone().next() else { return Ok(()) };
    let message =
        format!("{} of {} servers of key provider {name} do not serve", failing.count(), servers.len());
    let failure = Failure::new(FailureKind::Locked, message);
    Err(Failure { hint: first.hint.clone(), ..failure })
}

/// This host and the servers, a paragraph each.
pub fn text(checked: &Checked) -> String {
    checked
        .host
        .iter()
        .map(|host| own(checked, host))
        .chain(checked.servers.iter().map(paragraph))
        .collect::<Vec<_>>()
        .join("\n")
}

fn own(checked: &Checked, host: &Certificate) -> String {
    let mut lines = vec![
        ("this host", Cell::from(&host.subject)),
        ("good until", checked.host_good_until.as_deref().unwrap_or(&host.not_after).into()),
    ];
    lines.extend(checked.warning.as_deref().map(|warning| ("warning", Cell::styled(warning, WAITING))));
    fields(&lines)
}

fn paragraph(server: &KeyServer) -> String {
    let name = ("server", Cell::from(&server.server));
    let Some(status) = &server.status else {
        let problem = server.problem.as_deref().unwrap_or("unknown");
        return fields(&[name, ("state", Cell::styled("does not serve", BAD)), ("problem", problem.into())]);
    };
    let certificate = status.certificate.as_ref();
    fields(&[
        name,
        ("state", Cell::styled("serves", GOOD)),
        ("address", (&status.address).into()),
        ("TLS", format!("{}, {}", status.tls, status.cipher).into()),
        ("certificate", certificate.map_or("-", |found| &found.subject).into()),
        ("good until", certificate.map_or("-", |found| &found.not_after).into()),
        ("KMIP", status.versions.join(" ").into()),
        ("vendor", status.vendor.as_deref().unwrap_or("-").into()),
        ("latency", format!("{}.{:03} ms", status.latency_us / 1000, status.latency_us % 1000).into()),
        ("operations", status.operations.join(", ").into()),
    ])
}
