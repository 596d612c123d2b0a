//! The ratios of earlier runs, by CPU, in a file that is kept with the source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::Ratios;

const HEADING: &str = "\
# Ratios that `ci/perf` holds a run against, by CPU: of a cipher kernel to raw AES of the same instruction, and, for the data
# path, of the processor time of `plain` and the cipher to that of `crypt`. `ci/perf --record` writes them.

";

/// Why the file does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// It says something else than ratios.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The content of the file: ratios by CPU.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stored(BTreeMap<String, Ratios>);

impl Stored {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, StoredError> {
        let text =
            fs::read_to_string(path).map_err(|source| StoredError::Io { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|source| StoredError::Content { path: path.to_owned(), source: Box::new(source) })
    }

    /// The ratios of `cpu`.
    pub fn of(&self, cpu: &str) -> Option<&Ratios> {
        self.0.get(cpu)
    }

    /// Puts `ratios`, rounded to thousandths, in the place of what is stored for `cpu`.
    pub fn replace(&mut self, cpu: &str, mut ratios: Ratios) {
        for ratio in ratios.values_mut().flat_map(BTreeMap::values_mut) {
            *ratio = (*ratio * 1000.0).round() / 1000.0;
        }
        self.0.insert(cpu.to_owned(), ratios);
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<(), StoredError> {
        let text = toml::to_string(self)
            .map_err(|source| StoredError::Content { path: path.to_owned(), source: Box::new(source) })?;
        fs::write(path, format!("{HEADING}{text}"))
            .map_err(|source| StoredError::Io { path: path.to_owned(), source })
    }
}

/// The CPU's vendor, family and model: what decides how fast its instructions are beside each other.
pub fn this_cpu() -> io::Result<String> {
    Ok(cpu_of(&fs::read_to_string("/proc/cpuinfo")?))
}

fn cpu_of(cpuinfo: &str) -> String {
    let field = |name: &str| {
        cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map_or("unknown", |(_, value)| value.trim())
    };
    format!("{} family {} model {}", field("vendor_id"), field("cpu family"), field("model"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ratios.toml");
        let ratios = Ratios::from([(
            "cipher vaes512".to_owned(),
            BTreeMap::from([("encrypt 4 KiB, sectors of 512".to_owned(), 0.912_345)]),
        )]);
        let mut stored = Stored::default();
        stored.replace("A family 1 model 2", ratios.clone());
        stored.replace("B family 3 model 4", ratios);
        stored.write(&path).unwrap();
        let read = Stored::read(&path).unwrap();
        assert_eq!(read, stored);
        assert_eq!(
            read.of("B family 3 model 4").unwrap()["cipher vaes512"]["encrypt 4 KiB, sectors of 512"],
            0.912
        );
        assert!(read.of("C family 5 model 6").is_none());
    }

    #[test]
    fn a_cpu_is_named_by_vendor_family_and_model() {
        let cpuinfo = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\nmodel name\t: Xeon\n";
        assert_eq!(cpu_of(cpuinfo), "GenuineIntel family 6 model 106");
    }
}
