//! Why a device could not be made, kept or ended.

use std::io;
use std::time::Duration;

use libublk::UblkError;

/// How long a control command may take. Some kernels never answer some of them.
pub(super) const CONTROL_LIMIT: Duration = Duration::from_secs(30);

/// Why a device could not be made, kept or ended.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel has no ublk driver, or it is not loaded.
    #[error("this kernel offers no ublk: /dev/ublk-control is not there")]
    NoDriver,
    /// The driver is there but this process may not use it.
    #[error("cannot open /dev/ublk-control")]
    Control(#[source] io::Error),
    /// A figure of the layout is outside what the driver takes.
    #[error("{what} is {value}, but must be {bounds}")]
    Layout {
        /// Which figure.
        what: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        bounds: &'static str,
    },
    /// The driver refused a step.
    #[error("ublk: cannot {step} the device")]
    Driver {
        /// Which step of its life.
        step: &'static str,
        /// What the driver answered.
        #[source]
        source: UblkError,
    },
    /// Older drivers allow a number of devices in all (`ublks_max`), newer ones of unprivileged users' only.
    #[error("ublk: the driver allows no further device")]
    TooMany,
    /// The device that was to be taken over is gone.
    #[error("ublk device {id} is gone, or is another one by now")]
    Gone {
        /// The number that it had.
        id: u32,
    },
    /// The driver did not answer in time. The step may still happen later.
    #[error("ublk: the kernel did not {step} device {id} within {} s; it may be held open", CONTROL_LIMIT.as_secs())]
    Timeout {
        /// Which step of its life.
        step: &'static str,
        /// The device's number.
        id: u32,
    },
}

impl DeviceError {
    pub(super) fn driver(step: &'static str, error: io::Error) -> Self {
        Self::Driver { step, source: UblkError::IOError(error) }
    }
}

/// libublk keeps the driver's errno in a variant whose message does not show it.
pub(super) fn refused(step: &'static str) -> impl Fn(UblkError) -> DeviceError {
    move |source| DeviceError::Driver {
        step,
        source: match source {
            UblkError::OtherError(errno) | UblkError::UringIOError(errno) => {
                UblkError::IOError(io::Error::from_raw_os_error(errno.abs()))
            }
            other => other,
        },
    }
}
