//! fio's jobs, and what it reports.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cells::from_json;
use super::matrix::Workload;
use super::{Result, StudyError};

/// Seconds before fio counts: caches and queues fill.
pub const RAMP_SECONDS: f64 = 0.4;

/// How long requests took, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Of all requests together, by their number.
    pub mean: f64,
    /// Half of them took no longer.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p99_9: f64,
    /// 9999 of 10000.
    pub p99_99: f64,
}

impl Latency {
    /// The percentiles by name, in order.
    pub fn percentiles(&self) -> [(&'static str, f64); 4] {
        [("p50", self.p50), ("p99", self.p99), ("p99.9", self.p99_9), ("p99.99", self.p99_99)]
    }
}

/// What fio found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Requests a second.
    pub iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// From handing a request in to its end.
    pub latency: Latency,
}

/// fio's job file: the load on the first `area_mib` MiB of each of `paths` at once.
///
/// Latency is the whole of it, with the time that handing in takes (`lat`, not `clat`): dm-crypt without its write queue
/// encrypts there.
pub fn job_file(workload: &Workload, paths: &[PathBuf], area_mib: u64, seconds: u32) -> String {
    let (rw, reads) = workload.pattern.fio();
    let Workload { block_kib, depth, jobs, .. } = workload;
    let ramp = RAMP_SECONDS * 1000.0;
    let mut text = format!(
        "[global]\nrw={rw}\nbs={block_kib}k\niodepth={depth}\nnumjobs={jobs}\nioengine=libaio\ndirect=1\n\
         time_based\nruntime={seconds}s\nramp_time={ramp:.0}ms\nnorandommap\nrandrepeat=1\ngroup_reporting\n\
         unified_rw_reporting=mixed\nlat_percentiles=1\nclat_percentiles=0\npercentile_list=50:99:99.9:99.99\n"
    );
    if let Some(reads) = reads {
        text += &format!("rwmixread={reads}\n");
    }
    if workload.pattern.is_sequential() {
        // Each job goes through a part of its own, as separate streams do.
        let part = area_mib / u64::from(*jobs);
        text += &format!("size={part}m\noffset_increment={part}m\n");
    } else {
        text += &format!("size={area_mib}m\n");
    }
    for (number, path) in paths.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(text, "[volume{number}]\nfilename={}\n", path.display());
    }
    text
}

#[derive(Deserialize)]
struct Report {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i32,
    mixed: Mixed,
}

#[derive(Deserialize)]
struct Mixed {
    iops: f64,
    bw_bytes: f64,
    total_ios: u64,
    lat_ns: LatencyNs,
}

#[derive(Deserialize)]
struct LatencyNs {
    mean: f64,
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

/// Reads fio's JSON. With `group_reporting` all jobs are one.
pub fn parse(text: &str) -> Result<Found> {
    // Warnings may come before the report.
    let start = text.find('{').unwrap_or(0);
    let report: Report = from_json(&text[start..], "fio's report")?;
    let failed = |said: String| StudyError::Program { program: "fio".to_owned(), said };
    let [job] = &report.jobs[..] else {
        return Err(failed(format!("reported {} groups of jobs, not one", report.jobs.len())));
    };
    if job.error != 0 {
        return Err(failed(std::io::Error::from_raw_os_error(job.error).to_string()));
    }
    if job.mixed.total_ios == 0 {
        return Err(failed("no request came to its end".to_owned()));
    }
    let lat = &job.mixed.lat_ns;
    let at = |name: &str| {
        let nanoseconds = lat.percentile.get(name).copied();
        nanoseconds.map(|ns| ns / 1000.0).ok_or_else(|| failed(format!("reported no percentile {name}")))
    };
    let latency = Latency {
        mean: lat.mean / 1000.0,
        p50: at("50.000000")?,
        p99: at("99.000000")?,
        p99_9: at("99.900000")?,
        p99_99: at("99.990000")?,
    };
    Ok(Found { iops: job.mixed.iops, bytes_per_second: job.mixed.bw_bytes, latency })
}

#[cfg(test)]
mod tests {
    use super::super::matrix::Pattern;
    use super::*;

    /// What fio 3.33 said.
    const REAL: &str = include_str!("testdata/fio.json");

    #[test]
    fn a_real_report_is_read() {
        let found = parse(REAL).unwrap();
        assert_eq!(found.iops.round(), 44456.0);
        assert_eq!(found.bytes_per_second, 182_089_910.0);
        assert_eq!(found.latency.p50, 84.480);
        assert_eq!(found.latency.p99_99, 3358.720);
        assert_eq!(found.latency.mean.round(), 90.0);
    }

    #[test]
    fn warnings_before_the_report_do_not_matter() {
        assert_eq!(parse(&format!("fio: a warning\n{REAL}")).unwrap(), parse(REAL).unwrap());
    }

    #[test]
    fn what_failed_is_no_result() {
        let failing = REAL.replace("\"error\" : 0", "\"error\" : 5");
        assert_ne!(failing, REAL);
        assert!(parse(&failing).unwrap_err().to_string().contains("Input/output error"));
        assert!(parse(&REAL.replace("\"total_ios\" : 44500", "\"total_ios\" : 0")).is_err());
        assert!(parse(&REAL.replace("99.990000", "98.000000")).is_err());
        assert!(parse("fio: no such file").is_err());
    }

    #[test]
    fn jobs_of_a_stream_get_parts_of_their_own() {
        let paths = ["/dev/a".into(), "/dev/b".into()];
        let stream = Workload { jobs: 4, ..Workload::new(Pattern::Read, 512, 8) };
        let text = job_file(&stream, &paths, 256, 3);
        assert!(text.contains("size=64m\noffset_increment=64m\n"), "{text}");
        assert!(text.contains("[volume1]\nfilename=/dev/b\n"), "{text}");
        assert!(text.contains("runtime=3s\n"), "{text}");
        assert!(
            !job_file(&Workload::new(Pattern::RandMix, 4, 8), &paths, 256, 3).contains("offset_increment")
        );
        assert!(job_file(&Workload::new(Pattern::RandMix, 4, 8), &paths, 256, 3).contains("rwmixread=70\n"));
    }
}
