//! `blkseal provider`: where KEKs come from.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::key_servers::{self, Check, Kmip};
use super::output::{BAD, Cell, GOOD, WAITING, table};
use super::passphrase::{Ask, NewSecretSource, SecretSource};
use super::provider_set::Set;
use super::session::{Daemon, Session};
use super::{help, values};
use crate::control::{self, Availability, Failure, FailureKind, Name, ProviderKind, Providers, SecretFd};

/// Key providers: where the keys come from that wrap volumes' keys
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true, after_long_help = help::examples(help::PROVIDER))]
pub enum Provider {
    #[command(subcommand)]
    Add(Add),
    Set(Box<Set>),
    List(List),
    Remove(Remove),
    Default(Default),
    Unlock(Unlock),
    Passphrase(Passphrase),
    Lock(Lock),
    Check(Check),
}

/// Add a key provider; the first one becomes the default
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true)]
pub enum Add {
    Native(Native),
    Kmip(Box<Kmip>),
}

/// Keep keys in a file of this host, sealed by a passphrase or a key file
///
/// Makes the file with one new KEK, or takes one that is there. The passphrase is asked for twice on the terminal
/// unless --key-file or --passphrase-fd says where it is. Whoever has the file and the passphrase can open the
/// volumes; without either nobody can, so keep a copy of both.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::PROVIDER_ADD))]
pub struct Native {
    /// What to call it
    name: Name,
    /// The file for its KEKs [default: one in the daemon's state directory]
    #[arg(long, value_name = "FILE", value_parser = values::path)]
    store: Option<PathBuf>,
    #[command(flatten)]
    secret: SecretSource,
    /// Make it the default, which 'create' uses
    #[arg(long = "default")]
    make_default: bool,
}

/// List the key providers
#[derive(Debug, Args)]
#[command(visible_alias = "ls")]
pub struct List {}

/// Forget a key provider; its key file stays. Refused while a known volume needs it
#[derive(Debug, Args)]
pub struct Remove {
    /// Its name
    name: Name,
}

/// Make a key provider the one that 'create' uses
#[derive(Debug, Args)]
pub struct Default {
    /// Its name
    name: Name,
}

/// Take a provider's keys into the daemon's locked memory
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::PROVIDER_UNLOCK))]
pub struct Unlock {
    /// Its name
    name: Name,
    #[command(flatten)]
    secret: SecretSource,
}

/// Seal a native provider's keys by another passphrase or key file
///
/// Asks for the passphrase of now and twice for the new one, unless options say where they are. The keys stay the same,
/// and so do copies of the file that were made before: the old passphrase opens those. Where it is no longer secret, move the
/// volumes to another provider with 'blkseal rekey'.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::PROVIDER_PASSPHRASE))]
pub struct Passphrase {
    /// Its name
    name: Name,
    #[command(flatten)]
    secret: SecretSource,
    #[command(flatten)]
    new_secret: NewSecretSource,
}

/// Wipe a provider's keys from the daemon's memory; live volumes do not notice
#[derive(Debug, Args)]
pub struct Lock {
    /// Its name
    name: Name,
}

impl Provider {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let mut daemon = session.daemon()?;
        let output = session.output;
        match self {
            Self::Add(Add::Native(native)) => output.answer(&native.add(&mut daemon)?, added),
            Self::Add(Add::Kmip(kmip)) => output.answer(&kmip.add(&mut daemon)?, added),
            Self::Set(set) => output.answer(&set.set(&mut daemon)?, changed),
            Self::Check(check) => {
                let checked = check.check(&mut daemon)?;
                output.answer(&checked, key_servers::text)?;
                key_servers::verdict(&check.name, &checked)
            }
            Self::List(List {}) => output.answer(&daemon.call(&control::ProviderList {})?, text),
            Self::Remove(Remove { name }) => {
                let done = daemon.call(&control::ProviderRemove { name: name.clone() })?;
                output.answer(&done, |_| format!("key provider {name} is forgotten\n"))
            }
            Self::Default(Default { name }) => {
                let done = daemon.call(&control::ProviderSetDefault { name: name.clone() })?;
                output.answer(&done, |_| format!("key provider {name} is the default\n"))
            }
            Self::Unlock(unlock) => output.answer(&unlock.unlock(&mut daemon)?, sentence),
            Self::Passphrase(passphrase) => output.answer(&passphrase.change(&mut daemon)?, resealed),
            Self::Lock(Lock { name }) => {
                output.answer(&daemon.call(&control::ProviderLock { name })?, sentence)
            }
        }
    }
}

impl Native {
    fn add(self, daemon: &mut Daemon) -> Result<control::Provider, Failure> {
        let secret = self.secret.read(Ask::New(&format!("key provider {}", self.name)))?;
        let call = control::ProviderAdd {
            name: self.name,
            kind: ProviderKind::Native,
            file: self.store,
            secret: SecretFd(0),
            make_default: self.make_default,
        };
        daemon.call_slow("sealing the keys", &call, &[&secret])
    }
}

/// Nobody is asked for the passphrase of what is not there.
fn check_is_there(daemon: &mut Daemon, name: &Name) -> Result<(), Failure> {
    let Providers { providers } = daemon.call(&control::ProviderList {})?;
    if providers.iter().all(|provider| provider.name != *name) {
        let failure = Failure::new(FailureKind::NotFound, format!("there is no key provider {name}"));
        return Err(failure.hint("'blkseal provider list' shows them all"));
    }
    Ok(())
}

impl Passphrase {
    fn change(self, daemon: &mut Daemon) -> Result<control::Provider, Failure> {
        let name = self.name;
        check_is_there(daemon, &name)?;
        let what = format!("key provider {name}");
        let (old, new) = (self.secret.read(Ask::Known(&what))?, self.new_secret.read(&what)?);
        let call = control::ProviderReseal { name, secret: SecretFd(0), new_secret: SecretFd(1) };
        daemon.call_slow("sealing the keys", &call, &[&old, &new])
    }
}

impl Unlock {
    fn unlock(self, daemon: &mut Daemon) -> Result<control::Provider, Failure> {
        let name = self.name;
        check_is_there(daemon, &name)?;
        let secret = self.secret.read(Ask::Known(&format!("key provider {name}")))?;
        let call = control::ProviderUnlock { name, secret: SecretFd(0) };
        daemon.call_slow("deriving the key", &call, &[&secret])
    }
}

fn added(provider: &control::Provider) -> String {
    let default = if provider.is_default { "; it is the default" } else { "" };
    format!("key provider {} is {}{default}\n", provider.name, word(provider.availability))
}

fn changed(provider: &control::Provider) -> String {
    format!("key provider {} has its new settings and is {}\n", provider.name, word(provider.availability))
}

fn resealed(provider: &control::Provider) -> String {
    format!(
        "key provider {} is sealed by the new passphrase or key file; the old one opens copies of its file that were made before\n",
        provider.name
    )
}

fn sentence(provider: &control::Provider) -> String {
    format!("key provider {} is {}\n", provider.name, word(provider.availability))
}

fn word(availability: Availability) -> &'static str {
    match availability {
        Availability::Ready => "ready",
        Availability::Locked => "locked",
        Availability::Unavailable => "unavailable",
    }
}

fn text(Providers { providers }: &Providers) -> String {
    if providers.is_empty() {
        return "no key providers; make one with 'blkseal provider add native NAME'\n".into();
    }
    let rows = providers.iter().map(|provider| {
        let style = match provider.availability {
            Availability::Ready => GOOD,
            Availability::Locked => WAITING,
            Availability::Unavailable => BAD,
        };
        let kind = match provider.kind {
            ProviderKind::Native => "native",
            ProviderKind::Kmip => "kmip",
        };
        [
            Cell::from(&provider.name),
            kind.into(),
            Cell::styled(word(provider.availability), style),
            (if provider.is_default { "yes" } else { "" }).into(),
            provider.volumes.into(),
            provider.kek_id.as_deref().unwrap_or("-").into(),
            match &provider.file {
                Some(file) => file.display().into(),
                None => provider.servers.join(" ").into(),
            },
        ]
    });
    table(["NAME", "KIND", "STATE", "DEFAULT", "VOLUMES", "KEK", "WHERE"], rows.collect())
}
