//! Commands: run them, and say everything that they said when they do not do what the test needs.

use std::process::{Command, Output, Stdio};

/// Runs `words` (split at white space), which must succeed, and gives its standard output.
pub fn run(words: &str) -> String {
    run_in(&mut command(words))
}

/// Runs a command, which must succeed, and gives its standard output.
pub fn run_in(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The command of `words`, split at white space.
pub fn command(words: &str) -> Command {
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

/// Both outputs of a command, for a message.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
