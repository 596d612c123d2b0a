//! A run over many volumes: stopped between two of them.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::blkseal;
use crate::daemon::Daemon;

/// What a command said that is about to end; one that does not is ended.
fn end(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill(); // fails where it has ended
    child.wait_with_output().unwrap()
}

#[test]
fn ctrl_c_stops_after_the_volume_that_is_under_way() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let daemon = Daemon::start();
        let mut command = blkseal(&daemon.socket);
        command.args(["rekey", "--kek", "vm1", "vm3"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = daemon.hold_answers(|| {
            let child = command.spawn().unwrap();
            let start = Instant::now();
            while daemon.rekeyed() != ["vm1"] {
                assert!(start.elapsed() < Duration::from_secs(60), "no call came");
                std::thread::sleep(Duration::from_millis(5));
            }
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
            child
        });
        let output = end(child);
        assert_eq!(output.status.signal(), Some(signal as i32), "{output:?}");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "vm1: its key is wrapped by KEK 88bb1f42 of office\n\
             1 rewrapped, 0 had the KEK already, 0 failed, of 2\n\
             stopped; the same command goes on from here\n"
        );
        assert!(daemon.rekeyed().is_empty(), "the next volume was not begun");
    }
}

#[test]
fn a_second_ctrl_c_does_not_wait() {
    let daemon = Daemon::start();
    let mut command = blkseal(&daemon.socket);
    command.args(["rekey", "--kek", "vm1", "vm3"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = daemon.hold_answers(|| {
        let mut child = command.spawn().unwrap();
        let start = Instant::now();
        let mut called = false;
        // The first may still be on its way when the second comes, and the two be one then: more follow.
        while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(60) {
            called = called || daemon.rekeyed() == ["vm1"];
            if called {
                kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        end(child)
    });
    assert_eq!(output.status.signal(), Some(Signal::SIGINT as i32));
    assert_eq!(output.stdout, b"");
}
