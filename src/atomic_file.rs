//! Writes a small file so that a crash leaves the old content or the new, never a mixture or nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Writes `content` to `path` with mode 0600: temporary file beside it, fsync, rename, fsync of the directory.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    write_and_rename(path, content, RenameFlags::empty())
}

/// As [`replace`], but fails with `AlreadyExists` where there is a file at `path`.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    write_and_rename(path, content, RenameFlags::RENAME_NOREPLACE)
}

fn write_and_rename(path: &Path, content: &[u8], flags: RenameFlags) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let renamed = write_synced(&temporary, content)
        .and_then(|()| Ok(renameat2(AT_FDCWD, &temporary, AT_FDCWD, path, flags)?));
    if renamed.is_err() {
        // The error that matters is the one above; a leftover has a name that nothing reads.
        let _ = fs::remove_file(&temporary);
    }
    renamed?;
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

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A name in the same directory that no other writer, in this process or another, chooses.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let unique = uuid::Uuid::new_v4().simple();
    Ok(parent_of(path).join(format!(".{}.{unique}.tmp", name.to_string_lossy())))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
