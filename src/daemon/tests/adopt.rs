//! Volumes of stock cryptsetup that come and go; cryptsetup itself makes them and looks at what is left.

use std::io::Write;
use std::path::Path;

use super::*;
use crate::control::peer_tests::as_user;
use crate::control::{Adopt, Release};
use crate::luks::{self, Place};

/// Runs cryptsetup with `input`: whether it succeeded.
pub fn cryptsetup(arguments: &[&str], path: &Path, input: &str) -> bool {
    let mut command = Command::new("cryptsetup");
    command.args(arguments).arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("these tests need cryptsetup");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait().unwrap().success()
}

pub fn opens(path: &Path, passphrase: &str) -> bool {
    cryptsetup(&["open", "--test-passphrase"], path, passphrase)
}

pub fn adopt(name: &str, backing: &Path) -> Adopt {
    Adopt {
        name: name.parse().unwrap(),
        backing: backing.into(),
        header: None,
        secret: SecretFd(0),
        provider: None,
        kek_id: None,
        remove_passphrases: false,
    }
}

pub fn release(volume: &str) -> Release {
    Release { volume: volume.into() }
}

impl Host {
    /// A volume of cryptsetup's that the passphrase `stock` opens.
    fn stock(&self, name: &str) -> PathBuf {
        let path = self.image(name);
        let quick = ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-size=512"];
        assert!(cryptsetup(&[&["luksFormat", "-q"][..], &quick].concat(), &path, "stock"));
        path
    }

    pub fn adopt(&mut self, call: &Adopt, passphrase: &str) -> Result<control::Volume, Failure> {
        self.client.call(call, &[&secret(passphrase)])
    }
}

#[test]
fn a_volume_is_adopted_opened_and_released() {
    let mut host = Host::with_provider();
    let backing = host.stock("disk");
    let adopted = host.adopt(&adopt("vol", &backing), "stock").unwrap();
    assert_eq!((adopted.state, adopted.recovery_keyslots.clone()), (VolumeState::Unlocked, vec![0]));
    assert_eq!(adopted.provider.as_deref(), Some("office"));
    assert!(opens(&backing, "stock"), "its passphrase stays");
    assert_eq!(host.call(&Status { volume: "vol".into() }).unwrap(), adopted);
    host.restart();
    host.unlock("office", "sesame").unwrap();
    let open = host.open("vol");
    assert_eq!(host.call(&open).unwrap().state, VolumeState::Live);
    host.fails(&release("vol"), FailureKind::Busy, "vol is open");

    let mut host = Host::with_provider();
    let backing = host.stock("disk");
    host.adopt(&adopt("vol", &backing), "stock").unwrap();
    host.call(&release("vol")).unwrap();
    host.fails(&Status { volume: "vol".into() }, FailureKind::NotFound, "vol");
    host.fails(&release("vol"), FailureKind::NotFound, "vol");
    assert!(opens(&backing, "stock"));
    host.adopt(&adopt("again", &backing), "stock").unwrap();
}

#[test]
fn passphrases_go_only_where_that_was_asked_for() {
    let mut host = Host::with_provider();
    let backing = host.stock("disk");
    fs::write(host.path("second"), "second").unwrap();
    let second = host.path("second").to_str().unwrap().to_owned();
    let quick =
        ["luksAddKey", "-q", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--new-keyfile", &second];
    assert!(cryptsetup(&quick, &backing, "stock") && opens(&backing, "second"));
    let call = Adopt { remove_passphrases: true, ..adopt("vol", &backing) };
    let adopted = host.adopt(&call, "stock").unwrap();
    assert_eq!((adopted.state, adopted.recovery_keyslots), (VolumeState::Unlocked, vec![]));
    assert!(!opens(&backing, "stock") && !opens(&backing, "second"));
    let before = fs::read(&backing).unwrap();
    host.fails(&release("vol"), FailureKind::NotFound, "no recovery passphrase");
    assert!(before == fs::read(&backing).unwrap());
    host.call(&Status { volume: "vol".into() }).unwrap();
    let add = RecoveryAdd { volume: "vol".into(), secret: SecretFd(0) };
    host.client.call(&add, &[&secret("rescue")]).unwrap();
    host.call(&release(backing.to_str().unwrap())).unwrap();
    assert!(opens(&backing, "rescue"));
}

#[test]
fn to_remove_passphrases_takes_a_privilege_of_its_own() {
    let host = Host::with_roles("[role.encrypter]\nprivileges = ['encrypt', 'look']\nusers = ['4001']");
    let (backing, socket) = (host.stock("stock"), host.path("run/daemon.sock"));
    let before = fs::read(&backing).unwrap();
    let ask = |call: &Adopt| {
        let ask = || Client::connect(&socket).unwrap().call(call, &[&secret("stock")]);
        as_user(4001, 4999, &[], ask)
    };
    let Some(answer) = ask(&Adopt { remove_passphrases: true, ..adopt("new", &backing) }) else { return };
    let failure = answer.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotPermitted, "{failure}");
    assert!(failure.message.contains("the privilege decrypt"), "{failure}");
    assert!(before == fs::read(&backing).unwrap());
    assert_eq!(ask(&adopt("new", &backing)).unwrap().unwrap().recovery_keyslots, [0]);
}

#[test]
fn what_is_refused_changes_nothing() {
    const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";
    let mut host = Host::with_provider();
    let (backing, taken) = (host.stock("disk"), host.image("taken"));
    host.create("taken", taken.clone()).unwrap();
    let before = (fs::read(&backing).unwrap(), fs::read(host.path("state/volumes.toml")).unwrap());
    let call = adopt("vol", &backing);
    let with = |change: fn(&mut Adopt)| {
        let mut call = call.clone();
        change(&mut call);
        call
    };
    let cases = [
        (call.clone(), "wrong", FailureKind::WrongKey, "no passphrase of"),
        (with(|c| c.name = "taken".parse().unwrap()), "stock", FailureKind::Exists, "taken"),
        (with(|c| c.provider = Some("nobody".parse().unwrap())), "stock", FailureKind::NotFound, "nobody"),
        (with(|c| c.kek_id = Some(UNKNOWN.into())), "stock", FailureKind::NotFound, UNKNOWN),
        (with(|c| c.backing = "relative".into()), "stock", FailureKind::InvalidArgument, "relative"),
        (with(|c| c.backing = "/nowhere/disk".into()), "stock", FailureKind::NoInput, "/nowhere/disk"),
        (Adopt { backing: taken, ..call.clone() }, "stock", FailureKind::Exists, "of volume taken"),
    ];
    for (call, passphrase, kind, named) in cases {
        let failure = host.adopt(&call, passphrase).unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.contains(named), "'{failure}' does not name {named}");
    }
    let held = luks::claim(&backing, 0).unwrap();
    assert_eq!(host.adopt(&call, "stock").unwrap_err().kind, FailureKind::Busy);
    drop(held);
    host.call(&ProviderLock { name: "office".parse().unwrap() }).unwrap();
    assert_eq!(host.adopt(&call, "stock").unwrap_err().kind, FailureKind::Locked);
    assert!(before == (fs::read(&backing).unwrap(), fs::read(host.path("state/volumes.toml")).unwrap()));
}

#[test]
fn a_volume_that_waits_to_be_opened_is_not_released() {
    let mut host = Host::with_provider();
    let backing = host.stock("disk");
    host.adopt(&adopt("vol", &backing), "stock").unwrap();
    host.call(&ProviderLock { name: "office".parse().unwrap() }).unwrap();
    let open = host.open("vol");
    host.fails(&open, FailureKind::Waiting, "office");
    host.fails(&release("vol"), FailureKind::Busy, "vol is to be opened");
    host.call(&Close { volume: "vol".into(), force: false }).unwrap();
    host.call(&release("vol")).unwrap(); // which takes no key
    assert!(opens(&backing, "stock"));
}

#[test]
fn a_release_that_was_cut_off_between_header_and_registry_goes_on() {
    let mut host = Host::with_provider();
    let backing = host.stock("disk");
    host.adopt(&adopt("vol", &backing), "stock").unwrap();
    luks::open(&Place::attached(&backing)).unwrap().release().unwrap();
    let problem = host.call(&Status { volume: "vol".into() }).unwrap().problem.unwrap();
    assert!(problem.contains("it has no blkseal token"), "{problem}");
    host.call(&release("vol")).unwrap();
    assert!(host.call(&List {}).unwrap().volumes.is_empty());
}
