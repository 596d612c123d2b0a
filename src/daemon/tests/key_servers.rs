//! The daemon with KMIP providers: what it refuses, and, with a real key server, what it does.

use super::*;
use crate::control::{
    Events, KekDestroy, KekList, KekRevoke, KekState, ProviderAddKmip, ProviderCheck, ProviderMeet, Rekey,
};
use crate::provider::{KekChange, KeyProvider};

/// As the tests in `tests/kmip`, which bring these helpers.
#[allow(dead_code, unused_imports, reason = "those tests use more of it")]
#[path = "../../../tests/kmip/support/mod.rs"]
pub mod support;

use support::{Pki, PyKmip, free_port};

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
        make_default: false,
    }
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
        (ProviderAddKmip { key: exposed, ..good.clone() }, FailureKind::NotPermitted, "mode 644"),
        (ProviderAddKmip { ca: Some(pki.key("host")), ..good.clone() }, FailureKind::BadData, "host.key"),
        (good.clone(), FailureKind::Locked, &good.servers[0]),
    ];
    for (call, kind, named) in cases {
        host.fails(&call, kind, named);
    }
    assert_eq!(fs::read(host.path("state/providers.toml")).unwrap(), before);
    host.fails(
        &ProviderMeet { servers: good.servers.clone(), proxy: None },
        FailureKind::Locked,
        &good.servers[0],
    );
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
    let met = host.call(&ProviderMeet { servers: servers[..1].to_vec(), proxy: None }).unwrap();
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
