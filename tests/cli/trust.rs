//! Key servers that are trusted on first use.

use blkseal::control::ProviderSet;

use crate::daemon::Daemon;
use crate::terminal::start;

const ADD: [&str; 11] = [
    "provider",
    "add",
    "kmip",
    "office",
    "--server",
    "kms1.example.org",
    "--trust-on-first-use",
    "--cert",
    "host.pem",
    "--key",
    "host.key",
];

#[test]
fn certificates_are_shown_and_pinned_only_after_a_yes() {
    let daemon = Daemon::start();
    for (answer, code) in [("yes\n", 0), ("no\n", 77), ("y\n", 77), ("\n", 77), ("\x04", 77)] {
        let mut session = start(&daemon, &ADD);
        for shown in [
            "kms1.example.org",
            "CN=kms1.example.org",
            "CN=Example Authority",
            "2026-01-01",
            "2027-01-01",
            "BA:78",
        ] {
            session.wait_for(shown);
        }
        session.wait_for("Trust them from now on? [yes/no] ");
        session.type_in(answer);
        let (status, seen) = session.end();
        assert_eq!(status.code(), Some(code), "{answer:?}: {seen}");
        let pins = if code == 0 { vec!["BA:78:16:BF".to_owned()] } else { vec![] };
        assert_eq!(daemon.pins(), pins, "{answer:?}");
    }
}

#[test]
fn without_a_terminal_nothing_is_trusted() {
    use std::os::unix::process::CommandExt;
    let daemon = Daemon::start();
    let mut command = crate::blkseal(&daemon.socket);
    // SAFETY: setsid is async-signal-safe and changes the new process only.
    unsafe { command.args(ADD).pre_exec(|| Ok(nix::unistd::setsid().map(|_| ())?)) };
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--pin FINGERPRINT"));
    assert_eq!(daemon.pins(), Vec::<String>::new());
}

#[test]
fn renewed_certificates_are_shown_and_pinned_only_after_a_yes() {
    let daemon = Daemon::start();
    for (answer, code) in [("yes\n", 0), ("no\n", 77)] {
        let mut session = start(&daemon, &["provider", "set", "office", "--trust-on-first-use"]);
        session.wait_for("kms1.example.org:5696"); // nobody has named it again
        session.wait_for("Trust them from now on? [yes/no] ");
        session.type_in(answer);
        let (status, seen) = session.end();
        assert_eq!(status.code(), Some(code), "{answer:?}: {seen}");
        let pins = Some(vec!["BA:78:16:BF".to_owned()]);
        let expected = if code == 0 { vec![ProviderSet { pins, ..unchanged() }] } else { vec![] };
        assert_eq!(daemon.settings(), expected, "{answer:?}");
    }
}

#[test]
fn only_what_is_given_is_changed_and_what_can_be_without_is_taken_away() {
    let daemon = Daemon::start();
    let settings = |arguments: &[&str]| {
        let mut command = crate::blkseal(&daemon.socket);
        let output = command.args(["provider", "set", "office"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        daemon.settings().remove(0)
    };
    let text = |text: &str| Some(text.to_owned());
    let path = |path: &str| Some(path.into());
    assert_eq!(
        settings(&["--server", "kms3", "--server", "kms4:5697", "--ca", "/ca.pem"]),
        ProviderSet {
            servers: Some(vec!["kms3".into(), "kms4:5697".into()]),
            ca: path("/ca.pem"),
            ..unchanged()
        }
    );
    assert_eq!(
        settings(&["--cert", "/host.pem", "--key", "/host.key", "--max-age", "12h", "--group", "vms"]),
        ProviderSet {
            certificate: path("/host.pem"),
            key: path("/host.key"),
            max_age: Some(43_200),
            group: text("vms"),
            ..unchanged()
        }
    );
    assert_eq!(
        settings(&["--proxy", "proxy:8080", "--user", "me", "--password-file", "/password", "--pin", "AB"]),
        ProviderSet {
            proxy: text("proxy:8080"),
            user: text("me"),
            password_file: path("/password"),
            pins: Some(vec!["AB".into()]),
            ..unchanged()
        }
    );
    assert_eq!(
        settings(&["--no-proxy", "--no-user", "--no-max-age"]),
        ProviderSet { proxy: text(""), user: text(""), max_age: Some(0), ..unchanged() }
    );
    for (flag, allowed) in [("--allow-unreplicated", true), ("--require-replicated", false)] {
        assert_eq!(settings(&[flag]), ProviderSet { allow_unreplicated: Some(allowed), ..unchanged() });
    }
}

fn unchanged() -> ProviderSet {
    ProviderSet {
        name: "office".parse().unwrap(),
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
