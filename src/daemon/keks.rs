//! What the daemon does with KEKs, and which volumes need them.

use std::collections::BTreeMap;

use super::Daemon;
use super::events::Action;
use super::providers::{provider_name, some_of};
use crate::control::{Failure, FailureKind, Kek, KekCreate, KekState, Keks};
use crate::luks;
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
        let mut uses = self.uses();
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
        Ok(Teller::new(&*provider)?.tell(&id, Some(&info), self.users_of(name, &id)))
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
        let _nobody_wraps =
            (change == KekChange::Destroy).then(|| self.wrapping.forbid(&name)).transpose()?;
        let volumes = self.users_of(name.clone(), &id);
        if change == KekChange::Destroy && !volumes.is_empty() {
            let message = format!("KEK {id} of key provider {name} wraps the keys of {}", some_of(&volumes));
            return Err(Failure::new(FailureKind::Busy, message)
                .hint("wrap them by another one first, with `blkseal rekey --kek`"));
        }
        // Of one that is destroyed a server may know nothing any more.
        let before = provider.kek(&id)?;
        let state = provider.change_kek(&id, change)?;
        Ok(Teller::new(&*provider)?.tell(&id, Some(&KekInfo { state, ..before }), volumes))
    }

    /// The known volumes whose DEK is wrapped by this KEK.
    fn users_of(&self, provider: ProviderName, id: &KekId) -> Vec<Name> {
        self.uses().remove(&(provider, id.clone())).unwrap_or_default()
    }

    /// The known volumes whose DEK is wrapped by any KEK of this provider.
    pub(super) fn volumes_of(&self, provider: &ProviderName) -> Vec<Name> {
        let uses = self.uses();
        let of_provider = uses.iter().filter(|((other, _), _)| other == provider);
        let mut volumes: Vec<Name> = of_provider.flat_map(|(_, volumes)| volumes.clone()).collect();
        volumes.sort();
        volumes
    }

    /// The KEKs of this provider that wrap the DEK of a known volume.
    pub(super) fn keks_in_use(&self, provider: &ProviderName) -> Vec<KekId> {
        self.uses().into_keys().filter(|(other, _)| other == provider).map(|(_, id)| id).collect()
    }

    /// Which KEK each known volume needs: what its header says, or, where that cannot be read, what it said last.
    fn uses(&self) -> Uses {
        let known: Vec<_> =
            self.volumes().iter().map(|(name, known)| (name.clone(), known.clone())).collect();
        let mut uses = Uses::new();
        for (name, known) in known {
            let header = luks::open(&known.place()).ok().filter(|header| header.uuid == known.uuid);
            let needed = match header {
                Some(header) => (header.token.provider, header.token.kek_id),
                None => (known.provider, known.kek_id),
            };
            uses.entry(needed).or_default().push(name);
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
