//! `blkseal close`: the end of a volume's device.

use clap::Args;

use super::help;
use super::session::Session;
use super::values::VolumeArgument;
use crate::control::{self, Failure};

/// Close a volume: its device goes away and its key is wiped
///
/// Refused while the device is mounted or held open by anybody. Where no worker serves it and none can be had, those who use it
/// wait for ever: --force gives them errors then. A volume that is served and in use is not closed by --force either. One whose
/// header is gone or damaged takes --force, too: nothing opens it again, so copy its data off first.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::CLOSE))]
pub struct Close {
    /// Its name, its UUID, or the path of its backing (with a '/')
    volume: VolumeArgument,
    /// Give up a volume that no worker serves, with errors to those who use it and wait, or one that has lost its header
    #[arg(long)]
    force: bool,
}

impl Close {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let volume = self.volume.text();
        let call = control::Close { volume: volume.clone(), force: self.force };
        let closed = session.daemon()?.call_slow("closing the volume", &call, &[]);
        let done = closed.map_err(|failure| self.volume.explain(failure))?;
        if let Some(notice) = &done.notice {
            log::warn!("{notice}");
        }
        session.output.answer(&done, |_| format!("{volume} is closed\n"))
    }
}
