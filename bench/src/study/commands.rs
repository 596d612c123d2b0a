//! Starting other programs, and being asked to stop.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{Result, StudyError};

/// Runs a command and returns what it said, with what it said of a failure.
pub fn output(command: &mut Command) -> Result<String> {
    let program = format!("{command:?}").replace('"', "");
    let said = |text: String| StudyError::Program { program: program.clone(), said: text };
    let output = command.stdin(Stdio::null()).output().map_err(|error| said(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(said(if error.is_empty() { output.status.to_string() } else { error }))
}

/// Runs a program with arguments; see [`output`].
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    output(Command::new(program).args(arguments))
}

/// Tries until it works, for some seconds: a device that udev has open cannot be closed.
pub fn retry(mut attempt: impl FnMut() -> Result<String>) -> Result<String> {
    for _ in 0..20 {
        if let Ok(said) = attempt() {
            return Ok(said);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    attempt()
}

/// Kills a program that does not end in time, unless this value ends before.
pub struct Limit {
    _ended: mpsc::Sender<()>,
}

impl Limit {
    /// From now on.
    pub fn new(child: &Child, limit: Duration) -> Self {
        let (ended, end) = mpsc::channel::<()>();
        let pid = child.id().cast_signed();
        std::thread::spawn(move || {
            if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                // It is not reaped yet: who does that lets go of this value before, or waits for what is killed here.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        });
        Self { _ended: ended }
    }
}

/// Whether somebody asked to stop, by Ctrl-C or SIGTERM.
#[derive(Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on, these signals only ask.
    pub fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // A second one ends the process as it would without us.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&asked))?;
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
        }
        Ok(Self(asked))
    }

    /// Fails if somebody asked.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(StudyError::Interrupted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let limit = Limit::new(&child, Duration::from_millis(1));
        assert!(!child.wait().unwrap().success());
        drop(limit);
    }

    #[test]
    fn a_program_that_ends_in_time_is_left_alone() {
        let mut child = Command::new("sleep").arg("0.2").spawn().unwrap();
        drop(Limit::new(&child, Duration::from_millis(50)));
        assert!(child.wait().unwrap().success());
    }
}
