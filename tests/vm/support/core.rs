//! What root can do to a process: have it make a system call, and have it leave a core although it forbids that.

use std::fs::{self, File};
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::run;

/// A helper that the kernel starts in this process's root: a file would be made in the root of the process that dies.
const PATTERN: &str = "|/bin/dd of=/core.%p";

/// Ends `pid` by SIGABRT with no limit on its core, and gives the core if the kernel wrote one.
pub fn abort(pid: u32) -> Option<Vec<u8>> {
    fs::write("/proc/sys/kernel/core_pattern", PATTERN).unwrap();
    run(&format!("prlimit --pid {pid} --core=unlimited:unlimited"));
    run(&format!("kill -ABRT {pid}"));
    let start = Instant::now();
    while is_alive(pid) {
        assert!(start.elapsed() < Duration::from_secs(60), "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let core = format!("/core.{pid}");
    let content = fs::read(&core).ok();
    let _ = fs::remove_file(core);
    content
}

/// The core of `pid`, which forbids one: root makes it dumpable first, as a debugger would.
pub fn force(pid: u32) -> Vec<u8> {
    make_dumpable(pid);
    abort(pid).unwrap_or_else(|| panic!("process {pid} is dumpable and left no core"))
}

/// Not ended yet; a zombie has ended, and its core was written before.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Past the process's own filter, which a debugger may suspend.
fn make_dumpable(pid: u32) {
    const PTRACE_O_SUSPEND_SECCOMP: u64 = 1 << 21; // linux/ptrace.h
    let dumpable = [libc::PR_SET_DUMPABLE.unsigned_abs().into(), 1, 0];
    assert_eq!(call_in(pid, libc::SYS_prctl, dumpable, PTRACE_O_SUSPEND_SECCOMP), 0);
}

/// What the kernel answers when process `pid` makes system call `number`.
pub fn call(pid: u32, number: libc::c_long, arguments: [u64; 3]) -> i64 {
    call_in(pid, number, arguments, 0)
}

fn call_in(pid: u32, number: libc::c_long, arguments: [u64; 3], options: u64) -> i64 {
    let syscall = syscall_instruction(pid);
    let pid = libc::pid_t::try_from(pid).unwrap();
    let request = |request, data: *mut libc::user_regs_struct| {
        // SAFETY: each request below reads or writes one register set, which `data` is, or takes a number for it.
        let answer = unsafe { libc::ptrace(request, pid, 0, data) };
        assert_eq!(answer, 0, "ptrace request {request}: {}", std::io::Error::last_os_error());
    };
    let wait = || {
        // SAFETY: a null status is allowed.
        assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) }, pid);
    };
    request(libc::PTRACE_ATTACH, std::ptr::null_mut());
    wait();
    request(libc::PTRACE_SETOPTIONS, std::ptr::without_provenance_mut(options as usize));
    // SAFETY: all zeroes is a valid register set.
    let mut before: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    request(libc::PTRACE_GETREGS, &mut before);
    let [rdi, rsi, rdx] = arguments;
    let no_restart = u64::MAX;
    let rax = number.unsigned_abs();
    let mut call =
        libc::user_regs_struct { rax, rdi, rsi, rdx, rip: syscall, orig_rax: no_restart, ..before };
    request(libc::PTRACE_SETREGS, &mut call);
    request(libc::PTRACE_SINGLESTEP, std::ptr::null_mut());
    wait();
    request(libc::PTRACE_GETREGS, &mut call);
    request(libc::PTRACE_SETREGS, &mut before);
    request(libc::PTRACE_DETACH, std::ptr::null_mut());
    call.rax.cast_signed()
}

/// The address of a `syscall` instruction: the vDSO, which every process has, holds some.
fn syscall_instruction(pid: u32) -> u64 {
    let maps = std::io::BufReader::new(File::open(format!("/proc/{pid}/maps")).unwrap());
    let vdso = maps.lines().map(Result::unwrap).find(|line| line.ends_with("[vdso]")).unwrap();
    let (start, end) = vdso.split_whitespace().next().unwrap().split_once('-').unwrap();
    let address = |text| u64::from_str_radix(text, 16).unwrap();
    let (start, end) = (address(start), address(end));
    let mut code = vec![0; (end - start) as usize];
    File::open(format!("/proc/{pid}/mem")).unwrap().read_exact_at(&mut code, start).unwrap();
    start + code.windows(2).position(|bytes| bytes == [0x0f, 0x05]).unwrap() as u64
}
