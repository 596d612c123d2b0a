//! The order of rooms, where the compiler cannot hold it: modules of a crate may name each other as they like.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room of the control plane may name of its own crate, from the top down. Tests may name more.
const CONTROL_PLANE: [(&str, &[&str]); 10] = [
    ("cli", &["control"]),
    // Starting the processes is the one thing that goes past the Varlink API.
    ("cli/daemon.rs", &["control", "daemon", "worker"]),
    (
        "daemon",
        &[
            "control",
            "volume",
            "luks",
            "provider",
            "atomic_file",
            "capabilities",
            "failures",
            "identity",
            "logging",
            "name",
            "seccomp",
        ],
    ),
    ("worker", &["control", "luks", "capabilities", "holders", "identity", "logging", "seccomp"]),
    // What the errors of the rooms below are to a user; `?` brings them here.
    ("failures.rs", &["control", "volume", "luks", "provider", "name"]),
    ("control", &["identity", "name"]),
    ("volume", &["luks", "provider", "atomic_file", "holders", "identity", "name"]),
    ("luks", &["provider", "atomic_file", "holders", "identity"]),
    ("provider", &["atomic_file"]),
    ("holders", &["identity"]),
];

/// The same of the data plane.
const DATA_PLANE: [(&str, &[&str]); 10] = [
    ("device", &["queue", "target", "request", "stats", "ring"]),
    ("queue", &["target", "request", "buffer", "stats", "ring"]),
    ("target", &["backing", "request", "buffer", "cipher", "ring"]),
    ("backing.rs", &["request", "buffer", "cipher", "ring"]),
    ("request.rs", &["cipher"]),
    ("buffer.rs", &[]),
    ("stats.rs", &["request"]),
    ("cipher", &["secret"]),
    ("secret", &[]),
    ("ring", &[]),
];

/// Rust files of `place`, a file or a directory, but those that hold tests.
fn files(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    let kept =
        entries.filter(|path| !["tests", "tests.rs"].contains(&path.file_name().unwrap().to_str().unwrap()));
    kept.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// The code of a file, without comments and without a module of tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first names of all paths that begin with `prefix`, in code: `prefix::name` and `prefix::{name, name}`.
fn named(code: &str, prefix: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let name = |text: &str| text.trim().chars().take_while(|&c| is_name(c)).collect::<String>();
    let paths = code.match_indices(prefix).filter(|(at, _)| !code[..*at].ends_with(is_name));
    paths
        .flat_map(|(at, _)| match code[at + prefix.len()..].strip_prefix('{') {
            Some(group) => top_level(group).iter().map(|&item| name(item)).collect(),
            None => vec![name(&code[at + prefix.len()..])],
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// The items of a group up to its end, those of groups within it left out.
fn top_level(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    items
}

fn root(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn check(source: &str, rooms: &[(&str, &[&str])]) {
    for &(room, allowed) in rooms {
        let own = room.trim_end_matches(".rs");
        for file in files(&root(source).join(room)) {
            // A file with a rule of its own is not judged by that of its directory.
            if rooms.iter().any(|&(other, _)| other.len() > room.len() && file.ends_with(other)) {
                continue;
            }
            for name in named(&code(&file), "crate::") {
                assert!(name == own || allowed.contains(&name.as_str()), "{}: names {name}", file.display());
            }
        }
    }
}

#[test]
fn each_room_of_the_control_plane_names_those_below_it() {
    check("src", &CONTROL_PLANE);
}

#[test]
fn each_room_of_the_data_plane_names_those_below_it() {
    check("ublk-targets/src", &DATA_PLANE);
}

/// What else it could do without the daemon.
#[test]
fn the_command_line_names_paths_and_secrets_of_the_data_plane_only() {
    for file in files(&root("src/cli")) {
        for name in named(&code(&file), "ublk_targets::") {
            assert!(["cipher", "secret"].contains(&name.as_str()), "{}: names {name}", file.display());
        }
    }
}

#[test]
fn libraries_are_named_in_their_rooms_only() {
    let sources = ["src", "ublk-targets/src"];
    for (library, rooms) in [
        ("libublk", &["ublk-targets/src/device", "ublk-targets/src/queue", "ublk-targets/src/ring"][..]),
        ("libcryptsetup_rs", &["src/luks"]),
        ("libblkid_rs", &["src/luks"]),
        ("rustls", &["src/provider/kmip"]),
    ] {
        let rooms: Vec<_> = rooms.iter().map(|room| root(room)).collect();
        let mut used = false;
        for file in sources.iter().flat_map(|source| files(&root(source))) {
            let names = !named(&code(&file), &format!("{library}::")).is_empty();
            used |= names;
            assert!(
                !names || rooms.iter().any(|room| file.starts_with(room)),
                "{}: {library}",
                file.display()
            );
        }
        assert!(used, "nobody names {library}: is it called something else?");
    }
}

/// By Cargo it cannot name the control plane's crate; what else would let it reach what that reaches.
#[test]
fn the_data_plane_has_nothing_to_reach_the_network_or_headers_with() {
    let manifest = fs::read_to_string(root("ublk-targets/Cargo.toml")).unwrap();
    let section = manifest.split("\n[").find_map(|section| section.strip_prefix("dependencies]\n")).unwrap();
    let dependencies: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .collect();
    let known = ["aes", "io-uring", "libc", "libublk", "log", "nix", "serde", "smol", "thiserror"];
    assert_eq!(dependencies, BTreeSet::from(known));
    for file in files(&root("ublk-targets/src")) {
        let code = code(&file);
        for reach in ["std::net", "smol::net", "std::process::Command", "UnixStream"] {
            assert!(!code.contains(reach), "{}: {reach}", file.display());
        }
    }
}

#[test]
fn names_are_found_in_every_form() {
    let code = "use crate::a;\nuse crate::{b, c::{d, e}, self as f};\nlet x = crate::g::h(mycrate::i);";
    let names: Vec<_> = named(code, "crate::").into_iter().collect();
    assert_eq!(names, ["a", "b", "c", "g", "self"]);
}
