use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{Command, Output};

use super::*;

#[test]
fn a_generated_dek_is_random_and_full_length() {
    let (a, b) = (Dek::generate().unwrap(), Dek::generate().unwrap());
    assert_eq!(a.expose().len(), DEK_LEN);
    assert_ne!(a.expose(), b.expose());
}

fn fd_of(shared: &Shared) -> OwnedFd {
    shared.as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn a_secret_handed_over_by_descriptor_is_the_same_bytes() {
    for kind in [LockKind::MemfdSecret, LockKind::Mlock] {
        let Ok(mut secret) = Secret::zeroed_as(DEK_LEN, kind) else { continue };
        secret.fill_random().unwrap();
        let shared = secret.share().unwrap();
        assert_eq!(shared.kind(), kind);
        let other = Secret::from_fd(fd_of(&shared), DEK_LEN).unwrap();
        assert_eq!(secret.expose(), other.expose());
        // The giver's own is another: it can be handed over again.
        drop((shared, other));
        let again = Secret::from_fd(fd_of(&secret.share().unwrap()), DEK_LEN).unwrap();
        assert_eq!(secret.expose().len(), again.expose().len());
        assert!(secret.expose().iter().any(|&byte| byte != 0));
    }
}

#[test]
fn what_was_shared_is_wiped_with_its_giver() {
    for kind in [LockKind::MemfdSecret, LockKind::Mlock] {
        let Ok(mut secret) = Secret::zeroed_as(48, kind) else { continue };
        secret.fill_random().unwrap();
        let shared = secret.share().unwrap();
        let fd = fd_of(&shared);
        drop(shared);
        let other = Secret::from_fd(fd, 48).unwrap();
        assert!(other.expose().iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_descriptor_of_the_wrong_length_or_kind_is_refused() {
    let shared = Secret::random(63).unwrap().share().unwrap();
    assert!(matches!(Dek::from_fd(fd_of(&shared)), Err(SecretError::Length { found: 63, expected: 64 })));
    let file = File::open("/proc/self/exe").unwrap();
    assert!(matches!(Dek::from_fd(file.into()), Err(SecretError::Os { .. })));
}

/// A file in memory as any client may have made it.
fn memory_file(bytes: &[u8]) -> File {
    // SAFETY: makes a new descriptor; the name is a constant string.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_create, c"of-a-client".as_ptr(), 0) };
    // SAFETY: the kernel just gave this descriptor to us alone.
    let mut file = unsafe { File::from_raw_fd(fd.try_into().unwrap()) };
    file.write_all(bytes).unwrap();
    file
}

/// Runs a test of this file again in a process of its own, where `variable` is set.
fn alone(test: &str, variable: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("secret::tests::{test}"), "--nocapture"])
        .env(variable, "1")
        .output()
        .unwrap()
}

#[test]
fn a_memory_file_that_its_giver_cuts_harms_nobody() {
    const CHILD: &str = "BLKSEAL_TEST_CUT";
    if std::env::var_os(CHILD).is_some() {
        let file = memory_file(b"passphrase");
        let secret = Secret::from_fd_at_most(file.try_clone().unwrap().into(), 8192).unwrap();
        file.set_len(0).unwrap();
        assert_eq!(secret.expose(), b"passphrase");
        drop(secret);
        println!("survived");
        return;
    }
    // In a process of its own: what is wrong ends it (SIGBUS).
    let child = alone("a_memory_file_that_its_giver_cuts_harms_nobody", CHILD);
    assert!(String::from_utf8_lossy(&child.stdout).contains("survived"), "{child:?}");
}

#[test]
fn no_descriptor_leads_to_a_secret() {
    const CHILD: &str = "BLKSEAL_TEST_DESCRIPTORS";
    if std::env::var_os(CHILD).is_some() {
        let links = || -> Vec<_> {
            let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
        };
        let leading_to_memory = |links: Vec<std::path::PathBuf>| {
            links.iter().filter(|link| link.to_string_lossy().contains("secret")).count()
        };
        let (dek, kek) = (Dek::generate().unwrap(), Kek::generate().unwrap());
        let file = memory_file(&[1; 8]);
        let taken = Secret::from_fd(file.into(), 8).unwrap();
        assert_eq!(leading_to_memory(links()), 0, "{:?}", links());
        // The control: while one is handed over, its descriptor is seen.
        let shared = dek.share().unwrap();
        assert_eq!(leading_to_memory(links()), 1, "{:?}", links());
        let other = Dek::from_fd(fd_of(&shared)).unwrap();
        drop(shared);
        assert_eq!(leading_to_memory(links()), 0, "{:?}", links());
        drop((dek, kek, taken, other));
        println!("none");
        return;
    }
    // In a process of its own, where no other test has secrets.
    let child = alone("no_descriptor_leads_to_a_secret", CHILD);
    assert!(String::from_utf8_lossy(&child.stdout).contains("none"), "{child:?}");
}

#[test]
fn too_low_a_memlock_limit_is_named() {
    use nix::sys::resource::{Resource, setrlimit};
    const CHILD: &str = "BLKSEAL_TEST_WITHOUT_LOCKED_MEMORY";
    if std::env::var_os(CHILD).is_some() {
        setrlimit(Resource::RLIMIT_MEMLOCK, 0, 0).unwrap();
        if nix::unistd::geteuid().is_root() {
            nix::unistd::setuid(nix::unistd::Uid::from_raw(65534)).unwrap();
        }
        println!("{}", Secret::zeroed(64).err().unwrap());
        return;
    }
    // In a process of its own, for the limit and the lost capability hold for all threads.
    let child = alone("too_low_a_memlock_limit_is_named", CHILD);
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(output.contains("the limit is 0 bytes (RLIMIT_MEMLOCK)"), "{output}");
}
