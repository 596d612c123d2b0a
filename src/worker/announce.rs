//! What udev is told of a device: which volume it is of, in a file that `udev/59-blkseal.rules` reads.
//!
//! The file has to be there before udev hears of the device, when only its number is known, which soon may be another device's.
//! So it gets the number's name at first, and the name of the device's disk sequence number, which is its own until the next
//! boot, as soon as the kernel has given it one. To udev, one of the two is there at each instant. The daemon removes it.
//! That udev does not learn of a device keeps none from serving.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use crate::control::worker::Job;

/// What is to be told of the device of a job.
pub(super) struct Announcement {
    content: String,
    /// Open, for a worker that serves sees no mounts: its path may lead nowhere.
    directory: File,
}

impl Announcement {
    /// Prepares to tell of a device, where the daemon wants that.
    pub fn prepare(job: &Job) -> Option<Self> {
        let directory = File::open(job.udev_dir.as_deref()?).map_err(|error| warn(&error)).ok()?;
        let host = if job.host { "BLKSEAL_HOST=1\n" } else { "" };
        Some(Self { content: format!("BLKSEAL_NAME={}\n{host}", job.name), directory })
    }

    /// Tells of the new device `id`, which does not take requests yet.
    pub fn added(&self, id: u32) {
        if let Err(error) = fs::write(self.file(&by_number(id)), &self.content) {
            warn(&error);
        }
    }

    /// The device `id` takes requests: from now on it is known by its disk sequence number.
    pub fn started(&self, id: u32) {
        let by_number = self.file(&by_number(id));
        // It has been renamed before where the device was taken over.
        if by_number.exists() {
            let sequence = fs::read_to_string(format!("/sys/block/ublkb{id}/diskseq"));
            let rename =
                |sequence: String| fs::rename(&by_number, self.file(&format!("diskseq-{}", sequence.trim())));
            if let Err(error) = sequence.and_then(rename) {
                warn(&error);
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()))
    }
}

fn by_number(id: u32) -> String {
    format!("ublkb{id}")
}

fn warn(error: &io::Error) {
    log::warn!("udev is not told of the device: {error}");
}
