//! Calls of users who are not root.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::control::peer_tests::as_user;

const OPERATOR: u32 = 4001;
const AUDITORS: u32 = 5001;

const ROLES: &str = "
    [role.no-crypto-admin]
    users = ['4001']
    [role.auditor]
    groups = ['5001']
";

impl Host {
    pub fn with_roles(text: &str) -> Self {
        let mut host = Self::with_provider();
        host.create("vol", host.image("disk")).unwrap();
        host.set_roles(text);
        // Others may go through to the socket.
        fs::set_permissions(host.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        host
    }

    fn set_roles(&self, text: &str) {
        fs::write(self.path("etc/roles.toml"), text).unwrap();
    }

    /// What the daemon answers to a user with these groups.
    fn call_as<M: Method + Sync>(
        &self,
        uid: u32,
        groups: &[u32],
        method: &M,
    ) -> Option<Result<M::Reply, Failure>>
    where
        M::Reply: Send,
    {
        let socket = self.path("run/daemon.sock");
        as_user(uid, 4999, groups, || Client::connect(&socket).unwrap().call(method, &[]))
    }

    /// That the user is refused, and told what is missing.
    fn refuses<M: Method + Sync>(&self, uid: u32, groups: &[u32], method: &M, privilege: &str)
    where
        M::Reply: Send,
    {
        let Some(answer) = self.call_as(uid, groups, method) else { return };
        let failure = answer.err().expect(M::NAME);
        assert_eq!(failure.kind, FailureKind::NotPermitted, "{failure}");
        let said = format!("user {uid} has no role with the privilege {privilege}, which");
        assert!(failure.message.starts_with(&said) && failure.hint.is_some(), "{failure}");
    }
}

#[test]
fn users_may_do_what_their_roles_say_and_nothing_else() {
    let host = Host::with_roles(ROLES);
    let (open, close) =
        (Open { volume: "vol".into(), ..open_nothing() }, Close { volume: "vol".into(), force: false });
    let lock = ProviderLock { name: "office".parse().unwrap() };
    // Who has no role sees nothing, not even whether there is such a volume.
    for volume in ["vol", "nothing"] {
        host.refuses(4002, &[1, 2], &Status { volume: volume.into() }, "look");
        host.refuses(4002, &[1, 2], &Open { volume: volume.into(), ..open_nothing() }, "access");
    }
    host.refuses(OPERATOR, &[], &lock, "manage-keys");
    host.refuses(
        OPERATOR,
        &[],
        &RecoveryRemove { volume: "vol".into(), keyslot: None, force: false },
        "decrypt",
    );
    host.refuses(4002, &[AUDITORS], &open, "access");
    host.refuses(4002, &[AUDITORS], &close, "access");

    let Some(seen) = host.call_as(4002, &[7, AUDITORS], &List {}) else { return };
    assert_eq!(
        seen.unwrap().volumes[0].state,
        VolumeState::Unlocked,
        "no refused call has locked the provider"
    );
    let closed = host.call_as(OPERATOR, &[], &close).unwrap().unwrap_err();
    assert_eq!(closed.kind, FailureKind::NotFound, "it may, but the volume is not open: {closed}");
}

#[test]
fn to_open_a_volume_from_elsewhere_takes_a_privilege_of_its_own() {
    let mut host = Host::with_roles(ROLES);
    let image = host.path("disk").to_str().unwrap().to_owned();
    fs::remove_file(host.path("state/volumes.toml")).unwrap();
    host.restart();
    let open = Open { volume: image, ..open_nothing() };
    host.refuses(OPERATOR, &[], &open, "register");
    assert!(host.call(&List {}).unwrap().volumes.is_empty(), "nothing was learnt");
    host.set_roles("[role.finder]\nprivileges = ['access', 'register', 'look']\nusers = ['4001']");
    let Some(answer) = host.call_as(OPERATOR, &[], &open) else { return };
    assert_eq!(answer.unwrap_err().kind, FailureKind::Waiting);
    assert_eq!(host.call(&List {}).unwrap().volumes.len(), 1);
}

#[test]
fn a_malformed_file_keeps_the_old_roles_and_the_status_says_so() {
    let mut host = Host::with_roles(ROLES);
    host.refuses(OPERATOR, &[], &ProviderLock { name: "office".parse().unwrap() }, "manage-keys");
    host.set_roles("[role.admin]\nusers = ['4001', 'nobody in particular']");
    host.refuses(OPERATOR, &[], &ProviderLock { name: "office".parse().unwrap() }, "manage-keys");
    let problems = host.call(&GetVersion {}).unwrap().problems;
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("there is no user 'nobody in particular'; the roles of before"),
        "{problems:?}"
    );

    host.set_roles("[role.admin]\nusers = ['4001']");
    if let Some(answer) = host.call_as(OPERATOR, &[], &ProviderLock { name: "office".parse().unwrap() }) {
        assert_eq!(answer.unwrap().availability, Availability::Locked);
    }
    assert!(host.call(&GetVersion {}).unwrap().problems.is_empty());
}

#[test]
fn a_daemon_starts_on_a_malformed_file_and_serves_root_alone() {
    let mut host = Host::with_roles("[role.fliers]\nprivileges = ['fly']\nusers = ['4001']");
    host.restart();
    assert_eq!(host.call(&List {}).unwrap().volumes.len(), 1);
    host.refuses(OPERATOR, &[], &List {}, "look");
    let problems = host.call(&GetVersion {}).unwrap().problems;
    let said = "etc/roles.toml cannot be used: line 2: unknown variant `fly`";
    assert!(problems.len() == 1 && problems[0].contains(said), "{problems:?}");
    assert!(problems[0].ends_with("; until it can, only root may do anything"), "{problems:?}");
    host.set_roles(ROLES);
    if let Some(answer) = host.call_as(OPERATOR, &[], &List {}) {
        answer.unwrap();
    }
    assert!(host.call(&GetVersion {}).unwrap().problems.is_empty());
}

#[test]
fn to_tune_a_device_takes_a_privilege_of_its_own() {
    let host = Host::with_roles(ROLES);
    let tuned: [fn(&mut DeviceOptions); 8] = [
        |o| o.queues = Some(2),
        |o| o.threads = Some(2),
        |o| o.depth = Some(2),
        |o| o.max_io_bytes = Some(4096),
        |o| o.spin_us = Some(1),
        |o| o.cpu_path = Some("portable".into()),
        |o| o.allow_discards = true,
        |o| o.host = true,
    ];
    for tune in tuned {
        let mut open = Open { volume: "vol".into(), ..open_nothing() };
        tune(&mut open.options);
        host.refuses(OPERATOR, &[], &open, "tune");
    }
    let mut open = Open { volume: "vol".into(), ..open_nothing() };
    open.options.read_only = true;
    if let Some(answer) = host.call_as(OPERATOR, &[], &open) {
        answer.unwrap();
    }
}

fn open_nothing() -> Open {
    Open {
        volume: String::new(),
        name: None,
        header: None,
        options: DeviceOptions::default(),
        keep_trying: None,
    }
}
