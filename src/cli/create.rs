//! `blkseal create`: a new encrypted volume.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::confirm::Confirmation;
use super::output::short_size;
use super::session::Session;
use super::{help, values};
use crate::control::{self, Failure, FailureKind, Name, Volume};

/// Make an encrypted volume of a block device or an image file
///
/// Writes a LUKS2 header and gives the volume a new random key, wrapped by the key provider's KEK. What the backing
/// holds is lost; a backing in use is refused, or one of a volume that this host knows, and one with a file system or another
/// header on it unless --force is given. Stock cryptsetup reads the volume once 'blkseal recovery add' has given it a passphrase.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::CREATE))]
pub struct Create {
    /// The block device or file that is to hold the encrypted data
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
    /// Put the header into FILE, to be made, and use all of the backing for data
    #[arg(long, value_name = "FILE", value_parser = values::path)]
    header: Option<PathBuf>,
    /// Bytes of a sector, 512 or 4096 [default: 4096]
    #[arg(long, value_name = "BYTES", value_parser = values::sector_size)]
    sector_size: Option<u32>,
    /// Overwrite a file system or another header on the backing
    #[arg(long)]
    force: bool,
    /// Overwrite a detached LUKS2 header in FILE that no known volume has
    #[arg(long, requires = "header")]
    replace_header: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Create {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let name = match self.name {
            Some(name) => name,
            None => name_after(&self.backing)?,
        };
        if self.force || self.replace_header {
            let overwritten =
                [self.force.then_some(&self.backing), self.header.as_ref().filter(|_| self.replace_header)];
            let overwritten: Vec<_> =
                overwritten.into_iter().flatten().map(|path| path.display().to_string()).collect();
            self.confirmation.ask(&format!("Overwrite what is on {}?", overwritten.join(" and ")))?;
        }
        let call = control::Create {
            name,
            backing: self.backing,
            header: self.header,
            sector_size: self.sector_size,
            provider: self.provider,
            kek_id: self.kek,
            force: self.force,
            replace_header: self.replace_header,
        };
        let volume = session.daemon()?.call_slow("making the volume", &call, &[])?;
        session.output.warn_of(&volume);
        session.output.answer(&volume, |volume| text(volume, "made"))
    }
}

/// The name that a volume gets from the path of its backing: the file's name, without the extension of an image.
pub fn name_after(backing: &Path) -> Result<Name, Failure> {
    let is_device = backing.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
    let last = if is_device { backing.file_name() } else { backing.file_stem() };
    let text = last.unwrap_or_default().to_string_lossy().into_owned();
    text.parse().map_err(|error: control::NameError| {
        Failure::from_error(FailureKind::InvalidArgument, &error).hint("give the volume a name with --name")
    })
}

/// What became of a volume that was `done` so.
pub fn text(volume: &Volume, done: &str) -> String {
    let size = volume.size.map(|bytes| format!(": {}", short_size(bytes))).unwrap_or_default();
    let kek = match (&volume.kek_id, &volume.provider) {
        (Some(kek), Some(provider)) => format!(", its key wrapped by KEK {kek} of {provider}"),
        _ => String::new(),
    };
    let name = &volume.name;
    format!("volume {name} is {done}{size}{kek}\nopen it with: blkseal open {name}\n")
}
