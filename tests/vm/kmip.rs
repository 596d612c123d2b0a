//! A volume whose KEK is at a cluster of key servers, which run in this guest: what its users notice of them, and where
//! their keys are.

use std::path::Path;

use blkseal::provider::KeyProvider;

use crate::kmip_support::{Client, Pki, PyKmip, config};
use crate::memory::{assert_process_clean, count, needles};
use crate::support::load::{FIO, under_fio};
use crate::support::shell::said;
use crate::support::{Host, Volume, eventually, run};

const LOCKED: i32 = 75;

/// A host with a cluster of two servers besides its native provider.
fn with_cluster(pki: &Pki, servers: &[PyKmip; 2]) -> Host {
    let host = Host::start();
    let [one, two] = servers.each_ref().map(|server| format!("127.0.0.1:{}", server.port));
    let [ca, certificate, key] =
        [pki.ca_file(), pki.certificate("host"), pki.key("host")].map(|path| path.display().to_string());
    host.blkseal(&[
        "provider",
        "add",
        "kmip",
        "cluster",
        "--server",
        &one,
        "--server",
        &two,
        "--ca",
        &ca,
        "--cert",
        &certificate,
        "--key",
        &key,
    ]);
    host
}

/// The volume's KEK, as another client of the servers gets it.
fn kek_of(volume: &Volume<'_>, pki: &Pki, servers: &[PyKmip; 2]) -> Vec<u8> {
    let id = volume.status()["kek_id"].as_str().unwrap().parse().unwrap();
    let ports = servers.each_ref().map(|server| server.port);
    Client::new(config(pki, &ports)).provider.fetch_kek(&id).unwrap().expose().to_vec()
}

/// The private number of an EC key in PKCS #8, which has an octet string of 32 bytes and before it nothing like one.
fn private_number(pem: &Path) -> Vec<u8> {
    use base64::Engine as _;
    let text = std::fs::read_to_string(pem).unwrap();
    let base64: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
    let at = der.windows(2).position(|pair| pair == [4, 32]).unwrap();
    der[at + 2..at + 34].to_vec()
}

fn rekey(host: &Host, arguments: &[&str]) {
    let done = host.blkseal(&[&["rekey", "--kek", "busy", "--json"], arguments].concat());
    assert!(done.contains("\"rewrapped\":1"), "{arguments:?}: {done}");
}

#[test]
fn a_volume_outlives_its_key_servers_and_changes_its_kek_and_its_keys_are_nowhere() {
    let pki = Pki::new();
    let mut servers = ["keys"; 2].map(|database| PyKmip::start(&pki, database));
    let mut host = with_cluster(&pki, &servers);
    let backing = host.image("backing", 32 << 20);
    let volume = host.create("busy", &backing, &["--provider", "cluster"]);
    volume.add_recovery();
    let dek = volume.dek();
    let kek = kek_of(&volume, &pki, &servers);
    assert_eq!((dek.len(), kek.len()), (64, 32));

    // What is in memory just after the KEK came from a server.
    host.blkseal(&["provider", "lock", "cluster"]);
    let path = volume.open(&[]);
    let secrets = needles(&[("the DEK", &dek), ("the KEK", &kek)], &[]);
    assert_process_clean("the daemon", host.daemon_pid(), &secrets);
    assert_process_clean("the worker", volume.worker_pid(), &secrets);
    let number = private_number(&pki.key("host"));
    println!(
        "the client's private number is in {} mappings of the daemon's memory",
        count(host.daemon_pid(), &number)
    );

    under_fio(&path, || {
        servers.iter_mut().for_each(PyKmip::stop);
        host.blkseal(&["provider", "lock", "cluster"]);
        let output = host.try_blkseal(&["rekey", "--kek", "--to", "keys", "busy"]);
        assert_eq!(output.status.code(), Some(LOCKED), "{}", said(&output));
        assert_eq!(host.json(&["status", "busy"])["state"], "live");
        // Both at once, for to start one takes an emulated processor seconds.
        std::thread::scope(|scope| {
            for server in &mut servers {
                scope.spawn(|| server.restart());
            }
        });

        host.blkseal(&["kek", "create", "cluster"]);
        rekey(&host, &[]);
        rekey(&host, &["--to", "keys"]);
        rekey(&host, &["--to", "cluster"]);

        host.end_daemon("KILL");
        host.start_daemon();
        assert_eq!(host.json(&["status", "busy"])["state"], "live");
    });
    let volume = host.volume("busy", &backing);
    let (first, kek) = (volume.worker_pid(), kek_of(&volume, &pki, &servers));
    run(&format!("kill -KILL {first}"));
    eventually("another worker has the key from a server", || {
        let status = volume.status();
        status["state"] == "live" && status["device"]["pid"] != first
    });
    let secrets = needles(&[("the DEK", &dek), ("the newest KEK", &kek)], &[]);
    assert_process_clean("the second daemon", host.daemon_pid(), &secrets);
    assert_process_clean("the second worker", volume.worker_pid(), &secrets);

    run("udevadm settle");
    volume.close();
    volume.open(&[]);
    run(&format!("{FIO} --verify_only --filename={}", path.display()));
    volume.close();
    assert!(volume.dek() == dek, "the volume's own key is the same, says stock cryptsetup");
}
