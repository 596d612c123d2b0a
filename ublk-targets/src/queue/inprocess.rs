//! A queue without a kernel driver: requests come from a [`Source`] in this process, and everything below is what
//! serves a device. For property tests and for measurements where there is no ublk.

use std::io;
use std::os::fd::AsRawFd;

use smol::LocalExecutor;

use super::execute;
use crate::buffer::TagBuffer;
use crate::request::Descriptor;
use crate::ring;
use crate::stats::QueueStats;
use crate::target::Target;

/// Gives requests to the tags of a queue and takes their results.
pub trait Source {
    /// The next request of `tag`, with the data to write placed in `buffer`; `None` ends the tag.
    fn next(&self, tag: u16, buffer: &mut [u8]) -> Option<Descriptor>;

    /// `request` ended with `result`: bytes moved, or -errno. What it read stands at the start of `buffer`.
    fn done(&self, tag: u16, request: Descriptor, result: i32, buffer: &[u8]);
}

/// Serves the requests of `source` on `target` with `depth` tags of `buffer_bytes` each, until every tag has ended.
///
/// It takes the calling thread for its ring, so a thread can do this once.
pub fn serve<T: Target>(
    target: &T,
    depth: u16,
    buffer_bytes: usize,
    source: &impl Source,
) -> io::Result<QueueStats> {
    let placeholder = std::fs::File::open("/dev/null")?;
    let backing = target.backing_fd().unwrap_or(placeholder.as_raw_fd());
    ring::set_up(depth)?;
    ring::register(&[placeholder.as_raw_fd(), backing])?;
    ring::confine()?;
    let buffers = (0..depth).map(|_| TagBuffer::new(buffer_bytes)).collect::<io::Result<Vec<_>>>()?;
    let stats = QueueStats::default();
    {
        let executor = LocalExecutor::new();
        let tasks: Vec<_> = (0..depth)
            .zip(buffers)
            .map(|(tag, buffer)| executor.spawn(serve_tag(target, tag, buffer, source, &stats)))
            .collect();
        loop {
            while executor.try_tick() {}
            if tasks.iter().all(|task| task.is_finished()) {
                break;
            }
            if let Err(error) = ring::turn() {
                // Operations may be under way in buffers that a return would free.
                log::error!("the ring failed: {error}");
                std::process::abort();
            }
        }
        // Hands on the panic of a source that found a result to be wrong.
        tasks.into_iter().for_each(smol::block_on);
    }
    Ok(stats)
}

async fn serve_tag<T: Target>(
    target: &T,
    tag: u16,
    mut buffer: TagBuffer,
    source: &impl Source,
    stats: &QueueStats,
) {
    while let Some(request) = source.next(tag, buffer.bytes_mut()) {
        let result = execute(target, request, buffer.bytes_mut(), stats).await;
        source.done(tag, request, result, buffer.bytes_mut());
    }
}
