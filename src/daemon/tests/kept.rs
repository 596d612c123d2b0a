//! What this host knows is not destroyed by accident, whatever path leads to it.

use super::*;
use crate::luks;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl Host {
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
