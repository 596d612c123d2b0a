//! What users get wrong: one clear line that names the thing, a hint, a documented exit code, nothing changed.

use std::fs;
use std::process::Output;

use crate::support::shell::said;
use crate::support::{Host, run};

const WRONG_KEY: i32 = 2;
const BUSY: i32 = 5;
const BAD_ARGUMENT: i32 = 64;
const BAD_DATA: i32 = 65;
const NO_INPUT: i32 = 66;
const NOT_FOUND: i32 = 67;
const NO_DAEMON: i32 = 69;
const EXISTS: i32 = 73;
const LOCKED: i32 = 75;

/// The command fails with `code`, says one line that names all of `named`, and a hint at most.
fn refused(host: &Host, arguments: &[&str], code: i32, named: &[&str]) {
    check(arguments, &host.try_blkseal(arguments), code, named);
}

fn check(arguments: &[&str], output: &Output, code: i32, named: &[&str]) {
    let all = said(output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {all}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = stderr.lines().collect();
    assert!((1..=2).contains(&lines.len()), "{arguments:?}: one line and a hint: {stderr}");
    assert!(lines[0].starts_with("blkseal: "), "{arguments:?}: {stderr}");
    for name in named {
        assert!(stderr.contains(name), "{arguments:?} does not name {name}: {stderr}");
    }
}

/// As [`refused`], and no byte of `file` changes.
fn refused_without_change(host: &Host, arguments: &[&str], code: i32, named: &[&str], file: &str) {
    let before = run(&format!("sha256sum {file}"));
    refused(host, arguments, code, named);
    assert_eq!(run(&format!("sha256sum {file}")), before, "{arguments:?} changed {file}");
}

#[test]
fn wrong_keys_and_unknown_names() {
    let host = Host::start();
    let backing = host.image("backing", 32 << 20);
    host.create("known", &backing, &[]);
    fs::write(host.path("wrong"), "not that key").unwrap();

    host.blkseal(&["provider", "lock", "keys"]);
    let unlock = ["provider", "unlock", "keys", "--key-file", &host.path("wrong")];
    refused(&host, &unlock, WRONG_KEY, &["keys"]);
    refused_without_change(&host, &["open", "known", "--no-wait"], LOCKED, &["keys"], &backing);
    host.blkseal(&["provider", "unlock", "keys", "--key-file", &host.path("key")]);

    refused(
        &host,
        &["provider", "unlock", "nobody", "--key-file", &host.path("key")],
        NOT_FOUND,
        &["nobody"],
    );
    refused(&host, &["provider", "default", "nobody"], NOT_FOUND, &["nobody"]);
    refused(&host, &["provider", "remove", "keys"], BUSY, &["keys", "known"]);
    refused(
        &host,
        &["provider", "add", "native", "keys", "--key-file", &host.path("key")],
        EXISTS,
        &["keys"],
    );
    refused(&host, &["open", "nothing"], NOT_FOUND, &["nothing"]);
    refused(&host, &["close", "known"], NOT_FOUND, &["known"]);
    refused(&host, &["status", "nothing"], NOT_FOUND, &["nothing"]);
    refused(&host, &["open", "known", "--cpu-path", "abacus"], BAD_ARGUMENT, &["abacus"]);
    for (option, value) in
        [("--queues", "0"), ("--queues", "99999"), ("--depth", "5000"), ("--max-io", "5000")]
    {
        refused(&host, &["open", "known", option, value], BAD_ARGUMENT, &[]);
    }
}

#[test]
fn no_daemon() {
    let host = Host::start();
    let output = host.command(&["list"]).env("BLKSEAL_SOCKET", "/nowhere/daemon.sock").output().unwrap();
    check(&["list"], &output, NO_DAEMON, &["/nowhere/daemon.sock", "blkseald"]);
}

#[test]
fn backings_that_cannot_be_used() {
    let host = Host::start();
    let create =
        |backing: &str| -> Vec<String> { ["create", backing, "--name", "new"].map(str::to_owned).to_vec() };
    let refuse = |backing: &str, code: i32, named: &[&str]| {
        let arguments = create(backing);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        match fs::metadata(backing) {
            Ok(meta) if meta.is_file() => refused_without_change(&host, &arguments, code, named, backing),
            _ => refused(&host, &arguments, code, named),
        }
    };
    refuse("/nowhere/disk.img", NO_INPUT, &["/nowhere/disk.img"]);
    refuse(&host.image("tiny", 1 << 20), BAD_DATA, &["tiny"]);
    refuse(&host.image("odd", (32 << 20) + 100), BAD_DATA, &["odd"]);
    refuse("/dev/null", BAD_DATA, &["/dev/null"]);

    let ext4 = host.image("ext4", 32 << 20);
    run(&format!("mkfs.ext4 -q {ext4}"));
    refuse(&ext4, EXISTS, &["ext4", "--force"]);
    let luks = host.image("luks", 32 << 20);
    run(&format!(
        "cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file {} {luks}",
        host.path("key")
    ));
    refuse(&luks, EXISTS, &["luks", "--force"]);
    host.create("forced", &ext4, &["--force", "--yes"]);

    let attached = host.image("attached", 32 << 20);
    let device = run(&format!("losetup --show -f {attached}")).trim().to_owned();
    run(&format!("mkfs.ext4 -q {device}"));
    let mount_point = host.path("mnt");
    run(&format!("mkdir {mount_point}"));
    run(&format!("mount {device} {mount_point}"));
    refused(&host, &["create", &device, "--name", "new", "--force", "--yes"], BUSY, &[&device]);
    refused(&host, &["create", &attached, "--name", "new", "--force", "--yes"], BUSY, &[&attached]);
    run(&format!("umount {mount_point}"));
    run(&format!("losetup -d {device}"));
}

#[test]
fn volumes_in_use() {
    let host = Host::start();
    let backing = host.image("backing", 32 << 20);
    let volume = host.create("busy", &backing, &[]);
    let path = volume.open(&[]);
    refused(&host, &["open", "busy"], BUSY, &["busy"]);
    refused(
        &host,
        &["create", &backing, "--name", "other", "--force", "--yes"],
        EXISTS,
        &[&backing, "volume busy"],
    );
    run(&format!("mkfs.ext4 -q {}", path.display()));
    let mount_point = host.path("mnt");
    run(&format!("mkdir {mount_point}"));
    run(&format!("mount {} {mount_point}", path.display()));
    refused(&host, &["close", "busy"], BUSY, &["busy", &mount_point]);
    run(&format!("umount {mount_point}"));
    volume.close();
}

fn overwrite(path: &str, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn damaged_headers() {
    let host = Host::start();
    let backing = host.image("backing", 32 << 20);
    let volume = host.create("damaged", &backing, &[]);
    // The second copy of the binary header and its JSON area start after the first, at 16 KiB.
    overwrite(&backing, 0, &[0; 4096]);
    let output = host.try_blkseal(&["open", "damaged"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("repaired"), "the repair is told: {}", said(&output));
    volume.close();
    run(&format!("cryptsetup isLuks --type luks2 {backing}"));

    overwrite(&backing, 0, &[0; 32 << 10]);
    refused_without_change(&host, &["open", "damaged"], BAD_DATA, &[&backing, "luksHeaderRestore"], &backing);
}

/// Puts `json` in place of the volume's token.
fn replace_token(backing: &str, json: &str) {
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("cryptsetup token remove --token-id 0 {backing} && printf %s '{json}' | cryptsetup token import --token-id 0 {backing}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{json}: {}", said(&output));
}

#[test]
fn tokens_that_cannot_be_used() {
    let host = Host::start();
    let backing = host.image("backing", 32 << 20);
    host.create("token", &backing, &[]);
    let good = run(&format!("cryptsetup token export --token-id 0 {backing}"));
    let token: serde_json::Value = serde_json::from_str(&good).unwrap();
    let with = |field: &str, value: serde_json::Value| {
        let mut changed = token.clone();
        changed[field] = value;
        replace_token(&backing, &changed.to_string());
    };
    let refuse = |code: i32, named: &[&str]| {
        refused_without_change(&host, &["open", "token"], code, named, &backing);
    };

    with("version", 99.into());
    refuse(BAD_DATA, &[&backing, "99"]);
    let wrapped = token["wrapped_dek"].as_str().unwrap();
    with("wrapped_dek", wrapped[..wrapped.len() - 8].into());
    refuse(BAD_DATA, &[&backing]);
    with("wrapped_dek", "not base64!".into());
    refuse(BAD_DATA, &[&backing]);
    with("provider", "elsewhere".into());
    refuse(NOT_FOUND, &["elsewhere"]);
    with("kek_id", "00000000-0000-4000-8000-000000000000".into());
    refuse(NOT_FOUND, &["00000000-0000-4000-8000-000000000000"]);

    // Wrapped by another KEK: the token of a volume of another provider, with this one's names in it.
    host.blkseal(&["provider", "add", "native", "others", "--key-file", &host.path("key")]);
    let other = host.image("other", 32 << 20);
    host.create("other", &other, &["--provider", "others"]);
    let other: serde_json::Value =
        serde_json::from_str(&run(&format!("cryptsetup token export --token-id 0 {other}"))).unwrap();
    with("wrapped_dek", other["wrapped_dek"].clone());
    refuse(WRONG_KEY, &["KEK"]);

    run(&format!("cryptsetup token remove --token-id 0 {backing}"));
    refuse(BAD_DATA, &[&backing, "token"]);
    replace_token_unchecked(&backing, &good);
    host.blkseal(&["open", "token"]);
}

fn replace_token_unchecked(backing: &str, json: &str) {
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("printf %s '{json}' | cryptsetup token import --token-id 0 {backing}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn not_root() {
    let host = Host::start();
    let output = std::process::Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "blkseal",
            "daemon",
            "--socket",
            "/tmp/nobody.sock",
        ])
        .output()
        .unwrap();
    check(&["daemon"], &output, 77, &["root"]);
    run(&format!("chmod 755 {} {}", host.dir.path().display(), host.path("run")));
    let mut list = host.command(&["list"]);
    let socket = host.path("run/daemon.sock");
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "blkseal", "--socket", &socket, "list"])
        .output()
        .unwrap();
    check(&["list as nobody"], &output, 77, &["65534", "look"]);
    assert!(list.output().unwrap().status.success(), "root may");
}

#[test]
fn too_little_memory_may_be_locked() {
    let host = Host::start();
    for limit in ["0", "4096", "8192"] {
        let output = host
            .command_under(
                &["prlimit", &format!("--memlock={limit}:{limit}"), "setpriv", "--bounding-set=-ipc_lock"],
                &["provider", "unlock", "keys", "--key-file", &host.path("key")],
            )
            .output()
            .unwrap();
        check(&["unlock under a limit"], &output, 71, &["RLIMIT_MEMLOCK", limit, "ulimit -l"]);
    }
}

#[test]
fn no_ublk_in_the_kernel() {
    let host = Host::without_provider();
    run("modprobe -r ublk_drv");
    let mut daemon = host.command(&["daemon", "--socket", &host.path("second.sock")]);
    let output = daemon.env("BLKSEAL_RUN_DIR", host.path("run2")).output();
    run("modprobe ublk_drv");
    check(&["daemon"], &output.unwrap(), 72, &["ublk_drv", "CONFIG_BLK_DEV_UBLK", "ci/vm"]);
}
