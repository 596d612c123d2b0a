//! What the daemon keeps of a device on disk, until the next boot, for a daemon that comes later.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::control::worker::{Job, Report};
use crate::identity::FileId;
use crate::name::Name;

/// Bytes of the longest record.
const LIMIT: u64 = 64 << 10;

/// What is known of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Record {
    /// It is served.
    Serving {
        /// What its worker said when it began to serve: all that older releases wrote.
        #[serde(flatten)]
        report: Box<Report>,
        /// What the backing is; none for a device without one, and in what older releases wrote.
        backing_id: Option<FileId>,
    },
    /// A worker was about to be started on this job. The device, where there is one, is known by the job's word.
    Starting {
        /// What the worker was told.
        job: Box<Job>,
    },
}

impl Record {
    /// Reads the record at `path`; none where there is none that makes sense.
    pub fn read(path: &Path) -> Option<Self> {
        let bytes = atomic_file::read_limited(path, LIMIT).ok()?;
        serde_json::from_slice(&bytes).map_err(|error| log::warn!("{}: {error}", path.display())).ok()
    }

    /// Writes the record to `path`, in the place of what is there.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        atomic_file::replace(path, &serde_json::to_vec(self)?)
    }

    /// The volume whose device it is.
    pub fn name(&self) -> &Name {
        match self {
            Self::Serving { report, .. } => &report.job.name,
            Self::Starting { job } => &job.name,
        }
    }
}

/// Names of the volumes of which a record or a worker's socket is in `directory`.
pub(super) fn left_behind(directory: &Path) -> BTreeSet<Name> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Path::new(&entry.file_name()).file_stem()?.to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"job":{"name":"vol","uuid":null,"target":"plain","backing":"/disk","header":null,"data_offset":0,
        "size":4096,"sector_size":4096,"queues":1,"threads":1,"depth":1,"max_io_bytes":4096,"spin_us":0,"discards":false,
        "read_only":false,"cpu_path":null,"socket":"/run/blkseal/workers/vol.sock"},"pid":7,"device_id":3,
        "node":"/dev/ublkb3","threads":1,"cpu_path":null,"key_memory":null,"counters":{"reads":0,"read_bytes":0,"writes":0,
        "written_bytes":0,"flushes":0,"discards":0,"write_zeroes":0,"errors":0}}"#;

    #[test]
    fn records_are_read_as_they_were_written_and_as_older_releases_wrote_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vol.json");
        fs::write(&path, OLD).unwrap();
        let Some(Record::Serving { report, backing_id }) = Record::read(&path) else {
            panic!("an old record")
        };
        assert!(report.job.word.is_none() && backing_id.is_none());
        assert_eq!(report.job.word(), crate::control::worker::old_word(Path::new("/run/blkseal/workers")));

        let job = Box::new(Job { word: Some(ublk_targets::device::Word::new(5)), ..report.job.clone() });
        Record::Starting { job: job.clone() }.write(&path).unwrap();
        let Some(Record::Starting { job: read }) = Record::read(&path) else { panic!("a job") };
        assert_eq!(read, job);
        let id = FileId::at(&path).unwrap();
        let report = Box::new(Report { job: *job, ..*report });
        Record::Serving { report, backing_id: Some(id) }.write(&path).unwrap();
        let Some(Record::Serving { report, backing_id }) = Record::read(&path) else { panic!("a record") };
        assert!(report.job.word.is_some() && backing_id == Some(id));
        assert_eq!(left_behind(directory.path()).len(), 1);
        fs::write(&path, "{}").unwrap();
        assert!(Record::read(&path).is_none());
    }
}
