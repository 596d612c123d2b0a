//! I/O that goes on while something else happens, and checks itself.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::run;

/// Writes 8 MiB in random order, or checks what it wrote.
pub const FIO: &str = "fio --name=load --rw=randwrite --bs=4k --size=8m --direct=1 --iodepth=8 --ioengine=libaio \
                       --verify=crc32c --verify_fatal=1";

/// Runs fio on `path`, again and again until `work` is done; it checks what it wrote, and may see no error.
pub fn under_fio(path: &Path, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                run(&format!("{FIO} --do_verify=1 --filename={}", path.display()));
            }
        });
        let stop = StopOnDrop(&done); // also where the work fails
        work();
        drop(stop);
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
