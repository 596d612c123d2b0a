//! Writes a small file so that a crash leaves the old content or the new, never a mixture or nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tempfile::{NamedTempFile, PathPersistError};

/// Writes `content` to `path` with mode 0600: temporary file beside it, fsync, rename, fsync of the directory.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, |temporary| temporary.persist(path))
}

/// As [`replace`], but fails with `AlreadyExists` where there is a file at `path`. A file system that cannot rename without
/// replacing (NFS, 9p, many of FUSE) is asked for a hard link instead; where it has none of these either, fails.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, |temporary| temporary.persist_noclobber(path))
}

fn write(
    path: &Path,
    content: &[u8],
    persist: impl FnOnce(tempfile::TempPath) -> Result<(), PathPersistError>,
) -> io::Result<()> {
    let mut temporary = NamedTempFile::with_prefix_in(prefix(path)?, parent_of(path))?;
    temporary.write_all(content)?;
    temporary.as_file().sync_all()?;
    // Where this fails, the temporary file goes with its name.
    persist(temporary.into_temp_path()).map_err(|failed| failed.error)?;
    File::open(parent_of(path))?.sync_all()
}

/// Reads `path` whole if it has at most `limit` bytes.
pub fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Nothing waits for a writer where the path is that of a pipe.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(content)
}

/// Of a name in the same directory that nothing reads, should a crash leave it.
fn prefix(path: &Path) -> io::Result<String> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(format!(".{}.", name.to_string_lossy()))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    use super::*;

    /// Runs `work` in a thread to which the kernel answers `calls` with an error, as some file systems do.
    fn without<T: Send>(calls: &[libc::c_long], errno: i32, work: impl FnOnce() -> T + Send) -> T {
        let rules: BTreeMap<_, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
        let refuse = SeccompAction::Errno(errno.unsigned_abs());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        let refused = || {
            seccompiler::apply_filter(&program).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(refused).join().unwrap())
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn check(directory: &Path) {
        let path = directory.join("file");
        create(&path, b"first").unwrap();
        assert_eq!(create(&path, b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first", "never over another file");
        replace(&path, b"third").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(directory), ["file"], "nothing else is left");
    }

    #[test]
    fn a_file_is_made_or_replaced_whole() {
        check(tempfile::tempdir().unwrap().path());
    }

    #[test]
    fn a_file_system_that_always_replaces_on_rename_is_asked_for_a_link() {
        for errno in [libc::EINVAL, libc::ENOSYS] {
            let directory = tempfile::tempdir().unwrap();
            without(&[libc::SYS_renameat2], errno, || check(directory.path()));
        }
    }

    #[test]
    fn a_file_system_that_can_do_neither_is_refused_and_left_clean() {
        let directory = tempfile::tempdir().unwrap();
        let calls = [libc::SYS_renameat2, libc::SYS_linkat];
        without(&calls, libc::EINVAL, || create(&directory.path().join("file"), b"first").unwrap_err());
        assert!(names(directory.path()).is_empty());
    }
}
