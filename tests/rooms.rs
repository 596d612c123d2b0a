//! The order of rooms, where the compiler cannot hold it: modules of a crate may name each other as they like.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each room of the control plane may name of its own crate, from the top down. Tests may name more.
const CONTROL_PLANE: [(&str, &[&str]); 10] = [
    ("cli", &["control"]),
    // Starting the processes is the one thing that goes past the Varlink API.
    ("cli/daemon.rs", &["control", "daemon", "worker", "luks", "logging"]),
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
        .filter(|line| !line.starts_with('#'))
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

/// A crate's modules: the file of each, and what it passes on of others.
struct Modules {
    files: BTreeMap<Vec<String>, PathBuf>,
    /// `pub use`: where a name that a module passes on comes from.
    passed_on: BTreeMap<(Vec<String>, String), Vec<String>>,
}

impl Modules {
    fn of(source: &str) -> Self {
        let source = root(source);
        let path_of = |file: &PathBuf| {
            let inside = file.strip_prefix(&source).unwrap().with_extension("");
            let mut path: Vec<_> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            path.pop_if(|last| ["mod", "lib"].contains(&last.as_str()));
            path
        };
        let files = files(&source).into_iter().filter(|file| !file.ends_with("main.rs"));
        let files: BTreeMap<_, _> = files.map(|file| (path_of(&file), file)).collect();
        let mut modules = Self { files, passed_on: BTreeMap::new() };
        for (module, file) in &modules.files {
            for path in imports(&code(file)).1.iter().flat_map(|import| paths_at(import)) {
                let path = modules.absolute(module, &path);
                modules.passed_on.insert((module.clone(), path.last().unwrap().clone()), path);
            }
        }
        modules
    }

    /// `path` as `module` writes it, from the crate on.
    fn absolute(&self, module: &[String], path: &[String]) -> Vec<String> {
        let mut absolute = module.to_vec();
        for name in path {
            match name.as_str() {
                "crate" => absolute.clear(),
                "super" => drop(absolute.pop()),
                "self" => {}
                _ => absolute.push(name.clone()),
            }
        }
        absolute
    }

    /// The module that what stands at `path` is defined in.
    fn home(&self, path: &[String]) -> Vec<String> {
        let is_module = |length: &usize| self.files.contains_key(&path[..*length]);
        let module = &path[..(0..=path.len()).rev().find(is_module).unwrap()];
        let name = path.get(module.len()).cloned().unwrap_or_default();
        match self.passed_on.get(&(module.to_vec(), name)) {
            Some(origin) if origin != path => self.home(origin),
            _ => module.to_vec(),
        }
    }

    /// The modules whose items the code of `module` names.
    fn named_by(&self, module: &Vec<String>) -> BTreeSet<Vec<String>> {
        let code = imports(&code(&self.files[module])).0;
        let children =
            self.files.keys().filter(|other| other.len() == module.len() + 1 && other.starts_with(module));
        let starts = children.map(|child| child.last().unwrap().as_str()).chain(["crate", "super", "self"]);
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let mut named = BTreeSet::new();
        for start in starts {
            for (at, _) in code.match_indices(&format!("{start}::")) {
                if !code[..at].ends_with(is_name) {
                    let paths = paths_at(&code[at..]);
                    named.extend(paths.iter().map(|path| self.home(&self.absolute(module, path))));
                }
            }
        }
        named.remove(module);
        named
    }

    /// The modules that can be reached from themselves, by the file of each.
    fn in_circles(&self) -> BTreeSet<&Path> {
        let graph: BTreeMap<_, _> = self.files.keys().map(|module| (module, self.named_by(module))).collect();
        let is_in_circle = |module: &&Vec<String>| {
            let mut reached = BTreeSet::new();
            let mut next: Vec<_> = graph[module].iter().collect();
            while let Some(other) = next.pop() {
                if reached.insert(other) {
                    next.extend(&graph[other]);
                }
            }
            reached.contains(module)
        };
        self.files.keys().filter(is_in_circle).map(|module| self.files[module].as_path()).collect()
    }
}

/// Code without what it passes on, and the trees of names of that (`pub use` of any width).
fn imports(code: &str) -> (String, Vec<&str>) {
    let (mut rest, mut passed_on) = (String::new(), Vec::new());
    let mut left = code;
    while let Some(at) = left.find("pub") {
        let after = &left[at + 3..];
        let width = if after.starts_with('(') { after.find(')').map_or(0, |end| end + 1) } else { 0 };
        match after[width..].strip_prefix(" use ") {
            Some(tree) => {
                let end = tree.find(';').unwrap();
                passed_on.push(&tree[..end]);
                rest.push_str(&left[..at]);
                left = &tree[end..];
            }
            None => {
                rest.push_str(&left[..at + 3]);
                left = after;
            }
        }
    }
    (rest + left, passed_on)
}

/// The paths of the tree of names that `text` begins with: `a::b`, or `a::{b, c::{d, e}}`.
fn paths_at(text: &str) -> Vec<Vec<String>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    if let Some(group) = text.strip_prefix('{') {
        return top_level(group).iter().flat_map(|item| paths_at(item.trim())).collect();
    }
    let name: String = text.chars().take_while(|&c| is_name(c)).collect();
    let below = text[name.len()..].strip_prefix("::").map(paths_at).unwrap_or_default();
    match below.is_empty() {
        true if name.is_empty() => Vec::new(),
        true => vec![vec![name]],
        false => below.into_iter().map(|path| [vec![name.clone()], path].concat()).collect(),
    }
}

/// Rooms with circles of files that nobody has broken yet.
const CIRCULAR: [&str; 4] = ["src/cli", "src/daemon", "src/luks", "src/provider"];

#[test]
fn no_files_name_each_other_in_a_circle() {
    for source in ["src", "ublk-targets/src"] {
        let modules = Modules::of(source);
        let circles: Vec<_> = modules
            .in_circles()
            .into_iter()
            .filter(|file| !CIRCULAR.iter().any(|room| file.starts_with(root(room))))
            .collect();
        assert!(circles.is_empty(), "these files name each other in a circle: {circles:#?}");
    }
}

#[test]
fn paths_are_found_in_every_form() {
    let paths = |text| paths_at(text).iter().map(|path| path.join(".")).collect::<Vec<_>>();
    assert_eq!(paths("super::a::B;"), ["super.a.B"]);
    assert_eq!(
        paths("crate::{a, b::{C, d::E as F}, self}; x::y"),
        ["crate.a", "crate.b.C", "crate.b.d.E", "crate.self"]
    );
    assert_eq!(paths("a::b::<C>(d)"), ["a.b"]);
    let (rest, passed_on) = imports("pub use a::B;\nuse c::D;\npub(super) use e::{F, G};\npub fn h() {}");
    assert_eq!(rest, ";\nuse c::D;\n;\npub fn h() {}");
    assert_eq!(passed_on, ["a::B", "e::{F, G}"]);
}

#[test]
fn names_are_found_in_every_form() {
    let code = "use crate::a;\nuse crate::{b, c::{d, e}, self as f};\nlet x = crate::g::h(mycrate::i);";
    let names: Vec<_> = named(code, "crate::").into_iter().collect();
    assert_eq!(names, ["a", "b", "c", "g", "self"]);
}
