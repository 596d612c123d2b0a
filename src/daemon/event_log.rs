//! The event log on disk: lines in segments of bounded size and number.
//!
//! Segment `events-POSITION.jsonl` begins POSITION bytes after the log's first byte, so that a position says where a
//! reader goes on, whatever segments have come and gone meanwhile.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of a segment, after which the next is begun.
    pub segment: u64,
    /// Segments; where there are more, the oldest goes.
    pub segments: usize,
}

impl Default for Bounds {
    /// Some hundred thousand events.
    fn default() -> Self {
        Self { segment: 4 << 20, segments: 8 }
    }
}

/// The end of the log, where it grows.
pub(super) struct EventLog {
    directory: PathBuf,
    bounds: Bounds,
    /// The position of the last segment.
    start: u64,
    /// Bytes in it.
    length: u64,
    /// Whether it ends within a line.
    torn: bool,
    /// The segment, once it was written to.
    file: Option<File>,
}

impl EventLog {
    /// The log in `directory`, which is made for root alone where it is missing.
    pub fn open(directory: PathBuf, bounds: Bounds) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let start = segments(&directory)?.last().copied().unwrap_or(0);
        let mut log = Self { directory, bounds, start, length: 0, torn: false, file: None };
        match File::open(path(&log.directory, start)) {
            Ok(mut last) => {
                log.length = last.seek(SeekFrom::End(0))?;
                log.torn = log.length > 0 && last_byte(&mut last)? != b'\n';
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(log)
    }

    /// Whether the last line is incomplete. The next one begins on a line of its own all the same.
    pub fn is_torn(&self) -> bool {
        self.torn
    }

    /// Appends a line, which is on the medium when this returns.
    pub fn append(&mut self, line: &str) -> io::Result<()> {
        let before = if self.torn { "\n" } else { "" };
        let bytes = format!("{before}{line}\n");
        if self.length > 0 && self.length + bytes.len() as u64 > self.bounds.segment {
            self.rotate();
        }
        let written = self.write(bytes.as_bytes());
        // Whatever part of it was written stays: the log is appended to only.
        self.torn = written.is_err();
        if written.is_ok() {
            self.length += bytes.len() as u64;
        } else {
            self.length =
                self.file.take().and_then(|file| Some(file.metadata().ok()?.len())).unwrap_or(self.length);
        }
        written
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            let path = path(&self.directory, self.start);
            let file = File::options().create(true).append(true).mode(0o600).open(path)?;
            File::open(&self.directory)?.sync_all()?;
            self.file = Some(file);
            self.remove_oldest();
        }
        let mut file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    fn rotate(&mut self) {
        self.start += self.length;
        (self.length, self.torn, self.file) = (0, false, None);
    }

    fn remove_oldest(&self) {
        let segments = segments(&self.directory).unwrap_or_default();
        for start in &segments[..segments.len().saturating_sub(self.bounds.segments)] {
            let path = path(&self.directory, *start);
            if let Err(error) = fs::remove_file(&path) {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }

    /// What reads the log as it is now.
    pub fn reader(&self) -> Reader {
        Reader { directory: self.directory.clone(), end: self.end() }
    }

    /// The position after the last line.
    pub fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// The log up to an end.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    directory: PathBuf,
    end: u64,
}

impl Reader {
    /// What is in the log from position `from` on, `limit` bytes at most, and the position after it: whole lines, but
    /// for what is torn. Of what is gone already, nothing; at the end, nothing and the end.
    pub fn read(&self, from: u64, limit: u64) -> io::Result<(Vec<u8>, u64)> {
        let segments = segments(&self.directory)?;
        let ahead = segments.partition_point(|start| *start <= from);
        let (start, until) = match ahead.checked_sub(1) {
            Some(at) => (segments[at], segments.get(ahead).copied().unwrap_or(self.end)),
            None => {
                (segments.first().copied().unwrap_or(self.end), segments.get(1).copied().unwrap_or(self.end))
            }
        };
        let from = from.max(start).min(self.end);
        let mut bytes = Vec::new();
        match File::open(path(&self.directory, start)) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(from - start))?;
                file.take(limit.min(until.saturating_sub(from))).read_to_end(&mut bytes)?;
            }
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if bytes.is_empty() {
            return Ok((bytes, until.max(from)));
        }
        if from + (bytes.len() as u64) < until
            && let Some(last) = bytes.iter().rposition(|&byte| byte == b'\n')
        {
            bytes.truncate(last + 1);
        }
        let next = from + bytes.len() as u64;
        Ok((bytes, next))
    }

    /// The position at which it ends.
    pub fn end(&self) -> u64 {
        self.end
    }
}

fn path(directory: &Path, start: u64) -> PathBuf {
    directory.join(format!("events-{start:020}.jsonl"))
}

/// Where the segments begin, in order.
fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let start = |name: &str| name.strip_prefix("events-")?.strip_suffix(".jsonl")?.parse::<u64>().ok();
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory)? {
        segments.extend(entry?.file_name().to_str().and_then(start));
    }
    segments.sort_unstable();
    Ok(segments)
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut byte = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Bounds = Bounds { segment: 200, segments: 3 };

    fn open(directory: &tempfile::TempDir, bounds: Bounds) -> EventLog {
        EventLog::open(directory.path().join("events"), bounds).unwrap()
    }

    fn lines(bytes: &[u8]) -> Vec<String> {
        String::from_utf8_lossy(bytes).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// All lines from `from` on, read in pieces of `limit` bytes, and the position at the end.
    fn read(log: &EventLog, mut from: u64, limit: u64) -> (Vec<String>, u64) {
        let (reader, mut all) = (log.reader(), Vec::new());
        loop {
            let (bytes, next) = reader.read(from, limit).unwrap();
            assert!(bytes.len() as u64 <= limit);
            all.extend(lines(&bytes));
            if next == reader.end() {
                return (all, next);
            }
            assert!(next > from, "no way forward at {from}");
            from = next;
        }
    }

    fn line(number: usize) -> String {
        format!("{{\"line\": {number:04}}}")
    }

    #[test]
    fn what_was_written_is_read_in_pieces_of_any_size_and_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(&directory, Bounds::default());
        assert_eq!(read(&log, 0, 100), (vec![], 0));
        (0..50).for_each(|number| log.append(&line(number)).unwrap());
        let mut log = open(&directory, Bounds::default());
        (50..60).for_each(|number| log.append(&line(number)).unwrap());
        let all: Vec<String> = (0..60).map(line).collect();
        for limit in [15, 16, 40, 899, 900, 10_000] {
            assert_eq!(read(&log, 0, limit), (all.clone(), log.end()), "{limit}");
        }
        let (first, next) = log.reader().read(0, 40).unwrap();
        assert_eq!(lines(&first), all[..2]);
        assert_eq!(read(&log, next, 1000).0, all[2..]);
        assert_eq!(read(&log, log.end(), 1000).0, [""; 0]);
    }

    #[test]
    fn a_reader_goes_on_where_it_was_through_rotation_and_past_what_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(&directory, SMALL);
        let mut follower = (Vec::new(), 0);
        for number in 0..100 {
            log.append(&line(number)).unwrap();
            let (new, next) = read(&log, follower.1, 1000);
            follower.0.extend(new);
            follower.1 = next;
            let sizes: Vec<u64> = segments(&directory.path().join("events"))
                .unwrap()
                .into_iter()
                .map(|start| fs::metadata(path(&log.directory, start)).unwrap().len())
                .collect();
            assert!(
                sizes.len() <= SMALL.segments && sizes.iter().all(|&size| size <= SMALL.segment),
                "{sizes:?}"
            );
        }
        assert_eq!(follower.0, (0..100).map(line).collect::<Vec<_>>());
        let (kept, end) = read(&open(&directory, SMALL), 0, 1000);
        assert_eq!(kept, (100 - kept.len()..100).map(line).collect::<Vec<_>>(), "the newest are kept");
        assert!(kept.len() >= 2 * 13 && end == follower.1, "{}", kept.len());
    }

    #[test]
    fn a_line_that_a_crash_cut_off_takes_no_other_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(&directory, Bounds::default());
        (0..3).for_each(|number| log.append(&line(number)).unwrap());
        let file = path(&log.directory, 0);
        let whole = fs::read(&file).unwrap();
        let length = whole.len() / 3;
        for cut in 2 * length..=whole.len() {
            fs::write(&file, &whole[..cut]).unwrap();
            let mut log = open(&directory, Bounds::default());
            assert_eq!(log.is_torn(), cut != 2 * length && cut != whole.len(), "{cut}");
            log.append(&line(7)).unwrap();
            let read = read(&log, 0, 1000).0;
            assert_eq!((&read[..2], read.last()), (&[line(0), line(1)][..], Some(&line(7))), "{cut}");
            assert!(
                read.len() == 3 || whole[..cut].ends_with(read[2].as_bytes()) || cut == whole.len(),
                "{read:?}"
            );
            assert!(fs::read(&file).unwrap().starts_with(&whole[..cut]), "nothing is taken back");
        }
        // As some file systems leave it: the length of the line, and nothing in it.
        fs::write(&file, [&whole[..2 * length], &[0; 40]].concat()).unwrap();
        let mut log = open(&directory, Bounds::default());
        log.append(&line(7)).unwrap();
        assert_eq!(read(&log, 0, 20).0.last(), Some(&line(7)));
    }

    #[test]
    fn positions_that_are_none_are_answered_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(&directory, SMALL);
        (0..40).for_each(|number| log.append(&line(number)).unwrap());
        for from in (0..log.end() + 50).chain([u64::MAX]) {
            let (all, end) = read(&log, from, 64);
            assert!(end == log.end() && all.len() <= 40, "{from}");
        }
        fs::write(log.directory.join("events-x.jsonl"), "not a segment").unwrap();
        fs::write(log.directory.join("notes"), "neither").unwrap();
        assert_eq!(read(&open(&directory, SMALL), log.end(), 64).1, log.end());
    }
}
