//! How a device whose server is gone is readied for a new one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};
use libublk::sys;

use super::control::Control;
use super::error::{CONTROL_LIMIT, DeviceError};

/// The driver needs a moment to see that a server is gone; how often it is asked.
const PAUSE: Duration = Duration::from_millis(50);

/// Readies the device with this record, whose server is gone, for a new one. Waits, for [`CONTROL_LIMIT`] at most, until what
/// that server had under way has ended.
pub(super) fn start(control: &mut Control, info: &sys::ublksrv_ctrl_dev_info) -> Result<(), DeviceError> {
    let deadline = Instant::now() + CONTROL_LIMIT;
    // With this feature (Linux 6.16) the driver forgets a server when that closes the device.
    if control.features() & u64::from(sys::UBLK_F_QUIESCE) == 0 {
        retry(deadline, || complete(info))
            .map_err(|error| DeviceError::driver("complete the queues of", error))?;
    }
    retry(deadline, || control.start_recovery(info.dev_id))
        .map_err(|error| DeviceError::driver("recover", error))
}

/// Tries again while the driver is busy with the last server's end.
fn retry(deadline: Instant, mut step: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match step() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// Makes up for a take-over that was cut short. The driver refuses to begin another one where no queue is ready, and comes to
/// grief where only some are; a queue is ready once each of its tags was fetched, by a thread that may have ended since.
fn complete(info: &sys::ublksrv_ctrl_dev_info) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open(format!("/dev/ublkc{}", info.dev_id))?;
    let (queues, depth) = (info.nr_hw_queues, info.queue_depth);
    let fetched = thread::spawn(move || {
        (0..queues).try_fold(false, |any, queue| Ok(any | fetch(&device, queue, depth)?))
    });
    let fetched: io::Result<bool> = fetched.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    if fetched? {
        log::info!("a take-over of ublk device {} was cut short: began anew", info.dev_id);
        // The driver cancels, aside, what was fetched. It must not meet what the new server fetches.
        thread::sleep(4 * PAUSE);
    }
    Ok(())
}

/// Fetches every tag of `queue` that was not fetched before, and forgets it when this returns. Says whether there was any.
fn fetch(device: &File, queue: u16, depth: u16) -> io::Result<bool> {
    let mut ring = IoUring::new(depth.into())?;
    for tag in 0..depth {
        // The driver wants an address, which it does not use before the take-over is complete.
        let command = sys::ublksrv_io_cmd { q_id: queue, tag, addr: 4096, ..Default::default() };
        let mut bytes = [0; 16];
        // SAFETY: the command is 16 bytes of plain data.
        unsafe { std::ptr::from_mut(&mut bytes).cast::<sys::ublksrv_io_cmd>().write_unaligned(command) };
        let entry = opcode::UringCmd16::new(types::Fd(device.as_raw_fd()), sys::UBLK_U_IO_FETCH_REQ)
            .cmd(bytes)
            .build();
        // SAFETY: no memory is used; the device is open for as long as the ring is.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    }
    while !ring.submission().is_empty() {
        ring.submit()?;
    }
    // Those that were fetched have no answer; the others were refused at once.
    Ok(ring.completion().count() < depth.into())
}
