//! `blkseal forget`: a volume that this host is to know no more.

use clap::Args;

use super::confirm::Confirmation;
use super::help;
use super::session::Session;
use super::values::VolumeArgument;
use crate::control::{self, Failure, Forgotten};

/// Forget a closed volume, whose disk may be gone
///
/// Nothing on its disk changes: 'blkseal open' with the path of its backing makes it known again, as long as its KEK is
/// there. So that it is, 'blkseal kek destroy' and 'blkseal provider remove' go on to refuse what would end it, unless
/// --for-good is given, now or later.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::FORGET))]
pub struct Forget {
    /// Its name, its UUID, or the path of its backing (with a '/')
    volume: VolumeArgument,
    /// Let its KEK go, too: without that, nothing opens the volume where it has no recovery passphrase
    #[arg(long)]
    for_good: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Forget {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let volume = self.volume.text();
        let mut daemon = session.daemon()?;
        let loss = match self.for_good {
            true => "and let go of its KEK, without which nothing but a recovery passphrase opens it",
            false => "with its name, and where it is; its disk stays as it is",
        };
        self.confirmation.ask(&format!("Forget volume {volume}, {loss}?"))?;
        let call = control::Forget { volume, for_good: self.for_good };
        let done = daemon.call_slow("forgetting the volume", &call, &[]);
        session.output.answer(&done.map_err(|failure| self.volume.explain(failure))?, text)
    }
}

fn text(Forgotten { name, uuid, provider, kek_id, for_good }: &Forgotten) -> String {
    let kek = match for_good {
        true => format!("KEK {kek_id} of {provider} is not kept for it"),
        false => format!("KEK {kek_id} of {provider} is kept for it until: blkseal forget {uuid} --for-good"),
    };
    format!("volume {name} is forgotten\n{kek}\n")
}
