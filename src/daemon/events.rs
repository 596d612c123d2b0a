//! One line for each change: who did what to which volume, with which key, and how it ended.

use uuid::Uuid;

use crate::control::{Failure, Peer};

/// Something that changed, or that somebody tried to change.
#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    /// Who asked; none where the daemon acted by itself.
    pub peer: Option<Peer>,
    /// What was done, as the command line calls it.
    pub verb: &'static str,
    /// To which volume.
    pub volume: Option<String>,
    /// The volume's UUID.
    pub uuid: Option<Uuid>,
    /// With which provider.
    pub provider: Option<String>,
    /// With which KEK.
    pub kek_id: Option<String>,
}

impl Event {
    /// What the daemon does by itself.
    pub fn own(verb: &'static str) -> Self {
        Self { verb, ..Self::default() }
    }

    /// Writes the event with its `result` to the log.
    pub fn record<T>(&self, result: &Result<T, Failure>) {
        match result {
            Ok(_) => log::info!(target: "event", "{} result=ok", self.fields()),
            Err(failure) => log::warn!(
                target: "event",
                "{} result={:?} message={:?}",
                self.fields(),
                failure.kind,
                failure.message
            ),
        }
    }

    fn fields(&self) -> String {
        let actor = self
            .peer
            .as_ref()
            .map_or_else(|| "daemon".into(), |peer| format!("uid:{}/pid:{}", peer.uid, peer.pid));
        let mut line = format!("verb={} actor={actor}", self.verb);
        let fields = [
            ("volume", self.volume.clone()),
            ("uuid", self.uuid.map(|uuid| uuid.to_string())),
            ("provider", self.provider.clone()),
            ("kek", self.kek_id.clone()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                // Quoted, so that no name can make up fields or lines.
                line.push_str(&format!(" {name}={value:?}"));
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_make_up_a_field_or_a_line() {
        let event = Event { volume: Some("a\" result=ok\nverb=b".into()), ..Event::own("open") };
        assert_eq!(event.fields(), r#"verb=open actor=daemon volume="a\" result=ok\nverb=b""#);
    }
}
