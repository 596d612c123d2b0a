//! A volume of stock cryptsetup, adopted: what is told, and that the passphrase gets to the daemon.

use std::io::Write;
use std::process::Stdio;

use crate::blkseal;
use crate::daemon::Daemon;

/// Runs `adopt` with `arguments` and `input`: the exit code, and both outputs.
fn adopt(daemon: &Daemon, arguments: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut command = blkseal(&daemon.socket);
    command.arg("adopt").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input); // the command may have refused before it read all
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_passphrase_gets_to_the_daemon_and_the_volume_has_its_name() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("vm1.img");
    std::fs::write(&image, "").unwrap();
    let image = image.to_str().unwrap();
    let said = "volume vm1 is adopted: 240 MiB, its key wrapped by KEK f2c9a5d0 of office\n\
                open it with: blkseal open vm1\n";
    let told = adopt(&daemon, &[image, "--passphrase-fd", "0"], b"stock\n");
    assert_eq!(told, (Some(0), said.into(), String::new()));
    assert_eq!(daemon.secrets(), [b"stock"]);
    let arguments = [image, "--name", "vm8", "--key-file", "-", "--remove-passphrases", "--yes", "--json"];
    let (code, answer, _) = adopt(&daemon, &arguments, b"stock\n");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        (code, &answer["name"], &answer["recovery_keyslots"]),
        (Some(0), &"vm8".into(), &serde_json::json!([]))
    );
    assert_eq!(daemon.secrets(), [b"stock\n"]);
}

#[test]
fn a_refusal_is_told() {
    let daemon = Daemon::start();
    let told = adopt(&daemon, &["/etc/passwd", "--passphrase-fd", "0"], b"stock");
    assert_eq!(told, (Some(65), String::new(), "blkseal: /etc/passwd has no LUKS2 header\n".into()));
}
