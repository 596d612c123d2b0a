use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types;
use smol::LocalExecutor;

use super::*;

/// Runs `check` in a thread with a confined ring that has /dev/zero as its files: a thread has one ring in its life.
fn on_a_confined_ring(check: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let zero = std::fs::File::open("/dev/zero").unwrap();
            set_up(4).unwrap();
            register(&[zero.as_raw_fd(), zero.as_raw_fd()]).unwrap();
            confine().unwrap();
            check();
        });
        thread.join().unwrap();
    });
}

/// What the kernel answers to `entry`, which names memory that lives until then.
fn ask<E: squeue::EntryMarker>(ring: &mut IoUring<E>, entry: &E) -> i32 {
    // SAFETY: as said above.
    unsafe { ring.submission().push(entry) }.unwrap();
    ring.submit_and_wait(1).unwrap();
    ring.completion().next().unwrap().result()
}

#[test]
fn a_confined_ring_opens_nothing_and_works_on_its_own_files_only() {
    on_a_confined_ring(|| {
        with_task_io_ring_mut(|ring| {
            let mut byte = [1u8; 1];
            let own = opcode::Read::new(types::Fixed(BACKING_FILE), byte.as_mut_ptr(), 1).build();
            assert_eq!(ask(ring, &own), 1);
            assert_eq!(byte, [0]);

            let file = std::fs::File::open("/dev/zero").unwrap();
            let others = opcode::Read::new(types::Fd(file.as_raw_fd()), byte.as_mut_ptr(), 1).build();
            assert_eq!(ask(ring, &others), -libc::EACCES);
            let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), c"/dev/zero".as_ptr()).build();
            assert_eq!(ask(ring, &open), -libc::EACCES);
            assert_eq!(ask(ring, &open.flags(FIXED_FILE)), -libc::EACCES);
            let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build();
            assert_eq!(ask(ring, &socket), -libc::EACCES);

            let refused = ring.submitter().register_files(&[file.as_raw_fd()]).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
            assert!(ring.submitter().register_restrictions(&mut []).is_err());
            ring.submitter().unregister_files().unwrap();
        });
    });
}

#[test]
fn a_ring_for_control_takes_commands_only() {
    let mut ring = for_control(4).unwrap();
    let none = opcode::Nop::new().build().into();
    assert_eq!(ask(&mut ring, &none), -libc::EACCES);
    let file = std::fs::File::open("/dev/zero").unwrap();
    // /dev/zero has no commands, and says so itself.
    let command = opcode::UringCmd80::new(types::Fd(file.as_raw_fd()), 1).build();
    assert_eq!(ask(&mut ring, &command), -libc::EOPNOTSUPP);
}

#[test]
fn a_pause_lasts() {
    on_a_confined_ring(|| {
        let time = Duration::from_millis(20);
        let start = Instant::now();
        let executor = LocalExecutor::new();
        let task = executor.spawn(Uring.pause(time));
        while executor.try_tick() {}
        while !task.is_finished() {
            turn().unwrap();
            while executor.try_tick() {}
        }
        assert!(start.elapsed() >= time);
    });
}
