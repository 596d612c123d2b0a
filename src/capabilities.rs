//! Giving up what of root's power a process has no use for (capabilities(7)).

use std::collections::HashSet;

use caps::errors::CapsError;
use caps::{CapSet, Capability};

/// From now on this process, and every process that it starts, has no capability but those of `kept` that it has now.
/// Needs `CAP_SETPCAP`.
pub fn keep_only(kept: &[Capability]) -> Result<(), CapsError> {
    for capability in caps::read(None, CapSet::Bounding)? {
        if !kept.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: HashSet<_> = kept.iter().copied().filter(|capability| permitted.contains(capability)).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &HashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}
