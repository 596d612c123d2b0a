//! `blkseal adopt`: a LUKS2 volume of another maker.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;

use super::confirm::Confirmation;
use super::passphrase::{Ask, SecretSource};
use super::session::Session;
use super::{create, help, values};
use crate::control::{self, Failure, FailureKind, Name, SecretFd};

/// Make a LUKS2 volume of cryptsetup's a volume of blkseal's, where it is
///
/// Opens it once with one of its passphrases, has its key wrapped by the key provider's KEK, and writes that into its
/// header. No data moves, and its passphrases stay, so that stock cryptsetup opens it still, unless
/// --remove-passphrases is given. It must not be in use, and have the cipher aes-xts-plain64, a key of 512 bits and
/// sectors of 512 or 4096 bytes. 'blkseal release' is the way back.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::ADOPT))]
pub struct Adopt {
    /// The block device or file that holds the volume
    #[arg(value_parser = values::path)]
    backing: PathBuf,
    /// What to call the volume [default: after the backing: vm1 for /srv/vm1.img]
    #[arg(long)]
    name: Option<Name>,
    /// Whose KEK wraps the volume's key [default: the default provider]
    #[arg(long, value_name = "NAME")]
    provider: Option<Name>,
    /// Which of its KEKs [default: the newest active one]
    #[arg(long, value_name = "ID")]
    kek: Option<String>,
    /// The file that holds the header, where that is not on the backing
    #[arg(long, value_name = "FILE", value_parser = values::path)]
    header: Option<PathBuf>,
    /// Wipe all its passphrases, once the KEK has been seen to open it
    #[arg(long)]
    remove_passphrases: bool,
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    secret: SecretSource,
}

impl Adopt {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let name = match self.name {
            Some(name) => name,
            None => create::name_after(&self.backing)?,
        };
        let mut daemon = session.daemon()?;
        // Nobody is asked for the passphrase of what is not there.
        [Some(&*self.backing), self.header.as_deref()].into_iter().flatten().try_for_each(check_exists)?;
        if self.remove_passphrases {
            self.confirmation.ask(&format!("Wipe all passphrases of {}?", self.backing.display()))?;
        }
        let secret = self.secret.read(Ask::Known(&self.backing.display().to_string()))?;
        let call = control::Adopt {
            name,
            backing: self.backing,
            header: self.header,
            secret: SecretFd(0),
            provider: self.provider,
            kek_id: self.kek,
            remove_passphrases: self.remove_passphrases,
        };
        let volume = daemon.call_slow("adopting the volume", &call, &[&secret])?;
        session.output.warn_of(&volume);
        session.output.answer(&volume, |volume| create::text(volume, "adopted"))
    }
}

/// The daemon sees more than its caller may, so that only what is not there is told of here.
fn check_exists(path: &Path) -> Result<(), Failure> {
    match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Failure::new(FailureKind::NoInput, format!("{} does not exist", path.display())))
        }
        _ => Ok(()),
    }
}
