//! Calls over a real socket pair.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use ublk_targets::secret::Secret;

use crate::control::{
    Client, DaemonCalls, Failure, FailureKind, GetVersion, MAX_CALL, MAX_DESCRIPTORS, Peer, Ping,
    ProviderUnlock, SecretFd, Secrets, Service, Status, Version, serve_connection,
};

struct Example;

impl Service for Example {
    type Calls = DaemonCalls;

    fn answer(
        self: &Arc<Self>,
        peer: &Peer,
        call: DaemonCalls,
        mut secrets: Secrets,
    ) -> Result<Value, Failure> {
        match call {
            DaemonCalls::Ping(_) => Ok(json!({})),
            DaemonCalls::GetVersion(_) => Ok(json!(Version {
                version: "1".into(),
                pid: peer.pid.unsigned_abs(),
                ublk: false,
                problems: vec![]
            })),
            DaemonCalls::ProviderUnlock(call) => {
                let secret = secrets.take(call.secret)?;
                assert!(secrets.take(call.secret).is_err(), "a secret is there to be taken once");
                let message = format!("{} bytes from {}", secret.len(), secret.expose()[0]);
                Err(Failure::new(FailureKind::WrongKey, message).hint("try another"))
            }
            other => Err(Failure::new(FailureKind::Internal, format!("{other:?}"))),
        }
    }
}

fn start() -> (UnixStream, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, std::thread::spawn(move || serve_connection(&Arc::new(Example), theirs)))
}

/// Sends `bytes` and reads what comes back until `replies` messages are there or the connection ends.
fn raw(bytes: &[u8], replies: usize) -> Vec<Value> {
    let (mut stream, server) = start();
    let mut writer = stream.try_clone().unwrap();
    let bytes = bytes.to_vec();
    let sender = std::thread::spawn(move || {
        let _ = writer.write_all(&bytes); // the server may have hung up already
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    sender.join().unwrap();
    server.join().unwrap();
    let parsed: Vec<Value> = answer
        .split(|&byte| byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| serde_json::from_slice(part).unwrap())
        .collect();
    assert_eq!(parsed.len(), replies, "{parsed:?}");
    parsed
}

fn message(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap();
    bytes.push(0);
    bytes
}

#[test]
fn a_typed_call_gets_its_typed_reply() {
    let (stream, server) = start();
    let mut client = Client::over(stream);
    client.call(&Ping {}, &[]).unwrap();
    let version = client.call(&GetVersion {}, &[]).unwrap();
    assert_eq!(
        version,
        Version { version: "1".into(), pid: std::process::id(), ublk: false, problems: vec![] }
    );
    drop(client);
    server.join().unwrap();
}

#[test]
fn secrets_arrive_and_failures_come_back_whole() {
    let (stream, _server) = start();
    let mut client = Client::over(stream);
    let mut secret = Secret::zeroed(33).unwrap();
    secret.expose_mut().fill(7);
    let call = ProviderUnlock { name: "p".parse().unwrap(), secret: SecretFd(0) };
    let failure = client.call(&call, &[&secret]).unwrap_err();
    assert_eq!(failure, Failure::new(FailureKind::WrongKey, "33 bytes from 7").hint("try another"));
    assert!(secret.expose().iter().all(|&byte| byte == 7), "the other side had a copy");

    let failure = client.call(&call, &[]).unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (FailureKind::InvalidArgument, "no descriptor 0 came with the call")
    );
}

#[test]
fn a_descriptor_that_is_not_secret_memory_is_refused() {
    let (stream, _server) = start();
    let call = message(&json!({
        "method": "io.blkseal.Daemon.ProviderUnlock", "parameters": { "name": "p", "secret": 0 },
    }));
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let fds = [file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&call)], &rights, MsgFlags::empty(), None).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    (&stream).read_to_string(&mut answer).unwrap();
    assert!(answer.contains("not secret memory"), "{answer}");
}

#[test]
fn too_many_descriptors_end_the_connection() {
    for batches in [vec![MAX_DESCRIPTORS + 1], vec![MAX_DESCRIPTORS, 1]] {
        let (stream, server) = start();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        for count in batches {
            let fds = vec![file.as_raw_fd(); count];
            let rights = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"{")], &rights, MsgFlags::empty(), None)
                .unwrap();
        }
        server.join().unwrap(); // ends although this side keeps the connection open
    }
}

#[test]
fn unknown_methods_interfaces_and_parameters_are_told_apart() {
    let ask = |method: &str, parameters: Value| {
        raw(&message(&json!({ "method": method, "parameters": parameters })), 1).remove(0)
    };
    let reply = ask("io.blkseal.Daemon.Explode", json!({}));
    assert_eq!(reply["error"], "org.varlink.service.MethodNotFound");
    let reply = ask("io.example.Ping", json!({}));
    assert_eq!(reply["error"], "org.varlink.service.InterfaceNotFound");
    assert_eq!(reply["parameters"]["interface"], "io.example");
    for parameters in [json!({}), json!({ "volume": 3 }), json!({ "volume": "v", "force": true }), json!([])]
    {
        let reply = ask("io.blkseal.Daemon.Status", parameters);
        assert_eq!(reply["error"], "io.blkseal.Daemon.InvalidArgument", "{reply}");
    }
}

#[test]
fn the_service_describes_itself() {
    let info = raw(&message(&json!({ "method": "org.varlink.service.GetInfo" })), 1).remove(0);
    assert_eq!(info["parameters"]["interfaces"], json!(["org.varlink.service", "io.blkseal.Daemon"]));
    let call = json!({
        "method": "org.varlink.service.GetInterfaceDescription", "parameters": { "interface": "io.blkseal.Daemon" },
    });
    let description = raw(&message(&call), 1).remove(0);
    let text = description["parameters"]["description"].as_str().unwrap();
    assert_eq!(text, include_str!("../io.blkseal.Daemon.varlink"));
}

/// zlink is a Varlink implementation by others.
#[test]
fn a_foreign_varlink_client_is_understood() {
    #[derive(Debug, serde::Serialize)]
    #[serde(tag = "method", content = "parameters")]
    enum Calls {
        #[serde(rename = "io.blkseal.Daemon.GetVersion")]
        GetVersion,
        #[serde(rename = "io.blkseal.Daemon.ProviderUnlock")]
        ProviderUnlock { name: &'static str, secret: u32 },
    }
    #[derive(Debug, serde::Deserialize)]
    struct WrongKey {
        error: String,
    }
    use zlink::varlink_service::Proxy;

    let (stream, server) = start();
    let mut connection = zlink::Connection::new(zlink::smol::unix::Stream::try_from(stream).unwrap());
    smol::block_on(async {
        let info = connection.get_info().await.unwrap().unwrap();
        assert_eq!(info.product, "blkseal");
        let description = connection
            .get_interface_description("io.blkseal.Daemon".try_into().unwrap())
            .await
            .unwrap()
            .unwrap();
        assert!(description.parse().unwrap().methods().any(|method| method.name().as_str() == "Open"));

        let call = zlink::Call::new(Calls::GetVersion);
        let (reply, _) = connection.call_method::<_, Version, WrongKey>(&call, vec![]).await.unwrap();
        assert_eq!(reply.unwrap().into_parameters().unwrap().pid, std::process::id());

        let secret = Secret::random(5).unwrap();
        let call = zlink::Call::new(Calls::ProviderUnlock { name: "p", secret: 0 });
        let shared = secret.share().unwrap();
        let fds = vec![shared.as_fd().try_clone_to_owned().unwrap()];
        let (reply, _) = connection.call_method::<_, Version, WrongKey>(&call, fds).await.unwrap();
        assert_eq!(reply.unwrap_err().error, "io.blkseal.Daemon.WrongKey");
    });
    drop(connection);
    server.join().unwrap();
}

#[test]
fn a_oneway_call_gets_no_reply() {
    let mut calls = message(&json!({ "method": "io.blkseal.Daemon.Ping", "oneway": true }));
    calls.extend(message(&json!({ "method": "io.blkseal.Daemon.Ping" })));
    assert_eq!(raw(&calls, 1), [json!({ "parameters": {} })]);
}

#[test]
fn truncated_and_malformed_messages_end_the_connection_without_an_answer() {
    let whole = message(&json!({ "method": "io.blkseal.Daemon.Ping", "parameters": {} }));
    for length in 0..whole.len() {
        raw(&whole[..length], 0);
        let mut closed = whole[..length].to_vec();
        closed.push(0); // a message, but cut short
        raw(&closed, usize::from(length == whole.len() - 1));
    }
    raw(b"\xff\xfe\0", 0);
    raw(format!("{}\0", "[".repeat(100_000)).as_bytes(), 0);
}

#[test]
fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
    let sized = |length: usize| {
        let empty = message(&json!({ "method": "io.blkseal.Daemon.Status", "parameters": { "volume": "" } }));
        let volume = "x".repeat(length - empty.len());
        message(&json!({ "method": "io.blkseal.Daemon.Status", "parameters": { "volume": volume } }))
    };
    let longest = sized(MAX_CALL);
    assert_eq!(longest.len(), MAX_CALL);
    raw(&longest, 1);
    raw(&sized(MAX_CALL + 1), 0);
    raw(&vec![b' '; 2 * MAX_CALL], 0);
}

#[test]
fn a_client_says_where_it_looked_for_the_daemon() {
    let failure = Client::connect(std::path::Path::new("/nowhere/daemon.sock")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoDaemon);
    assert!(failure.message.contains("/nowhere/daemon.sock"), "{failure}");
    assert!(failure.hint.unwrap().contains("systemctl start blkseald"));
}

#[test]
fn a_client_says_when_the_daemon_hangs_up() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let failure = Client::over(ours).call(&Status { volume: "v".into() }, &[]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoDaemon);
}
