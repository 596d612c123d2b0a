//! The method of `io.blkseal.Daemon` that reads the event log, and what an event is.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Asks for events, oldest first. A caller goes on with `after` where the page before ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// The position in the log to begin at: `next` of the page before; none is the oldest event.
    pub after: Option<u64>,
    /// The time of the oldest event to be shown, RFC 3339.
    pub since: Option<String>,
    /// Name, UUID or path of the backing of the volume whose events are to be shown; none shows all.
    pub volume: Option<String>,
    /// Seconds, 60 at most, to wait where there is none yet.
    pub wait: Option<u32>,
}

/// Some events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// The events; perhaps none, even where there are more.
    pub events: Vec<Event>,
    /// The position to go on at.
    pub next: u64,
    /// Whether the log goes on already.
    pub more: bool,
}

/// Something that changed, or that somebody tried to change. In the log it is the same object, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When: RFC 3339, UTC, to the microsecond, always of the same length.
    pub time: String,
    /// The user who asked; none where the daemon acted by itself.
    pub uid: Option<u32>,
    /// That user's process; none where it is about several.
    pub pid: Option<i32>,
    /// What was done, as the command line calls it where it has a word for it.
    pub verb: String,
    /// The name of the volume, or what the caller called it.
    pub volume: Option<String>,
    /// The volume's UUID.
    pub uuid: Option<Uuid>,
    /// The key provider.
    pub provider: Option<String>,
    /// The KEK.
    pub kek_id: Option<String>,
    /// The key server, `HOST:PORT`; several with a blank between them where the call named several.
    pub server: Option<String>,
    /// `ok`, or the name of the error that the caller got.
    pub result: String,
    /// The error's message, or what else is to be said.
    pub message: Option<String>,
}
