//! Stable names beside `/dev/ublkbN`: symbolic links that live as long as a device.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Makes `link` lead to `node`, whatever stale link is there. Fails where something else than a link is.
pub(super) fn make(link: &Path, node: &Path) -> io::Result<()> {
    match fs::symlink_metadata(link) {
        // udev has made it, by blkseal's rule.
        Ok(_) if target_of(link).is_some_and(|target| target == node) => return Ok(()),
        Ok(metadata) if !metadata.is_symlink() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => fs::remove_file(link)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_directory(link)?,
        Err(error) => return Err(error),
    }
    match symlink(node, link) {
        // udev was quicker.
        Err(_) if target_of(link).is_some_and(|target| target == node) => Ok(()),
        made => made,
    }
}

/// udev removes the directory with its last link.
fn make_directory(link: &Path) -> io::Result<()> {
    match link.parent() {
        Some(directory) if !directory.exists() => {
            fs::create_dir(directory)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
        }
        _ => Ok(()),
    }
}

/// What `link` leads to. udev's links are relative.
fn target_of(link: &Path) -> Option<PathBuf> {
    let target = link.parent()?.join(fs::read_link(link).ok()?);
    Some(fs::canonicalize(target.parent()?).ok()?.join(target.file_name()?))
}

/// Removes `link` if it leads to `node`.
pub(super) fn remove(link: &Path, node: &Path) {
    if target_of(link).is_some_and(|target| target == node)
        && let Err(error) = fs::remove_file(link)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", link.display());
    }
}

/// Removes every link in `directory` to a ublk device but those that `is_wanted` names.
pub(super) fn clean(directory: &Path, is_wanted: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let link = entry.path();
        let Some(target) = target_of(&link) else { continue };
        let stale = target.to_str().is_some_and(|target| target.starts_with("/dev/ublkb"));
        if stale && !entry.file_name().to_str().is_some_and(&is_wanted) {
            log::info!("removing the stale link {}", link.display());
            remove(&link, &target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_replaced_and_other_things_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (link, file) = (directory.path().join("v"), directory.path().join("file"));
        fs::write(&file, "kept").unwrap();
        make(&link, Path::new("/dev/ublkb1")).unwrap();
        make(&link, Path::new("/dev/ublkb2")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), PathBuf::from("/dev/ublkb2"));
        let below = directory.path().join("made/v");
        make(&below, Path::new("/dev/ublkb4")).unwrap();
        remove(&below, Path::new("/dev/ublkb4"));
        assert!(!below.is_symlink());
        // As udev makes them.
        symlink("../dev/ublkb5", &below).unwrap();
        let node = fs::canonicalize(directory.path()).unwrap().join("dev/ublkb5");
        fs::create_dir(directory.path().join("dev")).unwrap();
        make(&below, &node).unwrap();
        assert_eq!(fs::read_link(&below).unwrap(), PathBuf::from("../dev/ublkb5"), "it is left as it is");
        remove(&below, &node);
        assert!(!below.is_symlink());
        assert_eq!(make(&file, Path::new("/dev/ublkb2")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);

        remove(&link, Path::new("/dev/ublkb1")); // leads elsewhere by now
        assert!(link.is_symlink());
        make(&directory.path().join("live"), Path::new("/dev/ublkb3")).unwrap();
        symlink("/etc/passwd", directory.path().join("foreign")).unwrap();
        clean(directory.path(), |name| name == "live");
        assert!(!link.is_symlink());
        assert!(directory.path().join("live").is_symlink() && directory.path().join("foreign").is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }
}
