use super::*;
use proptest::prelude::*;

#[test]
fn what_is_written_is_read_again() {
    let (_, token) = key();
    assert_eq!(Token::parse(&token.to_json().to_string()).unwrap(), token);
    let longest = Token {
        provider: "p".repeat(64).parse().unwrap(),
        kek_id: "k".repeat(255).parse().unwrap(),
        ..token
    };
    assert_eq!(Token::parse(&longest.to_json().to_string()).unwrap(), longest);
}

#[test]
fn every_departure_has_its_error() {
    let good = key().1.to_json();
    let changed = |change: fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut json = good.clone();
        change(json.as_object_mut().unwrap());
        Token::parse(&json.to_string()).unwrap_err()
    };
    use TokenError::*;
    assert!(matches!(changed(|o| o["version"] = 0.into()), Version(_)));
    assert!(matches!(changed(|o| o["version"] = "1".into()), Version(_)));
    assert!(matches!(changed(|o| drop(o.remove("version"))), Malformed(_)));
    assert!(matches!(changed(|o| o["type"] = "luks2-keyring".into()), Malformed(_)));
    assert!(matches!(changed(|o| drop(o.remove("wrapped_dek"))), Malformed(_)));
    assert!(matches!(changed(|o| drop(o.insert("more".into(), 1.into()))), Malformed(_)));
    assert!(matches!(changed(|o| o["keyslots"] = serde_json::json!(["0"])), Malformed(_)));
    assert!(matches!(changed(|o| o["provider"] = "no spaces".into()), Malformed(_)));
    assert!(matches!(changed(|o| o["wrap"] = "AES-KW".into()), Wrap(_)));
    assert!(matches!(changed(|o| o["wrapped_dek"] = "=".into()), Base64));
    assert!(matches!(changed(|o| o["wrapped_dek"] = "AAAA".into()), WrappedLength(3)));
    assert!(matches!(changed(|o| o["kek_id"] = "k".repeat(3000).into()), TooLong(_)));
    let text = good.to_string();
    for cut in 0..text.len() {
        assert!(matches!(Token::parse(&text[..cut]), Err(NotJson(_))), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = Token::parse(&text);
    }
}
