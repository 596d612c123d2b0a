//! What each room's errors are to a user: kind, message, hint. The one place where kinds are chosen.

use std::io;

use ublk_targets::backing::BackingError;
use ublk_targets::cipher::CipherError;
use ublk_targets::device::DeviceError;
use ublk_targets::secret::SecretError;

use crate::control::{Failure, FailureKind};
use crate::luks::LuksError;
use crate::name::Name;
use crate::provider::ProviderError;
use crate::provider::kmip::ConfigError;
use crate::volume::VolumeError;

/// The failure with the error's whole chain as its message and `hint`, where there is one.
fn failure(kind: FailureKind, error: &dyn std::error::Error, hint: Option<&str>) -> Failure {
    let hint = hint.map(str::to_owned);
    Failure { hint, ..Failure::from_error(kind, error) }
}

/// Makes an error the failure of an action on the volume `name`.
pub(crate) fn of_volume<E: Into<Failure>>(name: &Name) -> impl Fn(E) -> Failure {
    move |error| {
        let failure = error.into();
        Failure { message: format!("volume {name}: {failure}"), ..failure }
    }
}

fn of_io(error: &io::Error) -> FailureKind {
    match error.kind() {
        io::ErrorKind::NotFound => FailureKind::NoInput,
        // The daemon is root: the system keeps it from that, not a role.
        io::ErrorKind::PermissionDenied => FailureKind::System,
        io::ErrorKind::ResourceBusy => FailureKind::Busy,
        io::ErrorKind::AlreadyExists => FailureKind::Exists,
        _ => FailureKind::Io,
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        use FailureKind as Kind;
        let kind = match error {
            VolumeError::Luks(error) => return error.into(),
            VolumeError::Provider(error) => return error.into(),
            VolumeError::Secret(error) => return error.into(),
            VolumeError::Unknown(_) => Kind::NotFound,
            VolumeError::NameTaken { .. } | VolumeError::Known { .. } => Kind::Exists,
            VolumeError::Unnamed(_) => Kind::InvalidArgument,
            VolumeError::Replaced { .. } | VolumeError::OtherFile { .. } => Kind::BadData,
            VolumeError::InUse { .. } => Kind::Busy,
            VolumeError::Unwrap { .. } => Kind::WrongKey,
            VolumeError::Registry { .. } => Kind::Config,
            VolumeError::Io { ref source, .. } => of_io(source),
        };
        failure(kind, &error, error.hint()).transient(error.is_transient())
    }
}

impl From<LuksError> for Failure {
    fn from(error: LuksError) -> Self {
        Self::from(&error)
    }
}

impl From<&LuksError> for Failure {
    fn from(error: &LuksError) -> Self {
        use FailureKind as Kind;
        let kind = match error {
            LuksError::Memory(SecretError::WeakDek(_)) => Kind::BadData,
            LuksError::Memory(_) => Kind::System,
            LuksError::Missing(_) => Kind::NoInput,
            LuksError::SectorSize(_)
            | LuksError::BlockSize { .. }
            | LuksError::Label(_)
            | LuksError::SameFile(_)
            | LuksError::Path(_) => Kind::InvalidArgument,
            LuksError::WrongFileType(_)
            | LuksError::TooSmall { .. }
            | LuksError::PartialSector { .. }
            | LuksError::NotLuks(_)
            | LuksError::Luks1(_)
            | LuksError::Damaged(_)
            | LuksError::NotRepaired { .. }
            | LuksError::Unsupported { .. }
            | LuksError::Token { .. }
            | LuksError::OtherVolume(_) => Kind::BadData,
            LuksError::InUse { .. } => Kind::Busy,
            LuksError::Occupied { .. }
            | LuksError::HeaderExists(_)
            | LuksError::NoDetachedHeader(_)
            | LuksError::Adopted(_) => Kind::Exists,
            LuksError::WrongKey(_) | LuksError::WrongPassphrase(_) => Kind::WrongKey,
            LuksError::NoPassphrase(_) | LuksError::NoSuchSlot { .. } => Kind::NotFound,
            LuksError::Library { .. } | LuksError::NoAnswer(_) => Kind::Io,
            LuksError::Cost { .. } | LuksError::Aside { .. } => Kind::System,
            LuksError::Permission { .. } => Kind::System,
            LuksError::Io { source, .. } => of_io(source),
        };
        failure(kind, error, error.hint()).transient(error.is_transient())
    }
}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        use FailureKind as Kind;
        let kind = match &error {
            ProviderError::UnknownProvider(_)
            | ProviderError::NoDefault
            | ProviderError::UnknownKek { .. } => Kind::NotFound,
            ProviderError::NameTaken(_) | ProviderError::Full { .. } => Kind::Exists,
            ProviderError::Locked(_)
            | ProviderError::Unreachable { .. }
            | ProviderError::NotReplicated { .. } => Kind::Locked,
            ProviderError::KekForeign { .. } => Kind::InvalidArgument,
            ProviderError::KekGone { .. } => Kind::NotFound,
            ProviderError::KekUnusable { state, .. } if state.is_destroyed() => Kind::NotFound,
            ProviderError::KekUnusable { .. } | ProviderError::Refused { .. } => Kind::Refused,
            ProviderError::KekNotActive { .. } | ProviderError::KekChange { .. } => Kind::InvalidArgument,
            ProviderError::Kmip { source, .. } => of_kmip_settings(source),
            ProviderError::NothingToUnlock(_) => Kind::InvalidArgument,
            ProviderError::WrongSecret(_) => Kind::WrongKey,
            ProviderError::Damaged { .. } => Kind::Config,
            ProviderError::KeksDiffer { .. } => Kind::BadData,
            ProviderError::Permission { .. } => Kind::System,
            ProviderError::File { source, .. } => of_io(source),
            ProviderError::Derivation(_) | ProviderError::Wrap(_) | ProviderError::Secret(_) => Kind::System,
        };
        failure(kind, &error, error.hint()).transient(error.is_transient())
    }
}

fn of_kmip_settings(error: &ConfigError) -> FailureKind {
    match error {
        ConfigError::Setting(_) => FailureKind::InvalidArgument,
        ConfigError::File { source, .. } => of_io(source),
        ConfigError::Content { .. } | ConfigError::KeyType { .. } => FailureKind::BadData,
        // Who waits goes on once it is renewed.
        ConfigError::Dates { .. } => FailureKind::Locked,
        ConfigError::Exposed { .. } | ConfigError::Owner { .. } => FailureKind::Config,
        ConfigError::Memory(_) => FailureKind::System,
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        let (kind, hint) = match &error {
            DeviceError::NoDriver => (
                FailureKind::NoUblk,
                Some(
                    "run 'modprobe ublk_drv'; it takes Linux 6.0 or later with CONFIG_BLK_DEV_UBLK. Without such a kernel, \
                     'ci/vm shell' of blkseal's source gives one in a virtual machine",
                ),
            ),
            DeviceError::Control(source) => (of_io(source), Some("run as root")),
            DeviceError::Layout { .. } => (FailureKind::InvalidArgument, None),
            DeviceError::Driver { .. } => (FailureKind::System, None),
            DeviceError::Gone { .. } => (FailureKind::NoInput, None),
            DeviceError::TooMany => (
                FailureKind::System,
                Some(
                    "raise the limit: write a number to /sys/module/ublk_drv/parameters/ublks_max, or close a volume",
                ),
            ),
            DeviceError::Timeout { .. } => {
                (FailureKind::Busy, Some("end what uses the device; 'dmesg' may tell more"))
            }
        };
        failure(kind, &error, hint)
    }
}

impl From<BackingError> for Failure {
    fn from(error: BackingError) -> Self {
        let kind = match &error {
            BackingError::Open { source, .. } => of_io(source),
            BackingError::Block { .. } => FailureKind::InvalidArgument,
            BackingError::Kind { .. } | BackingError::TooSmall { .. } => FailureKind::BadData,
        };
        failure(kind, &error, None)
    }
}

impl From<CipherError> for Failure {
    fn from(error: CipherError) -> Self {
        let kind = match &error {
            CipherError::SectorSize(_) | CipherError::UnknownPath(_) | CipherError::UnavailablePath(_) => {
                FailureKind::InvalidArgument
            }
            CipherError::Key(_) => FailureKind::BadData,
            CipherError::Memory(_) => FailureKind::System,
        };
        failure(kind, &error, None)
    }
}

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Self {
        let (kind, hint) = match &error {
            SecretError::Limit { .. } => (
                FailureKind::System,
                Some("raise it: LimitMEMLOCK=infinity in the unit, or 'ulimit -l unlimited' in the shell"),
            ),
            SecretError::WeakDek(_) => (
                FailureKind::BadData,
                Some("'cryptsetup reencrypt' with a passphrase of the volume gives it a key that protects"),
            ),
            SecretError::Os { .. } | SecretError::Length { .. } => (FailureKind::System, None),
        };
        failure(kind, &error, hint)
    }
}
