//! A line from the terminal, without echo, straight into secret memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use ublk_targets::secret::Secret;

/// Bytes of the longest line that the kernel's line discipline passes on whole, its end included; of a longer line
/// it drops the rest without a word.
pub const LONGEST_LINE: usize = 4096;

/// Signals that end or stop a process from its terminal. They wait until the terminal echoes again.
const SIGNALS: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGTSTP];

/// What was read.
pub enum Line {
    /// This many bytes at the start of the secret, without the line's end.
    Whole(usize),
    /// A line that the terminal may have cut short.
    TooLong,
}

/// The terminal that controls this process.
#[derive(Debug)]
pub struct Terminal(File);

impl Terminal {
    /// Opens it. Fails where the process has none.
    pub fn open() -> io::Result<Self> {
        File::options().read(true).write(true).open("/dev/tty").map(Self)
    }

    /// Asks for a line with `prompt` and reads it into `secret`, which has at least [`LONGEST_LINE`] bytes.
    ///
    /// A signal that ends or stops this process does so after the terminal is as it was; a process that goes on
    /// after a stop asks again.
    pub fn ask(&self, prompt: &str, secret: &mut Secret) -> io::Result<Line> {
        assert!(secret.len() >= LONGEST_LINE, "a line of the terminal fits");
        loop {
            match self.ask_once(prompt, secret)? {
                Event::Line(line) => return Ok(line),
                Event::Signal(signal) => raise(signal)?,
            }
        }
    }

    /// Asks a question and reads the answer, which shows: whether it is `yes`.
    pub fn confirm(&self, question: &str) -> io::Result<bool> {
        (&self.0).write_all(question.as_bytes())?;
        let mut answer = [0; 16];
        // One read of a terminal in canonical mode gives one line, or as much of it as there is room for.
        let length = (&self.0).read(&mut answer)?;
        Ok(answer[..length].trim_ascii_end() == b"yes")
    }

    fn ask_once(&self, prompt: &str, secret: &mut Secret) -> io::Result<Event> {
        let signals = Held::new()?; // let go last: the terminal echoes by then
        let silent = Silent::new(&self.0)?;
        (&self.0).write_all(prompt.as_bytes())?;
        let event = self.wait(&signals.fd, secret);
        drop(silent);
        if !matches!(event, Ok(Event::Line(_))) {
            (&self.0).write_all(b"\n")?;
        }
        event
    }

    fn wait(&self, signals: &SignalFd, secret: &mut Secret) -> io::Result<Event> {
        loop {
            let mut ready = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            if ready[0].any() == Some(true) {
                let number = signals.read_signal()?.map_or(0, |info| info.ssi_signo.cast_signed());
                return Ok(Event::Signal(Signal::try_from(number)?));
            }
            // One read of a terminal in canonical mode gives one line.
            let read = (&self.0).read(secret.expose_mut())?;
            return Ok(Event::Line(match secret.expose()[..read].strip_suffix(b"\n") {
                Some(line) if line.len() >= LONGEST_LINE - 1 => Line::TooLong,
                Some(line) => Line::Whole(line.len()),
                None => Line::Whole(read), // ended by ^D
            }));
        }
    }
}

enum Event {
    Line(Line),
    Signal(Signal),
}

/// Holds back [`SIGNALS`] until dropped, and tells of them.
struct Held {
    fd: SignalFd,
    before: SigSet,
}

impl Held {
    fn new() -> io::Result<Self> {
        let set: SigSet = SIGNALS.into_iter().collect();
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
        let before = set.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
        Ok(Self { fd, before })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask(); // fails for a bad argument only
    }
}

/// A terminal that does not echo until this is dropped.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        silent.local_flags.insert(LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(terminal, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before); // the terminal may be gone
    }
}
