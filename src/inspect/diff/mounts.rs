//! Where a guest mounts the file systems of its disk, as its fstab says.
//!
//! Knows fstab(5) and trees; mounts nothing. A guest wrote the text: what names no file system of the disk is left out.

use std::collections::BTreeMap;

use super::plain;
use crate::disk::contents::Contents;
use crate::disk::guest::ext4::ReadError;
use crate::disk::tree::{EntryKind, Tree, Volume};

const FSTAB: &[u8] = b"/etc/fstab";
/// Largest fstab that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Mount points by the partitions of their file systems, as texts fit for a terminal. Empty where the disk has one file
/// system, or none with an fstab: paths are clear without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(pub(super) BTreeMap<u32, String>);

impl Mounts {
    /// Reads them from a disk.
    ///
    /// # Errors
    /// The disk cannot be read, or is not what its tree says.
    pub fn read(tree: &Tree, contents: &dyn Contents) -> Result<Mounts, ReadError> {
        if tree
            .volumes
            .iter()
            .filter(|volume| volume.entries.len() > 1)
            .count()
            < 2
        {
            return Ok(Mounts::default());
        }
        let has_fstab = |volume: &&Volume| {
            volume
                .find(FSTAB)
                .is_some_and(|entry| matches!(entry.kind, EntryKind::File { .. }))
        };
        for root in tree.volumes.iter().filter(has_fstab) {
            let text = contents
                .files(&[(root.partition, FSTAB)], LIMIT)?
                .pop()
                .flatten();
            let Some(text) = text else { continue };
            let mounts = parse(&String::from_utf8_lossy(&text), tree);
            // Another system's fstab has another root.
            match mounts.iter().find(|(_, target)| target.as_str() == "/") {
                Some((partition, _)) if *partition != root.partition => {}
                _ => {
                    let root = std::iter::once((root.partition, "/".to_owned()));
                    let all = mounts.into_iter().chain(root);
                    return Ok(Mounts(
                        all.map(|(partition, target)| (partition, plain::name(target.as_bytes())))
                            .collect(),
                    ));
                }
            }
        }
        Ok(Mounts::default())
    }

    /// A path as the guest sees it; none where the file system is not mounted.
    pub fn path(&self, partition: u32, path: &str) -> Option<String> {
        let target = self.0.get(&partition)?.trim_end_matches('/');
        Some(match (target, path) {
            ("", path) => path.to_owned(),
            (target, "/") => target.to_owned(),
            (target, path) => format!("{target}{path}"),
        })
    }

    /// The partition that is mounted at a path.
    pub fn partition(&self, target: &str) -> Option<u32> {
        let found = self.0.iter().find(|(_, other)| *other == target);
        found.map(|(partition, _)| *partition)
    }

    /// The partition of a file system that is mounted at a path or above it, but for the root, and the path there.
    pub fn below<'p>(&self, path: &'p str) -> Option<(u32, &'p str)> {
        let inside = |(partition, target): (&u32, &String)| {
            let rest = path.strip_prefix(target.trim_end_matches('/'))?;
            let inside = target != "/" && (rest.is_empty() || rest.starts_with('/'));
            inside.then_some((*partition, if rest.is_empty() { "/" } else { rest }))
        };
        // The innermost leaves the shortest rest.
        self.0
            .iter()
            .filter_map(inside)
            .min_by_key(|(_, rest)| rest.len())
    }
}

fn parse(text: &str, tree: &Tree) -> BTreeMap<u32, String> {
    let mut mounts = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (Some(source), Some(target)) = (fields.next(), fields.next()) else {
            continue;
        };
        if source.starts_with('#') || !target.starts_with('/') {
            continue;
        }
        if let Some(partition) = find(tree, &unescape(source)) {
            mounts.entry(partition).or_insert_with(|| unescape(target));
        }
    }
    mounts
}

/// The partition of the file system that an fstab source names.
fn find(tree: &Tree, source: &str) -> Option<u32> {
    let by = |kind: &str, value: &str| {
        let value = value.trim_matches('"');
        let volume = |is: &dyn Fn(&Volume) -> bool| {
            tree.volumes
                .iter()
                .find(|volume| is(volume))
                .map(|volume| volume.partition)
        };
        match kind {
            "uuid" => {
                volume(&|volume| !value.is_empty() && volume.uuid.eq_ignore_ascii_case(value))
            }
            "label" => volume(&|volume| !value.is_empty() && volume.label == value.as_bytes()),
            "partuuid" => tree
                .partitions
                .iter()
                .find(|one| one.uuid.eq_ignore_ascii_case(value))
                .map(|one| one.number),
            "partlabel" => tree
                .partitions
                .iter()
                .find(|one| one.name == value)
                .map(|one| one.number),
            _ => None,
        }
    };
    if let Some((kind, value)) = source.split_once('=') {
        return by(&kind.to_ascii_lowercase(), value);
    }
    let name = source.strip_prefix("/dev/")?;
    if let Some((kind, value)) = name
        .strip_prefix("disk/by-")
        .and_then(|rest| rest.split_once('/'))
    {
        return by(kind, value);
    }
    // sda1, vda1, nvme0n1p1: the number at its end.
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let number = name[name.len() - digits..].parse().ok()?;
    tree.partitions
        .iter()
        .any(|one| one.number == number)
        .then_some(number)
}

/// A field of fstab: blanks are written in octal (fstab(5)).
fn unescape(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::tree::TreePartition;

    fn disk() -> Tree {
        let volume = |partition, uuid: &str, label: &str| Volume {
            partition,
            kind: "ext4".to_owned(),
            uuid: uuid.to_owned(),
            label: label.as_bytes().to_vec(),
            facts: Vec::new(),
            entries: Vec::new(),
        };
        let partition = |number, uuid: &str, name: &str| TreePartition {
            number,
            start: 0,
            size: 0,
            kind: String::new(),
            uuid: uuid.to_owned(),
            name: name.to_owned(),
        };
        Tree {
            partitions: vec![
                partition(1, "aa-01", "root"),
                partition(2, "aa-02", "data"),
                partition(15, "aa-15", ""),
            ],
            volumes: vec![
                volume(1, "11-11", "system"),
                volume(2, "22-22", "my data"),
                volume(15, "AB-CD", ""),
            ],
            ..Tree::default()
        }
    }

    #[test]
    fn every_way_to_name_a_file_system_is_understood() {
        let shown = |text: &str| {
            parse(text, &disk())
                .into_iter()
                .map(|(at, to)| format!("{at} {to}"))
                .collect::<Vec<_>>()
        };
        for source in [
            "UUID=22-22",
            "LABEL=my\\040data",
            "PARTUUID=AA-02",
            "PARTLABEL=data",
            "/dev/vda2",
            "/dev/nvme0n1p2",
            "UUID=\"22-22\"",
            "/dev/disk/by-uuid/22-22",
            "/dev/disk/by-label/my\\040data",
            "/dev/disk/by-partuuid/aa-02",
        ] {
            assert_eq!(
                shown(&format!("# x\n\n{source} /srv ext4 defaults 0 2\n")),
                ["2 /srv"],
                "{source}"
            );
        }
        assert_eq!(
            shown(
                "UUID=ab-cd /boot/efi vfat\nLABEL=system / ext4\nUUID=9 /x ext4\n/dev/sda9 /y\ntmpfs /tmp tmpfs\n/dev/sda2 none swap"
            ),
            ["1 /", "15 /boot/efi"]
        );
    }

    #[test]
    fn paths_get_their_mount_point() {
        let mounts = Mounts([(1, "/".to_owned()), (2, "/srv".to_owned())].into());
        let shown: Vec<_> = [(1, "/etc"), (1, "/"), (2, "/www/a"), (2, "/")]
            .map(|(at, path)| mounts.path(at, path).unwrap())
            .into();
        assert_eq!(shown, ["/etc", "/", "/srv/www/a", "/srv"]);
        assert_eq!(mounts.path(3, "/x"), None);
    }
}
