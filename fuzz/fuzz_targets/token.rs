//! What a header may hold: any text is read as a token, and what is read is written as it was.
#![no_main]

use blkseal::luks::Token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(token) = Token::parse(text) {
        let written = token.to_json().to_string();
        assert_eq!(Token::parse(&written).as_ref(), Ok(&token));
    }
});
