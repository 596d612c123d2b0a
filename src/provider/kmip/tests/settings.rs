use crate::provider::kmip::{DEFAULT_GROUP, Fingerprint, KmipConfig, Limits, MAX_SERVERS, Trust};

fn good() -> KmipConfig {
    let servers = vec!["kms1".parse().unwrap(), "[2001:db8::2]:5697".parse().unwrap()];
    KmipConfig::new(servers, Trust::Ca("/pki/ca.pem".into()), "/pki/host.pem".into(), "/pki/host.key".into())
}

#[test]
fn settings_are_kept_and_read_again() {
    let mut config = good();
    config.trust = Trust::Pins(vec![Fingerprint::of(b"one"), Fingerprint::of(b"two")]);
    config.proxy = Some("proxy:3128".parse().unwrap());
    config.user = Some("host".into());
    config.password_file = Some("/pki/password".into());
    config.max_age = Some(3600);
    config.allow_unreplicated = true;
    for config in [config, good()] {
        config.check().unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<KmipConfig>(&text).unwrap(), config, "{text}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let text = "servers = [\"kms1\"]\ncertificate = \"/c\"\nkey = \"/k\"\ntrust = { ca = \"/a\" }\n";
    let config: KmipConfig = toml::from_str(text).unwrap();
    assert_eq!(
        (config.group.as_str(), config.limits, config.max_age),
        (DEFAULT_GROUP, Limits::default(), None)
    );
    assert_eq!(config.servers[0].port(), 5696);
    for bad in
        ["limits = { connect = 1, more = 2 }", "more = 1", "servers = [\"kms:73382\"]", "trust = { any = 1 }"]
    {
        let name = bad.split(' ').next().unwrap();
        let lines: String =
            text.lines().filter(|line| !line.starts_with(name)).map(|line| format!("{line}\n")).collect();
        assert!(toml::from_str::<KmipConfig>(&format!("{lines}{bad}\n")).is_err(), "{bad}");
    }
}

#[test]
fn settings_that_make_no_sense_are_named() {
    type Change = fn(&mut KmipConfig);
    let cases: [(Change, &str); 9] = [
        (|config| config.servers.clear(), "0 servers"),
        (|config| config.servers = vec![config.servers[0].clone(); MAX_SERVERS + 1], "17 servers"),
        (|config| config.servers.push(config.servers[0].clone()), "the server kms1:5696 is named twice"),
        (|config| config.trust = Trust::Pins(vec![]), "no server certificate is trusted"),
        (|config| config.user = Some("host".into()), "a user needs a password file"),
        (|config| config.group.clear(), "object group"),
        (|config| config.group = "a\nb".into(), "object group"),
        (|config| config.limits.connect = 0, "the limit connect is 0 ms"),
        (|config| config.key = "host.key".into(), "the path host.key is not absolute"),
    ];
    for (change, words) in cases {
        let mut config = good();
        change(&mut config);
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
