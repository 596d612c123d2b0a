//! KEKs through the daemon, as far as a native provider has them; `key_servers` has those of a key server.

use super::*;
use crate::control::{
    Kek, KekActivate, KekCreate, KekDestroy, KekList, KekRevoke, KekShow, KekState, RecoveryAdd, SecretFd,
};

impl Host {
    pub fn keks(&mut self) -> Vec<Kek> {
        let answer = self.call(&KekList { provider: Some("office".parse().unwrap()) }).unwrap();
        assert!(answer.problems.is_empty());
        answer.keks
    }

    pub fn create_with(&mut self, name: &str, kek_id: &str) -> Result<control::Volume, Failure> {
        let backing = self.image(name);
        self.call(&Create {
            name: name.parse().unwrap(),
            backing,
            header: None,
            sector_size: None,
            provider: None,
            kek_id: Some(kek_id.into()),
            force: false,
            replace_header: false,
        })
    }
}

fn office() -> Name {
    "office".parse().unwrap()
}

fn revoke(kek_id: &str, compromised: bool) -> KekRevoke {
    KekRevoke { provider: office(), kek_id: kek_id.into(), compromised }
}

fn destroy(kek_id: &str) -> KekDestroy {
    KekDestroy { provider: office(), kek_id: kek_id.into() }
}

fn names(kek: &Kek) -> Vec<&str> {
    kek.volumes.iter().map(Name::as_str).collect()
}

#[test]
fn a_kek_lives_as_long_as_a_volume_needs_it() {
    let mut host = Host::with_provider();
    let first = host.keks().remove(0);
    assert!(first.is_current && first.state == Some(KekState::Active) && first.volumes.is_empty());
    host.create("one", host.image("one.img")).unwrap();

    let second = host.call(&KekCreate { provider: None, inactive: true }).unwrap();
    assert!(!second.is_current && second.state == Some(KekState::PreActive) && second.created.is_some());
    let refused = host.create_with("two", &second.kek_id).unwrap_err();
    assert_eq!(refused.kind, FailureKind::InvalidArgument);
    assert!(refused.message.contains("pre-active") && refused.message.contains(&second.kek_id), "{refused}");
    let activate = KekActivate { provider: office(), kek_id: second.kek_id.clone() };
    assert!(host.call(&activate).unwrap().is_current);
    host.create("two", host.image("two.img")).unwrap();
    host.create_with("three", &first.kek_id).unwrap();
    let keks = host.keks();
    assert_eq!((names(&keks[0]), names(&keks[1])), (vec!["one", "three"], vec!["two"]));

    let revoked = host.call(&revoke(&first.kek_id, false)).unwrap();
    assert_eq!((revoked.state, names(&revoked)), (Some(KekState::Deactivated), vec!["one", "three"]));
    let refused = host.create_with("four", &first.kek_id).unwrap_err();
    assert!(refused.message.contains("is deactivated: only an active one wraps keys"), "{refused}");
    host.fails(&activate_call(&first.kek_id), FailureKind::InvalidArgument, "cannot be activated");
    host.fails(&destroy(&first.kek_id), FailureKind::Busy, "2 volumes: one, three");
    host.fails(&destroy(&second.kek_id), FailureKind::Busy, "1 volume: two");

    // What no volume needs can go; one that is active has to be revoked first.
    let third = host.call(&KekCreate { provider: Some(office()), inactive: false }).unwrap();
    host.fails(&destroy(&third.kek_id), FailureKind::InvalidArgument, "is active and cannot be destroyed");
    host.call(&revoke(&third.kek_id, true)).unwrap();
    let destroyed = host.call(&destroy(&third.kek_id)).unwrap();
    assert_eq!(destroyed.state, Some(KekState::DestroyedCompromised));
    let show = KekShow { provider: office(), kek_id: third.kek_id };
    assert_eq!(host.call(&show).unwrap().state, Some(KekState::DestroyedCompromised));
    assert!(host.keks()[1].is_current, "the newest active one again");
}

fn activate_call(kek_id: &str) -> KekActivate {
    KekActivate { provider: office(), kek_id: kek_id.into() }
}

#[test]
fn a_revoked_kek_unwraps_with_a_warning_and_a_destroyed_one_not_at_all() {
    let mut host = Host::with_provider();
    let backing = host.image("disk");
    let made = host.create("vol", backing.clone()).unwrap();
    let kek_id = made.kek_id.unwrap();
    assert_eq!(made.notice, None);
    host.call(&revoke(&kek_id, true)).unwrap();
    let notice = host.call(&Status { volume: "vol".into() }).unwrap().notice.unwrap();
    assert!(notice.contains(&kek_id) && notice.contains("compromised"), "{notice}");
    let recovery = RecoveryAdd { volume: "vol".into(), secret: SecretFd(0) };
    host.client.call(&recovery, &[&secret("rescue")]).unwrap();

    // Where the volume is unknown nothing keeps its KEK from being destroyed.
    let volumes = fs::read(host.path("state/volumes.toml")).unwrap();
    fs::remove_file(host.path("state/volumes.toml")).unwrap();
    host.restart();
    host.unlock("office", "sesame").unwrap();
    host.call(&destroy(&kek_id)).unwrap();
    fs::write(host.path("state/volumes.toml"), volumes).unwrap();
    host.restart();
    host.unlock("office", "sesame").unwrap();
    let failure = host.client.call(&recovery, &[&secret("rescue")]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
    for named in ["volume vol: ", &kek_id, "key provider office", "destroyed after a compromise"] {
        assert!(failure.message.contains(named), "{failure}");
    }
    let kek = host.keks().remove(0);
    assert_eq!((kek.state, names(&kek)), (Some(KekState::DestroyedCompromised), vec!["vol"]));
}

#[test]
fn headers_say_which_kek_is_needed_and_what_they_said_last_counts_while_they_are_away() {
    let mut host = Host::with_provider();
    let backing = host.image("disk");
    host.create("vol", backing.clone()).unwrap();
    let old = host.keks().remove(0).kek_id;
    host.call(&revoke(&old, false)).unwrap();
    fs::rename(&backing, host.path("away")).unwrap();
    host.fails(&destroy(&old), FailureKind::Busy, "1 volume: vol");
    fs::rename(host.path("away"), &backing).unwrap();

    // A KEK that a header names and the provider does not have is told of.
    let header = crate::luks::open(&crate::luks::Place::attached(&backing)).unwrap();
    let token = crate::luks::Token { kek_id: "elsewhere".parse().unwrap(), ..header.token.clone() };
    { header }.replace_token(token).unwrap();
    let keks = host.keks();
    assert_eq!((keks[0].kek_id.as_str(), names(&keks[0])), (old.as_str(), vec![]));
    let last = keks.last().unwrap();
    assert_eq!((last.kek_id.as_str(), last.state, names(last)), ("elsewhere", None, vec!["vol"]));
    host.call(&destroy(&old)).unwrap();
}

#[test]
fn kek_mistakes_are_refused_and_named() {
    let mut host = Host::with_provider();
    let unknown = "00000000-0000-4000-8000-000000000000";
    let show =
        |provider: &str, kek_id: &str| KekShow { provider: provider.parse().unwrap(), kek_id: kek_id.into() };
    host.fails(&show("office", unknown), FailureKind::NotFound, unknown);
    host.fails(&show("nobody", unknown), FailureKind::NotFound, "nobody");
    host.fails(&show("office", "with blank"), FailureKind::InvalidArgument, "with blank");
    host.fails(&revoke(unknown, false), FailureKind::NotFound, unknown);
    host.fails(&KekList { provider: Some("nobody".parse().unwrap()) }, FailureKind::NotFound, "nobody");
    assert_eq!(host.create_with("vol", unknown).unwrap_err().kind, FailureKind::NotFound);

    host.add("spare", Some(host.path("spare.keys"))).unwrap();
    fs::remove_file(host.path("spare.keys")).unwrap();
    let all = host.call(&KekList { provider: None }).unwrap();
    assert_eq!(all.keks.len(), 1);
    assert!(all.problems.len() == 1 && all.problems[0].contains("spare.keys"), "{:?}", all.problems);
    host.call(&ProviderLock { name: office() }).unwrap();
    host.fails(&KekCreate { provider: None, inactive: false }, FailureKind::Locked, "office");
    assert_eq!(host.keks().len(), 1, "they are listed all the same");
}

#[test]
fn a_provider_is_kept_while_a_header_needs_it_whatever_was_known_before() {
    let mut host = Host::with_provider();
    let backing = host.image("disk");
    host.create("vol", backing.clone()).unwrap();
    host.add("spare", None).unwrap();
    // Another host has wrapped the volume's key with a KEK of the other provider.
    let header = crate::luks::open(&crate::luks::Place::attached(&backing)).unwrap();
    let token = crate::luks::Token { provider: "spare".parse().unwrap(), ..header.token.clone() };
    { header }.replace_token(token).unwrap();
    let remove = |name: &str| ProviderRemove { name: name.parse().unwrap() };
    host.fails(&remove("spare"), FailureKind::Busy, "key provider spare is needed by 1 volume: vol");
    // While the header is away, what it said last counts.
    fs::rename(&backing, host.path("away")).unwrap();
    host.fails(&remove("spare"), FailureKind::Busy, "1 volume: vol");
    fs::rename(host.path("away"), &backing).unwrap();
    host.call(&remove("office")).unwrap();
    host.fails(&remove("spare"), FailureKind::Busy, "1 volume: vol");
}
