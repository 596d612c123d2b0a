//! ublk's control commands, one at a time, as linux/ublk_cmd.h has them.
//!
//! libublk is not asked for these: it knows a device by its number alone, deletes one when a value is dropped, reads
//! records of it from `/run`, and takes "busy" for success.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};
use libublk::sys;

use super::error::{DeviceError, refused};
use crate::ring;

const PATH: &str = "/dev/ublk-control";
/// Entries of the ring, on which one command is under way.
const ENTRIES: u32 = 2;
/// The number of a command as drivers before Linux 6.4 know it: the low byte of what later ones do.
const OLD_NUMBER: u32 = 0xff;

/// linux/ublk_cmd.h, since Linux 7.0: `UBLK_F_SAFE_STOP_DEV`, the driver stops a device only if nobody has it open where it is
/// asked to by `UBLK_U_CMD_TRY_STOP_DEV`.
const SAFE_STOP_DEV: u64 = 1 << 17;
const TRY_STOP_DEV: u32 = sys::UBLK_U_CMD_STOP_DEV & !OLD_NUMBER | 0x17;

/// The driver's control node, open.
pub(super) struct Control {
    node: File,
    ring: IoUring<squeue::Entry128>,
}

impl Control {
    /// Fails unless the driver is there and this process may use it.
    pub fn open() -> Result<Self, DeviceError> {
        let node = open_node()?;
        let ring = ring::for_control(ENTRIES).map_err(|error| refused("control")(error.into()))?;
        Ok(Self { node, ring })
    }

    /// What the driver can do: bits `UBLK_F_...`; none where it is too old to say.
    pub fn features(&mut self) -> u64 {
        let mut features = 0_u64;
        let asked = self.command(sys::UBLK_U_CMD_GET_FEATURES, u32::MAX, 0, &mut features);
        asked.map_or(0, |()| features)
    }

    /// What the driver knows of device `id`; none where there is no such device.
    pub fn info(&mut self, id: u32) -> io::Result<Option<sys::ublksrv_ctrl_dev_info>> {
        let mut info = sys::ublksrv_ctrl_dev_info::default();
        match self.command(sys::UBLK_U_CMD_GET_DEV_INFO, id, 0, &mut info) {
            Ok(()) => Ok(Some(info)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends device `id`: what waits for it fails.
    pub fn stop(&mut self, id: u32) -> io::Result<()> {
        self.command(sys::UBLK_U_CMD_STOP_DEV, id, 0, &mut ())
    }

    /// Whether the driver tells a device that somebody has open from others.
    pub fn sees_users(&mut self) -> bool {
        self.features() & SAFE_STOP_DEV != 0
    }

    /// Ends device `id` unless somebody has it, or a partition of it, open. Says whether it did.
    pub fn stop_unused(&mut self, id: u32) -> io::Result<bool> {
        match self.command(TRY_STOP_DEV, id, 0, &mut ()) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Deletes device `id`, which goes when nobody has it open any more. Where the driver (Linux 6.9) can, this does not wait for
    /// that: to wait is to wait for whatever device gets the number next, if that is quick enough.
    pub fn delete(&mut self, id: u32) -> io::Result<()> {
        match self.command(sys::UBLK_U_CMD_DEL_DEV_ASYNC, id, 0, &mut ()) {
            Err(error) if is_unknown(&error) => self.command(sys::UBLK_U_CMD_DEL_DEV, id, 0, &mut ()),
            other => other,
        }
    }

    /// Readies device `id`, whose server is gone, for a new one.
    pub fn start_recovery(&mut self, id: u32) -> io::Result<()> {
        self.command(sys::UBLK_U_CMD_START_USER_RECOVERY, id, 0, &mut ())
    }

    /// Carries out one command, whose answer goes to `answer`.
    fn command<T: Answer>(&mut self, number: u32, id: u32, data: u64, answer: &mut T) -> io::Result<()> {
        match self.submit(number, id, data, answer) {
            Err(error) if is_unknown(&error) => match self.submit(number & OLD_NUMBER, id, data, answer) {
                // It does not know the old number either: the first answer was about the device.
                Err(old) if old.raw_os_error() == Some(libc::EOPNOTSUPP) => Err(error),
                other => other,
            },
            other => other,
        }
    }

    fn submit<T: Answer>(&mut self, number: u32, id: u32, data: u64, answer: &mut T) -> io::Result<()> {
        let length = size_of::<T>() as u16; // of the few small types that are `Answer`
        let address = if length == 0 { 0 } else { std::ptr::from_mut(answer) as u64 };
        let command = sys::ublksrv_ctrl_cmd {
            dev_id: id,
            queue_id: u16::MAX,
            len: length,
            addr: address,
            data: [data],
            ..Default::default()
        };
        let mut bytes = [0; 80];
        // SAFETY: the command is plain data without padding, shorter than what the entry has room for.
        unsafe { std::ptr::from_mut(&mut bytes).cast::<sys::ublksrv_ctrl_cmd>().write_unaligned(command) };
        let entry = opcode::UringCmd80::new(types::Fd(self.node.as_raw_fd()), number).cmd(bytes).build();
        // SAFETY: what the command points to lives until it has ended, for which the loop below waits.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            if let Some(end) = self.ring.completion().next() {
                let result = end.result();
                return if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
            }
        }
    }
}

/// Plain data that the driver may write over.
trait Answer {}

impl Answer for () {}
impl Answer for u64 {}
impl Answer for sys::ublksrv_ctrl_dev_info {}

/// Opens the driver's control node.
pub(super) fn open_node() -> Result<File, DeviceError> {
    OpenOptions::new().read(true).write(true).open(PATH).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DeviceError::NoDriver,
        _ => DeviceError::Control(error),
    })
}

/// Whether there is no such device.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT))
}

/// Whether the driver may not know the command.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}
