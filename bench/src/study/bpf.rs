//! Where a request's time goes: in the block layer, in the driver (blkseal or dm-crypt), in the backing.
//!
//! bpftrace sums up tracepoints of the block layer (`bpf.bt`). Without it, or without rights, a study goes on without this.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commands::{self, Limit};
use super::{Result, StudyError, no_pipe};

const PROGRAM: &str = "bpftrace";
const SCRIPT: &str = include_str!("bpf.bt");

/// Means over all requests, in microseconds a request. What the block layer splits counts as its pieces; what dm-crypt splits,
/// as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Requests that were seen from their beginning to their end.
    pub requests: u64,
    /// Waiting in the block layer, above the driver and above the backing.
    pub block_us: f64,
    /// In the driver: blkseal with its way to and fro, or dm-crypt with its queues.
    pub driver_us: f64,
    /// In the backing device.
    pub backing_us: f64,
    /// The rest of what fio sees: system calls, and answers that wait until fio looks at them, which it does only when all
    /// of its depth is under way.
    pub outside_us: f64,
}

impl Split {
    /// All of it.
    pub fn total_us(&self) -> f64 {
        self.block_us + self.driver_us + self.backing_us + self.outside_us
    }

    /// Beside the mean latency that fio found, in microseconds.
    pub fn within(self, latency_us: f64) -> Self {
        let inside = Self { outside_us: 0.0, ..self };
        Self { outside_us: (latency_us - inside.total_us()).max(0.0), ..self }
    }

    /// From bpftrace's sums, in nanoseconds. `above` if there is a driver over the backing.
    fn from_sums(sums: &BTreeMap<String, f64>, above: bool) -> Option<Self> {
        let sum = |name: &str| sums.get(name).copied().unwrap_or(0.0);
        let requests = sum(if above { "@requests" } else { "@below_requests" });
        if requests < 1.0 {
            return None;
        }
        let mean_us = |nanoseconds: f64| nanoseconds / requests / 1000.0;
        let below = sum("@below_wait") + sum("@below");
        // The driver waits for what is below it. Sums of two moments that are not quite the same: never below nothing.
        let driver = if above { (sum("@driver") - below).max(0.0) } else { 0.0 };
        Some(Self {
            requests: requests as u64,
            block_us: mean_us(sum("@wait") + sum("@below_wait")),
            driver_us: mean_us(driver),
            backing_us: mean_us(sum("@below")),
            outside_us: 0.0,
        })
    }
}

/// What is missing for this view, if anything is.
pub fn missing() -> Option<String> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("where the time goes: this kernel has no BTF".to_owned());
    }
    match commands::run(PROGRAM, &["-e", "BEGIN { exit(); }"]) {
        Ok(_) => None,
        Err(error) => Some(format!("where the time goes: bpftrace does not run here: {error}")),
    }
}

/// bpftrace, looking.
pub struct Trace {
    child: Child,
    output: BufReader<ChildStdout>,
    above: bool,
    /// Seen to hang, once in hundreds of times.
    _limit: Limit,
}

impl Trace {
    /// Starts to look at the device numbered `above` (0 for none) over the one numbered `below` (0 for none).
    ///
    /// It is killed `limit` after this.
    pub fn start(above: u64, below: u64, limit: Duration) -> Result<Self> {
        let mut child = Command::new(PROGRAM)
            .args(["-f", "json", "-e", SCRIPT, &above.to_string(), &below.to_string()])
            // Keys are kept while requests are under way, of which there may be many.
            .env("BPFTRACE_MAP_KEYS_MAX", "65536")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let output = child.stdout.take().ok_or_else(no_pipe)?;
        let limit = Limit::new(&child, limit);
        let mut trace = Self { child, output: BufReader::new(output), above: above != 0, _limit: limit };
        let mut line = String::new();
        while trace.output.read_line(&mut line)? > 0 {
            if line.contains("ready") {
                return Ok(trace);
            }
        }
        Err(failed("it ended before it looked"))
    }

    /// Ends it and reads what it saw.
    pub fn finish(mut self) -> Result<Split> {
        self.signal();
        let mut sums = BTreeMap::new();
        for line in (&mut self.output).lines() {
            sums.extend(numbers(&line?));
        }
        self.child.wait()?;
        Split::from_sums(&sums, self.above).ok_or_else(|| failed("it saw no request"))
    }

    fn signal(&self) {
        if let Ok(pid) = self.child.id().try_into() {
            // It may have ended by itself, which shows in what it said.
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.signal();
        // Nothing is left to be read from it.
        let _ = self.child.wait();
    }
}

fn failed(said: &str) -> StudyError {
    StudyError::Program { program: PROGRAM.to_owned(), said: said.to_owned() }
}

/// The maps in a line of bpftrace's JSON that hold one number.
fn numbers(line: &str) -> Vec<(String, f64)> {
    let Ok(Value::Object(mut line)) = serde_json::from_str(line) else { return Vec::new() };
    let Some(Value::Object(data)) = line.remove("data") else { return Vec::new() };
    data.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn the_driver_is_what_is_left_of_its_time_without_what_is_below() {
        let seen = sums(&[
            ("@requests", 2.0),
            ("@wait", 4000.0),
            ("@driver", 100_000.0),
            ("@below_wait", 2000.0),
            ("@below", 30_000.0),
        ]);
        let split = Split::from_sums(&seen, true).unwrap();
        let seen = Split { requests: 2, block_us: 3.0, driver_us: 34.0, backing_us: 15.0, outside_us: 0.0 };
        assert_eq!(split, seen);
        assert_eq!(split.total_us(), 52.0);
        assert_eq!(split.within(60.0), Split { outside_us: 8.0, ..seen });
        assert_eq!(split.within(50.0), seen);
    }

    #[test]
    fn without_a_driver_there_is_none_of_its_time() {
        let seen = sums(&[("@below_requests", 1.0), ("@below", 5000.0)]);
        let split = Split::from_sums(&seen, false).unwrap();
        assert_eq!((split.driver_us, split.backing_us), (0.0, 5.0));
        assert_eq!(Split::from_sums(&seen, true), None);
    }

    #[test]
    fn numbers_are_read_and_the_rest_is_not() {
        assert_eq!(numbers(r#"{"type": "map", "data": {"@wait": 12}}"#), [("@wait".to_owned(), 12.0)]);
        assert_eq!(numbers(r#"{"type": "map", "data": {"@queued": {"8": 12}}}"#), []);
        assert_eq!(numbers(""), []);
    }
}
