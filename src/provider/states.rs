//! Where a KEK is in its life, and the ways from there (KMIP 1.4, 3.22).
//!
//! ```text
//!   PreActive --activate--> Active --revoke--> Deactivated --destroy--> Destroyed
//!       |                     |                    |                        |
//!       |            as compromised: from each of these, and then           | as compromised
//!       |                     +--------> Compromised --destroy--> DestroyedCompromised
//!       +--destroy--> Destroyed
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a KEK. Its numbers are those of KMIP (9.1.3.2.18), and those in a native provider's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum KekState {
    /// Made, and not used yet.
    PreActive = 1,
    /// Wraps and unwraps.
    Active = 2,
    /// Still unwraps what it wrapped, and must not wrap again.
    Deactivated = 3,
    /// As deactivated, and known or feared to be in other hands.
    Compromised = 4,
    /// Gone; its id is remembered.
    Destroyed = 5,
    /// Gone, after it had been compromised.
    DestroyedCompromised = 6,
}

/// Why a KEK is taken out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// It was used long enough: it becomes deactivated.
    Superseded,
    /// It is known or feared to be in other hands: it becomes compromised.
    Compromise,
}

/// What can be done with a KEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KekChange {
    /// Have it wrap from now on.
    Activate,
    /// Have it wrap no more.
    Revoke(Revocation),
    /// Make an end of it. What it wrapped is lost, wherever there is no other way to it.
    Destroy,
}

impl KekState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::PreActive,
        Self::Active,
        Self::Deactivated,
        Self::Compromised,
        Self::Destroyed,
        Self::DestroyedCompromised,
    ];

    /// Its number.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The state with that number.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// Whether a KEK in this state unwraps what it wrapped.
    pub fn unwraps(self) -> bool {
        matches!(self, Self::Active | Self::Deactivated | Self::Compromised)
    }

    /// Whether the volumes of a KEK in this state should get another one.
    pub fn is_out_of_use(self) -> bool {
        matches!(self, Self::Deactivated | Self::Compromised)
    }

    /// Whether nothing is left of a KEK in this state but its id.
    pub fn is_destroyed(self) -> bool {
        matches!(self, Self::Destroyed | Self::DestroyedCompromised)
    }

    /// The state after `change`; none where there is no such way. A change that is done already leads nowhere else.
    pub fn after(self, change: KekChange) -> Option<Self> {
        use KekChange::{Activate, Destroy, Revoke};
        match (self, change) {
            (Self::PreActive | Self::Active, Activate) => Some(Self::Active),
            (Self::Active | Self::Deactivated, Revoke(Revocation::Superseded)) => Some(Self::Deactivated),
            (Self::Destroyed | Self::DestroyedCompromised, Revoke(Revocation::Compromise)) => {
                Some(Self::DestroyedCompromised)
            }
            (_, Revoke(Revocation::Compromise)) => Some(Self::Compromised),
            (Self::PreActive | Self::Deactivated | Self::Destroyed, Destroy) => Some(Self::Destroyed),
            (Self::Compromised | Self::DestroyedCompromised, Destroy) => Some(Self::DestroyedCompromised),
            _ => None,
        }
    }
}

impl fmt::Display for KekState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreActive => "pre-active",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
            Self::Compromised => "compromised",
            Self::Destroyed => "destroyed",
            Self::DestroyedCompromised => "destroyed after a compromise",
        })
    }
}

impl fmt::Display for KekChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Activate => "activated",
            Self::Revoke(Revocation::Superseded) => "deactivated",
            Self::Revoke(Revocation::Compromise) => "declared compromised",
            Self::Destroy => "destroyed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// KMIP 1.4, 3.22, figure 1: for each state what Activate, Revoke, Revoke as compromised and Destroy lead to.
    #[test]
    fn states_change_as_kmip_has_it() {
        use KekState::{Active, Compromised, Deactivated, Destroyed, DestroyedCompromised, PreActive};
        let table = [
            (PreActive, [Some(Active), None, Some(Compromised), Some(Destroyed)]),
            (Active, [Some(Active), Some(Deactivated), Some(Compromised), None]),
            (Deactivated, [None, Some(Deactivated), Some(Compromised), Some(Destroyed)]),
            (Compromised, [None, None, Some(Compromised), Some(DestroyedCompromised)]),
            (Destroyed, [None, None, Some(DestroyedCompromised), Some(Destroyed)]),
            (DestroyedCompromised, [None, None, Some(DestroyedCompromised), Some(DestroyedCompromised)]),
        ];
        let changes = [
            KekChange::Activate,
            KekChange::Revoke(Revocation::Superseded),
            KekChange::Revoke(Revocation::Compromise),
            KekChange::Destroy,
        ];
        for (state, expected) in table {
            assert_eq!(changes.map(|change| state.after(change)), expected, "{state}");
        }
    }

    #[test]
    fn the_numbers_are_those_of_kmip() {
        assert_eq!(KekState::ALL.map(KekState::code), [1, 2, 3, 4, 5, 6]);
        assert_eq!(KekState::from_code(4), Some(KekState::Compromised));
        assert_eq!((KekState::from_code(0), KekState::from_code(7)), (None, None));
    }
}
