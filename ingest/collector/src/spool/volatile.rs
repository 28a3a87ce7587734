//! Whether a folder lies on a file system that goes away with its machine or
//! container, as far as the kernel's list of mounts can tell.

use std::path::{Path, PathBuf};

/// Kinds of file systems whose content ends with the machine or the container:
/// in memory, or the writable layer of a container image.
const VOLATILE: [&str; 4] = ["tmpfs", "ramfs", "overlay", "aufs"];

/// The kind of file system under `dir`, where it is one that goes away:
/// `tmpfs`, `ramfs`, `overlay` or `aufs`. `None` is no promise: a machine's own
/// (instance store) disks look like any other, and off Linux nothing is known.
#[must_use]
pub fn volatile_file_system(dir: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The folder itself may not be there yet.
    let path = std::path::absolute(dir).ok()?;
    let path = path.ancestors().find_map(|path| path.canonicalize().ok())?;
    let kind = file_system_of(&path, &mounts)?;
    VOLATILE.contains(&kind.as_str()).then_some(kind)
}

/// Of `mountinfo` (proc_pid_mountinfo(5)): field 5 is the mount point, the
/// first field after the lone hyphen the kind. A later mount covers an earlier.
fn file_system_of(path: &Path, mounts: &str) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(point) = before.split(' ').nth(4).map(unescape) else { continue };
        let Some(kind) = after.split(' ').next() else { continue };
        let depth = point.components().count();
        if path.starts_with(&point) && best.is_none_or(|(deepest, _)| depth >= deepest) {
            best = Some((depth, kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// Blank, tab, newline and backslash stand there as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut text = field.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, plain);
    }
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The shape of a container with a volume, from proc_pid_mountinfo(5).
    const MOUNTS: &str = "\
24 1 0:22 / / rw,relatime - overlay overlay rw,lowerdir=/l
25 24 0:23 / /tmp rw,nosuid shared:2 - tmpfs tmpfs rw
26 24 259:1 / /var/lib/click\\040mill rw,relatime shared:3 master:1 - ext4 /dev/nvme0n1 rw
27 24 259:2 / /data rw - xfs /dev/nvme1n1 rw
28 24 0:30 / /data rw - tmpfs none rw
";

    #[test]
    fn the_deepest_and_latest_mount_says_what_a_folder_lies_on() {
        let kind = |path: &str| file_system_of(Path::new(path), MOUNTS);
        assert_eq!(kind("/srv/spool").as_deref(), Some("overlay"));
        assert_eq!(kind("/tmp/spool").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/tmpx").as_deref(), Some("overlay"));
        assert_eq!(kind("/var/lib/click mill/spool").as_deref(), Some("ext4"));
        assert_eq!(kind("/data/spool").as_deref(), Some("tmpfs"));
        assert_eq!(file_system_of(Path::new("/x"), "no mounts"), None);
    }

    #[test]
    fn shared_memory_is_seen_to_go_away_before_the_folder_exists() {
        let shm = Path::new("/dev/shm");
        if shm.is_dir() {
            let kind = volatile_file_system(&shm.join("not/there/yet"));
            assert_eq!(kind.as_deref(), Some("tmpfs"));
        }
    }
}
