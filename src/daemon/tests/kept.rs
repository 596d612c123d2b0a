//! What this host knows is not destroyed by accident, whatever path leads to it.

use super::adopt::{adopt, cryptsetup, opens, release};
use super::*;
use crate::control::{Erase, Forget, KekCreate, Rekey};
use crate::luks;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl Host {
    /// A daemon on the same directories that serves nobody.
    fn daemon(&self) -> Daemon {
        Daemon::new(options(self.directory.path()), KdfCost::new(8, 1, 1).unwrap()).unwrap()
    }

    fn detached(
        &mut self,
        name: &str,
        backing: PathBuf,
        header: PathBuf,
    ) -> Result<control::Volume, Failure> {
        let call = Create { header: Some(header), ..create(name, backing) };
        self.call(&call)
    }

    /// That `call` is refused as something is a known volume's, which is named, and that none of `files` changed.
    fn is_kept_from(&mut self, call: &Create, volume: &str, files: &[&PathBuf]) {
        let content = || files.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
        let before = (content(), fs::read(self.path("state/volumes.toml")).unwrap());
        let failure = self.call(call).expect_err("it is a known volume's");
        assert_eq!(failure.kind, FailureKind::Exists, "{failure}");
        assert!(failure.message.ends_with(&format!("of volume {volume}")), "{failure}");
        assert!(failure.hint.as_ref().unwrap().contains("`blkseal release`"));
        assert!(before == (content(), fs::read(self.path("state/volumes.toml")).unwrap()), "{failure}");
    }
}

fn create(name: &str, backing: PathBuf) -> Create {
    Create {
        name: name.parse().unwrap(),
        backing,
        header: None,
        sector_size: None,
        provider: None,
        kek_id: None,
        force: false,
        replace_header: false,
    }
}

#[test]
fn nothing_of_a_closed_volume_is_taken_for_another_with_force_or_not() {
    let mut host = Host::with_provider();
    let (attached, disk, header) = (host.image("attached"), host.image("disk"), host.path("header"));
    host.create("one", attached.clone()).unwrap();
    host.detached("two", disk.clone(), header.clone()).unwrap();
    let noise: Vec<u8> =
        (0..20_u64 << 20).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    fs::write(&disk, noise).unwrap(); // its data, in which nobody sees anything
    let link = host.path("link");
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let (spare, new) = (host.image("spare"), host.path("new.header"));
    let files = [&attached, &disk, &header, &spare];
    let calls = [
        (create("new", disk.clone()), "two"),
        (create("new", link.clone()), "two"),
        (create("new", header.clone()), "two"),
        (create("new", attached.clone()), "one"),
        (Create { header: Some(new.clone()), ..create("new", link) }, "two"),
        (Create { header: Some(header.clone()), ..create("new", spare.clone()) }, "two"),
        (Create { header: Some(attached.clone()), ..create("new", spare.clone()) }, "one"),
        (Create { header: Some(disk.clone()), ..create("new", spare.clone()) }, "two"),
    ];
    for (call, volume) in calls {
        for (force, replace_header) in [(false, false), (true, false), (true, true)] {
            host.is_kept_from(&Create { force, replace_header, ..call.clone() }, volume, &files);
        }
    }
    // A copy of the header alone would do to lose the data with it.
    let copy = host.path("copy");
    fs::copy(&header, &copy).unwrap();
    let call = Create { header: Some(copy.clone()), replace_header: true, ..create("new", spare.clone()) };
    host.is_kept_from(&call, "two", &[&copy]);
    let study = OpenTarget {
        name: name("raw"),
        target: TargetKind::Plain,
        backing: Some(disk.clone()),
        size: None,
        sector_size: None,
        options: DeviceOptions::default(),
        force: false,
    };
    host.fails(&study, FailureKind::Exists, "is the backing of volume two");
    assert!(!new.exists());
    host.create("new", spare).unwrap();
}

#[test]
fn a_path_is_a_volumes_while_its_disk_is_away_and_so_is_its_name() {
    let mut host = Host::with_provider();
    let (disk, other) = (host.image("disk"), host.image("other"));
    let made = host.create("vol", disk.clone()).unwrap();
    fs::rename(&disk, host.path("unplugged")).unwrap();
    let taken = host.create("vol", other).unwrap_err();
    assert_eq!(taken.kind, FailureKind::Exists);
    assert!(taken.message.contains(disk.to_str().unwrap()), "{taken}");
    fs::copy(host.image("blank"), &disk).unwrap();
    host.is_kept_from(&Create { force: true, ..create("new", disk.clone()) }, "vol", &[&disk]);

    // So that its KEK stays, too.
    let kek_id = made.kek_id.unwrap();
    let revoke = control::KekRevoke { provider: name("office"), kek_id: kek_id.clone(), compromised: false };
    host.call(&revoke).unwrap();
    host.fails(&control::KekDestroy { provider: name("office"), kek_id }, FailureKind::Busy, "vol");
    fs::rename(host.path("unplugged"), &disk).unwrap();
    let open = host.open("vol");
    assert_eq!(host.call(&open).unwrap().state, VolumeState::Live);
}

#[test]
fn the_image_of_an_open_volume_is_not_replaced_by_a_header() {
    let mut host = Host::with_provider();
    let (image, spare) = (host.image("image"), host.image("spare"));
    host.create("vol", image.clone()).unwrap();
    let open = host.open("vol");
    host.call(&open).unwrap();
    let call = Create { header: Some(image.clone()), force: true, ..create("new", spare) };
    host.is_kept_from(&call, "vol", &[&image]);
    host.is_kept_from(&Create { replace_header: true, ..call }, "vol", &[&image]);
    assert_eq!(luks::uuid_at(&image), host.call(&Status { volume: "vol".into() }).unwrap().uuid);
}

#[test]
fn volumes_whose_disks_changed_places_are_found_by_path_and_keep_their_names() {
    let mut host = Host::with_provider();
    let (sdb, sdc) = (host.image("sdb"), host.image("sdc"));
    let uuids =
        [("vm1", &sdb), ("vm2", &sdc)].map(|(name, disk)| host.create(name, disk.clone()).unwrap().uuid);
    let aside = host.path("aside");
    for (from, to) in [(&sdb, &aside), (&sdc, &sdb), (&aside, &sdc)] {
        fs::rename(from, to).unwrap();
    }
    for volume in ["vm1", "vm2"] {
        let open = host.open(volume);
        host.fails(&open, FailureKind::BadData, "no longer holds");
    }
    for (path, name, uuid) in [(&sdb, "vm2", uuids[1]), (&sdc, "vm1", uuids[0])] {
        let open = host.open(path.to_str().unwrap());
        let opened = host.call(&open).unwrap();
        assert_eq!((opened.name.as_str(), opened.uuid, opened.state), (name, uuid, VolumeState::Live));
    }
    assert_eq!(host.call(&List {}).unwrap().volumes.len(), 2);
}

#[test]
fn a_copy_of_a_volume_is_no_second_one() {
    let mut host = Host::with_provider();
    let (disk, copy) = (host.image("disk"), host.path("copy"));
    host.create("vol", disk.clone()).unwrap();
    fs::copy(&disk, &copy).unwrap();
    let mut by_path = host.open(copy.to_str().unwrap());
    by_path.name = Some(name("other"));
    let known = fs::read(host.path("state/volumes.toml")).unwrap();
    let refused = host.call(&by_path).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Exists, "{refused}");
    assert!(refused.message.contains(disk.to_str().unwrap()), "{refused}");
    assert!(refused.hint.unwrap().contains("luksUUID"));
    let open = host.open("vol");
    host.call(&open).unwrap();
    // Also once the disk itself is away: it is open.
    fs::rename(&disk, host.path("away")).unwrap();
    host.fails(&by_path, FailureKind::Busy, "volume vol, which is open, as /dev/ublkb");
    // Its header has been seen to be that of its key, but nothing else is new.
    host.restart();
    let after = fs::read_to_string(host.path("state/volumes.toml")).unwrap();
    assert_eq!(
        after.matches("backing").count(),
        String::from_utf8(known).unwrap().matches("backing").count()
    );
}

#[test]
fn what_is_forgotten_keeps_its_kek_until_that_is_given_up_as_well() {
    let mut host = Host::with_provider();
    let (disk, other) = (host.image("disk"), host.image("other"));
    let made = host.create("vol", disk.clone()).unwrap();
    let kek_id = made.kek_id.clone().unwrap();
    let forget = |volume: &str, for_good| Forget { volume: volume.into(), for_good };
    fs::rename(&disk, host.path("away")).unwrap();
    let forgotten = host.call(&forget("vol", false)).unwrap();
    assert_eq!((Some(forgotten.uuid), &forgotten.kek_id), (made.uuid, &kek_id));
    assert!(host.call(&List {}).unwrap().volumes.is_empty());
    host.fails(&forget("nothing", false), FailureKind::NotFound, "nothing");
    host.fails(&forget("vol", false), FailureKind::NotFound, &kek_id);
    host.restart();
    host.unlock("office", "sesame").unwrap();
    let office = name("office");
    let revoke = control::KekRevoke { provider: office.clone(), kek_id: kek_id.clone(), compromised: false };
    host.call(&revoke).unwrap();
    let destroy = control::KekDestroy { provider: office.clone(), kek_id };
    let remove = ProviderRemove { name: office };
    host.fails(&destroy, FailureKind::Busy, "forgotten: 1 volume: vol");
    host.fails(&remove, FailureKind::Busy, "forgotten: 1 volume: vol");
    // Its name and its path are free.
    host.create("vol", other).unwrap();

    // It turns up, and is known again under another name.
    fs::rename(host.path("away"), &disk).unwrap();
    let mut open = host.open(disk.to_str().unwrap());
    open.name = Some(name("again"));
    open.options.queues = Some(0);
    host.fails(&open, FailureKind::InvalidArgument, "queues");
    host.fails(&destroy, FailureKind::Busy, "1 volume: again");
    host.call(&forget("again", false)).unwrap();
    host.fails(&destroy, FailureKind::Busy, "1 volume: again");
    host.call(&forget(&made.uuid.unwrap().to_string(), true)).unwrap();
    host.call(&destroy).unwrap();

    // An open volume, and one that is to be opened, is not forgotten.
    let open = host.open("vol");
    host.call(&open).unwrap();
    host.fails(&forget("vol", true), FailureKind::Busy, "vol is open");
}

#[test]
fn a_command_that_fails_leaves_nothing_half_known() {
    let mut host = Host::with_provider();
    let (disk, registry) = (host.image("disk"), host.path("state/volumes.toml"));
    // The header cannot be made, after all else could.
    let failed = host.detached("vol", disk.clone(), host.path("no directory/header")).unwrap_err();
    assert_eq!(failed.kind, FailureKind::NoInput, "{failed}");
    assert!(host.call(&List {}).unwrap().volumes.is_empty());
    // Or the volume cannot be remembered, and is not made.
    let before = fs::read(&disk).unwrap();
    fs::remove_file(&registry).unwrap();
    fs::create_dir(&registry).unwrap();
    let failed = host.create("vol", disk.clone()).unwrap_err();
    assert!(failed.message.contains("volumes.toml"), "{failed}");
    let header = host.path("header");
    assert!(host.detached("vol", disk.clone(), header.clone()).is_err());
    assert!(before == fs::read(&disk).unwrap() && !header.exists());
    assert!(host.call(&List {}).unwrap().volumes.is_empty());
    fs::remove_dir(&registry).unwrap();
    host.create("vol", disk).unwrap();
}

#[test]
fn a_list_that_was_lost_has_the_volumes_that_are_open_again() {
    let mut host = Host::with_provider();
    let (disk, header) = (host.image("disk"), host.path("header"));
    host.detached("vol", disk, header).unwrap();
    let open = host.open("vol");
    host.call(&open).unwrap();
    let record = fs::read(host.path("run/workers/vol.json")).unwrap();
    let job = serde_json::from_slice::<Report>(&record).unwrap().job;
    let known = host.daemon().volumes();
    fs::remove_file(host.path("state/volumes.toml")).unwrap();
    let daemon = host.daemon();
    assert_eq!(daemon.volumes().iter().count(), 0);
    daemon.know_again(&job);
    daemon.know_again(&job);
    let again = host.daemon().volumes();
    let without_digest = |volumes: &volume::KnownVolumes| {
        volumes.iter().map(|(_, known)| volume::Known { digest: None, ..known.clone() }).collect::<Vec<_>>()
    };
    assert_eq!(without_digest(&again), without_digest(&known));
    assert_eq!(again.iter().count(), 1);
}

#[test]
fn erase_leaves_nothing_that_opens_and_takes_nothing_else() {
    let mut host = Host::with_provider();
    let (disk, data, header) = (host.image("disk"), host.image("data"), host.path("header"));
    let erase = |volume: &str| Erase { volume: volume.into() };
    let one = host.create("one", disk.clone()).unwrap();
    let two = host.detached("two", data.clone(), header.clone()).unwrap();
    let mark = |path: &PathBuf, at: u64| {
        let file = fs::File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", at).unwrap();
    };
    mark(&disk, 16 << 20);
    mark(&data, 0);
    let saved = [&disk, &header].map(|path| fs::read(path).unwrap());

    host.call(&ProviderLock { name: name("office") }).unwrap();
    let open = host.open("one");
    host.fails(&open, FailureKind::Waiting, "office");
    host.fails(&erase("one"), FailureKind::Busy, "one is to be opened");
    host.call(&Close { volume: "one".into(), force: false }).unwrap();
    let held = luks::claim(&disk, 0).unwrap();
    host.fails(&erase("one"), FailureKind::Busy, "disk");
    drop(held);
    // What is there now is another volume: not the one that is meant.
    fs::write(&header, &saved[0][..16 << 20]).unwrap();
    host.fails(&erase("two"), FailureKind::BadData, "another volume");
    fs::write(&header, &saved[1]).unwrap();

    let erased = host.call(&erase("one")).unwrap();
    assert_eq!((Some(erased.uuid), Some(erased.kek_id)), (one.uuid, one.kek_id));
    assert_eq!(erased.needed_by, [name("two")]);
    let erased = host.call(&erase("two")).unwrap();
    assert_eq!((Some(erased.uuid), erased.needed_by), (two.uuid, vec![]));
    host.fails(&Status { volume: "one".into() }, FailureKind::NotFound, "one");
    for path in [&disk, &header] {
        let now = fs::read(path).unwrap();
        assert!(now[..16 << 20].iter().all(|byte| *byte == 0), "{}", path.display());
        let is_luks = Command::new("cryptsetup").arg("isLuks").arg(path).status().unwrap();
        assert!(!is_luks.success());
    }
    assert_eq!(&fs::read(&disk).unwrap()[16 << 20..][..4], b"data", "what is noise without the key stays");
    assert_eq!(&fs::read(&data).unwrap()[..4], b"data");
    assert!(saved[0][..4] == *b"LUKS");
    host.unlock("office", "sesame").unwrap();
    host.create("new", disk).unwrap();
}

#[test]
fn an_open_volume_that_loses_its_header_says_so_and_is_not_closed_unasked() {
    use std::os::unix::fs::FileExt;
    let mut host = Host::with_provider();
    let disk = host.image("disk");
    host.create("vol", disk.clone()).unwrap();
    let open = host.open("vol");
    host.call(&open).unwrap();
    let header = fs::read(&disk).unwrap()[..16 << 20].to_vec();
    let file = fs::File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&vec![0; 16 << 20], 0).unwrap();
    for _ in 0..2 {
        let status = host.call(&Status { volume: "vol".into() }).unwrap();
        let problem = status.problem.unwrap();
        assert_eq!(status.state, VolumeState::Live);
        assert!(
            problem.contains("has no LUKS2 header") && problem.contains("copy its data off"),
            "{problem}"
        );
        assert!(host.call(&List {}).unwrap().volumes[0].problem.is_some());
    }
    let close = Close { volume: "vol".into(), force: false };
    host.fails(&close, FailureKind::BadData, "vol stays open");
    let forced = host.call(&Close { force: true, ..close }).unwrap_err();
    assert!(forced.message.contains("/dev/ublkb"), "it goes on to the device, which is none here: {forced}");
    let events =
        host.call(&control::Events { after: None, since: None, volume: None, wait: None }).unwrap().events;
    let told: Vec<_> = events.iter().filter(|event| event.verb == "header lost").collect();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].uid, told[0].volume.as_deref()), (None, Some("vol")));
    file.write_all_at(&header, 0).unwrap();
    assert_eq!(host.call(&Status { volume: "vol".into() }).unwrap().problem, None);
}

fn remove_all(force: bool) -> RecoveryRemove {
    RecoveryRemove { volume: "vol".into(), keyslot: None, force }
}

#[test]
fn a_key_that_cryptsetup_changed_is_noticed_and_its_passphrase_stays() {
    let mut host = Host::with_provider();
    let disk = host.image("disk");
    host.create("vol", disk.clone()).unwrap();
    let add = RecoveryAdd { volume: "vol".into(), secret: SecretFd(0) };
    host.client.call(&add, &[&secret("rescue")]).unwrap();
    let quick = ["--resilience=none", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=-"];
    let reencrypt = [&["-q", "reencrypt", "--force-offline-reencrypt"][..], &quick].concat();
    assert!(cryptsetup(&reencrypt, &disk, "rescue"));
    let before = fs::read(&disk).unwrap();

    let status = host.call(&Status { volume: "vol".into() }).unwrap();
    let last = RecoveryRemove { keyslot: Some(status.recovery_keyslots[0]), ..remove_all(false) };
    let problem = status.problem.unwrap();
    assert_eq!(status.state, VolumeState::Locked, "{problem}");
    assert!(problem.contains("cryptsetup reencrypt") && problem.contains("blkseal release vol"), "{problem}");
    let open = host.open("vol");
    let adopted = adopt("other", &disk);
    let rekey = Rekey { volume: "vol".into(), provider: None, kek_id: None };
    host.call(&KekCreate { provider: None, inactive: false }).unwrap();
    let refusals = [
        (host.call(&open).map(drop), FailureKind::WrongKey),
        (host.call(&rekey).map(drop), FailureKind::WrongKey),
        (host.call(&remove_all(false)).map(drop), FailureKind::WrongKey),
        (host.call(&last).map(drop), FailureKind::WrongKey),
        (host.adopt(&adopted, "rescue").map(drop), FailureKind::Exists),
    ];
    for (refused, kind) in refusals {
        let failure = refused.unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.hint.as_ref().unwrap().contains("`blkseal release`"), "{failure:?}");
    }
    assert!(before == fs::read(&disk).unwrap() && opens(&disk, "rescue"));

    // The way that they name.
    host.call(&release("vol")).unwrap();
    host.adopt(&adopt("vol", &disk), "rescue").unwrap();
    assert_eq!(host.call(&Status { volume: "vol".into() }).unwrap().state, VolumeState::Unlocked);
    host.call(&remove_all(false)).unwrap();
    assert_eq!(host.call(&open).unwrap().state, VolumeState::Live);
}

#[test]
fn the_last_passphrase_stays_while_its_kek_is_not_to_be_had() {
    let mut host = Host::with_provider();
    let disk = host.image("disk");
    host.create("vol", disk.clone()).unwrap();
    let add = RecoveryAdd { volume: "vol".into(), secret: SecretFd(0) };
    let slots = ["one", "two"].map(|text| host.client.call(&add, &[&secret(text)]).unwrap().keyslot);
    fs::rename(host.path("state/office.keys"), host.path("away")).unwrap();
    host.call(&ProviderLock { name: name("office") }).unwrap();
    let one = RecoveryRemove { keyslot: Some(slots[0]), ..remove_all(false) };
    host.call(&one).unwrap(); // for the other still opens it
    for call in [remove_all(false), RecoveryRemove { keyslot: Some(slots[1]), ..remove_all(false) }] {
        let failure = host.call(&call).unwrap_err();
        assert!(failure.message.contains("last passphrase stays"), "{failure}");
        assert!(failure.hint.unwrap().contains("--force"));
    }
    host.fails(&one, FailureKind::NotFound, "slot");
    assert!(opens(&disk, "two"));
    assert_eq!(host.call(&remove_all(true)).unwrap().keyslots, [slots[1]]);
    assert!(!opens(&disk, "two"));
}

#[test]
fn after_luks_erase_the_token_still_opens_the_volume() {
    let mut host = Host::with_provider();
    let disk = host.image("disk");
    host.create("vol", disk.clone()).unwrap();
    assert!(cryptsetup(&["-q", "luksErase"], &disk, ""));
    // As docs/FORMAT.md says.
    let open = host.open("vol");
    assert_eq!(host.call(&open).unwrap().state, VolumeState::Live);
}
