mod memory;
mod native;
mod registry;
pub(crate) mod scan;
mod wrap;

use std::path::Path;
use std::sync::Arc;

use ublk_targets::secret::Secret;

use super::*;

/// Costs nothing: for tests that are not about the cost.
fn cheap() -> crate::provider::native::KdfCost {
    crate::provider::native::KdfCost::new(32, 1, 1).unwrap()
}

/// For registries whose key servers nobody watches.
pub(crate) fn unobserved() -> kmip::Observer {
    Arc::new(|_: &ProviderName, _: &kmip::KmipEvent| ())
}

fn secret(text: &[u8]) -> Secret {
    let mut secret = Secret::zeroed(text.len()).unwrap();
    secret.expose_mut().copy_from_slice(text);
    secret
}

fn name(text: &str) -> ProviderName {
    text.parse().unwrap()
}

fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn names_are_checked() {
    for good in ["a", "9", "prod-1.eu_west", &"x".repeat(64)] {
        assert!(good.parse::<ProviderName>().is_ok(), "{good}");
    }
    for bad in ["", "-a", ".a", "_a", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
        assert!(bad.parse::<ProviderName>().is_err(), "{bad}");
    }
    for good in ["1", "a/b", "{urn:1}", &"x".repeat(255)] {
        assert!(good.parse::<KekId>().is_ok(), "{good}");
    }
    for bad in ["", "a b", "a\u{7f}", "ä", &"x".repeat(256)] {
        assert!(bad.parse::<KekId>().is_err(), "{bad}");
    }
    let long = "ä".repeat(100_000).parse::<KekId>().unwrap_err().to_string();
    assert!(long.len() < 400, "{long}");
}
