//! The registry on disk, and a DEK's way into a header and back. Formatting and unwrapping need no privilege.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use ublk_targets::secret::{Dek, Kek, Secret};
use uuid::Uuid;

use super::keys::{adopt as adopt_and_enter, create as create_and_enter};
use super::*;
use crate::luks::{self, FormatOptions, Place};
use crate::provider::native::{KdfCost, NativeProvider};
use crate::provider::tests::unobserved;
use crate::provider::{self, KekId, KekState, KeyProvider, ProviderError};

fn known(name: &str, backing: &Path) -> Known {
    Known {
        uuid: Uuid::new_v4(),
        name: name.parse().unwrap(),
        backing: backing.to_owned(),
        header: None,
        provider: "office".parse().unwrap(),
        kek_id: "kek-1".parse().unwrap(),
        digest: None,
    }
}

fn file(directory: &TempDir, name: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, name).unwrap();
    path
}

#[test]
fn volumes_are_found_by_name_uuid_and_every_path_that_leads_to_them() {
    let directory = tempfile::tempdir().unwrap();
    let one = known("first", &file(&directory, "one"));
    let two = known("second", &file(&directory, "two"));
    let registry = Registry::load(directory.path()).unwrap();
    registry.insert(two.clone()).unwrap();
    registry.insert(one.clone()).unwrap();

    let link = directory.path().join("link");
    symlink(&two.backing, &link).unwrap();
    let texts = [
        "second".into(),
        two.uuid.to_string(),
        two.uuid.simple().to_string(),
        two.backing.display().to_string(),
    ];
    let volumes = registry.known();
    for text in texts.into_iter().chain([link.display().to_string()]) {
        assert_eq!(volumes.find(&text), Some(&two), "{text}");
    }
    for text in ["third", "", "two", &Uuid::new_v4().to_string(), "/nowhere"] {
        assert!(volumes.find(text).is_none(), "{text}");
    }
    let names: Vec<_> = volumes.of_provider(&one.provider).map(crate::name::Name::as_str).collect();
    assert_eq!(names, ["first", "second"]);
}

#[test]
fn what_is_remembered_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = Path::new("/dev/nowhere");
    let detached = Known { header: Some("/h".into()), digest: Some("d".into()), ..known("v", path) };
    let registry = Registry::load(directory.path()).unwrap();
    registry.insert(detached.clone()).unwrap();
    let other = known("w", path);
    registry.insert(other.clone()).unwrap();
    registry.forget(other.uuid, false).unwrap();
    let again = Registry::load(directory.path()).unwrap().known();
    assert_eq!(again.get(&"v".parse().unwrap()), Some(&detached));
    assert_eq!(detached.place(), Place::detached("/dev/nowhere", "/h"));
    assert_eq!(again, registry.known());
    assert_eq!(again.forgotten().collect::<Vec<_>>(), [(&other.uuid, &Forgotten::from(other.clone()))]);
    registry.forget(other.uuid, true).unwrap();
    registry.remove(detached.uuid).unwrap();
    let again = Registry::load(directory.path()).unwrap().known();
    assert_eq!((again.iter().count(), again.forgotten().count()), (0, 0));
}

#[test]
fn no_volume_makes_room_for_another() {
    let directory = tempfile::tempdir().unwrap();
    let backing = file(&directory, "backing");
    let registry = Registry::load(directory.path()).unwrap();
    let (one, two) = (known("one", &backing), known("two", &backing));
    registry.insert(one.clone()).unwrap();
    registry.insert(two.clone()).unwrap();
    for taken in
        [Known { uuid: Uuid::new_v4(), ..one.clone() }, Known { uuid: one.uuid, ..known("x", &backing) }]
    {
        let error = registry.insert(taken).unwrap_err();
        assert!(matches!(&error, VolumeError::NameTaken { name, .. } if *name == one.name), "{error}");
    }
    assert_eq!(registry.known().iter().map(|(_, volume)| volume).collect::<Vec<_>>(), [&one, &two]);
}

#[test]
fn a_registry_that_cannot_be_written_changes_nothing_that_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::load(directory.path()).unwrap();
    let one = known("one", Path::new("/one"));
    registry.insert(one.clone()).unwrap();
    fs::remove_file(directory.path().join("volumes.toml")).unwrap();
    fs::create_dir(directory.path().join("volumes.toml")).unwrap();
    assert!(matches!(registry.remove(one.uuid), Err(VolumeError::Io { action: "write", .. })));
    assert!(matches!(registry.insert(known("two", Path::new("/two"))), Err(VolumeError::Io { .. })));
    assert_eq!(registry.known().iter().map(|(_, volume)| volume).collect::<Vec<_>>(), [&one]);
}

#[test]
fn what_earlier_releases_wrote_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let entry = |name: &str, uuid| {
        let more = "provider = 'office'\nkek_id = 'kek-1'\n";
        format!("[volume.{name}]\nuuid = '{uuid}'\nbacking = '/{name}'\n{more}\n")
    };
    let path = directory.path().join("volumes.toml");
    // A copy of a disk was a volume of its own.
    let detached = entry("vm2", two).replace("provider", "header = '/h'\nprovider");
    fs::write(&path, entry("vm1", one) + &detached + &entry("vm3", one)).unwrap();
    let registry = Registry::load(directory.path()).unwrap();
    let expected = [
        Known { uuid: one, ..known("vm1", Path::new("/vm1")) },
        Known { uuid: two, header: Some("/h".into()), ..known("vm2", Path::new("/vm2")) },
    ];
    assert_eq!(registry.known().iter().map(|(_, volume)| volume.clone()).collect::<Vec<_>>(), expected);
    registry.moved(two, &Place::attached("/elsewhere")).unwrap();
    let again = Registry::load(directory.path()).unwrap();
    assert_eq!(again.known(), registry.known());
    fs::write(&path, "[volume]\n").unwrap();
    assert_eq!(Registry::load(directory.path()).unwrap().known().iter().count(), 0);
}

#[test]
fn a_malformed_registry_is_named_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("volumes.toml");
    let registry = Registry::load(directory.path()).unwrap();
    registry.insert(known("one", Path::new("/one"))).unwrap();
    registry.insert(known("two", Path::new("/two"))).unwrap();
    let good = fs::read(&path).unwrap();
    // Cut short anywhere, before a table as well.
    let torn = (0..good.len() - 1).map(|end| good[..end].to_vec());
    let version = String::from_utf8(good.clone()).unwrap().replace("version = 2", "version = 3");
    let named = String::from_utf8(good.clone()).unwrap().replace("\"two\"", "\"one\"");
    let bad: [&[u8]; 8] = [
        b"volume = 3",
        b"[volume.v]\nuuid = 1\n",
        b"[volume.\"a/b\"]\n",
        b"surprise = 1\n",
        b"\xff",
        b"\n",
        version.as_bytes(),
        named.as_bytes(),
    ];
    for content in bad.into_iter().map(<[u8]>::to_vec).chain(torn) {
        fs::write(&path, &content).unwrap();
        let Err(error) = Registry::load(directory.path()) else {
            panic!("{:?} is taken", String::from_utf8_lossy(&content))
        };
        assert!(error.to_string().contains("volumes.toml is damaged: "), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        assert!(error.hint().unwrap().contains("move it away"));
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

/// A provider that is ready, and an image to make a volume on.
struct Bench {
    directory: TempDir,
    provider: NativeProvider,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let provider = provider_in(directory.path(), "office");
        Self { directory, provider }
    }

    fn image(&self, name: &str) -> Place {
        let path = self.directory.path().join(name);
        fs::File::create(&path).unwrap().set_len(20 << 20).unwrap();
        Place::attached(path)
    }
}

fn create(
    place: &Place,
    options: &FormatOptions,
    provider: &dyn KeyProvider,
    wanted: Option<KekId>,
) -> Result<luks::Header, VolumeError> {
    create_and_enter(place, options, provider, wanted, |_, _| Ok(()))
}

fn provider_in(directory: &Path, name: &str) -> NativeProvider {
    let mut secret = Secret::zeroed(6).unwrap();
    secret.expose_mut().copy_from_slice(b"secret");
    let path = directory.join(format!("{name}.keys"));
    NativeProvider::create(name.parse().unwrap(), path, &secret, KdfCost::new(8, 1, 1).unwrap()).unwrap()
}

#[test]
fn a_volume_opens_with_the_key_that_it_was_made_with() {
    let bench = Bench::new();
    let one = create(&bench.image("one"), &FormatOptions::default(), &bench.provider, None).unwrap();
    let two = create(&bench.image("two"), &FormatOptions::default(), &bench.provider, None).unwrap();
    assert_eq!(one.token.kek_id, two.token.kek_id, "the KEK that is there is used again");
    let dek = unlock(&luks::open(&one.place).unwrap(), &bench.provider).unwrap();
    assert_ne!(dek.expose(), unlock(&two, &bench.provider).unwrap().expose(), "each volume has its own DEK");
}

#[test]
fn a_header_changes_what_is_remembered_of_its_own_volume_only() {
    let bench = Bench::new();
    let mut header = create(&bench.image("one"), &FormatOptions::default(), &bench.provider, None).unwrap();
    let registry = Registry::load(bench.directory.path()).unwrap();
    let other = known("other", &file(&bench.directory, "two"));
    registry.insert(other.clone()).unwrap();
    registry.update(&header).unwrap();
    assert!(registry.known().by_uuid(header.uuid).is_none());
    let volume = Known::new("vol".parse().unwrap(), header.uuid, &header.place, &header.token);
    registry.insert(volume.clone()).unwrap();
    header.token.kek_id = "kek-2".parse().unwrap();
    registry.update(&header).unwrap();
    registry.verified(&header).unwrap();
    let (kek_id, digest) = (header.token.kek_id.clone(), Some(header.digest.clone()));
    assert_eq!(registry.known().by_uuid(header.uuid), Some(&Known { kek_id, digest, ..volume }));
    assert_eq!(registry.known().by_uuid(other.uuid), Some(&other));
}

#[test]
fn new_volumes_use_the_newest_active_kek() {
    let bench = Bench::new();
    let first = wrapping_kek(&bench.provider, None).unwrap();
    let second = bench.provider.create_kek().unwrap();
    assert_ne!(first, second);
    assert_eq!(wrapping_kek(&bench.provider, None).unwrap(), second);
    assert!(bench.provider.list_keks().unwrap().iter().all(|kek| kek.state == KekState::Active));
}

#[test]
fn a_key_that_another_kek_wrapped_or_another_volume_has_is_refused() {
    let bench = Bench::new();
    let header = create(&bench.image("one"), &FormatOptions::default(), &bench.provider, None).unwrap();

    let mut other_kek = header.clone();
    other_kek.token.kek_id = bench.provider.create_kek().unwrap();
    let error = unlock(&other_kek, &bench.provider).err().unwrap();
    assert!(
        matches!(&error, VolumeError::Unwrap { kek_id, .. } if *kek_id == other_kek.token.kek_id),
        "{error}"
    );

    let kek = bench.provider.fetch_kek(&header.token.kek_id).unwrap();
    let mut other_dek = header.clone();
    let stranger = ublk_targets::secret::Dek::generate().unwrap();
    other_dek.token.wrapped_dek = provider::wrap::wrap(&kek, &stranger).unwrap();
    let error = unlock(&other_dek, &bench.provider).err().unwrap();
    assert!(matches!(error, VolumeError::Luks(luks::LuksError::WrongKey(_))), "{error}");

    bench.provider.lock();
    let error = unlock(&header, &bench.provider).err().unwrap();
    assert!(matches!(error, VolumeError::Provider(ProviderError::Locked(_))), "{error}");
}

/// A provider that does not give back what it wrapped.
struct Forgetful(NativeProvider);

impl KeyProvider for Forgetful {
    fn name(&self) -> &provider::ProviderName {
        self.0.name()
    }
    fn kind(&self) -> provider::ProviderKind {
        self.0.kind()
    }
    fn availability(&self) -> provider::Availability {
        self.0.availability()
    }
    fn create_kek(&self) -> Result<KekId, ProviderError> {
        self.0.create_kek()
    }
    fn create_inactive_kek(&self) -> Result<KekId, ProviderError> {
        self.0.create_inactive_kek()
    }
    fn change_kek(&self, id: &KekId, change: provider::KekChange) -> Result<KekState, ProviderError> {
        self.0.change_kek(id, change)
    }
    fn kek(&self, id: &KekId) -> Result<provider::KekInfo, ProviderError> {
        self.0.kek(id)
    }
    fn fetch_kek(&self, id: &KekId) -> Result<Kek, ProviderError> {
        self.0.fetch_kek(id)
    }
    fn unwrap_dek(&self, _: &KekId, _: &[u8]) -> Result<Dek, ProviderError> {
        Err(provider::wrap::WrapError::OtherKek.into())
    }
    fn list_keks(&self) -> Result<Vec<provider::KekInfo>, ProviderError> {
        self.0.list_keks()
    }
    fn known_state(&self, id: &KekId) -> Option<KekState> {
        self.0.known_state(id)
    }
    fn wrapping_kek(&self) -> Option<KekId> {
        self.0.wrapping_kek()
    }
    fn unlock(&self, secret: &Secret) -> Result<(), ProviderError> {
        self.0.unlock(secret)
    }
    fn lock(&self) {
        self.0.lock();
    }
}

#[test]
fn a_volume_that_would_not_open_by_its_new_token_is_not_adopted() {
    let bench = Bench::new();
    let place = bench.image("stock");
    let mut luks_format = Command::new("cryptsetup")
        .args(["luksFormat", "-q", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-size=512"])
        .arg(&place.backing)
        .stdin(Stdio::piped())
        .spawn()
        .expect("this test needs cryptsetup");
    luks_format.stdin.take().unwrap().write_all(b"secret").unwrap();
    assert!(luks_format.wait().unwrap().success());
    let mut passphrase = Secret::zeroed(6).unwrap();
    passphrase.expose_mut().copy_from_slice(b"secret");

    let provider = Forgetful(bench.provider);
    let error = adopt_and_enter(&place, &passphrase, &provider, None, |_, _| Ok(())).err().unwrap();
    assert!(matches!(error, VolumeError::Unwrap { .. }), "{error}");
    adopt_and_enter(&place, &passphrase, &provider.0, None, |_, _| Ok(())).expect("it is as it was");
}

#[test]
fn a_volume_without_a_device_is_as_locked_as_its_provider() {
    let directory = tempfile::tempdir().unwrap();
    let secret = Secret::random(8).unwrap();
    let again = |secret: &Secret| {
        let mut copy = Secret::zeroed(secret.len()).unwrap();
        copy.expose_mut().copy_from_slice(secret.expose());
        copy
    };
    let providers = provider::Registry::load(directory.path(), &unobserved()).unwrap();
    let name: provider::ProviderName = "office".parse().unwrap();
    providers.add_native(name.clone(), None, &again(&secret), KdfCost::new(8, 1, 1).unwrap()).unwrap();
    let office = providers.get(&name).unwrap();
    let image = directory.path().join("image");
    fs::File::create(&image).unwrap().set_len(20 << 20).unwrap();
    let token = create(&Place::attached(image), &FormatOptions::default(), &*office, None).unwrap().token;

    assert_eq!(State::without_device(&token, &providers), State::Unlocked);
    office.lock();
    let locked = State::without_device(&token, &providers);
    assert_eq!(locked, State::Locked("key provider office is locked".into()));
    office.unlock(&secret).unwrap();
    assert_eq!(State::without_device(&token, &providers), State::Unlocked);
    fs::remove_file(directory.path().join("office.keys")).unwrap();
    assert!(matches!(State::without_device(&token, &providers), State::Locked(_)));
    providers.remove(&name).unwrap();
    let unknown = State::without_device(&token, &providers);
    assert_eq!(unknown, State::Locked("there is no key provider office".into()));
}
