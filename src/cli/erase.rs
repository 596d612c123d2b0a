//! `blkseal erase`: the end of a volume's data.

use clap::Args;

use super::confirm::Confirmation;
use super::help;
use super::session::Session;
use super::values::VolumeArgument;
use crate::control::{self, Erased, Failure};

/// Destroy what opens a closed volume: its data is lost
///
/// Overwrites the wrapped key, the recovery passphrases and both copies of the header, and forgets the volume. Its data
/// stays where it is, as noise. Copies of the header that were made before, as in backups, on flash and on file systems that
/// write elsewhere, still open it as long as its KEK is there: see 'blkseal kek destroy'.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::ERASE))]
pub struct Erase {
    /// Its name, its UUID, or the path of its backing (with a '/')
    volume: VolumeArgument,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Erase {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let volume = self.volume.text();
        let mut daemon = session.daemon()?;
        let explain = |failure| self.volume.explain(failure);
        let known = daemon.call(&control::Status { volume: volume.clone() }).map_err(explain)?;
        let backing =
            known.backing.as_deref().map(|path| format!(" on {}", path.display())).unwrap_or_default();
        self.confirmation
            .ask(&format!("Destroy what opens volume {}{backing}? All its data is lost.", known.name))?;
        let done = daemon.call_slow("erasing the volume", &control::Erase { volume }, &[]);
        session.output.answer(&done.map_err(explain)?, text)
    }
}

fn text(Erased { name, provider, kek_id, needed_by, .. }: &Erased) -> String {
    let kek = match &needed_by[..] {
        [] => format!(
            "no known volume needs it any more: blkseal kek revoke {provider}/{kek_id} && blkseal kek destroy {provider}/{kek_id}"
        ),
        [one] => format!("volume {one} still needs it"),
        several => format!("{} volumes still need it", several.len()),
    };
    format!(
        "volume {name} is erased: its header, its wrapped key and its passphrases are overwritten\n\
         flash, snapshots and backups may keep older blocks of them, which its KEK opens: KEK {kek_id} of {provider}; {kek}\n"
    )
}
