//! What serves a device's requests: a [`Target`] each for the ceiling, for I/O without a cipher, and for the cipher.

mod crypt;
mod null;
mod plain;

pub use crypt::Crypt;
pub use null::Null;
pub use plain::Plain;

use std::future::Future;
use std::os::fd::RawFd;

use crate::request::{IoError, Operation, Shape};

/// Serves checked operations. One value serves all queues of a device at once.
pub trait Target: Send + Sync + 'static {
    /// Its name in logs and status.
    const NAME: &'static str;

    /// What requests are checked against; the same for the target's whole life.
    fn shape(&self) -> &Shape;

    /// The descriptor that each queue's ring registers for I/O on the backing.
    fn backing_fd(&self) -> Option<RawFd>;

    /// Carries out `operation`, whose range lies in [`Target::shape`]. `buffer` is the tag's whole buffer: data to
    /// write stands at its start, and data that was read must. It may be overwritten.
    fn execute(&self, operation: Operation, buffer: &mut [u8]) -> impl Future<Output = Result<(), IoError>>;
}
