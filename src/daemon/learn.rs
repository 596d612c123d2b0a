//! Which volume an `open` means, and where volumes are: one that this host does not know gets a name, one that is elsewhere by
//! now keeps its own.

use std::path::Path;

use super::Daemon;
use super::authorise::Caller;
use super::privilege::Privilege;
use super::volumes::place;
use crate::control::worker::Job;
use crate::control::{Failure, FailureKind, Open};
use crate::luks::{Header, Place};
use crate::name::Name;
use crate::volume::{Known, Part, VolumeError};

impl Daemon {
    /// The volume that is to be opened, which this host knows from then on.
    pub(super) fn volume_to_open(&self, call: &Open, caller: &Caller) -> Result<Name, Failure> {
        let name = match self.name_of(&call.volume) {
            Some(name) if !self.was_replaced(&name, &call.volume) => name,
            _ => {
                caller.require(Privilege::Register, "'open' of a volume that this host does not know")?;
                self.learn(call)?
            }
        };
        match &call.name {
            Some(wanted) if *wanted != name => {
                let message = format!("the volume has a name on this host already: {name}");
                Err(Failure::new(FailureKind::InvalidArgument, message))
            }
            _ => Ok(name),
        }
    }

    /// Whether `text` is the path of a backing that holds another volume by now than the known one.
    fn was_replaced(&self, name: &Name, text: &str) -> bool {
        let known = self.volumes().get(name).cloned();
        Path::new(text).is_absolute()
            && !self.devices().contains_key(name)
            && known
                .is_some_and(|known| self.look(&known.place()).is_ok_and(|header| header.uuid != known.uuid))
    }

    fn learn(&self, call: &Open) -> Result<Name, Failure> {
        let path = Path::new(&call.volume);
        if !path.is_absolute() {
            return Err(VolumeError::Unknown(call.volume.clone()).into());
        }
        let header = self.look(&place(path, call.header.as_deref())?)?;
        self.check_is_not_open(&header)?;
        if let Some(known) = self.volumes().by_uuid(header.uuid) {
            self.follow(known, &header.place)?;
            return Ok(known.name.clone());
        }
        let from_label = || header.label.as_deref().and_then(|label| label.parse().ok());
        let name = call.name.clone().or_else(from_label);
        let name = name.ok_or_else(|| VolumeError::Unnamed(path.to_owned()))?;
        self.check_name_is_free(&name)?;
        self.volumes.insert(Known::new(name.clone(), header.uuid, &header.place, &header.token))?;
        Ok(name)
    }

    /// That no device serves the volume with this header already, from wherever.
    fn check_is_not_open(&self, header: &Header) -> Result<(), Failure> {
        let devices = self.devices();
        let open = devices.values().find(|device| device.report.job.uuid == Some(header.uuid));
        let Some(device) = open else { return Ok(()) };
        let (job, node) = (&device.report.job, device.report.node.display());
        let from = job.backing.as_deref().unwrap_or(Path::new("")).display();
        let message = format!(
            "{} has a header with the UUID of volume {}, which is open, as {node}, from {from}",
            header.place.header_path().display(),
            job.name
        );
        Err(Failure::new(FailureKind::Busy, message).hint(COPY))
    }

    /// Remembers that a known volume is at `place`, unless it is where it was as well: then one of the two is a copy.
    fn follow(&self, known: &Known, place: &Place) -> Result<(), Failure> {
        if self.look(&known.place()).is_ok_and(|header| header.uuid == known.uuid) {
            let (path, name) = (place.header_path().to_owned(), known.name.clone());
            let failure = Failure::from(VolumeError::Known { path, what: Part::Copy, name });
            return Err(Failure {
                message: format!("{failure}, which is at {}", known.backing.display()),
                ..failure
            }
            .hint(COPY));
        }
        let (from, to) = (known.backing.display(), place.backing.display());
        log::warn!("volume {} is at {to}, no longer at {from}", known.name);
        Ok(self.volumes.moved(known.uuid, place)?)
    }

    /// Puts a volume that is open, and that the registry lost, back into it, by what its worker was told and its header says.
    pub(super) fn know_again(&self, job: &Job) {
        let (Some(uuid), Some(backing)) = (job.uuid, &job.backing) else { return };
        if self.volumes().by_uuid(uuid).is_some() {
            return;
        }
        let place = match &job.header {
            None => Place::attached(backing),
            Some(header) => Place::detached(backing, header),
        };
        let entered = self.look(&place).and_then(|header| {
            if header.uuid != uuid {
                let replaced = VolumeError::Replaced { name: job.name.clone(), backing: backing.clone() };
                return Err(replaced.into());
            }
            Ok(self.volumes.insert(Known::new(job.name.clone(), uuid, &place, &header.token))?)
        });
        match entered {
            Ok(()) => log::warn!(
                "volume {} was not in the list of known volumes; it is open, and is again",
                job.name
            ),
            Err(error) => log::error!(
                "volume {} is open, not in the list of known volumes, and cannot be put there: {}",
                job.name,
                error
            ),
        }
    }
}

/// What to do where a volume is there twice.
const COPY: &str = "a copy needs a UUID of its own: `cryptsetup luksUUID --uuid $(uuidgen)` gives it one";
