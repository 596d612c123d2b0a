//! Certificates that end, and keys of types that blkseal cannot use: what is wrong is named, with its file.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blkseal::provider::kmip::{ConfigError, check, date, host_certificate};
use blkseal::provider::{KeyProvider, ProviderError};

use crate::support::store::{Store, StoredKey};
use crate::support::{Client, Pki, config, free_port};

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A P-521 key and a certificate that it signed itself, for 127.0.0.1.
fn p521(pki: &Pki) -> (PathBuf, PathBuf) {
    let (certificate, key) = (pki.path("p521.pem"), pki.path("p521.key"));
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:secp521r1",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=p521",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        text(&key),
        "-out",
        text(&certificate),
    ]);
    restrict(&key);
    (certificate, key)
}

fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_key_that_this_host_cannot_use_is_named_with_its_file() {
    let pki = Pki::new();
    let (certificate, key) = p521(&pki);
    let encrypted = pki.path("encrypted.key");
    openssl(&[
        "pkcs8",
        "-topk8",
        "-in",
        text(&pki.key("host")),
        "-passout",
        "pass:secret",
        "-out",
        text(&encrypted),
    ]);
    let traditional = pki.path("traditional.key");
    openssl(&[
        "ec",
        "-in",
        text(&pki.key("host")),
        "-aes256",
        "-passout",
        "pass:secret",
        "-out",
        text(&traditional),
    ]);
    [&encrypted, &traditional].into_iter().for_each(|path| restrict(path));
    let good = config(&pki, &[1]);
    let own_key = |key: &Path| {
        let mut config = good.clone();
        config.key = key.to_owned();
        config
    };
    let mut authority = good.clone();
    authority.trust = blkseal::provider::kmip::Trust::Ca(certificate.clone());
    for (config, file, words) in [
        (own_key(&key), &key, "of type P-521"),
        (own_key(&encrypted), &encrypted, "encrypted with a passphrase"),
        (own_key(&traditional), &traditional, "encrypted with a passphrase"),
        (authority, &certificate, "type P-521"),
    ] {
        let error = Client::new(config).provider.create_kek().err().unwrap();
        let ProviderError::Kmip { source, .. } = &error else { panic!("{error:?}") };
        let message = source.to_string();
        assert!(matches!(source, ConfigError::KeyType { .. }), "{message}");
        assert!(message.contains(words) && message.contains(text(file)), "{message}");
        assert!(error.hint().unwrap().contains("P-384"), "{error}");
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_whose_key_this_host_cannot_check_is_told_so() {
    let pki = Pki::new();
    let (certificate, key) = p521(&pki);
    for (version, words) in [("-tls1_3", "a key of type P-521"), ("-tls1_2", "no type of key, in common")] {
        let port = free_port();
        let server = Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                version,
                "-accept",
                &port.to_string(),
                "-cert",
                text(&certificate),
                "-key",
            ])
            .arg(&key)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _server = Server(server);
        let end = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "openssl s_server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        let report = check(&config(&pki, &[port])).unwrap().remove(0).outcome.err().unwrap();
        let line = report.fault.line();
        assert!(line.contains(words), "{version}: {line}");
        assert!(report.fault.hint().is_some(), "{line}");
    }
}

fn days(from_now: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    now + from_now * 86_400
}

#[test]
fn this_hosts_certificate_is_told_of_before_it_ends_and_asks_no_server_after_that() {
    let pki = Pki::new();
    let store = Store::new(vec![StoredKey::new("1", 1_700_000_000)]);
    let server = store.serve(&pki);
    let good = config(&pki, &[server.port]);
    let far = host_certificate(&good).unwrap().unwrap();
    assert_eq!((far.info.subject.as_str(), far.warning), ("CN=host", None));
    assert_eq!(date(far.good_until), "2099-01-01T00:00:00Z");

    let shown_as = |name: &str, from: i64, until: i64| {
        let leaf = pki.client_between(name, from, until);
        let mut config = good.clone();
        (config.certificate, config.key) = (leaf.certificate, leaf.key);
        config
    };
    let near = shown_as("near", days(-1), days(20));
    let warning = host_certificate(&near).unwrap().unwrap().warning.unwrap();
    assert!(
        warning.contains("near.pem") && warning.contains("CN=near") && warning.contains("renew"),
        "{warning}"
    );
    Client::new(near).provider.fetch_kek(&"1".parse().unwrap()).unwrap();

    let before = store.contents().messages;
    for (config, words) in [
        (shown_as("over", days(-9), days(-1)), "ended at "),
        (shown_as("early", days(1), days(9)), "is not good before "),
    ] {
        let error = Client::new(config.clone()).provider.fetch_kek(&"1".parse().unwrap()).err().unwrap();
        let ProviderError::Kmip { source: source @ ConfigError::Dates { .. }, .. } = &error else {
            panic!("{error:?}")
        };
        let message = source.to_string();
        assert!(message.contains(words) && message.contains(text(&config.certificate)), "{message}");
        assert!(error.hint().unwrap().contains("renewed"), "{error}");
        assert!(host_certificate(&config).is_err() && check(&config).is_err());
    }
    assert_eq!(store.contents().messages, before, "no server was asked");
}
