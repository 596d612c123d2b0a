//! File systems on a block device, in all mount namespaces.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::holder::Holder;
use super::processes::ids;
use super::sought::{Sought, parse_number};

pub(super) fn holder_of(sought: &Sought) -> Option<Holder> {
    // Files are mounted by way of loop devices.
    if sought.parts.is_empty() {
        return None;
    }
    let mut known = HashSet::new();
    let own = (None, PathBuf::from("/proc/self"));
    let others = ids().map(|pid| (Some(pid), PathBuf::from(format!("/proc/{pid}"))));
    [own].into_iter().chain(others).find_map(|(seen_by, process)| {
        // One that may not be looked into is passed over: root may look into all.
        if !known.insert(fs::read_link(process.join("ns/mnt")).ok()?) {
            return None;
        }
        let mounts = fs::read(process.join("mountinfo")).ok()?;
        let point = point_in(&String::from_utf8_lossy(&mounts), sought)?;
        Some(Holder::Mount { point, seen_by })
    })
}

/// Where a file system on what is sought is mounted, by the text of proc_pid_mountinfo(5).
fn point_in(mounts: &str, sought: &Sought) -> Option<String> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let (number, point) = (fields.nth(2)?, fields.nth(1)?);
        // File systems on several devices have numbers of their own: there, the source tells.
        let source = || unescape(file_system.split(' ').nth(1).unwrap_or_default());
        let is_it = parse_number(number).is_some_and(|number| sought.has(number))
            || (number.starts_with("0:") && is_on(sought, &source()));
        is_it.then(|| unescape(point))
    })
}

fn is_on(sought: &Sought, source: &str) -> bool {
    let source = Path::new(source);
    source.starts_with("/dev") && sought.is_at(source)
}

/// A field as it was: proc(5) writes space, tab, newline and backslash as a backslash and three octal digits.
pub fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(character) => {
                text.push(char::from(character));
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::FileId;

    #[test]
    fn fields_are_unescaped() {
        for (field, text) in [
            ("/mnt", "/mnt"),
            (r"/with\040space", "/with space"),
            (r"\011\012\134040", "\t\n\\040"),
            (r"C:\temp\", r"C:\temp\"),
        ] {
            assert_eq!(unescape(field), text);
        }
    }

    #[test]
    fn a_mount_is_found_by_its_device() {
        // A number that no device has.
        let sought = Sought::new(&FileId::Block { number: rustix::fs::makedev(259, 77_777), sequence: None });
        let line = |number: &str| {
            format!("36 35 {number} /root /a\\040b rw,noatime shared:1 master:2 - ext4 /dev/sdz1 rw\n")
        };
        let text = line("259:7") + &line("259:77777");
        assert_eq!(point_in(&text, &sought).as_deref(), Some("/a b"));
        assert_eq!(point_in(&line("259:7"), &sought), None);
        assert_eq!(point_in(&line("0:77777"), &sought), None);
    }
}
