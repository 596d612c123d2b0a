//! What may come over the daemon's socket: any bytes, to a service that does nothing. Each answer is one JSON object.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};

use blkseal::control::{self, DaemonCalls, Failure, Interface, Peer, Secrets, Service};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

struct Echo;

impl Service for Echo {
    type Calls = DaemonCalls;

    fn answer(self: &Arc<Self>, _: &Peer, call: DaemonCalls, _: Secrets) -> Result<Value, Failure> {
        Ok(json!({ "method": call.method() }))
    }
}

static ECHO: LazyLock<Arc<Echo>> = LazyLock::new(|| Arc::new(Echo));

fn answers(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let (mut caller, service) = UnixStream::pair()?;
    caller.write_all(bytes)?;
    caller.shutdown(Shutdown::Write)?;
    control::serve_connection(&ECHO, service);
    let mut answers = Vec::new();
    match caller.read_to_end(&mut answers) {
        // The service hung up with something unread: what it thinks of a malformed message.
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(answers),
    }
}

fuzz_target!(|bytes: &[u8]| {
    // Many calls in few bytes have answers that fill the socket, and nobody reads while the service writes.
    if bytes.iter().filter(|&&byte| byte == 0).count() > 8 {
        return;
    }
    let answers = answers(bytes).unwrap();
    for answer in answers.split(|&byte| byte == 0).filter(|answer| !answer.is_empty()) {
        let answer: Value = serde_json::from_slice(answer).unwrap();
        assert!(answer["parameters"].is_object(), "{answer}");
    }
});
