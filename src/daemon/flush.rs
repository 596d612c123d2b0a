//! Flushing what may hang.

use std::fs::File;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Has what was written to `file` reach the medium. Where that takes longer than `limit`, fails with `TimedOut`, and goes on
/// aside; the file stays open until it ends.
pub(super) fn within(limit: Duration, file: &File) -> io::Result<()> {
    let file = file.try_clone()?;
    aside(limit, move || file.sync_all())
}

fn aside(limit: Duration, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new().name("flush".into()).spawn(move || {
        let done = work(); // whose file is closed by then: its device may be deleted
        let _ = sender.send(done); // fails where nobody waits any more
    })?;
    receiver.recv_timeout(limit).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_does_not_answer_is_not_waited_for_for_ever() {
        let (answer, disk) = mpsc::channel::<()>();
        let hung = aside(Duration::from_millis(20), move || {
            let _ = disk.recv();
            Ok(())
        });
        assert_eq!(hung.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(answer);
        let long = Duration::from_secs(120);
        within(long, &tempfile::tempfile().unwrap()).unwrap();
        assert_eq!(
            aside(long, || Err(io::ErrorKind::Other.into())).unwrap_err().kind(),
            io::ErrorKind::Other
        );
    }
}
