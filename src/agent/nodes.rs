//! The guest's private `/dev`: the usual devices and the disk under names that every image expects.
//!
//! Knows device numbers, not what is mounted from them.

use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::protocol::{DiskNode, Problem};

const CHARACTER_DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Name of the disk or a partition in `/dev`.
pub(crate) fn name(number: u32) -> String {
    if number == 0 {
        "vda".to_owned()
    } else {
        format!("vda{number}")
    }
}

/// Makes the disk's nodes in `dir`. The umask must be 0.
pub(crate) fn make_disk(dir: &Path, disk: &[DiskNode]) -> Result<(), Problem> {
    for node in disk {
        let path = dir.join(name(node.number));
        let device = makedev(node.device.major, node.device.minor);
        mknodat(
            CWD,
            &path,
            FileType::BlockDevice,
            Mode::from_raw_mode(0o660),
            device,
        )
        .map_err(|e| Problem::io("make the device", path.to_string_lossy(), &e.into()))?;
    }
    Ok(())
}

/// Fills `/dev` of the guest, a fresh tmpfs. The umask must be 0.
pub(crate) fn make_all(dir: &Path, disk: &[DiskNode]) -> Result<(), Problem> {
    make_disk(dir, disk)?;
    let failed = |path: &Path, error| Problem::io("make", path.to_string_lossy(), &error);
    for (name, major, minor) in CHARACTER_DEVICES {
        let path = dir.join(name);
        mknodat(
            CWD,
            &path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(major, minor),
        )
        .map_err(|e| failed(&path, e.into()))?;
    }
    for (name, target) in LINKS {
        let path = dir.join(name);
        symlink(target, &path).map_err(|e| failed(&path, e))?;
    }
    for node in disk {
        let links = [
            ("by-uuid", node.uuid.as_deref()),
            ("by-label", node.label.as_deref()),
            ("by-partuuid", node.part_uuid.as_deref()),
        ];
        for (kind, value) in links {
            let Some(value) = value else { continue };
            let links = dir.join("disk").join(kind);
            let mut make = std::fs::DirBuilder::new();
            make.recursive(true)
                .mode(0o755)
                .create(&links)
                .map_err(|e| failed(&links, e))?;
            let link = links.join(escape(value));
            match symlink(format!("../../{}", name(node.number)), &link) {
                // Two file systems of one label: the first wins, as good as any.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                result => result.map_err(|e| failed(&link, e))?,
            }
        }
    }
    Ok(())
}

/// A label as udev writes it in a file name.
fn escape(value: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "#+-.:=@_".contains(c);
    let mut out = String::new();
    for c in value.chars() {
        if plain(c) {
            out.push(c);
        } else {
            let mut buffer = [0; 4];
            for byte in c.encode_utf8(&mut buffer).bytes() {
                out.push_str(&format!("\\x{byte:02x}"));
            }
        }
    }
    out
}
