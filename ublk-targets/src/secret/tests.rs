use super::*;

#[test]
fn a_generated_dek_is_random_and_full_length() {
    let (a, b) = (Dek::generate().unwrap(), Dek::generate().unwrap());
    assert_eq!(a.expose().len(), DEK_LEN);
    assert_ne!(a.expose(), b.expose());
}

#[test]
fn a_secret_handed_over_by_descriptor_is_the_same_bytes() {
    for kind in [LockKind::MemfdSecret, LockKind::Mlock] {
        let Ok(mut secret) = Secret::zeroed_as(DEK_LEN, kind) else { continue };
        secret.fill_random().unwrap();
        let other = Secret::from_fd(secret.fd().try_clone_to_owned().unwrap(), DEK_LEN).unwrap();
        assert_eq!(other.kind(), kind);
        assert_eq!(secret.expose(), other.expose());
    }
}

#[test]
fn dropping_wipes_the_shared_pages() {
    let secret = Secret::random(48).unwrap();
    let other = Secret::from_fd(secret.fd().try_clone_to_owned().unwrap(), 48).unwrap();
    drop(secret);
    assert!(other.expose().iter().all(|&byte| byte == 0));
}

#[test]
fn releasing_leaves_the_bytes_to_the_other_owner() {
    let secret = Secret::random(48).unwrap();
    let other = Secret::from_fd(secret.fd().try_clone_to_owned().unwrap(), 48).unwrap();
    secret.release();
    assert!(other.expose().iter().any(|&byte| byte != 0));
}

#[test]
fn a_descriptor_of_the_wrong_length_or_kind_is_refused() {
    let secret = Secret::random(63).unwrap();
    let fd = secret.fd().try_clone_to_owned().unwrap();
    assert!(matches!(Dek::from_fd(fd), Err(SecretError::Length { found: 63, expected: 64 })));
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(matches!(Dek::from_fd(file.into()), Err(SecretError::Os { .. })));
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
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "secret::tests::too_low_a_memlock_limit_is_named", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(output.contains("the limit is 0 bytes (RLIMIT_MEMLOCK)"), "{output}");
}
