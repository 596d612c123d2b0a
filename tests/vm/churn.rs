//! Volumes are opened and closed side by side, so that the driver gives numbers out again at once, beside a volume that is
//! busy: nobody loses a device. `BLKSEAL_OPENS` says how many opens there are.

use std::path::PathBuf;

use crate::support::load::under_fio;
use crate::support::rounds::rounds;
use crate::support::{Disk, Host, Pattern};

/// Opens in an ordinary run of the tests.
const USUAL: u64 = 40;
/// Volumes that come and go; half of them are open at any time.
const VOLUMES: usize = 4;

fn name(index: usize) -> String {
    format!("churn{index}")
}

/// What is on each volume alone.
fn mark(index: usize) -> Vec<u8> {
    Pattern::new(1000 + index as u64).bytes(64 << 10)
}

fn is_right(host: &Host, index: usize) -> bool {
    let link = PathBuf::from(host.path(&format!("dev/{}", name(index))));
    Disk::open(&link, 0).read(0, 64 << 10).unwrap() == mark(index)
}

#[test]
fn nobody_loses_a_device_while_others_come_and_go() {
    let opens = rounds("BLKSEAL_OPENS", USUAL);
    let host = Host::start();
    for index in 0..VOLUMES {
        let volume = host.create(&name(index), &host.image(&name(index), 32 << 20), &[]);
        Disk::open(&volume.open(&[]), 0).write(0, &mark(index)).unwrap();
        crate::support::run("udevadm settle");
        volume.close();
    }
    let busy = host.create("busy", &host.image("busy", 32 << 20), &[]);
    let path = busy.open(&[]);
    let node = busy.kernel_name();
    let half = VOLUMES / 2;
    (0..half).for_each(|index| drop(host.blkseal(&["open", &name(index)])));
    under_fio(&path, || {
        let mut open = 0;
        for round in 0..opens / half as u64 {
            // Those that are open are closed while the others are opened.
            std::thread::scope(|scope| {
                for index in 0..VOLUMES {
                    let host = &host;
                    let verb = if index / half == open { "close" } else { "open" };
                    scope.spawn(move || host.blkseal(&[verb, &name(index)]));
                }
            });
            open = 1 - open;
            for index in open * half..(open + 1) * half {
                let status = host.json(&["status", &name(index)]);
                assert_eq!(status["state"], "live", "round {round}: {status}");
                assert!(is_right(&host, index), "round {round}: {} has other data", name(index));
            }
        }
        (open * half..(open + 1) * half).for_each(|index| drop(host.blkseal(&["close", &name(index)])));
    });
    assert_eq!(busy.kernel_name(), node);
    println!("opened {opens} times");
}
