//! fio writes and verifies checksums, random and sequential, in many block sizes, with several jobs.

use crate::support::{Host, run, shares_queues};

fn verify(sector: u32) {
    let host = Host::start();
    let backing = host.image("backing", 96 << 20);
    let volume = host.create("fio", &backing, &["--sector-size", &sector.to_string()]);
    let (spin, threads) = if sector == 512 { ("50", 2) } else { ("0", 1) };
    let layout = ["--queues", "2", "--depth", "16", "--spin", spin, "--threads", &threads.to_string()];
    let path = volume.open(&layout).display().to_string();
    let device = volume.status()["device"].clone();
    assert_eq!(device["spin_us"].to_string(), spin);
    assert_eq!(device["threads"], if shares_queues() { threads } else { 1 });
    let common = format!(
        "--filename={path} --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --verify_backlog=64 \
         --size=16m --offset_increment=16m --numjobs=4 --iodepth=8 --group_reporting"
    );
    for (name, rw) in [("sequential", "write"), ("random", "randwrite"), ("mixed", "randrw")] {
        run(&format!("fio --name={name} --rw={rw} --bsrange={sector}-1m --bs_unaligned=0 {common}"));
    }
    run(&format!("fio --name=small --rw=randwrite --bs={sector} --io_size=2m {common}"));
    let counters = volume.status()["device"]["counters"].clone();
    assert!(counters["writes"].as_u64() > Some(1000) && counters["errors"] == 0, "{counters}");
    volume.close();
}

#[test]
fn sectors_of_4096() {
    verify(4096);
}

#[test]
fn sectors_of_512() {
    verify(512);
}
