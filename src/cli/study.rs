//! `blkseal study`: devices without encryption, to find out what encryption costs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::open::{self, DeviceArguments};
use super::session::Session;
use super::{help, values};
use crate::control::{Failure, Name, OpenTarget, TargetKind};

/// Open devices WITHOUT encryption, to measure what encryption costs
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true, after_long_help = help::examples(help::STUDY))]
pub enum Study {
    Null(Null),
    Plain(Plain),
}

/// A device that does nothing: the cost of ublk itself
#[derive(Debug, Args)]
pub struct Null {
    /// What to call it until it is closed
    name: Name,
    /// Its size, such as 1G
    #[arg(long, value_name = "BYTES", value_parser = values::size)]
    size: u64,
    #[command(flatten)]
    common: Common,
}

/// A device that passes sectors through as they are: the cost of all but encryption
#[derive(Debug, Args)]
pub struct Plain {
    /// What to call it until it is closed
    name: Name,
    /// The block device or file below. What is written to it is NOT encrypted
    #[arg(value_parser = values::path)]
    backing: PathBuf,
    /// Although it is a known volume's, whose data writes destroy
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// Bytes of a sector, 512 or 4096 [default: 4096]
    #[arg(long, value_name = "BYTES", value_parser = values::sector_size)]
    sector_size: Option<u32>,
    #[command(flatten)]
    device: DeviceArguments,
}

impl Study {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let (name, target, backing, size, force, common) = match self {
            Self::Null(Null { name, size, common }) => {
                (name, TargetKind::Null, None, Some(size), false, common)
            }
            Self::Plain(Plain { name, backing, force, common }) => {
                (name, TargetKind::Plain, Some(backing), None, force, common)
            }
        };
        let Common { sector_size, device } = common;
        let options = device.options(None);
        let call = OpenTarget { name, target, backing, size, sector_size, options, force };
        let volume = session.daemon()?.call_slow("opening the device", &call, &[])?;
        session.output.answer(&volume, open::text)
    }
}
