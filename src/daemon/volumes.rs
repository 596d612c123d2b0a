//! What the daemon does with volumes, open or not: make them, look at them, keep their recovery passphrases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ublk_targets::secret::{DEK_LEN, Secret};
use uuid::Uuid;

use super::Daemon;
use super::claimed::Claimed;
use super::devices::Device;
use super::events::Action;
use super::headers::{COPY_OFF, Seen, is_final};
use super::keks::kek_id;
use super::looks::Answer;
use crate::control::worker::Report;
use crate::control::{
    self, Counters, Create, Failure, FailureKind, RecoveryAdded, RecoveryRemove, RecoveryRemoved, TargetKind,
    Volume, VolumeState, Volumes,
};
use crate::failures::of_volume;
use crate::luks::{self, FormatOptions, Header, Place, Token};
use crate::name::Name;
use crate::provider::KeyProvider;
use crate::volume::{self, Known, Part, State, Unverified, VolumeError};

impl Daemon {
    pub(super) fn create(&self, call: &Create, action: &mut Action) -> Result<Volume, Failure> {
        let _turn = self.turns.take(&call.name);
        let place = place(&call.backing, call.header.as_deref())?;
        self.check_name_is_free(&call.name)?;
        self.check_is_no_known_volumes(&place)?;
        let (_wrapping, provider) = self.wrapping_provider(call.provider.as_ref())?;
        let wanted = call.kek_id.as_deref().map(kek_id).transpose()?;
        let options = FormatOptions {
            label: Some(label(&call.name)),
            sector_size: call.sector_size.unwrap_or(4096),
            force: call.force,
            replace_header: call.replace_header,
            ..FormatOptions::default()
        };
        let enter = |uuid, token: &Token| self.enter(&call.name, uuid, &place, token);
        let made = volume::create(&place, &options, &*provider, wanted, enter);
        let header = self.or_take_back(&call.name, made)?;
        tell(action, &call.name, &header);
        self.note_verified(&header);
        Ok(self.new_volume(&call.name))
    }

    /// Has a volume known before there is anything of it, so that its KEK is kept from then on.
    pub(super) fn enter(
        &self,
        name: &Name,
        uuid: Uuid,
        place: &Place,
        token: &Token,
    ) -> Result<(), VolumeError> {
        self.volumes.insert(Known::new(name.clone(), uuid, place, token))
    }

    /// Where the volume that was entered as `name` could not be made, it is not known after all.
    pub(super) fn or_take_back(
        &self,
        name: &Name,
        made: Result<Header, VolumeError>,
    ) -> Result<Header, Failure> {
        if made.is_err()
            && let Some(known) = self.volumes().get(name)
            && let Err(error) = self.volumes.remove(known.uuid)
        {
            log::error!(
                "volume {name}, which could not be made, stays in the list: {}",
                Failure::from(error)
            );
        }
        Ok(made?)
    }

    /// Remembers that the key in the header's token is the one of its data.
    pub(super) fn note_verified(&self, header: &Header) {
        if let Err(error) = self.volumes.verified(header) {
            log::warn!("{}", Failure::from(error));
        }
    }

    /// All about a volume that has just become known, with what there is to say of its path.
    pub(super) fn new_volume(&self, name: &Name) -> Volume {
        let mut volume = self.volume(name);
        let unstable = [&volume.backing, &volume.header]
            .into_iter()
            .flatten()
            .find(|path| volume::is_block_device(path) && volume::stable_name(path).is_none());
        let notice = unstable.map(|path| {
            format!(
                "{} may lead to another disk after a restart, and nothing in /dev/disk leads to this one",
                path.display()
            )
        });
        volume.notice = volume.notice.into_iter().chain(notice).reduce(|one, two| format!("{one}; {two}"));
        volume
    }

    /// A name is free where no volume has it, also none whose disk is away.
    pub(super) fn check_name_is_free(&self, name: &Name) -> Result<(), Failure> {
        if self.devices().contains_key(name) {
            let message = format!("the name {name} is taken: a device of that name is open");
            return Err(Failure::new(FailureKind::Exists, message).hint("choose another name"));
        }
        // Neither its name nor its UUID.
        match self.volumes().find(name.as_str()) {
            None => Ok(()),
            Some(known) => {
                let (name, backing) = (known.name.clone(), known.backing.clone());
                Err(VolumeError::NameTaken { name, backing }.into())
            }
        }
    }

    /// That nothing at `place` is a known volume's, be it closed or its disk away now: by path, by identity, and by the UUID of
    /// the header there. The data disk of a detached header looks like noise to everybody else.
    pub(super) fn check_is_no_known_volumes(&self, place: &Place) -> Result<(), Failure> {
        let known = self.volumes();
        for path in [place.backing.as_path(), place.header_path()] {
            let uuid = luks::uuid_at(path);
            let part_of = |known: &Known| {
                known.part_at(path).or_else(|| (uuid == Some(known.uuid)).then_some(Part::Copy))
            };
            if let Some((name, what)) = known.iter().find_map(|(name, known)| Some((name, part_of(known)?))) {
                let (path, name) = (path.to_owned(), name.clone());
                return Err(VolumeError::Known { path, what, name }.into());
            }
        }
        Ok(())
    }

    pub(super) fn list(&self) -> Result<Volumes, Failure> {
        let mut names: BTreeSet<Name> = self.volumes().iter().map(|(name, _)| name.clone()).collect();
        names.extend(self.devices().keys().cloned());
        Ok(Volumes { volumes: self.tell_of(&Vec::from_iter(names)) })
    }

    pub(super) fn status(&self, text: &str) -> Result<Volume, Failure> {
        let name = self.name_of(text).ok_or_else(|| VolumeError::Unknown(text.to_owned()))?;
        Ok(self.volume(&name))
    }

    pub(super) fn recovery_add(
        &self,
        text: &str,
        passphrase: &Secret,
        action: &mut Action,
    ) -> Result<RecoveryAdded, Failure> {
        let name = self.name_of(text).ok_or_else(|| VolumeError::Unknown(text.to_owned()))?;
        let _turn = self.turns.take(&name);
        let mut header = self.header_of(&name)?;
        tell(action, &name, &header);
        let dek = self.unwrap(&name, &header)?.verify().map_err(of_volume(&name))?;
        self.note_verified(&header);
        let keyslot = header.recovery_add(&dek, passphrase)?;
        Ok(RecoveryAdded { keyslot })
    }

    pub(super) fn recovery_remove(
        &self,
        call: &RecoveryRemove,
        action: &mut Action,
    ) -> Result<RecoveryRemoved, Failure> {
        let text = &call.volume;
        let name = self.name_of(text).ok_or_else(|| VolumeError::Unknown(text.to_owned()))?;
        let _turn = self.turns.take(&name);
        let mut header = self.header_of(&name)?;
        tell(action, &name, &header);
        let all: Vec<u32> = header.keyslots.iter().map(|keyslot| keyslot.slot).collect();
        let keyslots = call.keyslot.map_or_else(|| all.clone(), |keyslot| vec![keyslot]);
        if !call.force && !all.is_empty() && all.iter().all(|slot| keyslots.contains(slot)) {
            self.check_opens_without(&name, &header)?;
        }
        for keyslot in &keyslots {
            header.recovery_remove(*keyslot)?;
        }
        Ok(RecoveryRemoved { keyslots })
    }

    /// That the volume's KEK opens it, before nothing else does.
    fn check_opens_without(&self, name: &Name, header: &Header) -> Result<(), Failure> {
        let opened = self.unwrap(name, header).and_then(|dek| dek.verify().map_err(of_volume(name)));
        let failed = |failure: Failure| {
            let forced = "--force removes the last passphrase all the same, with which the data may be lost";
            let hint =
                failure.hint.as_ref().map_or_else(|| forced.into(), |hint| format!("{hint}; {forced}"));
            let message = format!("its last passphrase stays, for its KEK does not open it now: {failure}");
            Failure { message, ..failure }.hint(hint)
        };
        opened.map_err(failed)?;
        self.note_verified(header);
        Ok(())
    }

    /// The header of a known volume, if it is still on its backing.
    pub(super) fn header_of(&self, name: &Name) -> Result<Header, Failure> {
        let known = self.volumes().get(name).cloned();
        let known = known.ok_or_else(|| VolumeError::Unknown(name.to_string()))?;
        let is_its = |header: Header| match header.uuid == known.uuid {
            true => Ok(header),
            false => Err(VolumeError::Replaced { name: name.clone(), backing: known.backing.clone() }),
        };
        let mut header = is_its(self.look(&known.place())?)?;
        if header.damaged.is_some() {
            // Whoever is about to work with it has both copies to go by.
            header = is_its(luks::open(&known.place())?)?;
        }
        if let Some(notice) = copy_notice(&header) {
            log::warn!("volume {name}: {notice}");
        }
        self.remember(name, &header);
        Ok(header)
    }

    /// The header of a known volume, if it is on the claimed backing.
    pub(super) fn header_through(&self, name: &Name, claimed: &Claimed) -> Result<Header, Failure> {
        let known = self.volumes().get(name).cloned();
        let known = known.ok_or_else(|| VolumeError::Unknown(name.to_string()))?;
        let header = claimed.header(&known.place())?;
        if header.uuid != known.uuid {
            return Err(VolumeError::Replaced { name: name.clone(), backing: known.backing }.into());
        }
        if let Some(notice) = copy_notice(&header) {
            log::warn!("volume {name}: {notice}");
        }
        self.remember(name, &header);
        Ok(header)
    }

    /// The DEK of the volume `name`, whose header this is, to be checked.
    pub(super) fn unwrap<'h>(&self, name: &Name, header: &'h Header) -> Result<Unverified<'h>, Failure> {
        let provider = self.providers().get(&header.token.provider).map_err(of_volume(name))?;
        let dek = volume::unwrap(header, &*provider).map_err(of_volume(name))?;
        if let Some(notice) = kek_notice(header, &*provider) {
            log::warn!("volume {name}: {notice}");
        }
        Ok(dek)
    }

    /// The name of the volume or device that `text` means: its name, its UUID, or the path of its backing or device.
    pub(super) fn name_of(&self, text: &str) -> Option<Name> {
        let devices = self.devices();
        let open = devices.iter().find(|(name, device)| {
            let job = &device.report.job;
            name.as_str() == text
                || device.report.node == Path::new(text)
                || self.options.link(name) == Path::new(text)
                || job.uuid.is_none() && job.backing.as_deref() == Some(Path::new(text))
        });
        let open = open.map(|(name, _)| name.clone());
        drop(devices);
        open.or_else(|| self.volumes().find(text).map(|known| known.name.clone()))
    }

    /// Everything that can be told of a volume or device.
    pub(super) fn volume(&self, name: &Name) -> Volume {
        self.tell_of(std::slice::from_ref(name)).pop().unwrap_or_else(|| unknown(name))
    }

    /// Everything that can be told of these volumes and devices by now: the disks and workers that do not answer are waited for
    /// together, and not for long.
    fn tell_of(&self, names: &[Name]) -> Vec<Volume> {
        let deadline = self.headers.deadline();
        let known: Vec<(Name, Known)> = {
            let volumes = self.volumes();
            names.iter().filter_map(|name| Some((name.clone(), volumes.get(name)?.clone()))).collect()
        };
        let open: Vec<Device> = {
            let devices = self.devices();
            names.iter().filter_map(|name| devices.get(name).cloned()).collect()
        };
        let asked = self.reports.ask(open.iter().map(|device| device.report.job.socket.clone()));
        let seen = self.look_at(&known, deadline);
        let reports = self.reports.answers(&asked, deadline);
        let mut seen: BTreeMap<Name, (Known, Seen)> =
            known.into_iter().zip(seen).map(|((name, known), seen)| (name, (known, seen))).collect();
        let mut open: BTreeMap<Name, (Device, Option<Counters>)> =
            open.into_iter().zip(reports).map(with_counters).collect();
        names.iter().map(|name| self.told(name, seen.remove(name), open.remove(name))).collect()
    }

    fn told(
        &self,
        name: &Name,
        seen: Option<(Known, Seen)>,
        open: Option<(Device, Option<Counters>)>,
    ) -> Volume {
        let wish = self.wishes().get(name).cloned();
        let mut volume = unknown(name);
        let mut of_header = None;
        if let Some((known, seen)) = seen {
            volume.uuid = Some(known.uuid);
            volume.backing = Some(known.backing);
            volume.header = known.header;
            volume.provider = Some(known.provider.to_string());
            volume.kek_id = Some(known.kek_id.to_string());
            if let Some(header) = &seen.header {
                self.fill_in_header(&mut volume, header);
            }
            of_header = seen.problem.map(|failure| match open {
                Some(_) if is_final(&failure) => format!("{failure}; {COPY_OFF}"),
                _ => failure.message,
            });
        }
        match (open, wish) {
            (Some((device, counters)), _) => self.fill_in_device(&mut volume, &device, counters),
            (None, Some(wish)) => {
                volume.wanted = true;
                set_state(&mut volume, State::Locked(wish.why));
            }
            (None, None) => {}
        }
        volume.problem =
            volume.problem.into_iter().chain(of_header).reduce(|one, two| format!("{one}; {two}"));
        volume
    }

    fn fill_in_header(&self, volume: &mut Volume, header: &Header) {
        volume.size = Some(header.data_length);
        volume.sector_size = Some(header.sector_size);
        volume.provider = Some(header.token.provider.to_string());
        volume.kek_id = Some(header.token.kek_id.to_string());
        volume.recovery_keyslots = header.keyslots.iter().map(|keyslot| keyslot.slot).collect();
        volume.notice = self.notice(header);
        let state = match self.has_another_key(header) {
            true => State::Locked(another_key(&volume.name)),
            false => State::without_device(&header.token, self.providers()),
        };
        set_state(volume, state);
    }

    /// Whether the digest in this header is another than the one that the volume's key was last seen to match.
    fn has_another_key(&self, header: &Header) -> bool {
        let volumes = self.volumes();
        let verified = volumes.by_uuid(header.uuid).and_then(|known| known.digest.as_ref());
        verified.is_some_and(|digest| *digest != header.digest)
    }

    /// What the user of the volume with this header should know.
    pub(super) fn notice(&self, header: &Header) -> Option<String> {
        let provider = self.providers().get(&header.token.provider).ok();
        let of_kek = provider.and_then(|provider| kek_notice(header, &*provider));
        copy_notice(header).into_iter().chain(of_kek).reduce(|one, two| format!("{one}; {two}"))
    }

    fn fill_in_device(&self, volume: &mut Volume, device: &Device, counters: Option<Counters>) {
        let job = &device.report.job;
        volume.target = job.target;
        volume.backing.clone_from(&job.backing);
        volume.size = Some(job.size);
        volume.sector_size = Some(job.sector_size);
        if job.target != TargetKind::Crypt {
            (volume.cipher, volume.key_bits) = (None, None);
        }
        set_state(volume, device.state.clone());
        volume.device = Some(control::Device {
            node: device.report.node.clone(),
            link: self.options.link(&job.name),
            pid: (device.state == State::Live).then_some(device.report.pid),
            cpu_path: device.report.cpu_path.clone(),
            key_memory: device.report.key_memory.clone(),
            queues: job.queues,
            threads: device.report.threads,
            depth: job.depth,
            max_io_bytes: job.max_io_bytes,
            spin_us: job.spin_us,
            discards: job.discards,
            read_only: job.read_only,
            counters,
        });
    }
}

/// An open device by its name, with what its worker has done, if that answers.
fn with_counters((device, answer): (Device, Answer<Option<Report>>)) -> (Name, (Device, Option<Counters>)) {
    let counters = match answer {
        Answer::Now(report) => report.map(|report| report.counters),
        Answer::Late(_) => None,
    };
    (device.report.job.name.clone(), (device, counters))
}

/// A volume of which only the name is known.
fn unknown(name: &Name) -> Volume {
    Volume {
        name: name.clone(),
        uuid: None,
        target: TargetKind::Crypt,
        backing: None,
        header: None,
        state: VolumeState::Locked,
        wanted: false,
        problem: None,
        notice: None,
        size: None,
        sector_size: None,
        cipher: Some(luks::CIPHER.into()),
        key_bits: Some(8 * DEK_LEN as u32),
        provider: None,
        kek_id: None,
        recovery_keyslots: Vec::new(),
        device: None,
    }
}

fn another_key(name: &Name) -> String {
    format!(
        "its data has another key than its token, as after 'cryptsetup reencrypt': 'blkseal release {name}', then 'blkseal adopt' \
         with a passphrase, puts that under a KEK"
    )
}

fn set_state(volume: &mut Volume, state: State) {
    (volume.state, volume.problem) = match state {
        State::Locked(problem) => (VolumeState::Locked, Some(problem)),
        State::Unlocked => (VolumeState::Unlocked, None),
        State::Live => (VolumeState::Live, None),
        State::Quiesced(problem) => (VolumeState::Quiesced, Some(problem)),
    };
}

/// That one of the header's two copies was found damaged.
fn copy_notice(header: &Header) -> Option<String> {
    let (copy, outcome) = match (header.repair, header.damaged) {
        (Some(repair), _) => (repair.copy, "was damaged and has been repaired"),
        (None, Some(copy)) => {
            (copy, "is damaged; the next command that works with the volume to write repairs it")
        }
        (None, None) => return None,
    };
    let path = header.place.header_path().display();
    Some(format!("the {copy} copy of the LUKS2 header of {path} {outcome}"))
}

/// That a volume's key should be wrapped by another KEK, as far as that is known.
fn kek_notice(header: &Header, provider: &dyn KeyProvider) -> Option<String> {
    let Token { provider: name, kek_id, .. } = &header.token;
    let state = provider.known_state(kek_id).filter(|state| state.is_out_of_use())?;
    Some(format!(
        "KEK {kek_id} of key provider {name} is {state}: have another one wrap the volume's key with 'blkseal rekey --kek'"
    ))
}

/// Where a volume is said to be.
pub(super) fn place(backing: &Path, header: Option<&Path>) -> Result<Place, Failure> {
    for path in [Some(backing), header].into_iter().flatten() {
        if !path.is_absolute() {
            let message = format!("the path {} is not absolute", path.display());
            return Err(Failure::new(FailureKind::InvalidArgument, message));
        }
    }
    Ok(match header {
        None => Place::attached(lasting(backing)),
        Some(header) => Place::detached(lasting(backing), lasting(header)),
    })
}

/// The path, or the name of the same disk that leads to it after a restart as well.
fn lasting(path: &Path) -> PathBuf {
    let stable = volume::is_block_device(path).then(|| volume::stable_name(path)).flatten();
    stable.unwrap_or_else(|| path.to_owned())
}

/// A label of LUKS2 has 47 bytes at most; a longer name is cut.
fn label(name: &Name) -> String {
    name.as_str().chars().take(47).collect()
}

pub(super) fn tell(action: &mut Action, name: &Name, header: &Header) {
    action.volume = Some(name.to_string());
    action.uuid = Some(header.uuid);
    action.provider = Some(header.token.provider.to_string());
    action.kek_id = Some(header.token.kek_id.to_string());
}
