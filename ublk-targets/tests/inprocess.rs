//! The targets as a device drives them, without a device: random requests against a model of a disk, and the
//! backing's bytes against xts-mode.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aes::Aes256;
use aes::cipher::KeyInit;
use proptest::collection::vec;
use proptest::prelude::*;
use ublk_targets::backing::{Backing, BackingError, BackingOptions};
use ublk_targets::cipher::{Cipher, SectorSize};
use ublk_targets::queue::inprocess::{Source, serve};
use ublk_targets::request::Descriptor;
use ublk_targets::secret::{DEK_LEN, Dek, Secret};
use ublk_targets::target::{Crypt, Null, Plain, Target};
use xts_mode::Xts128;

const DISK: usize = 256 << 10;
const BUFFER: usize = 32 << 10;
const OFFSET: u64 = 8192;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 2;
const DISCARD: u32 = 3;
const WRITE_ZEROES: u32 = 5;
const FUA: u32 = 1 << 13;

fn key() -> [u8; DEK_LEN] {
    std::array::from_fn(|i| (i * 7 + 3) as u8)
}

fn dek() -> Dek {
    let mut secret = Secret::zeroed(DEK_LEN).unwrap();
    secret.expose_mut().copy_from_slice(&key());
    Dek::from_secret(secret).unwrap()
}

fn backing(path: &Path, sector_size: SectorSize) -> Backing {
    let options = BackingOptions { offset: OFFSET, length: Some(DISK as u64), sector_size, read_only: false };
    Backing::open(path, &options).unwrap()
}

fn disk() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(OFFSET + DISK as u64).unwrap();
    file
}

/// One request of a script: `pattern` fills what is written.
#[derive(Clone, Copy, Debug)]
struct Step {
    raw: Descriptor,
    pattern: u8,
}

/// Replays a script on one tag and checks every read against a model of the disk.
struct Script<'a> {
    steps: &'a [Step],
    at: Cell<usize>,
    model: RefCell<Vec<u8>>,
    results: RefCell<Vec<i32>>,
}

impl<'a> Script<'a> {
    fn new(steps: &'a [Step], model: Vec<u8>) -> Self {
        Self { steps, at: Cell::new(0), model: RefCell::new(model), results: RefCell::default() }
    }
}

fn fill(buffer: &mut [u8], pattern: u8, first: u64) {
    for (i, byte) in buffer.iter_mut().enumerate() {
        *byte = pattern ^ (i / 512) as u8 ^ first as u8;
    }
}

fn extent(raw: Descriptor) -> std::ops::Range<usize> {
    let start = raw.first as usize * 512;
    start..start + raw.count as usize * 512
}

impl Source for Script<'_> {
    fn next(&self, _: u16, buffer: &mut [u8]) -> Option<Descriptor> {
        let step = self.steps.get(self.at.get())?;
        self.at.set(self.at.get() + 1);
        buffer.fill(0xee);
        let bytes = step.raw.count as usize * 512;
        if step.raw.op_flags & 0xff == WRITE && bytes <= buffer.len() {
            fill(&mut buffer[..bytes], step.pattern, step.raw.first);
        }
        Some(step.raw)
    }

    fn done(&self, _: u16, raw: Descriptor, result: i32, buffer: &[u8]) {
        self.results.borrow_mut().push(result);
        if result < 0 {
            return;
        }
        let mut model = self.model.borrow_mut();
        if raw.op_flags & 0xff == FLUSH {
            return;
        }
        let range = extent(raw);
        match raw.op_flags & 0xff {
            READ => assert!(buffer[..range.len()] == model[range.clone()], "read of {raw:?}"),
            WRITE => fill(&mut model[range], self.steps[self.at.get() - 1].pattern, raw.first),
            WRITE_ZEROES => model[range].fill(0),
            _ => {}
        }
    }
}

/// Each tag writes in an area of its own and reads that again, while the others do the same.
struct Areas {
    steps: Vec<Cell<usize>>,
    model: RefCell<Vec<u8>>,
}

impl Areas {
    const TAGS: usize = 16;
    const STEPS: usize = 40;

    /// The tag's request number `step`, each write followed by a read of the same range.
    fn request(tag: u16, step: usize) -> Descriptor {
        let sectors = DISK / 4096 / Self::TAGS;
        let pair = step / 2;
        let first = pair % sectors;
        let count = 1 + (pair * 7 + usize::from(tag)) % (sectors - first);
        Descriptor {
            op_flags: if step.is_multiple_of(2) { WRITE } else { READ },
            count: count as u32 * 8,
            first: ((usize::from(tag) * sectors + first) * 8) as u64,
        }
    }

    fn pattern(tag: u16, step: usize) -> u8 {
        (usize::from(tag) * 16 + step) as u8
    }
}

impl Source for Areas {
    fn next(&self, tag: u16, buffer: &mut [u8]) -> Option<Descriptor> {
        let step = self.steps[usize::from(tag)].get();
        let raw = Self::request(tag, step);
        if raw.op_flags == WRITE {
            fill(&mut buffer[..extent(raw).len()], Self::pattern(tag, step), raw.first);
        } else {
            buffer.fill(0xee);
        }
        (step < Self::STEPS).then_some(raw)
    }

    fn done(&self, tag: u16, raw: Descriptor, result: i32, buffer: &[u8]) {
        let step = self.steps[usize::from(tag)].replace(self.steps[usize::from(tag)].get() + 1);
        assert_eq!(result as usize, extent(raw).len());
        let part = &mut self.model.borrow_mut()[extent(raw)];
        if raw.op_flags == WRITE {
            fill(part, Self::pattern(tag, step), raw.first);
        } else {
            assert!(buffer[..part.len()] == *part, "tag {tag}: read of {raw:?}");
        }
    }
}

/// What is stored, decrypted by an implementation that is not ours.
fn decrypted(file: &File, sector_size: SectorSize) -> Vec<u8> {
    let mut data = vec![0; DISK];
    file.read_exact_at(&mut data, OFFSET).unwrap();
    let key = key();
    let xts =
        Xts128::new(Aes256::new(key[..32].try_into().unwrap()), Aes256::new(key[32..].try_into().unwrap()));
    for (index, sector) in data.chunks_mut(sector_size.bytes()).enumerate() {
        let tweak = u128::from(index as u64 * sector_size.lbas()).to_le_bytes();
        xts.decrypt_sector(sector, tweak.into());
    }
    data
}

fn run<T: Target>(target: &T, script: &Script<'_>) {
    run_tags(target, 1, script);
}

fn run_tags<T: Target>(target: &T, tags: u16, source: &impl Source) {
    // A thread has one ring in its life, so each run takes a new thread; it is joined before this returns.
    struct Pass<S>(S);
    // SAFETY: the thread below is the only one to use the source until it has ended.
    unsafe impl<S> Send for Pass<S> {}
    let pass = Pass(source);
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                let pass = pass;
                serve(target, tags, BUFFER, pass.0).map(|_| ())
            })
            .join()
            .unwrap()
            .unwrap();
    });
}

fn step() -> impl Strategy<Value = Step> {
    let lbas = (DISK / 512) as u64;
    let op = prop_oneof![
        4 => Just(READ),
        4 => Just(WRITE),
        1 => Just(WRITE | FUA),
        1 => Just(FLUSH),
        1 => Just(WRITE_ZEROES),
        1 => Just(DISCARD),
        1 => Just(77)
    ];
    let first = prop_oneof![8 => (0..lbas / 8).prop_map(|s| s * 8), 2 => 0..lbas + 16, 1 => Just(u64::MAX)];
    let count = prop_oneof![8 => (1..=9u32).prop_map(|s| s * 8), 2 => 1..300u32];
    (op, first, count, any::<u8>()).prop_map(|(op_flags, first, count, pattern)| Step {
        raw: Descriptor { op_flags, count, first },
        pattern,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn crypt_is_a_disk_whose_backing_is_xts(steps in vec(step(), 1..60), small in any::<bool>()) {
        let sector_size = if small { SectorSize::S512 } else { SectorSize::S4096 };
        let file = disk();
        let cipher = Cipher::new(&dek(), sector_size, None).unwrap();
        let target = Crypt::new(backing(file.path(), sector_size), cipher, false, false);
        // What an empty disk reads as: zeros, decrypted.
        let script = Script::new(&steps, decrypted(file.as_file(), sector_size));
        run(&target, &script);
        prop_assert!(decrypted(file.as_file(), sector_size) == *script.model.borrow());
        for (step, &result) in steps.iter().zip(&*script.results.borrow()) {
            prop_assert_eq!(result, expected_result(step.raw, sector_size), "{:?}", step);
        }
    }
}

#[test]
fn tags_at_once_keep_their_data_apart() {
    let file = disk();
    let cipher = Cipher::new(&dek(), SectorSize::S4096, None).unwrap();
    let target = Crypt::new(backing(file.path(), SectorSize::S4096), cipher, false, false);
    let model = RefCell::new(decrypted(file.as_file(), SectorSize::S4096));
    let areas = Areas { steps: vec![Cell::new(0); Areas::TAGS], model };
    run_tags(&target, Areas::TAGS as u16, &areas);
    assert!(areas.steps.iter().all(|steps| steps.get() == Areas::STEPS));
    assert!(decrypted(file.as_file(), SectorSize::S4096) == *areas.model.borrow());
}

/// What each request must answer, from the rules of the block layer alone.
fn expected_result(raw: Descriptor, sector_size: SectorSize) -> i32 {
    let op = raw.op_flags & 0xff;
    if op == FLUSH {
        return 0;
    }
    if ![READ, WRITE, WRITE_ZEROES].contains(&op) {
        return -libc::EOPNOTSUPP;
    }
    let inside = raw.first.checked_add(raw.count.into()).is_some_and(|end| end <= (DISK / 512) as u64);
    let aligned = raw.first.is_multiple_of(sector_size.lbas())
        && u64::from(raw.count).is_multiple_of(sector_size.lbas());
    let bytes = raw.count as usize * 512;
    match op {
        _ if !inside || !aligned => -libc::EINVAL,
        WRITE_ZEROES => 0,
        _ if bytes > BUFFER => -libc::EINVAL,
        _ => bytes as i32,
    }
}

fn results(target: &impl Target, requests: &[(u32, u64, u32)]) -> Vec<i32> {
    let steps: Vec<_> = requests
        .iter()
        .map(|&(op_flags, first, count)| Step { raw: Descriptor { op_flags, count, first }, pattern: 1 })
        .collect();
    let script = Script::new(&steps, vec![0; DISK]);
    run(target, &script);
    script.results.take()
}

#[test]
fn plain_stores_what_it_is_given() {
    let file = disk();
    let target = Plain::new(backing(file.path(), SectorSize::S512), SectorSize::S512, false, false);
    assert_eq!(results(&target, &[(WRITE, 3, 5), (READ, 3, 5)]), [2560, 2560]);
    let (mut stored, mut expected) = (vec![0; 2560], vec![0; 2560]);
    file.as_file().read_exact_at(&mut stored, OFFSET + 3 * 512).unwrap();
    fill(&mut expected, 1, 3);
    assert_eq!(stored, expected);
}

#[test]
fn null_answers_all_it_announced() {
    let target = Null::new(DISK as u64 + 100, SectorSize::S512);
    assert_eq!(target.shape().sectors, (DISK / 512) as u64);
    assert_eq!(results(&target, &[(WRITE, 0, 8), (FLUSH, 0, 0), (DISCARD, 0, 8)]), [4096, 0, 0]);
    assert_eq!(results(&target, &[(WRITE, (DISK / 512) as u64, 1)]), [-libc::EINVAL]);
}

#[test]
fn discard_punches_the_backing_where_allowed() {
    let file = disk();
    file.as_file().write_all_at(&[7; 8192], OFFSET).unwrap();
    let target = Plain::new(backing(file.path(), SectorSize::S4096), SectorSize::S4096, true, false);
    assert_eq!(results(&target, &[(DISCARD, 8, 8)]), [0]);
    let mut stored = [1; 8192];
    file.as_file().read_exact_at(&mut stored, OFFSET).unwrap();
    assert!(stored[..4096].iter().all(|&b| b == 7) && stored[4096..].iter().all(|&b| b == 0));
}

#[test]
fn a_backing_that_was_cut_short_gives_eio() {
    let file = disk();
    let cipher = Cipher::new(&dek(), SectorSize::S4096, None).unwrap();
    let target = Crypt::new(backing(file.path(), SectorSize::S4096), cipher, false, false);
    file.as_file().set_len(OFFSET + 8192).unwrap();
    assert_eq!(results(&target, &[(READ, 8, 16), (READ, 16, 8)]), [-libc::EIO, -libc::EIO]);
}

#[test]
fn the_errno_of_the_backing_comes_up() {
    let file = disk();
    let path = file.path();
    let options = BackingOptions { offset: 0, length: None, sector_size: SectorSize::S4096, read_only: true };
    // Opened for reading, but not said so to the target: the kernel's own refusal must come through.
    let target = Plain::new(Backing::open(path, &options).unwrap(), SectorSize::S4096, false, false);
    assert_eq!(results(&target, &[(WRITE, 0, 8)]), [-libc::EBADF]);
    let read_only = Plain::new(Backing::open(path, &options).unwrap(), SectorSize::S4096, false, true);
    assert_eq!(results(&read_only, &[(WRITE, 0, 8), (READ, 0, 8)]), [-libc::EROFS, 4096]);
}

#[test]
fn a_backing_that_cannot_hold_the_volume_is_refused() {
    let file = disk();
    let open = |path: &Path, offset, length| {
        let options = BackingOptions { offset, length, sector_size: SectorSize::S4096, read_only: false };
        Backing::open(path, &options).err()
    };
    let too_small = open(file.path(), OFFSET, Some(DISK as u64 + 4096));
    assert!(matches!(too_small, Some(BackingError::TooSmall { .. })), "{too_small:?}");
    assert!(matches!(open(file.path(), 1 << 40, None), Some(BackingError::TooSmall { .. })));
    assert!(matches!(open(Path::new("/dev/null"), 0, None), Some(BackingError::Kind { .. })));
    assert!(matches!(open(Path::new("/nowhere"), 0, None), Some(BackingError::Open { .. })));
}
