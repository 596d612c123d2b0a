//! `blkseal provider set`: other settings for a cluster of key servers.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::key_servers::trusted_pins;
use super::session::Daemon;
use super::{help, values};
use crate::control::{self, Failure, FailureKind, Name, ProviderMeet, ProviderSet};

/// Change the settings of a KMIP provider: its servers have moved, or renewed their certificates
///
/// What is not given stays as it is; lists replace those of before. The new settings hold once a server has answered as it
/// should and has a key that the provider's volumes need; otherwise nothing changes. The daemon forgets the
/// provider's keys and asks the servers for them again; live volumes do not notice.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::PROVIDER_SET))]
#[command(group = ArgGroup::new("trust").args(["ca", "pins", "trust_on_first_use"]))]
pub struct Set {
    /// Its name
    name: Name,
    /// A server, its port 5696 unless given; once for each that it has from now on, the preferred one first
    #[arg(long = "server", value_name = "HOST[:PORT]")]
    servers: Option<Vec<String>>,
    /// The authorities that sign the servers' certificates, PEM
    #[arg(long, value_name = "FILE", value_parser = values::path)]
    ca: Option<PathBuf>,
    /// The SHA-256 fingerprint of a server's certificate, once for each server
    #[arg(long = "pin", value_name = "FINGERPRINT")]
    pins: Option<Vec<String>>,
    /// Show the certificates of all servers and ask whether to trust them from now on
    #[arg(long)]
    trust_on_first_use: bool,
    /// This host's certificate, PEM
    #[arg(long = "cert", value_name = "FILE", value_parser = values::path)]
    certificate: Option<PathBuf>,
    /// Its private key, PEM; only its owner may read the file
    #[arg(long, value_name = "FILE", value_parser = values::path)]
    key: Option<PathBuf>,
    /// The HTTP proxy on the way to the servers
    #[arg(long, value_name = "HOST:PORT")]
    proxy: Option<String>,
    /// Reach the servers without a proxy
    #[arg(long, conflicts_with = "proxy")]
    no_proxy: bool,
    /// A user's name, for servers that want one beside the certificate
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// That user's password; only its owner may read the file
    #[arg(long, value_name = "FILE", value_parser = values::path)]
    password_file: Option<PathBuf>,
    /// Name no user
    #[arg(long, conflicts_with_all = ["user", "password_file"])]
    no_user: bool,
    /// The object group of this host's keys at the servers, from now on
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// How long a key may stay in the daemon's memory, as 90s, 30m, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_age: Option<u64>,
    /// Let keys stay in the daemon's memory until the provider is locked
    #[arg(long, conflicts_with = "max_age")]
    no_max_age: bool,
    /// Use keys, too, that another server of the cluster says it has not: they are lost with the one that has them
    #[arg(long)]
    allow_unreplicated: bool,
    /// Use no such keys
    #[arg(long, conflicts_with = "allow_unreplicated")]
    require_replicated: bool,
}

impl Set {
    fn changes_something(&self) -> bool {
        let Self {
            name: _,
            servers,
            ca,
            pins,
            trust_on_first_use,
            certificate,
            key,
            proxy,
            no_proxy,
            user,
            password_file,
            no_user,
            group,
            max_age,
            no_max_age,
            allow_unreplicated,
            require_replicated,
        } = self;
        let paths = [ca, certificate, key, password_file].into_iter().any(Option::is_some);
        let texts = [proxy, user, group].into_iter().any(Option::is_some);
        let lists = [servers, pins].into_iter().any(Option::is_some);
        let flags = *trust_on_first_use || *no_proxy || *no_user || *no_max_age;
        let flags = flags || *allow_unreplicated || *require_replicated;
        paths || texts || lists || flags || max_age.is_some()
    }

    /// Sets.
    pub fn set(self, daemon: &mut Daemon) -> Result<control::Provider, Failure> {
        if !self.changes_something() {
            let failure =
                Failure::new(FailureKind::InvalidArgument, "no setting is given that is to be changed");
            return Err(failure.hint("'blkseal provider set --help' shows what can be"));
        }
        let proxy = self.proxy.or_else(|| self.no_proxy.then(String::new));
        let mut pins = self.pins;
        if self.trust_on_first_use {
            let servers = self.servers.clone().unwrap_or_default();
            let meet = ProviderMeet { name: Some(self.name.clone()), servers, proxy: proxy.clone() };
            pins = Some(trusted_pins(daemon, &meet)?);
        }
        let call = ProviderSet {
            name: self.name,
            servers: self.servers,
            certificate: self.certificate,
            key: self.key,
            ca: self.ca,
            pins,
            proxy,
            user: self.user.or_else(|| self.no_user.then(String::new)),
            password_file: self.password_file,
            group: self.group,
            max_age: self.max_age.or_else(|| self.no_max_age.then_some(0)),
            allow_unreplicated: (self.allow_unreplicated || self.require_replicated)
                .then_some(self.allow_unreplicated),
        };
        daemon.call_slow("asking the key servers", &call, &[])
    }
}
