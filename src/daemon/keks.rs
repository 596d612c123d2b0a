//! What the daemon does with KEKs, and which volumes need them.

use std::collections::{BTreeMap, BTreeSet};

use super::Daemon;
use super::events::Action;
use super::providers::{provider_name, some_of};
use crate::control::{Failure, FailureKind, Kek, KekCreate, KekState, Keks};
use crate::luks::Header;
use crate::name::Name;
use crate::provider::kmip::date;
use crate::provider::{self, KekChange, KekId, KekInfo, KeyProvider, ProviderName};

/// The volumes that each KEK is needed by.
type Uses = BTreeMap<(ProviderName, KekId), Vec<Name>>;

impl Daemon {
    /// The KEKs of one provider, or of all; of all, what is wrong with one does not hide the others.
    pub(super) fn kek_list(&self, name: Option<&Name>) -> Result<Keks, Failure> {
        let names: Vec<ProviderName> = match name {
            Some(name) => vec![provider_name(name)?],
            None => self.providers().list().into_iter().map(|summary| summary.name).collect(),
        };
        let mut uses = self.uses(&self.headers());
        let mut answer = Keks { keks: Vec::new(), problems: Vec::new() };
        for provider in &names {
            match self.keks_of(provider, &mut uses) {
                Ok(keks) => answer.keks.extend(keks),
                Err(failure) if name.is_some() => return Err(failure),
                Err(failure) => answer.problems.push(failure.message),
            }
        }
        Ok(answer)
    }

    /// The provider's KEKs, then those that volumes need and it does not list.
    fn keks_of(&self, name: &ProviderName, uses: &mut Uses) -> Result<Vec<Kek>, Failure> {
        let provider = self.providers().get(name)?;
        let listed = provider.list_keks()?;
        let teller = Teller::new(&*provider)?;
        let mut keks = Vec::new();
        for info in &listed {
            let volumes = uses.remove(&(name.clone(), info.id.clone())).unwrap_or_default();
            keks.push(teller.tell(&info.id, Some(info), volumes));
        }
        for ((_, id), volumes) in uses.iter().filter(|((other, _), _)| other == name) {
            keks.push(teller.tell(id, provider.kek(id).ok().as_ref(), volumes.clone()));
        }
        Ok(keks)
    }

    pub(super) fn kek_show(&self, name: &Name, id: &str) -> Result<Kek, Failure> {
        let (name, id) = (provider_name(name)?, kek_id(id)?);
        let provider = self.providers().get(&name)?;
        let info = provider.kek(&id)?;
        let volumes = self.users_of(name, &id, &self.headers());
        Ok(Teller::new(&*provider)?.tell(&id, Some(&info), volumes))
    }

    pub(super) fn kek_create(&self, call: &KekCreate, action: &mut Action) -> Result<Kek, Failure> {
        let provider = self.provider_or_default(call.provider.as_ref())?;
        action.provider = Some(provider.name().to_string());
        let id = if call.inactive { provider.create_inactive_kek() } else { provider.create_kek() }?;
        action.kek_id = Some(id.to_string());
        Ok(Teller::new(&*provider)?.tell(&id, provider.kek(&id).ok().as_ref(), Vec::new()))
    }

    /// Changes a KEK's state. One that a known volume needs is not destroyed.
    pub(super) fn kek_change(&self, name: &Name, id: &str, change: KekChange) -> Result<Kek, Failure> {
        let (name, id) = (provider_name(name)?, kek_id(id)?);
        let provider = self.providers().get(&name)?;
        // Before, for a disk that does not answer keeps nobody from wrapping.
        let headers = self.headers();
        let _nobody_wraps =
            (change == KekChange::Destroy).then(|| self.wrapping.forbid(&name)).transpose()?;
        let volumes = self.users_of(name.clone(), &id, &headers);
        if change == KekChange::Destroy && !volumes.is_empty() {
            let message = format!("KEK {id} of key provider {name} wraps the keys of {}", some_of(&volumes));
            return Err(Failure::new(FailureKind::Busy, message)
                .hint("wrap them by another one first, with `blkseal rekey --kek`"));
        }
        if change == KekChange::Destroy {
            let what = format!("KEK {id} of key provider {name} wraps the keys");
            self.check_no_forgotten_needs(&what, |other| (&other.provider, &other.kek_id) == (&name, &id))?;
        }
        // Of one that is destroyed a server may know nothing any more.
        let before = provider.kek(&id)?;
        let state = provider.change_kek(&id, change)?;
        Ok(Teller::new(&*provider)?.tell(&id, Some(&KekInfo { state, ..before }), volumes))
    }

    /// The known volumes whose DEK is wrapped by this KEK.
    fn users_of(&self, provider: ProviderName, id: &KekId, headers: &BTreeMap<Name, Header>) -> Vec<Name> {
        self.uses(headers).remove(&(provider, id.clone())).unwrap_or_default()
    }

    /// The known volumes whose DEK is wrapped by any KEK of this provider; `headers` are as [`Daemon::headers`] gave them.
    pub(super) fn volumes_of(&self, provider: &ProviderName, headers: &BTreeMap<Name, Header>) -> Vec<Name> {
        let uses = self.uses(headers);
        let of_provider = uses.iter().filter(|((other, _), _)| other == provider);
        let mut volumes: Vec<Name> = of_provider.flat_map(|(_, volumes)| volumes.clone()).collect();
        volumes.sort();
        volumes
    }

    /// The KEKs of this provider that wrap the DEK of a known volume.
    pub(super) fn keks_in_use(&self, provider: &ProviderName) -> Vec<KekId> {
        self.uses(&self.headers())
            .into_keys()
            .filter(|(other, _)| other == provider)
            .map(|(_, id)| id)
            .collect()
    }

    /// Which KEK each known volume needs: what its header says, and, should the header have changed since it was looked at, or
    /// not be to be had, what it said last.
    fn uses(&self, headers: &BTreeMap<Name, Header>) -> Uses {
        let mut uses = Uses::new();
        for (name, known) in self.volumes().iter() {
            let header = headers.get(name).filter(|header| header.uuid == known.uuid);
            let seen = header.map(|header| (header.token.provider.clone(), header.token.kek_id.clone()));
            let remembered = (known.provider.clone(), known.kek_id.clone());
            for needed in BTreeSet::from_iter(seen.into_iter().chain([remembered])) {
                uses.entry(needed).or_default().push(name.clone());
            }
        }
        uses
    }
}

/// Makes messages about the KEKs of one provider.
struct Teller {
    provider: Name,
    current: Option<KekId>,
}

impl Teller {
    fn new(provider: &dyn KeyProvider) -> Result<Self, Failure> {
        let name = provider.name().as_str().parse();
        let name = name.map_err(|error| Failure::from_error(FailureKind::Config, &error))?;
        Ok(Self { provider: name, current: provider.wrapping_kek() })
    }

    fn tell(&self, id: &KekId, info: Option<&KekInfo>, volumes: Vec<Name>) -> Kek {
        Kek {
            provider: self.provider.clone(),
            kek_id: id.to_string(),
            state: info.map(|info| state(info.state)),
            created: info.map(|info| date(info.created)),
            is_current: self.current.as_ref() == Some(id),
            volumes,
        }
    }
}

fn state(state: provider::KekState) -> KekState {
    match state {
        provider::KekState::PreActive => KekState::PreActive,
        provider::KekState::Active => KekState::Active,
        provider::KekState::Deactivated => KekState::Deactivated,
        provider::KekState::Compromised => KekState::Compromised,
        provider::KekState::Destroyed => KekState::Destroyed,
        provider::KekState::DestroyedCompromised => KekState::DestroyedCompromised,
    }
}

pub(super) fn kek_id(text: &str) -> Result<KekId, Failure> {
    text.parse().map_err(|error| Failure::from_error(FailureKind::InvalidArgument, &error))
}
