//! What is recorded of each call, and how it is read.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::control::{Event, EventPage, Events};

impl Host {
    fn read(&mut self, call: &Events) -> Vec<Event> {
        let mut call = call.clone();
        let mut events = Vec::new();
        loop {
            let EventPage { events: page, next, more } = self.call(&call).unwrap();
            events.extend(page);
            call.after = Some(next);
            if !more {
                return events;
            }
        }
    }

    fn events(&mut self) -> Vec<Event> {
        self.read(&Events::default())
    }

    /// Every byte of the log.
    fn event_files(&self) -> Vec<u8> {
        let files = fs::read_dir(self.path("state/events")).unwrap().map(|entry| entry.unwrap().path());
        files.flat_map(|file| fs::read(file).unwrap()).collect()
    }
}

fn summary(event: &Event) -> (&str, &str, Option<&str>, Option<&str>) {
    (&event.verb, &event.result, event.volume.as_deref(), event.provider.as_deref())
}

#[test]
fn every_change_and_every_failure_to_change_is_one_record() {
    let mut host = Host::with_provider();
    let made = host.create("vol", host.image("disk")).unwrap();
    let add = RecoveryAdd { volume: made.uuid.unwrap().to_string(), secret: SecretFd(0) };
    host.client.call(&add, &[&secret("xyzzy rescue")]).unwrap();
    host.call(&List {}).unwrap();
    host.call(&ProviderLock { name: "office".parse().unwrap() }).unwrap();
    host.unlock("office", "xyzzy wrong").unwrap_err();
    let open = host.open(host.path("disk").to_str().unwrap());
    host.call(&open).unwrap_err();
    host.call(&Close { volume: "nothing".into(), force: false }).unwrap_err();

    let events = host.events();
    let seen: Vec<_> = events.iter().map(summary).collect();
    let expected = [
        ("provider add", "ok", None, Some("office")),
        ("create", "ok", Some("vol"), Some("office")),
        ("recovery add", "ok", Some("vol"), Some("office")),
        ("provider lock", "ok", None, Some("office")),
        ("provider unlock", "WrongKey", None, Some("office")),
        ("open", "Waiting", Some("vol"), Some("office")),
        ("close", "NotFound", Some("nothing"), None),
    ];
    assert_eq!(seen, expected, "what only looks is no event");
    for event in &events {
        assert_eq!((event.uid, event.pid), (Some(geteuid().as_raw()), Some(std::process::id() as i32)));
        let of_volume = event.volume.as_deref() == Some("vol");
        assert_eq!(event.uuid, made.uuid.filter(|_| of_volume));
        assert_eq!(event.kek_id, made.kek_id.clone().filter(|_| of_volume));
        assert_eq!(event.message.is_some(), event.result != "ok");
    }
    assert!(events.is_sorted_by_key(|event| event.time.clone()), "{events:?}");

    // The file holds the same, and nothing that is secret.
    let bytes = host.event_files();
    let lines: Vec<Event> = bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(lines, events);
    let text = String::from_utf8(bytes).unwrap();
    assert!(["sesame", "xyzzy"].iter().all(|secret| !text.contains(secret)), "{text}");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(host.path("state/events")), 0o700);
    for file in fs::read_dir(host.path("state/events")).unwrap() {
        assert_eq!(mode(file.unwrap().path()), 0o600);
    }
}

#[test]
fn events_are_chosen_by_volume_and_time_and_outlive_the_daemon() {
    let mut host = Host::with_provider();
    let one = host.create("one", host.image("one.img")).unwrap();
    host.create("two", host.image("two.img")).unwrap();
    host.restart();
    let later = jiff::Timestamp::now().to_string();
    host.unlock("office", "sesame").unwrap();
    assert_eq!(host.events().len(), 4);
    let path = host.path("one.img").to_str().unwrap().to_owned();
    for text in ["one".to_owned(), one.uuid.unwrap().to_string(), path] {
        let events = host.read(&Events { volume: Some(text.clone()), ..Events::default() });
        assert_eq!(
            events.iter().map(summary).collect::<Vec<_>>(),
            [("create", "ok", Some("one"), Some("office"))]
        );
    }
    assert!(host.read(&Events { volume: Some("three".into()), ..Events::default() }).is_empty());
    let since =
        |host: &mut Host, since: &str| host.read(&Events { since: Some(since.into()), ..Events::default() });
    let events = since(&mut host, &later);
    assert_eq!(events.iter().map(|event| event.verb.as_str()).collect::<Vec<_>>(), ["provider unlock"]);
    assert_eq!(since(&mut host, "2001-01-01T00:00:00+05:00").len(), 4);
    assert!(since(&mut host, "2200-01-01T00:00:00Z").is_empty());
    host.fails(
        &Events { since: Some("soon".into()), ..Events::default() },
        FailureKind::InvalidArgument,
        "soon",
    );
}

#[test]
fn events_since_a_time_are_those_of_that_microsecond_and_later_however_long_the_log() {
    let mut host = Host::with_provider();
    for _ in 0..400 {
        host.call(&Close { volume: "x".repeat(2000), force: false }).unwrap_err();
    }
    let all = host.events();
    for from in [1, 200, all.len() - 1] {
        let since = Some(all[from].time.clone());
        let call = Events { since, ..Events::default() };
        let first = host.call(&call).unwrap();
        assert!(first.more && first.events.iter().all(|event| event.time >= all[from].time));
        let same = all.iter().position(|event| event.time == all[from].time).unwrap();
        assert_eq!(host.read(&call), all[same..], "{from}");
    }
}

#[test]
fn who_waits_is_told_when_something_happens() {
    let mut host = Host::with_provider();
    let end = host.call(&Events::default()).unwrap().next;
    let at_end = Events { after: Some(end), ..Events::default() };
    assert_eq!(host.call(&at_end).unwrap(), EventPage { events: vec![], next: end, more: false });
    let mut follower = Client::connect(&host.path("run/daemon.sock")).unwrap();
    let waiting =
        std::thread::spawn(move || follower.call(&Events { wait: Some(60), ..at_end }, &[]).unwrap());
    // Were it not waiting, it would be back with nothing by then.
    std::thread::sleep(Duration::from_millis(200));
    host.call(&ProviderLock { name: "office".parse().unwrap() }).unwrap();
    let page = waiting.join().unwrap();
    assert_eq!(page.events.iter().map(|event| event.verb.as_str()).collect::<Vec<_>>(), ["provider lock"]);
    assert!(page.next > end && !page.more);
}

#[test]
fn a_log_of_several_pages_is_read_whole() {
    let mut host = Host::with_provider();
    let long = "x".repeat(5000); // of which the log keeps 1024 characters
    for _ in 0..400 {
        host.call(&Close { volume: long.clone(), force: false }).unwrap_err();
    }
    let first = host.call(&Events::default()).unwrap();
    assert!(first.more && !first.events.is_empty());
    let events = host.events();
    assert_eq!(events.len(), 401);
    assert!(events[1..].iter().all(|event| event.volume.as_ref().unwrap().len() == 1024));
}
