//! Making a volume.
//!
//! The whole header, token included, is composed in memory first and put in place after every check has passed, so
//! that no header without its token is ever on a disk (`docs/FORMAT.md`, crash cases). Between the two the caller can do what has
//! to be done before there is a volume.

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libcryptsetup_rs::consts::flags::CryptActivate;
use libcryptsetup_rs::consts::vals::EncryptionFormat;
use libcryptsetup_rs::{CryptDevice, CryptParamsLuks2, CryptParamsLuks2Ref, Either, LibcryptErr, TokenInput};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ublk_targets::secret::{Dek, scrub_stack};
use uuid::Uuid;

use super::copies::{Copies, Facts, uuid_at};
use super::header::STACK_USED;
use super::{ATTACHED_DATA_OFFSET, Header, LuksError, Place, Placement, Token, claim, crypt, open, probe};
use crate::atomic_file;
use crate::identity::FileId;

/// What a new volume shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatOptions {
    /// Its UUID, or none for a random one.
    pub uuid: Option<Uuid>,
    /// Its label: 1 to 47 bytes.
    pub label: Option<String>,
    /// Bytes in a sector: 512 or 4096.
    pub sector_size: u32,
    /// Whether discards are passed down: kept in the header, where dm-crypt heeds it too.
    pub allow_discards: bool,
    /// Overwrite what is on the backing. What is in use stays refused.
    pub force: bool,
    /// Overwrite a detached LUKS2 header that is in the header's file. What else is there, or in use, stays refused.
    pub replace_header: bool,
}

impl Default for FormatOptions {
    fn default() -> Self {
        Self {
            uuid: None,
            label: None,
            sector_size: 4096,
            allow_discards: false,
            force: false,
            replace_header: false,
        }
    }
}

/// A volume that is to be made at a place that is claimed. Every check has passed, and nothing has been written.
pub struct Prepared<'k> {
    place: Place,
    uuid: Uuid,
    dek: &'k Dek,
    backing: File,
    /// Bytes in the backing.
    size: u64,
    old_header: Option<File>,
    image: Vec<u8>,
    force: bool,
}

/// Prepares a volume at `place`: a LUKS2 header with the digest of `dek`, `token`, and no keyslot.
pub fn prepare<'k>(
    place: &Place,
    options: &FormatOptions,
    dek: &'k Dek,
    token: &Token,
) -> Result<Prepared<'k>, LuksError> {
    place.check_paths()?;
    check_options(options)?;
    let path = &place.backing;
    let backing = claim(path, 0)?;
    let size = check_size(&backing, place, options)?;
    let old_header = match &place.header {
        Placement::Attached => None,
        Placement::Detached(header) => claim_old_header(header, &backing, options)?,
    };
    let found = probe::signatures(&backing, path)?;
    if !found.is_empty() && !options.force {
        return Err(LuksError::Occupied { path: path.clone(), found: found.join(", ") });
    }
    let uuid = options.uuid.unwrap_or_else(Uuid::new_v4);
    let image = compose(place, &FormatOptions { uuid: Some(uuid), ..options.clone() }, dek, token)?;
    Ok(Prepared { place: place.clone(), uuid, dek, backing, size, old_header, image, force: options.force })
}

impl Prepared<'_> {
    /// The UUID that the volume gets.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Makes the volume. The data area is left as it is: it reads as noise until it is written. Where this fails there is no
    /// volume, as far as the medium lets it be taken away again.
    pub fn write(self) -> Result<Header, LuksError> {
        let header = self.put().and_then(|()| open(&self.place));
        let header = header.and_then(|header| header.verify(self.dek).map(|()| header));
        if header.is_err() {
            self.take_back();
        }
        header
    }

    fn put(&self) -> Result<(), LuksError> {
        let (backing, path) = (&self.backing, &self.place.backing);
        match &self.place.header {
            Placement::Attached => {
                reserve(backing, path)?;
                self.erase()?;
                overwrite(backing, path, &self.image)
            }
            Placement::Detached(header) => {
                // The header first: where it cannot be made, the backing stays as it is.
                match &self.old_header {
                    Some(old) => replace(old, header, &self.image)?,
                    None => place_detached(header, &self.image)?,
                }
                self.erase()
            }
        }
    }

    /// Where force was asked for, nothing of what was on the backing shall be taken for a file system later.
    fn erase(&self) -> Result<(), LuksError> {
        if self.force { probe::erase(&self.backing, &self.place.backing, self.size) } else { Ok(()) }
    }

    /// Leaves no header that opens. What the medium refuses now it has refused before; that was told.
    fn take_back(&self) {
        match (&self.place.header, &self.old_header) {
            (Placement::Attached, _) => _ = probe::zero(&self.backing, 0, ATTACHED_DATA_OFFSET),
            (Placement::Detached(_), Some(old)) => _ = probe::zero(old, 0, ATTACHED_DATA_OFFSET),
            (Placement::Detached(path), None) if uuid_at(path) == Some(self.uuid) => {
                _ = fs::remove_file(path)
            }
            _ => {}
        }
    }
}

fn check_options(options: &FormatOptions) -> Result<(), LuksError> {
    if ![512, 4096].contains(&options.sector_size) {
        return Err(LuksError::SectorSize(options.sector_size));
    }
    match &options.label {
        Some(label) if !(1..=47).contains(&label.len()) || label.chars().any(char::is_control) => {
            Err(LuksError::Label(label.clone()))
        }
        _ => Ok(()),
    }
}

/// The backing's size in bytes, if a volume fits.
fn check_size(mut file: &File, place: &Place, options: &FormatOptions) -> Result<u64, LuksError> {
    let (path, sector_size) = (place.backing.clone(), options.sector_size);
    let block_size = block_size(file).map_err(|e| LuksError::io("look at", &path, e))?;
    if block_size > sector_size {
        return Err(LuksError::BlockSize { path, block_size, sector_size });
    }
    let size = file.seek(SeekFrom::End(0)).map_err(|e| LuksError::io("look at", &path, e))?;
    let offset = match place.header {
        Placement::Attached => ATTACHED_DATA_OFFSET,
        Placement::Detached(_) => 0,
    };
    let minimum = offset + u64::from(sector_size);
    if size < minimum {
        return Err(LuksError::TooSmall { path, size, minimum });
    }
    if !size.is_multiple_of(u64::from(sector_size)) {
        return Err(LuksError::PartialSector { path, size, sector_size });
    }
    Ok(size)
}

/// The logical block size of a block device; 1 for a file.
fn block_size(file: &File) -> std::io::Result<u32> {
    nix::ioctl_read_bad!(logical_block_size, libc::BLKSSZGET, libc::c_int);
    if !file.metadata()?.file_type().is_block_device() {
        return Ok(1);
    }
    let mut size = 0;
    // SAFETY: BLKSSZGET writes one int, which `size` is.
    unsafe { logical_block_size(file.as_raw_fd(), &mut size) }?;
    Ok(size.unsigned_abs())
}

/// The detached header that is to be replaced, claimed; none where there is no file. Whatever is not to be replaced is refused.
fn claim_old_header(
    header: &Path,
    backing: &File,
    options: &FormatOptions,
) -> Result<Option<File>, LuksError> {
    let failed = |e| LuksError::io("look at", header, e);
    let metadata = match fs::metadata(header) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    if FileId::from(&metadata) == FileId::of(backing).map_err(failed)? {
        return Err(LuksError::SameFile(header.to_owned()));
    }
    if !metadata.is_file() {
        return Err(LuksError::WrongFileType(header.to_owned()));
    }
    if !options.replace_header {
        return Err(LuksError::HeaderExists(header.to_owned()));
    }
    let old = claim(header, 0)?;
    match Copies::read(&old, header) {
        Ok(copies) if copies.facts().is_some_and(Facts::is_detached) => Ok(Some(old)),
        Ok(_) | Err(LuksError::NotLuks(_) | LuksError::Luks1(_) | LuksError::Damaged(_)) => {
            Err(LuksError::NoDetachedHeader(header.to_owned()))
        }
        Err(error) => Err(error),
    }
}

/// The bytes of the header area, made by libcryptsetup in files that exist in memory only. They hold no key.
fn compose(place: &Place, options: &FormatOptions, dek: &Dek, token: &Token) -> Result<Vec<u8>, LuksError> {
    let path = place.header_path();
    let memory_file =
        |size| MemoryFile::new(size).map_err(|e| LuksError::io("compose the header of", path, e));
    let sector_size = u64::from(options.sector_size);
    let mut header = memory_file(ATTACHED_DATA_OFFSET + sector_size)?;
    let data = match place.header {
        Placement::Attached => None,
        Placement::Detached(_) => Some(memory_file(sector_size)?),
    };
    let composed = compose_in(&header.path, data.as_ref().map(|data| &*data.path), options, dek, token);
    scrub_stack::<STACK_USED>();
    composed.map_err(crypt::failed("compose the header of", path))?;
    let mut image = vec![0; ATTACHED_DATA_OFFSET as usize];
    header.file.read_exact(&mut image).map_err(|e| LuksError::io("compose the header of", path, e))?;
    Ok(image)
}

fn compose_in(
    header: &Path,
    data: Option<&Path>,
    options: &FormatOptions,
    dek: &Dek,
    token: &Token,
) -> Result<(), LibcryptErr> {
    let mut device = crypt::init(header)?;
    if data.is_none() {
        device.set_data_offset(ATTACHED_DATA_OFFSET / 512)?;
    }
    let params = CryptParamsLuks2 {
        pbkdf: None,
        integrity: None,
        integrity_params: None,
        data_alignment: 0,
        data_device: data.map(Path::to_owned),
        sector_size: options.sector_size,
        label: options.label.clone(),
        subsystem: None,
    };
    let mut params: CryptParamsLuks2Ref<'_> = (&params).try_into()?;
    device.context_handle().format(
        EncryptionFormat::Luks2,
        ("aes", "xts-plain64"),
        options.uuid,
        Either::Left(dek.expose()),
        Some(&mut params),
    )?;
    if options.allow_discards {
        allow_discards(&mut device)?;
    }
    device.token_handle().json_set(TokenInput::AddToken(&token.to_json()))?;
    Ok(())
}

fn allow_discards(device: &mut CryptDevice) -> Result<(), LibcryptErr> {
    device.luks2_flag_handle::<CryptActivate>().persistent_flags_set(CryptActivate::ALLOW_DISCARDS)
}

/// Has a file's blocks ready for the header, so that a full file system shows before anything is written.
fn reserve(file: &File, path: &Path) -> Result<(), LuksError> {
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, ATTACHED_DATA_OFFSET as i64) {
        // Where a file system cannot reserve, the writes themselves tell.
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(e) => Err(LuksError::io("reserve space for the header of", path, e.into())),
    }
}

/// Writes a header at the start of `file`. What was there is gone before the first byte of the new header is written, so that
/// no older header can come back as the surviving copy.
fn overwrite(file: &File, path: &Path, image: &[u8]) -> Result<(), LuksError> {
    probe::zero(file, 0, ATTACHED_DATA_OFFSET)
        .and_then(|()| file.sync_all())
        .and_then(|()| file.write_all_at(image, 0))
        .and_then(|()| file.sync_all())
        .map_err(|e| LuksError::io("write the header of", path, e))
}

/// Writes a header over the claimed one. Not by a rename, which would go by the path.
fn replace(old: &File, path: &Path, image: &[u8]) -> Result<(), LuksError> {
    old.set_permissions(Permissions::from_mode(0o600))
        .and_then(|()| old.set_len(0))
        .map_err(|e| LuksError::io("replace", path, e))?;
    reserve(old, path)?;
    overwrite(old, path, image)
}

fn place_detached(header: &Path, image: &[u8]) -> Result<(), LuksError> {
    atomic_file::create(header, image).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => LuksError::HeaderExists(header.to_owned()),
        _ => LuksError::Io { action: "create the header".into(), path: header.to_owned(), source: e },
    })
}

/// A file without a name, which libcryptsetup can open by a path all the same.
struct MemoryFile {
    file: File,
    path: PathBuf,
}

impl MemoryFile {
    fn new(size: u64) -> std::io::Result<Self> {
        let file = File::from(memfd_create("blkseal-header", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(size)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Ok(Self { file, path })
    }
}
