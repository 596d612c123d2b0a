//! The methods of `io.blkseal.Daemon`; `io.blkseal.Daemon.varlink` says the same in Varlink's own language.
//!
//! Sizes are in bytes. Paths are absolute. A volume is named by its name, its UUID or the path of its backing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Name;
use super::adopt::{Adopt, Release};
use super::ends::{Erase, Erased, Forget, Forgotten};
use super::events::{EventPage, Events};
use super::interface::{Nothing, interface};
use super::keks::{
    Kek, KekActivate, KekCreate, KekDestroy, KekList, KekRevoke, KekShow, Keks, Rekey, Rekeyed,
};
use super::key_servers::{Checked, Met, ProviderAddKmip, ProviderCheck, ProviderMeet, ProviderSet};

/// The place of a descriptor of secret memory among those that travel with a call, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretFd(pub u32);

interface! {
    /// The calls that a daemon answers.
    DaemonCalls: "io.blkseal.Daemon", "io.blkseal.Daemon.varlink", {
        Ping -> Nothing,
        GetVersion -> Version,
        ProviderAdd -> Provider,
        ProviderAddKmip -> Provider,
        ProviderMeet -> Met,
        ProviderSet -> Provider,
        ProviderCheck -> Checked,
        ProviderList -> Providers,
        ProviderRemove -> Nothing,
        ProviderSetDefault -> Nothing,
        ProviderUnlock -> Provider,
        ProviderReseal -> Provider,
        ProviderLock -> Provider,
        KekList -> Keks,
        KekShow -> Kek,
        KekCreate -> Kek,
        KekActivate -> Kek,
        KekRevoke -> Kek,
        KekDestroy -> Kek,
        Create -> Volume,
        Open -> Volume,
        OpenTarget -> Volume,
        Close -> Closed,
        List -> Volumes,
        Status -> Volume,
        Events -> EventPage,
        RecoveryAdd -> RecoveryAdded,
        RecoveryRemove -> RecoveryRemoved,
        Rekey -> Rekeyed,
        Adopt -> Volume,
        Release -> Nothing,
        Forget -> Forgotten,
        Erase -> Erased,
    }
}

/// Answers as soon as the daemon serves calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ping {}

/// Asks which daemon this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetVersion {}

/// Which daemon this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The version of blkseal.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// Whether the kernel has the ublk driver.
    pub ublk: bool,
    /// What somebody should look at, a line each: a roles file that is malformed and not in force, for example.
    pub problems: Vec<String>,
}

/// The kinds of key provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// A file on this host, sealed by a passphrase or a key file.
    Native,
    /// A cluster of KMIP servers.
    Kmip,
}

/// Adds a native key provider and unlocks it; a new one gets a KEK. The first one becomes the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderAdd {
    /// What it is to be called.
    pub name: Name,
    /// Where its KEKs are to come from: `native`; ProviderAddKmip adds the others.
    pub kind: ProviderKind,
    /// The file that holds a native provider's KEKs, made where it is missing; none takes one in the daemon's
    /// state directory.
    pub file: Option<PathBuf>,
    /// The passphrase, or the content of the key file, that seals a native provider.
    pub secret: SecretFd,
    /// Whether it becomes the default.
    #[serde(default)]
    pub make_default: bool,
}

/// Asks for every provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderList {}

/// Every provider, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Providers {
    /// The providers.
    pub providers: Vec<Provider>,
}

/// Whether a provider gives out KEKs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// It does.
    Ready,
    /// It needs its passphrase or key file first.
    Locked,
    /// It cannot be reached, or its file cannot be read.
    Unavailable,
}

/// A key provider as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Its name.
    pub name: Name,
    /// Where its KEKs come from.
    pub kind: ProviderKind,
    /// Whether `create` uses it unless told otherwise.
    pub is_default: bool,
    /// Whether it gives out KEKs now.
    pub availability: Availability,
    /// The file that holds a native provider's KEKs.
    pub file: Option<PathBuf>,
    /// The servers of a KMIP provider, `HOST:PORT`, the preferred one first.
    pub servers: Vec<String>,
    /// The KEK that wraps new DEKs, where that is known.
    pub kek_id: Option<String>,
    /// How many known volumes need it.
    pub volumes: u32,
}

/// Forgets a provider. Its key file stays. Refused while a known volume needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderRemove {
    /// Which one.
    pub name: Name,
}

/// Makes a provider the one that `create` uses unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSetDefault {
    /// Which one.
    pub name: Name,
}

/// Seals a native provider's file by another passphrase or key file. Its KEKs stay, and so do copies of the file that were made
/// before, which the old one opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderReseal {
    /// Which one.
    pub name: Name,
    /// The passphrase, or the content of the key file, of now.
    pub secret: SecretFd,
    /// The one from then on.
    pub new_secret: SecretFd,
}

/// Takes a provider's KEKs into the daemon's locked memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderUnlock {
    /// Which one.
    pub name: Name,
    /// The passphrase, or the content of the key file.
    pub secret: SecretFd,
}

/// Wipes a provider's KEKs from the daemon's memory. Live volumes do not notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderLock {
    /// Which one.
    pub name: Name,
}

/// Makes an encrypted volume of a block device or file. What the backing holds is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// What the volume is to be called.
    pub name: Name,
    /// The block device or file.
    pub backing: PathBuf,
    /// A file for the header, to be made; none puts the header before the data.
    pub header: Option<PathBuf>,
    /// 4096 (the default) or 512.
    pub sector_size: Option<u32>,
    /// Whose KEK wraps the DEK; none takes the default provider.
    pub provider: Option<Name>,
    /// Which KEK; none takes the newest active one.
    pub kek_id: Option<String>,
    /// Whether a file system or another header on the backing may be overwritten.
    #[serde(default)]
    pub force: bool,
    /// Whether a detached LUKS2 header that is in the header's file, and no known volume's, may be overwritten.
    #[serde(default)]
    pub replace_header: bool,
}

/// How a device is to be laid out. What is left out gets a default that fits the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceOptions {
    /// Hardware queues.
    pub queues: Option<u16>,
    /// Threads that share a queue's requests, where the kernel (6.16) has that; none is 1.
    pub threads: Option<u16>,
    /// Requests in flight a queue.
    pub depth: Option<u16>,
    /// Longest request, a multiple of the page size.
    pub max_io_bytes: Option<u32>,
    /// Microseconds that a queue's thread looks for requests before it sleeps; none is 0.
    pub spin_us: Option<u32>,
    /// Whether discards reach the backing. They tell whoever sees it which sectors are unused.
    #[serde(default)]
    pub allow_discards: bool,
    /// Whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
    /// Whether what is on it is the host's own, not a guest's: the kernel and udev look for partitions and file systems.
    #[serde(default)]
    pub host: bool,
    /// The cipher's implementation, for studies; none picks the fastest for this CPU.
    pub cpu_path: Option<String>,
}

impl DeviceOptions {
    /// Whether they choose how the device works, let discards reach the backing whatever the volume's header says, or let what is
    /// on the volume become names of this host.
    pub fn tunes(&self) -> bool {
        *self != Self { read_only: self.read_only, ..Self::default() }
    }
}

/// Starts a volume's device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Name, UUID or path of the backing.
    pub volume: String,
    /// What to call a volume that this host does not know yet.
    pub name: Option<Name>,
    /// The header's file, for a volume that this host does not know yet.
    pub header: Option<PathBuf>,
    /// How the device is laid out.
    #[serde(default)]
    pub options: DeviceOptions,
    /// Whether, where the KEK is not to be had now, the volume is to be opened as soon as it is. The call then fails with
    /// `Waiting`. So it is unless this is false.
    pub keep_trying: Option<bool>,
}

/// What a device does with its sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// Nothing: the cost of ublk itself.
    Null,
    /// Passes them to the backing as they are: the cost of all but encryption.
    Plain,
    /// Encrypts them.
    Crypt,
}

/// Starts a device without encryption, for studies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenTarget {
    /// What the device is to be called until it is closed.
    pub name: Name,
    /// `null` or `plain`.
    pub target: TargetKind,
    /// The backing of a `plain` device.
    pub backing: Option<PathBuf>,
    /// The size of a `null` device.
    pub size: Option<u64>,
    /// 4096 (the default) or 512.
    pub sector_size: Option<u32>,
    /// How the device is laid out.
    #[serde(default)]
    pub options: DeviceOptions,
    /// Whether the backing may be a known volume's, which writes destroy.
    #[serde(default)]
    pub force: bool,
}

/// Stops a volume's device and wipes its DEK; one that is to be opened later is not any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// Name, UUID or path of the backing.
    pub volume: String,
    /// Whether a volume that nobody serves is given up although somebody waits for it, who gets errors, and one is closed that
    /// nothing opens again, for its header is gone. One that is served and in use is never closed.
    #[serde(default)]
    pub force: bool,
}

/// What came of closing a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// What its user should know.
    pub notice: Option<String>,
}

/// Asks for every known volume and every open device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// Every known volume, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volumes {
    /// The volumes.
    pub volumes: Vec<Volume>,
}

/// Asks for one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Name, UUID or path of the backing.
    pub volume: String,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// No device, and its KEK is not to be had now.
    Locked,
    /// No device, and its KEK is at hand.
    Unlocked,
    /// Its device serves.
    Live,
    /// Its device is there and keeps its requests waiting, for no worker serves it now.
    Quiesced,
}

/// A volume as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name on this host.
    pub name: Name,
    /// The UUID in its header; none for a device without encryption.
    pub uuid: Option<Uuid>,
    /// What its device does with sectors.
    pub target: TargetKind,
    /// The block device or file below; none for `null`.
    pub backing: Option<PathBuf>,
    /// The file that holds the header; none where the header lies before the data.
    pub header: Option<PathBuf>,
    /// Where it is in its life.
    pub state: VolumeState,
    /// Whether it has no device, and is opened as soon as its KEK is to be had.
    pub wanted: bool,
    /// What keeps it from opening or serving, where something does.
    pub problem: Option<String>,
    /// What its user should know: a copy of the header that was repaired just now, for example.
    pub notice: Option<String>,
    /// Bytes that its user sees.
    pub size: Option<u64>,
    /// Bytes of a sector.
    pub sector_size: Option<u32>,
    /// The cipher as dm-crypt names it, `aes-xts-plain64`.
    pub cipher: Option<String>,
    /// Bits of the DEK.
    pub key_bits: Option<u32>,
    /// The provider of its KEK.
    pub provider: Option<String>,
    /// The KEK that wraps its DEK.
    pub kek_id: Option<String>,
    /// The keyslots that hold recovery passphrases.
    pub recovery_keyslots: Vec<u32>,
    /// Its device, while there is one.
    pub device: Option<Device>,
}

/// A volume's device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// The device node, `/dev/ublkbN`.
    pub node: PathBuf,
    /// The stable name that leads to it.
    pub link: PathBuf,
    /// The worker's process id.
    pub pid: Option<u32>,
    /// The cipher's implementation.
    pub cpu_path: Option<String>,
    /// How the worker's keys are locked: `memfd_secret` or `mlock`.
    pub key_memory: Option<String>,
    /// Hardware queues.
    pub queues: u16,
    /// Threads that share a queue's requests; none where the worker is of a release that knew only one.
    pub threads: Option<u16>,
    /// Requests in flight a queue.
    pub depth: u16,
    /// Longest request.
    pub max_io_bytes: u32,
    /// Microseconds that a queue's thread looks for requests before it sleeps; none where the worker is of a release
    /// that knew no such thing.
    pub spin_us: Option<u32>,
    /// Whether discards reach the backing.
    pub discards: bool,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What it has done since its worker started; none while the worker does not answer.
    pub counters: Option<Counters>,
}

/// What a device has done, over all its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Reads completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes completed.
    pub flushes: u64,
    /// Discards completed.
    pub discards: u64,
    /// Write-zeroes requests completed.
    pub write_zeroes: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// Adds a passphrase keyslot, with which stock cryptsetup opens the volume without blkseal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryAdd {
    /// Name, UUID or path of the backing.
    pub volume: String,
    /// The passphrase.
    pub secret: SecretFd,
}

/// Where a recovery passphrase was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryAdded {
    /// The keyslot.
    pub keyslot: u32,
}

/// Removes one recovery passphrase, or all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryRemove {
    /// Name, UUID or path of the backing.
    pub volume: String,
    /// The keyslot; none means all.
    pub keyslot: Option<u32>,
    /// Whether the last one goes although its KEK was not seen to open the volume.
    #[serde(default)]
    pub force: bool,
}

/// Which keyslots were removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryRemoved {
    /// The keyslots.
    pub keyslots: Vec<u32>,
}
