//! `roles.toml`: the roles, and which users and groups have them.
//!
//! The file is read, and its users and groups are looked up, in a thread of its own: a name service may take its time, or never
//! answer. Calls wait for it for a moment after the file has changed, and go by the roles of before then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Group, User, geteuid};
use serde::Deserialize;

use super::privilege::Privilege;
use crate::control::{Failure, FailureKind, Peer};
use crate::name::Name;

const FILE_LIMIT: u64 = 1 << 20;
/// How long calls wait for a file that has changed to be read.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// When a file that could not be used is tried again, be it that users who are unknown now will be known then.
const RETRY: Duration = Duration::from_secs(10);

/// The roles that need no `privileges` in the file.
const SHIPPED: [(&str, &[Privilege]); 3] = [
    ("admin", &Privilege::ALL),
    ("no-crypto-admin", &[Privilege::Look, Privilege::Access]),
    ("auditor", &[Privilege::Look]),
];

type Privileges = BTreeSet<Privilege>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    role: BTreeMap<Name, Role>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    privileges: Option<Privileges>,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
}

/// What the roles come to, by the numbers of users and groups.
#[derive(Debug, Default)]
struct Grants {
    users: BTreeMap<u32, Privileges>,
    groups: BTreeMap<u32, Privileges>,
}

/// What tells one version of the file from another; none where there is no file.
type Version = Option<(u64, u64, i64, i64)>;

/// Which version of the file was read, and what it grants or what is wrong with it.
type Outcome = (Version, Result<Grants, String>);

/// The roles in force. The file is looked at before each call, so a change of it holds for the next one.
pub(super) struct Roles(Arc<Shared>);

struct Shared {
    path: PathBuf,
    read: Box<dyn Fn(&Path) -> Outcome + Send + Sync>,
    /// How long a call waits for a file that has changed.
    limit: Duration,
    state: Mutex<State>,
    was_read: Condvar,
}

#[derive(Default)]
struct State {
    /// What is in force; none before the first file that could be used.
    grants: Option<Arc<Grants>>,
    /// The version that was read last.
    version: Option<Version>,
    /// Why that one is not in force.
    problem: Option<String>,
    /// When it is to be read again although it has not changed.
    retry: Option<Instant>,
    /// Since when a thread reads it.
    reading: Option<Instant>,
    /// How reading it went, until somebody was told.
    untold: Option<Result<(), Failure>>,
}

impl Roles {
    /// The roles that `path` names; none if there is no such file. Where it cannot be used, or not within [`READ_LIMIT`],
    /// there are none until it can.
    pub fn load(path: PathBuf) -> Self {
        Self::load_by(path, Box::new(read), READ_LIMIT)
    }

    fn load_by(path: PathBuf, read: Box<dyn Fn(&Path) -> Outcome + Send + Sync>, limit: Duration) -> Self {
        let shared = Shared { path, read, limit, state: Mutex::default(), was_read: Condvar::new() };
        let roles = Self(Arc::new(shared));
        roles.look_again();
        roles
    }

    /// Takes the file as it is now, if it has changed, and says how that went. A malformed one changes nothing.
    pub fn refresh(&self) -> Option<Result<(), Failure>> {
        self.look_again();
        self.0.state().untold.take()
    }

    /// Has the file read if it has changed, and waits for that until the limit is over since the reading began.
    fn look_again(&self) {
        let version = version_of(fs::metadata(&self.0.path).ok().as_ref());
        let mut state = self.0.state();
        let has_changed = state.version != Some(version);
        if state.reading.is_none() && (has_changed || state.retry.is_some_and(|at| at <= Instant::now())) {
            self.start_reading(&mut state);
        }
        if let Some(since) = state.reading.filter(|_| has_changed) {
            let left = self.0.limit.saturating_sub(since.elapsed());
            drop(self.0.was_read.wait_timeout_while(state, left, |state| state.reading.is_some()));
        }
    }

    fn start_reading(&self, state: &mut State) {
        let shared = Arc::clone(&self.0);
        let reader = move || {
            let read = (shared.read)(&shared.path);
            shared.state().finish(&shared.path, read);
            shared.was_read.notify_all();
        };
        state.reading = Some(Instant::now());
        if let Err(error) = std::thread::Builder::new().name("roles".into()).spawn(reader) {
            state.finish(&self.0.path, (state.version.flatten(), Err(error.to_string())));
        }
    }

    /// Why the file as it is now is not in force, where that is so.
    pub fn problem(&self) -> Option<String> {
        let state = self.0.state();
        match state.reading.map(|since| since.elapsed()).filter(|time| *time >= self.0.limit) {
            Some(time) => {
                let problem =
                    format!("the users and groups in it have been looked for for {} s", time.as_secs());
                Some(state.unusable(&self.0.path, &problem).message)
            }
            None => state.problem.clone(),
        }
    }

    /// What the user behind `peer` may do. Root, and the user that the daemon runs as, may do everything, unless the
    /// file gives them roles of their own.
    pub fn privileges_of(&self, peer: &Peer) -> BTreeSet<Privilege> {
        let grants = self.0.state().grants.clone().unwrap_or_default();
        let Grants { users, groups } = &*grants;
        match users.get(&peer.uid) {
            None if peer.uid == 0 || peer.uid == geteuid().as_raw() => Privilege::ALL.into(),
            own => {
                let of_groups = peer.groups.iter().chain([&peer.gid]).filter_map(|gid| groups.get(gid));
                own.into_iter().chain(of_groups).flatten().copied().collect()
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes what was read from `path`.
    fn finish(&mut self, path: &Path, (version, grants): Outcome) {
        let is_first = self.version.is_none();
        let problem_before = self.problem.take();
        (self.version, self.reading, self.retry) = (Some(version), None, None);
        match grants {
            Ok(grants) => {
                self.grants = Some(Arc::new(grants));
                self.untold = (!is_first).then_some(Ok(()));
            }
            Err(problem) => {
                let failure = self.unusable(path, &problem);
                self.problem = Some(failure.message.clone());
                self.retry = Some(Instant::now() + RETRY);
                if self.problem != problem_before {
                    self.untold = Some(Err(failure));
                }
            }
        }
    }

    fn unusable(&self, path: &Path, problem: &str) -> Failure {
        let rest = match self.grants {
            Some(_) => "the roles of before stay in force",
            None => "until it can, only root may do anything",
        };
        Failure::new(FailureKind::Config, format!("{} cannot be used: {problem}; {rest}", path.display()))
            .hint("correct it; docs/ROLES.md shows how it is written")
    }
}

fn read(path: &Path) -> Outcome {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (None, Ok(Grants::default())),
        Err(error) => {
            return (version_of(fs::metadata(path).ok().as_ref()), Err(error.to_string()));
        }
    };
    (version_of(Some(&metadata)), content(&metadata, file).and_then(|text| grants(&text)))
}

fn content(metadata: &Metadata, file: File) -> Result<String, String> {
    if ![0, geteuid().as_raw()].contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
        return Err("others than root may write it".into());
    }
    let mut text = String::new();
    file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_LIMIT {
        Err(format!("it has more than {FILE_LIMIT} bytes"))
    } else {
        Ok(text)
    }
}

fn version_of(metadata: Option<&Metadata>) -> Version {
    metadata.map(|file| (file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}

fn grants(text: &str) -> Result<Grants, String> {
    let content: Content = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", before.split('\n').count(), error.message().replace('\n', " "))
    })?;
    let mut grants = Grants::default();
    for (name, role) in content.role {
        let privileges = privileges(&name, role.privileges)?;
        let said = |problem| format!("role {name}: {problem}");
        for user in &role.users {
            grants.users.entry(uid(user).map_err(said)?).or_default().extend(&privileges);
        }
        for group in &role.groups {
            grants.groups.entry(gid(group).map_err(said)?).or_default().extend(&privileges);
        }
    }
    Ok(grants)
}

fn privileges(name: &Name, given: Option<Privileges>) -> Result<Privileges, String> {
    let shipped = SHIPPED.iter().find(|(shipped, _)| *shipped == name.as_str());
    match (shipped, given) {
        (Some((_, privileges)), None) => Ok(privileges.iter().copied().collect()),
        (Some(_), Some(_)) => {
            Err(format!("role {name}: its privileges are fixed; give the role another name"))
        }
        (None, Some(privileges)) => Ok(privileges),
        (None, None) => Err(format!("role {name}: it has no privileges")),
    }
}

/// The number of a user, who is named or numbered.
fn uid(text: &str) -> Result<u32, String> {
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => text.parse().map_err(|_| format!("there is no user '{text}'")),
        Err(error) => Err(format!("cannot look for user '{text}': {error}")),
    }
}

/// The number of a group, which is named or numbered.
fn gid(text: &str) -> Result<u32, String> {
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => text.parse().map_err(|_| format!("there is no group '{text}'")),
        Err(error) => Err(format!("cannot look for group '{text}': {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// How long a test waits for what must come, on a slow machine too.
    const PATIENCE: Duration = Duration::from_secs(120);

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { uid, gid, groups: groups.to_vec(), pid: 1 }
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roles.toml");
        fs::write(&path, text).unwrap();
        (directory, path)
    }

    fn roles(text: &str) -> Roles {
        let (_directory, path) = file(text);
        Roles::load_by(path, Box::new(read), PATIENCE)
    }

    /// What is wrong with the file of the roles, which are in force for nobody.
    fn refused(roles: &Roles) -> Failure {
        assert!(privileges(roles, &peer(4001, 1, &[])).is_empty());
        assert_eq!(privileges(roles, &peer(0, 0, &[])), Privilege::ALL);
        let failure = roles.refresh().unwrap().unwrap_err();
        assert_eq!(roles.problem().as_ref(), Some(&failure.message));
        failure
    }

    fn privileges(roles: &Roles, peer: &Peer) -> Vec<Privilege> {
        roles.privileges_of(peer).into_iter().collect()
    }

    const ROLES: &str = "
        [role.admin]
        users = ['4001']
        [role.no-crypto-admin]
        groups = ['5001']
        [role.auditor]
        users = ['4002']
        groups = ['5002']
        [role.keeper]
        privileges = ['manage-keys']
        users = ['4002', '4003']
    ";

    #[test]
    fn users_and_groups_have_what_their_roles_give_together() {
        use Privilege::{Access, Look, ManageKeys};
        let roles = roles(ROLES);
        let nobodys = 1;
        assert_eq!(privileges(&roles, &peer(4001, nobodys, &[])), Privilege::ALL);
        assert_eq!(privileges(&roles, &peer(4002, nobodys, &[])), [Look, ManageKeys]);
        assert_eq!(privileges(&roles, &peer(4003, nobodys, &[])), [ManageKeys]);
        assert_eq!(privileges(&roles, &peer(4009, 5001, &[])), [Look, Access], "by the group of the process");
        assert_eq!(privileges(&roles, &peer(4009, nobodys, &[7, 5002])), [Look], "by a supplementary group");
        assert_eq!(privileges(&roles, &peer(4003, 5001, &[5002])), [Look, Access, ManageKeys]);
        assert!(privileges(&roles, &peer(4009, nobodys, &[4001, 4002])).is_empty(), "users are no groups");
        assert!(privileges(&roles, &peer(5001, nobodys, &[])).is_empty(), "groups are no users");
    }

    #[test]
    fn root_may_do_all_unless_the_file_names_root() {
        let own = geteuid().as_raw();
        let none = Roles::load("/nowhere/roles.toml".into());
        for uid in [0, own] {
            assert_eq!(privileges(&none, &peer(uid, 0, &[])), Privilege::ALL);
            assert_eq!(privileges(&roles(ROLES), &peer(uid, 0, &[])), Privilege::ALL);
            let named = roles(&format!("[role.auditor]\nusers = ['{uid}']"));
            assert_eq!(privileges(&named, &peer(uid, 0, &[])), [Privilege::Look]);
        }
        assert!(privileges(&none, &peer(own + 4711, 0, &[])).is_empty());
        let by_name = roles("[role.auditor]\nusers = ['root']\ngroups = ['root']");
        assert_eq!(privileges(&by_name, &peer(0, 1, &[])), [Privilege::Look]);
        assert_eq!(privileges(&by_name, &peer(4009, 0, &[])), [Privilege::Look]);
    }

    #[test]
    fn a_malformed_file_is_refused_with_one_line_that_names_what_is_wrong() {
        let cases = [
            ("[role", "line 1: "),
            ("\n\n[role.x]\nprivileges = ['fly']\n", "line 4: unknown variant `fly`, expected one of `look`"),
            ("[role.x]\nprivileges = ['look']\nsince = 1", "line 3: unknown field `since`"),
            ("[roles.x]\nusers = []", "unknown field `roles`"),
            ("[role.auditor]\nusers = 'root'", "line 2: "),
            ("[role.x]\nusers = ['root']", "role x: it has no privileges"),
            ("[role.admin]\nprivileges = ['look']", "role admin: its privileges are fixed"),
            ("[role.auditor]\nusers = ['no such user']", "role auditor: there is no user 'no such user'"),
            ("[role.auditor]\ngroups = ['-1']", "role auditor: there is no group '-1'"),
            ("[role.auditor]\nusers = ['4294967296']", "there is no user '4294967296'"),
            ("[role.auditor]\n[role.auditor]\n", "line 2: "),
            (&"#".repeat(FILE_LIMIT as usize + 1), "more than 1048576 bytes"),
        ];
        for (text, named) in cases {
            let (_directory, path) = file(text);
            let failure = refused(&Roles::load_by(path, Box::new(read), PATIENCE));
            assert_eq!(failure.kind, FailureKind::Config);
            assert!(failure.message.contains("roles.toml cannot be used: "), "{failure}");
            assert!(failure.message.contains(named), "{failure} does not say: {named}");
            assert!(failure.message.ends_with("; until it can, only root may do anything"), "{failure}");
            assert!(!failure.message.contains('\n') && failure.hint.is_some(), "{failure}");
        }
        let (_directory, path) = file(ROLES);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        let failure = refused(&Roles::load_by(path, Box::new(read), PATIENCE));
        assert!(failure.message.contains("others than root may write it"), "{failure}");
    }

    #[test]
    fn a_change_of_the_file_holds_at_once_and_a_malformed_one_changes_nothing() {
        let (_directory, path) = file("[role.auditor]\nusers = ['4001']");
        let roles = Roles::load_by(path.clone(), Box::new(read), PATIENCE);
        let user = peer(4001, 1, &[]);
        assert!(roles.refresh().is_none());
        fs::write(&path, "[role.auditor]\nusers = ['4001']\n[role.no-crypto-admin]\nusers = ['4001']")
            .unwrap();
        roles.refresh().unwrap().unwrap();
        assert_eq!(privileges(&roles, &user).len(), 2);

        fs::write(&path, "[role.auditor]\nusers = ['no such user']").unwrap();
        let failure = roles.refresh().unwrap().unwrap_err();
        assert!(failure.message.ends_with("; the roles of before stay in force"), "{failure}");
        assert_eq!(roles.problem(), Some(failure.message));
        assert_eq!(privileges(&roles, &user).len(), 2);
        assert!(roles.refresh().is_none(), "it is said once");

        fs::remove_file(&path).unwrap();
        roles.refresh().unwrap().unwrap();
        assert!(privileges(&roles, &user).is_empty() && roles.problem().is_none());
        assert!(roles.refresh().is_none());
    }

    #[test]
    fn a_file_that_becomes_usable_by_itself_comes_into_force() {
        let (_directory, path) = file(ROLES);
        let known = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_known = Arc::clone(&known);
        let read = move |path: &Path| match is_known.load(std::sync::atomic::Ordering::Relaxed) {
            true => read(path),
            false => (read(path).0, Err("there is no user 'carol'".into())),
        };
        let roles = Roles::load_by(path, Box::new(read), PATIENCE);
        refused(&roles);
        assert!(roles.refresh().is_none(), "it is said once");
        known.store(true, std::sync::atomic::Ordering::Relaxed);
        roles.0.state().retry = Some(Instant::now());
        roles.refresh();
        let state =
            roles.0.was_read.wait_timeout_while(roles.0.state(), PATIENCE, |state| state.reading.is_some());
        drop(state);
        assert_eq!(privileges(&roles, &peer(4001, 1, &[])), Privilege::ALL);
        assert!(roles.problem().is_none());
        roles.refresh().unwrap().unwrap();
    }

    #[test]
    fn a_name_service_that_does_not_answer_keeps_nobody_waiting() {
        let (_directory, path) = file(ROLES);
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let read = move |path: &Path| {
            let _ = wait.lock().unwrap().recv();
            read(path)
        };
        let roles = Roles::load_by(path, Box::new(read), Duration::ZERO);
        for _ in 0..1000 {
            assert!(roles.refresh().is_none());
            assert_eq!(privileges(&roles, &peer(0, 0, &[])), Privilege::ALL);
        }
        let problem = roles.problem().unwrap();
        assert!(
            problem.contains("looked for for ") && problem.ends_with("only root may do anything"),
            "{problem}"
        );
        drop(go_on);
        let state =
            roles.0.was_read.wait_timeout_while(roles.0.state(), PATIENCE, |state| state.reading.is_some());
        drop(state);
        assert_eq!(privileges(&roles, &peer(4001, 1, &[])), Privilege::ALL);
        assert!(roles.problem().is_none());
    }

    #[test]
    fn the_documentation_says_what_shipped_roles_give() {
        let page = include_str!("../../docs/ROLES.md");
        for (name, privileges) in SHIPPED {
            let names: Vec<String> = privileges.iter().map(|privilege| format!("`{privilege}`")).collect();
            let all = privileges.len() == Privilege::ALL.len();
            let given = if all { "all".into() } else { names.join(", ") };
            let row = format!("| `{name}` | {given}");
            let said = page
                .lines()
                .any(|line| line.starts_with(&row) && [" |", ": "].contains(&&line[row.len()..][..2]));
            assert!(said, "{row}");
        }
    }
}
