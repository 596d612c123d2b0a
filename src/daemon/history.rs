//! The events of the past, for who asks.

use std::time::Duration;

use jiff::Timestamp;

use super::Daemon;
use crate::control::{Event, EventPage, Events, Failure, FailureKind};

/// Bytes of the log that are read for one page.
const PAGE: u64 = 256 << 10;
/// How long a caller may be kept waiting for something to happen.
const LONGEST_WAIT: u32 = 60;

impl Daemon {
    pub(super) fn events(&self, call: &Events) -> Result<EventPage, Failure> {
        let since = call.since.as_deref().map(time).transpose()?;
        let volume = call.volume.as_deref().map(|text| self.called(text));
        let is_wanted = |event: &Event| {
            let uuid = || event.uuid.map(|uuid| uuid.to_string());
            let is_of = |texts: &Vec<String>| {
                event.volume.iter().cloned().chain(uuid()).any(|text| texts.contains(&text))
            };
            since.as_ref().is_none_or(|since| event.time >= *since) && volume.as_ref().is_none_or(is_of)
        };
        let after = call.after.unwrap_or(0);
        let wait = Duration::from_secs(call.wait.unwrap_or(0).min(LONGEST_WAIT).into());
        let reader = self.recorder.reader(after, wait);
        let (bytes, next) = reader
            .read(after, PAGE)
            .map_err(|error| Failure::new(FailureKind::Io, format!("cannot read the event log: {error}")))?;
        // What is torn is no event.
        let events = bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        Ok(EventPage { events: events.filter(is_wanted).collect(), next, more: next < reader.end() })
    }

    /// What the volume that `text` means may be called in events.
    fn called(&self, text: &str) -> Vec<String> {
        let name = self.name_of(text);
        let uuid =
            name.as_ref().and_then(|name| self.volumes().get(name).map(|known| known.uuid.to_string()));
        name.map(|name| name.to_string()).into_iter().chain(uuid).chain([text.to_owned()]).collect()
    }
}

/// A time as events have it, so that texts compare as times do.
fn time(text: &str) -> Result<String, Failure> {
    let time = text.parse::<Timestamp>().map_err(|error| {
        Failure::new(FailureKind::InvalidArgument, format!("'{text}' is not a time of RFC 3339: {error}"))
    })?;
    Ok(format!("{time:.6}"))
}
