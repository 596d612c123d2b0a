//! QEMU's LUKS driver under the same requests.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use super::{Result, Scratch, Workload};

/// QEMU's LUKS driver on a file of its own, on the file system of ours.
///
/// `qemu-img bench` cannot be given the secret that LUKS needs, so `qemu-io` runs the same requests in waves of the
/// depth: once through the LUKS driver and once without. What the driver adds to a request is the difference; put on
/// top of our own `plain`, it says what our data path would do with QEMU's cipher in it. That favours QEMU, whose own
/// path is left out.
pub struct Qemu {
    dir: TempDir,
}

const SECRET: &str = "secret,id=key,data=a-passphrase";

impl Qemu {
    /// Images as large as `file`, in `dir`.
    pub fn new(dir: &Path, file: &Scratch) -> Result<Self> {
        let this = Self { dir: tempfile::tempdir_in(dir)? };
        std::fs::copy(file.path(), this.dir.path().join("raw"))?;
        let made = Command::new("qemu-img")
            .args(["create", "-q", "--object", SECRET, "-f", "luks", "-o", "key-secret=key,iter-time=10"])
            .args(["-o", "preallocation=full"])
            .arg(this.dir.path().join("luks"))
            .arg(file.bytes.to_string())
            .status()
            .map_err(|error| format!("qemu-img does not start: {error}"))?;
        if made.success() { Ok(this) } else { Err("qemu-img could not create a LUKS image".into()) }
    }

    /// Seconds that the driver adds to a request, with the way of I/O that serves LUKS fastest.
    pub(super) fn seconds_added(&self, workload: Workload, size: u64) -> Result<f64> {
        let count = (512u64 << 20) / u64::from(workload.block).max(32 << 10);
        let script = self.script(workload, count, size);
        let (luks_image, raw_image) = (self.dir.path().join("luks"), self.dir.path().join("raw"));
        let mut best: Option<(f64, f64)> = None;
        for way in ["native", "threads", "io_uring"] {
            // A file system that has no I/O past the page cache refuses `native`.
            let Ok(luks) = self.run(&script, "driver=luks,key-secret=key", &luks_image, way) else {
                continue;
            };
            let raw = self.run(&script, "driver=raw", &raw_image, way)?;
            if best.is_none_or(|(fastest, _)| luks < fastest) {
                best = Some((luks, raw));
            }
        }
        let (luks, raw) = best.ok_or("qemu-io does not run")?;
        Ok((luks - raw).max(0.0) / count as f64)
    }

    fn script(&self, workload: Workload, count: u64, size: u64) -> String {
        let mut script = String::new();
        for n in 0..count {
            let op = if workload.writes(n) { "aio_write" } else { "aio_read" };
            let offset = workload.offset(n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15), size);
            script += &format!("{op} -q {offset} {}\n", workload.block);
            if (n + 1).is_multiple_of(workload.depth.into()) {
                script += "aio_flush\n";
            }
        }
        script
    }

    fn run(&self, script: &str, driver: &str, image: &Path, way: &str) -> Result<f64> {
        let cache = if way == "native" { "cache.direct=on,file.cache.direct=on," } else { "" };
        let image = image.display();
        let options = format!("{driver},{cache}file.driver=file,file.aio={way},file.filename={image}");
        let start = Instant::now();
        let mut child = Command::new("qemu-io")
            .args(["--object", SECRET, "--image-opts", &options])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        child.stdin.take().ok_or("no pipe to qemu-io")?.write_all(script.as_bytes())?;
        if child.wait()?.success() { Ok(start.elapsed().as_secs_f64()) } else { Err("qemu-io failed".into()) }
    }
}
