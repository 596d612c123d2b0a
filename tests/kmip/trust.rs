//! Who trusts whom, and what an administrator is shown of it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::time::SystemTime;

use blkseal::provider::kmip::messages::Operation;
use blkseal::provider::kmip::{ConfigError, Fault, Fingerprint, Trust, check, meet};
use blkseal::provider::{KeyProvider, ProviderError};

use crate::support::{Behaviour, Client, FakeServer, LIMITS, Leaf, Pki, PyKmip, config};

#[test]
fn what_is_met_is_what_openssl_reads_and_can_be_pinned() {
    let pki = Pki::new();
    // For no name at all, as appliances make their certificates: no authority helps, a pin does.
    let leaf = pki.server("nameless", &[], 2099);
    let server = PyKmip::start_as(&pki, "keys", &leaf);
    let mut config = config(&pki, &[server.port]);
    let error = Client::new(config.clone()).provider.create_kek().err().unwrap().to_string();
    assert!(error.contains("its certificate is for another name"), "{error}");

    let met = meet(&config.servers[0], None, &LIMITS).unwrap();
    let told = Command::new("openssl")
        .args([
            "x509",
            "-noout",
            "-fingerprint",
            "-sha256",
            "-subject",
            "-issuer",
            "-dates",
            "-nameopt",
            "RFC2253",
            "-in",
        ])
        .arg(&leaf.certificate)
        .output()
        .unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    for (what, value) in
        [("Fingerprint=", met.fingerprint.to_string()), ("subject=", met.subject), ("issuer=", met.issuer)]
    {
        assert!(told.contains(&format!("{what}{value}\n")), "{value} not in {told}");
    }
    for (what, time) in [("notBefore=", met.not_before), ("notAfter=", met.not_after)] {
        let date = told.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        let seconds = Command::new("date").args(["-u", "+%s", "-d", date]).output().unwrap().stdout;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(String::from_utf8(seconds).unwrap().trim(), since.to_string(), "{what}{date}");
    }
    config.trust = Trust::Pins(vec![met.fingerprint]);
    Client::new(config.clone()).provider.create_kek().unwrap();
    config.trust = Trust::Pins(vec![Fingerprint::of(b"another")]);
    let error = Client::new(config).provider.create_kek().err().unwrap().to_string();
    assert!(error.contains("not pinned"), "{error}");
}

#[test]
fn a_pinned_certificate_expires_too() {
    let pki = Pki::new();
    let good = PyKmip::start(&pki, "keys");
    let expired = pki.server("expired", &["127.0.0.1"], 2001);
    let server = FakeServer::start(&pki, &expired, Behaviour::Tamper(good.port, |_| ()));
    let mut config = config(&pki, &[server.port]);
    config.trust = Trust::Pins(vec![meet(&config.servers[0], None, &LIMITS).unwrap().fingerprint]);
    let error = Client::new(config).provider.create_kek().err().unwrap().to_string();
    assert!(error.contains("certificate has expired"), "{error}");
}

#[test]
fn a_client_that_may_not_have_a_key_does_not_get_it() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let owner = Client::new(config(&pki, &[server.port]));
    let id = owner.provider.create_kek().unwrap();
    let other = pki.client("other");
    let mut others = config(&pki, &[server.port]);
    (others.certificate, others.key) = (other.certificate, other.key);
    let stranger = Client::new(others);
    let error = stranger.provider.fetch_kek(&id).err().unwrap();
    println!("{error:?}");
    let refused = matches!(error, ProviderError::Refused { .. } | ProviderError::KekGone { .. });
    assert!(refused && error.hint().is_some(), "{error}");
    assert!(stranger.provider.list_keks().unwrap().is_empty());
    owner.provider.fetch_kek(&id).unwrap();
}

#[test]
fn a_client_that_the_server_does_not_know_is_told_so() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let elsewhere = Pki::new();
    let mut config = config(&pki, &[server.port]);
    (config.certificate, config.key) = (elsewhere.certificate("host"), elsewhere.key("host"));
    let error = Client::new(config).provider.create_kek().err().unwrap().to_string();
    let told =
        error.contains("does not accept this host's certificate") || error.contains("the connection broke");
    assert!(told && error.contains(&server.port.to_string()), "{error}");
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let pki = Pki::new();
    let mut config = config(&pki, &[1]);
    let refused = |config: &_| match Client::new(Clone::clone(config)).provider.create_kek() {
        Err(error @ ProviderError::Kmip { source: ConfigError::Exposed { .. }, .. }) => {
            error.hint().is_some()
        }
        other => panic!("{:?}", other.err()),
    };
    for mode in [0o640, 0o604, 0o660, 0o620] {
        fs::set_permissions(pki.key("host"), fs::Permissions::from_mode(mode)).unwrap();
        assert!(refused(&config));
    }
    fs::set_permissions(pki.key("host"), fs::Permissions::from_mode(0o400)).unwrap();
    let password = pki.path("password");
    fs::write(&password, "hunter2\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
    (config.user, config.password_file) = (Some("host".into()), Some(password));
    assert!(refused(&config));
}

#[test]
fn a_check_tells_what_each_server_is() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let leaf = Leaf { certificate: pki.certificate("server"), key: pki.key("server") };
    // Takes Activate out of the answer to Query by making it another operation, Archive.
    let lacking = FakeServer::start(
        &pki,
        &leaf,
        Behaviour::Tamper(server.port, |answer| {
            let activate = b"\x42\x00\x5c\x05\0\0\0\x04\0\0\0\x12";
            while let Some(at) = answer.windows(12).position(|window| window == activate) {
                answer[at + 11] = 0x15;
            }
        }),
    );
    let reports = check(&config(&pki, &[server.port, lacking.port, 1])).unwrap();
    let status = reports[0].outcome.as_ref().unwrap();
    assert_eq!(status.address.port(), server.port);
    assert_eq!(status.tls, "TLS 1.2");
    assert!(!status.latency.is_zero());
    assert!(status.cipher.contains("ECDHE_ECDSA"), "{}", status.cipher);
    let certificate = status.certificate.as_ref().unwrap();
    assert_eq!(blkseal::provider::kmip::date(certificate.not_after), "2099-01-01T00:00:00Z");
    let versions: Vec<_> = status.versions.iter().map(ToString::to_string).collect();
    assert_eq!(versions, ["1.4", "1.3", "1.2", "1.1"]);
    assert!(status.vendor.as_ref().unwrap().contains("PyKMIP"));
    assert!(Operation::NEEDED.iter().all(|operation| status.operations.contains(operation)));
    let lacks = &reports[1].outcome.as_ref().err().unwrap().fault;
    assert_eq!(lacks.to_string(), "it does not support Activate");
    assert!(lacks.hint().unwrap().contains("enable these for this host"));
    assert!(matches!(reports[2].outcome.as_ref().err().unwrap().fault, Fault::Connect(_)));
}

#[test]
fn a_key_file_of_another_user_is_refused() {
    let pki = Pki::new();
    let config = config(&pki, &[1]);
    if chown(pki.key("host"), Some(1234), None).is_err() {
        println!("not tested: only root gives files away");
        return;
    }
    let error = Client::new(config).provider.create_kek().err().unwrap();
    let ProviderError::Kmip { source, .. } = &error else { panic!("{error:?}") };
    let text = source.to_string();
    assert!(matches!(source, ConfigError::Owner { owner: 1234, .. }), "{text}");
    assert!(text.contains("client key") && text.contains("host.key") && text.contains("1234"), "{text}");
    assert!(error.hint().unwrap().contains("chown root"));
}

#[test]
fn servers_are_found_by_name_and_by_ipv6_address() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let mut config = config(&pki, &[server.port]);
    config.servers = vec![format!("localhost:{}", server.port).parse().unwrap()];
    Client::new(config.clone()).provider.create_kek().unwrap();

    if TcpListener::bind("[::1]:0").is_err() {
        println!("not tested: this host has no IPv6");
        return;
    }
    let leaf = pki.server("six", &["::1"], 2099);
    let fake = FakeServer::start_at("[::1]:0", &pki, &leaf, Behaviour::Tamper(server.port, |_| ()));
    config.servers = vec![format!("[::1]:{}", fake.port).parse().unwrap()];
    Client::new(config.clone()).provider.create_kek().unwrap();
    let status = check(&config).unwrap().remove(0).outcome.unwrap();
    assert!(status.address.is_ipv6());
    assert_eq!(status.tls, "TLS 1.3");
}
