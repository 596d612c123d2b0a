//! The daemon with KMIP providers: what it refuses, and, with a real key server, what it does.

use super::*;
use crate::control::{
    Event, Events, KekDestroy, KekList, KekRevoke, KekState, ProviderAddKmip, ProviderCheck, ProviderMeet,
    ProviderSet, Rekey,
};
use crate::provider::{KekChange, KeyProvider};

/// As the tests in `tests/kmip`, which bring these helpers.
#[allow(dead_code, unused_imports, reason = "those tests use more of it")]
#[path = "../../../tests/kmip/support/mod.rs"]
pub mod support;

use support::{Behaviour, FakeServer, Leaf, Pki, PyKmip, free_port};

pub fn add(pki: &Pki, servers: &[String]) -> ProviderAddKmip {
    ProviderAddKmip {
        name: "cluster".parse().unwrap(),
        servers: servers.to_vec(),
        certificate: pki.certificate("host"),
        key: pki.key("host"),
        ca: Some(pki.ca_file()),
        pins: None,
        proxy: None,
        user: None,
        password_file: None,
        group: None,
        max_age: None,
        allow_unreplicated: false,
        make_default: false,
    }
}

fn set(name: &str) -> ProviderSet {
    ProviderSet {
        name: name.parse().unwrap(),
        servers: None,
        certificate: None,
        key: None,
        ca: None,
        pins: None,
        proxy: None,
        user: None,
        password_file: None,
        group: None,
        max_age: None,
        allow_unreplicated: None,
    }
}

fn is_one_line(failure: &Failure) -> bool {
    let hint = failure.hint.as_deref().unwrap_or_default();
    ![&failure.message, hint].iter().any(|text| text.contains(char::is_control))
}

pub fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[test]
fn bad_key_server_settings_are_refused_and_change_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let pki = Pki::new();
    let mut host = Host::with_provider();
    let before = fs::read(host.path("state/providers.toml")).unwrap();
    let good = add(&pki, &[at(free_port())]);
    let exposed = pki.path("exposed.key");
    fs::copy(pki.key("host"), &exposed).unwrap();
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o644)).unwrap();
    let pins = Some(vec!["AB".into()]);
    let invalid = FailureKind::InvalidArgument;
    let cases = [
        (ProviderAddKmip { name: "office".parse().unwrap(), ..good.clone() }, FailureKind::Exists, "office"),
        (ProviderAddKmip { servers: vec!["kms:73382".into()], ..good.clone() }, invalid, "73382"),
        (ProviderAddKmip { servers: vec!["kms:0".into()], ..good.clone() }, invalid, "\"0\""),
        (ProviderAddKmip { servers: vec![], ..good.clone() }, invalid, "0 servers"),
        (ProviderAddKmip { ca: None, ..good.clone() }, invalid, "give one of the two"),
        (ProviderAddKmip { pins: pins.clone(), ..good.clone() }, invalid, "give one of the two"),
        (ProviderAddKmip { ca: None, pins, ..good.clone() }, invalid, "\"AB\""),
        (ProviderAddKmip { proxy: Some("proxy".into()), ..good.clone() }, invalid, "has no port"),
        (ProviderAddKmip { user: Some("me".into()), ..good.clone() }, invalid, "password file"),
        (ProviderAddKmip { key: "host.key".into(), ..good.clone() }, invalid, "host.key"),
        (ProviderAddKmip { key: pki.path("none"), ..good.clone() }, FailureKind::NoInput, "none"),
        (ProviderAddKmip { key: exposed, ..good.clone() }, FailureKind::Config, "mode 644"),
        (ProviderAddKmip { ca: Some(pki.key("host")), ..good.clone() }, FailureKind::BadData, "host.key"),
        (good.clone(), FailureKind::Locked, &good.servers[0]),
    ];
    for (call, kind, named) in cases {
        let failure = host.call(&call).expect_err(named);
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(
            failure.message.contains(named) && is_one_line(&failure),
            "'{failure}' does not name {named}"
        );
        if matches!(kind, FailureKind::Locked | FailureKind::Config | FailureKind::Exists) {
            assert!(failure.hint.is_some(), "nobody is told what to do: {failure}");
        }
    }
    assert_eq!(fs::read(host.path("state/providers.toml")).unwrap(), before);
    let meet = ProviderMeet { name: None, servers: good.servers.clone(), proxy: None };
    host.fails(&meet, FailureKind::Locked, &good.servers[0]);
    let met = host.call(&Events::default()).unwrap().events.pop().unwrap();
    assert_eq!(
        (met.verb.as_str(), met.result.as_str()),
        ("provider meet", "Locked"),
        "it is no 'provider add'"
    );
    assert_eq!(met.server.as_ref(), Some(&good.servers[0]));
    let of = |name: Option<&str>| ProviderMeet {
        name: name.map(|name| name.parse().unwrap()),
        servers: vec![],
        proxy: None,
    };
    host.fails(&of(None), invalid, "no key server is named");
    host.fails(&of(Some("office")), invalid, "office is a native one");
    host.fails(&of(Some("nobody")), FailureKind::NotFound, "nobody");
    host.fails(&set("office"), invalid, "office is a native one");
    host.fails(&set("nobody"), FailureKind::NotFound, "nobody");
    assert_eq!(fs::read(host.path("state/providers.toml")).unwrap(), before);
    host.fails(&ProviderCheck { name: "office".parse().unwrap() }, invalid, "office");
    host.fails(&ProviderCheck { name: "nobody".parse().unwrap() }, FailureKind::NotFound, "nobody");
}

#[test]
#[ignore = "takes a key server: ci/test runs it with one"]
fn a_volume_lives_on_a_cluster_of_key_servers() {
    let pki = Pki::new();
    let mut server = PyKmip::start(&pki, "keys");
    let servers = [at(server.port), at(free_port())];
    let mut host = Host::start();
    let meet = ProviderMeet { name: None, servers: servers[..1].to_vec(), proxy: None };
    let met = host.call(&meet).unwrap();
    let pinned = ProviderAddKmip {
        ca: None,
        pins: Some(vec![met.certificates[0].certificate.fingerprint.clone()]),
        ..add(&pki, &servers)
    };
    let added = host.call(&pinned).unwrap();
    assert!(added.is_default && added.availability == Availability::Ready && added.kek_id.is_some());
    assert_eq!((added.kind, &added.servers[..], added.file), (ProviderKind::Kmip, &servers[..], None));
    let checked = host.call(&ProviderCheck { name: "cluster".parse().unwrap() }).unwrap().servers;
    assert!(checked[0].problem.is_none() && checked[0].status.is_some());
    assert!(checked[1].problem.as_ref().unwrap().contains("cannot connect") && checked[1].hint.is_some());

    let backing = host.image("disk");
    let made = host.create("vol", backing).unwrap();
    assert_eq!((made.provider.as_deref(), &made.kek_id), (Some("cluster"), &added.kek_id));
    host.restart();
    assert_eq!(host.call(&List {}).unwrap().volumes[0].state, VolumeState::Unlocked, "nothing to unlock");
    let recovery = RecoveryAdd { volume: "vol".into(), secret: SecretFd(0) };
    host.client.call(&recovery, &[&secret("sesame")]).unwrap();

    // The KEK is in memory now, so the next needs no server; once it is dropped, it does.
    server.stop();
    host.client.call(&recovery, &[&secret("sesame")]).unwrap();
    host.call(&ProviderLock { name: "cluster".parse().unwrap() }).unwrap();
    let failure = host.client.call(&recovery, &[&secret("sesame")]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Locked, "{failure}");
    assert!(servers.iter().all(|server| failure.message.contains(server)), "{failure}");
    let listed = host.call(&ProviderList {}).unwrap().providers.remove(0);
    assert_eq!(listed.availability, Availability::Unavailable);
    assert_eq!(host.call(&List {}).unwrap().volumes[0].state, VolumeState::Locked);

    server.restart();
    host.client.call(&recovery, &[&secret("sesame")]).unwrap();
    assert_eq!(host.call(&List {}).unwrap().volumes[0].state, VolumeState::Unlocked);

    // What happened with servers and keys is recorded, with which and why.
    let (kek, first) = (added.kek_id.unwrap(), &servers[0]);
    let events = host.call(&Events::default()).unwrap().events;
    let told = |verb: &str, result: &str, kek_id: Option<&str>, server: Option<&str>| {
        events.iter().any(|event| {
            (event.verb.as_str(), event.result.as_str()) == (verb, result)
                && (event.kek_id.as_deref(), event.server.as_deref()) == (kek_id, server)
                && event.provider.as_deref() == Some("cluster")
                && event.uid.is_none()
                && event.message.is_some()
        })
    };
    assert!(told("key create", "ok", Some(&kek), Some(first)), "{events:#?}");
    assert!(told("key fetch", "ok", Some(&kek), Some(first)), "{events:#?}");
    assert!(told("key drop", "ok", Some(&kek), None), "{events:#?}");
    assert!(
        told("failover", "Locked", None, Some(first)) && told("failover", "Locked", None, None),
        "{events:#?}"
    );
}

#[test]
#[ignore = "takes a key server: ci/test runs it with one"]
fn a_kek_that_its_server_has_destroyed_is_named_with_server_and_volume() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let mut host = Host::start();
    host.call(&add(&pki, &[at(server.port)])).unwrap();
    let made = host.create("vol", host.image("disk")).unwrap();
    let cluster = || "cluster".parse().unwrap();
    let kek_id = made.kek_id.unwrap();
    let revoke = KekRevoke { provider: cluster(), kek_id: kek_id.clone(), compromised: true };
    let revoked = host.call(&revoke).unwrap();
    assert_eq!((revoked.state, revoked.is_current), (Some(KekState::Compromised), false));
    let recovery = RecoveryAdd { volume: "vol".into(), secret: SecretFd(0) };
    host.client.call(&recovery, &[&secret("sesame")]).unwrap();
    let notice = host.call(&Status { volume: "vol".into() }).unwrap().notice.unwrap();
    assert!(notice.contains("compromised"), "{notice}");
    host.fails(
        &KekDestroy { provider: cluster(), kek_id: kek_id.clone() },
        FailureKind::Busy,
        "1 volume: vol",
    );
    let listed = host.call(&KekList { provider: None }).unwrap().keks;
    assert_eq!((listed.len(), &listed[0].volumes[..]), (1, &["vol".parse().unwrap()][..]));

    // Somebody else destroys it.
    let config = support::config(&pki, &[server.port]);
    let other = support::Client::new(config).provider;
    other.change_kek(&kek_id.parse().unwrap(), KekChange::Destroy).unwrap();
    host.call(&ProviderLock { name: cluster() }).unwrap();
    let failure = host.client.call(&recovery, &[&secret("sesame")]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
    let server = at(server.port);
    for named in ["volume vol: ", &format!("KEK {kek_id} "), "cluster", &server, "destroyed"] {
        assert!(failure.message.contains(named), "{failure}");
    }
    let listed = host.call(&KekList { provider: None }).unwrap().keks;
    assert_eq!((listed[0].state, &listed[0].kek_id), (None, &kek_id), "volumes need it, nobody has it");
}

#[test]
#[ignore = "takes a key server: ci/test runs it with one"]
fn a_volume_moves_from_this_host_to_a_key_server_and_back() {
    let pki = Pki::new();
    let mut server = PyKmip::start(&pki, "keys");
    let mut host = Host::with_provider();
    host.call(&add(&pki, &[at(server.port)])).unwrap();
    let backing = host.image("disk");
    host.create("vol", backing.clone()).unwrap();
    let recovery = RecoveryAdd { volume: "vol".into(), secret: SecretFd(0) };
    host.client.call(&recovery, &[&secret("before")]).unwrap();
    let to = |provider: &str| Rekey {
        volume: "vol".into(),
        provider: Some(provider.parse().unwrap()),
        kek_id: None,
    };
    assert!(host.call(&to("cluster")).unwrap().rewrapped);
    assert!(!host.call(&to("cluster")).unwrap().rewrapped);
    host.call(&ProviderLock { name: "office".parse().unwrap() }).unwrap();
    host.client.call(&recovery, &[&secret("with the key server")]).unwrap();
    // What stock cryptsetup gets by each passphrase is the same key.
    let keys = ["before", "with the key server"].map(|passphrase| {
        let (passphrase_file, out) = (host.path("passphrase"), host.path("dek"));
        fs::write(&passphrase_file, passphrase).unwrap();
        let mut command = std::process::Command::new("cryptsetup");
        command.args(["luksDump", "-q", "--dump-volume-key", "--key-file"]).arg(passphrase_file);
        command.arg("--volume-key-file").arg(&out).arg(&backing).stdout(std::process::Stdio::null());
        assert!(command.status().unwrap().success());
        let key = fs::read(&out).unwrap();
        fs::remove_file(out).unwrap();
        key
    });
    assert!(keys[0].len() == 64 && keys[0] == keys[1]);

    // Whether its KEKs are still active only a server can tell: nothing is wrapped by them while none answers.
    host.unlock("office", "sesame").unwrap();
    assert!(host.call(&to("office")).unwrap().rewrapped);
    server.stop();
    let before = fs::read(&backing).unwrap();
    host.fails(&to("cluster"), FailureKind::Locked, &at(server.port));
    assert!(before == fs::read(&backing).unwrap());
}

#[test]
#[ignore = "takes a key server: ci/test runs it with one"]
fn a_cluster_of_which_no_server_serves_is_not_added_and_its_user_is_told_why() {
    let (pki, elsewhere) = (Pki::new(), Pki::new());
    let server = PyKmip::start(&pki, "keys");
    let fake = |leaf: &Leaf, tamper| FakeServer::start(&pki, leaf, Behaviour::Tamper(server.port, tamper));
    let expired = fake(&pki.server("expired", &["127.0.0.1"], 2001), |_| ());
    let misnamed = fake(&pki.server("misnamed", &["kms.example"], 2099), |_| ());
    // Takes Activate out of the answer to Query by making it another operation, Archive.
    let leaf = Leaf { certificate: pki.certificate("server"), key: pki.key("server") };
    let lacking = fake(&leaf, |answer| {
        let activate = b"\x42\x00\x5c\x05\0\0\0\x04\0\0\0\x12";
        while let Some(at) = answer.windows(12).position(|window| window == activate) {
            answer[at + 11] = 0x15;
        }
    });
    let mut host = Host::with_provider();
    let before = fs::read(host.path("state/providers.toml")).unwrap();
    let to = |server: String| add(&pki, &[server]);
    let stranger = ProviderAddKmip {
        certificate: elsewhere.certificate("host"),
        key: elsewhere.key("host"),
        ..to(at(server.port))
    };
    let cases = [
        (
            ProviderAddKmip { ca: Some(elsewhere.ca_file()), ..to(at(server.port)) },
            "its certificate ",
            "authority",
        ),
        (to(at(expired.port)), "its certificate has expired", "dates"),
        (to(at(misnamed.port)), "its certificate is for another name", "name"),
        (to(at(free_port())), "cannot connect: ", "check the address"),
        (to("kms.invalid".into()), "no address: ", "check the address"),
        (to(at(lacking.port)), "it does not support Activate", ""),
        (stranger, "", ""),
    ];
    for (call, named, hint) in cases {
        let failure = host.call(&call).expect_err(named);
        assert_eq!(failure.kind, FailureKind::Locked, "{failure}");
        assert!(failure.message.contains(named) && failure.message.contains(&call.servers[0]), "{failure}");
        assert!(
            failure.message.starts_with("no server of key provider cluster serves this host: "),
            "{failure}"
        );
        assert!(failure.hint.clone().unwrap_or_default().contains(hint), "{failure}: {:?}", failure.hint);
        assert!(is_one_line(&failure), "{failure:?}");
        assert_eq!(fs::read(host.path("state/providers.toml")).unwrap(), before, "{named}");
    }
    assert_eq!(host.call(&ProviderList {}).unwrap().providers.len(), 1);
    // Nothing of it is remembered: the same name is free for the right settings.
    host.call(&to(at(server.port))).unwrap();
}

#[test]
#[ignore = "takes a key server: ci/test runs it with one"]
fn a_cluster_that_moved_is_found_again_and_wrong_settings_leave_the_old() {
    let (pki, elsewhere) = (Pki::new(), Pki::new());
    let mut left = PyKmip::start(&pki, "keys");
    let mut host = Host::start();
    host.call(&add(&pki, &[at(left.port)])).unwrap();
    let made = host.create("vol", host.image("disk")).unwrap();
    let moved = PyKmip::start(&pki, "keys");
    let stranger = PyKmip::start(&pki, "others");
    left.stop();
    host.call(&ProviderLock { name: "cluster".parse().unwrap() }).unwrap();
    host.want("vol");

    let before = fs::read(host.path("state/providers.toml")).unwrap();
    let at_port = |port: u16| ProviderSet { servers: Some(vec![at(port)]), ..set("cluster") };
    let good = at_port(moved.port);
    let invalid = FailureKind::InvalidArgument;
    let cases = [
        (at_port(free_port()), FailureKind::Locked, "cannot connect"),
        (
            ProviderSet { ca: Some(elsewhere.ca_file()), ..good.clone() },
            FailureKind::Locked,
            "its certificate",
        ),
        (at_port(stranger.port), FailureKind::NotFound, "no KEK of its volumes is to be had"),
        (ProviderSet { servers: Some(vec![]), ..set("cluster") }, invalid, "0 servers"),
        (ProviderSet { key: Some("host.key".into()), ..good.clone() }, invalid, "host.key"),
        (ProviderSet { key: Some(pki.path("none")), ..good.clone() }, FailureKind::NoInput, "none"),
        (ProviderSet { user: Some("me".into()), ..good.clone() }, invalid, "password file"),
        (ProviderSet { proxy: Some("proxy".into()), ..good.clone() }, invalid, "has no port"),
        (
            ProviderSet { ca: Some(pki.ca_file()), pins: Some(vec![]), ..good.clone() },
            invalid,
            "give one of the two",
        ),
    ];
    for (call, kind, named) in cases {
        host.fails(&call, kind, named);
        assert_eq!(fs::read(host.path("state/providers.toml")).unwrap(), before, "{named}");
    }
    let servers = |host: &mut Host| host.call(&ProviderList {}).unwrap().providers.remove(0).servers;
    assert_eq!(servers(&mut host), [at(left.port)]);
    assert_eq!(host.status("vol").state, VolumeState::Locked);

    let changed = host.call(&good).unwrap();
    assert_eq!((&changed.servers[..], changed.is_default), (&[at(moved.port)][..], true));
    assert_eq!((changed.availability, &changed.kek_id), (Availability::Ready, &made.kek_id));
    host.wait_until("the volume is live", |host| host.status("vol").state == VolumeState::Live);
    let events = host.call(&Events::default()).unwrap().events;
    let mut sets = events.iter().filter(|event| event.verb == "provider set");
    let told = |event: &Event| (event.result.clone(), event.provider.clone(), event.server.clone());
    let (cluster, server) = (Some("cluster".to_owned()), Some(at(moved.port)));
    assert_eq!(sets.clone().count(), 10, "each is an event, refused or not");
    assert_eq!(told(sets.next_back().unwrap()), ("ok".into(), cluster, server));

    // What is not given stays, what is given empty is gone, and the certificate of now can be pinned by name.
    let text = |host: &Host| fs::read_to_string(host.path("state/providers.toml")).unwrap();
    host.call(&ProviderSet { max_age: Some(3600), group: Some("vms".into()), ..set("cluster") }).unwrap();
    let meet = ProviderMeet { name: Some("cluster".parse().unwrap()), servers: vec![], proxy: None };
    let met = host.call(&meet).unwrap().certificates.remove(0);
    assert_eq!(met.server, at(moved.port));
    let wrong = ProviderSet { pins: Some(vec!["00".repeat(32)]), ..set("cluster") };
    host.fails(&wrong, FailureKind::Locked, "not pinned");
    host.call(&ProviderSet { pins: Some(vec![met.certificate.fingerprint.clone()]), ..set("cluster") })
        .unwrap();
    let settings = text(&host);
    for kept in ["max_age = 3600", "group = \"vms\"", &met.certificate.fingerprint, &at(moved.port)] {
        assert!(settings.contains(kept), "{settings}");
    }
    assert!(!settings.contains("ca.pem"), "{settings}");
    host.call(&ProviderSet { max_age: Some(0), ..set("cluster") }).unwrap();
    assert!(!text(&host).contains("max_age"), "{}", text(&host));
    host.restart();
    assert_eq!(servers(&mut host), [at(moved.port)]);
    let recovery = RecoveryAdd { volume: "vol".into(), secret: SecretFd(0) };
    host.client.call(&recovery, &[&secret("sesame")]).unwrap();
}

#[test]
#[ignore = "takes a key server: ci/test runs it with one"]
fn a_key_that_gets_too_old_is_wiped_though_nobody_calls() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let mut host = Host::start();
    host.call(&ProviderAddKmip { max_age: Some(1), ..add(&pki, &[at(server.port)]) }).unwrap();
    let made = host.create("vol", host.image("disk")).unwrap();
    let mut call = Events { wait: Some(20), ..Events::default() };
    let dropped = loop {
        let page = host.call(&call).unwrap();
        assert!(page.next > call.after.unwrap_or(0), "its time is over, and it is not dropped");
        call.after = Some(page.next);
        if let Some(event) = page.events.into_iter().find(|event| event.verb == "key drop") {
            break event;
        }
    };
    assert_eq!((dropped.kek_id, dropped.uid), (made.kek_id, None));
    assert_eq!(dropped.provider.as_deref(), Some("cluster"));
}
