//! `blkseal man`: manual pages, a file a command.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::roff::{Roff, roman};
use serde::Serialize;

use super::output::Output;
use super::{help, values};
use crate::control::{Failure, FailureKind};

/// Write the manual pages into a directory
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::MAN))]
pub struct Man {
    /// The directory; made where it is missing
    #[arg(value_parser = values::path)]
    dir: PathBuf,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    files: Vec<PathBuf>,
}

impl Man {
    /// Runs the verb.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let mut files = Vec::new();
        let written = std::fs::create_dir_all(&self.dir).and_then(|()| {
            let mut command = super::command();
            command.build();
            write_pages(&command, &self.dir, &mut files)
        });
        written.map_err(|error| {
            Failure::new(
                FailureKind::Io,
                format!("cannot write manual pages to {}: {error}", self.dir.display()),
            )
        })?;
        output.answer(&Written { files }, |Written { files }| {
            format!("{} manual pages are in {}\n", files.len(), self.dir.display())
        })
    }
}

fn write_pages(command: &Command, dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let page = clap_mangen::Man::new(command.clone()).source(env!("CARGO_PKG_VERSION")).manual("blkseal");
    let path = dir.join(page.get_filename());
    std::fs::write(&path, render(&page, command)?)?;
    files.push(path);
    command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .try_for_each(|sub| write_pages(sub, dir, files))
}

/// The sections that clap_mangen makes, and those of the long help's end.
fn render(page: &clap_mangen::Man, command: &Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    let end = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    sections(&end).to_writer(&mut text)?;
    Ok(text)
}

/// Sections, each a heading that ends in a colon and indented lines, to be set as they are.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    for section in text.split("\n\n") {
        let (heading, lines) = section.split_once(":\n").unwrap_or(("Notes", section));
        roff.control("SH", [heading.to_uppercase().as_str()]).control("nf", []);
        roff.extend([section_lines(lines)]);
        roff.control("fi", []);
    }
    roff
}

fn section_lines(lines: &str) -> Roff {
    let mut roff = Roff::new();
    lines.lines().for_each(|line| {
        roff.text([roman(line)]).control("br", []);
    });
    roff
}
