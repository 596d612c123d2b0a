//! No round key and no tweak is left on the stack or in vector registers. Only optimised code is measured: without
//! optimisation, frames are many times larger than what is scrubbed.

use std::arch::asm;
use std::collections::HashSet;
use std::ffi::c_void;
use std::hint::black_box;
use std::ptr;

use openssl::symm;

use super::*;
use crate::cipher::engine::{EXPANSION_STACK, KERNEL_STACK, PORTABLE_STACK};
use crate::cipher::kernel::Kernel;

const STACK: usize = 512 * 1024;
const PAINT: u8 = 0xA5;
const FIRST_LBA: u64 = 0x1234_5678;
const SECTORS: usize = 100;

/// What must not be found: every round key, and the first tweak of every sector.
struct Secrets(HashSet<[u8; 16]>);

impl Secrets {
    fn new(kernel: Kernel, key: &[u8], size: SectorSize) -> Self {
        let keys = kernel.expand(key).unwrap();
        let mut blocks: HashSet<[u8; 16]> = keys.get().all_blocks().collect();
        assert_eq!(blocks.len(), 3 * 15 - 2, "the two ends are the same both ways");
        let lbas = (0..SECTORS as u64).map(|i| u128::from(FIRST_LBA + i * size.lbas()).to_le_bytes());
        let mut ecb =
            symm::Crypter::new(symm::Cipher::aes_256_ecb(), symm::Mode::Encrypt, &key[32..], None).unwrap();
        for lba in lbas {
            let mut tweak = [0; 32];
            assert_eq!(ecb.update(&lba, &mut tweak).unwrap(), 16);
            blocks.insert(tweak[..16].try_into().unwrap());
        }
        Self(blocks)
    }

    fn count_in(&self, bytes: &[u8]) -> usize {
        bytes.windows(16).filter(|window| self.0.contains(*window)).count()
    }
}

/// What a piece of work left behind.
struct Traces {
    stack: Vec<u8>,
    registers: Vec<u8>,
    /// Bytes between the frame that called the work and the lowest byte that the work wrote.
    depth: usize,
}

/// Runs `work` in a thread on a painted stack of our own, which stays ours to read when the thread has ended.
fn traces_of(work: impl FnOnce() + Send) -> Traces {
    struct Job<F> {
        work: Option<F>,
        registers: Vec<u8>,
        frame: usize,
    }
    /// The thread's own epilogue runs in the room that this frame takes up, and so hides nothing of the work.
    #[inline(never)]
    fn below_a_wide_frame<F: FnOnce()>(job: &mut Job<F>) {
        let room = black_box([0u8; 16 * 1024]);
        job.frame = ptr::from_ref(&room).addr();
        (job.work.take().unwrap())();
        // SAFETY: asked for by a test that runs where a kernel does.
        unsafe { store_registers(&mut job.registers) };
        black_box(&room);
    }
    extern "C" fn start<F: FnOnce()>(job: *mut c_void) -> *mut c_void {
        // SAFETY: `job` is the caller's, who waits for this thread.
        below_a_wide_frame(unsafe { &mut *job.cast::<Job<F>>() });
        ptr::null_mut()
    }
    fn spawn<F: FnOnce() + Send>(stack: &mut [u8], job: &mut Job<F>) {
        // SAFETY: the stack and the job outlive the thread, which is joined; nothing else uses them meanwhile.
        unsafe {
            let mut attributes = std::mem::zeroed();
            let mut thread = std::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
            assert_eq!(
                libc::pthread_attr_setstack(&mut attributes, stack.as_mut_ptr().cast(), stack.len()),
                0
            );
            let job = ptr::from_mut(job).cast();
            assert_eq!(libc::pthread_create(&mut thread, &attributes, start::<F>, job), 0);
            assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
            libc::pthread_attr_destroy(&mut attributes);
        }
    }

    let mut memory = vec![PAINT; STACK + 4096];
    let aligned = memory.as_ptr().align_offset(4096);
    let stack = &mut memory[aligned..][..STACK];
    let mut job = Job { work: Some(work), registers: vec![0; 32 * 64], frame: 0 };
    spawn(stack, &mut job);
    let frame = job.frame - stack.as_ptr().addr();
    let lowest = stack.iter().position(|&byte| byte != PAINT).unwrap();
    assert!(lowest > 4096, "the stack was too small");
    Traces { depth: frame - lowest, stack: stack.to_vec(), registers: job.registers }
}

/// # Safety
/// The CPU can run a kernel; `into` has 2048 bytes.
#[inline(never)]
unsafe fn store_registers(into: &mut [u8]) {
    assert_eq!(into.len(), 32 * 64);
    let into = into.as_mut_ptr();
    #[cfg(target_arch = "aarch64")]
    // SAFETY: 32 registers of 16 bytes each fit into the buffer.
    unsafe {
        asm!(
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "str q\\n, [{into}, 16 * \\n]",
            ".endr",
            into = in(reg) into
        );
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: 32 registers of 64 bytes each, or 16 of 32, fit into the buffer.
    unsafe {
        if is_x86_feature_detected!("avx512f") {
            asm!(
                ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "vmovdqu64 [{into} + 64 * \\n], zmm\\n",
                ".endr",
                into = in(reg) into
            );
        } else {
            asm!(
                ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "vmovdqu [{into} + 64 * \\n], ymm\\n",
                ".endr",
                into = in(reg) into
            );
        }
    }
}

fn for_each_setting(check: impl Fn(CpuPath, SectorSize, &[u8], &Secrets)) {
    // Every kernel has the same round keys.
    let Some(kernel) = CpuPath::available().into_iter().find_map(Kernel::of) else {
        return;
    };
    let key: Vec<u8> = (0..64).map(|i: u8| i.wrapping_mul(151).wrapping_add(7)).collect();
    for size in SIZES {
        let secrets = Secrets::new(kernel, &key, size);
        for_each_path(|path| check(path, size, &key, &secrets));
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "measures optimised code: run with --release")]
fn a_request_leaves_no_trace() {
    for_each_setting(|path, size, key, secrets| {
        let dek = dek(key);
        let cipher = Cipher::new(&dek, size, Some(path)).unwrap();
        let mut data = vec![1; SECTORS * size.bytes()];
        let mut target = data.clone();
        let source = data.clone();
        let calls: [(&str, &mut (dyn FnMut() + Send)); 4] = [
            ("encrypt", &mut || cipher.encrypt(FIRST_LBA, black_box(&mut data))),
            ("decrypt", &mut || cipher.decrypt(FIRST_LBA, black_box(&mut source.clone()))),
            ("encrypt_to", &mut || cipher.encrypt_to(FIRST_LBA, &source, black_box(&mut target))),
            ("new", &mut || drop(black_box(Cipher::new(&dek, size, Some(path))))),
        ];
        for (name, call) in calls {
            let traces = traces_of(call);
            assert_eq!(secrets.count_in(&traces.stack), 0, "{path} {size} {name}: on the stack");
            assert_eq!(secrets.count_in(&traces.registers), 0, "{path} {size} {name}: in registers");
        }
    });
}

/// The control of the test above: without scrubbing there are traces, they are found, and they reach no deeper than
/// what is scrubbed.
#[test]
#[cfg_attr(debug_assertions, ignore = "measures optimised code: run with --release")]
fn without_scrubbing_there_are_traces_where_scrubbing_reaches() {
    for_each_setting(|path, size, key, secrets| {
        let engine = Engine::new(key, path).unwrap();
        for direction in [Direction::Encrypt, Direction::Decrypt] {
            let mut data = vec![1; SECTORS * size.bytes()];
            let traces =
                traces_of(|| engine.run(direction, size, FIRST_LBA, black_box(&mut data[..]).into()));
            assert_ne!(secrets.count_in(&traces.stack), 0, "{path} {size}: nothing on the stack");
            // This path holds all round keys in registers; others may happen to overwrite theirs before the end.
            if path == CpuPath::Vaes512 {
                assert_ne!(secrets.count_in(&traces.registers), 0, "{path} {size}: nothing in registers");
            }
            let scrubbed = if path == CpuPath::Portable { PORTABLE_STACK } else { KERNEL_STACK };
            println!("{path} {size}: {} of {scrubbed} bytes of stack used", traces.depth);
            assert!(traces.depth <= scrubbed, "{path} {size}: {} bytes of stack used", traces.depth);
        }
        let traces = traces_of(|| drop(black_box(Engine::expand(key, path))));
        println!("{path}: {} bytes of stack used by key expansion", traces.depth);
        assert!(traces.depth <= EXPANSION_STACK, "{path}: {} bytes of stack used", traces.depth);
    });
}
