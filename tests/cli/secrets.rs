//! Which bytes of a file or descriptor become the secret.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::blkseal;
use crate::daemon::Daemon;

/// Runs `recovery add vm1` with `arguments` and `input`; the exit code and what is on standard error.
fn add(daemon: &Daemon, arguments: &[&str], input: &[u8]) -> (Option<i32>, String) {
    let mut child = blkseal(&daemon.socket)
        .args(["recovery", "add", "vm1"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input); // the command may have refused before it read all
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn key_file(dir: &Path, content: &[u8]) -> String {
    let path = dir.join("key");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_key_file_is_used_byte_by_byte() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    for content in [b"correct horse\n".to_vec(), b"\n".to_vec(), b"a\0b\r\n\n".to_vec(), vec![0xff; 8192]] {
        let path = key_file(dir.path(), &content);
        assert_eq!(add(&daemon, &["--key-file", &path], b""), (Some(0), String::new()));
        assert_eq!(add(&daemon, &["--key-file", "-"], &content), (Some(0), String::new()));
        assert_eq!(daemon.secrets(), [content.clone(), content]);
    }
}

#[test]
fn a_passphrase_of_a_descriptor_is_one_line_without_its_newline() {
    let daemon = Daemon::start();
    for (input, passphrase) in [
        (&b"correct horse\n"[..], &b"correct horse"[..]),
        (b"no newline", b"no newline"),
        (b"carriage return\r\n", b"carriage return\r"),
        (b" blanks \n\n", b" blanks "),
        (b"first\nsecond\n", b"first"),
        (&[b'x'; 8192], &[b'x'; 8192]),
    ] {
        assert_eq!(add(&daemon, &["--passphrase-fd", "0"], input), (Some(0), String::new()));
        assert_eq!(daemon.secrets(), [passphrase]);
    }
}

#[test]
fn the_lines_of_one_descriptor_serve_several_commands() {
    let daemon = Daemon::start();
    let script =
        "{ \"$0\" recovery add vm1 --passphrase-fd 7 && \"$0\" recovery add vm1 --passphrase-fd 7; } 7<<EOF
first
second
EOF";
    let status = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_blkseal")])
        .env("BLKSEAL_SOCKET", &daemon.socket)
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    assert_eq!(daemon.secrets(), [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn a_key_file_may_be_the_output_of_a_command() {
    let daemon = Daemon::start();
    let status = Command::new("bash")
        .args([
            "-c",
            "\"$0\" provider unlock lab --key-file <(printf 'made\\n')",
            env!("CARGO_BIN_EXE_blkseal"),
        ])
        .env("BLKSEAL_SOCKET", &daemon.socket)
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    assert_eq!(daemon.secrets(), [b"made\n"]);
}

#[test]
fn a_passphrase_is_changed_by_the_old_one_and_the_new_one() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let old = key_file(dir.path(), b"the old one");
    let status = Command::new("bash")
        .args([
            "-c",
            "\"$0\" provider passphrase lab --key-file \"$1\" --new-passphrase-fd 3 3<<<'the new one'",
            env!("CARGO_BIN_EXE_blkseal"),
        ])
        .arg(&old)
        .env("BLKSEAL_SOCKET", &daemon.socket)
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    assert_eq!(daemon.secrets(), [b"the old one".to_vec(), b"the new one".to_vec()]);
}

#[test]
fn secrets_that_cannot_be_are_refused_before_the_call() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let (empty, long) = (key_file(dir.path(), b""), dir.path().join("long"));
    std::fs::write(&long, [b'x'; 8193]).unwrap();
    std::fs::set_permissions(&long, PermissionsExt::from_mode(0o600)).unwrap();
    let long = long.to_str().unwrap();
    let missing = dir.path().join("missing");
    for (arguments, input, code, said) in [
        (["--key-file", &empty], &b""[..], 64, "is empty"),
        (["--key-file", long], b"", 64, "is longer than 8192 bytes"),
        (["--key-file", missing.to_str().unwrap()], b"", 66, "missing: No such file"),
        (["--key-file", dir.path().to_str().unwrap()], b"", 74, "Is a directory"),
        (["--key-file", ""], b"", 64, "--key-file"),
        (["--key-file", "-"], b"", 64, "standard input is empty"),
        (["--passphrase-fd", "0"], b"", 64, "the passphrase on descriptor 0 is empty"),
        (["--passphrase-fd", "0"], b"\nsecond\n", 64, "the passphrase on descriptor 0 is empty"),
        (["--passphrase-fd", "0"], &[b'x'; 8193], 64, "is longer than 8192 bytes"),
        (["--passphrase-fd", "99"], b"", 64, "descriptor 99 is not open"),
        (["--passphrase-fd", "-1"], b"", 64, "--passphrase-fd"),
        (["--passphrase-fd", "4294967296"], b"", 64, "4294967296"),
    ] {
        let (exit, stderr) = add(&daemon, &arguments, input);
        assert_eq!(exit, Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("blkseal: ") && stderr.contains(said), "{arguments:?}: {stderr}");
        assert_eq!(daemon.secrets(), Vec::<Vec<u8>>::new());
    }
    let (exit, stderr) = add(&daemon, &["--key-file", long, "--passphrase-fd", "0"], b"x");
    assert_eq!(exit, Some(64), "{stderr}");
}

#[test]
fn a_key_file_that_others_can_read_is_warned_of() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let path = key_file(dir.path(), b"key");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let (exit, stderr) = add(&daemon, &["--key-file", &path], b"");
    assert_eq!(exit, Some(0));
    assert_eq!(
        stderr,
        format!("blkseal: warning: key file {path} is open to other users (mode 0640): chmod 600 it\n")
    );
    assert_eq!(daemon.secrets(), [b"key"]);
}
