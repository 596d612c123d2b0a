//! `blkseal release`: a volume goes back to stock cryptsetup.

use clap::Args;

use super::help;
use super::session::Session;
use super::values::VolumeArgument;
use crate::control::{self, Failure};

/// Give a closed volume back to stock cryptsetup, and forget it
///
/// Takes what blkseal wrote out of the LUKS2 header: from then on a recovery passphrase opens the volume, and nothing
/// else. Refused where it has none. No data moves. 'blkseal adopt' is the way back.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::RELEASE))]
pub struct Release {
    /// Its name, its UUID, or the path of its backing (with a '/')
    volume: VolumeArgument,
}

impl Release {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let volume = self.volume.text();
        let call = control::Release { volume: volume.clone() };
        let released = session.daemon()?.call_slow("releasing the volume", &call, &[]);
        let done = released.map_err(|failure| self.volume.explain(failure))?;
        session.output.answer(&done, |_| {
            format!("{volume} is released; stock cryptsetup opens it with its passphrase\n")
        })
    }
}
