//! Passphrases typed at a terminal.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::daemon::Daemon;
use crate::{blkseal, with_default_signals};

/// A command at a terminal of its own.
pub struct Session {
    /// The terminal as its user sees it.
    user: File,
    /// The terminal as the command sees it; kept open, so that it can be looked at when the command is gone.
    terminal: File,
    child: Child,
    seen: String,
    /// How much of `seen` was waited for.
    taken: usize,
}

impl Session {
    fn start(mut command: Command) -> Self {
        let pty = openpty(None, None).unwrap();
        // Copies that close on exec: a child of another test must not keep this terminal open.
        let [user, terminal] = [pty.master, pty.slave].map(|fd| File::from(fd.try_clone().unwrap()));
        let standard = || terminal.try_clone().unwrap();
        command.stdin(standard()).stdout(standard()).stderr(standard());
        // SAFETY: setsid and ioctl are async-signal-safe and change the new process only.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            })
        };
        let child = command.spawn().unwrap();
        Self { user, terminal, child, seen: String::new(), taken: 0 }
    }

    /// Waits until `text` is on the terminal, after what was waited for before.
    pub fn wait_for(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen[self.taken..].find(text) {
                self.taken += at + text.len();
                return;
            }
            let mut ready = [PollFd::new(self.user.as_fd(), PollFlags::POLLIN)];
            let patience = PollTimeout::from(60_000u16); // for a hung command to fail, not for its speed
            assert_ne!(poll(&mut ready, patience).unwrap(), 0, "no {text:?} in {:?}", self.seen);
            let mut chunk = [0; 512];
            let count = self.user.read(&mut chunk).unwrap();
            self.seen += &String::from_utf8_lossy(&chunk[..count]);
        }
    }

    pub fn type_in(&mut self, text: &str) {
        self.user.write_all(text.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        tcgetattr(self.terminal.as_fd()).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    /// Waits for the end; how the command ended, and all that was on the terminal.
    pub fn end(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                // What fails to end is ended, so that no run of the tests hangs.
                None if start.elapsed() > Duration::from_secs(60) => {
                    self.child.kill().unwrap();
                    panic!("the command does not end: {:?}", self.seen);
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        assert!(self.echoes(), "the terminal is left as it was found");
        drop(self.terminal);
        let mut rest = Vec::new();
        match self.user.read_to_end(&mut rest) {
            Err(error) if error.kind() != ErrorKind::Other && error.raw_os_error() != Some(libc::EIO) => {
                panic!("{error}")
            }
            _ => {}
        }
        (status, self.seen + &String::from_utf8_lossy(&rest))
    }
}

pub fn start(daemon: &Daemon, arguments: &[&str]) -> Session {
    let mut command = blkseal(&daemon.socket);
    command.args(arguments);
    Session::start(command)
}

#[test]
fn a_known_passphrase_is_asked_for_once_and_not_shown() {
    let daemon = Daemon::start();
    let mut session = start(&daemon, &["provider", "unlock", "lab"]);
    session.wait_for("Passphrase of key provider lab: ");
    assert!(!session.echoes());
    session.type_in("correct horse ß\n");
    session.wait_for("ready");
    let (status, seen) = session.end();
    assert_eq!(status.code(), Some(0), "{seen}");
    assert!(!seen.contains("horse"), "{seen}");
    assert_eq!(daemon.secrets(), ["correct horse ß".as_bytes()]);
}

#[test]
fn a_new_passphrase_is_asked_for_twice_and_not_shown() {
    let daemon = Daemon::start();
    for arguments in [["provider", "add", "native", "new"].as_slice(), &["recovery", "add", "vm1"]] {
        let mut session = start(&daemon, arguments);
        session.wait_for("New passphrase of ");
        session.wait_for(": ");
        session.type_in("correct horse\n");
        session.wait_for("The same again: ");
        assert!(!session.echoes());
        session.type_in("correct horse\n");
        let (status, seen) = session.end();
        assert_eq!(status.code(), Some(0), "{seen}");
        assert!(!seen.contains("horse"), "{seen}");
        assert_eq!(daemon.secrets(), [b"correct horse"]);
    }
}

#[test]
fn two_passphrases_that_differ_are_refused() {
    let daemon = Daemon::start();
    let mut session = start(&daemon, &["provider", "add", "native", "new"]);
    session.wait_for("New passphrase of key provider new: ");
    session.type_in("correct horse\n");
    session.wait_for("The same again: ");
    session.type_in("correct house\n");
    let (status, seen) = session.end();
    assert_eq!(status.code(), Some(64), "{seen}");
    assert!(seen.contains("the two passphrases differ"), "{seen}");
    assert_eq!(daemon.secrets(), Vec::<Vec<u8>>::new());
}

#[test]
fn lines_that_are_empty_or_that_the_terminal_cuts_are_refused() {
    let daemon = Daemon::start();
    let cut = format!("{}\n", "x".repeat(5000));
    for (line, said) in [
        ("\n", "the passphrase is empty"),
        ("\x04", "the passphrase is empty"),
        (&cut, "more than 4094 bytes"),
    ] {
        let mut session = start(&daemon, &["provider", "unlock", "lab"]);
        session.wait_for("Passphrase of key provider lab: ");
        session.type_in(line);
        let (status, seen) = session.end();
        assert_eq!(status.code(), Some(64), "{seen}");
        assert!(seen.contains(said), "{seen}");
        assert_eq!(daemon.secrets(), Vec::<Vec<u8>>::new());
    }
    let longest = "x".repeat(4094);
    let mut session = start(&daemon, &["provider", "unlock", "lab"]);
    session.wait_for("Passphrase of key provider lab: ");
    session.type_in(&format!("{longest}\n"));
    assert_eq!(session.end().0.code(), Some(0));
    assert_eq!(daemon.secrets(), [longest.as_bytes()]);
}

#[test]
fn an_interrupt_ends_the_command_and_leaves_the_terminal_as_it_was() {
    let daemon = Daemon::start();
    let mut session = start(&daemon, &["provider", "unlock", "lab"]);
    session.wait_for("Passphrase of key provider lab: ");
    session.type_in("half a pass\x03");
    let (status, seen) = session.end();
    assert_eq!(status.signal(), Some(libc::SIGINT), "{seen}");
    assert!(!seen.contains("half"), "{seen}");
    assert_eq!(daemon.secrets(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_stopped_command_leaves_the_terminal_as_it_was_and_asks_again() {
    let daemon = Daemon::start();
    let script = "set -m; \"$0\" provider unlock lab; stty -a | grep -o '.echo '; fg";
    let mut command = Command::new("bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_blkseal")]).env("BLKSEAL_SOCKET", &daemon.socket);
    with_default_signals(&mut command);
    let mut session = Session::start(command);
    session.wait_for("Passphrase of key provider lab: ");
    session.type_in("\x1a");
    session.wait_for(" echo ");
    session.wait_for("Passphrase of key provider lab: ");
    assert!(!session.echoes());
    session.type_in("correct horse\n");
    let (status, seen) = session.end();
    assert_eq!(status.code(), Some(0), "{seen}");
    assert_eq!(daemon.secrets(), [b"correct horse"]);
}

#[test]
fn secrets_are_not_read_from_a_terminal_as_from_a_file() {
    let daemon = Daemon::start();
    for arguments in [["--key-file", "-"], ["--passphrase-fd", "0"]] {
        let session = start(&daemon, &[&["provider", "unlock", "lab"], &arguments[..]].concat());
        let (status, seen) = session.end();
        assert_eq!(status.code(), Some(64), "{seen}");
        assert!(seen.contains("is a terminal"), "{seen}");
    }
}

#[test]
fn nobody_is_asked_for_the_passphrase_of_what_is_not_there() {
    let daemon = Daemon::start();
    for arguments in [&["provider", "unlock", "nosuch"][..], &["recovery", "add", "nosuch"]] {
        let (status, seen) = start(&daemon, arguments).end();
        assert_eq!(status.code(), Some(67), "{seen}");
        assert!(!seen.contains("assphrase of"), "{seen}");
    }
}

#[test]
fn without_a_terminal_the_options_are_named() {
    let daemon = Daemon::start();
    let mut command = blkseal(&daemon.socket);
    command.args(["provider", "unlock", "lab"]);
    // SAFETY: setsid is async-signal-safe and changes the new process only.
    unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
    let output = command.output().unwrap();
    let seen = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{seen}");
    assert!(seen.contains("no terminal") && seen.contains("--key-file FILE or --passphrase-fd N"), "{seen}");
}

const IRREVERSIBLE: [(&[&str], &str); 5] = [
    (&["kek", "revoke", "office/f2c9a5d0"], "Take KEK f2c9a5d0 of office out of use for good?"),
    (&["kek", "destroy", "office/f2c9a5d0"], "Destroy KEK f2c9a5d0 of office, and what only it opens?"),
    (&["recovery", "remove", "vm1", "--all"], "Remove all recovery passphrases of vm1?"),
    (&["recovery", "remove", "vm1", "--keyslot", "1"], "Remove the recovery passphrase in keyslot 1 of vm1?"),
    (&["create", "/srv/vm1.img", "--force"], "Overwrite what is on /srv/vm1.img?"),
];

#[test]
fn what_cannot_be_undone_is_asked_about() {
    let daemon = Daemon::start();
    for (arguments, question) in IRREVERSIBLE {
        for (answer, code) in [("yes\n", 0), ("no\n", 64), ("\n", 64)] {
            let mut session = start(&daemon, arguments);
            session.wait_for(&format!("{question} [yes/no] "));
            session.type_in(answer);
            let (status, seen) = session.end();
            assert_eq!(status.code(), Some(code), "{arguments:?}: {seen}");
            assert_eq!(seen.contains("nothing was done"), code != 0, "{seen}");
        }
    }
}

#[test]
fn what_cannot_be_undone_takes_yes_where_there_is_no_terminal() {
    let daemon = Daemon::start();
    for (arguments, _) in IRREVERSIBLE {
        let run = |more: &[&str]| {
            let mut command = blkseal(&daemon.socket);
            command.args(arguments).args(more);
            // SAFETY: setsid is async-signal-safe and changes the new process only.
            unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
            command.output().unwrap()
        };
        let output = run(&[]);
        let seen = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{seen}");
        assert!(seen.contains("nothing was done") && seen.contains("--yes"), "{seen}");
        assert_eq!(run(&["--yes"]).status.code(), Some(0));
    }
}
