//! Key servers that are trusted on first use.

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
