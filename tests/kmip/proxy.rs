//! Servers behind an HTTP proxy.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use blkseal::provider::KeyProvider;
use blkseal::provider::kmip::{Limits, check};

use crate::support::{Client, LIMITS, Pki, PyKmip, bounded, config};

#[test]
fn a_proxy_is_asked_for_a_tunnel() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().flatten().for_each(|client| tunnel(client, "200 OK")));
    let mut config = config(&pki, &[server.port]);
    config.proxy = Some(format!("http://127.0.0.1:{port}").parse().unwrap());
    Client::new(config.clone()).provider.create_kek().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().flatten().for_each(|client| tunnel(client, "403 Forbidden")));
    config.proxy = Some(format!("127.0.0.1:{port}").parse().unwrap());
    config.limits = Limits { call: 2_000, ..LIMITS };
    let report = check(&config).unwrap().remove(0).outcome.err().unwrap();
    assert!(report.fault.hint().unwrap().contains("allow CONNECT"));
    let error = Client::new(config).provider.create_kek().err().unwrap().to_string();
    assert!(
        error.contains(&format!("the proxy 127.0.0.1:{port} answers \"HTTP/1.1 403 Forbidden\"")),
        "{error}"
    );
}

/// The error of a provider behind a proxy that does `serve` with each connection.
fn error_behind(serve: fn(TcpStream)) -> String {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&pki, &[1]);
    config.proxy = Some(listener.local_addr().unwrap().to_string().parse().unwrap());
    config.limits = Limits { connect: 1_000, call: 2_000, ..LIMITS };
    thread::spawn(move || {
        listener.incoming().flatten().for_each(|client| drop(thread::spawn(move || serve(client))))
    });
    let (made, time) = bounded("a proxy", || Client::new(config).provider.create_kek());
    println!("given up after {} ms", time.as_millis());
    made.err().unwrap().to_string()
}

#[test]
fn a_proxy_that_says_nothing_is_given_up() {
    let error = error_behind(|mut client| drop(std::io::copy(&mut client, &mut std::io::sink())));
    assert!(error.contains("no connection within"), "{error}");
}

#[test]
fn a_proxy_that_never_ends_its_answer_is_given_up() {
    let error = error_behind(|mut client| while client.write_all(&[b'x'; 1000]).is_ok() {});
    assert!(error.contains("answers with too much"), "{error}");
}

/// One connection of a proxy that answers with `status`.
fn tunnel(mut client: TcpStream, status: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
    client.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).unwrap();
    let mut server = TcpStream::connect(target).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || std::io::copy(&mut from, &mut to));
    thread::spawn(move || std::io::copy(&mut server, &mut client));
}
