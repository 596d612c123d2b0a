//! Who holds a block device or a file: whoever would lose data if it were stopped, taken or written over.
//!
//! | file | whom it finds |
//! |---|---|
//! | `mounts` | file systems, in whatever mount namespace |
//! | `loops` | loop devices, whatever path their file had |
//! | `kernel` | device mapper and md above it, swap, NVMe and SCSI targets |
//! | `processes` | processes that have it open |
//! | `holder` | a holder, in words |
//! | `sought` | what is looked for: a file, or a block device with its partitions and the disk that it is one of |
//! | `within` | a question that may never be answered, on a thread that is left behind then |
//!
//! Who opens a device exclusively (mounts, device mapper, md, swap) keeps others from doing that. Loop devices, NVMe
//! targets and virtual machines open it like anybody, so that they have to be looked for.

mod holder;
mod kernel;
mod loops;
mod mounts;
mod processes;
mod sought;
mod within;

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

pub use holder::Holder;
pub use mounts::unescape;
pub use processes::Access;

use crate::identity::FileId;
use sought::Sought;

/// How long a process may look at a device, as udev does, before it counts as a holder.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether it has gone.
const POLL: Duration = Duration::from_millis(100);

/// Why something could not be claimed.
#[derive(Debug)]
pub enum Refusal {
    /// Somebody else holds it.
    Held(Holder),
    /// The kernel failed.
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Claims `path` by `open`, which fails with EBUSY, ETXTBSY or EAGAIN where somebody else has claimed it, unless anybody
/// else than this process holds it. Processes that have it open, with at least `access`, get a moment to let go.
pub fn claim(path: &Path, access: Access, open: impl Fn() -> io::Result<File>) -> Result<File, Refusal> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let holder = match open() {
            Ok(file) => match holder_of(&FileId::of(&file)?, access) {
                None => return Ok(file),
                Some(holder) => holder,
            },
            Err(error) => claimant_of(path).unwrap_or(match error.raw_os_error() {
                Some(libc::EBUSY) => Holder::Unknown,
                Some(libc::EAGAIN) => Holder::Locked,
                Some(libc::ETXTBSY) => Holder::Program,
                _ => return Err(error.into()),
            }),
        };
        if !holder.may_let_go() || Instant::now() > deadline {
            return Err(Refusal::Held(holder));
        }
        std::thread::sleep(POLL);
    }
}

fn claimant_of(path: &Path) -> Option<Holder> {
    holder_of(&FileId::at(path).ok()?, Access::Any)
}

/// The first holder that is found, other than this process; those that do not go away by themselves come first.
pub fn holder_of(id: &FileId, access: Access) -> Option<Holder> {
    let sought = Sought::new(id);
    mounts::holder_of(&sought)
        .or_else(|| loops::holder_of(&sought))
        .or_else(|| kernel::holder_of(&sought))
        .or_else(|| processes::holder_of(&sought, access))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::process::{Command, Stdio};

    /// A process that has `file` as its standard input, until it is dropped.
    struct Reader(std::process::Child);

    impl Reader {
        fn of(file: File) -> Self {
            Self(Command::new("sleep").arg("1000").stdin(Stdio::from(file)).spawn().unwrap())
        }
    }

    impl Drop for Reader {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_process_with_the_file_open_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        fs::write(&path, "content").unwrap();
        let id = FileId::at(&path).unwrap();
        // Another test's child may have our descriptors until it has started its program, hence the names.
        let named = |access| holder_of(&id, access).map(|holder| holder.to_string()).unwrap_or_default();

        let reader = Reader::of(File::open(&path).unwrap());
        let words = format!("process {} (sleep) has it open", reader.0.id());
        assert_eq!(named(Access::Any), words);
        assert!(!named(Access::Write).contains("sleep"), "who only reads loses nothing");
        drop(reader);

        let writer = Reader::of(OpenOptions::new().write(true).open(&path).unwrap());
        fs::rename(&path, directory.path().join("renamed")).unwrap();
        let words = format!("process {} (sleep) has it open", writer.0.id());
        assert_eq!(named(Access::Write), words, "by whatever path");
    }

    #[test]
    fn what_a_process_holds_is_not_claimed_and_what_it_let_go_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        fs::write(&path, "content").unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        let held = Reader::of(open().unwrap());
        let refused = claim(&path, Access::Write, open);
        assert!(matches!(refused, Err(Refusal::Held(Holder::Process { pid, .. })) if pid == held.0.id()));
        drop(held);
        claim(&path, Access::Write, open).unwrap();
        assert!(matches!(claim(&path, Access::Any, || File::open("/nowhere")), Err(Refusal::Io(_))));
    }
}
