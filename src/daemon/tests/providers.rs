//! Providers that hang, and those that must not notice.

use super::key_servers::{add, at, support};
use super::*;
use crate::control::{Events, KekCreate, KekDestroy, KekRevoke, ProviderReseal};
use support::Pki;
use support::store::{Store, StoredKey};

#[test]
fn a_pipe_is_no_key_file() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    let pipe = host.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let failure = host.add("usb", Some(pipe)).unwrap_err();
    assert!(failure.message.contains("pipe") && failure.message.contains("not a regular file"), "{failure}");
    assert_eq!(host.call(&ProviderList {}).unwrap().providers.len(), 1);
    assert_eq!(host.call(&Status { volume: "vol".into() }).unwrap().state, VolumeState::Unlocked);
}

#[test]
fn a_passphrase_is_changed_and_the_volumes_stay() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    let change = |host: &mut Host, old: &str, new: &str| {
        let name = "office".parse().unwrap();
        let call = ProviderReseal { name, secret: SecretFd(0), new_secret: SecretFd(1) };
        host.client.call(&call, &[&secret(old), &secret(new)])
    };
    let file = host.path("state/office.keys");
    let before = fs::read(&file).unwrap();
    assert_eq!(change(&mut host, "not sesame", "other").unwrap_err().kind, FailureKind::WrongKey);
    assert_eq!(fs::read(&file).unwrap(), before, "nothing changes for who does not know the old one");
    assert_eq!(change(&mut host, "sesame", "another").unwrap().availability, Availability::Ready);
    host.restart();
    assert_eq!(host.unlock("office", "sesame").unwrap_err().kind, FailureKind::WrongKey);
    host.unlock("office", "another").unwrap();
    assert_eq!(host.status("vol").state, VolumeState::Unlocked);
    let recovery = RecoveryAdd { volume: "vol".into(), secret: SecretFd(0) };
    host.client.call(&recovery, &[&secret("rescue")]).unwrap();
    // A locked one is unlocked by it, and what waited for it goes on.
    host.call(&ProviderLock { name: "office".parse().unwrap() }).unwrap();
    host.want("vol");
    change(&mut host, "another", "sesame").unwrap();
    host.wait_until("the volume is live", |host| host.status("vol").state == VolumeState::Live);
    let events = host.call(&Events::default()).unwrap().events;
    let results: Vec<_> = events
        .iter()
        .filter(|event| event.verb == "provider passphrase")
        .map(|event| &event.result)
        .collect();
    assert_eq!(results, ["WrongKey", "ok", "ok"]);
}

#[test]
fn a_key_server_that_hangs_delays_only_its_own_provider() {
    let pki = Pki::new();
    let store = Store::new(vec![StoredKey::new("1", 1_700_000_000)]);
    let server = store.serve(&pki);
    let mut host = Host::with_provider();
    host.call(&add(&pki, &[at(server.port)])).unwrap();
    // So that the server hangs for as long as this test wants it to.
    let file = host.path("state/providers.toml");
    let text = fs::read_to_string(&file).unwrap();
    let patient: String = text
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some((name @ ("answer" | "call"), _)) => format!("{name} = 600000\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(patient, text);
    fs::write(&file, patient).unwrap();
    host.restart();
    host.unlock("office", "sesame").unwrap();

    store.contents().hangs = true;
    let (socket, backing) = (host.path("run/daemon.sock"), host.image("waits"));
    let before = store.contents().messages;
    let creating = std::thread::spawn(move || {
        let create = Create {
            name: "waits".parse().unwrap(),
            backing,
            header: None,
            sector_size: None,
            provider: Some("cluster".parse().unwrap()),
            kek_id: None,
            force: false,
            replace_header: false,
        };
        Client::connect(&socket).unwrap().call(&create, &[])
    });
    host.wait_until("the server is asked", |_| store.contents().messages > before);

    let office = || "office".parse().unwrap();
    let made = host.call(&KekCreate { provider: Some(office()), inactive: false }).unwrap();
    host.call(&KekRevoke { provider: office(), kek_id: made.kek_id.clone(), compromised: false }).unwrap();
    host.call(&KekDestroy { provider: office(), kek_id: made.kek_id }).unwrap();
    host.create("goes", host.image("goes")).unwrap();
    assert_eq!(host.call(&List {}).unwrap().volumes.len(), 1);
    assert!(!creating.is_finished(), "all that while it waited");
    store.contents().hangs = false;
    creating.join().unwrap().unwrap();
}
