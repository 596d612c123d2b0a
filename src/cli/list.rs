//! `blkseal list`: every volume in a line.

use clap::Args;

use super::output::{Cell, short_size, table};
use super::session::Session;
use super::{help, status};
use crate::control::{self, Failure, Volumes};

/// List the volumes that this host knows
#[derive(Debug, Args)]
#[command(visible_alias = "ls", after_long_help = help::examples(help::LIST))]
pub struct List {}

impl List {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        session.output.answer(&session.daemon()?.call(&control::List {})?, text)
    }
}

fn text(Volumes { volumes }: &Volumes) -> String {
    if volumes.is_empty() {
        return "no volumes; make one with 'blkseal create BACKING'\n".into();
    }
    let rows = volumes.iter().map(|volume| {
        [
            Cell::from(&volume.name),
            status::state(volume),
            volume.size.map_or("-".into(), |bytes| Cell::from(short_size(bytes))),
            volume.device.as_ref().map_or("-".into(), |device| Cell::from(device.node.display())),
            volume.provider.as_deref().unwrap_or("-").into(),
            volume.backing.as_ref().map_or("-".into(), |backing| Cell::from(backing.display())),
        ]
    });
    table(["NAME", "STATE", "SIZE", "DEVICE", "PROVIDER", "BACKING"], rows.collect())
}
