//! What a process may ask of the kernel (seccomp(2)), so that whoever takes it over gets little further.
//!
//! A refused call fails with EPERM and does not end the process: a device whose worker ends at each start would be worse
//! for its users than a call that nobody foresaw.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use ublk_targets::ring;

/// What no process of blkseal has a use for, as long as it lives: other processes' memory, the kernel's keys and code, the
/// machine's clock and swap.
const NEVER: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_userfaultfd,
];

/// What a worker does once its device serves. It opens nothing, connects to nothing and starts nothing but threads.
const SERVING: &[c_long] = &[
    // Requests: all I/O on the device and on the backing goes through rings. No filter sees what a ring does, so each was
    // confined when it was made (`ublk_targets::ring`), and no others can be made.
    libc::SYS_io_uring_enter,
    // Memory, of the allocator and of threads' stacks.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads: one for each connection to the worker's socket.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // The worker's socket, whose places are its own user's before others', and its log on standard error.
    libc::SYS_accept4,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_geteuid,
    libc::SYS_getpid,
    libc::SYS_getsockopt,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_write,
    libc::SYS_writev,
    // Time, where the vDSO has to ask the kernel, and the timers of the executor.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // The end: a failed assertion aborts, and libublk removes its record of the device.
    libc::SYS_getrandom,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_unlinkat,
];

/// The same by the names that only this architecture has.
#[cfg(target_arch = "x86_64")]
const SERVING_X86: &[c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const SERVING_X86: &[c_long] = &[];

/// Why a filter is not in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no filter for this processor.
    #[error("there is no system call filter for this architecture")]
    Filter(#[from] BackendError),
    /// The kernel did not take it.
    #[error("the kernel does not take the system call filter")]
    Kernel(#[from] seccompiler::Error),
}

/// From now on every thread of this process, and every process that it starts, is refused what blkseal never does.
pub fn refuse_needless() -> Result<(), Error> {
    let rules = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    apply(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.unsigned_abs()))
}

/// From now on every thread of this process may do only what serving a device takes. Not to be undone.
pub fn allow_serving() -> Result<(), Error> {
    let calls = SERVING.iter().chain(SERVING_X86);
    let mut rules: BTreeMap<_, _> = calls.map(|call| (*call, Vec::new())).collect();
    // Threads get names; the attributes that keep this process from being dumped stay.
    rules.insert(libc::SYS_prctl, vec![argument_is(0, libc::PR_SET_NAME.unsigned_abs())?]);
    // A ring lets go of its files at its end.
    rules.insert(libc::SYS_io_uring_register, vec![argument_is(1, ring::UNREGISTER_FILES.into())?]);
    apply(rules, SeccompAction::Errno(libc::EPERM.unsigned_abs()), SeccompAction::Allow)
}

/// Matches calls whose argument of this number is `value`.
fn argument_is(number: u8, value: u32) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(number, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())?;
    SeccompRule::new(vec![condition])
}

fn apply(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<(), Error> {
    let filter = SeccompFilter::new(rules, otherwise, matching, ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter_all_threads(&program)?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The answer of a system call with two arguments and zeros, as 0 or the errno.
    fn errno_of(call: c_long, first: usize, second: usize) -> i32 {
        // SAFETY: the calls of the test below name no memory but a path that is a constant.
        match unsafe { libc::syscall(call, first, second, 0, 0, 0) } {
            -1 => std::io::Error::last_os_error().raw_os_error().unwrap(),
            _ => 0,
        }
    }

    #[test]
    fn a_serving_worker_opens_nothing_and_makes_no_ring() {
        const CHILD: &str = "BLKSEAL_TEST_SERVING";
        if std::env::var_os(CHILD).is_some() {
            nix::sys::prctl::set_no_new_privs().unwrap();
            let register = |operation: u8| errno_of(libc::SYS_io_uring_register, 0, operation.into());
            assert_eq!(errno_of(libc::SYS_io_uring_setup, 4, 0), libc::EFAULT); // allowed so far
            allow_serving().unwrap();
            assert_eq!(errno_of(libc::SYS_io_uring_setup, 4, 0), libc::EPERM);
            assert_eq!(register(0), libc::EPERM);
            assert_ne!(register(ring::UNREGISTER_FILES), libc::EPERM); // standard input is no ring
            let path = c"/etc/passwd".as_ptr().addr();
            assert_eq!(errno_of(libc::SYS_openat, path, path), libc::EPERM);
            assert_eq!(errno_of(libc::SYS_socket, 2, 1), libc::EPERM);
            println!("all as it should be");
            return;
        }
        // In a process of its own, for a filter holds for all threads and for ever.
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "seccomp::tests::a_serving_worker_opens_nothing_and_makes_no_ring",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(output.contains("all as it should be"), "{output}{}", String::from_utf8_lossy(&child.stderr));
    }
}
