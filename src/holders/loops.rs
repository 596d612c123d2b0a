//! Loop devices. They open their file like anybody, so that neither a claim nor a look at processes finds them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::holder::Holder;
use super::sought::Sought;
use super::within::within;

pub(super) fn holder_of(sought: &Sought) -> Option<Holder> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        // There only while it has a file.
        let backing = fs::read(entry.path().join("loop/backing_file")).ok()?;
        let path = Path::new(OsStr::from_bytes(backing.strip_suffix(b"\n").unwrap_or(&backing)));
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_on_it = sought.is_at(path) || is_file_of(sought, &name);
        is_on_it.then_some(Holder::Device { name, mapped: None })
    })
}

/// Whether the file of the loop device is it, whatever path it has by now.
fn is_file_of(sought: &Sought, name: &str) -> bool {
    let node = PathBuf::from("/dev").join(name);
    let status = within(move || status_of(&File::open(node).ok()?));
    status.is_some_and(|status| {
        let is_block_device = status.rdevice != 0;
        sought.is((status.device, status.inode), is_block_device.then_some(status.rdevice))
    })
}

/// The beginning of `struct loop_info64` of linux/loop.h, and the rest of its 232 bytes.
#[repr(C)]
struct Status {
    device: u64,
    inode: u64,
    rdevice: u64,
    rest: [u64; 26],
}

const _: () = assert!(size_of::<Status>() == 232);

fn status_of(device: &File) -> Option<Status> {
    // linux/loop.h: LOOP_GET_STATUS64.
    nix::ioctl_read_bad!(get_status, 0x4c05, Status);
    let mut status = Status { device: 0, inode: 0, rdevice: 0, rest: [0; 26] };
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`, 232 bytes of which any are valid, as `Status` is.
    unsafe { get_status(device.as_raw_fd(), &mut status) }.ok()?;
    Some(status)
}
