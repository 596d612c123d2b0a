//! Text for people or JSON for programs, on standard output.

use std::borrow::Cow;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::control::{Failure, FailureKind, Volume};

/// Colour of what is well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Colour of what waits for somebody.
pub const WAITING: Style = AnsiColor::Yellow.on_default();
/// Colour of what is not well.
pub const BAD: Style = AnsiColor::Red.on_default();
const HEADING: Style = Style::new().bold();

/// Where answers go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Answers in JSON or in text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether answers are in JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Warns of what the user of `volume` should know; in JSON the answer says it.
    pub fn warn_of(self, volume: &Volume) {
        if let Some(notice) = volume.notice.as_ref().filter(|_| !self.json) {
            log::warn!("volume {}: {notice}", volume.name);
        }
    }

    /// Writes `answer` as a line of JSON, or as the text that `text` makes of it.
    pub fn answer<T: Serialize>(self, answer: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        write_all(&self.render(answer, text)?)
    }

    /// The line of JSON, or the text that `text` makes of it, which `answer` is.
    pub fn render<T: Serialize>(
        self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<String, Failure> {
        if !self.json {
            return Ok(text(answer));
        }
        serde_json::to_string(answer).map(|line| line + "\n").map_err(|error| {
            Failure::new(FailureKind::Internal, format!("cannot write the answer as JSON: {error}"))
        })
    }
}

/// Writes `text` to standard output, without its colours where that is no terminal or NO_COLOR is set. A reader that
/// has seen enough and closed its end is no failure.
pub fn write_all(text: &str) -> Result<(), Failure> {
    write_while_read(text).map(|_| ())
}

/// As [`write_all`]; says whether the reader is still there.
pub fn write_while_read(text: &str) -> Result<bool, Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(FailureKind::Io, format!("cannot write to standard output: {error}"))),
    }
}

/// A piece of a table or of fields, with its colour.
#[derive(Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A piece in colour.
    pub fn styled(text: &str, style: Style) -> Self {
        Self { text: text.to_owned(), style }
    }

    fn padded(&self, width: usize) -> String {
        let text = printable(&self.text);
        let style = self.style;
        let pad = width.saturating_sub(text.chars().count());
        format!("{style}{text}{style:#}{:pad$}", "")
    }

    fn width(&self) -> usize {
        printable(&self.text).chars().count()
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.to_string(), style: Style::new() }
    }
}

/// Rows under a heading, each column as wide as its widest cell.
pub fn table<const N: usize>(heading: [&str; N], rows: Vec<[Cell; N]>) -> String {
    let mut all = vec![heading.map(|text| Cell::styled(text, HEADING))];
    all.extend(rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| all.iter().map(|row| row[column].width()).max().unwrap_or(0));
    all.iter().fold(String::new(), |text, row| {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| cell.padded(width)).collect();
        text + line.join("  ").trim_end() + "\n"
    })
}

/// `key: value` lines, the values one below the other.
pub fn fields(fields: &[(&str, Cell)]) -> String {
    let width = fields.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
    fields.iter().fold(String::new(), |text, (key, value)| {
        text + format!("{:width$} {}", format!("{key}:"), value.padded(0)).trim_end() + "\n"
    })
}

/// `text` with control characters escaped, so that no name can move the cursor or end the line.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return text.into();
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect::<String>().into()
}

/// A size in bytes and, where it has at least one KiB, in the largest fitting binary unit: `1536 (1.5 KiB)`.
pub fn size(bytes: u64) -> String {
    match binary(bytes) {
        Some(short) => format!("{bytes} ({short})"),
        None => bytes.to_string(),
    }
}

/// A size in the largest fitting binary unit: `1.5 KiB`, `100 B`.
pub fn short_size(bytes: u64) -> String {
    binary(bytes).unwrap_or_else(|| format!("{bytes} B"))
}

/// At most two decimals, cut off rather than rounded up: a device never looks larger than it is.
fn binary(bytes: u64) -> Option<String> {
    const UNITS: [(u32, &str); 6] =
        [(60, "EiB"), (50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let (shift, unit) = UNITS.into_iter().find(|(shift, _)| bytes >> shift > 0)?;
    let fraction = u128::from(bytes) & ((1 << shift) - 1);
    let number = format!("{}.{:02}", bytes >> shift, (fraction * 100) >> shift);
    Some(format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.')))
}

#[cfg(test)]
mod tests {
    use super::{Cell, fields, printable, short_size, size, table};

    #[test]
    fn sizes_are_shown_in_bytes_and_never_rounded_up() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1024 (1 KiB)"),
            (1536, "1536 (1.5 KiB)"),
            ((1 << 20) - 1, "1048575 (1023.99 KiB)"),
            (10 << 20, "10485760 (10 MiB)"),
            (251_658_240, "251658240 (240 MiB)"),
            (u64::MAX, "18446744073709551615 (15.99 EiB)"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(short_size(100), "100 B");
    }

    #[test]
    fn columns_line_up_and_lines_end_without_blanks() {
        let rows = vec![["a".into(), "bcd".into()], ["efgh".into(), "".into()]];
        let plain = anstream::adapter::strip_str(&table(["X", "Y"], rows)).to_string();
        assert_eq!(plain, "X     Y\na     bcd\nefgh\n");
        let plain = fields(&[("a", Cell::from(1)), ("long", Cell::from("x"))]);
        assert_eq!(plain, "a:    1\nlong: x\n");
    }

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(printable("a\n\u{1b}[2Jß"), "a\\n\\u{1b}[2Jß");
    }
}
