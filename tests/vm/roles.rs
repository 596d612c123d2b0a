//! Users without root's rights, on the real socket, with the real tools that change users.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::support::shell::said;
use crate::support::{Host, run};

const NOT_PERMITTED: i32 = 77;

/// Runs a `blkseal` command as user 4001 with the groups of `setpriv`'s options; its exit code and what it said.
fn as_user(host: &Host, groups: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let runner: Vec<&str> = "setpriv --reuid 4001 --regid 4999".split(' ').chain(groups.split(' ')).collect();
    let output = host.command_under(&runner, arguments).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), said(&output))
}

fn host_with_roles(text: &str) -> Host {
    let host = Host::start();
    fs::set_permissions(host.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(host.path("etc/roles.toml"), text).unwrap();
    host
}

#[test]
fn a_group_opens_and_closes_and_does_nothing_cryptographic() {
    let host = host_with_roles("[role.no-crypto-admin]\ngroups = ['5001']");
    let (member, nobody) = ("--groups 7,5001", "--clear-groups");
    let backing = host.image("disk", 32 << 20);
    host.create("vol", &backing, &[]);
    let before = run(&format!("sha256sum {backing}"));

    assert_eq!(as_user(&host, member, &["open", "vol"]).0, Some(0));
    assert!(host.path("dev/vol").parse::<std::path::PathBuf>().unwrap().is_symlink());
    run("udevadm settle");
    assert_eq!(as_user(&host, member, &["close", "vol"]).0, Some(0));

    let refused: [(&[&str], &str, &str); 6] = [
        (&["open", "vol"], nobody, "access"),
        (&["list"], nobody, "look"),
        (&["create", &backing, "--name", "new", "--force", "--yes"], member, "encrypt-new"),
        (&["recovery", "remove", "vol", "--all", "--yes"], member, "decrypt"),
        (&["provider", "lock", "keys"], member, "manage-keys"),
        (&["study", "plain", "raw", &backing], member, "add-disk"),
    ];
    for (arguments, groups, privilege) in refused {
        let (code, said) = as_user(&host, groups, arguments);
        assert_eq!(code, Some(NOT_PERMITTED), "{arguments:?}: {said}");
        let line = format!("blkseal: user 4001 has no role with the privilege {privilege}, which ");
        assert!(said.starts_with(&line) && said.lines().count() == 2, "{arguments:?}: {said}");
        let event = host.log().lines().rev().find(|line| line.contains("uid:4001")).unwrap().to_owned();
        assert!(event.contains("NotPermitted") && event.contains(privilege), "{event}");
    }
    assert_eq!(run(&format!("sha256sum {backing}")), before, "what is refused changes nothing");
}

#[test]
fn a_malformed_file_keeps_a_running_daemon_and_leaves_a_new_one_to_root() {
    let mut host = host_with_roles("[role.auditor]\nusers = ['4001']");
    assert_eq!(as_user(&host, "--clear-groups", &["list"]).0, Some(0));
    fs::write(host.path("etc/roles.toml"), "[role.auditor]\nusers = ['root', 'no such user']").unwrap();
    assert_eq!(as_user(&host, "--clear-groups", &["list"]).0, Some(0), "the roles of before stay in force");
    assert!(host.blkseal(&["status"]).contains("there is no user 'no such user'"));
    assert!(host.log().contains("the roles of before stay in force"), "{}", host.log());

    host.end_daemon("TERM");
    host.start_daemon();
    assert_eq!(as_user(&host, "--clear-groups", &["list"]).0, Some(NOT_PERMITTED), "root alone is served");
    assert!(host.blkseal(&["status"]).contains("only root may do anything"));
    fs::remove_file(host.path("etc/roles.toml")).unwrap();
}
