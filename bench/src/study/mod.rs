//! What encryption costs under a real kernel: fio on the open devices, in interleaved rounds.
//!
//! A study is a matrix of workloads, devices and rounds. One process (`run`) plans it, keeps what is finished and writes
//! the report; another (`measure`), which is root on a kernel with ublk, here or in the VM, does the tasks it is given and
//! says each result on a line. So a study that was interrupted goes on where it stopped, and the guest needs no disk.
//!
//! | file | what it holds |
//! |---|---|
//! | `matrix` | workloads, devices, presets |
//! | `cells` | settings, tasks, results, and the files they are kept in |
//! | `run` | plans, starts `measure`, collects, shows progress |
//! | `measure` | does tasks, one after the other |
//! | `devices` | the backing, and the devices over it |
//! | `commands` | starting programs, and being asked to stop |
//! | `backing` | memory of null_blk, or a device that holds nothing |
//! | `fio` | fio's jobs and what it reports |
//! | `meters` | processor time, cycles and requests while fio runs |
//! | `bpf` | where a request's time goes, seen by bpftrace |
//! | `host` | the machine, in words |
//! | `numbers` | numbers as people read them |
//! | `summary` | medians over the rounds |
//! | `targets` | what was asked of the ratios, and what was reached |
//! | `report` | the page, with `plots` |

pub mod backing;
pub mod bpf;
pub mod cells;
pub mod commands;
pub mod devices;
pub mod fio;
pub mod host;
pub mod matrix;
pub mod measure;
pub mod meters;
pub mod numbers;
pub mod plots;
pub mod report;
pub mod run;
pub mod summary;
pub mod targets;

/// What a study fails with.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// Asked for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// Something that is needed is missing here.
    #[error("{0}")]
    Unavailable(String),
    /// A program that was started failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Its name and arguments.
        program: String,
        /// The end of what it said.
        said: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// What a program or file said makes no sense.
    #[error("{what}: {source}")]
    Json {
        /// Whose words.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Asked to stop by a signal.
    #[error("interrupted; the same command goes on where it stopped")]
    Interrupted,
    /// Anything else of the system.
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl StudyError {
    /// A failure to read or write `path`.
    pub fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File { path: path.display().to_string(), source }
    }

    /// The exit status that says what kind of failure it was, as sysexits(3) has them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Unavailable(_) => 69,
            Self::Json { .. } => 65,
            Self::Program { .. } => 70,
            Self::File { .. } | Self::System(_) => 74,
            Self::Interrupted => 130,
        }
    }
}

/// What a part of a study comes to.
pub type Result<T> = std::result::Result<T, StudyError>;

/// A child that was started with a pipe and has none.
fn no_pipe() -> StudyError {
    std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()
}
