//! What the commands print, word for word; and what becomes of output that nobody takes.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::blkseal;
use crate::daemon::Daemon;

/// Run with TRYCMD=overwrite to write what is printed now into the transcripts; then read the difference.
#[test]
fn commands_print_what_the_transcripts_say() {
    let daemon = Daemon::start();
    trycmd::TestCases::new()
        .env("BLKSEAL_SOCKET", daemon.socket.to_str().unwrap())
        .case("tests/cli/transcripts/*.trycmd")
        .run();
}

#[test]
fn every_command_teaches_by_example() {
    let daemon = Daemon::start();
    let help = |arguments: &[&str]| {
        let output = blkseal(&daemon.socket).args(arguments).arg("--help").output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for verb in [
        "create",
        "adopt",
        "release",
        "forget",
        "erase",
        "open",
        "close",
        "list",
        "status",
        "events",
        "provider",
        "kek",
        "rekey",
        "recovery",
        "study",
        "daemon",
        "completions",
        "man",
    ] {
        let text = help(&[verb]);
        assert!(text.contains("Examples:\n  ") && text.contains(&format!("  blkseal {verb}")), "{text}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let daemon = Daemon::start();
    for arguments in
        [&["list"][..], &["list", "--json"], &["events", "--follow"], &["completions", "bash"], &["--help"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output =
            blkseal(&daemon.socket).args(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert_eq!(output.stderr, b"", "{arguments:?}");
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let daemon = Daemon::start();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = blkseal(&daemon.socket).arg("list").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("blkseal: cannot write to standard output: ")
    );
}

#[test]
fn colours_are_for_terminals_only() {
    let daemon = Daemon::start();
    let output = |force: bool| {
        let mut command = blkseal(&daemon.socket);
        if force {
            command.env("CLICOLOR_FORCE", "1");
        }
        command.arg("list").output().unwrap().stdout
    };
    assert!(!output(false).contains(&0x1b));
    assert!(output(true).contains(&0x1b));
}

#[test]
fn without_permission_the_daemon_is_not_called_missing() {
    let daemon = Daemon::start();
    let home = daemon.socket.parent().unwrap();
    let place = tempfile::tempdir().unwrap();
    let mut command = if nix::unistd::geteuid().is_root() {
        std::fs::set_permissions(home, Permissions::from_mode(0o700)).unwrap();
        // Root may connect to any socket: ask as nobody. `install` copies, for a file that this process has had open
        // for writing may still be so in a child of another test, and does not run then (ETXTBSY).
        let (program, place) = (place.path().join("blkseal"), place.path());
        std::fs::set_permissions(place, Permissions::from_mode(0o755)).unwrap();
        let copied =
            Command::new("install").arg(env!("CARGO_BIN_EXE_blkseal")).arg(&program).status().unwrap();
        assert!(copied.success());
        let mut command = Command::new(program);
        command.uid(65534).gid(65534).env("BLKSEAL_SOCKET", &daemon.socket);
        command
    } else {
        std::fs::set_permissions(home, Permissions::from_mode(0o000)).unwrap();
        blkseal(&daemon.socket)
    };
    let output = command.arg("list").output().unwrap();
    std::fs::set_permissions(home, Permissions::from_mode(0o700)).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{stderr}");
    assert!(
        stderr.contains("Permission denied") && stderr.contains("hint: run the command as root"),
        "{stderr}"
    );
}
