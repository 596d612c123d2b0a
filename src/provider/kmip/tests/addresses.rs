use proptest::prelude::*;

use crate::provider::kmip::{AddressError, Fingerprint, ProxyAddress, ServerAddress};

#[test]
fn hosts_and_ports_are_read() {
    let good = [
        ("kms1", "kms1", 5696, "kms1:5696"),
        ("kms1.example.org:1", "kms1.example.org", 1, "kms1.example.org:1"),
        ("192.0.2.7:65535", "192.0.2.7", 65535, "192.0.2.7:65535"),
        ("::1", "::1", 5696, "[::1]:5696"),
        ("2001:db8::7", "2001:db8::7", 5696, "[2001:db8::7]:5696"),
        ("[2001:db8::7]", "2001:db8::7", 5696, "[2001:db8::7]:5696"),
        ("[2001:db8::7]:5697", "2001:db8::7", 5697, "[2001:db8::7]:5697"),
    ];
    for (text, host, port, shown) in good {
        let address: ServerAddress = text.parse().unwrap();
        assert_eq!((address.host(), address.port(), address.to_string().as_str()), (host, port, shown));
        assert_eq!(shown.parse::<ServerAddress>().unwrap(), address);
    }
}

#[test]
fn a_port_is_never_truncated() {
    for port in ["0", "65536", "73382", "-1", "+1", "", "http", "5696 ", "99999999999999999999"] {
        for text in [format!("kms:{port}"), format!("[::1]:{port}")] {
            let error = text.parse::<ServerAddress>().unwrap_err();
            assert!(
                matches!(&error, AddressError::Port { port: named, .. } if named == port),
                "{text}: {error}"
            );
        }
    }
    let error = "kms:73382".parse::<ServerAddress>().unwrap_err().to_string();
    assert_eq!(error, "the port \"73382\" of \"kms:73382\" is not a number between 1 and 65535");
}

#[test]
fn what_is_no_host_is_refused() {
    for text in [
        "",
        ":5696",
        "a b",
        "kms_!",
        "[::1",
        "[kms]:5696",
        "[::1]5696",
        "[::1]x",
        "http://kms",
        "kms/path",
        "ä:1",
    ] {
        assert!(text.parse::<ServerAddress>().is_err(), "{text:?}");
    }
}

#[test]
fn a_proxy_needs_a_port() {
    for text in ["http://proxy:3128", "proxy:3128", "http://proxy:3128/"] {
        assert_eq!(text.parse::<ProxyAddress>().unwrap().to_string(), "proxy:3128");
    }
    assert_eq!("proxy".parse::<ProxyAddress>(), Err(AddressError::NoPort("proxy".into())));
}

#[test]
fn fingerprints_are_read_as_they_are_written() {
    let fingerprint = Fingerprint::of(b"abc");
    // SHA-256 of "abc": FIPS 180-4's example.
    let plain = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(plain.parse(), Ok(fingerprint));
    assert_eq!(format!("sha256:{plain}").parse(), Ok(fingerprint));
    assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    assert!(fingerprint.to_string().starts_with("BA:78:16:BF:"));
    for bad in ["", "ba78", &plain[1..], &format!("{plain}00"), &plain.replace('b', "g")] {
        assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text in ".{0,60}") {
        if let Ok(address) = text.parse::<ServerAddress>() {
            prop_assert_eq!(address.to_string().parse::<ServerAddress>(), Ok(address));
        }
        let _ = text.parse::<ProxyAddress>();
        let _ = text.parse::<Fingerprint>();
    }
}
