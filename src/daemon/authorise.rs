//! Who may do what. The one place where that is decided: [`RULES`] says what each method takes, `roles.toml` who has it.
//!
//! docs/ROLES.md shows the rules to people.

use std::collections::BTreeSet;

use super::privilege::Privilege;
use super::roles::Roles;
use crate::control::{
    Adopt, Close, Create, Erase, Events, Failure, FailureKind, Forget, GetVersion, KekActivate, KekCreate,
    KekDestroy, KekList, KekRevoke, KekShow, List, Method, Open, OpenTarget, Peer, Ping, ProviderAdd,
    ProviderAddKmip, ProviderCheck, ProviderList, ProviderLock, ProviderMeet, ProviderRemove, ProviderReseal,
    ProviderSet, ProviderSetDefault, ProviderUnlock, RecoveryAdd, RecoveryRemove, Rekey, Release, Status,
};

/// What a method takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    method: &'static str,
    /// What the method does, as the command line calls it.
    pub verb: &'static str,
    /// The privilege that its caller needs.
    pub privilege: Privilege,
}

/// What each method of `io.blkseal.Daemon` takes. What is not in here is refused to everybody.
///
/// To open a volume that this host does not know takes [`Privilege::Register`] besides, to choose how its device works
/// [`Privilege::Tune`]; to remove the passphrases of one that is adopted, [`Privilege::Decrypt`]; to let the KEK go of one that is
/// to be forgotten, [`Privilege::ManageKeys`].
const RULES: [Rule; 33] = [
    rule::<Ping>("ping", Privilege::Look),
    rule::<GetVersion>("status", Privilege::Look),
    rule::<ProviderAdd>("provider add", Privilege::ManageKeyServers),
    rule::<ProviderAddKmip>("provider add", Privilege::ManageKeyServers),
    rule::<ProviderMeet>("provider meet", Privilege::ManageKeyServers),
    rule::<ProviderSet>("provider set", Privilege::ManageKeyServers),
    rule::<ProviderCheck>("provider check", Privilege::Look),
    rule::<ProviderList>("provider list", Privilege::Look),
    rule::<ProviderRemove>("provider remove", Privilege::ManageKeyServers),
    rule::<ProviderSetDefault>("provider default", Privilege::ManageKeyServers),
    rule::<ProviderUnlock>("provider unlock", Privilege::ManageKeys),
    rule::<ProviderReseal>("provider passphrase", Privilege::ManageKeyServers),
    rule::<ProviderLock>("provider lock", Privilege::ManageKeys),
    rule::<KekList>("kek list", Privilege::Look),
    rule::<KekShow>("kek show", Privilege::Look),
    rule::<KekCreate>("kek create", Privilege::ManageKeys),
    rule::<KekActivate>("kek activate", Privilege::ManageKeys),
    rule::<KekRevoke>("kek revoke", Privilege::ManageKeys),
    rule::<KekDestroy>("kek destroy", Privilege::ManageKeys),
    rule::<Create>("create", Privilege::EncryptNew),
    rule::<Open>("open", Privilege::Access),
    rule::<OpenTarget>("study", Privilege::AddDisk),
    rule::<Close>("close", Privilege::Access),
    rule::<List>("list", Privilege::Look),
    rule::<Status>("status", Privilege::Look),
    rule::<Events>("events", Privilege::Look),
    rule::<RecoveryAdd>("recovery add", Privilege::Decrypt),
    rule::<RecoveryRemove>("recovery remove", Privilege::Decrypt),
    rule::<Rekey>("rekey", Privilege::Recrypt),
    rule::<Adopt>("adopt", Privilege::Encrypt),
    rule::<Release>("release", Privilege::Decrypt),
    rule::<Forget>("forget", Privilege::Register),
    rule::<Erase>("erase", Privilege::Decrypt),
];

const fn rule<M: Method>(verb: &'static str, privilege: Privilege) -> Rule {
    Rule { method: M::NAME, verb, privilege }
}

impl Rule {
    /// The rule of the method with this full name.
    pub fn of(method: &str) -> Result<Self, Failure> {
        RULES.into_iter().find(|rule| rule.method == method).ok_or_else(|| {
            Failure::new(FailureKind::NotPermitted, format!("no rule says who may call {method}"))
        })
    }
}

/// Who calls, and what that user may do.
pub(super) struct Caller {
    uid: u32,
    privileges: BTreeSet<Privilege>,
}

impl Caller {
    /// The caller behind `peer`, by the roles of now.
    pub fn new(peer: &Peer, roles: &Roles) -> Self {
        Self { uid: peer.uid, privileges: roles.privileges_of(peer) }
    }

    /// Fails unless the caller has `privilege`, which `what` takes.
    pub fn require(&self, privilege: Privilege, what: &str) -> Result<(), Failure> {
        if self.privileges.contains(&privilege) {
            return Ok(());
        }
        let message =
            format!("user {} has no role with the privilege {privilege}, which {what} takes", self.uid);
        Err(Failure::new(FailureKind::NotPermitted, message)
            .hint("run the command as root, or have root give you a role in roles.toml"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{DaemonCalls, Interface};

    #[test]
    fn every_method_of_the_interface_has_its_rule() {
        let ruled: Vec<&str> = RULES.iter().map(|rule| rule.method).collect();
        assert_eq!(ruled, DaemonCalls::METHODS);
        for line in DaemonCalls::DESCRIPTION.lines().filter_map(|line| line.strip_prefix("method ")) {
            let name = line.split('(').next().unwrap();
            assert!(Rule::of(&format!("io.blkseal.Daemon.{name}")).is_ok(), "{name}");
        }
        assert_eq!(Rule::of("io.blkseal.Daemon.Surprise").unwrap_err().kind, FailureKind::NotPermitted);
    }

    /// The documentation's table has a line a verb and a line a privilege, in the order of these.
    #[test]
    fn the_documentation_says_what_the_rules_say() {
        let page = include_str!("../../docs/ROLES.md");
        let rows = |heading: &str| -> Vec<Vec<String>> {
            let table = page.split(heading).nth(1).expect(heading);
            let lines = table.lines().skip(1).skip_while(|line| !line.starts_with('|'));
            let cells =
                |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            lines.take_while(|line| line.starts_with('|')).skip(2).map(cells).collect()
        };
        let mut verbs: Vec<[String; 2]> =
            RULES.iter().map(|rule| [format!("`{}`", rule.verb), format!("`{}`", rule.privilege)]).collect();
        verbs.retain(|[verb, _]| verb != "`ping`");
        verbs.sort();
        verbs.dedup();
        let mut said: Vec<[String; 2]> =
            rows("## Verbs").into_iter().map(|row| [row[0].clone(), row[1].clone()]).collect();
        said.sort();
        assert_eq!(said, verbs);

        let said: Vec<String> = rows("## Privileges").into_iter().map(|row| row[0].clone()).collect();
        assert_eq!(said, Privilege::ALL.map(|privilege| format!("`{privilege}`")));
    }
}
