//! Servers of one cluster that do not say the same of a key.

use blkseal::luks::{FormatOptions, Place};
use blkseal::provider::kmip::KmipEvent;
use blkseal::provider::kmip::messages::Operation;
use blkseal::provider::{KekState, KeyProvider, ProviderError, wrap};
use blkseal::volume::{self, VolumeError};
use ublk_targets::secret::Dek;

use crate::support::message::{PERMISSION, address, asks_for, number, refusal, replace, with_other_material};
use crate::support::{Behaviour, Client, FakeServer, Pki, PyKmip, config};

/// A server before the one at `port` that gives another key under the right id.
fn wrong_key(pki: &Pki, port: u16) -> FakeServer {
    FakeServer::start(pki, &pki.leaf_of("server"), Behaviour::Tamper(port, with_other_material))
}

fn place(pki: &Pki) -> Place {
    let image = pki.path("image");
    std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
    Place::attached(image)
}

#[test]
fn a_kek_that_does_not_fit_is_passed_over_for_the_next_servers() {
    let pki = Pki::new();
    let mut good = PyKmip::start(&pki, "keys");
    let fake = wrong_key(&pki, good.port);
    let owner = Client::new(config(&pki, &[good.port]));
    let header =
        volume::create(&place(&pki), &FormatOptions::default(), &owner.provider, None, |_, _| Ok(()))
            .unwrap();
    let id = header.token.kek_id.clone();

    let client = Client::new(config(&pki, &[fake.port, good.port]));
    volume::unlock(&header, &client.provider).unwrap();
    let events = client.events();
    let passed_over = matches!(&events[0], KmipEvent::ServerFailed { server, why }
        if *server == address(fake.port) && why.contains("the KEK that it gives does not fit"));
    assert!(passed_over, "{events:?}");
    assert_eq!(events[1..], [KmipEvent::KeyFetched { id: id.clone(), server: address(good.port) }]);
    good.stop();
    volume::unlock(&header, &client.provider).unwrap();

    let alone = Client::new(config(&pki, &[fake.port]));
    good.restart();
    let error = volume::unlock(&header, &alone.provider).err().unwrap();
    assert!(matches!(&error, VolumeError::Unwrap { kek_id, .. } if *kek_id == id), "{error}");
    assert!(!alone.provider.holds_kek(&id), "what fits nothing is not kept");
    assert_eq!(alone.events(), []);
}

#[test]
fn a_wrong_kek_in_memory_gives_way_to_the_right_one() {
    let pki = Pki::new();
    let mut good = PyKmip::start(&pki, "keys");
    let fake = wrong_key(&pki, good.port);
    let mut second = PyKmip::start(&pki, "keys");
    let owner = Client::new(config(&pki, &[good.port]));
    let id = owner.provider.create_kek().unwrap();
    let (kek, dek) = (owner.provider.fetch_kek(&id).unwrap(), Dek::generate().unwrap());
    let wrapped = wrap::wrap(&kek, &dek).unwrap();

    let client = Client::new(config(&pki, &[fake.port, second.port]));
    second.stop();
    assert!(client.provider.fetch_kek(&id).unwrap().expose() != kek.expose(), "nobody contradicts");
    second.restart();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    client.events();
    assert!(client.provider.unwrap_dek(&id, &wrapped).unwrap().expose() == dek.expose());
    let events = client.events();
    assert!(events.contains(&KmipEvent::KeyDropped(id.clone())), "{events:?}");
    let fetched = KmipEvent::KeyFetched { id: id.clone(), server: address(second.port) };
    assert!(events.contains(&fetched), "{events:?}");

    // The right one is not given up for something that is damaged.
    good.stop();
    second.stop();
    let mut damaged = wrapped;
    damaged[3] ^= 1;
    let error = client.provider.unwrap_dek(&id, &damaged).err().unwrap();
    assert!(matches!(error, ProviderError::Wrap(wrap::WrapError::OtherKek)), "{error}");
    assert!(client.provider.unwrap_dek(&id, &wrapped).unwrap().expose() == dek.expose());
}

#[test]
fn nothing_is_wrapped_by_a_kek_that_another_server_gives_otherwise() {
    let pki = Pki::new();
    let good = PyKmip::start(&pki, "keys");
    let fake = wrong_key(&pki, good.port);
    let client = Client::new(config(&pki, &[fake.port, good.port]));
    let place = place(&pki);
    let error = volume::create(&place, &FormatOptions::default(), &client.provider, None, |_, _| Ok(()))
        .err()
        .unwrap();
    let VolumeError::Provider(error @ ProviderError::KeksDiffer { id, .. }) = &error else {
        panic!("{error}")
    };
    let text = error.to_string();
    assert!([fake.port, good.port].iter().all(|port| text.contains(&port.to_string())), "{text}");
    assert!(error.hint().unwrap().contains("one cluster"));
    assert!(!client.provider.holds_kek(id));
    let image = std::fs::read(&place.backing).unwrap();
    assert!(image.iter().all(|&byte| byte == 0), "nothing was written");
}

#[test]
fn a_key_in_a_wrong_state_at_one_server_is_had_from_another() {
    let pki = Pki::new();
    let good = PyKmip::start(&pki, "keys");
    let id = Client::new(config(&pki, &[good.port])).provider.create_kek().unwrap();
    let with_state = |state: KekState| {
        FakeServer::before(&pki, good.port, move |request, ask| {
            let mut answer = ask(request);
            let state_of = |state: KekState| number([0x00, 0x0b], 5, state.code() as u8);
            if asks_for(request, Operation::GetAttributes) {
                replace(&mut answer, &state_of(KekState::Active), &state_of(state));
            }
            Some(answer)
        })
    };
    for (state, word) in [(KekState::PreActive, "pre-active"), (KekState::Destroyed, "destroyed")] {
        let fake = with_state(state);
        let client = Client::new(config(&pki, &[fake.port, good.port]));
        client.provider.fetch_kek(&id).unwrap();
        assert_eq!(client.provider.known_state(&id), Some(KekState::Active));
        let events = client.events();
        let told = matches!(&events[0], KmipEvent::ServerFailed { server, why }
            if *server == address(fake.port) && why.contains(word));
        assert!(told, "{events:?}");

        let alone = Client::new(config(&pki, &[fake.port]));
        let error = alone.provider.fetch_kek(&id).err().unwrap();
        match state {
            KekState::PreActive => assert!(matches!(error, ProviderError::KekUnusable { .. }), "{error}"),
            _ => assert!(matches!(error, ProviderError::KekGone { .. }), "{error}"),
        }
        assert_eq!(alone.provider.known_state(&id), Some(state));
    }
}

#[test]
fn what_one_server_does_not_permit_another_may() {
    let pki = Pki::new();
    let good = PyKmip::start(&pki, "keys");
    let id = Client::new(config(&pki, &[good.port])).provider.create_kek().unwrap();
    let strict = FakeServer::before(&pki, good.port, |request, ask| {
        Some(match asks_for(request, Operation::Get) {
            true => refusal(Operation::Get, PERMISSION),
            false => ask(request),
        })
    });
    let client = Client::new(config(&pki, &[strict.port, good.port]));
    client.provider.fetch_kek(&id).unwrap();
    let events = client.events();
    assert!(
        matches!(&events[0], KmipEvent::ServerFailed { server, why }
        if *server == address(strict.port) && why.contains("does not permit")),
        "{events:?}"
    );

    // It is no other opinion of a KEK either.
    let second = Client::new(config(&pki, &[good.port, strict.port]));
    second.provider.fetch_kek(&id).unwrap();
    assert_eq!(second.events(), [KmipEvent::KeyFetched { id: id.clone(), server: address(good.port) }]);

    let alone = Client::new(config(&pki, &[strict.port]));
    let error = alone.provider.fetch_kek(&id).err().unwrap();
    assert!(matches!(error, ProviderError::Refused { .. }), "{error}");
    assert!(error.hint().unwrap().contains("permission"), "{error}");
}
