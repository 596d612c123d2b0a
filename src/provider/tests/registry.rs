use std::fs;

use super::*;
use crate::provider::native::NativeProvider;

fn registry(directory: &tempfile::TempDir) -> Registry {
    Registry::load(directory.path(), &unobserved()).unwrap()
}

fn add(registry: &Registry, provider: &str) {
    registry.add_native(name(provider), None, &secret(b"passphrase"), cheap()).unwrap();
}

fn names_and_default(registry: &Registry) -> Vec<(String, bool)> {
    registry.list().into_iter().map(|summary| (summary.name.to_string(), summary.is_default)).collect()
}

#[test]
fn providers_survive_a_restart_locked() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(&directory);
    assert!(matches!(registry.default_provider().err(), Some(ProviderError::NoDefault)));
    add(&registry, "one");
    add(&registry, "two");
    assert_eq!(names_and_default(&registry), [("one".into(), true), ("two".into(), false)]);
    assert_eq!(registry.get(&name("two")).unwrap().availability(), Availability::Ready);
    registry.set_default(&name("two")).unwrap();
    let again = Registry::load(directory.path(), &unobserved()).unwrap();
    assert_eq!(names_and_default(&again), [("one".into(), false), ("two".into(), true)]);
    let provider = again.default_provider().unwrap();
    assert_eq!((provider.name(), provider.kind()), (&name("two"), ProviderKind::Native));
    assert_eq!(provider.availability(), Availability::Locked);
    assert_eq!(mode_of(&directory.path().join("providers.toml")), 0o600);
}

#[test]
fn a_removed_provider_leaves_its_keys_and_can_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(&directory);
    add(&registry, "one");
    let provider = registry.get(&name("one")).unwrap();
    let id = provider.create_kek().unwrap();
    registry.remove(&name("one")).unwrap();
    assert_eq!(provider.availability(), Availability::Locked, "removing locks what others still hold");
    assert!(registry.list().is_empty());
    assert!(matches!(registry.default_provider().err(), Some(ProviderError::NoDefault)));
    let file = directory.path().join("one.keys");
    let wrong = registry.add_native(name("back"), Some(file.clone()), &secret(b"wrong"), cheap());
    assert!(matches!(wrong, Err(ProviderError::WrongSecret(_))));
    assert!(registry.list().is_empty());
    registry.add_native(name("back"), Some(file), &secret(b"passphrase"), cheap()).unwrap();
    registry.get(&name("back")).unwrap().fetch_kek(&id).unwrap();
}

#[test]
fn taken_and_unknown_names_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(&directory);
    add(&registry, "one");
    let before = fs::read(directory.path().join("providers.toml")).unwrap();
    let again = registry.add_native(name("one"), None, &secret(b"passphrase"), cheap());
    assert!(matches!(again, Err(ProviderError::NameTaken(_))));
    assert!(matches!(registry.remove(&name("no")), Err(ProviderError::UnknownProvider(_))));
    assert!(matches!(registry.set_default(&name("no")), Err(ProviderError::UnknownProvider(_))));
    assert!(matches!(registry.get(&name("no")).err(), Some(ProviderError::UnknownProvider(_))));
    assert_eq!(fs::read(directory.path().join("providers.toml")).unwrap(), before);
}

#[test]
fn a_bad_settings_file_is_named_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("providers.toml");
    let bad = [
        "default = \"one\"",
        "[provider.one]\nkind = \"paper\"\nfile = \"/x\"",
        "[provider.one]\nkind = \"native\"\nfile = \"/x\"\nmore = 1",
        "[provider.\"-one\"]\nkind = \"native\"\nfile = \"/x\"",
        "no toml",
    ];
    for text in bad {
        fs::write(&path, text).unwrap();
        let error = Registry::load(directory.path(), &unobserved()).err().unwrap();
        assert!(
            matches!(&error, ProviderError::Damaged { path: named, .. } if *named == path),
            "{text}: {error}"
        );
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_missing_key_file_makes_one_provider_unavailable_only() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(&directory);
    add(&registry, "one");
    add(&registry, "two");
    fs::remove_file(directory.path().join("one.keys")).unwrap();
    let again = Registry::load(directory.path(), &unobserved()).unwrap();
    let states: Vec<_> = again.list().into_iter().map(|summary| summary.availability).collect();
    assert_eq!(states, [Availability::Unavailable, Availability::Locked]);
    let native = NativeProvider::new(name("one"), directory.path().join("one.keys"));
    assert!(matches!(native.unlock(&secret(b"x")), Err(ProviderError::File { .. })));
}
