//! Errors of the backing reach the caller, and the device lives on.

use std::process::Command;

use crate::support::shell::command;
use crate::support::{Disk, Host, Pattern, run, run_in};

/// 16 MiB of header, 8 MiB of good sectors, 1 MiB that dm-error fails, good ones again.
struct Broken {
    name: &'static str,
    device: String,
    sectors: u64,
}

const BAD: u64 = (24 << 20) / 512;
const BAD_END: u64 = (25 << 20) / 512;

impl Broken {
    fn new(host: &Host) -> Self {
        let device = run(&format!("losetup --show -f {}", host.image("flaky", 48 << 20))).trim().to_owned();
        let broken = Self { name: "vmtest-broken", device, sectors: (48 << 20) / 512 };
        run_in(Command::new("dmsetup").args(["create", broken.name, "--table", &broken.healthy()]));
        broken
    }

    fn path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    fn healthy(&self) -> String {
        format!("0 {} linear {} 0", self.sectors, self.device)
    }

    fn damaged(&self) -> String {
        let (device, rest) = (&self.device, self.sectors - BAD_END);
        format!("0 {BAD} linear {device} 0\n{BAD} 2048 error\n{BAD_END} {rest} linear {device} {BAD_END}")
    }

    fn become_table(&self, table: &str) {
        run(&format!("dmsetup suspend --noflush {}", self.name));
        run_in(Command::new("dmsetup").args(["load", self.name, "--table", table]));
        run(&format!("dmsetup resume {}", self.name));
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        // After a failed assertion the volume is still open; the kernel removes all of it once it is not.
        command(&format!("dmsetup remove --deferred {}", self.name)).status().ok();
        command(&format!("losetup -d {}", self.device)).status().ok();
    }
}

#[test]
fn a_failing_backing_gives_eio_and_the_device_lives_on() {
    let host = Host::start();
    let broken = Broken::new(&host);
    let volume = host.create("broken", &broken.path(), &["--force", "--yes"]);
    let disk_path = volume.open(&[]);
    let worker = volume.worker_pid();
    let disk = Disk::open(&disk_path, 0);
    let data = Pattern::new(1).bytes(65536);
    let bad_offset = 8 << 20;

    broken.become_table(&broken.damaged());
    for error in [disk.write(bad_offset, &data).unwrap_err(), disk.read(bad_offset, 65536).unwrap_err()] {
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    }
    // A request that only touches the bad part fails as a whole; its neighbours do not.
    assert!(disk.write(bad_offset - 32768, &data).is_err());
    disk.write(bad_offset - 65536, &data).unwrap();
    assert_eq!(disk.read(bad_offset - 65536, 65536).unwrap(), data);
    assert!(volume.status()["device"]["counters"]["errors"].as_u64() >= Some(3));

    broken.become_table(&broken.healthy());
    disk.write(bad_offset, &data).unwrap();
    assert_eq!(disk.read(bad_offset, 65536).unwrap(), data);
    assert_eq!(volume.worker_pid(), worker, "the same worker all the time");
    drop(disk);
    volume.close();
}

#[test]
fn a_full_file_system_under_the_image_gives_enospc() {
    let host = Host::start();
    let mount_point = host.path("small");
    run(&format!("mkdir {mount_point}"));
    run(&format!("mount -t tmpfs -o size=20m tmpfs {mount_point}"));
    let backing = host.image("small/backing", 64 << 20);
    let volume = host.create("sparse", &backing, &[]);
    let disk = Disk::open(&volume.open(&[]), 0);
    let data = vec![7; 1 << 20];
    let error = (0..40).find_map(|n| disk.write(n << 20, &data).err());
    assert_eq!(error.and_then(|e| e.raw_os_error()), Some(libc::ENOSPC));
    drop(disk);
    volume.close();
    run(&format!("umount {mount_point}"));
}
