//! The log of the daemon and its workers: standard error, which systemd takes to the journal.

use env_logger::{Builder, Env, Target};

/// Starts the log. `RUST_LOG` says how much is in it; without it, changes and warnings are.
pub fn start() {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info,libublk=warn"));
    builder.target(Target::Stderr);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.format_timestamp(None); // the journal has its own
    }
    // Fails only where a log was started already.
    let _ = builder.try_init();
}
