//! `open_time SOCKET VOLUME`: opens a volume by a call of the daemon's API (Varlink), and prints how many milliseconds it was
//! until the answer. What `blkseal open` takes besides is the start of a program.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [socket, volume] = arguments.as_slice() else {
        return Err("usage: open_time SOCKET VOLUME".into());
    };
    let call = json!({ "method": "io.blkseal.Daemon.Open", "parameters": { "volume": volume } });
    let start = Instant::now();
    let mut daemon = UnixStream::connect(socket)?;
    daemon.write_all(format!("{call}\0").as_bytes())?;
    let mut answer = Vec::new();
    BufReader::new(daemon).read_until(0, &mut answer)?;
    let elapsed = start.elapsed();
    let answer: Value = serde_json::from_slice(answer.strip_suffix(&[0]).ok_or("no answer")?)?;
    if answer.get("error").is_some() {
        return Err(answer.to_string().into());
    }
    println!("{:.1}", elapsed.as_secs_f64() * 1000.0);
    Ok(())
}
