//! Targets over a backing that fails: what reaches the device's user, and what is tried again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::{Cell, RefCell};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ublk_targets::backing::{Backing, BackingOptions};
use ublk_targets::cipher::{Cipher, SectorSize};
use ublk_targets::queue::inprocess::{Source, serve};
use ublk_targets::request::Descriptor;
use ublk_targets::ring::{Io, Uring};
use ublk_targets::secret::Dek;
use ublk_targets::target::{Crypt, Plain, Target};

const DISK: u64 = 256 << 10;
const BUFFER: usize = 32 << 10;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 2;
const DISCARD: u32 = 3;
const WRITE_ZEROES: u32 = 5;
const FUA: u32 = 1 << 13;

/// What the backing was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Read,
    Write { durable: bool },
    Sync,
    PunchHole,
    Pause(Duration),
}

/// What comes instead of an operation.
#[derive(Clone, Copy)]
enum Fault {
    /// Nothing is done, and this is the answer.
    Answer(i32),
    /// It is done for as many bytes only.
    Short(usize),
}

/// Decides by the call, and by how many like it there were before.
type Plan = Box<dyn Fn(Call, usize) -> Option<Fault> + Send + Sync>;

/// A ring that fails by plan, and remembers what it was asked for.
#[derive(Clone)]
struct Faulty {
    plan: Arc<Plan>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Faulty {
    fn new(plan: impl Fn(Call, usize) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self { plan: Arc::new(Box::new(plan)), calls: Arc::default() }
    }

    /// Fails the first `count` of each kind of operation with `errno`.
    fn first(count: usize, errno: i32) -> Self {
        Self::new(move |_, before| (before < count).then_some(Fault::Answer(-errno)))
    }

    fn fault(&self, call: Call) -> Option<Fault> {
        let mut calls = self.calls.lock().unwrap();
        let before = calls.iter().filter(|&&other| other == call).count();
        calls.push(call);
        (self.plan)(call, before)
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    fn count(&self, call: Call) -> usize {
        self.calls().iter().filter(|&&other| other == call).count()
    }
}

impl Io for Faulty {
    async fn read(&self, offset: u64, data: &mut [u8]) -> i32 {
        match self.fault(Call::Read) {
            Some(Fault::Answer(answer)) => answer,
            Some(Fault::Short(bytes)) => Uring.read(offset, &mut data[..bytes]).await,
            None => Uring.read(offset, data).await,
        }
    }

    async fn write(&self, offset: u64, data: &[u8], durable: bool) -> i32 {
        match self.fault(Call::Write { durable }) {
            Some(Fault::Answer(answer)) => answer,
            Some(Fault::Short(bytes)) => Uring.write(offset, &data[..bytes], durable).await,
            None => Uring.write(offset, data, durable).await,
        }
    }

    async fn sync(&self) -> i32 {
        match self.fault(Call::Sync) {
            Some(Fault::Answer(answer)) => answer,
            _ => Uring.sync().await,
        }
    }

    async fn discard(&self, _: u64, _: u64) -> i32 {
        unreachable!("the backing is a file")
    }

    async fn punch_hole(&self, offset: u64, bytes: u64) -> i32 {
        match self.fault(Call::PunchHole) {
            Some(Fault::Answer(answer)) => answer,
            _ => Uring.punch_hole(offset, bytes).await,
        }
    }

    async fn pause(&self, time: Duration) {
        // The time is asked for, but does not pass.
        self.calls.lock().unwrap().push(Call::Pause(time));
    }
}

fn disk() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(DISK).unwrap();
    file
}

fn backing(file: &tempfile::NamedTempFile) -> Backing {
    let options =
        BackingOptions { offset: 0, length: Some(DISK), sector_size: SectorSize::S4096, read_only: false };
    Backing::open(file.path(), &options).unwrap()
}

fn plain(file: &tempfile::NamedTempFile, io: &Faulty) -> Plain<Faulty> {
    Plain::new(backing(file).through(io.clone()), SectorSize::S4096, true, false)
}

fn crypt(file: &tempfile::NamedTempFile, io: &Faulty) -> Crypt<Faulty> {
    let cipher = Cipher::new(&Dek::generate().unwrap(), SectorSize::S4096, None).unwrap();
    Crypt::new(backing(file).through(io.clone()), cipher, true, false)
}

/// Requests one after the other, each an operation, its first LBA and its length. What is written is 7 in all bytes, and
/// what was read must be.
struct Requests<'a> {
    requests: &'a [(u32, u64, u32)],
    at: Cell<usize>,
    results: RefCell<Vec<i32>>,
}

impl Source for Requests<'_> {
    fn next(&self, _: u16, buffer: &mut [u8]) -> Option<Descriptor> {
        let &(op_flags, first, count) = self.requests.get(self.at.replace(self.at.get() + 1))?;
        buffer.fill(if op_flags & 0xff == WRITE { 7 } else { 0xee });
        Some(Descriptor { op_flags, count, first })
    }

    fn done(&self, _: u16, raw: Descriptor, result: i32, buffer: &[u8]) {
        if let (READ, Ok(bytes)) = (raw.op_flags, usize::try_from(result)) {
            assert!(buffer[..bytes].iter().all(|&byte| byte == 7), "{raw:?} read something else");
        }
        self.results.borrow_mut().push(result);
    }
}

/// What the requests answered.
fn results(target: &impl Target, requests: &[(u32, u64, u32)]) -> Vec<i32> {
    // A thread has one ring in its life.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let source = Requests { requests, at: Cell::new(0), results: RefCell::default() };
            serve(target, 1, BUFFER, &source).unwrap();
            source.results.into_inner()
        });
        thread.join().unwrap()
    })
}

#[test]
fn an_operation_that_the_kernel_did_not_get_to_is_tried_again() {
    for errno in [libc::EINTR, libc::EAGAIN] {
        let (file, io) = (disk(), Faulty::first(5, errno));
        let target = crypt(&file, &io);
        let requests = [(WRITE, 0, 16), (READ, 0, 16), (WRITE | FUA, 8, 8), (READ, 8, 8), (DISCARD, 64, 8)];
        assert_eq!(results(&target, &requests), [8192, 8192, 4096, 4096, 0]);
        let pauses: Vec<_> = [1, 2, 4, 8, 16].map(|ms| Call::Pause(Duration::from_millis(ms))).into();
        let asked: Vec<_> = io.calls().into_iter().filter(|call| matches!(call, Call::Pause(_))).collect();
        // Reads that come later find a ring that has failed often enough.
        assert_eq!(asked, pauses.repeat(4));
    }
}

#[test]
fn a_storm_ends_in_an_error_within_seconds() {
    for errno in [libc::EINTR, libc::EAGAIN] {
        let (file, io) = (disk(), Faulty::first(usize::MAX, errno));
        let target = plain(&file, &io);
        for request in
            [(WRITE, 0, 8), (READ, 0, 8), (WRITE | FUA, 0, 8), (WRITE_ZEROES, 0, 8), (DISCARD, 0, 8)]
        {
            io.calls.lock().unwrap().clear();
            assert_eq!(results(&target, &[request]), [-libc::EIO]);
            let (mut tries, mut waited) = (0, Duration::ZERO);
            for call in io.calls() {
                match call {
                    Call::Pause(time) => waited += time,
                    _ => tries += 1,
                }
            }
            assert_eq!(tries, 13, "{request:?}");
            assert!(waited > Duration::from_secs(3) && waited < Duration::from_secs(10), "{waited:?}");
        }
    }
}

#[test]
fn a_flush_that_failed_is_not_tried_again() {
    for (errno, told) in [
        (libc::EINTR, libc::EIO),
        (libc::EAGAIN, libc::EIO),
        (libc::EIO, libc::EIO),
        (libc::ENOSPC, libc::ENOSPC),
    ] {
        let (file, io) = (disk(), Faulty::first(1, errno));
        assert_eq!(results(&plain(&file, &io), &[(FLUSH, 0, 0), (FLUSH, 0, 0)]), [-told, 0]);
        assert_eq!(io.calls(), [Call::Sync, Call::Sync]);
    }
}

#[test]
fn what_moves_in_parts_moves_whole() {
    // The first four tries of each kind; what comes later moves whole.
    let io = Faulty::new(|_, before| (before < 4).then_some(Fault::Short(4096)));
    let file = disk();
    let requests = [(WRITE, 8, 32), (READ, 8, 32), (READ, 8, 32)];
    assert_eq!(results(&crypt(&file, &io), &requests), [16384, 16384, 16384]);
    assert_eq!((io.count(Call::Write { durable: false }), io.count(Call::Read)), (4, 5));
}

#[test]
fn an_end_in_the_middle_is_an_error() {
    let part_then = |answer| {
        Faulty::new(move |_, before| Some([Fault::Short(4096), Fault::Answer(answer)][before.min(1)]))
    };
    for (answer, told) in [(0, libc::EIO), (-libc::EIO, libc::EIO), (-libc::ENODEV, libc::ENODEV)] {
        let (file, io) = (disk(), part_then(answer));
        let requests = [(WRITE, 0, 24), (READ, 0, 24)];
        assert_eq!(results(&plain(&file, &io), &requests), [-told, -told]);
        assert_eq!((io.count(Call::Write { durable: false }), io.count(Call::Read)), (2, 2));
    }
}

#[test]
fn a_failed_request_fails_alone() {
    let io = Faulty::new(|call, before| {
        (call == Call::Read && before == 0).then_some(Fault::Answer(-libc::ENODEV))
    });
    let file = disk();
    let requests = [(WRITE, 0, 8), (READ, 0, 8), (READ, 0, 8), (FLUSH, 0, 0)];
    assert_eq!(results(&crypt(&file, &io), &requests), [4096, -libc::ENODEV, 4096, 0]);
}

#[test]
fn zeros_that_must_be_durable_are_written_so() {
    let chunks = (BUFFER * 2) as u32 / 512;
    for (request, durable) in [(WRITE_ZEROES, false), (WRITE_ZEROES | FUA, true)] {
        let (file, io) = (disk(), Faulty::new(|_, _| None));
        assert_eq!(results(&crypt(&file, &io), &[(request, 0, chunks)]), [0]);
        assert_eq!(results(&plain(&file, &io), &[(request, 0, chunks)]), [0]);
        assert_eq!(io.calls(), [Call::Write { durable }; 4]);
    }
}

#[test]
fn a_file_that_was_cut_short_does_not_grow_again() {
    let (file, io) = (disk(), Faulty::new(|_, _| None));
    let (crypt, plain) = (crypt(&file, &io), plain(&file, &io));
    file.as_file().set_len(8192).unwrap();
    let requests = [(WRITE, 16, 8), (WRITE, 8, 16), (WRITE_ZEROES, 128, 8), (WRITE | FUA, 504, 8)];
    assert_eq!(results(&crypt, &requests), [-libc::EIO; 4]);
    assert_eq!(results(&plain, &requests), [-libc::EIO; 4]);
    assert_eq!(file.as_file().metadata().unwrap().len(), 8192);
    // What is left of it is still served.
    assert_eq!(results(&plain, &[(WRITE, 0, 16), (READ, 0, 16)]), [8192, 8192]);
    let mut stored = [0; 8192];
    file.as_file().read_exact_at(&mut stored, 0).unwrap();
    assert_eq!(stored, [7; 8192]);
    assert_eq!(file.as_file().metadata().unwrap().len(), 8192);
}
