//! Who uses a volume's device.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::VolumeError;
use crate::holders::{self, Access, Refusal};
use crate::name::Name;

/// Claims the device `node` of volume `name` for this process, read-only, if nobody else uses it: while the claim is
/// held it can be neither mounted nor claimed.
pub fn claim_unused(name: &Name, node: &Path) -> Result<File, VolumeError> {
    let open = || OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(node);
    holders::claim(node, Access::Any, open).map_err(|refusal| match refusal {
        Refusal::Held(holder) => VolumeError::InUse { name: name.clone(), by: holder.to_string() },
        Refusal::Io(source) => VolumeError::Io { action: "open", path: node.to_owned(), source },
    })
}
