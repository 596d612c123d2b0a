//! `blkseal events`: what was done and refused, by whom.

use clap::Args;

use super::output::{BAD, GOOD, printable, write_while_read};
use super::session::Session;
use super::values::VolumeArgument;
use super::{help, values};
use crate::control::{self, Event, Failure};

/// Seconds that the daemon may keep a follower waiting.
const WAIT: u32 = 30;

/// Show what was changed and refused, by whom, with which keys; oldest first
///
/// The daemon keeps the last ones, some tens of MiB. With --json each event is a JSON object on a line of its own.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::EVENTS))]
pub struct Events {
    /// Go on with what happens from now on, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Leave out what is older than this time (2026-11-23T10:00:00Z, 2026-11-23) or time span (90s, 30m, 12h, 7d)
    #[arg(long, value_name = "TIME", value_parser = values::since)]
    since: Option<String>,
    /// Only what was done to this volume: its name, its UUID, or the path of its backing (with a '/')
    #[arg(long)]
    volume: Option<VolumeArgument>,
}

impl Events {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let mut daemon = session.daemon()?;
        let mut call = control::Events {
            after: None,
            since: self.since,
            volume: self.volume.map(|volume| volume.text()),
            wait: self.follow.then_some(WAIT),
        };
        loop {
            let page = daemon.call(&call)?;
            for event in &page.events {
                if !write_while_read(&session.output.render(event, line)?)? {
                    return Ok(());
                }
            }
            if !page.more && !self.follow {
                return Ok(());
            }
            call.after = Some(page.next);
        }
    }
}

fn line(event: &Event) -> String {
    let who = match (event.uid, event.pid) {
        (Some(uid), Some(pid)) => format!("uid {uid} pid {pid}"),
        (Some(uid), None) => format!("uid {uid}"),
        _ => "daemon".into(),
    };
    let mut what = vec![event.verb.as_str()];
    what.extend(event.volume.as_deref().or(event.provider.as_deref()));
    let style = if event.result == "ok" { GOOD } else { BAD };
    let mut with: Vec<String> = Vec::new();
    with.extend(
        event.provider.as_ref().filter(|_| event.volume.is_some()).map(|name| format!("provider {name}")),
    );
    with.extend(event.kek_id.as_ref().map(|id| format!("KEK {id}")));
    with.extend(event.server.as_ref().map(|server| format!("server {server}")));
    let with = if with.is_empty() { String::new() } else { format!(" ({})", with.join(", ")) };
    let message = event.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    format!(
        "{}  {who:<20}  {}: {style}{}{style:#}{}\n",
        printable(&event.time),
        printable(&what.join(" ")),
        printable(&event.result),
        printable(&format!("{with}{message}")),
    )
}
