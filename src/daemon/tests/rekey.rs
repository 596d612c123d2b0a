//! Shallow rekey between native providers; `key_servers` has the way to a key server and back.

use std::path::Path;

use super::*;
use crate::control::{KekCreate, KekRevoke, KekState, Rekey, Rekeyed};
use crate::luks::{self, Place};
use crate::provider::KeyProvider;
use crate::provider::native::NativeProvider;

fn rekey(volume: &str, provider: Option<&str>, kek_id: Option<&str>) -> Rekey {
    let provider = provider.map(|name| name.parse().unwrap());
    Rekey { volume: volume.into(), provider, kek_id: kek_id.map(str::to_owned) }
}

impl Host {
    fn new_kek(&mut self, provider: &str) -> String {
        let call = KekCreate { provider: Some(provider.parse().unwrap()), inactive: false };
        self.call(&call).unwrap().kek_id
    }

    /// Makes a volume of another UUID with the header of `from`, which takes less time than one of its own.
    fn learn_copy(&mut self, name: &str, from: &Path, to: &Path) {
        let copy = fs::File::options().write(true).open(to).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&copy, &header(from), 0).unwrap();
        let uuid = uuid::Uuid::new_v4().to_string();
        let mut command = Command::new("cryptsetup");
        command.args(["luksUUID", "-q", "--uuid", &uuid]).arg(to);
        assert!(command.status().expect("this test needs cryptsetup").success());
        let mut open = self.open(to.to_str().unwrap());
        (open.name, open.options.queues) = (Some(name.parse().unwrap()), Some(0));
        self.fails(&open, FailureKind::InvalidArgument, "queues"); // but it is known from now on
    }

    /// That the provider's file and the header are all that it takes to get the volume's key, without the daemon.
    fn opens(&self, provider: &str, backing: &Path) {
        let file = self.path(&format!("state/{provider}.keys"));
        let provider = NativeProvider::new(provider.parse().unwrap(), file);
        provider.unlock(&secret("sesame")).unwrap();
        volume::unlock(&luks::open(&Place::attached(backing)).unwrap(), &provider).unwrap();
    }
}

fn token(backing: &Path) -> luks::Token {
    luks::open(&Place::attached(backing)).unwrap().token
}

#[test]
fn a_volume_gets_the_newest_kek_and_keeps_it() {
    let mut host = Host::with_provider();
    let backing = host.image("disk");
    let first = host.create("vol", backing.clone()).unwrap().kek_id.unwrap();
    let second = host.new_kek("office");
    let before = fs::read(&backing).unwrap();
    let expected = Rekeyed {
        name: "vol".parse().unwrap(),
        provider: "office".into(),
        kek_id: second.clone(),
        old_provider: "office".into(),
        old_kek_id: first.clone(),
        rewrapped: true,
    };
    assert_eq!(host.call(&rekey("vol", None, None)).unwrap(), expected);
    let after = fs::read(&backing).unwrap();
    assert!(before[32 << 10..] == after[32 << 10..], "no data moves");
    assert_eq!(token(&backing).kek_id.as_str(), second);
    assert_eq!(host.call(&Status { volume: "vol".into() }).unwrap().kek_id, Some(second.clone()));
    host.opens("office", &backing);

    let again = host.call(&rekey("vol", Some("office"), Some(&second))).unwrap();
    assert_eq!(again, Rekeyed { old_kek_id: second.clone(), rewrapped: false, ..expected });
    // Any KEK that is active, and only such a one.
    assert!(host.call(&rekey(backing.to_str().unwrap(), None, Some(&first))).unwrap().rewrapped);
    let revoke = KekRevoke { provider: "office".parse().unwrap(), kek_id: first.clone(), compromised: false };
    host.call(&revoke).unwrap();
    let before = fs::read(&backing).unwrap();
    host.fails(&rekey("vol", None, Some(&first)), FailureKind::InvalidArgument, "is deactivated");
    assert!(before == fs::read(&backing).unwrap());
    assert!(host.call(&rekey("vol", None, None)).unwrap().rewrapped, "away from a revoked one");
    host.opens("office", &backing);
}

#[test]
fn a_volume_moves_to_another_provider_and_back() {
    let mut host = Host::with_provider();
    let backing = host.image("disk");
    host.create("vol", backing.clone()).unwrap();
    host.add("spare", None).unwrap();
    let moved = host.call(&rekey("vol", Some("spare"), None)).unwrap();
    assert_eq!((moved.old_provider.as_str(), moved.provider.as_str()), ("office", "spare"));
    assert_eq!(token(&backing).provider.as_str(), "spare");
    host.call(&ProviderLock { name: "office".parse().unwrap() }).unwrap();
    host.opens("spare", &backing);
    host.fails(&ProviderRemove { name: "spare".parse().unwrap() }, FailureKind::Busy, "vol");

    // Both providers have to be there.
    let before = fs::read(&backing).unwrap();
    host.fails(&rekey("vol", Some("office"), None), FailureKind::Locked, "volume vol: key provider office");
    host.unlock("office", "sesame").unwrap();
    host.call(&ProviderLock { name: "spare".parse().unwrap() }).unwrap();
    host.fails(&rekey("vol", Some("office"), None), FailureKind::Locked, "volume vol: key provider spare");
    assert!(before == fs::read(&backing).unwrap());
    host.unlock("spare", "sesame").unwrap();
    assert!(host.call(&rekey("vol", Some("office"), None)).unwrap().rewrapped);
    host.opens("office", &backing);
    host.call(&ProviderRemove { name: "spare".parse().unwrap() }).unwrap();
}

#[test]
fn a_run_that_was_cut_off_between_header_and_registry_goes_on() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    host.add("spare", None).unwrap();
    let before = fs::read(host.path("state/volumes.toml")).unwrap();
    host.call(&rekey("vol", Some("spare"), None)).unwrap();
    let after = fs::read(host.path("state/volumes.toml")).unwrap();
    assert_ne!(before, after);
    fs::write(host.path("state/volumes.toml"), &before).unwrap();
    host.restart();
    host.unlock("spare", "sesame").unwrap();
    assert!(!host.call(&rekey("vol", Some("spare"), None)).unwrap().rewrapped);
    assert_eq!(fs::read(host.path("state/volumes.toml")).unwrap(), after);
}

#[test]
fn rekey_mistakes_are_refused() {
    let mut host = Host::with_provider();
    let backing = host.image("disk");
    let made = host.create("vol", backing.clone()).unwrap();
    let before = fs::read(&backing).unwrap();
    let inactive = KekCreate { provider: None, inactive: true };
    let inactive = host.call(&inactive).unwrap();
    assert_eq!(inactive.state, Some(KekState::PreActive));
    let unknown = "00000000-0000-4000-8000-000000000000";
    let cases = [
        (rekey("nobody", None, None), FailureKind::NotFound, "nobody"),
        (rekey("vol", Some("nobody"), None), FailureKind::NotFound, "nobody"),
        (rekey("vol", None, Some(unknown)), FailureKind::NotFound, unknown),
        (rekey("vol", None, Some("two words")), FailureKind::InvalidArgument, "two words"),
        (rekey("vol", None, Some(&inactive.kek_id)), FailureKind::InvalidArgument, "pre-active"),
    ];
    for (call, kind, named) in cases {
        host.fails(&call, kind, named);
    }
    assert!(before == fs::read(&backing).unwrap());
    assert_eq!(host.call(&Status { volume: "vol".into() }).unwrap(), made);
}

#[test]
fn a_run_over_many_volumes_that_was_stopped_passes_over_the_done_ones_when_run_again() {
    const COUNT: usize = 50;
    const STOP: usize = 23;
    let mut host = Host::with_provider();
    let names: Vec<String> = (0..COUNT).map(|number| format!("vol{number:02}")).collect();
    let backings: Vec<PathBuf> = names.iter().map(|name| host.image(name)).collect();
    host.create(&names[0], backings[0].clone()).unwrap();
    for (name, backing) in names.iter().zip(&backings).skip(1) {
        host.learn_copy(name, &backings[0], backing);
    }
    let old = token(&backings[0]).kek_id.to_string();
    let new = host.new_kek("office");
    for name in &names[..STOP - 1] {
        assert!(host.call(&rekey(name, None, None)).unwrap().rewrapped);
    }
    // The last one was cut off between its header and the registry.
    let known = fs::read(host.path("state/volumes.toml")).unwrap();
    host.call(&rekey(&names[STOP - 1], None, None)).unwrap();
    fs::write(host.path("state/volumes.toml"), known).unwrap();
    let done: Vec<Vec<u8>> = backings[..STOP].iter().map(|backing| header(backing)).collect();
    host.restart();
    host.unlock("office", "sesame").unwrap();

    let rewrapped: Vec<bool> =
        names.iter().map(|name| host.call(&rekey(name, None, None)).unwrap().rewrapped).collect();
    let expected: Vec<bool> = (0..COUNT).map(|at| at >= STOP).collect();
    assert_eq!(rewrapped, expected);
    assert!(
        backings[..STOP].iter().map(|backing| header(backing)).eq(done),
        "a done one was written to again"
    );
    assert!(backings.iter().all(|backing| token(backing).kek_id.as_str() == new));
    for volume in host.call(&List {}).unwrap().volumes {
        assert_eq!(volume.kek_id.as_deref(), Some(new.as_str()), "{}", volume.name);
    }
    let registry = fs::read_to_string(host.path("state/volumes.toml")).unwrap();
    assert!(!registry.contains(&old) && registry.matches(&new).count() == COUNT, "{registry}");
    host.opens("office", &backings[COUNT - 1]);
}

/// Both copies of a header.
fn header(backing: &Path) -> Vec<u8> {
    fs::read(backing).unwrap()[..32 << 10].to_vec()
}
